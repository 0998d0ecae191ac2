//! The heads of answers: an engine's as it passes on, and ours.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use http_body::Body;

use crate::{
    client::{
        io::ClientWatch,
        tunnel::{Ended, Tunnel},
    },
    failure::Failure,
    request::{
        accounting::Ticket,
        attempts::{Committed, Outcome, Upgraded},
        context::{Answer, CONTROL_PLANE, Inbound},
        rejections,
        relay::{AnswerBody, BrokenOff, RelayedBody},
        server_timing::Moments,
    },
};
use sans_io::{
    api::error::{ApiError, Cause, Dialect},
    codec::headers,
    seam::documents::End,
};

impl<W: ClientWatch + Clone> Inbound<W> {
    /// What the client gets.
    pub(crate) fn respond<B>(self: Box<Self>, outcome: Result<Outcome<B>, Failure>) -> Answer<B, W>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: std::error::Error + 'static,
    {
        self.watch.leave_unread(!self.body_whole.get());
        match outcome {
            Ok(Outcome::Answer(committed)) => Ok(self.pass_on(*committed)),
            Ok(Outcome::Upgraded(upgraded)) => Ok(self.open_tunnel(*upgraded)),
            Err(failure) => match rejections::rejection(failure) {
                None => Err(BrokenOff),
                Some((error, end)) => Ok(self.refused(&error, end)),
            },
        }
    }

    #[expect(clippy::boxed_local, reason = "it is in a box already, and would be copied out of it")]
    fn refused<B>(self: Box<Self>, error: &ApiError, end: End) -> Response<AnswerBody<B, W>> {
        let moments = self.worker.shared.telling.server_timing.then_some(self.moments);
        refusal(self.ticket, self.row.dialect, error, end, &self.watch, moments)
    }

