//! Bodies of answers: ours, or an engine's as it is relayed.

use std::{
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};

use crate::{
    client_io::ClientWatch,
    documents::End,
    error::{ApiError, Cause, Dialect},
    exchange::{Exchange, Fault},
    paths::ModelPlace,
    sniff::Finder,
    sse,
    ticket::Ticket,
    upload::Upload,
    upstream::Pool,
};

/// An unfinished frame is held back up to this size; a longer one is relayed as it comes.
const FRAME_HELD: usize = 64 * 1024;
/// A whole (not streamed) answer is held back up to this size while its `model` is looked for.
const ANSWER_HELD: usize = 4 * 1024 * 1024;
/// A task that has relayed so much without a pause lets others run.
const BURST: usize = 256 * 1024;

/// Why a body breaks off: hyper then breaks the framing toward the client, which is the only honest sign left.
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

/// How an answer's bytes are treated on their way.
pub(crate) enum Shape {
    /// As they come.
    Plain,
    /// Whole frames; each `model` is renamed to the JSON string, if there is one.
    Events { frames: HeldFrames, rename: Option<Bytes> },
    /// Held back until `model` is found and renamed; from then on as it comes.
    Renamed(Box<HeldAnswer>),
}

/// An engine's answer, shaped for the client. It knows nothing of who reads it.
pub(crate) struct Relay<B> {
    exchange: Box<Exchange<B>>,
    shape: Shape,
    pool: Rc<Pool>,
    /// Bytes handed on since the last pause.
    burst: usize,
}

impl<B> Relay<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::error::Error + 'static,
{
    pub(crate) fn new(exchange: Box<Exchange<B>>, shape: Shape, pool: Rc<Pool>) -> Self {
        Self { exchange, shape, pool, burst: 0 }
    }

    /// The request's body, to try another instance.
    pub(crate) fn into_upload(self) -> Box<Upload<B>> {
        self.exchange.into_upload()
    }

