//! Response bodies: our own, and an engine's as it is relayed to one client.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::Response;
use http_body::{Body, Frame, SizeHint};
use tracing::warn;

use crate::{
    client::io::ClientWatch,
    failure::Failure,
    request::{accounting::Accounting, rejections, relay::Relay},
    upstream::health,
};
use sans_io::{api::error::Dialect, seam::End};

/// A response on its way to a client, or an end of the connection without one.
pub(crate) type ResponseResult<B, W> = Result<Response<ResponseBody<B, W>>, Truncated>;

/// Aborts the response: hyper closes the connection without the terminator, so the client sees a
/// truncated body.
#[derive(Debug, thiserror::Error)]
#[error("the response was truncated")]
pub(crate) struct Truncated;

/// The body of any response.
pub(crate) enum ResponseBody<B, W> {
    /// One of ours.
    Full(Bytes),
    /// An engine's.
    Relayed(Box<RelayedBody<B, W>>),
}

/// An engine's response on its way to one client.
pub(crate) struct RelayedBody<B, W> {
    relay: Relay<B>,
    /// The piece that was read before the head was handed on.
    first: Option<Bytes>,
    progress: Progress,
    watch: W,
    dialect: Dialect,
    /// A comment for the end of a stream.
    last_comment: Option<Bytes>,
}

/// How far a relayed body is.
enum Progress {
    /// There is more to come.
    Relaying(Box<Accounting>),
    /// The next thing that hyper is told is that the response is truncated.
    Truncating,
    /// The request is recorded; nothing comes any more.
    Finished,
}

impl<B, W> RelayedBody<B, W>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::error::Error + 'static,
    W: ClientWatch,
{
    /// `first`: the first piece; None: the body is empty. `last_comment` follows a stream's end.
    pub(crate) fn new(
        relay: Relay<B>,
        first: Option<Bytes>,
        accounting: Box<Accounting>,
        watch: W,
        dialect: Dialect,
        last_comment: Option<Bytes>,
    ) -> Self {
        let progress = Progress::Relaying(accounting);
        let mut body = Self { relay, first, progress, watch, dialect, last_comment };
        if body.first.is_none() {
            body.finish(End::Done);
        }
        body
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Truncated>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(self.hand_on(first))));
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
        if self.watch.poll_left(context).is_ready() {
            self.finish(End::ClientGone);
            return Poll::Ready(Some(Err(Truncated)));
        }
        match ready!(self.relay.poll_piece(context, &mut accounting.timeline)) {
            Some(Ok(piece)) => Poll::Ready(Some(Ok(self.hand_on(piece)))),
            Some(Err(_)) if self.relay.is_finished() => {
                self.relay.abort();
                self.finish(End::Done);
                Poll::Ready(None)
            }
            Some(Err(failure)) => self.truncate(context, &failure),
            None => {
                let last = self.last_comment.take().filter(|_| self.relay.at_frame_edge());
                self.finish(End::Done);
                Poll::Ready(last.map(|comment| Ok(Frame::data(comment))))
            }
        }
    }

    fn hand_on(&mut self, piece: Bytes) -> Frame<Bytes> {
        if let Progress::Relaying(accounting) = &mut self.progress {
            accounting.add_bytes_out(piece.len());
            if let Some(id) = self.relay.take_response_id() {
                accounting.made_response(id);
            }
        }
        if self.relay.is_over() && self.last_comment.is_none() {
            self.finish(End::Done);
        }
        Frame::data(piece)
    }

    /// The engine failed after the first byte was handed on. A stream gets one more event that says
    /// so, then the connection ends; anything else is truncated.
    fn truncate(
        &mut self,
        context: &mut Context<'_>,
        failure: &Failure,
    ) -> Poll<Option<Result<Frame<Bytes>, Truncated>>> {
        let (error, end) = rejections::truncated(failure);
        let mut event = None;
        if let Progress::Relaying(accounting) = &self.progress {
            let request_id = &**accounting.request_id();
            warn!(request_id, reason = %failure, "response truncated");
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
        // One pause, in which hyper sends what it was handed: the client must see that a response
        // had begun.
        self.progress = Progress::Truncating;
        context.waker().wake_by_ref();
        Poll::Pending
    }

    /// Records the request. Where the engine has not finished, its work is stopped.
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

impl<B, W> Body for ResponseBody<B, W>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::error::Error + 'static,
    W: ClientWatch + Unpin,
{
    type Data = Bytes;
    type Error = Truncated;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        match self.get_mut() {
            Self::Full(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Full(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Self::Relayed(body) => body.poll(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Full(bytes) => bytes.is_empty(),
            Self::Relayed(body) => {
                body.first.is_none() && matches!(body.progress, Progress::Finished)
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            // A comment may follow the engine's last byte.
            Self::Relayed(body) if body.last_comment.is_some() => SizeHint::default(),
            Self::Relayed(body) => {
                let first = body.first.as_ref().map_or(0, |first| first.len() as u64);
                let whole = body.relay.remaining().and_then(|rest| rest.checked_add(first));
                whole.map_or_else(SizeHint::default, SizeHint::with_exact)
            }
        }
    }
}
