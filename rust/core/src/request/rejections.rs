//! What a client is told where an engine, the way to it or this server fails, and where something
//! that was named is not there: the text of each such error. (`respond` has the one for an engine's
//! error without a text.) A rule that a request breaks is worded where it is checked: `head`,
//! `admission`, `browser`, `resolve`, `upstream::intake` and `scan`.

use std::io;

use http::Method;

use crate::failure::{self, Failure};
use sans_io::{
    api::{
        endpoints::{Endpoint, Kind},
        error::{ApiError, Cause},
    },
    codec::http1::{ResponseHead, WireError},
    seam::End,
};

/// The `Retry-After` of errors that pass by themselves, in seconds,
const RETRY_AFTER: u32 = 2;
/// and of those that pass when a model has woken, which may take minutes.
const WAKE_RETRY_AFTER: u32 = 10;

/// The error for a request that failed before the commit point, and the end of its record. None:
/// the client has left.
pub(crate) fn rejection(failure: Failure) -> Option<(ApiError, End)> {
    let bad_gateway = |message: String| ApiError::new(Cause::BadGateway, message);
    Some(match failure {
        Failure::ClientLeft => return None,
        Failure::Rejected(error) => (error, End::Refused),
        Failure::BodyTimeout
        | Failure::BodyTooSlow { .. }
        | Failure::ConnectTimeout
        | Failure::FirstFrameTimeout
        | Failure::IdleTimeout => (timed_out(&failure), End::Timeout),
        Failure::Spool(error) => (not_spooled(&error), End::Refused),
        Failure::SpoolFull => (spool_full(), End::Refused),
        Failure::NoRoom => (no_room(), End::Refused),
        Failure::MachineExhausted(error) => (machine_exhausted(&error), End::Refused),
        Failure::Protocol(error @ WireError::Handshake(_)) => {
            let message = format!(
                "The engine's response opens no WebSocket: {error}. Check the model's engine, and \
                 what stands between it and this server."
            );
            (bad_gateway(message), End::EngineError)
        }
        Failure::Protocol(error) => {
            let message = format!("The engine's response breaks HTTP: {error}.");
            (bad_gateway(message), End::EngineError)
        }
        Failure::Unusable(error) => {
            let error = error.to_string();
            let message = format!(
                "The engine's response cannot be relayed: {}. Check that the model's \
                 engine does what this endpoint asks.",
                error.trim_end_matches('.')
            );
            (bad_gateway(message), End::EngineError)
        }
        Failure::FallbackStatus(status) => (fallback_taken(status), End::EngineError),
        Failure::KeyRevoked => (key_revoked(), End::Refused),
        Failure::Drained => (drained(), End::Drained),
        Failure::LostTooOften => (lost_too_often(), End::EngineDied),
        Failure::Connect(_) | Failure::StaleConnection | Failure::ConnectionLost(_) => {
            let message =
                "The engine ended before it responded to this request. Send the request again.";
            (ApiError::new(Cause::BadGateway, message), End::EngineDied)
        }
    })
}

/// 503: the system does not let the body be written to a file.
fn not_spooled(error: &io::Error) -> ApiError {
    let message = format!(
        "The request body is too large for memory and could not be buffered in a file: {}. The \
         operator must check the room and the rights of the data directory.",
        failure::system_reason(error)
    );
    ApiError::new(Cause::OutOfResources, message).closing()
}

/// 503: this machine has no descriptor or no port for a connection to an engine.
fn machine_exhausted(error: &io::Error) -> ApiError {
    let message = format!(
        "This server has no room for another connection: {error}. Try again in a few seconds; if \
         it stays so, the operator must raise the limits of open files or ports."
    );
    ApiError::new(Cause::OutOfResources, message).retry_after(RETRY_AFTER)
}

/// 503: the drain's limit has passed, or a second signal has ended it.
fn drained() -> ApiError {
    let message = "This server is stopping, and did not wait for this response: its limit for \
        running requests (drain_timeout) has passed, or it was told to stop at once. Send the \
        request again.";
    ApiError::new(Cause::Stopping, message).retry_after(RETRY_AFTER).closing()
}

