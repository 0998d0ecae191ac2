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
        // Who has read all that was declared does not ask for the end of the stream.
        let is_whole = || self.inner.is_end_stream() || self.inner.size_hint().exact() == Some(0);
        match &polled {
            Poll::Pending => self.awaited.0.set(true),
            Poll::Ready(Some(Ok(frame))) if is_short(frame) && !is_whole() => {}
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

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    /// A body of these pieces, of which an empty one stands for a wait. `rest`: what is declared.
    struct Pieces {
        pieces: VecDeque<&'static [u8]>,
        rest: u64,
    }

    impl Body for Pieces {
        type Data = Bytes;
        type Error = std::convert::Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
            match self.pieces.pop_front() {
                Some(b"") => Poll::Pending,
                Some(piece) => {
                    self.rest -= piece.len() as u64;
                    Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(piece)))))
                }
                None => Poll::Ready(None),
            }
        }

        fn size_hint(&self) -> SizeHint {
            SizeHint::with_exact(self.rest)
        }
    }

    #[test]
    fn a_trickle_is_a_wait_and_the_last_byte_that_was_declared_its_end() {
        const MUCH: &[u8] = &[b'x'; PROGRESS];
        let awaited = Awaited::default();
        let pieces: [&[u8]; 6] = [b"", b"a", MUCH, b"", b"b", b"c"];
        let rest = pieces.concat().len() as u64;
        let inner = Pieces { pieces: pieces.into(), rest };
        let mut body = AwaitedBody { inner, awaited: awaited.clone() };
        let mut context = Context::from_waker(std::task::Waker::noop());
        let waits = pieces.map(|_| {
            let _ = Pin::new(&mut body).poll_frame(&mut context);
            awaited.get()
        });
        assert_eq!(waits, [true, true, false, true, true, false]);
    }
}
