//! Builds response heads (relayed ones, and those of local responses and errors), and opens the
//! tunnels behind a 101.

use std::sync::Arc;

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header, request::Parts,
};
use http_body::Body;
use tracing::{debug, warn};

use crate::{
    client::{
        io::ClientWatch,
        tunnel::{Ended, Tunnel},
    },
    failure::Failure,
    request::{
        accounting::Accounting,
        attempt::{Outcome, StartedResponse, Upgraded},
        body::{ResponseBody, ResponseResult, Truncated},
        context::RequestContext,
        rejections,
        relay::Relay,
        relayed_body::RelayedBody,
    },
};
use sans_io::{
    api::{
        endpoints::{Endpoint, Kind},
        error::{ApiError, Cause, Dialect},
    },
    codec::{headers, http1::ResponseHead},
    seam::End,
};

/// The content type of bodies that are made here.
const JSON: &str = "application/json";
const EVENT_STREAM: &str = "text/event-stream; charset=utf-8";
const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");
const X_SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");
/// Browsers take a body for what its content type says, and no page of an engine's for HTML.
const NO_SNIFF: HeaderValue = HeaderValue::from_static("nosniff");
/// No cache keeps the response.
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

/// The response for the client: an engine's, a WebSocket, or an error. Fails only where the client
/// has left.
pub(crate) fn respond<B, W>(
    mut context: Box<RequestContext<W>>,
    outcome: Result<Outcome<B>, Failure>,
) -> ResponseResult<B, W>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::error::Error + 'static,
    W: ClientWatch,
{
    match outcome {
        Ok(Outcome::Response(committed)) => Ok(relayed(context, *committed)),
        Ok(Outcome::Upgraded(upgraded)) => Ok(tunnel(context, *upgraded)),
        Err(failed_by) => {
            context.accounting.timeline.failed();
            let (error, end) = failure(failed_by, &context.accounting).ok_or(Truncated)?;
            Ok(failed(context, &error, end))
        }
    }
}

/// The client's error for a failure, which is logged, and the end of the record. None: the client has
/// left.
pub(crate) fn failure(failure: Failure, accounting: &Accounting) -> Option<(ApiError, End)> {
    let reason = log_unless_suffered(&failure, accounting);
    let (error, end) = rejections::rejection(failure)?;
    if let Some(reason) = reason {
        log_suffered(&reason, error.cause, accounting);
    }
    Some((error, end))
}

/// Logs a failed request at debug, if its client or a drain (which has its own line) is to blame.
/// Else the failure in words, for [`log_suffered`].
fn log_unless_suffered(failure: &Failure, accounting: &Accounting) -> Option<String> {
    let is_clients = match failure {
        Failure::ClientLeft | Failure::BodyTimeout | Failure::KeyRevoked | Failure::Drained => true,
        Failure::Rejected(error) => error.cause.status() < 500,
        _ => false,
    };
    if is_clients {
        accounting.span().in_scope(|| debug!(reason = %failure, "request failed"));
        return None;
    }
    Some(failure.to_string())
}

/// Logs a request that failed by no fault of its client: at warn where a line is due, since a client
/// may send any number of such requests; else at debug.
fn log_suffered(reason: &str, cause: Cause, accounting: &Accounting) {
    let code = cause.code();
    if let Some(since_last_line) = accounting.shared().turns.failed(cause).turn() {
        let request_id = &**accounting.request_id();
        warn!(request_id, code, reason, since_last_line, "request failed");
    } else {
        accounting.span().in_scope(|| debug!(code, reason, "request failed"));
    }
}

/// Logs that an engine rejects this server's own credential: as it does for each request, at warn
/// once in a while, else at debug.
pub(crate) fn log_credential(accounting: &Accounting, instance: &str) {
    const WHAT: &str = "the engine rejected this server's own credential";
    if let Some(since_last_line) = accounting.shared().turns.credential.turn() {
        let request_id = &**accounting.request_id();
        warn!(request_id, instance, since_last_line, "{WHAT}");
    } else {
        accounting.span().in_scope(|| debug!(instance, "{WHAT}"));
    }
}

/// The response to a request that failed.
fn failed<B, W: ClientWatch>(
    context: Box<RequestContext<W>>,
    error: &ApiError,
    end: End,
) -> Response<ResponseBody<B, W>> {
    let dialect = context.endpoint().dialect;
    let (accounting, watch) = context.into_accounting();
    rejection(accounting, dialect, error, end, &watch)
}

