//! Whether a client takes what we have for it: over HTTP/2 a stream whose client takes nothing for
//! longer than `timeouts.send` is reset, and a connection whose socket takes nothing is closed.
//!
//! hyper asks a body for its next piece only when the last one has gone to the flow control of the
//! stream. So a body that gave a piece and was not asked again waits for its client, and one that
//! had nothing when it was asked waits for its engine.
//!
//! A client that waits may still take something: a part of the last piece, or, slowly, what the
//! system holds for it. Where nothing is seen of that for a while, both are looked at.
//!
//! What hyper holds of a stream is counted until hyper drops it, also behind the end of its body,
//! and beyond a little it is taken from the memory of all requests.

use std::{
    cell::{Cell, RefCell},
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes};
use http::Response;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

use crate::{
    budget::{NoRoom, Share},
    client::io::ClientWatch,
    key_watch::KeyWatch,
    request::body::{ResponseBody, ResponseResult, Truncated},
    server::crowd::Crowds,
};

/// The largest piece that the flow control gets at once, in bytes: so much may lie there unread
/// beyond what the client has asked for.
const PIECE: usize = 16 * 1024;
/// For so long an answer of the system is one for all streams of a connection, which mostly ask at
/// the same time.
const FRESH: Duration = Duration::from_millis(10);
/// So many unread bytes each stream may have without a share of the memory of all requests.
const FREE: u64 = 16 * 1024;

/// What one stream has for its client.
#[derive(Clone)]
pub(super) struct Unsent(Rc<Waiting>);

struct Waiting {
    unread: Unread,
    /// Bytes of the stream that the socket has taken.
    sent: Sent,
    socket: Rc<Socket>,
    /// Bytes that the stream's body or hyper holds.
    held: Cell<u64>,
    room: RefCell<Share>,
    /// None: the response has not begun, or is a local one.
    key: RefCell<Option<KeyWatch>>,
    /// The request has a good key.
    keyed: Cell<bool>,
    /// Where it is counted when its task has ended, and as how much; see [`Crowds::leave_behind`].
    crowds: Rc<Crowds>,
    left: Cell<u64>,
}

impl Unsent {
    /// Nothing yet.
    pub(super) fn new(crowds: &Rc<Crowds>, socket: &Rc<Socket>) -> Self {
        Self(Rc::new(Waiting {
            unread: Unread::default(),
            sent: Sent::default(),
            socket: Rc::clone(socket),
            held: Cell::default(),
            room: RefCell::default(),
            key: RefCell::default(),
            keyed: Cell::default(),
            crowds: Rc::clone(crowds),
            left: Cell::default(),
        }))
    }

    /// Notes that the request has a good key.
    pub(super) fn set_keyed(&self) {
        self.0.keyed.set(true);
    }

    /// Whether the request has a good key.
    pub(super) fn is_keyed(&self) -> bool {
        self.0.keyed.get()
    }

    /// Notes that the stream's task has ended. hyper may hold what is left of it for as long as its
    /// client likes.
    pub(super) fn leave_behind(&self) {
        let Waiting { held, room, keyed, crowds, left, socket, .. } = &*self.0;
        // A large piece is in a sum of its own.
        let uncounted = held.get().saturating_sub(room.borrow().bytes());
        let is_left = if held.get() > 0 { uncounted.max(1) } else { 0 };
        left.set(crowds.leave_behind(keyed.get(), is_left, socket.since().is_some()));
    }

    /// Ready when the stream has to end, because of its key or of a drain, though its client takes
    /// nothing of it, so that nobody asks its body.
    pub(super) fn poll_ended_early(&self, context: &Context<'_>) -> Poll<()> {
        let key = &mut *self.0.key.borrow_mut();
        let key = key.as_mut().filter(|_| self.since().is_some());
        key.map_or(Poll::Pending, |key| key.poll_ended_early(context).map(|_| ()))
    }

    /// A number that grows with what the client takes of the stream; see [`Socket::taken`].
    pub(super) fn taken(&self) -> u64 {
        self.0.socket.taken_of(&self.0.sent)
    }

    /// The time since which the client takes nothing; None: we have nothing for it.
    pub(super) fn since(&self) -> Option<Instant> {
        self.0.unread.since()
    }

    /// Notes that all was taken, and that the engine has no more for now.
    fn wait_for_engine(&self) {
        self.0.unread.progress(false);
        self.0.room.borrow_mut().shrink(self.0.held.get());
    }

    /// Takes memory for what is held. The error: there is none.
    fn poll_room(&self, context: &mut Context<'_>) -> Poll<Result<(), Truncated>> {
        let (held, room) = (self.0.held.get(), &mut *self.0.room.borrow_mut());
        if held <= FREE.max(room.bytes()) {
            return Poll::Ready(Ok(()));
        }
        let worker = &self.0.crowds.worker;
        room.poll_grow(context, worker.memory(self.0.keyed.get()), held).map_err(|NoRoom| {
            worker.note_cut_unread(1);
            Truncated
        })
    }
}

/// A piece on its way through hyper.
pub(super) struct Piece {
    bytes: Bytes,
    /// The bytes that are held no longer than this piece: none of its own, as long as the rest of
    /// the same memory follows it.
    last_of: u64,
    unsent: Unsent,
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
        let Waiting { sent, socket, .. } = &*self.unsent.0;
        sent.note(count, &socket.written);
        socket.sent.note(count, &socket.written);
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        let Waiting { held, left, crowds, keyed, .. } = &*self.unsent.0;
        held.set(held.get().saturating_sub(self.last_of));
        if held.get() == 0 && left.get() > 0 {
            crowds.taken(keyed.get(), left.take());
        }
    }
}

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
        pub(super) unsent: Unsent,
    }
}

