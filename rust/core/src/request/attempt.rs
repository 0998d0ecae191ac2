//! One attempt at one instance, up to the commit point. That is the first byte of the response's
//! body for the client: in a stream, the end of the first frame. (With `sse_keep_alive` it may be a
//! comment of ours before that, where the request was not seen to ask for a stream; where it was,
//! comments are `early_response`'s, and commit nothing.) An empty body's is its end.
//!
//! Until then a failure can be retried, and nothing of this attempt is seen by the client. From
//! then on a failure can only truncate the response.

use std::{
    future::poll_fn,
    io,
    sync::{Arc, atomic::Ordering},
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode, header};
use http_body::Body;
use tracing::debug;

use crate::{
    blocking::Unfinished,
    client::io::ClientWatch,
    failure::Failure,
    request::{
        context::RequestContext, dispatch::Dispatch, early_head::EarlyHead, outbound_head,
        rejections, relay::Relay, retry::History,
    },
    upstream::{
        connection::Connection,
        decoding::Decoding,
        exchange::{Exchange, RequestHead, closed},
        framing::Framing,
        response::Expected,
        slot::Slot,
        upload::{Changes, Upload},
    },
};
use sans_io::{
    api::{
        cost::{self, TRANSLATION_MAX},
        endpoints::Operation,
        plan::{self, Plan, Requester, Translation},
        transform::{Transform, TransformError},
    },
    codec::{
        http1::{ResponseHead, WireError},
        inflate::{self, Caps},
        response_fields::{Sender, UNTRANSLATED},
        splice::Splice,
        sse, websocket,
    },
    seam::Timeouts,
    table::{FallbackFor, Instance, Lease, Target},
};

/// A larger request, in bytes, is translated on the blocking pool, so that the worker's other
/// requests do not wait for it.
const TRANSLATED_INLINE: usize = 256 * 1024;

/// Comments of an engine's that wait for its first frame, in bytes, beyond which they are its first.
const COMMENTS_HELD: usize = 16 * 1024;

/// A successful attempt.
pub(crate) enum Outcome<B> {
    /// A response has begun. It may be an engine's error.
    Response(Box<StartedResponse<B>>),
    /// The engine has switched to a WebSocket.
    Upgraded(Box<Upgraded>),
}

impl<B> Outcome<B> {
    /// The status of the engine's response.
    pub(crate) fn status(&self) -> u16 {
        match self {
            Self::Response(started) => started.head.status.as_u16(),
            Self::Upgraded(upgraded) => upgraded.head.status.as_u16(),
        }
    }
}

/// A response that has begun.
pub(crate) struct StartedResponse<B> {
    /// The engine's head.
    pub(crate) head: ResponseHead,
    /// Whether the client gets one.
    pub(crate) is_event_stream: bool,
    /// The rest of the body.
    pub(crate) relay: Relay<B>,
    /// The first piece of the body; None: the body is empty.
    pub(crate) first: Option<Bytes>,
}

impl<B> StartedResponse<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::error::Error + 'static,
{
    /// Takes over the status that the content tells, where the engine's head tells another.
    fn correct_status(&mut self) {
        if let Some(status) = self.relay.status().and_then(|code| StatusCode::from_u16(code).ok()) {
            self.head.status = status;
            self.is_event_stream = false;
        }
    }
}

/// An engine's connection behind its 101.
pub(crate) struct Upgraded {
    /// The 101.
    pub(crate) head: ResponseHead,
    /// May hold bytes behind the 101 in its buffer.
    pub(crate) connection: Connection,
    /// Held for as long as the tunnel lasts.
    pub(crate) slot: Slot,
}

/// A failed attempt: its failure, and the client's body for another attempt.
pub(crate) type Failed<B> = (Failure, Box<Upload<B>>);

/// The parameters of an attempt.
pub(crate) struct Attempt<'a> {
    /// The slot on the instance.
    pub(crate) lease: Lease,
    /// The target that the instance was chosen for.
    pub(crate) target: Arc<Target>,
    /// Whether a new connection must be opened, rather than a pooled one used.
    pub(crate) fresh: bool,
    /// The request.
    pub(crate) dispatch: &'a Dispatch,
    /// The attempts before it.
    pub(crate) history: &'a History,
}