/// 502: an engine's error, for which there was a fallback a moment ago.
fn fallback_taken(status: u16) -> ApiError {
    let message = format!(
        "An engine answered with status {status}, for which this route has a fallback, and the \
         fallback was taken by others in the same moment. Send the request again."
    );
    ApiError::new(Cause::BadGateway, message)
}

/// 401: the key was good when the request came.
fn key_revoked() -> ApiError {
    let message = "The API key of this request was revoked before its response began. Send the \
        request again with another key.";
    ApiError::new(Cause::Unauthorized, message).closing()
}

/// 502: a third engine might end by this request, too.
fn lost_too_often() -> ApiError {
    let message = "The connection to an engine was lost twice while it worked on this request, so \
        it is not sent again. Check the engines' logs before you send it again.";
    let mut error = ApiError::new(Cause::BadGateway, message);
    error.do_not_retry = true;
    error
}

/// 503: the files of all requests hold as much as they may.
fn spool_full() -> ApiError {
    let message = "This server holds as many bytes of large request bodies in files as it may \
        (limits.spool_bytes; without an API key an eighth of that). Try again in a few seconds, or \
        write \"model\" as the first field of the body, so that it need not wait in a file.";
    ApiError::new(Cause::ServerOverloaded, message).retry_after(RETRY_AFTER).closing()
}

/// 503: all requests together hold as much memory as they may.
fn no_room() -> ApiError {
    let message = "This server holds as many bytes of requests and responses in memory as it may \
        (limits.total_memory_bytes; without an API key an eighth of that). Try again in a few \
        seconds.";
    ApiError::new(Cause::ServerOverloaded, message).retry_after(RETRY_AFTER).closing()
}

/// The error for a phase that stood still for longer than its limit.
fn timed_out(failure: &Failure) -> ApiError {
    let gateway_timeout = |message: &str| ApiError::new(Cause::GatewayTimeout, message);
    match failure {
        Failure::BodyTimeout => {
            let message = "The request body stopped arriving (the body timeout has passed). Send \
                the request again.";
            ApiError::new(Cause::RequestTimeout, message).closing()
        }
        Failure::BodyTooSlow { rate } => {
            let message = format!(
                "The request body arrived at less than {rate} bytes a second (limits.body_rate). \
                 Send the request again over a faster connection."
            );
            ApiError::new(Cause::RequestTimeout, message).closing()
        }
        Failure::ConnectTimeout => gateway_timeout(
            "No engine could be connected to in time (the connect timeout has passed). Try again \
             in a few seconds.",
        )
        .retry_after(RETRY_AFTER),
        Failure::IdleTimeout => gateway_timeout(
            "The engine stopped sending before its first frame was whole (the idle timeout has \
             passed). Try again later or raise the timeout.",
        ),
        _ => gateway_timeout(
            "The engine sent no first frame in time (the first-frame timeout has passed). Try \
             again later or raise the timeout.",
        ),
    }
}

