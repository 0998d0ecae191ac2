//! An engine's response, transformed piece by piece. It knows nothing of its reader.

use std::{
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::Body;
use tokio::time::Instant;

use crate::{
    failure::Failure,
    request::timeline::Timeline,
    timer::PhaseTimer,
    upstream::{decoding::Decoding, exchange::Exchange, pool::Pool, upload::Upload},
};
use sans_io::{
    api::{
        stream_fields::ResponseIdFinder,
        transform::{Transform, TransformError},
        usage::Usage,
    },
    codec::inflate::InflateError,
    table::Instance,
};

/// A task that has relayed so many bytes without a pause lets others run.
const BURST: usize = 64 * 1024;
/// The comment in a stream whose engine is silent.
pub(super) const KEEP_ALIVE: &[u8] = b": keep-alive\n\n";

/// The response of one exchange, transformed for the client.
pub(crate) struct Relay<B> {
    exchange: Box<Exchange<B>>,
    transform: Transform,
    /// The decompression of the body; None: it is not compressed, or passes as it is.
    decoding: Option<Box<Decoding>>,
    /// Takes the connection when the response has ended in order.
    pool: Rc<Pool>,
    /// Finds the id of a response that the engine stores; None: it stores none, or the id was
    /// taken.
    response_id: Option<ResponseIdFinder>,
    keep_alive: KeepAlive,
    /// Bytes relayed since the last pause.
    burst: usize,
    /// The failure that follows the frame that was waiting for more.
    failure: Option<Failure>,
}

/// Comments in a stream whose engine is silent.
#[derive(Default)]
struct KeepAlive {
    /// The silence after which a comment is sent; None: none is sent.
    interval: Option<Duration>,
    timer: PhaseTimer,
    /// The begin of the present silence; None: the last poll gave a piece.
    quiet_since: Option<Instant>,
}

impl<B> Relay<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::error::Error + 'static,
{
    /// A relay of a response whose head was read. `pool` gets the connection back.
    pub(crate) fn new(exchange: Box<Exchange<B>>, transform: Transform, pool: Rc<Pool>) -> Self {
        let (response_id, keep_alive) = (None, KeepAlive::default());
        let (decoding, burst, failure) = (None, 0, None);
        Self { exchange, transform, decoding, pool, response_id, keep_alive, burst, failure }
    }

    /// Decompresses the body before it is transformed.
    pub(crate) fn decode(&mut self, decoding: Decoding) {
        self.decoding = Some(Box::new(decoding));
    }

    /// Makes the relay look for the id of the response, which the engine stores.
    pub(crate) fn look_for_response_id(&mut self) {
        self.response_id = Some(ResponseIdFinder::new());
    }

    /// Sets the silence after which an event stream gets a comment; None: never.
    pub(crate) fn set_keep_alive(&mut self, interval: Option<Duration>) {
        self.keep_alive.interval = interval.filter(|_| self.transform.is_event_stream());
    }

    /// The id of the stored response, once, after it was seen.
    pub(crate) fn take_response_id(&mut self) -> Option<String> {
        let id = self.response_id.as_ref()?.found()?.to_owned();
        self.response_id = None;
        Some(id)
    }

    /// The client's body, for another attempt.
    pub(crate) fn into_upload(self) -> Box<Upload<B>> {
        self.exchange.into_upload()
    }

    /// Frees the client's body: no attempt follows.
    pub(crate) fn release_upload(&mut self) {
        self.exchange.release_upload();
    }

    /// The next bytes for the client; None at the end. Fails as [`Exchange::poll_data`] does, with
    /// `ConnectionLost` (a stream without its end mark), with `Unusable` (also where it cannot be
    /// decompressed) or with `NoRoom`. Bytes that the transform holds back are lost then.
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
        // A comment inside a frame would become a part of it.
        if !self.transform.at_frame_edge()
            || self.keep_alive.timer.poll(context, since, self.keep_alive.interval).is_pending()
        {
            return Poll::Pending;
        }
        self.keep_alive.quiet_since = None;
        self.transform.note_comment();
        Poll::Ready(Some(Ok(Bytes::from_static(KEEP_ALIVE))))
    }

    /// The engine's next bytes, transformed, without comments.
    fn poll_engine(
        &mut self,
        context: &mut Context<'_>,
        timeline: &mut Timeline,
    ) -> Poll<Option<Result<Bytes, Failure>>> {
        if let Some(failure) = self.failure.take() {
            return Poll::Ready(Some(self.break_off(failure)));
        }
        if self.burst > BURST {
            self.burst = 0;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        while !self.exchange.has_ended() {
            ready!(self.exchange.poll_hold(context, self.held()))?;
            let polled = self.poll_data(context);
            let (data, done) = match polled {
                Poll::Pending => {
                    self.burst = 0;
                    return Poll::Pending;
                }
                Poll::Ready(Ok(data)) => (data, self.is_done()),
                // All that was lost is framing.
                Poll::Ready(Err(_)) if self.transform.waits_for_end() => {
                    self.exchange.abort();
                    return Poll::Ready(Some(self.transform_piece(Bytes::new(), true, timeline)));
                }
                Poll::Ready(Err(failure)) => return Poll::Ready(Some(self.break_off(failure))),
            };
            // The end of a connection can be a death. A JSON body shows that by itself; an event
            // stream is whole only if its last frame said so.
            if done && self.exchange.was_close_delimited() && !self.transform.may_end_here() {
                // The frames with which it came have to come first.
                let piece = self.transform_piece(data, false, timeline)?;
                let failure = TransformError::Incomplete.into();
                if piece.is_empty() {
                    return Poll::Ready(Some(self.break_off(failure)));
                }
                self.failure = Some(failure);
                return Poll::Ready(Some(Ok(piece)));
            }
            let piece = self.transform_piece(data, done, timeline)?;
            if self.transform.ended_frame() {
                self.exchange.note_frame();
            }
            // Before the last piece goes out, so that the client's next request finds it pooled.
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

    /// What follows from a failure: first what has come whole and waits for more, then the failure.
    fn break_off(&mut self, failure: Failure) -> Result<Bytes, Failure> {
        let waiting = self.transform.release();
        if waiting.is_empty() {
            return Err(failure);
        }
        self.failure = Some(failure);
        Ok(waiting)
    }

    /// The engine's next bytes, decompressed. A piece may be empty, where it encodes nothing yet.
    fn poll_data(&mut self, context: &mut Context<'_>) -> Poll<Result<Bytes, Failure>> {
        let Some(decoding) = &mut self.decoding else { return self.exchange.poll_data(context) };
        if !decoding.has_input() {
            decoding.feed(ready!(self.exchange.poll_data(context))?);
        }
        let plain = decoding.next();
        // A response to HEAD, say, has no body to be whole.
        let ended = self.exchange.is_done() && !decoding.has_input() && !decoding.is_untouched();
        let whole = if ended { decoding.end() } else { Ok(()) };
        Poll::Ready(plain.and_then(|plain| whole.map(|()| plain)).map_err(undecodable))
    }

    /// Whether all of the engine's bytes were given out.
    fn is_done(&self) -> bool {
        self.exchange.is_done()
            && !self.decoding.as_ref().is_some_and(|decoding| decoding.has_input())
    }

    /// The memory for what is held back, in bytes.
    fn held(&self) -> u64 {
        let decoder = self.decoding.as_ref().map_or(0, |decoding| decoding.memory());
        (self.transform.held() + decoder) as u64
    }

    /// Transforms a piece. `done`: it is the last one.
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

    /// Closes the connection at once, which stops the engine's work.
    pub(crate) fn abort(&mut self) {
        self.exchange.abort();
    }

    /// The instance that responds.
    pub(crate) fn instance(&self) -> &Instance {
        self.exchange.instance()
    }

    /// Whether the engine's body was replaced by a JSON document, whatever type the engine says.
    pub(crate) fn rewrites_body(&self) -> bool {
        self.transform.rewrites_body()
    }

    /// The status that the client gets, where it is not that of the engine's head.
    pub(crate) fn status(&self) -> Option<u16> {
        self.transform.status()
    }

    /// Whether the bytes so far end between two frames, so that a comment or event may follow.
    pub(crate) fn at_frame_edge(&self) -> bool {
        self.transform.at_frame_edge()
    }

    /// Whether the response has ended: nothing more will come.
    pub(crate) fn has_ended(&self) -> bool {
        self.exchange.has_ended()
    }

    /// Whether the last frame said that the stream is finished. A connection that is lost
    /// afterwards takes only framing with it.
    pub(crate) fn is_finished(&self) -> bool {
        self.transform.is_finished()
    }

    /// The exact number of bytes to come; None: unknown.
    pub(crate) fn remaining(&self) -> Option<u64> {
        if self.exchange.has_ended() {
            return Some(0);
        }
        let keeps_length = self.transform.keeps_length() && self.decoding.is_none();
        keeps_length.then(|| self.exchange.remaining())?
    }
}

impl<B> Relay<B> {
    /// The tokens that the engine counted; None: it has not said.
    pub(crate) fn usage(&self) -> Option<Usage> {
        self.transform.usage()
    }
}

/// The failure for a body that cannot be decompressed.
fn undecodable(error: InflateError) -> Failure {
    let why = match error {
        InflateError::Broken | InflateError::TrailingData => {
            "it is not what its Content-Encoding says, or was damaged"
        }
        InflateError::Truncated => "it ends too early",
        InflateError::Window => "its window is larger than 8 MB",
        InflateError::TooLarge { .. } | InflateError::Ratio { .. } => {
            "it grows by more than limits.decoded_ratio when it is decompressed"
        }
    };
    let why = format!("the engine compressed it although it was asked not to, and {why}");
    TransformError::Unusable(why).into()
}
