//! One attempt at one instance, up to the commit point: the first byte for the client, which in a
//! stream is the first frame.

use std::{
    future::poll_fn,
    sync::{Arc, atomic::Ordering},
};

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use http_body::Body;
use tracing::debug;

use crate::{
    client::io::ClientWatch,
    failure::Failure,
    request::{
        context::RequestContext, dispatch::Dispatch, engine_head, rejections, relay::Relay,
        retry::History,
    },
    upstream::{
        connection::Connection,
        exchange::{Exchange, RequestHead, closed},
        framing::Framing,
        response::Expected,
        slot::Slot,
        upload::{Changes, Upload},
    },
};
use sans_io::{
    api::{
        endpoints::Operation,
        error::ApiError,
        plan::{self, Plan, Requester, Translation},
        transform::Transform,
    },
    codec::{headers, http1::ResponseHead},
    table::{Instance, Lease, Target},
};

/// A larger request is translated on the blocking pool, so that other requests do not wait for it;
/// in bytes.
const TRANSLATED_HERE: usize = 256 * 1024;

/// How an attempt ended well.
pub(crate) enum Outcome<B> {
    /// A response has begun.
    Response(Box<Committed<B>>),
    /// The engine speaks another protocol from now on.
    Upgraded(Box<Upgraded>),
}

/// A response from its first byte on.
pub(crate) struct Committed<B> {
    pub(crate) head: ResponseHead,
    pub(crate) is_event_stream: bool,
    pub(crate) relay: Relay<B>,
    /// None: its body is empty.
    pub(crate) first: Option<Bytes>,
}

/// An engine's connection behind its 101.
pub(crate) struct Upgraded {
    pub(crate) head: ResponseHead,
    pub(crate) connection: Connection,
    pub(crate) slot: Slot,
}

/// A failed attempt: the reason, and the body for another one.
pub(crate) type Failed<B> = (Failure, Box<Upload<B>>);

/// An attempt that begins.
pub(crate) struct Attempt<'a> {
    pub(crate) lease: Lease,
    pub(crate) target: Arc<Target>,
    /// Use no pooled connection.
    pub(crate) fresh: bool,
    pub(crate) dispatch: &'a Dispatch,
    /// The attempts before it.
    pub(crate) history: &'a History,
}

/// Sends a request to one instance and waits for the commit point.
pub(crate) async fn send<B, W>(
    context: &mut RequestContext<W>,
    attempt: Attempt<'_>,
    upload: Box<Upload<B>>,
) -> Result<Outcome<B>, Failed<B>>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::error::Error + 'static,
    W: ClientWatch,
{
    let Attempt { lease, target, fresh, dispatch, history } = attempt;
    context.accounting.attempt(&lease.instance().id);
    let translation = match translate(dispatch, &target, &upload).await {
        Ok(translation) => translation,
        Err(error) => return Err((error.into(), upload)),
    };
    let plan = Plan::new(dispatch.job.inference(), &dispatch.route, target, translation);
    // On a connection that was used before, a request can be lost whose engine closes it, and it
    // cannot be told whether the engine has read it. So what must not be sent twice gets a new one.
    let fresh = fresh || !dispatch.job.is_retryable() && !context.method().is_safe();
    let connection = match connect(context, lease.instance(), fresh, &upload).await {
        Ok(connection) => connection,
        Err(failure) => return Err((failure, upload)),
    };
    let head = engine_head::for_engine(context, lease.instance(), dispatch, &plan);
    let changes = Changes {
        rename: plan.rename(),
        ask_usage: plan.asks_usage(),
        substitute: plan.substitute().cloned(),
    };
    let slot = Slot::new(lease, &context.worker().lingering);
    let upgrade = dispatch.job.is_websocket();
    let mut exchange = begin(context, connection, slot, head, changes, upload, upgrade);
    let head = match response_head(context, &mut exchange).await {
        Ok(head) => head,
        Err(failure) => return Err((failure, exchange.into_upload())),
    };
    let (status, upload) = (head.status.as_u16(), exchange.upload());
    if history.may_fall_back(dispatch, status, upload.is_replayable()) {
        return Err((Failure::FallbackStatus(status), exchange.into_upload_after_response()));
    }
    if head.status == StatusCode::SWITCHING_PROTOCOLS {
        return upgraded(head, exchange);
    }
    let is_event_stream = headers::is_event_stream(&head.headers);
    let transform = transform(context, plan, &head, is_event_stream, dispatch, exchange.upload());
    let relay = Relay::new(exchange, transform, context.worker().pool.clone());
    let mut committed = Box::new(Committed { head, is_event_stream, relay, first: None });
    prepare(context, dispatch, &mut committed);
    match commit(context, &mut committed).await {
        Ok(()) => Ok(Outcome::Response(committed)),
        Err(failure) => Err((failure, committed.relay.into_upload())),
    }
}