/// The request that an attempt sends, but for the client's body.
pub(crate) struct Outgoing<'a> {
    /// The head without its framing.
    pub(crate) head: BytesMut,
    /// The changes in the client's body. `substitute`: another in its place.
    pub(crate) changes: Changes<'a>,
    /// Whether the request asks for a WebSocket.
    pub(crate) upgrade: bool,
    /// The limits of its phases.
    pub(crate) limits: Timeouts,
}

/// Sends a request to one instance and waits for the commit point. Fails as [`connect`],
/// [`response_head`] and [`commit`] do, with `Rejected` (the body cannot be translated) or with
/// `FallbackStatus`.
pub(crate) async fn send<B, W>(
    context: &mut RequestContext<W>,
    attempt: Attempt<'_>,
    mut upload: Box<Upload<B>>,
) -> Result<Outcome<B>, Failed<B>>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::error::Error + 'static,
    W: ClientWatch,
{
    let Attempt { lease, target, fresh, dispatch, history } = attempt;
    context.accounting.attempt(&lease.instance().id);
    let translation = match translate(context, dispatch, &target, &mut upload).await {
        Ok(translation) => translation,
        Err(failure) => return Err((failure, upload)),
    };
    let mut plan = Plan::new(dispatch.job.inference(), &dispatch.route, target, translation);
    // An engine may close an idle connection at the moment when a request is sent on it, and nobody
    // knows whether it has read the request. So one that must not be sent twice gets a new one.
    let fresh = fresh || !dispatch.job.is_retryable() && !context.method().is_safe();
    let limits = plan.target().model.timeouts.over(context.settings().timeouts);
    let opened = connect(context, lease.instance(), fresh, &upload, &limits).await;
    let connection = match opened {
        Ok(connection) => connection,
        Err(failure) => return Err((failure, upload)),
    };
    let head = outbound_head::for_engine(context, lease.instance(), dispatch, &plan);
    let upgrade = dispatch.job.is_websocket();
    let (substitute, messages) = (plan.take_substitute(), plan.take_messages());
    let request =
        Outgoing { head, changes: changes(&plan, &upload, substitute, messages), upgrade, limits };
    let slot = Slot::new(lease, &context.worker().lingering);
    let mut exchange = begin(context, connection, slot, request, upload);
    let sender = plan.sender(dispatch.job.is_proxy());
    let mut head = match response_head(context, &mut exchange, sender).await {
        Ok(head) => head,
        Err(failure) => return Err((failure, exchange.into_upload())),
    };
    // The client has seen nothing of this response yet, so another target's may take its place.
    let status = head.status.as_u16();
    let failed = FallbackFor { status, target: Some(plan.target()) };
    if history.may_fall_back(dispatch, failed, exchange.upload().is_replayable()) {
        return Err((Failure::FallbackStatus(status), exchange.into_upload_after_response()));
    }
    if head.status == StatusCode::SWITCHING_PROTOCOLS {
        return upgraded(&context.parts().headers, head, exchange);
    }
    if plan.untranslated() > 0 {
        head.headers.insert(UNTRANSLATED, plan.untranslated().into());
    }
    let is_event_stream = plan.is_event_stream(&head, exchange.upload().asks_stream());
    let relay = relay(context, plan, (&mut head, is_event_stream), dispatch, exchange)?;
    let mut committed = Box::new(StartedResponse { head, is_event_stream, relay, first: None });
    prepare(context, dispatch, &mut committed);
    match commit(context, &mut committed).await {
        Ok(()) => {
            committed.correct_status();
            if may_go_early(context) {
                set_keep_alive(context, &mut committed);
            }
            Ok(Outcome::Response(committed))
        }
        Err(failure) => Err((failure, committed.relay.into_upload())),
    }
}

/// The changes in the client's body, which names the model in any case. `substitute`: another body
/// in its place. `messages`: others in place of its own.
fn changes<'a, B>(
    plan: &'a Plan,
    upload: &Upload<B>,
    substitute: Option<Bytes>,
    messages: Option<Splice>,
) -> Changes<'a> {
    let rename = plan.rename().or_else(|| upload.lacks_model().then(|| &**plan.target()));
    Changes { rename, ask_usage: plan.asks_usage(), messages, substitute }
}

