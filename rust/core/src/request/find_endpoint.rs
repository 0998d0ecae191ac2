//! Finds the endpoint of a request whose head is in order.

use http::request::Parts;

use crate::request::{head, rejections};
use sans_io::api::{
    endpoints::{self, Endpoint, NotFound},
    error::{ApiError, Dialect},
};

/// Stands for the path in the records of requests without an endpoint.
const UNKNOWN: &str = "unknown";

/// A request that is rejected because its head is malformed or its endpoint unknown.
pub(crate) struct Unidentified {
    /// The path for its record: the endpoint's, or `unknown`.
    pub(crate) path: &'static str,
    /// The shape of the error.
    pub(crate) dialect: Dialect,
    /// The client's error: 400, 404, 405 or 417.
    pub(crate) error: ApiError,
}

/// The endpoint of a request whose head is well-formed.
pub(crate) fn find_endpoint(parts: &Parts) -> Result<&'static Endpoint, Unidentified> {
    let found = endpoints::find(&parts.method, parts.uri.path());
    if let Err(error) = head::check(&parts.method, &parts.uri, parts.version, &parts.headers) {
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