/// An engine's response, or the management API's.
fn relayed<B, W>(
    mut context: Box<RequestContext<W>>,
    committed: StartedResponse<B>,
) -> Response<ResponseBody<B, W>>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::error::Error + 'static,
    W: ClientWatch,
{
    let StartedResponse { head, is_event_stream, relay, first } = committed;
    if let Some(error) = rejections::credential_rejected(&head, context.endpoint()) {
        log_credential(&context.accounting, &relay.instance().id);
        return failed(context, &error, End::EngineError);
    }
    context.accounting.respond(head.status.as_u16(), is_event_stream);
    let status = head.status;
    let headers = relayed_headers(&context, head, &relay, is_event_stream);
    let is_error = status.is_client_error() || status.is_server_error();
    let may_have_body = *context.method() != Method::HEAD;
    if is_error && first.is_none() && may_have_body && !context.is_management() {
        let dialect = context.endpoint().dialect;
        return explained_error(context.into_accounting().0, dialect, status, headers);
    }
    let body = relayed_body(context, relay, first, is_event_stream);
    response(status, headers, ResponseBody::Relayed(body))
}

/// The body of an engine's stream whose head has gone before.
pub(crate) fn stream<B, W>(
    mut context: Box<RequestContext<W>>,
    started: StartedResponse<B>,
) -> Box<RelayedBody<B, W>>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::error::Error + 'static,
    W: ClientWatch,
{
    let StartedResponse { head, is_event_stream, relay, first } = started;
    context.accounting.respond(head.status.as_u16(), is_event_stream);
    relayed_body(context, relay, first, is_event_stream)
}

/// The body of an engine's response. `first`: its first piece; None: it is empty.
#[inline]
fn relayed_body<B, W>(
    context: Box<RequestContext<W>>,
    relay: Relay<B>,
    first: Option<Bytes>,
    is_event_stream: bool,
) -> Box<RelayedBody<B, W>>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::error::Error + 'static,
    W: ClientWatch,
{
    let (dialect, management) = (context.endpoint().dialect, context.is_management());
    let key = context.key_watch();
    let (accounting, watch) = context.into_accounting();
    let has_timing = accounting.extras().server_timing_in_streams;
    let comment =
        (is_event_stream && !management && has_timing).then(|| accounting.timeline.comment());
    Box::new(RelayedBody::new(relay, first, accounting, (watch, key), dialect, comment))
}

/// The response to a request for a stream to which no engine has responded yet.
pub(crate) fn early_head<B, W>(
    request_id: &Arc<str>,
    body: ResponseBody<B, W>,
) -> Response<ResponseBody<B, W>> {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(EVENT_STREAM));
    headers::put_request_id(&mut headers, request_id);
    put_stream_fields(&mut headers);
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, NO_SNIFF);
    response(StatusCode::OK, headers, body)
}

/// So that no cache and no proxy in front of us holds the stream back.
fn put_stream_fields(headers: &mut HeaderMap) {
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-cache"));
    headers.entry(X_ACCEL_BUFFERING).or_insert(HeaderValue::from_static("no"));
}

/// The fields of an engine's response, with our own.
fn relayed_headers<B, W>(
    context: &RequestContext<W>,
    head: ResponseHead,
    relay: &Relay<B>,
    is_event_stream: bool,
) -> HeaderMap
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::error::Error + 'static,
    W: ClientWatch,
{
    let mut headers = head.headers;
    headers::put_request_id(&mut headers, context.accounting.request_id());
    // The server sets the length of a body; a response to HEAD has none to set it by.
    if let Some(length) = head.content_length.filter(|_| *context.method() == Method::HEAD) {
        headers.insert(header::CONTENT_LENGTH, length.into());
    }
    if is_event_stream {
        put_stream_fields(&mut headers);
        // It may be made of a document, or of a stream that was called something else.
        if !headers::is_event_stream(&headers) {
            let event_stream = HeaderValue::from_static(EVENT_STREAM);
            headers.insert(header::CONTENT_TYPE, event_stream);
        }
    }
    if context.is_management() {
        headers.entry(header::CACHE_CONTROL).or_insert(NO_STORE);
    }
    if relay.rewrites_body() {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(JSON));
    }
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, NO_SNIFF);
    put_server_timing(&mut headers, &context.accounting);
    headers
}

/// A 101, behind which client and engine are joined.
fn tunnel<B, W: ClientWatch>(
    mut context: Box<RequestContext<W>>,
    upgraded: Upgraded,
) -> Response<ResponseBody<B, W>> {
    let Upgraded { head, mut connection, slot } = upgraded;
    let mut headers = head.headers;
    headers::put_request_id(&mut headers, context.accounting.request_id());
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    put_protocol(&mut headers, context.parts(), context.endpoint());
    context.accounting.respond(StatusCode::SWITCHING_PROTOCOLS.as_u16(), false);
    let key = context.key_watch();
    let (mut accounting, watch) = context.into_accounting();
    // A WebSocket ends by a frame of its own. A reset would discard one that is still unsent.
    connection.unfinished = false;
    let from_engine = connection.buffer.split().freeze();
    let tunnel = Tunnel::new(connection, from_engine, key, move |ended: Ended| {
        accounting.set_bytes_in(ended.bytes_in);
        accounting.add_bytes_out(usize::try_from(ended.bytes_out).unwrap_or(usize::MAX));
        accounting.end(ended.end);
        drop(slot);
    });
    let opened = watch.tunnel(tunnel);
    debug_assert!(opened, "only HTTP/1.1 clients are let through to here");
    let body = ResponseBody::Full(Bytes::new());
    response(StatusCode::SWITCHING_PROTOCOLS, headers, body)
}

