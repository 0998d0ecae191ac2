//! An engine's response, as it is relayed to one client.

use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tracing::{debug, warn};

use crate::{
    client::io::ClientWatch,
    failure::Failure,
    key_watch::{EndedEarly, KeyWatch},
    request::{accounting::Accounting, rejections, relay::Relay},
    upstream::health,
};
use sans_io::{
    api::error::{Cause, Dialect},
    seam::End,
};

/// Aborts the response: the connection is closed without the terminator, so the client sees a
/// truncated body.
#[derive(Debug, thiserror::Error)]
#[error("the response was truncated")]
pub(crate) struct Truncated;

/// An engine's response, read as its client reads.
pub(crate) struct RelayedBody<B, W> {
    relay: Relay<B>,
    /// The piece that was read before the head was sent; None: it was taken.
    first: Option<Bytes>,
    progress: Progress,
    /// Sees the client leave.
    watch: W,
    /// Sees the key revoked, and the end of a drain.
    key: KeyWatch,
    /// The shape of an error in a stream.
    dialect: Dialect,
    /// A comment behind the last frame of a stream; None: none.
    last_comment: Option<Bytes>,
}

/// A stream of HTTP/2 is dropped when its client resets it, takes nothing for too long, or takes
/// nothing while its key is revoked.
impl<B, W> Drop for RelayedBody<B, W> {
    fn drop(&mut self) {
        let Progress::Relaying(accounting) = &mut self.progress else { return };
        if let Some(usage) = self.relay.usage() {
            accounting.set_tokens(usage);
        }
        if self.key.ended_early() == Some(EndedEarly::KeyRevoked) {
            accounting.end(End::Refused);
        }
    }
}

/// The progress of a relayed body.
enum Progress {
    /// The engine has more to send.
    Relaying(Box<Accounting>),
    /// The next poll returns [`Truncated`].
    Truncating,
    /// The request is recorded, and nothing follows.
    Finished,
}