/// The error for a response that is truncated behind the commit point, and the end of its record.
pub(crate) fn truncated(failure: &Failure) -> (ApiError, End) {
    const REST: &str = "The response is incomplete; send the request again.";
    if let Failure::KeyRevoked = failure {
        let message = "The API key of this request was revoked in the middle of this response, \
            which is incomplete. Send the request again with another key.";
        return (ApiError::new(Cause::Unauthorized, message), End::Refused);
    }
    let (cause, what, end) = match failure {
        Failure::Drained => (
            Cause::Stopping,
            "This server is stopping, and waits no longer for this response: its limit for running \
             requests (drain_timeout) has passed, or it was told to stop at once."
                .to_owned(),
            End::Drained,
        ),
        Failure::IdleTimeout => (
            Cause::GatewayTimeout,
            "The engine stopped sending in the middle of this response (the idle timeout has \
             passed)."
                .to_owned(),
            End::Timeout,
        ),
        // A comment of ours has kept the stream alive until then.
        Failure::FirstFrameTimeout => (
            Cause::GatewayTimeout,
            "The engine sent no first frame in time (the first-frame timeout has passed)."
                .to_owned(),
            End::Timeout,
        ),
        Failure::NoRoom => (
            Cause::ServerOverloaded,
            "This server holds as many bytes of requests and responses in memory as it may \
             (limits.total_memory_bytes)."
                .to_owned(),
            End::Refused,
        ),
        Failure::Protocol(error) => (
            Cause::BadGateway,
            format!("The engine's response breaks HTTP: {error}."),
            End::EngineError,
        ),
        Failure::Unusable(error) => (
            Cause::BadGateway,
            format!("The engine's response cannot be relayed: {error}."),
            End::EngineError,
        ),
        _ => (
            Cause::BadGateway,
            "The engine ended, or was ended, in the middle of this response.".to_owned(),
            End::EngineDied,
        ),
    };
    (ApiError::new(cause, format!("{what} {REST}")), end)
}

/// The error in place of an engine's 401 or 403, which is about our credential at the engine.
/// Passed on, it would make the client distrust its own key, which is fine.
pub(crate) fn credential_rejected(head: &ResponseHead, endpoint: &Endpoint) -> Option<ApiError> {
    is_credential(head.status.as_u16(), endpoint).then(|| {
        let message = format!(
            "The engine rejected this server's own credential (status {}). The operator must give \
             this server the engine's key.",
            head.status.as_u16()
        );
        ApiError::new(Cause::BadGateway, message)
    })
}

/// Whether an engine's response of this status rejects this server's own credential.
pub(crate) fn is_credential(status: u16, endpoint: &Endpoint) -> bool {
    let ours = matches!(endpoint.kind, Kind::Inference(_) | Kind::StoredResponse | Kind::Realtime);
    match status {
        401 => ours || endpoint.kind == Kind::GenericProxy,
        // vLLM also says 403 to a WebSocket on a path that it does not have.
        403 => ours && endpoint.kind != Kind::Realtime,
        _ => false,
    }
}

/// 503: no instance of this route can take a request now.
pub(crate) fn unavailable(route: &str) -> ApiError {
    let message = format!(
        "No running instances available for model {route}: its engines are starting, have failed, \
         are drained, or cannot be reached. Try again in a few seconds; GET /v2/models shows the reason."
    );
    ApiError::new(Cause::NoRunningInstance, message).retry_after(RETRY_AFTER)
}

/// 503: the model sleeps, and as many requests wait for it as may.
pub(crate) fn wake_queue_full(route: &str) -> ApiError {
    let message = format!(
        "Model {route} is not running, and as many requests as the operator allows wait for its \
         start (wake_queue). Try again in a few seconds."
    );
    ApiError::new(Cause::NoRunningInstance, message).retry_after(WAKE_RETRY_AFTER)
}

/// 503: the model did not wake while the request waited for it.
pub(crate) fn not_awake_in_time(route: &str) -> ApiError {
    let message = format!(
        "Model {route} is not running, and did not start in time for this request (wake_timeout). \
         Try again in a few seconds; GET /v2/models shows its state."
    );
    ApiError::new(Cause::NoRunningInstance, message).retry_after(WAKE_RETRY_AFTER)
}

/// 503: the model does not run, and nobody will wake it any more.
pub(crate) fn stops_without_engine(route: &str) -> ApiError {
    let message = format!(
        "Model {route} is not running, and this server, which is stopping, starts it no more. Send \
         the request again."
    );
    ApiError::new(Cause::Stopping, message).retry_after(RETRY_AFTER).closing()
}

/// 503: all running instances of this route have as many requests as they are given.
pub(crate) fn overloaded(route: &str) -> ApiError {
    let message = format!(
        "All engines of model {route} are busy: each works on as many requests as the operator \
         allows at the same time. Try again in a few seconds."
    );
    ApiError::new(Cause::Overloaded, message).retry_after(RETRY_AFTER)
}

