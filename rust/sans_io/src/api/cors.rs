//! Access for pages of other origins, from a browser (the Fetch standard's CORS protocol). Pure
//! decisions.

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{self, InvalidHeaderValue},
};

use crate::{codec::headers::tokens, seam};

/// Request headers that the SDKs' browser builds set.
const ALLOWED: [&str; 8] = [
    "authorization",
    "content-type",
    "x-api-key",
    "x-request-id",
    "x-client-request-id",
    "x-gpustack-model",
    "idempotency-key",
    "traceparent",
];
/// Prefixes of their families of headers; `anthropic-dangerous-direct-browser-access` is one.
const ALLOWED_FAMILIES: [&str; 3] = ["anthropic-", "openai-", "x-stainless-"];
/// Response headers that the SDKs read, and what this server says of a response.
const EXPOSED: &str = "x-request-id, request-id, retry-after, retry-after-ms, x-should-retry, \
     server-timing, x-gpustack-untranslated";
/// Methods of paths that are not in the path table.
const METHODS: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";
/// The request headers that a response to a preflight depends on.
const PREFLIGHT_VARY: &str =
    "origin, access-control-request-method, access-control-request-headers";

/// The configured rules, checked and ready to apply.
#[derive(Debug)]
pub struct Cors {
    origins: Origins,
    methods: Option<HeaderValue>,
    /// Allowed request headers beside [`ALLOWED`], in lower case; None: any.
    headers: Option<Vec<String>>,
    expose: HeaderValue,
    credentials: bool,
    max_age: HeaderValue,
}

/// A rule that cannot be written into a header.
#[derive(Debug, thiserror::Error)]
#[error("CORS: {field} holds characters that no header may have.")]
pub struct CorsError {
    field: &'static str,
    source: InvalidHeaderValue,
}

#[derive(Debug)]
enum Origins {
    Any,
    /// In lower case. Browsers send origins so.
    Listed(Vec<String>),
}

impl Cors {
    /// That the rules make sense was checked where the configuration was read; here only what
    /// could not be written into a header is rejected.
    pub fn new(rules: &seam::Cors) -> Result<Self, CorsError> {
        let any = rules.origins.iter().any(|origin| origin == "*");
        let listed = rules.origins.iter().map(|origin| origin.to_ascii_lowercase()).collect();
        let text = |field: &'static str, text: String| {
            HeaderValue::try_from(text).map_err(|source| CorsError { field, source })
        };
        let expose = [&[EXPOSED.to_owned()], &rules.expose[..]].concat().join(", ");
        let any_header = rules.headers.iter().any(|name| name == "*");
        let methods = (!rules.methods.is_empty())
            .then(|| text("methods", rules.methods.join(", ").to_ascii_uppercase()));
        Ok(Self {
            origins: if any { Origins::Any } else { Origins::Listed(listed) },
            methods: methods.transpose()?,
            headers: (!any_header)
                .then(|| rules.headers.iter().map(|name| name.to_ascii_lowercase()).collect()),
            expose: text("expose", expose)?,
            credentials: rules.credentials,
            max_age: rules.max_age.as_secs().into(),
        })
    }

    /// The value of `Access-Control-Allow-Origin` for a request with these headers.
    pub fn grant(&self, request: &HeaderMap) -> Option<HeaderValue> {
        let origin = request.get(header::ORIGIN)?;
        match &self.origins {
            Origins::Any => Some(HeaderValue::from_static("*")),
            Origins::Listed(listed) => {
                let same =
                    |known: &String| known.as_bytes().eq_ignore_ascii_case(origin.as_bytes());
                listed.iter().any(same).then(|| origin.clone())
            }
        }
    }

    /// Adds the CORS fields to a response. `granted` is from [`Self::grant`] for its request.
    pub fn put(&self, response: &mut HeaderMap, granted: Option<HeaderValue>) {
        if matches!(self.origins, Origins::Listed(_)) {
            // With or without a grant: a cache must not give one origin's response to another.
            response.append(header::VARY, HeaderValue::from_static("origin"));
        }
        if granted.is_some() {
            response.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, self.expose.clone());
        }
        self.put_origin(response, granted);
    }

    /// The fields of the response to a preflight. `methods`: what the path takes; None for a path
    /// that is not in the path table.
    pub fn preflight(&self, request: &HeaderMap, methods: Option<&'static str>) -> HeaderMap {
        let mut response = HeaderMap::new();
        response.insert(header::VARY, HeaderValue::from_static(PREFLIGHT_VARY));
        let granted = self.grant(request);
        if granted.is_none() {
            return response;
        }
        self.put_origin(&mut response, granted);
        let methods =
            self.methods.clone().unwrap_or(HeaderValue::from_static(methods.unwrap_or(METHODS)));
        response.insert(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
        if let Some(allowed) = self.allowed_headers(request) {
            response.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, allowed);
        }
        response.insert(header::ACCESS_CONTROL_MAX_AGE, self.max_age.clone());
        response
    }

    fn put_origin(&self, response: &mut HeaderMap, granted: Option<HeaderValue>) {
        let Some(origin) = granted else { return };
        response.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        if self.credentials {
            response
                .insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
    }

    /// The headers that a preflight asks for and that are allowed; None when there are none.
    fn allowed_headers(&self, request: &HeaderMap) -> Option<HeaderValue> {
        let asked = request.get_all(header::ACCESS_CONTROL_REQUEST_HEADERS);
        let asked = asked.iter().flat_map(|value| tokens(value.as_bytes())).filter_map(|name| {
            let name = HeaderName::from_bytes(name).ok()?;
            self.allows_header(name.as_str()).then_some(name)
        });
        let allowed: Vec<_> = asked.map(|name| name.as_str().to_owned()).collect();
        if allowed.is_empty() { None } else { HeaderValue::try_from(allowed.join(", ")).ok() }
    }

    fn allows_header(&self, name: &str) -> bool {
        ALLOWED.contains(&name)
            || ALLOWED_FAMILIES.iter().any(|family| name.starts_with(family))
            || self.headers.as_ref().is_none_or(|more| more.iter().any(|known| known == name))
    }
}

