//! Bodies of answers: ours, or an engine's as it is relayed.

use std::{
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Instant;

use crate::{
    client::io::ClientWatch,
    failure::Failure,
    request::{accounting::Ticket, rejections},
    timer::PhaseTimer,
    upstream::{exchange::Exchange, health, pool::Pool, upload::Upload},
};
use sans_io::{
    api::{
        error::Dialect,
        stream_fields::ResponseIdFinder,
        transform::{Shape, TransformError},
        usage::Timings,
    },
    seam::documents::End,
    table::Instance,
};

/// A task that has relayed so much without a pause lets others run.
const BURST: usize = 256 * 1024;
/// What a stream gets whose engine is silent.
const KEEP_ALIVE: &[u8] = b": keep-alive\n\n";

/// Why a body breaks off: hyper then breaks the framing toward the client, which is the only honest
/// sign left.
#[derive(Debug)]
pub(crate) struct BrokenOff;

impl std::fmt::Display for BrokenOff {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("the answer broke off")
    }
}

impl std::error::Error for BrokenOff {}

/// The body of any answer.
pub(crate) enum AnswerBody<B, W> {
    /// One of ours.
    Full(Bytes),
    /// An engine's.
    Relayed(Box<RelayedBody<B, W>>),
}

/// An engine's answer, shaped for the client. It knows nothing of who reads it.
pub(crate) struct Relay<B> {
    exchange: Box<Exchange<B>>,
    shape: Shape,
    pool: Rc<Pool>,
    /// Looks for the id of the response that is answered.
    response_id: Option<ResponseIdFinder>,
    /// When the client's request began.
    began: Instant,
    /// When the first piece went on.
    first: Option<Instant>,
    keep_alive: KeepAlive,
    /// Bytes handed on since the last pause.
    burst: usize,
}

/// Comments in a stream whose engine is silent.
#[derive(Default)]
struct KeepAlive {
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
    pub(crate) fn new(
        exchange: Box<Exchange<B>>,
        shape: Shape,
        pool: Rc<Pool>,
        began: Instant,
    ) -> Self {
        let (response_id, keep_alive) = (None, KeepAlive::default());
        Self { exchange, shape, pool, response_id, began, first: None, keep_alive, burst: 0 }
    }

    /// Looks for the id of the response that is answered, from now on.
    pub(crate) fn look_for_response_id(&mut self) {
        self.response_id = Some(ResponseIdFinder::new());
    }

    /// Puts a comment wherever its stream is silent for so long; None: nowhere.
    pub(crate) fn set_keep_alive(&mut self, interval: Option<Duration>) {
        self.keep_alive.interval = interval.filter(|_| matches!(self.shape, Shape::Events(_)));
    }

