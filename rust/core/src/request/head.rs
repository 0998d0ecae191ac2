//! The rules that the head of a client's request must keep.

use http::{Method, Version, header, request::Parts};

use sans_io::api::error::{ApiError, Cause};

/// Rejects CONNECT and TRACE, and heads that two readers could take for two different requests.
pub(crate) fn check(parts: &Parts) -> Result<(), ApiError> {
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