/// Tells the relay what is looked for in the response, and put into it.
fn prepare<B, W>(context: &RequestContext<W>, dispatch: &Dispatch, committed: &mut Committed<B>)
where
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
    let interval = context.shared().config.response_extras.sse_keep_alive;
    committed.relay.set_keep_alive(interval);
}

/// The translation of a request whose target gets another body in its place.
async fn translate<B>(
    dispatch: &Dispatch,
    target: &Arc<Target>,
    upload: &Upload<B>,
) -> Result<Option<Translation>, ApiError>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::error::Error + 'static,
{
    let inference = dispatch.job.inference();
    let Some(inference) = inference.filter(|inference| plan::is_translated(*inference, target))
    else {
        return Ok(None);
    };
    let body = upload.gather();
    if body.len() <= TRANSLATED_HERE {
        return plan::translate(inference, &dispatch.route, target, &body).map(Some);
    }
    let (route, target) = (Arc::clone(&dispatch.route), Arc::clone(target));
    let translating = move || plan::translate(inference, &route, &target, &body);
    let translated = tokio::task::spawn_blocking(translating).await;
    translated.map_err(|_| rejections::translation_failed())?.map(Some)
}

/// A pooled connection, or a new one.
pub(crate) async fn connect<B, W>(
    context: &mut RequestContext<W>,
    instance: &Instance,
    fresh: bool,
    upload: &Upload<B>,
) -> Result<Connection, Failure>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::error::Error + 'static,
    W: ClientWatch,
{
    // A connection that the engine may be closing is nothing for a body that cannot be sent again.
    let may_be_stale = !fresh && upload.will_be_replayable();
    let pooled = may_be_stale.then(|| context.worker().pool.take(instance)).flatten();
    let connection = if let Some(connection) = pooled {
        connection
    } else {
        let opening = Connection::open(instance, context.shared().config.timeouts.connect);
        let opened = opening.await.map_err(Failure::Connect)?;
        debug!(instance = &*instance.id, "connection opened");
        opened
    };
    context.accounting.timeline.connected();
    Ok(connection)
}

/// Begins to send a request with this head on this connection.
pub(crate) fn begin<B, W>(
    context: &RequestContext<W>,
    connection: Connection,
    slot: Slot,
    head: BytesMut,
    changes: Changes<'_>,
    mut upload: Box<Upload<B>>,
    upgrade: bool,
) -> Box<Exchange<B>>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::error::Error + 'static,
    W: ClientWatch,
{
    let method = context.method();
    let framing = Framing::of(method, upload.start_attempt(changes));
    let request = RequestHead { head, framing, expected: Expected::of(method, upgrade) };
    Exchange::new(connection, slot, upload, request, context.shared().config.timeouts)
}

/// Waits for the head of the response, while the request is sent.
pub(crate) async fn response_head<B, W>(
    context: &mut RequestContext<W>,
    exchange: &mut Exchange<B>,
) -> Result<ResponseHead, Failure>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::error::Error + 'static,
    W: ClientWatch,
{
    let head = poll_fn(|polled| {
        let head = exchange.poll_head(polled);
        context.watch().set_body_read(exchange.upload().is_whole());
        head
    })
    .await;
    context.accounting.set_bytes_in(exchange.upload().received());
    head
}

fn upgraded<B>(head: ResponseHead, exchange: Box<Exchange<B>>) -> Result<Outcome<B>, Failed<B>>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::error::Error + 'static,
{
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

/// What is done to the response on its way.
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
    let shared = context.shared();
    if dispatch.job.inference().is_some() && plan::is_encoded(head) {
        shared.metrics.encoded_answers.fetch_add(1, Ordering::Relaxed);
        return Transform::IDENTITY;
    }
    let requester = Requester {
        route: &dispatch.route,
        dialect: context.endpoint().dialect,
        request_id: context.accounting.request_id(),
        asked_usage: upload.asks_usage(),
        usage_timings: shared.config.response_extras.usage_timings,
    };
    plan.transform(head, is_event_stream, &requester)
}

/// Waits for the first byte for the client.
pub(crate) async fn commit<B, W>(
    context: &mut RequestContext<W>,
    committed: &mut Committed<B>,
) -> Result<(), Failure>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::error::Error + 'static,
    W: ClientWatch,
{
    let (timeline, relay) = (&mut context.accounting.timeline, &mut committed.relay);
    let first = poll_fn(|polled| relay.poll_piece(polled, timeline)).await.transpose();
    timeline.committed();
    committed.first = first?;
    debug!(status = committed.head.status.as_u16(), "committed");
    Ok(())
}