/// Names the subprotocol of a realtime WebSocket, where the client offers it and the engine chose
/// none: vLLM does not, and browsers then close a WebSocket for which they offered some.
fn put_protocol(headers: &mut HeaderMap, request: &Parts, endpoint: &Endpoint) {
    const REALTIME: &str = "realtime";
    if endpoint.kind == Kind::Realtime
        && !headers.contains_key(header::SEC_WEBSOCKET_PROTOCOL)
        && headers::protocols(&request.headers).any(|name| name == REALTIME.as_bytes())
    {
        let chosen = HeaderValue::from_static(REALTIME);
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, chosen);
    }
}

/// An engine's error with an empty body gets one, since SDKs show the body to people.
fn explained_error<B, W>(
    mut accounting: Box<Accounting>,
    dialect: Dialect,
    status: StatusCode,
    mut headers: HeaderMap,
) -> Response<ResponseBody<B, W>> {
    let cause = if status.is_server_error() { Cause::BadGateway } else { Cause::BadRequest };
    let error = ApiError::new(
        cause,
        format!("The engine responded with status {} and no explanation.", status.as_u16()),
    );
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(JSON));
    headers.remove(header::CONTENT_ENCODING);
    accounting.end(End::Done);
    let body = error.body(dialect, accounting.request_id());
    response(status, headers, ResponseBody::Full(body))
}

/// The error of a request whose head breaks a rule, whose path or method leads to no endpoint, or
/// whose endpoint is local.
pub(crate) fn rejected<B, W: ClientWatch>(
    accounting: Box<Accounting>,
    dialect: Dialect,
    error: &ApiError,
    watch: &W,
) -> Response<ResponseBody<B, W>> {
    rejection(accounting, dialect, error, End::Refused, watch)
}

/// A local error, with the fields that belong to it.
fn rejection<B, W: ClientWatch>(
    accounting: Box<Accounting>,
    dialect: Dialect,
    error: &ApiError,
    end: End,
    watch: &W,
) -> Response<ResponseBody<B, W>> {
    let id = Arc::clone(accounting.request_id());
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(JSON));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, NO_SNIFF);
    // Whether there is an error depends on the key.
    headers.insert(header::CACHE_CONTROL, NO_STORE);
    headers::put_request_id(&mut headers, &id);
    put_server_timing(&mut headers, &accounting);
    if error.cause == Cause::Unauthorized {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    if let Some(seconds) = error.retry_after {
        headers.insert(header::RETRY_AFTER, seconds.into());
    }
    if error.do_not_retry {
        headers.insert(X_SHOULD_RETRY, HeaderValue::from_static("false"));
    }
    if let Some(allow) = error.allow {
        headers.insert(header::ALLOW, HeaderValue::from_static(allow));
    }
    if error.close {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        watch.close_after_response();
    }
    accounting.reject(error.cause.status(), end);
    let status = StatusCode::from_u16(error.cause.status()).unwrap_or(StatusCode::BAD_GATEWAY);
    response(status, headers, ResponseBody::Full(error.body(dialect, &id)))
}

/// A successful response of a local endpoint.
pub(crate) fn local<B, W>(
    mut accounting: Box<Accounting>,
    local: Response<Bytes>,
) -> Response<ResponseBody<B, W>> {
    let (mut parts, body) = local.into_parts();
    headers::put_request_id(&mut parts.headers, accounting.request_id());
    parts.headers.insert(header::X_CONTENT_TYPE_OPTIONS, NO_SNIFF);
    put_server_timing(&mut parts.headers, &accounting);
    accounting.respond(parts.status.as_u16(), false);
    accounting.add_bytes_out(body.len());
    accounting.end(End::Done);
    Response::from_parts(parts, ResponseBody::Full(body))
}

/// Adds `Server-Timing`, where it is configured.
fn put_server_timing(headers: &mut HeaderMap, accounting: &Accounting) {
    if accounting.extras().server_timing
        && let Some(value) = accounting.timeline.header()
    {
        headers.append(SERVER_TIMING, value);
    }
}

fn response<B, W>(
    status: StatusCode,
    headers: HeaderMap,
    body: ResponseBody<B, W>,
) -> Response<ResponseBody<B, W>> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}