/// Sets the id that the relay looks for in the response, and the comments that it adds.
fn prepare<B, W>(
    context: &RequestContext<W>,
    dispatch: &Dispatch,
    committed: &mut StartedResponse<B>,
) where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::error::Error + 'static,
    W: ClientWatch,
{
    let inference = dispatch.job.inference();
    let creates_response =
        inference.is_some_and(|inference| inference.operation == Operation::CreateResponse);
    if creates_response && committed.head.status.is_success() {
        committed.relay.look_for_response_id();
    }
    if !may_go_early(context) {
        set_keep_alive(context, committed);
    }
}

/// Whether the response's head may go before the engine's, with comments of its own, so that none
/// commits this attempt before its first frame.
fn may_go_early<W: ClientWatch>(context: &RequestContext<W>) -> bool {
    context.accounting.early_head().is_some_and(EarlyHead::may_go)
}

fn set_keep_alive<B, W>(context: &RequestContext<W>, committed: &mut StartedResponse<B>)
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::error::Error + 'static,
    W: ClientWatch,
{
    let interval = context.settings().response_extras.sse_keep_alive;
    committed.relay.set_keep_alive(interval);
}

/// Translates a request where the target needs it; None: the client's body is sent. Fails with
/// `Rejected` (also a 413 where it would take too much memory) or `NoRoom`.
async fn translate<B, W>(
    context: &RequestContext<W>,
    dispatch: &Dispatch,
    target: &Arc<Target>,
    upload: &mut Upload<B>,
) -> Result<Option<Translation>, Failure>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::error::Error + 'static,
    W: ClientWatch,
{
    let inference = dispatch.job.inference();
    let Some(inference) = inference.filter(|inference| plan::needs_whole_body(*inference, target))
    else {
        return Ok(None);
    };
    let operation = inference.operation;
    // Beside the body itself: a copy in one piece, which takes the pieces' place.
    let length = upload.received();
    hold_translation(upload, length).await?;
    let body = upload.gather();
    let translation = if body.len() <= TRANSLATED_INLINE {
        hold_translation(upload, cost::of_request(operation, &body)).await?;
        plan::translate(inference, target, &body)?
    } else {
        let counted = body.clone();
        let reckon = move || cost::of_request(operation, &counted);
        let cost = off_worker(context, upload, length, reckon).await?;
        hold_translation(upload, cost).await?;
        let target = Arc::clone(target);
        let translating = move || plan::translate(inference, &target, &body);
        off_worker(context, upload, cost, translating).await??
    };
    upload.settle(translation.held());
    Ok(Some(translation))
}

/// Takes memory for a translation that costs so many bytes beside the body. Fails with `Rejected`
/// (413) where it is more than one may take, or than all may that have a key, or have none; or with
/// `NoRoom`.
async fn hold_translation<B>(upload: &mut Upload<B>, cost: u64) -> Result<(), Failure> {
    let most = TRANSLATION_MAX.min(upload.room_limit());
    if upload.received() + cost > most {
        return Err(rejections::too_costly_to_translate(most).into());
    }
    poll_fn(|polled| upload.poll_hold(polled, cost)).await
}