    /// The next bytes for the client; None at the end. A fault leaves whatever was held back unsaid.
    pub(crate) fn poll_piece(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Fault>>> {
        if self.burst > BURST {
            self.burst = 0;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let exchange = &mut self.exchange;
        while !exchange.is_over() {
            let Poll::Ready(data) = exchange.poll_data(context)? else {
                self.burst = 0;
                return Poll::Pending;
            };
            let done = exchange.is_done();
            // An event stream that ends with its connection has ended only if it said so: else the engine died.
            if done && exchange.was_until_close() && !self.shape.may_end_here() {
                let how = "it closed the connection before the end of its event stream".to_owned();
                return Poll::Ready(Some(Err(Fault::Died(how))));
            }
            let piece = self.shape.pass(data, done);
            if done {
                exchange.finish(&self.pool);
            }
            if !piece.is_empty() {
                self.burst += piece.len();
                return Poll::Ready(Some(Ok(piece)));
            }
        }
        Poll::Ready(None)
    }

    /// Whether nothing of a frame has been handed on without its end, so that an event of ours may follow.
    pub(crate) fn at_frame_edge(&self) -> bool {
        matches!(&self.shape, Shape::Events { frames, .. } if !frames.raw)
    }

    /// Whether the engine's last frame said that the stream is over; all that a death can take away then is framing.
    pub(crate) fn has_said_its_end(&self) -> bool {
        matches!(&self.shape, Shape::Events { .. }) && self.shape.may_end_here()
    }

    /// The exact number of bytes to come, where it can be told.
    fn remaining(&self) -> Option<u64> {
        match &self.shape {
            _ if self.exchange.is_over() => Some(0),
            Shape::Plain => self.exchange.remaining(),
            _ => None,
        }
    }
}

impl Shape {
    pub(crate) fn events(rename: Option<Bytes>) -> Self {
        Self::Events { frames: HeldFrames::default(), rename }
    }

    pub(crate) fn renamed(name: Bytes) -> Self {
        Self::Renamed(Box::new(HeldAnswer { held: BytesMut::new(), finder: Finder::string(&["model"]), name }))
    }

    /// Whether an end of the connection can be the end of the answer.
    fn may_end_here(&self) -> bool {
        match self {
            Self::Events { frames, .. } => frames.over && frames.tail.is_empty(),
            _ => true,
        }
    }

    /// What of the engine's bytes goes on now; `done`: these are the last.
    fn pass(&mut self, data: Bytes, done: bool) -> Bytes {
        match self {
            Self::Plain => data,
            Self::Events { frames, rename: None } => frames.pass(data, done, FRAME_HELD),
            Self::Events { frames, rename: Some(name) } => {
                // A name that is to be replaced is worth more memory than a frame that only passes.
                let whole = frames.pass(data, done, ANSWER_HELD);
                if frames.raw {
                    whole
                } else {
                    sse::rename_model(&whole, ModelPlace::TopLevel, name).map_or(whole, Bytes::from)
                }
            }
            Self::Renamed(answer) => {
                let Some(piece) = answer.pass(&data, done) else { return Bytes::new() };
                *self = Self::Plain;
                piece
            }
        }
    }
}

/// A whole answer, held back until its `model` is found.
pub(crate) struct HeldAnswer {
    held: BytesMut,
    finder: Finder,
    name: Bytes,
}

impl HeldAnswer {
    /// What was held, renamed; None while more must come. An answer without a `model`, or too long before it, goes on
    /// as it is.
    fn pass(&mut self, data: &[u8], done: bool) -> Option<Bytes> {
        self.held.extend_from_slice(data);
        self.finder.feed(data);
        let found = self.finder.found();
        if found.is_none() && !done && self.held.len() <= ANSWER_HELD {
            return None;
        }
        let whole = self.held.split().freeze();
        Some(match found {
            Some(range) => [&whole[..range.start], &self.name, &whole[range.end..]].concat().into(),
            None => whole,
        })
    }
}

/// An event stream, handed on in whole frames.
#[derive(Default)]
pub(crate) struct HeldFrames {
    /// The unfinished frame.
    tail: BytesMut,
    /// Bytes of `tail` that were looked at without finding a frame's edge.
    searched: usize,
    /// Inside a frame that is too long to hold.
    raw: bool,
    /// The last frame that went on said that the stream is over.
    over: bool,
}

impl HeldFrames {
    /// Whole frames go on, the unfinished tail waits. `done`: these are the last bytes; `held`: how long a tail may be.
    fn pass(&mut self, data: Bytes, done: bool, held: usize) -> Bytes {
        let frames = self.cut(data, done, held);
        if !frames.is_empty() {
            self.over = !self.raw && sse::is_terminal(sse::last_frame(&frames));
        }
        frames
    }

    fn cut(&mut self, mut data: Bytes, done: bool, held: usize) -> Bytes {
        // The usual read ends with a frame and is not copied.
        if self.tail.is_empty()
            && !self.raw
            && let Some(edge) = if done { Some(data.len()) } else { sse::last_edge(&data, 0) }
        {
            self.tail.extend_from_slice(&data.split_off(edge));
            self.searched = self.tail.len();
            return data;
        }
        self.tail.extend_from_slice(&data);
        let edge = if done { Some(self.tail.len()) } else { sse::last_edge(&self.tail, self.searched) };
        let passing = match edge {
            Some(edge) => {
                self.raw = false;
                edge
            }
            None if self.raw || self.tail.len() > held => {
                // The last three bytes stay, so that an edge that is cut by a read is still seen whole.
                self.raw = true;
                self.tail.len().saturating_sub(3)
            }
            None => 0,
        };
        let frames = self.tail.split_to(passing).freeze();
        self.searched = self.tail.len();
        frames
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
    /// The client has sent its whole request, so that what it sends from now on says whether it is there.
    body_whole: bool,
    dialect: Dialect,
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
    ) -> Self {
        let ended = first.is_none();
        let mut body = Self { relay, first, ended, broken: false, ticket: Some(ticket), watch, body_whole, dialect };
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
            Some(Err(fault)) => self.break_off(context, &fault),
            None => {
                self.over(End::Done);
                Poll::Ready(None)
            }
        }
    }

    fn hand_on(&mut self, piece: Bytes) -> Frame<Bytes> {
        if let Some(ticket) = &mut self.ticket {
            ticket.bytes_out(piece.len());
        }
        if self.relay.exchange.is_over() {
            self.over(End::Done);
        }
        Frame::data(piece)
    }

    /// The engine failed after the first byte was handed on. A stream gets one more frame that says so, then the
    /// connection ends; anything else breaks off.
    fn break_off(&mut self, context: &mut Context<'_>, fault: &Fault) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        if let Some(ticket) = &self.ticket {
            fault.note(ticket.shared(), self.relay.exchange.instance());
        }
        let (error, end) = broken(fault);
        let event = self.relay.at_frame_edge().then(|| {
            let id = self.ticket.as_ref().map_or("", |ticket| ticket.request_id());
            error.event(self.dialect, id)
        });
        self.over(end);
        self.watch.close_after_answer();
        if let Some(event) = event {
            return Poll::Ready(Some(Ok(Frame::data(event))));
        }
        // One pause, in which hyper sends what it was handed: the client must see that an answer had begun.
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
            ticket.end(end);
        }
    }
}

/// What a client is told when its answer breaks off, and what the record says.
fn broken(fault: &Fault) -> (ApiError, End) {
    match fault {
        Fault::Idle | Fault::FirstFrame => (
            ApiError::new(
                Cause::GatewayTimeout,
                "The engine stopped sending in the middle of this answer (the idle timeout is over). The answer is incomplete; send the request again.",
            ),
            End::Timeout,
        ),
        Fault::Wire(error) => (
            ApiError::new(
                Cause::BadGateway,
                format!("The engine's answer breaks HTTP: {error}. The answer is incomplete; send the request again."),
            ),
            End::EngineError,
        ),
        _ => (
            ApiError::new(
                Cause::BadGateway,
                "The engine ended in the middle of this answer. The answer is incomplete; send the request again.",
            ),
            End::EngineDied,
        ),
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
            Self::Relayed(body) => {
                let first = body.first.as_ref().map_or(0, |first| first.len() as u64);
                let whole = body.relay.remaining().and_then(|rest| rest.checked_add(first));
                whole.map_or_else(SizeHint::default, SizeHint::with_exact)
            }
        }
    }
}
