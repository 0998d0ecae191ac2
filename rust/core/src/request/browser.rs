//! Refuses what pages of other sites make somebody's browser send, where no key was sent: see
//! [`sans_io::api::browser`]. A page cannot send a key that it does not know, so a request with a
//! good one is let through, whatever it says.

use http::{HeaderMap, request::Parts};

use crate::{published::Settings, shared::Shared};
use sans_io::{
    api::{
        browser,
        endpoints::{BodyKind, Endpoint, Inference, Kind},
        error::{ApiError, Cause},
    },
    codec::headers,
    table::AuthError,
};

/// The most characters of a client's words that are repeated to it.
const SHOWN: usize = 100;

/// Checks a request that came without a good key. `host`: that of the client's URL, see
/// [`crate::request::peer::Peer::host`]. Fails with 421 for a host that this server does
/// not know, and with 403 for a page of another site that sends what a plain form can.
pub(crate) fn check(
    shared: &Shared,
    settings: &Settings,
    endpoint: &Endpoint,
    parts: &Parts,
    host: Option<&[u8]>,
) -> Result<(), ApiError> {
    check_host(shared, host)?;
    if parts.method.is_safe()
        || !browser::is_cross_site(&parts.headers, host, settings.cors.as_deref())
        || headers::is_json(&parts.headers)
    {
        return Ok(());
    }
    let takes_forms =
        matches!(endpoint.kind, Kind::Inference(Inference { body: BodyKind::Form, .. }));
    if takes_forms && headers::is_multipart(&parts.headers) {
        return Ok(());
    }
    let message = format!(
        "A page of another site may not send this body without an API key. Send it as {}, or with \
         a key; the operator allows a page by its origin in server.cors.origins.",
        if takes_forms { "multipart/form-data" } else { "application/json" }
    );
    Err(ApiError::new(Cause::CrossSite, message).closing())
}

/// As [`check`], for what nobody has looked for a key in yet.
pub(crate) fn check_unless_keyed(
    shared: &Shared,
    settings: &Settings,
    endpoint: &Endpoint,
    parts: &Parts,
    host: Option<&[u8]>,
) -> Result<(), ApiError> {
    check(shared, settings, endpoint, parts, host).or_else(|error| {
        // A key is looked for only now: most requests need none here.
        if shows_good_key(shared, &parts.headers) { Ok(()) } else { Err(error) }
    })
}

/// Whether a request shows a good key, if only one of another scope than inference.
pub(crate) fn shows_good_key(shared: &Shared, headers: &HeaderMap) -> bool {
    matches!(shared.keys.load().check(headers), Ok(_) | Err(AuthError::Scope))
}

/// Browsers always say the host; where it is missing, none has sent the request.
fn check_host(shared: &Shared, host: Option<&[u8]>) -> Result<(), ApiError> {
    let Some(known) = &shared.known_hosts else { return Ok(()) };
    let Some(host) = host else { return Ok(()) };
    let host = String::from_utf8_lossy(host);
    if known.know(&host) {
        return Ok(());
    }
    let shown: String = host.chars().take(SHOWN).collect();
    let message = format!(
        "This server does not know the host \"{shown}\", for which the request is, and no valid \
         API key came with it. Send a key, use the address that the server listens on, or let the \
         operator add the host to server.allowed_hosts."
    );
    Err(ApiError::new(Cause::Misdirected, message).closing())
}