    /// The id of the response that is answered, once, when it was seen.
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
    ) -> Poll<Option<Result<Bytes, Failure>>> {
        let polled = self.poll_engine(context);
        if self.keep_alive.interval.is_none() {
            return polled;
        }
        if polled.is_ready() {
            self.keep_alive.quiet_since = None;
            return polled;
        }
        let since = *self.keep_alive.quiet_since.get_or_insert_with(Instant::now);
        if !self.shape.at_frame_edge()
            || self.keep_alive.timer.poll(context, since, self.keep_alive.interval).is_pending()
        {
            return Poll::Pending;
        }
        self.keep_alive.quiet_since = None;
        Poll::Ready(Some(Ok(Bytes::from_static(KEEP_ALIVE))))
    }

    fn poll_engine(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Failure>>> {
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
            let died = done && self.exchange.was_until_close() && !self.shape.may_end_here();
            let piece =
                if died { Err(TransformError::Incomplete) } else { self.shape_piece(data, done) };
            let piece = match piece {
                Ok(piece) => piece,
                Err(error) => return Poll::Ready(Some(Err(error.into()))),
            };
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

    fn shape_piece(&mut self, data: Bytes, done: bool) -> Result<Bytes, TransformError> {
        let (began, first) = (self.began, self.first);
        let timings = || {
            let now = Instant::now();
            let milliseconds = |time: Instant| time.duration_since(began).as_secs_f64() * 1e3;
            Timings { first_ms: milliseconds(first.unwrap_or(now)), elapsed_ms: milliseconds(now) }
        };
        let piece = self.shape.pass(data, done, timings)?;
        if self.first.is_none() && !piece.is_empty() {
            self.first = Some(Instant::now());
        }
        if let Some(finder) = &mut self.response_id {
            if matches!(self.shape, Shape::Events(_)) {
                finder.feed_frames(&piece);
            } else {
                finder.feed(&piece);
            }
        }
        Ok(piece)
    }

    /// Who answers.
    pub(crate) fn instance(&self) -> &Instance {
        self.exchange.instance()
    }

    /// Whether what is handed on is a JSON document of ours, whatever the engine sent.
    pub(crate) fn makes_anew(&self) -> bool {
        self.shape.makes_anew()
    }

    /// Whether nothing of a frame has been handed on without its end, so that an event of ours may
    /// follow.
    pub(crate) fn at_frame_edge(&self) -> bool {
        self.shape.at_frame_edge()
    }

    /// Whether the engine's last frame said that the stream is over; all that a death can take away
    /// then is framing.
    pub(crate) fn has_said_its_end(&self) -> bool {
        self.shape.has_said_its_end()
    }

    /// The exact number of bytes to come, where it can be told.
    fn remaining(&self) -> Option<u64> {
        match &self.shape {
            _ if self.exchange.is_over() => Some(0),
            shape if shape.keeps_length() => self.exchange.remaining(),
            _ => None,
        }
    }
}

/// An engine's answer on its way to one client.
pub(crate) struct RelayedBody<B, W> {
    relay: Relay<B>,
    /// What was read before the head was handed on.
    first: Option<Bytes>,
    ended: bool,
    /// The next thing to say is that the answer breaks off.
    broken: bool,
    ticket: Option<Ticket>,
    watch: W,
    /// The client has sent its whole request, so that what it sends from now on says whether it is
    /// there.
    body_whole: bool,
    dialect: Dialect,
    /// A comment for the end of a stream.
    last_comment: Option<Bytes>,
}

impl<B, W> RelayedBody<B, W>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::error::Error + 'static,
    W: ClientWatch,
{
    pub(crate) fn new(
        relay: Relay<B>,
        first: Option<Bytes>,
        ticket: Ticket,
        (watch, body_whole): (W, bool),
        dialect: Dialect,
        last_comment: Option<Bytes>,
    ) -> Self {
        let ended = first.is_none();
        let ticket = Some(ticket);
        let mut body = Self {
            relay,
            first,
            ended,
            broken: false,
            ticket,
            watch,
            body_whole,
            dialect,
            last_comment,
        };
        if ended {
            body.over(End::Done);
        }
        body
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(self.hand_on(first))));
        }
        if self.broken {
            self.broken = false;
            return Poll::Ready(Some(Err(BrokenOff)));
        }
        if self.ended {
            return Poll::Ready(None);
        }
        if self.watch.poll_left(context, self.body_whole).is_ready() {
            self.over(End::ClientGone);
            return Poll::Ready(Some(Err(BrokenOff)));
        }
        match ready!(self.relay.poll_piece(context)) {
            Some(Ok(piece)) => Poll::Ready(Some(Ok(self.hand_on(piece)))),
            Some(Err(_)) if self.relay.has_said_its_end() => {
                self.relay.exchange.abort();
                self.over(End::Done);
                Poll::Ready(None)
            }
            Some(Err(failure)) => self.break_off(context, &failure),
            None => {
                let last = self.last_comment.take().filter(|_| self.relay.at_frame_edge());
                self.over(End::Done);
                Poll::Ready(last.map(|comment| Ok(Frame::data(comment))))
            }
        }
    }

    fn hand_on(&mut self, piece: Bytes) -> Frame<Bytes> {
        if let Some(ticket) = &mut self.ticket {
            ticket.bytes_out(piece.len());
            if let Some(id) = self.relay.take_response_id() {
                ticket.made_response(id);
            }
        }
        if self.relay.exchange.is_over() && self.last_comment.is_none() {
            self.over(End::Done);
        }
        Frame::data(piece)
    }

    /// The engine failed after the first byte was handed on. A stream gets one more frame that says
    /// so, then the connection ends; anything else breaks off.
    fn break_off(
        &mut self,
        context: &mut Context<'_>,
        failure: &Failure,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        if let Some(ticket) = &self.ticket {
            health::note(failure, ticket.shared(), self.relay.exchange.instance());
        }
        let (error, end) = rejections::truncated(failure);
        let event = self.relay.at_frame_edge().then(|| {
            let id = self.ticket.as_ref().map_or("", |ticket| ticket.request_id());
            error.event(self.dialect, id)
        });
        self.over(end);
        self.watch.close_after_answer();
        if let Some(event) = event {
            return Poll::Ready(Some(Ok(Frame::data(event))));
        }
        // One pause, in which hyper sends what it was handed: the client must see that an answer
        // had begun.
        self.broken = true;
        context.waker().wake_by_ref();
        Poll::Pending
    }

    fn over(&mut self, end: End) {
        self.ended = true;
        if end != End::Done {
            self.relay.exchange.abort();
        }
        if let Some(mut ticket) = self.ticket.take() {
            if let Some(usage) = self.relay.shape.usage() {
                ticket.tokens(usage);
            }
            ticket.end(end);
        }
    }
}

impl<B, W> Body for AnswerBody<B, W>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::error::Error + 'static,
    W: ClientWatch + Unpin,
{
    type Data = Bytes;
    type Error = BrokenOff;

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
            Self::Relayed(body) => body.ended && !body.broken && body.first.is_none(),
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
