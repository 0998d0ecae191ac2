//! Requests that a web page makes in somebody's browser, without a key. Pure decisions.
//!
//! A browser lets a page of any site send simple requests to every address that its machine
//! reaches, and read the responses of those that the page's own host name leads to. So a page can
//! use what asks for no key: by a form (the responses stay hidden from it), or by a name that it
//! suddenly points at a loopback address (DNS rebinding).

// From `core`, where addresses are plain values: this crate knows no sockets.
use core::net::IpAddr;

use http::HeaderMap;

use crate::api::cors::{self, Cors};

/// The hosts that this server is called by.
#[derive(Debug)]
pub struct KnownHosts {
    /// In lower case, without a port; `*` is any, and `*.example` any below it.
    listed: Vec<String>,
}

impl KnownHosts {
    /// `bound`: the host to listen on; `listed`: further names. Neither has a port. The names and
    /// addresses of the loopback interface are always known.
    pub fn new(bound: &str, listed: &[String]) -> Self {
        let all = std::iter::once(bound).chain(listed.iter().map(String::as_str));
        Self { listed: all.map(|host| bare(host).to_ascii_lowercase()).collect() }
    }

    /// Whether a request for this host, as its `Host` field says it, is for this server.
    pub fn know(&self, host: &str) -> bool {
        let host = bare(without_port(host)).to_ascii_lowercase();
        host == "localhost"
            || host.ends_with(".localhost")
            || host.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
            || self.listed.iter().any(|known| match known.strip_prefix('*') {
                Some(end) => host.ends_with(end) && host != end,
                None => *known == host,
            })
    }
}

/// `HOST` of `HOST:PORT`.
fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        // An IPv6 address has more of them.
        Some((name, port))
            if port.bytes().all(|byte| byte.is_ascii_digit())
                && (!name.contains(':') || name.ends_with(']')) =>
        {
            name
        }
        _ => host,
    }
}

/// A host without the brackets of an IPv6 address, and without the dot of a name's root.
fn bare(host: &str) -> &str {
    let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    inner.unwrap_or_else(|| host.strip_suffix('.').unwrap_or(host))
}

/// Whether a page of another site has made this request, and none that CORS lets in. A browser
/// says so by `Origin`, and by `Sec-Fetch-Site` (Fetch Metadata); other clients send neither.
/// `host`: that of the client's URL.
pub fn is_cross_site(headers: &HeaderMap, host: Option<&[u8]>, cors: Option<&Cors>) -> bool {
    let foreign_page = cors::is_foreign(headers, host);
    let foreign = foreign_page
        || headers
            .get("sec-fetch-site")
            .is_some_and(|site| site.as_bytes().eq_ignore_ascii_case(b"cross-site"));
    foreign && cors.and_then(|cors| cors.grant(headers)).is_none()
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;
    use crate::{seam, test_support};

    #[test]
    fn loopback_names_the_bound_host_and_the_listed_ones_are_known() {
        let listed = ["llm.example", "*.lan", "FD00::5"].map(str::to_owned);
        let hosts = KnownHosts::new("box.internal", &listed);
        for (host, known) in [
            ("localhost", true),
            ("LocalHost:8080", true),
            ("localhost.", true),
            ("localhost.:8080", true),
            ("a.localhost:1", true),
            ("127.0.0.1:8080", true),
            ("127.8.9.1", true),
            ("[::1]:8080", true),
            ("[::1]", true),
            ("[::ffff:127.0.0.1]:1", true),
            ("box.internal:8080", true),
            ("LLM.example", true),
            ("a.b.lan:80", true),
            ("[fd00::5]:80", true),
            (".lan", false),
            ("lan", false),
            ("evil.example", false),
            ("localhost.evil.example", false),
            ("evillocalhost", false),
            ("127.0.0.1.evil.example:8080", false),
            ("192.168.1.5", false),
            ("0.0.0.0:8080", false),
            ("[::]:8080", false),
            ("[::2]", false),
            ("llm.example:8080:1", false),
            ("llm.example:port", false),
            ("llm.example@evil", false),
            ("", false),
        ] {
            assert_eq!(hosts.know(host), known, "{host}");
        }
        assert!(KnownHosts::new("127.0.0.1", &["*".to_owned()]).know("evil.example"));
    }

    fn cors(origins: &[&str]) -> Cors {
        let mut config = test_support::config();
        config["cors"]["origins"] = serde_json::json!(origins);
        let config: seam::DataPlaneConfig = test_support::read(config);
        Cors::new(&config.cors).unwrap()
    }

    #[test]
    fn a_page_of_another_site_is_known_by_what_its_browser_says() {
        let allowing = cors(&["https://chat.example"]);
        for (origin, site, foreign) in [
            (None, None, false),
            (None, Some("none"), false),
            (None, Some("same-origin"), false),
            (None, Some("cross-site"), true),
            (Some("http://localhost:8080"), Some("same-origin"), false),
            (Some("https://LOCALHOST:8080"), None, false),
            (Some("http://localhost:3000"), Some("same-site"), true),
            (Some("http://localhost"), None, true),
            (Some("http://evil.example"), Some("cross-site"), true),
            (Some("http://localhost:8080.evil.example"), None, true),
            (Some("null"), Some("cross-site"), true),
            (Some(""), None, true),
            (Some("https://chat.example"), Some("cross-site"), false),
            (Some("https://chat.example:1"), Some("cross-site"), true),
        ] {
            let mut headers = HeaderMap::new();
            let host = Some(&b"localhost:8080"[..]);
            for (name, value) in [("origin", origin), ("sec-fetch-site", site)] {
                let value = value.map(|value| HeaderValue::from_str(value).unwrap());
                value.map(|value| headers.insert(HeaderName::from_static(name), value));
            }
            assert_eq!(
                is_cross_site(&headers, host, Some(&allowing)),
                foreign,
                "{origin:?} {site:?}"
            );
            let without_cors = foreign || origin == Some("https://chat.example");
            assert_eq!(is_cross_site(&headers, host, None), without_cors, "{origin:?} {site:?}");
            assert!(!is_cross_site(&headers, host, Some(&cors(&["*"]))) || origin.is_none());
        }
    }
}
