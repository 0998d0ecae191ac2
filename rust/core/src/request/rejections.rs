//! What a request's sender is told when no engine answers it.

use crate::upstream::{exchange::Fault, upload::UploadError};
use sans_io::{
    api::{
        endpoints::{Endpoint, Row},
        error::{ApiError, Cause},
    },
    codec::http1::AnswerHead,
    seam::documents::End,
};

/// What a 503 says in `Retry-After`, in seconds.
const RETRY_AFTER: u32 = 2;

/// Why a request gets no answer of an engine's.
pub(crate) enum Refusal {
    /// The client left: nobody reads an answer.
    Gone,
    /// We answer.
    Error(ApiError, End),
}

impl From<ApiError> for Refusal {
    fn from(error: ApiError) -> Self {
        Self::Error(error, End::Refused)
    }
}

impl From<UploadError> for Refusal {
    fn from(error: UploadError) -> Self {
        match error {
            UploadError::Gone => Self::Gone,
            UploadError::Refused(error) => error.into(),
        }
    }
}

/// An engine that refuses our credential is our fault, not the client's, whose key is fine
/// (spec/wire.md 10).
pub(crate) fn credential_fault(head: &AnswerHead, row: &Row) -> Option<ApiError> {
    let ours = matches!(
        row.endpoint,
        Endpoint::Inference(_) | Endpoint::StoredResponse | Endpoint::Realtime
    );
    let refused = match head.status.as_u16() {
        401 => ours || row.endpoint == Endpoint::GenericProxy,
        // vLLM answers so to a WebSocket on a path that it does not have.
        403 => ours && row.endpoint != Endpoint::Realtime,
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

pub(crate) fn connect_timeout() -> Refusal {
    let message = "No engine could be connected to in time (the connect timeout is over). Try \
        again in a few seconds.";
    Refusal::Error(
        ApiError::new(Cause::GatewayTimeout, message).retry_after(RETRY_AFTER),
        End::Timeout,
    )
}

pub(crate) fn body_timeout() -> Refusal {
    let message =
        "The request body stopped arriving (the body timeout is over). Send the request again.";
    Refusal::Error(ApiError::new(Cause::RequestTimeout, message).closing(), End::Timeout)
}

/// What the client is told when no instance is left to try.
pub(crate) fn fault_refusal(fault: Fault, deaths: u32) -> Refusal {
    let (error, end) = match fault {
        Fault::Gone => return Refusal::Gone,
        Fault::Refused(error) => return error.into(),
        Fault::Body => return body_timeout(),
        Fault::FirstFrame | Fault::Idle => {
            let message = "The engine sent no first frame in time (the first-frame timeout is \
                over). Try again later or raise the timeout.";
            (ApiError::new(Cause::GatewayTimeout, message), End::Timeout)
        }
        Fault::Wire(error) => {
            let message = format!("The engine's answer breaks HTTP: {error}.");
            (ApiError::new(Cause::BadGateway, message), End::EngineError)
        }
        Fault::Unfit(how) => {
            let message = format!(
                "The engine's answer cannot be passed on: {how}. Check that the model's engine \
                 does what this endpoint asks."
            );
            (ApiError::new(Cause::BadGateway, message), End::EngineError)
        }
        Fault::Connect(_) | Fault::Stale | Fault::Died(_) | Fault::Status(_) => {
            let message = if deaths > 1 {
                "Two engines ended while they worked on this request, so it is not sent to a \
                 third. Check the engines' logs before you send it again."
            } else {
                "The engine ended before it answered this request. Send the request again."
            };
            let mut error = ApiError::new(Cause::BadGateway, message);
            error.do_not_retry = deaths > 1;
            (error, End::EngineDied)
        }
    };
    Refusal::Error(error, end)
}

pub(crate) fn too_large_to_translate(limit: u64) -> ApiError {
    let message = format!(
        "The request body is larger than {limit} bytes, the most that can be translated for this \
         model's engine. Send less."
    );
    ApiError::new(Cause::TooLarge, message).closing()
}

pub(crate) fn starting() -> Refusal {
    let message =
        "This server is starting: it does not know its models yet. Try again in a few seconds.";
    ApiError::new(Cause::Unavailable, message).retry_after(RETRY_AFTER).into()
}

pub(crate) fn no_management() -> ApiError {
    ApiError::new(
        Cause::Unavailable,
        "The management API does not answer yet. Try again in a few seconds.",
    )
    .retry_after(RETRY_AFTER)
}

pub(crate) fn wrong_method(row: &Row) -> ApiError {
    let allow = row.methods.allow();
    let mut error = ApiError::new(
        Cause::MethodNotAllowed,
        format!("{} takes {allow} requests only.", row.path),
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
