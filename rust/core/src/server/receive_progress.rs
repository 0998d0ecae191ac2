//! Whether a client sends what we wait for: over HTTP/2 the body of a request tells it to the
//! stream's task.

use std::{
    cell::Cell,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::client::places::PROGRESS;

/// Whether a stream waits for its client's body.
#[derive(Clone, Debug, Default)]
pub(super) struct Awaited(Rc<Cell<bool>>);

impl Awaited {
    /// Whether the stream waits for its client's body.
    pub(super) fn get(&self) -> bool {
        self.0.get()
    }
}

/// A request's body that notes whether it is waited for. Fewer bytes than [`PROGRESS`] at a time do
/// not end a wait.
pub(super) struct AwaitedBody<B> {
    pub(super) inner: B,
    pub(super) awaited: Awaited,
}

impl<B: Body<Data = Bytes> + Unpin> Body for AwaitedBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(context);
        let is_short = |frame: &Frame<Bytes>| frame.data_ref().is_some_and(|d| d.len() < PROGRESS);
        match &polled {
            Poll::Pending => self.awaited.0.set(true),
            Poll::Ready(Some(Ok(frame))) if is_short(frame) && !self.inner.is_end_stream() => {}
            Poll::Ready(_) => self.awaited.0.set(false),
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
