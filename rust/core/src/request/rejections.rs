//! Errors that the data plane itself returns: what a client is told of each failure.

use http::Method;

use crate::failure::Failure;
use sans_io::{
    api::{
        endpoints::{Endpoint, Kind},
        error::{ApiError, Cause},
    },
    codec::http1::ResponseHead,
    seam::End,
};

/// What a 503 says in `Retry-After`, in seconds.
const RETRY_AFTER: u32 = 2;

/// What a client is told when it gets nothing of an engine's, and how its record ends. None: the
/// client has left.
pub(crate) fn rejection(failure: Failure) -> Option<(ApiError, End)> {
    let bad_gateway = |message: String| ApiError::new(Cause::BadGateway, message);
    Some(match failure {
        Failure::ClientLeft => return None,
        Failure::Rejected(error) => (error, End::Refused),
        Failure::BodyTimeout => {
            let message = "The request body stopped arriving (the body timeout is over). Send the \
                request again.";
            (ApiError::new(Cause::RequestTimeout, message).closing(), End::Timeout)
        }
        Failure::Spool(error) => {
            let message = format!(
                "The request body is too large for memory and could not be kept in a file: {}. \
                 The operator must give the data directory room.",
                error.kind()
            );
            (ApiError::new(Cause::Unavailable, message).closing(), End::Refused)
        }
        Failure::ConnectTimeout => {
            let message = "No engine could be connected to in time (the connect timeout is over). \
                Try again in a few seconds.";
            let error = ApiError::new(Cause::GatewayTimeout, message).retry_after(RETRY_AFTER);
            (error, End::Timeout)
        }
        Failure::FirstFrameTimeout | Failure::IdleTimeout => {
            let message = "The engine sent no first frame in time (the first-frame timeout is \
                over). Try again later or raise the timeout.";
            (ApiError::new(Cause::GatewayTimeout, message), End::Timeout)
        }
        Failure::Protocol(error) => {
            let message = format!("The engine's response breaks HTTP: {error}.");
            (bad_gateway(message), End::EngineError)
        }
        Failure::Unusable(error) => {
            let message = format!(
                "The engine's response cannot be passed on: {error}. Check that the model's \
                 engine does what this endpoint asks."
            );
            (bad_gateway(message), End::EngineError)
        }
        Failure::LostTwice => {
            let message = "Two engines ended while they worked on this request, so it is not sent \
                to a third. Check the engines' logs before you send it again.";
            let mut error = ApiError::new(Cause::BadGateway, message);
            error.do_not_retry = true;
            (error, End::EngineDied)
        }
        Failure::Connect(_)
        | Failure::StaleConnection
        | Failure::ConnectionLost(_)
        | Failure::FallbackStatus(_) => {
            let message =
                "The engine ended before it answered this request. Send the request again.";
            (ApiError::new(Cause::BadGateway, message), End::EngineDied)
        }
    })
}

/// What a client is told when its response breaks off, and how its record ends.
pub(crate) fn truncated(failure: &Failure) -> (ApiError, End) {
    const REST: &str = "The response is incomplete; send the request again.";
    let (cause, what, end) = match failure {
        Failure::IdleTimeout | Failure::FirstFrameTimeout => (
            Cause::GatewayTimeout,
            "The engine stopped sending in the middle of this response (the idle timeout is over)."
                .to_owned(),
            End::Timeout,
        ),
        Failure::Protocol(error) => (
            Cause::BadGateway,
            format!("The engine's response breaks HTTP: {error}."),
            End::EngineError,
        ),
        Failure::Unusable(error) => (
            Cause::BadGateway,
            format!("The engine's response cannot be passed on: {error}."),
            End::EngineError,
        ),
        _ => (
            Cause::BadGateway,
            "The engine ended in the middle of this response.".to_owned(),
            End::EngineDied,
        ),
    };
    (ApiError::new(cause, format!("{what} {REST}")), end)
}

/// An engine that refuses our credential is our failure, not the client's, whose key is fine: a 401
/// would make it throw its key away.
pub(crate) fn credential_refused(head: &ResponseHead, endpoint: &Endpoint) -> Option<ApiError> {
    let ours = matches!(endpoint.kind, Kind::Inference(_) | Kind::StoredResponse | Kind::Realtime);
    let refused = match head.status.as_u16() {
        401 => ours || endpoint.kind == Kind::GenericProxy,
        // vLLM answers so to a WebSocket on a path that it does not have.
        403 => ours && endpoint.kind != Kind::Realtime,
        _ => false,
    };
    refused.then(|| {
        let message = format!(
            "The engine refused this server's own credential (status {}). The operator must give \
             this server the engine's key.",
            head.status.as_u16()
        );
        ApiError::new(Cause::BadGateway, message)
    })
}

pub(crate) fn unavailable(route: &str) -> ApiError {
    let message = format!(
        "No running instances available for model {route}: its engines are starting, have failed, \
         or cannot be reached. Try again in a few seconds; GET /v2/models tells the reason."
    );
    ApiError::new(Cause::Unavailable, message).retry_after(RETRY_AFTER)
}

pub(crate) fn too_large_to_translate(limit: u64) -> ApiError {
    let message = format!(
        "The request body is larger than {limit} bytes, the most that can be translated for this \
         model's engine. Send less."
    );
    ApiError::new(Cause::TooLarge, message).closing()
}

pub(crate) fn starting() -> ApiError {
    let message =
        "This server is starting: it does not know its models yet. Try again in a few seconds.";
    ApiError::new(Cause::Unavailable, message).retry_after(RETRY_AFTER)
}

pub(crate) fn no_management() -> ApiError {
    ApiError::new(
        Cause::Unavailable,
        "The management API does not answer yet. Try again in a few seconds.",
    )
    .retry_after(RETRY_AFTER)
}

pub(crate) fn wrong_method(endpoint: &Endpoint) -> ApiError {
    let allow = endpoint.methods.allow();
    let mut error = ApiError::new(
        Cause::MethodNotAllowed,
        format!("{} takes {allow} requests only.", endpoint.path),
    );
    error.allow = Some(allow);
    error
}

pub(crate) fn response_not_found(id: &str, why: &str) -> ApiError {
    ApiError::new(
        Cause::ResponseNotFound,
        format!(
            "Response {id} was not found: {why}. Send the whole conversation as input instead."
        ),
    )
}

/// The work was lost, by no fault of the request.
pub(crate) fn translation_failed() -> ApiError {
    ApiError::new(
        Cause::Unavailable,
        "The request could not be translated just now. Send it again.",
    )
    .retry_after(RETRY_AFTER)
}

/// The instance that keeps a response is gone.
pub(crate) fn response_lost() -> ApiError {
    let why = "the engine that made it has ended, cannot be reached, or serves another model";
    ApiError::new(
        Cause::ResponseNotFound,
        format!("The response was not found: {why}. Send the whole conversation as input instead."),
    )
}

pub(crate) fn no_such_endpoint(method: &Method, path: &str) -> ApiError {
    ApiError::new(
        Cause::NotFound,
        format!("There is no endpoint {method} {path} in this version of gpustack-fast."),
    )
}