impl<F, B, W> Future for Measured<F>
where
    F: Future<Output = ResponseResult<B, W>>,
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::error::Error + 'static,
    W: ClientWatch,
{
    type Output = Result<Response<MeasuredBody<ResponseBody<B, W>>>, Truncated>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let unsent = this.unsent;
        let measured = |inner: ResponseBody<B, W>| {
            *unsent.0.key.borrow_mut() = inner.key_watch();
            MeasuredBody { inner, rest: Bytes::new(), whole: 0, unsent: unsent.clone() }
        };
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
        // The length of that piece.
        whole: u64,
        unsent: Unsent,
    }

    impl<B> PinnedDrop for MeasuredBody<B> {
        fn drop(this: Pin<&mut Self>) {
            // Nobody else holds the rest.
            if !this.rest.is_empty() {
                let held = &this.unsent.0.held;
                held.set(held.get().saturating_sub(this.whole));
            }
        }
    }
}

impl<B: Body<Data = Bytes, Error = Truncated>> Body for MeasuredBody<B> {
    type Data = Piece;
    type Error = Truncated;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Piece>, Truncated>>> {
        let this = self.project();
        let unsent = &*this.unsent;
        if this.rest.is_empty() {
            match this.inner.poll_frame(context) {
                Poll::Ready(Some(Ok(frame))) => {
                    // Nobody here sends trailers.
                    *this.rest = frame.into_data().unwrap_or_default();
                    *this.whole = this.rest.len() as u64;
                    unsent.0.held.set(unsent.0.held.get() + *this.whole);
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error))),
                Poll::Ready(None) => {
                    unsent.wait_for_engine();
                    return Poll::Ready(None);
                }
                Poll::Pending => {
                    unsent.wait_for_engine();
                    return Poll::Pending;
                }
            }
        }
        ready!(unsent.poll_room(context))?;
        unsent.0.unread.progress(true);
        let bytes = this.rest.split_to(this.rest.len().min(PIECE));
        let last_of = if this.rest.is_empty() { *this.whole } else { 0 };
        let piece = Piece { bytes, last_of, unsent: unsent.clone() };
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

/// Bytes of bodies that a socket has taken.
#[derive(Default)]
struct Sent {
    count: Cell<u64>,
    /// All that the socket had taken with the last of them.
    until: Cell<u64>,
}

impl Sent {
    fn note(&self, count: usize, written: &Cell<u64>) {
        self.count.set(self.count.get() + count as u64);
        self.until.set(written.get());
    }
}

/// What a connection's socket takes, and what its client takes of that.
pub(super) struct Socket {
    unread: Unread,
    /// Bytes that it has taken.
    written: Cell<u64>,
    /// Those of bodies.
    sent: Sent,
    /// Gives the bytes that the client has not taken from the socket, as far as the system knows.
    left: Box<dyn Fn() -> Option<u64>>,
    /// What it has taken, and when that was asked.
    read: Cell<Option<(Instant, u64)>>,
}

impl Socket {
    /// The time since which the socket takes nothing; None: we have nothing for it.
    pub(super) fn since(&self) -> Option<Instant> {
        self.unread.since()
    }

    /// A number that grows with what the client takes of the bodies of this connection: what the
    /// socket takes, and what the client takes from there. Where the socket is full, whatever it
    /// takes from there is on the way to them; else what lies behind the last body in it, such as
    /// answers to its pings, does not count.
    pub(super) fn taken(&self) -> u64 {
        self.taken_of(&self.sent)
    }

    fn taken_of(&self, sent: &Sent) -> u64 {
        let (read, is_full) = (self.read(), self.since().is_some());
        sent.count.get() + if is_full { read } else { read.min(sent.until.get()) }
    }

    /// Bytes that the client has taken from the socket, as far as the system knows.
    fn read(&self) -> u64 {
        let now = Instant::now();
        if let Some((asked, read)) = self.read.get()
            && now.duration_since(asked) < FRESH
        {
            return read;
        }
        let read = (self.left)().map_or(0, |left| self.written.get().saturating_sub(left));
        self.read.set(Some((now, read)));
        read
    }

    /// Notes whether a write was taken. While none is, the time of the first counts.
    fn note(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(taken) = &written {
            self.unread.progress(false);
            let count = taken.as_ref().map_or(0, |count| *count as u64);
            self.written.set(self.written.get() + count);
        } else if self.unread.since().is_none() {
            self.unread.progress(true);
        }
        written
    }
}

/// A stream whose socket notes what it takes.
pub(super) struct MeasuredIo<T> {
    inner: T,
    socket: Rc<Socket>,
}

impl<T> MeasuredIo<T> {
    /// The stream, and what it notes. `left` gives the bytes that were written to it and that the
    /// client has not taken, as far as the system knows.
    pub(super) fn new(inner: T, left: impl Fn() -> Option<u64> + 'static) -> (Self, Rc<Socket>) {
        let (unread, written, sent) = <(Unread, Cell<u64>, Sent)>::default();
        let (left, read) = (Box::new(left), Cell::default());
        let socket = Rc::new(Socket { unread, written, sent, left, read });
        (Self { inner, socket: Rc::clone(&socket) }, socket)
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
        self.socket.note(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write_vectored(context, slices);
        self.socket.note(written)
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
