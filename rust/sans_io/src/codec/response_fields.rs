//! Which fields of a response reach the client.
//!
//! An engine's response becomes one of this server's origin, and goes through whatever proxy stands
//! in front. So what would bind browsers or such proxies to an engine's word stops here.

use http::HeaderName;

use crate::codec::headers::is_hop_by_hop;

/// The sender of a response, by which its fields pass.
#[derive(Clone, Copy, Debug)]
pub enum Sender<'a> {
    /// An engine, on an endpoint whose responses are known: the fields that belong to them pass,
    /// and these (in lower case), which the model's operator has added.
    Engine(&'a [String]),
    /// An engine, through the generic proxy: all pass but those that have power over the origin or
    /// over a proxy in front.
    Proxied,
    /// The management API, which is this server's own: all pass.
    Ourselves,
}

/// What becomes of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It passes.
    Passes,
    /// It is the engine's id of the request, and passes under another name.
    RequestId,
    /// It is of the connection, or is made anew here.
    Replaced,
    /// It does not belong to such a response.
    Withheld,
}

/// How many blocks and tools of a translated request its engine did not get, or in words only.
pub const UNTRANSLATED: HeaderName = HeaderName::from_static("x-gpustack-untranslated");

/// The name under which an engine's own request id passes.
pub const UPSTREAM_REQUEST_ID: HeaderName = HeaderName::from_static("x-upstream-request-id");

impl Sender<'_> {
    /// The fate of a field of a response from this sender.
    pub fn fate(self, name: &HeaderName, value: &[u8]) -> Fate {
        let name = name.as_str().as_bytes();
        match self {
            Self::Engine(_) if is_known(name) => Fate::Passes,
            Self::Ourselves if is_replaced(name) || is_request_id(name) => Fate::Replaced,
            Self::Ourselves => Fate::Passes,
            _ if is_request_id(name) => Fate::RequestId,
            _ if is_replaced(name) => Fate::Replaced,
            _ if is_dangerous(name) => Fate::Withheld,
            Self::Engine(added) => passes_if(added.iter().any(|added| added.as_bytes() == name)),
            Self::Proxied => {
                passes_if(!matches!(name, b"location" | b"content-location") || stays_here(value))
            }
        }
    }
}

fn passes_if(passes: bool) -> Fate {
    if passes { Fate::Passes } else { Fate::Withheld }
}

/// The fields of known responses: what a body is, when to ask again, and what the APIs tell of
/// limits and times (`OpenAI`'s and Anthropic's references, "Rate limits"; `endpoint-load-metrics`
/// is a vLLM's load, in ORCA's format). Those of a WebSocket are part of its handshake.
fn is_known(name: &[u8]) -> bool {
    match name {
        b"content-type"
        | b"content-encoding"
        | b"content-disposition"
        | b"content-language"
        | b"cache-control"
        | b"retry-after"
        | b"retry-after-ms"
        | b"x-should-retry"
        | b"openai-processing-ms"
        | b"openai-version"
        | b"endpoint-load-metrics"
        | b"sec-websocket-accept"
        | b"sec-websocket-protocol"
        | b"sec-websocket-extensions"
        | b"sec-websocket-version" => true,
        _ => name.starts_with(b"x-ratelimit-") || name.starts_with(b"anthropic-ratelimit-"),
    }
}

/// An engine's id of a request, under the names that SDKs read.
fn is_request_id(name: &[u8]) -> bool {
    matches!(name, b"x-request-id" | b"request-id")
}

/// Fields of the connection, and those that this server writes itself: the framing, the clock, the
/// server's name, ids, CORS, and what it says of every response or of every stream.
fn is_replaced(name: &[u8]) -> bool {
    is_hop_by_hop(name)
        || matches!(
            name,
            b"content-length"
                | b"date"
                | b"server"
                | b"x-upstream-request-id"
                | b"x-gpustack-untranslated"
                | b"x-content-type-options"
                | b"x-accel-buffering"
        )
        || name.starts_with(b"access-control-")
}