    fn pass_on<B>(mut self: Box<Self>, committed: Committed<B>) -> Response<AnswerBody<B, W>>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: std::error::Error + 'static,
    {
        let dialect = self.row.dialect;
        let Committed { head, relay, first, body_whole } = committed;
        if let Some(error) = rejections::credential_fault(&head, self.row) {
            return self.refused(&error, End::EngineError);
        }
        let mut headers = head.headers;
        headers::drop_engine_address(&mut headers, &relay.instance().host);
        headers::put_request_id(&mut headers, self.ticket.request_id());
        if let Some(length) = head.content_length.filter(|_| self.parts.method == Method::HEAD) {
            headers.insert(header::CONTENT_LENGTH, length.into());
        }
        let stream = headers::is_event_stream(&headers);
        if stream {
            headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-cache"));
            headers.entry("x-accel-buffering").or_insert(HeaderValue::from_static("no"));
        }
        if relay.makes_anew() {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        self.ticket.answered(head.status.as_u16(), stream);
        let ours = self.row.path == CONTROL_PLANE;
        let telling = &self.worker.shared.telling;
        if telling.server_timing {
            put_server_timing(&mut headers, &self.moments);
        }
        let is_error = head.status.is_client_error() || head.status.is_server_error();
        if is_error && first.is_none() && self.parts.method != Method::HEAD && !ours {
            return fill_error(self.ticket, dialect, head.status, headers);
        }
        let comment =
            (stream && !ours && telling.server_timing_in_streams).then(|| self.moments.comment());
        let watch = (self.watch, body_whole);
        let body = RelayedBody::new(relay, first, self.ticket, watch, dialect, comment);
        let mut response = Response::new(AnswerBody::Relayed(Box::new(body)));
        *response.status_mut() = head.status;
        *response.headers_mut() = headers;
        response
    }

    #[expect(clippy::boxed_local, reason = "it is in a box already, and would be copied out of it")]
    fn open_tunnel<B>(mut self: Box<Self>, upgraded: Upgraded) -> Response<AnswerBody<B, W>> {
        let Upgraded { head, mut connection, slot } = upgraded;
        let mut headers = head.headers;
        headers::put_request_id(&mut headers, self.ticket.request_id());
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        self.ticket.answered(StatusCode::SWITCHING_PROTOCOLS.as_u16(), false);
        let mut ticket = self.ticket;
        // The end of a tunnel is in its own bytes: what is still unsent must not be thrown away by
        // a reset.
        connection.unfinished = false;
        let from_engine = connection.buffer.split().freeze();
        let tunnel = Tunnel::new(connection, from_engine, move |ended: Ended| {
            ticket.bytes_in(ended.bytes_in);
            ticket.bytes_out(usize::try_from(ended.bytes_out).unwrap_or(usize::MAX));
            ticket.end(ended.end);
            drop(slot);
        });
        let opened = self.watch.tunnel(tunnel);
        debug_assert!(opened, "only HTTP/1.1 clients are let through to here");
        let mut response = Response::new(AnswerBody::Full(Bytes::new()));
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        *response.headers_mut() = headers;
        response
    }
}

fn put_server_timing(headers: &mut HeaderMap, moments: &Moments) {
    if let Some(value) = moments.header() {
        headers.append("server-timing", value);
    }
}

/// An engine's error without a word gets ours: no client gets an empty body.
fn fill_error<B, W>(
    mut ticket: Ticket,
    dialect: Dialect,
    status: StatusCode,
    mut headers: HeaderMap,
) -> Response<AnswerBody<B, W>> {
    let cause = if status.is_server_error() { Cause::BadGateway } else { Cause::BadRequest };
    let error = ApiError::new(
        cause,
        format!("The engine answered with status {} and no explanation.", status.as_u16()),
    );
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.remove(header::CONTENT_ENCODING);
    ticket.end(End::Done);
    let mut response = Response::new(AnswerBody::Full(error.body(dialect, ticket.request_id())));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

/// An answer of ours that is no success.
pub(crate) fn refuse<B, W: ClientWatch>(
    ticket: Ticket,
    dialect: Dialect,
    error: &ApiError,
    watch: &W,
) -> Response<AnswerBody<B, W>> {
    let moments = ticket.shared().telling.server_timing.then(|| Moments::new(ticket.began()));
    refusal(ticket, dialect, error, End::Refused, watch, moments)
}

fn refusal<B, W: ClientWatch>(
    ticket: Ticket,
    dialect: Dialect,
    error: &ApiError,
    end: End,
    watch: &W,
    moments: Option<Moments>,
) -> Response<AnswerBody<B, W>> {
    let id = Arc::clone(ticket.request_id());
    let mut response = Response::new(AnswerBody::Full(error.body(dialect, &id)));
    *response.status_mut() =
        StatusCode::from_u16(error.cause.status()).unwrap_or(StatusCode::BAD_GATEWAY);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers::put_request_id(headers, &id);
    if let Some(moments) = moments {
        put_server_timing(headers, &moments);
    }
    if error.cause == Cause::Unauthorized {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    if let Some(seconds) = error.retry_after {
        headers.insert(header::RETRY_AFTER, seconds.into());
    }
    if error.do_not_retry {
        headers.insert("x-should-retry", HeaderValue::from_static("false"));
    }
    if let Some(allow) = error.allow {
        headers.insert(header::ALLOW, HeaderValue::from_static(allow));
    }
    if error.close {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        watch.close_after_answer();
    }
    ticket.refused(error.cause.status(), end);
    response
}

/// An answer of the data plane's own.
pub(crate) fn finish_local<B, W>(
    mut ticket: Ticket,
    local: Response<Bytes>,
) -> Response<AnswerBody<B, W>> {
    let (mut parts, body) = local.into_parts();
    headers::put_request_id(&mut parts.headers, ticket.request_id());
    if ticket.shared().telling.server_timing {
        put_server_timing(&mut parts.headers, &Moments::new(ticket.began()));
    }
    ticket.answered(parts.status.as_u16(), false);
    ticket.bytes_out(body.len());
    ticket.end(End::Done);
    Response::from_parts(parts, AnswerBody::Full(body))
}
