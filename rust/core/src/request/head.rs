//! The rules that the head of a client's request must keep.

use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, Version, header, request::Parts};

use sans_io::{
    api::error::{ApiError, Cause},
    codec::{headers, host},
};

/// What each field of a head takes beside its name and its value, in bytes.
const FIELD: usize = 96;

/// The memory that a head takes, in bytes.
pub(crate) fn memory(parts: &Parts) -> u64 {
    let target = parts.uri.path_and_query().map_or(0, |target| target.as_str().len());
    let field =
        |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len() + FIELD;
    (target + parts.headers.iter().map(field).sum::<usize>()) as u64
}

/// Rejects CONNECT and TRACE, heads that two readers could take for two different requests, and
/// expectations that are not known.
pub(crate) fn check(
    method: &Method,
    uri: &Uri,
    version: Version,
    headers: &HeaderMap,
) -> Result<(), ApiError> {
    if *method == Method::CONNECT || *method == Method::TRACE {
        let message = "This server is no forward proxy: it takes no CONNECT and no TRACE.";
        let mut error = ApiError::new(Cause::MethodNotAllowed, message);
        error.allow = Some("GET, HEAD, POST");
        return Err(error);
    }
    let bad_request = |message| Err(ApiError::new(Cause::BadRequest, message).closing());
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = hosts.next().map(HeaderValue::as_bytes);
    if hosts.next().is_some() {
        return bad_request("The request has two Host fields. Send one.");
    }
    if headers.get_all(header::CONTENT_TYPE).iter().nth(1).is_some() {
        return bad_request("The request has two Content-Type fields. Send one.");
    }
    check_host(uri, version, host).or_else(bad_request)?;
    // HTTP/1.0 knows no expectations.
    if version == Version::HTTP_10 { Ok(()) } else { check_expectations(headers) }
}

/// Rejects (417) a request whose client expects something else than a 100, and could wait for it.
fn check_expectations(headers: &HeaderMap) -> Result<(), ApiError> {
    let mut tokens = headers.get_all(header::EXPECT).iter().flat_map(|value| {
        let tokens = headers::tokens(value.as_bytes());
        tokens.filter(|token| !token.is_empty())
    });
    if tokens.all(headers::is_continue) {
        return Ok(());
    }
    let message = "The request's Expect field asks for something that this server does not know. \
        Send `Expect: 100-continue`, or leave the field out.";
    Err(ApiError::new(Cause::ExpectationFailed, message).closing())
}

/// Checks the host that a request is for, which `Host` says, or the authority of its target, or
/// both (RFC 9112 3.2, RFC 9113 8.3.1). The error is a message for the client.
fn check_host(uri: &Uri, version: Version, host: Option<&[u8]>) -> Result<(), &'static str> {
    if host.is_some_and(|host| !host::is_host(host)) {
        return Err(
            "The request's Host field is no host. Send the name or address of the URL, and \
                    its port if it has one: `HOST` or `HOST:PORT`.",
        );
    }
    let Some(authority) = uri.authority().map(|authority| authority.as_str().as_bytes()) else {
        let may_have_none = version == Version::HTTP_10 || host.is_some();
        return if may_have_none {
            Ok(())
        } else {
            Err("The request has no Host field. Send one.")
        };
    };
    if authority.is_empty() || !host::is_host(authority) {
        return Err("The request's target names no valid host. Send `HOST` or `HOST:PORT` in it, \
                    without a user.");
    }
    // Of a URL in HTTP/1.1 a host that differs is replaced; in HTTP/2 no client may send it.
    let agrees = |host: &[u8]| match version {
        Version::HTTP_2 => host::is_same(host, authority, uri.scheme_str()),
        _ => !host.is_empty(),
    };
    if host.is_none_or(agrees) {
        Ok(())
    } else {
        Err("The request's Host field differs from the host of its target. Send the same one in \
             both.")
    }
}

/// Makes the authority of the target, which wins over `Host` (RFC 9112 3.2.2), the `Host`, where
/// every other part looks for it. The head was checked.
pub(crate) fn put_host(parts: &mut Parts) {
    if let Some(authority) = parts.uri.authority()
        && let Ok(host) = HeaderValue::from_str(authority.as_str())
    {
        parts.headers.insert(header::HOST, host);
    }
}
