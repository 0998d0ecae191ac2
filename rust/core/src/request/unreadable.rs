//! Responses to heads that cannot be read, or that do not come: with a body in the shape that the
//! clients of the path expect, a request id, and a record.

use http::{HeaderMap, Method, Response};

use crate::{
    client::io::ClientWatch,
    request::{accounting::Accounting, body::ResponseBody, respond},
    worker::Worker,
};
use sans_io::{
    api::{
        endpoints,
        error::{ApiError, Cause, Dialect},
    },
    codec::http1::request::{HeadError, Unreadable},
};

/// The path under which such requests are recorded.
const UNREADABLE: &str = "unreadable";

/// Why there is no head.
#[derive(Debug)]
pub(crate) enum Reason {
    /// It breaks HTTP.
    Unreadable(Unreadable),
    /// It was not whole within `timeouts.head`.
    HeadTimeout,
    /// It was not whole in the time that a drain gives it.
    Draining,
    /// There are as many connections as there may be.
    NoPlace,
}

/// The response, behind which the connection ends: where the next request begins is unknown.
pub(crate) fn respond<B, W: ClientWatch>(
    worker: &Worker,
    reason: Reason,
    watch: &W,
) -> Response<ResponseBody<B, W>> {
    let (dialect, error) = match reason {
        Reason::Unreadable(unreadable) => {
            let error = ApiError::new(cause(unreadable.error), unreadable.error.to_string());
            (dialect(unreadable.path()), error)
        }
        Reason::HeadTimeout => {
            let message = "The request's head was not whole within the limit timeouts.head of this \
                server. Send it without pauses.";
            (Dialect::OpenAi, ApiError::new(Cause::RequestTimeout, message))
        }
        Reason::Draining => {
            let message = "This server is stopping, and the request's head had not come whole. \
                Send the request again.";
            (Dialect::OpenAi, ApiError::new(Cause::Stopping, message).retry_after(2))
        }
        Reason::NoPlace => {
            let message = "This server has as many connections as it may have. Try again soon; \
                whoever runs it can raise limits.connections, and the limit on open files.";
            (Dialect::OpenAi, ApiError::new(Cause::ServerOverloaded, message).retry_after(1))
        }
    };
    let published = worker.shared.table.load();
    let id = worker.new_request_id();
    let accounting = Accounting::new(&worker.shared, &published, id, UNREADABLE);
    respond::rejected(accounting, dialect, &error.closing(), watch)
}

/// The dialect of the clients of a path.
fn dialect(path: Option<&str>) -> Dialect {
    path.map_or(Dialect::OpenAi, |path| {
        endpoints::find(&Method::POST, path, &HeaderMap::new())
            .map_or_else(|missing| missing.dialect(), |found| found.endpoint.dialect)
    })
}

fn cause(error: HeadError) -> Cause {
    match error {
        HeadError::TargetTooLong => Cause::UriTooLong,
        HeadError::TooLarge => Cause::HeadTooLarge,
        HeadError::LengthTooLarge => Cause::TooLarge,
        HeadError::TransferCoding => Cause::NotImplemented,
        HeadError::Version => Cause::VersionNotSupported,
        HeadError::Malformed
        | HeadError::BareLineFeed
        | HeadError::Target
        | HeadError::Length
        | HeadError::LengthAndChunked => Cause::BadRequest,
    }
}
