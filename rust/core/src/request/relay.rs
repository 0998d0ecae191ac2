//! An engine's response on its way, transformed for the client. It knows nothing of who reads it.

use std::{
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::Body;
use tokio::time::Instant;

use crate::{
    failure::Failure,
    request::timeline::Timeline,
    timer::PhaseTimer,
    upstream::{exchange::Exchange, pool::Pool, upload::Upload},
};
use sans_io::{
    api::{
        stream_fields::ResponseIdFinder,
        transform::{Transform, TransformError},
        usage::Usage,
    },
    table::Instance,
};

/// A task that has relayed so many bytes without a pause lets others run.
const BURST: usize = 256 * 1024;
/// The comment for a stream whose engine is silent.
const KEEP_ALIVE: &[u8] = b": keep-alive\n\n";

/// See the module.
pub(crate) struct Relay<B> {
    exchange: Box<Exchange<B>>,
    transform: Transform,
    pool: Rc<Pool>,
    /// Looks for the id of the response that the engine keeps.
    response_id: Option<ResponseIdFinder>,
    keep_alive: KeepAlive,
    /// Bytes handed on since the last pause.
    burst: usize,
}

/// Comments in a stream whose engine is silent.
#[derive(Default)]
struct KeepAlive {
    /// None: there are none.
    interval: Option<Duration>,
    timer: PhaseTimer,
    /// Since when nothing was handed on.
    quiet_since: Option<Instant>,
}

impl<B> Relay<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::error::Error + 'static,
{
    /// `pool` takes the connection when the response has ended in order.
    pub(crate) fn new(exchange: Box<Exchange<B>>, transform: Transform, pool: Rc<Pool>) -> Self {
        let (response_id, keep_alive) = (None, KeepAlive::default());
        Self { exchange, transform, pool, response_id, keep_alive, burst: 0 }
    }

    /// Looks for the id of the response that the engine keeps, from now on.
    pub(crate) fn look_for_response_id(&mut self) {
        self.response_id = Some(ResponseIdFinder::new());
    }

    /// Puts a comment wherever an event stream is silent for so long; None: nowhere.
    pub(crate) fn set_keep_alive(&mut self, interval: Option<Duration>) {
        self.keep_alive.interval = interval.filter(|_| self.transform.is_event_stream());
    }

    /// The id of the response that the engine keeps, once, when it was seen.
    pub(crate) fn take_response_id(&mut self) -> Option<String> {
        let id = self.response_id.as_ref()?.found()?.to_owned();
        self.response_id = None;
        Some(id)
    }

    /// The request's body, to try another instance.
    pub(crate) fn into_upload(self) -> Box<Upload<B>> {
        self.exchange.into_upload()
    }

    /// The next bytes for the client; None at the end. A failure leaves whatever was held back
    /// unsaid.
    pub(crate) fn poll_piece(
        &mut self,
        context: &mut Context<'_>,
        timeline: &mut Timeline,
    ) -> Poll<Option<Result<Bytes, Failure>>> {
        let polled = self.poll_engine(context, timeline);
        if self.keep_alive.interval.is_none() {
            return polled;
        }
        if polled.is_ready() {
            self.keep_alive.quiet_since = None;
            return polled;
        }
        let since = *self.keep_alive.quiet_since.get_or_insert_with(Instant::now);
        if !self.transform.at_frame_edge()
            || self.keep_alive.timer.poll(context, since, self.keep_alive.interval).is_pending()
        {
            return Poll::Pending;
        }
        self.keep_alive.quiet_since = None;
        Poll::Ready(Some(Ok(Bytes::from_static(KEEP_ALIVE))))
    }

    fn poll_engine(
        &mut self,
        context: &mut Context<'_>,
        timeline: &mut Timeline,
    ) -> Poll<Option<Result<Bytes, Failure>>> {
        if self.burst > BURST {
            self.burst = 0;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        while !self.exchange.is_over() {
            let Poll::Ready(data) = self.exchange.poll_data(context)? else {
                self.burst = 0;
                return Poll::Pending;
            };
            let done = self.exchange.is_done();
            // An event stream that ends with its connection has ended only if it said so: else the
            // engine died.
            if done && self.exchange.was_close_delimited() && !self.transform.may_end_here() {
                return Poll::Ready(Some(Err(TransformError::Incomplete.into())));
            }
            let piece = self.transform_piece(data, done, timeline)?;
            if done {
                self.exchange.finish(&self.pool);
            }
            if !piece.is_empty() {
                self.burst += piece.len();
                return Poll::Ready(Some(Ok(piece)));
            }
        }
        Poll::Ready(None)
    }

    fn transform_piece(
        &mut self,
        data: Bytes,
        done: bool,
        timeline: &mut Timeline,
    ) -> Result<Bytes, Failure> {
        let piece = self.transform.push(data, done, || timeline.timings())?;
        if !piece.is_empty() {
            timeline.first_frame();
        }
        if let Some(finder) = &mut self.response_id {
            if self.transform.is_event_stream() {
                finder.feed_frames(&piece);
            } else {
                finder.feed(&piece);
            }
        }
        Ok(piece)
    }

    /// Ends it at once: the connection closes, which stops the engine's work.
    pub(crate) fn abort(&mut self) {
        self.exchange.abort();
    }

    /// The instance that responds.
    pub(crate) fn instance(&self) -> &Instance {
        self.exchange.instance()
    }

    /// The tokens that the engine counted, as far as it said.
    pub(crate) fn usage(&self) -> Option<Usage> {
        self.transform.usage()
    }

    /// Whether the bytes that were handed on are a JSON document of ours, whatever the engine sent.
    pub(crate) fn rewrites_body(&self) -> bool {
        self.transform.rewrites_body()
    }

    /// Whether nothing of a frame has been handed on without its end, so that an event of ours may
    /// follow.
    pub(crate) fn at_frame_edge(&self) -> bool {
        self.transform.at_frame_edge()
    }

    /// Whether the engine has sent its last byte, and all was handed on.
    pub(crate) fn is_over(&self) -> bool {
        self.exchange.is_over()
    }

    /// Whether the engine's last frame said that the stream is finished; all that a lost connection
    /// can take away then is framing.
    pub(crate) fn is_finished(&self) -> bool {
        self.transform.is_finished()
    }

    /// The exact number of bytes to come, where it can be told.
    pub(crate) fn remaining(&self) -> Option<u64> {
        if self.exchange.is_over() {
            return Some(0);
        }
        self.transform.keeps_length().then(|| self.exchange.remaining())?
    }
}
