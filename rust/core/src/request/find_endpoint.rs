//! Finds the endpoint of a request whose head is in order.

use http::{Uri, request::Parts, uri::PathAndQuery};

use crate::request::{head, rejections};
use sans_io::api::{
    endpoints::{self, Endpoint, Found, NotFound},
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

/// The endpoint of a request whose head is well-formed. A path with a mistake that leaves no doubt
/// is replaced by the one that was meant, for all that follows.
pub(crate) fn find_endpoint(parts: &mut Parts) -> Result<&'static Endpoint, Unidentified> {
    let found = endpoints::find(&parts.method, parts.uri.path(), &parts.headers);
    if let Err(error) = head::check(&parts.method, &parts.uri, parts.version, &parts.headers) {
        // The error still has the shape that clients of this path expect.
        let dialect =
            found.map_or_else(|missing| missing.dialect(), |found| found.endpoint.dialect);
        return Err(Unidentified { path: UNKNOWN, dialect, error });
    }
    let missing = match found {
        Ok(Found { endpoint, corrected: None }) => return Ok(endpoint),
        Ok(Found { endpoint, corrected: Some(path) }) => {
            if let Some(uri) = with_path(&parts.uri, &path) {
                parts.uri = uri;
                return Ok(endpoint);
            }
            NotFound::NoSuchEndpoint { dialect: endpoint.dialect, advice: None }
        }
        Err(missing) => missing,
    };
    let dialect = missing.dialect();
    Err(match missing {
        NotFound::WrongMethod(endpoint) => {
            let error = rejections::wrong_method(endpoint);
            Unidentified { path: endpoint.path, dialect, error }
        }
        NotFound::NoSuchEndpoint { advice, .. } => {
            let (method, path) = (&parts.method, parts.uri.path());
            let error = rejections::no_such_endpoint(method, path, advice.as_deref());
            Unidentified { path: UNKNOWN, dialect, error }
        }
    })
}

/// A target with another path; None: it would be no target.
fn with_path(uri: &Uri, path: &str) -> Option<Uri> {
    let target = match uri.query() {
        Some(query) => PathAndQuery::try_from(format!("{path}?{query}")),
        None => PathAndQuery::try_from(path),
    };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(target.ok()?);
    Uri::from_parts(parts).ok()
}
