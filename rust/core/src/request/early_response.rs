//! Responses to requests for a stream that begin before their engine has responded, where that
//! takes longer than `sse_keep_alive`: the head, comments, and behind them whatever comes of the
//! request. Waiting, retries and fallbacks go on meanwhile.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::{Response, StatusCode};
use http_body::Body;
use serde_json::Value;
use tokio::time::Instant;

use crate::{
    client::io::ClientWatch,
    failure::Failure,
    key_watch::{KeyWatch, Sleepers},
    request::{
        attempt::{Outcome, StartedResponse},
        body::ResponseBody,
        context::RequestContext,
        early_body::{self, EarlyBody},
        early_head::EarlyHead,
        rejections, respond,
    },
    timer::PhaseTimer,
};
use sans_io::{
    api::{
        endpoints::Kind,
        error::{ApiError, Cause, Dialect},
    },
    seam::End,
};

/// The largest body of an engine's error that becomes an event, in bytes.
const ERROR_BODY: usize = 64 * 1024;

/// What came of the work on a request.
pub(crate) enum Done<B, W> {
    /// It was done before a head went.
    InTime(Box<RequestContext<W>>, Result<Outcome<B>, Failure>),
    /// A head had gone.
    Early(early_body::Outcome<B, W>),
}

/// What the head needs of the request.
pub(crate) struct Early {
    head: Rc<EarlyHead>,
    /// The time from the request's head to ours, and then between two comments.
    interval: Duration,
    began: Instant,
    request_id: Arc<str>,
    sleepers: Rc<Sleepers>,
}

/// Prepares for a head that goes before the engine's. None: it never does, since the endpoint has no
/// streams, or `sse_keep_alive` is not set.
pub(crate) fn prepare<W: ClientWatch>(context: &mut RequestContext<W>) -> Option<Early> {
    let interval = context.settings().response_extras.sse_keep_alive?;
    let Kind::Inference(inference) = context.endpoint().kind else { return None };
    inference.operation.may_stream().then(|| {
        let head = Rc::new(EarlyHead::default());
        context.accounting.set_early_head(&head);
        Early {
            head,
            interval,
            began: context.accounting.timeline.began(),
            request_id: Arc::clone(context.accounting.request_id()),
            sleepers: Rc::clone(&context.worker().sleepers),
        }
    })
}

/// What a response begins with.
pub(crate) enum Begun<B, W> {
    /// The outcome of the work.
    InTime(Box<RequestContext<W>>, Result<Outcome<B>, Failure>),
    /// A head before it.
    Early(Response<ResponseBody<B, W>>),
}

/// Waits for the end of `work`; or begins a response before, and goes on with it behind that.
pub(crate) async fn begin<B, W>(
    mut work: Pin<Box<impl Future<Output = Done<B, W>> + 'static>>,
    early: Early,
) -> Begun<B, W>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: std::error::Error + 'static,
    W: ClientWatch + 'static,
{
    let mut timer = PhaseTimer::default();
    let done = poll_fn(|polled| match work.as_mut().poll(polled) {
        Poll::Ready(done) => Poll::Ready(Some(done)),
        Poll::Pending if early.head.may_go() => {
            timer.poll(polled, early.began, Some(early.interval)).map(|()| None)
        }
        Poll::Pending => Poll::Pending,
    })
    .await;
    if let Some(Done::InTime(context, outcome)) = done {
        return Begun::InTime(context, outcome);
    }
    early.head.go(early.began.elapsed());
    let rest = async move {
        match work.await {
            Done::Early(outcome) => outcome,
            // It was polled, and was not done, before the head went.
            Done::InTime(..) => early_body::Outcome::Left,
        }
    };
    let Early { head, interval, request_id, sleepers, .. } = early;
    let key = KeyWatch::new(head.key(), &sleepers);
    let body = EarlyBody::new(Box::pin(rest), head, interval, key);
    Begun::Early(respond::early_head(&request_id, ResponseBody::Early(Box::new(body))))
}

/// What comes of a request: the same as without an early head, or what follows that.
pub(crate) async fn finish<B, W>(
    context: Box<RequestContext<W>>,
    outcome: Result<Outcome<B>, Failure>,
) -> Done<B, W>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::error::Error + 'static,
    W: ClientWatch,
{
    if context.accounting.early_head().is_none_or(|head| head.gone().is_none()) {
        return Done::InTime(context, outcome);
    }
    Done::Early(match outcome {
        Ok(Outcome::Response(started)) if is_stream(&context, &started) => {
            early_body::Outcome::Stream(respond::stream(context, *started))
        }
        Ok(Outcome::Response(started)) => refused(context, *started).await,
        // Only asked for over endpoints that have no streams.
        Ok(Outcome::Upgraded(_)) => early_body::Outcome::Left,
        Err(failure) => failed(context, failure),
    })
}

