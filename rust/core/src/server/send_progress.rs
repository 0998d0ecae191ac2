//! Whether a client takes what we have for it: over HTTP/2 a stream whose client takes nothing for
//! longer than `timeouts.send` is reset, and a connection whose socket takes nothing is closed.
//!
//! hyper asks a body for its next piece only when the last one has gone to the flow control of the
//! stream. So a body that gave a piece and was not asked again waits for its client, and one that
//! had nothing when it was asked waits for its engine.

use std::{
    cell::Cell,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::Response;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

/// The largest piece that the flow control gets at once, in bytes: so much may lie there unread
/// beyond what the client has asked for.
const PIECE: usize = 16 * 1024;

/// The time since which a client takes nothing; None: we have nothing for it.
#[derive(Clone, Debug, Default)]
pub(super) struct Unread(Rc<Cell<Option<Instant>>>);

impl Unread {
    /// The time since which the client takes nothing; None: we have nothing for it.
    pub(super) fn since(&self) -> Option<Instant> {
        self.0.get()
    }

    /// Notes that the client has taken something, and whether there is more for it.
    fn progress(&self, more: bool) {
        self.0.set(more.then(Instant::now));
    }
}

pin_project! {
    /// The future of a response whose body is measured.
    pub(super) struct Measured<F> {
        #[pin]
        pub(super) inner: F,
        pub(super) unread: Unread,
    }
}

impl<F, B, E> Future for Measured<F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = Result<Response<MeasuredBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let unread = this.unread;
        let measured = |inner| MeasuredBody { inner, rest: Bytes::new(), unread: unread.clone() };
        this.inner.poll(context).map_ok(|response| response.map(measured))
    }
}

pin_project! {
    /// A body that is handed on in small pieces, and notes who waits for whom.
    pub(super) struct MeasuredBody<B> {
        #[pin]
        inner: B,
        // The rest of a large piece.
        rest: Bytes,
        unread: Unread,
    }
}

impl<B: Body<Data = Bytes>> Body for MeasuredBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.project();
        if this.rest.is_empty() {
            match this.inner.poll_frame(context) {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => *this.rest = data,
                    Err(other) => return Poll::Ready(Some(Ok(other))),
                },
                ended => {
                    this.unread.progress(false);
                    return ended;
                }
            }
        }
        this.unread.progress(true);
        let piece = this.rest.split_to(this.rest.len().min(PIECE));
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.rest.len() as u64;
        let exact = self.inner.size_hint().exact().and_then(|inner| inner.checked_add(rest));
        exact.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// A stream whose socket notes when it takes no byte.
pub(super) struct MeasuredIo<T> {
    inner: T,
    unread: Unread,
}

impl<T> MeasuredIo<T> {
    /// The stream, and what it notes.
    pub(super) fn new(inner: T) -> (Self, Unread) {
        let unread = Unread::default();
        (Self { inner, unread: unread.clone() }, unread)
    }

    /// Notes whether a write was taken. While none is, the time of the first counts.
    fn note<R>(&self, written: Poll<R>) -> Poll<R> {
        if written.is_ready() {
            self.unread.progress(false);
        } else if self.unread.since().is_none() {
            self.unread.progress(true);
        }
        written
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for MeasuredIo<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(context, buffer)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for MeasuredIo<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(context, bytes);
        self.note(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write_vectored(context, slices);
        self.note(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}