/// Fields with power beyond the response that carries them. An operator cannot let them pass,
/// either.
fn is_dangerous(name: &[u8]) -> bool {
    match name {
        // Browsers keep it for the origin, or do it to the origin.
        b"set-cookie"
        | b"set-cookie2"
        | b"clear-site-data"
        | b"strict-transport-security"
        | b"public-key-pins"
        | b"public-key-pins-report-only"
        | b"expect-ct"
        | b"alt-svc"
        | b"accept-ch"
        | b"accept-ch-lifetime"
        | b"critical-ch"
        | b"nel"
        | b"report-to"
        | b"reporting-endpoints"
        | b"origin-agent-cluster"
        | b"service-worker-allowed"
        | b"set-login"
        | b"use-as-dictionary"
        | b"speculation-rules"
        | b"secure-session-registration"
        | b"sec-session-registration"
        // Browsers go elsewhere, ask for a password, or show others what is not theirs.
        | b"refresh"
        | b"www-authenticate"
        | b"authentication-info"
        | b"timing-allow-origin"
        | b"sourcemap"
        | b"x-sourcemap"
        // A proxy in front sends a file or another page of its own in place of the response, runs
        // parts of it, or keeps it.
        | b"x-sendfile"
        | b"x-sendfile2"
        | b"x-lighttpd-send-file"
        | b"x-lighttpd-kbytes-per-second"
        | b"x-reproxy-url"
        | b"x-reproxy-file"
        | b"surrogate-control"
        | b"surrogate-key"
        | b"edge-control"
        | b"cdn-cache-control"
        // It tells where the time went, which this server says itself.
        | b"server-timing" => true,
        _ => {
            name.starts_with(b"x-accel-")
                || name.starts_with(b"x-litespeed-")
                || name.starts_with(b"x-envoy-")
        }
    }
}