fn is_stream<B, W: ClientWatch>(context: &RequestContext<W>, started: &StartedResponse<B>) -> bool {
    started.is_event_stream
        && started.head.status.is_success()
        && rejections::credential_rejected(&started.head, context.endpoint()).is_none()
}

/// The end of a request that has failed.
fn failed<B, W: ClientWatch>(
    mut context: Box<RequestContext<W>>,
    failure: Failure,
) -> early_body::Outcome<B, W> {
    context.accounting.timeline.failed();
    match respond::failure(failure, &context.accounting) {
        Some((error, end)) => early_body::Outcome::Failed(event(context, &error, end)),
        None => early_body::Outcome::Left,
    }
}

/// The end of a request to which an engine has responded with something else than a stream.
async fn refused<B, W>(
    context: Box<RequestContext<W>>,
    started: StartedResponse<B>,
) -> early_body::Outcome<B, W>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::error::Error + 'static,
    W: ClientWatch,
{
    if let Some(error) = rejections::credential_rejected(&started.head, context.endpoint()) {
        respond::log_credential(&context.accounting, &started.relay.instance().id);
        return early_body::Outcome::Failed(event(context, &error, End::EngineError));
    }
    let status = started.head.status;
    let mut context = context;
    let Some(body) = error_body(&mut context, started).await else {
        return early_body::Outcome::Left;
    };
    let dialect = context.endpoint().dialect;
    let told = body.and_then(|body| told_by_engine(dialect, status, &body));
    early_body::Outcome::Failed(match told {
        Some(event) => {
            end(context, &event, End::Done);
            event
        }
        None => event(context, &unexplained(status), End::EngineError),
    })
}

/// The body of a response that is no stream. None: the client has left. None inside: it is longer
/// than an error is, or does not come whole.
async fn error_body<B, W>(
    context: &mut RequestContext<W>,
    mut started: StartedResponse<B>,
) -> Option<Option<Bytes>>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::error::Error + 'static,
    W: ClientWatch,
{
    let mut body = BytesMut::from(started.first.unwrap_or_default().as_ref());
    while body.len() <= ERROR_BODY {
        let piece = poll_fn(|polled| {
            let piece = started.relay.poll_piece(polled, &mut context.accounting.timeline);
            if piece.is_pending() && context.watch().poll_left(polled).is_ready() {
                return Poll::Ready(None);
            }
            piece.map(Some)
        })
        .await?;
        match piece {
            Some(Ok(piece)) => body.extend_from_slice(&piece),
            Some(Err(_)) => return Some(None),
            None => return Some(Some(body.freeze())),
        }
    }
    started.relay.abort();
    Some(None)
}

/// An engine's error as an event, where its body has the shape of the dialect.
fn told_by_engine(dialect: Dialect, status: StatusCode, body: &[u8]) -> Option<Bytes> {
    let document: Value = serde_json::from_slice(body).ok()?;
    let is_error = status.is_client_error() || status.is_server_error();
    let has_shape = document.get("error").is_some_and(Value::is_object);
    // A line break would end the event.
    let one_line = || document.to_string().into_bytes();
    let body = if body.contains(&b'\n') { one_line() } else { body.to_vec() };
    (is_error && has_shape).then(|| dialect.error_event(&body))
}

/// The error for an engine's response that is no stream and explains nothing.
fn unexplained(status: StatusCode) -> ApiError {
    let status = status.as_u16();
    let message = format!(
        "The engine responded with status {status} and no stream, which this request asks for. \
         Check that the model's engine does what this endpoint asks."
    );
    ApiError::new(Cause::BadGateway, message)
}

/// Ends a request with an error behind its head. The event that says so.
fn event<W: ClientWatch>(context: Box<RequestContext<W>>, error: &ApiError, how: End) -> Bytes {
    let dialect = context.endpoint().dialect;
    let event = error.event(dialect, context.accounting.request_id());
    end(context, &event, how);
    event
}

/// Ends a request with this event as its last one.
fn end<W: ClientWatch>(context: Box<RequestContext<W>>, event: &Bytes, how: End) {
    let (mut accounting, watch) = context.into_accounting();
    accounting.add_bytes_out(event.len());
    accounting.end(how);
    watch.close_after_response();
}
