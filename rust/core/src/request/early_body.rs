//! The body of a stream whose head has gone before its engine's: comments until the request has its
//! engine's first frame, then that engine's stream, or an error event.

use std::{
    future::Future,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::Body;
use tokio::time::Instant;

use crate::{
    client::io::ClientWatch,
    key_watch::KeyWatch,
    request::{
        early_head::EarlyHead,
        relay::KEEP_ALIVE,
        relayed_body::{RelayedBody, Truncated},
    },
    timer::PhaseTimer,
};

/// What has become of a request whose head has gone early.
pub(crate) enum Outcome<B, W> {
    /// Its engine's stream has begun.
    Stream(Box<RelayedBody<B, W>>),
    /// It has failed: the event that says so.
    Failed(Bytes),
    /// Its client has left.
    Left,
}

/// The rest of the work on a request.
pub(crate) type Work<B, W> = Pin<Box<dyn Future<Output = Outcome<B, W>>>>;

/// What such a body gives.
pub(super) enum Next<B, W> {
    /// A comment, or the event that ends it.
    Piece(Bytes),
    /// The stream that takes its place.
    Stream(Box<RelayedBody<B, W>>),
}

/// Such a body, until an engine's stream takes its place.
pub(crate) struct EarlyBody<B, W> {
    stage: Stage<B, W>,
    /// Sees the key revoked, and the end of a drain, where the client takes nothing.
    key: KeyWatch,
}

/// What it has to send.
enum Stage<B, W> {
    Comments {
        work: Work<B, W>,
        head: Rc<EarlyHead>,
        /// The time between two of them.
        interval: Duration,
        /// When the last one went; None: the first is due.
        last: Option<Instant>,
        timer: PhaseTimer,
    },
    Finished,
}

impl<B, W> EarlyBody<B, W>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::error::Error + 'static,
    W: ClientWatch,
{
    /// `interval`: the time between two comments, of which the first goes with the head.
    pub(super) fn new(
        work: Work<B, W>,
        head: Rc<EarlyHead>,
        interval: Duration,
        key: KeyWatch,
    ) -> Self {
        let (last, timer) = (None, PhaseTimer::default());
        Self { stage: Stage::Comments { work, head, interval, last, timer }, key }
    }

    /// What comes next; None: the response is whole.
    pub(super) fn poll(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Next<B, W>, Truncated>>> {
        let Stage::Comments { work, head, interval, last, timer } = &mut self.stage else {
            return Poll::Ready(None);
        };
        let Poll::Ready(outcome) = work.as_mut().poll(context) else {
            if let Some(last) = *last {
                ready!(timer.poll(context, last, Some(*interval)));
            }
            *last = Some(Instant::now());
            head.add_bytes_out(KEEP_ALIVE.len() as u64);
            return Poll::Ready(Some(Ok(Next::Piece(Bytes::from_static(KEEP_ALIVE)))));
        };
        self.stage = Stage::Finished;
        Poll::Ready(Some(match outcome {
            Outcome::Stream(body) => Ok(Next::Stream(body)),
            Outcome::Failed(event) => Ok(Next::Piece(event)),
            Outcome::Left => Err(Truncated),
        }))
    }

    /// Ready when the response has to end, though its client takes nothing of it at present.
    pub(super) fn poll_ended_early(&mut self, context: &Context<'_>) -> Poll<()> {
        if self.is_end_stream() {
            return Poll::Pending;
        }
        ready!(self.key.poll_ended_early(context));
        self.stage = Stage::Finished;
        Poll::Ready(())
    }

    /// Another watch over its key.
    pub(super) fn key_watch(&self) -> KeyWatch {
        self.key.again()
    }

    /// Whether nothing follows.
    pub(super) fn is_end_stream(&self) -> bool {
        matches!(self.stage, Stage::Finished)
    }
}