/// Whether a page of another origin than this server's own sends the request, by its `Origin`.
/// Programs that are no browser send none, or that of the URL. `host`: that of the client's URL.
pub fn is_foreign(request: &HeaderMap, host: Option<&[u8]>) -> bool {
    let Some(origin) = request.get(header::ORIGIN) else { return false };
    let own = host.and_then(|host| {
        let (scheme, authority) = origin.to_str().ok()?.split_once("://")?;
        let port = if scheme.eq_ignore_ascii_case("https") { ":443" } else { ":80" };
        let plain = |text: &str| text.strip_suffix(port).unwrap_or(text).to_ascii_lowercase();
        Some(plain(authority) == plain(std::str::from_utf8(host).ok()?))
    });
    own != Some(true)
}

/// Whether a request is a preflight: it only asks whether another may be made.
pub fn is_preflight(request: &HeaderMap) -> bool {
    request.contains_key(header::ORIGIN)
        && request.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(origins: &[&str]) -> seam::Cors {
        seam::Cors {
            origins: origins.iter().map(ToString::to_string).collect(),
            methods: vec![],
            headers: vec![],
            expose: vec![],
            credentials: false,
            max_age: std::time::Duration::from_secs(600),
        }
    }

    fn request(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        fields
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    fn lines(headers: &HeaderMap) -> Vec<String> {
        let mut lines: Vec<_> = headers
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect();
        lines.sort();
        lines
    }

    #[test]
    fn only_a_listed_origin_is_granted_and_it_alone_is_named() {
        let cors = Cors::new(&rules(&["https://Chat.example", "http://localhost:3000"])).unwrap();
        let granted = |origin| {
            cors.grant(&request(&[("origin", origin)]))
                .map(|value| value.to_str().unwrap().to_owned())
        };
        assert_eq!(granted("https://chat.example").as_deref(), Some("https://chat.example"));
        assert_eq!(granted("http://localhost:3000").as_deref(), Some("http://localhost:3000"));
        for other in [
            "http://chat.example",
            "https://chat.example:8443",
            "https://chat.example.evil",
            "null",
            "",
        ] {
            assert_eq!(granted(other), None, "{other}");
        }
        assert_eq!(cors.grant(&HeaderMap::new()), None);
    }

    #[test]
    fn a_page_of_this_servers_own_host_and_what_is_no_browser_are_not_foreign() {
        for (origin, host, foreign) in [
            ("http://gateway:8080", "gateway:8080", false),
            ("https://Gateway.example", "gateway.example", false),
            ("https://gateway.example", "gateway.example:443", false),
            ("http://gateway.example:80", "gateway.example", false),
            ("http://127.0.0.1:3000", "127.0.0.1:8080", true),
            ("https://gateway.example.evil", "gateway.example", true),
            ("https://gateway.example:8443", "gateway.example", true),
            ("null", "gateway.example", true),
            ("", "gateway.example", true),
        ] {
            let asked = request(&[("origin", origin)]);
            assert_eq!(is_foreign(&asked, Some(host.as_bytes())), foreign, "{origin} {host}");
        }
        assert!(!is_foreign(&request(&[]), Some(b"gateway.example")));
    }

    #[test]
    fn a_response_says_what_it_depends_on_and_what_may_be_read() {
        let cors = Cors::new(&seam::Cors {
            expose: vec!["x-mine".to_owned()],
            credentials: true,
            ..rules(&["https://a.example"])
        });
        let (cors, mut response) = (cors.unwrap(), request(&[("vary", "accept-encoding")]));
        cors.put(&mut response, None);
        assert_eq!(lines(&response), ["vary: accept-encoding", "vary: origin"]);
        cors.put(&mut response, Some(HeaderValue::from_static("https://a.example")));
        assert!(lines(&response).contains(&"access-control-allow-credentials: true".to_owned()));
        assert!(
            lines(&response).contains(&"access-control-allow-origin: https://a.example".to_owned())
        );
        let exposed = response[header::ACCESS_CONTROL_EXPOSE_HEADERS].to_str().unwrap();
        assert!(
            exposed.starts_with("x-request-id, ") && exposed.ends_with(", x-mine"),
            "{exposed}"
        );
        let mut response = HeaderMap::new();
        Cors::new(&rules(&["*"])).unwrap().put(&mut response, Some(HeaderValue::from_static("*")));
        assert!(!response.contains_key(header::VARY), "for all origins alike");
    }

    #[test]
    fn a_preflight_tells_the_methods_and_those_headers_that_may_be_set() {
        let cors =
            Cors::new(&seam::Cors { headers: vec!["X-Mine".to_owned()], ..rules(&["*"]) }).unwrap();
        let asked = request(&[
            ("origin", "https://a.example"),
            ("access-control-request-method", "POST"),
            ("access-control-request-headers", "authorization,x-mine, x-other,X-Stainless-OS"),
        ]);
        assert!(is_preflight(&asked));
        assert_eq!(
            lines(&cors.preflight(&asked, Some("POST, OPTIONS"))),
            [
                "access-control-allow-headers: authorization, x-mine, x-stainless-os",
                "access-control-allow-methods: POST, OPTIONS",
                "access-control-allow-origin: *",
                "access-control-max-age: 600",
                &format!("vary: {PREFLIGHT_VARY}"),
            ]
        );
        let cors = Cors::new(&seam::Cors {
            headers: vec!["*".to_owned()],
            methods: vec!["get".to_owned()],
            ..rules(&["https://b.example"])
        });
        let cors = cors.unwrap();
        assert_eq!(
            lines(&cors.preflight(&asked, None)),
            [format!("vary: {PREFLIGHT_VARY}")],
            "not for this origin"
        );
        let asked = request(&[
            ("origin", "https://b.example"),
            ("access-control-request-headers", "x-other"),
        ]);
        let response = cors.preflight(&asked, Some("POST"));
        assert_eq!(
            (&response["access-control-allow-methods"], &response["access-control-allow-headers"]),
            (&HeaderValue::from_static("GET"), &HeaderValue::from_static("x-other"))
        );
    }

    #[test]
    fn rules_that_no_header_can_hold_are_refused() {
        for wrong in [
            seam::Cors { methods: vec!["GET\n".to_owned()], ..rules(&["*"]) },
            seam::Cors { expose: vec!["x-\u{7f}".to_owned()], ..rules(&["*"]) },
        ] {
            assert!(Cors::new(&wrong).unwrap_err().to_string().contains("no header may have"));
        }
    }
}
