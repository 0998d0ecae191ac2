//! Finds the endpoint of a request, and rejects heads that are ambiguous.

use http::{Method, Version, header, request::Parts};

use crate::request::rejections;
use sans_io::api::{
    endpoints::{self, Endpoint, NotFound},
    error::{ApiError, Cause, Dialect},
};

/// Stands for the path in the records of requests without an endpoint.
const UNKNOWN: &str = "unknown";

/// A request that is rejected because its head is malformed or its endpoint unknown.
pub(crate) struct Unidentified {
    /// The path for its record: the endpoint's, or `unknown`.
    pub(crate) path: &'static str,
    /// The shape of the error.
    pub(crate) dialect: Dialect,
    /// The client's error: 400, 404 or 405.
    pub(crate) error: ApiError,
}

/// The endpoint of a request whose head is well-formed.
pub(crate) fn endpoint(parts: &Parts) -> Result<&'static Endpoint, Unidentified> {
    let found = endpoints::find(&parts.method, parts.uri.path());
    if let Err(error) = check_head(parts) {
        // The error still has the shape that clients of this path expect.
        let dialect = found.map_or_else(|missing| missing.dialect(), |found| found.dialect);
        return Err(Unidentified { path: UNKNOWN, dialect, error });
    }
    found.map_err(|missing| {
        let dialect = missing.dialect();
        match missing {
            NotFound::WrongMethod(endpoint) => {
                let error = rejections::wrong_method(endpoint);
                Unidentified { path: endpoint.path, dialect, error }
            }
            NotFound::NoSuchEndpoint(_) => {
                let error = rejections::no_such_endpoint(&parts.method, parts.uri.path());
                Unidentified { path: UNKNOWN, dialect, error }
            }
        }
    })
}

/// Rejects CONNECT and TRACE, and heads that two readers could take for two different requests.
fn check_head(parts: &Parts) -> Result<(), ApiError> {
    if parts.method == Method::CONNECT || parts.method == Method::TRACE {
        let message = "This server is no forward proxy: it takes no CONNECT and no TRACE.";
        let mut error = ApiError::new(Cause::MethodNotAllowed, message);
        error.allow = Some("GET, HEAD, POST");
        return Err(error);
    }
    let bad_request = |message| Err(ApiError::new(Cause::BadRequest, message).closing());
    let hosts = parts.headers.get_all(header::HOST).iter().count();
    if hosts > 1 {
        return bad_request("The request has two Host fields. Send one.");
    }
    if parts.headers.get_all(header::CONTENT_TYPE).iter().nth(1).is_some() {
        return bad_request("The request has two Content-Type fields. Send one.");
    }
    if hosts == 0 && parts.version == Version::HTTP_11 && parts.uri.authority().is_none() {
        return bad_request("The request has no Host field. Send one.");
    }
    Ok(())
}