/// Whether a reference cannot lead to another host: it is a path, or relative. Browsers read `\` as
/// `/`, and skip tabs and leading blanks.
fn stays_here(reference: &[u8]) -> bool {
    if reference.iter().any(|byte| *byte <= b' ' || *byte == b'\\' || !byte.is_ascii()) {
        return false;
    }
    let first = reference.split(|byte| matches!(byte, b'/' | b'?' | b'#')).next();
    // What stands before a colon in the first segment is a scheme.
    !reference.starts_with(b"//") && first.is_some_and(|first| !first.contains(&b':'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KNOWN: &str = "content-type content-encoding content-disposition content-language \
        cache-control retry-after retry-after-ms x-should-retry openai-processing-ms \
        openai-version endpoint-load-metrics x-ratelimit-* anthropic-ratelimit-* \
        sec-websocket-accept sec-websocket-protocol sec-websocket-extensions \
        sec-websocket-version";
    const REPLACED: &str = "connection keep-alive proxy-connection proxy-authenticate \
        proxy-authorization te trailer transfer-encoding upgrade http2-settings content-length \
        date server x-upstream-request-id x-gpustack-untranslated x-content-type-options \
        x-accel-buffering access-control-*";
    const REQUEST_IDS: &str = "x-request-id request-id";
    const DANGEROUS: &str = "set-cookie set-cookie2 clear-site-data strict-transport-security \
        public-key-pins public-key-pins-report-only expect-ct alt-svc accept-ch \
        accept-ch-lifetime critical-ch nel report-to reporting-endpoints origin-agent-cluster \
        service-worker-allowed speculation-rules sourcemap x-sourcemap set-login \
        use-as-dictionary secure-session-registration \
        sec-session-registration refresh www-authenticate authentication-info \
        timing-allow-origin x-accel-* x-sendfile x-sendfile2 x-lighttpd-send-file \
        x-lighttpd-kbytes-per-second x-litespeed-* x-reproxy-url x-reproxy-file x-envoy-* \
        surrogate-control surrogate-key edge-control cdn-cache-control server-timing";
    /// Samples of what is on no list.
    const OTHER: &str = "etag vary link via age content-security-policy x-engine x-queue-time \
        x-gpustack-model cross-origin-resource-policy allow";

    /// The slow twin: names, or beginnings where they end with a star.
    fn lists(list: &str, name: &str) -> bool {
        list.split_whitespace().any(|entry| match entry.strip_suffix('*') {
            Some(start) => name.starts_with(start),
            None => entry == name,
        })
    }

    fn plain_fate(sender: Sender<'_>, name: &str) -> Fate {
        let own_id = lists(REQUEST_IDS, name);
        let replaced = lists(REPLACED, name);
        match sender {
            Sender::Ourselves if own_id || replaced => Fate::Replaced,
            Sender::Ourselves => Fate::Passes,
            Sender::Engine(_) | Sender::Proxied if own_id => Fate::RequestId,
            Sender::Engine(_) | Sender::Proxied if replaced => Fate::Replaced,
            Sender::Engine(_) if lists(KNOWN, name) => Fate::Passes,
            Sender::Proxied if !lists(DANGEROUS, name) => Fate::Passes,
            Sender::Engine(added) if added.iter().any(|added| added == name) => {
                if lists(DANGEROUS, name) { Fate::Withheld } else { Fate::Passes }
            }
            Sender::Engine(_) | Sender::Proxied => Fate::Withheld,
        }
    }

    fn agree(name: &str, added: &[String]) {
        let Ok(parsed) = HeaderName::from_bytes(name.as_bytes()) else { return };
        for sender in
            [Sender::Engine(&[]), Sender::Engine(added), Sender::Proxied, Sender::Ourselves]
        {
            let expected = plain_fate(sender, parsed.as_str());
            assert_eq!(sender.fate(&parsed, b"/x"), expected, "{sender:?} {name}");
        }
    }

    #[test]
    fn every_field_of_the_lists_has_its_fate() {
        let all = [KNOWN, REPLACED, REQUEST_IDS, DANGEROUS, OTHER];
        for name in all.iter().flat_map(|list| list.split_whitespace()) {
            let name = name.replace('*', "x");
            for name in [&name, &name[1..], &name[..name.len() - 1], &format!("{name}x")] {
                agree(name, &[]);
                agree(name, &[name.to_owned()]);
                agree(&name.to_ascii_uppercase(), &[]);
            }
        }
    }

    proptest! {
        #[test]
        fn any_field_has_the_fate_that_the_lists_say(
            name in "[a-zA-Z]{1,3}-?[a-z]{0,8}(-[a-z]{1,9}){0,2}", added in "[a-z-]{1,6}",
        ) {
            agree(&name, &[added, name.to_ascii_lowercase()]);
        }
    }

    #[test]
    fn the_proxy_lets_only_references_pass_that_stay_here() {
        for (reference, stays) in [
            ("/v1/models", true),
            ("/a//b:c?x=http://y", true),
            ("a/b", true),
            ("?next=2", true),
            ("./a:b", true),
            ("", true),
            ("http://127.0.0.1:8000/v1/models", false),
            ("https://elsewhere/x", false),
            ("//elsewhere/x", false),
            ("/\\elsewhere", false),
            ("\\\\elsewhere", false),
            ("/\t/elsewhere", false),
            (" //elsewhere", false),
            ("javascript:alert(1)", false),
            ("x:1", false),
            ("/\u{e9}", false),
        ] {
            for name in [http::header::LOCATION, http::header::CONTENT_LOCATION] {
                let fate = Sender::Proxied.fate(&name, reference.as_bytes());
                assert_eq!(fate == Fate::Passes, stays, "{reference}");
                assert_eq!(Sender::Engine(&[]).fate(&name, reference.as_bytes()), Fate::Withheld);
            }
        }
    }
}
