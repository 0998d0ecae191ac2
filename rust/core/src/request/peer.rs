//! Who a request comes from, and by which URL: as its connection says it, or as trusted proxies do.

use std::rc::Rc;

use http::{HeaderMap, HeaderValue, header};

use crate::shared::{Shared, UNIX_PEER};
use sans_io::codec::forwarding::Forwarded;

/// The far end of a request.
pub(crate) struct Peer {
    /// The client's IP address, or `unix`.
    pub(crate) address: Rc<str>,
    /// The scheme of the URL that the client used.
    pub(crate) scheme: &'static str,
    /// The host of that URL, where a trusted proxy has named one; None: that of the request.
    host: Option<Box<str>>,
}

impl Peer {
    /// The far end of a request. `connected`: the other end of its connection, an IP address or
    /// `unix`.
    pub(crate) fn of(shared: &Shared, connected: Rc<str>, headers: &HeaderMap) -> Self {
        let scheme = shared.scheme(&connected);
        match forwarded(shared, &connected, headers) {
            None => Self { address: connected, scheme, host: None },
            Some(Forwarded { address, scheme: seen, host }) => Self {
                address: address.map_or(connected, |address| address.to_string().into()),
                scheme: seen.unwrap_or(scheme),
                host: host.map(Box::from),
            },
        }
    }

    /// The host of the client's URL, with its port if it has one; None: nobody says it.
    pub(crate) fn host<'a>(&'a self, headers: &'a HeaderMap) -> Option<&'a [u8]> {
        let own = || headers.get(header::HOST).map(HeaderValue::as_bytes);
        self.host.as_ref().map(|host| host.as_bytes()).or_else(own)
    }
}

/// What a trusted proxy says; None: the connection is none's.
fn forwarded<'a>(
    shared: &Shared,
    connected: &str,
    headers: &'a HeaderMap,
) -> Option<Forwarded<'a>> {
    let proxies = shared.trusted_proxies.as_ref()?;
    let address = if connected == UNIX_PEER { None } else { Some(connected.parse().ok()?) };
    proxies.read(address, headers)
}