impl<B, W> RelayedBody<B, W>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::error::Error + 'static,
    W: ClientWatch,
{
    /// `first`: the first piece; None: the body is empty. `last_comment`: sent behind the last
    /// frame.
    pub(crate) fn new(
        relay: Relay<B>,
        first: Option<Bytes>,
        accounting: Box<Accounting>,
        (watch, key): (W, KeyWatch),
        dialect: Dialect,
        last_comment: Option<Bytes>,
    ) -> Self {
        let progress = Progress::Relaying(accounting);
        let mut body = Self { relay, first, progress, watch, key, dialect, last_comment };
        if body.first.is_none() {
            body.finish(End::Done);
        }
        body
    }

    /// The next piece for the client; None: the response is whole.
    pub(super) fn poll(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Truncated>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(self.emit(first))));
        }
        let accounting = match &mut self.progress {
            Progress::Relaying(accounting) => accounting,
            Progress::Truncating => {
                self.progress = Progress::Finished;
                return Poll::Ready(Some(Err(Truncated)));
            }
            Progress::Finished => return Poll::Ready(None),
        };
        let span = accounting.span().clone();
        let _entered = span.enter();
        // Behind the last frame nothing is left to be ended.
        if let Some(ended) = self.key.ended_early().filter(|_| !self.relay.is_finished()) {
            return self.truncate(context, &ended.into());
        }
        let Poll::Ready(piece) = self.relay.poll_piece(context, &mut accounting.timeline) else {
            // A client that has left is seen in the engine's next pause: one comes with each burst.
            if self.watch.poll_left(context).is_ready() {
                self.finish(End::ClientGone);
                return Poll::Ready(Some(Err(Truncated)));
            }
            self.key.wait(context);
            return Poll::Pending;
        };
        match piece {
            Some(Ok(piece)) => Poll::Ready(Some(Ok(self.emit(piece)))),
            // The last frame was the stream's own end mark. All that was lost is the last chunk.
            Some(Err(_)) if self.relay.is_finished() => {
                self.relay.abort();
                self.finish(End::Done);
                Poll::Ready(None)
            }
            Some(Err(failure)) => self.truncate(context, &failure),
            None => {
                // No comment inside a frame: it would become a part of it.
                let last = self.last_comment.take().filter(|_| self.relay.at_frame_edge());
                self.finish(End::Done);
                Poll::Ready(last.map(|comment| Ok(Frame::data(comment))))
            }
        }
    }

    /// Another watch over its key.
    pub(super) fn key_watch(&self) -> KeyWatch {
        self.key.again()
    }

    /// Whether nothing follows.
    pub(super) fn is_end_stream(&self) -> bool {
        self.first.is_none() && matches!(self.progress, Progress::Finished)
    }

    /// How much follows.
    pub(super) fn size_hint(&self) -> SizeHint {
        // A comment may follow the engine's last byte.
        if self.last_comment.is_some() {
            return SizeHint::default();
        }
        let first = self.first.as_ref().map_or(0, |first| first.len() as u64);
        let whole = self.relay.remaining().and_then(|rest| rest.checked_add(first));
        whole.map_or_else(SizeHint::default, SizeHint::with_exact)
    }

    /// Ready when the response has to end, though its client takes nothing of it at present.
    pub(super) fn poll_ended_early(&mut self, context: &Context<'_>) -> Poll<()> {
        if !matches!(self.progress, Progress::Relaying(_)) || self.relay.is_finished() {
            return Poll::Pending;
        }
        let ended = ready!(self.key.poll_ended_early(context));
        self.finish(rejections::truncated(&ended.into()).1);
        Poll::Ready(())
    }

    /// Counts a piece that is sent now. The request is recorded with its last one, since
    /// nobody polls again where the length is known.
    fn emit(&mut self, piece: Bytes) -> Frame<Bytes> {
        if let Progress::Relaying(accounting) = &mut self.progress {
            accounting.add_bytes_out(piece.len());
            if let Some(id) = self.relay.take_response_id() {
                accounting.remember_response(id);
            }
        }
        if self.relay.has_ended() && self.last_comment.is_none() {
            self.finish(End::Done);
        }
        Frame::data(piece)
    }

    /// Ends a response whose engine failed behind the commit point, or that ends early. A stream
    /// between two frames gets an error event as its last one. Anything else is truncated, since
    /// more bytes would be taken for the engine's.
    fn truncate(
        &mut self,
        context: &mut Context<'_>,
        failure: &Failure,
    ) -> Poll<Option<Result<Frame<Bytes>, Truncated>>> {
        let (error, end) = rejections::truncated(failure);
        let mut event = None;
        if let Progress::Relaying(accounting) = &self.progress {
            log_truncated(failure, error.cause, accounting);
            health::note(failure, accounting.shared(), self.relay.instance());
            event = self
                .relay
                .at_frame_edge()
                .then(|| error.event(self.dialect, accounting.request_id()));
        }
        self.finish(end);
        self.watch.close_after_response();
        if let Some(event) = event {
            return Poll::Ready(Some(Ok(Frame::data(event))));
        }
        // One pause, in which hyper (HTTP/2) flushes the head and the pieces so far. An error at
        // once would discard them, and the client would not see that a response had begun.
        self.progress = Progress::Truncating;
        context.waker().wake_by_ref();
        Poll::Pending
    }

    /// Records the request, and stops the engine's work unless it is done.
    fn finish(&mut self, end: End) {
        if end != End::Done {
            self.relay.abort();
        }
        let progress = std::mem::replace(&mut self.progress, Progress::Finished);
        if let Progress::Relaying(mut accounting) = progress {
            if let Some(usage) = self.relay.usage() {
                accounting.set_tokens(usage);
            }
            accounting.end(end);
        }
    }
}

/// Logs a truncated response. At warn where a line is due, since a client may have any number of
/// responses that end so; else at debug, and so where a drain (which has its own line) or a
/// revocation is to blame.
fn log_truncated(failure: &Failure, cause: Cause, accounting: &Accounting) {
    let request_id = &**accounting.request_id();
    let is_wanted = matches!(failure, Failure::KeyRevoked | Failure::Drained);
    let turn = || accounting.shared().turns.truncated(cause).turn();
    if is_wanted {
        debug!(request_id, reason = %failure, "response truncated");
    } else if let Some(since_last_line) = turn() {
        warn!(request_id, reason = %failure, since_last_line, "response truncated");
    } else {
        debug!(request_id, reason = %failure, "response truncated");
    }
}