/// Does work on the body that would hold up the worker. The client may leave meanwhile: what the
/// work holds counts until it ends all the same. `elsewhere`: what it holds beside the body, in
/// bytes. Fails with `Rejected`.
async fn off_worker<B, W, T>(
    context: &RequestContext<W>,
    upload: &mut Upload<B>,
    elsewhere: u64,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Failure>
where
    W: ClientWatch,
    T: Send + 'static,
{
    let room = upload.take_room();
    // The work and what it holds are gone before the share is given back.
    let done = context.shared().blocking.run(move || (work(), room)).await;
    let (made, room) = done.map_err(|Unfinished| rejections::translation_failed())?;
    upload.put_room(room);
    upload.settle(elsewhere);
    Ok(made)
}

/// A pooled connection, or a new one within `limits.connect` (None: however long it takes). Fails
/// with `Connect` or `MachineExhausted`, which is counted.
pub(crate) async fn connect<B, W>(
    context: &mut RequestContext<W>,
    instance: &Instance,
    fresh: bool,
    upload: &Upload<B>,
    limits: &Timeouts,
) -> Result<Connection, Failure>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::error::Error + 'static,
    W: ClientWatch,
{
    // A pooled connection may be stale, which only a body that can be sent again survives.
    let may_be_stale = !fresh && upload.will_be_replayable();
    let pooled = may_be_stale.then(|| context.worker().pool.take(instance)).flatten();
    let connection = if let Some(connection) = pooled {
        connection
    } else {
        let scratch = &context.worker().scratch;
        let opened = Connection::open(instance, limits.connect, scratch).await;
        let opened = opened.map_err(|error| of_connecting(context, error))?;
        opened.keep_alive(limits);
        debug!(instance = &*instance.id, "connection opened");
        opened
    };
    context.accounting.timeline.connected();
    Ok(connection)
}

/// The failure of opening a connection. This machine's is counted.
fn of_connecting<W: ClientWatch>(context: &RequestContext<W>, error: io::Error) -> Failure {
    let failure = Failure::of_connecting(error);
    if let Failure::MachineExhausted(_) = failure {
        context.shared().metrics.connections_without_room.fetch_add(1, Ordering::Relaxed);
    }
    failure
}

/// Begins to send a request on this connection.
pub(crate) fn begin<B, W>(
    context: &RequestContext<W>,
    connection: Connection,
    slot: Slot,
    request: Outgoing<'_>,
    mut upload: Box<Upload<B>>,
) -> Box<Exchange<B>>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::error::Error + 'static,
    W: ClientWatch,
{
    let Outgoing { head, changes, upgrade, limits } = request;
    let method = context.method();
    let framing = Framing::of(method, upload.start_attempt(changes));
    let request = RequestHead { head, framing, expected: Expected::of(method, upgrade) };
    Exchange::new(connection, slot, upload, request, limits)
}

/// Waits for the head of the response, while the request is sent. `sender` decides which of its
/// fields pass, and those that do not are counted. Fails as [`Exchange::poll_head`]
/// does.
pub(crate) async fn response_head<B, W>(
    context: &mut RequestContext<W>,
    exchange: &mut Exchange<B>,
    sender: Sender<'_>,
) -> Result<ResponseHead, Failure>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::error::Error + 'static,
    W: ClientWatch,
{
    let head = poll_fn(|polled| {
        let head = exchange.poll_head(polled, sender);
        if head.is_pending() {
            // A long body may have become whole.
            context.note_stream(exchange.upload());
        }
        head
    })
    .await;
    context.accounting.set_bytes_in(exchange.upload().received());
    if let Ok(head) = &head {
        for field in &head.withheld {
            context.shared().metrics.withheld_fields.fetch_add(1, Ordering::Relaxed);
            debug!(field = field.as_str(), "response field withheld");
        }
    }
    head
}

/// Takes the connection out of an exchange whose engine has sent a 101. Fails with `Protocol` where
/// that does not answer the client's handshake, or with `ConnectionLost`.
fn upgraded<B>(
    request: &HeaderMap,
    head: ResponseHead,
    exchange: Box<Exchange<B>>,
) -> Result<Outcome<B>, Failed<B>>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::error::Error + 'static,
{
    if let Err(error) = websocket::check(request, &head.headers) {
        return Err((Failure::Protocol(WireError::Handshake(error)), exchange.into_upload()));
    }
    match exchange.into_upgraded() {
        Ok((connection, slot)) => {
            Ok(Outcome::Upgraded(Box::new(Upgraded { head, connection, slot })))
        }
        Err(upload) => {
            let error = closed("it closed the connection behind its 101");
            Err((Failure::ConnectionLost(error), upload))
        }
    }
}

/// The relay of a response. `head`: that, and whether it is an event stream's; of a body that is
/// decompressed it no longer says so. Fails as [`decoding`] does.
fn relay<B, W>(
    context: &RequestContext<W>,
    plan: Plan,
    (head, is_event_stream): (&mut ResponseHead, bool),
    dispatch: &Dispatch,
    exchange: Box<Exchange<B>>,
) -> Result<Relay<B>, Failed<B>>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::error::Error + 'static,
    W: ClientWatch,
{
    let transform = transform(context, plan, head, is_event_stream, dispatch, exchange.upload());
    let decoding = match decoding(context, dispatch, &transform, head) {
        Ok(decoding) => decoding,
        Err(failure) => return Err((failure, exchange.into_upload())),
    };
    let mut relay = Relay::new(exchange, transform, context.worker().pool.clone());
    if let Some(decoding) = decoding {
        relay.decode(decoding);
    }
    Ok(relay)
}

/// The decompression of a response that the engine compressed unasked; None: it is not compressed,
/// or is not looked into, and passes as it is. Fails with `Unusable` for a coding that is not known.
fn decoding<W: ClientWatch>(
    context: &RequestContext<W>,
    dispatch: &Dispatch,
    transform: &Transform,
    head: &mut ResponseHead,
) -> Result<Option<Decoding>, Failure> {
    let coding = inflate::coding(&head.headers);
    if dispatch.job.inference().is_none() || coding == Ok(None) {
        return Ok(None);
    }
    context.shared().metrics.encoded_responses.fetch_add(1, Ordering::Relaxed);
    if transform.is_identity() {
        return Ok(None);
    }
    let coding = coding.map_err(|_| {
        let why = "the engine compressed it although it was asked not to, with a Content-Encoding \
            other than gzip, deflate and zstd";
        TransformError::Unusable(why.to_owned())
    })?;
    head.headers.remove(header::CONTENT_ENCODING);
    head.content_length = None;
    // However much it is, it passes piece by piece; what is held back has a limit of its own.
    let caps = Caps { decoded: u64::MAX, ratio: context.settings().limits.decoded_ratio };
    Ok(coding.map(|coding| Decoding::new(coding, caps)))
}

/// The transformation of the response.
fn transform<B, W>(
    context: &RequestContext<W>,
    plan: Plan,
    head: &ResponseHead,
    is_event_stream: bool,
    dispatch: &Dispatch,
    upload: &Upload<B>,
) -> Transform
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::error::Error + 'static,
    W: ClientWatch,
{
    let requester = Requester {
        route: &dispatch.route,
        dialect: context.endpoint().dialect,
        request_id: context.accounting.request_id(),
        asked_stream: upload.asks_stream(),
        asked_usage: upload.asks_usage(),
        usage_timings: context.settings().response_extras.usage_timings,
    };
    plan.transform(head, is_event_stream, &requester)
}

/// Waits for the first byte for the client, which may be a comment of ours. Comments of the engine's
/// before its first frame wait for that where the client gets ours meanwhile, so that they commit
/// nothing. Fails as [`Relay::poll_piece`] does.
pub(crate) async fn commit<B, W>(
    context: &mut RequestContext<W>,
    committed: &mut StartedResponse<B>,
) -> Result<(), Failure>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::error::Error + 'static,
    W: ClientWatch,
{
    let holds_comments = committed.is_event_stream && may_go_early(context);
    let (timeline, relay) = (&mut context.accounting.timeline, &mut committed.relay);
    let mut comments = BytesMut::new();
    let first = loop {
        match poll_fn(|polled| relay.poll_piece(polled, timeline)).await.transpose() {
            Ok(Some(piece))
                if holds_comments && comments.len() < COMMENTS_HELD && is_comment(&piece) =>
            {
                comments.extend_from_slice(&piece);
            }
            Ok(piece) if !comments.is_empty() => {
                comments.extend_from_slice(&piece.unwrap_or_default());
                break Ok(Some(comments.freeze()));
            }
            first => break first,
        }
    };
    timeline.committed();
    committed.first = first?;
    // A stream may last for hours, and its request may be large.
    relay.release_upload();
    debug!(status = committed.head.status.as_u16(), "committed");
    Ok(())
}

/// Whether a piece of a stream is comments alone.
fn is_comment(piece: &[u8]) -> bool {
    sse::lines(piece).all(|line| line.is_empty() || line.starts_with(b":"))
}