/// 503: the connections and requests there are take all descriptors.
pub(crate) fn no_descriptor() -> ApiError {
    let message = "This server works on as many requests as it has descriptors for. Try again in a \
        few seconds; the operator can raise the limit of open files (ulimit -n, or LimitNOFILE of \
        the systemd unit).";
    ApiError::new(Cause::ServerOverloaded, message).retry_after(RETRY_AFTER)
}

/// 503: nearly all places are taken by requests without a key.
pub(crate) fn too_many_keyless() -> ApiError {
    let message = "So many requests without an API key are running that what is left is for \
        requests with one (an eighth of limits.connections and of the open files). Send a key, or \
        try again in a few seconds.";
    ApiError::new(Cause::ServerOverloaded, message).retry_after(RETRY_AFTER).closing()
}

/// 413. `limit`: in bytes.
pub(crate) fn too_large_to_translate(limit: u64) -> ApiError {
    let message = format!(
        "The request body is larger than {limit} bytes, the most that can be translated for this \
         model's engine. Send less."
    );
    ApiError::new(Cause::TooLarge, message).closing()
}

/// 413. `limit`: in bytes.
pub(crate) fn too_costly_to_translate(limit: u64) -> ApiError {
    let message = format!(
        "Translating this request for the model's engine would take more than {limit} bytes of \
         memory, the most that one may take: it is long, or consists of very many values. Send fewer \
         or shorter ones at a time."
    );
    ApiError::new(Cause::TooLarge, message)
}

/// 503: no table was published yet.
pub(crate) fn starting() -> ApiError {
    let message =
        "This server is starting: it does not know its models yet. Try again in a few seconds.";
    ApiError::new(Cause::Starting, message).retry_after(RETRY_AFTER)
}

/// 503: the management API cannot be connected to.
pub(crate) fn no_management() -> ApiError {
    ApiError::new(
        Cause::ManagementUnavailable,
        "The management API does not respond yet. Try again in a few seconds.",
    )
    .retry_after(RETRY_AFTER)
}

/// 405, with the methods that the endpoint takes.
pub(crate) fn wrong_method(endpoint: &Endpoint) -> ApiError {
    let allow = endpoint.methods.allow();
    let mut error = ApiError::new(
        Cause::MethodNotAllowed,
        format!("{} takes {allow} requests only.", endpoint.path),
    );
    error.allow = Some(allow);
    error
}

/// 404 for a stored response. `why` completes the sentence.
pub(crate) fn response_not_found(id: &str, why: &str) -> ApiError {
    ApiError::new(
        Cause::ResponseNotFound,
        format!(
            "Response {id} was not found: {why}. Send the whole conversation as input instead."
        ),
    )
}

/// 503: the translation panicked, or was cancelled by the end of the worker.
pub(crate) fn translation_failed() -> ApiError {
    ApiError::new(
        Cause::TranslationFailed,
        "The request could not be translated just now. Send it again.",
    )
    .retry_after(RETRY_AFTER)
}

/// 404: the instance that keeps a stored response is gone.
pub(crate) fn response_lost() -> ApiError {
    let why = "the engine that made it has ended, is drained, cannot be reached, or serves another \
        model";
    ApiError::new(
        Cause::ResponseNotFound,
        format!("The response was not found: {why}. Send the whole conversation as input instead."),
    )
}

/// 404 for an API path that this version does not have. `advice`: what to change, in a sentence.
pub(crate) fn no_such_endpoint(method: &Method, path: &str, advice: Option<&str>) -> ApiError {
    let mut message =
        format!("There is no endpoint {method} {path} in this version of gpustack-fast.");
    if let Some(sentence) = advice {
        message.push(' ');
        message.push_str(sentence);
    }
    ApiError::new(Cause::NotFound, message)
}

/// 404: no route has this public name, or none that this key may see.
pub(crate) fn model_not_found(name: &str) -> ApiError {
    ApiError::new(
        Cause::ModelNotFound,
        format!(
            "Model {name} was not found. GET /v1/models lists the models that this key may use."
        ),
    )
}
