//! The path table: one row for each endpoint.

use http::Method;

use crate::error::Dialect;

/// What a path means to the data plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// A request for an engine, whose model is named in its body.
    Inference(Inference),
    /// `GET /v1/models`
    ListModels,
    /// `GET /v1/models/{id}`; the id is what follows the row's path.
    ShowModel,
    /// The process answers.
    Healthz,
    /// Inference requests can be served.
    Readyz,
    /// Prometheus text.
    Metrics,
}

/// What may happen to an inference request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inference {
    /// How the request names its model.
    pub body: BodyKind,
    /// Whether a request that reached an engine which then died may be sent once more (it costs only time).
    pub resend: bool,
    /// Where the answer carries the model's name.
    pub model_in_answer: ModelPlace,
}

/// How a request's body is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyKind {
    /// A JSON object with `model` at its top level.
    Json,
}

/// Where an answer, and each frame of a stream, carries the model's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelPlace {
    /// `model` at the top level, everywhere.
    TopLevel,
    /// `model` at the top level of a whole answer, `response.model` in the events of a stream.
    Response,
    /// `model` at the top level of a whole answer, `message.model` in a stream's `message_start`.
    Message,
    /// Nowhere: the answer is not looked into.
    Nowhere,
}

/// One endpoint.
#[derive(Debug)]
pub struct Row {
    /// The literal path; for [`Endpoint::ShowModel`] a prefix.
    pub path: &'static str,
    /// The method, and what `Allow` says to others.
    pub method: Method,
    /// Its error shape.
    pub dialect: Dialect,
    /// Its meaning.
    pub endpoint: Endpoint,
}

const GENERATE: Endpoint =
    Endpoint::Inference(Inference { body: BodyKind::Json, resend: true, model_in_answer: ModelPlace::TopLevel });

#[rustfmt::skip]
static ROWS: &[Row] = &[
    Row { path: "/v1/chat/completions", method: Method::POST, dialect: Dialect::OpenAi,     endpoint: GENERATE },
    Row { path: "/v1/completions",      method: Method::POST, dialect: Dialect::OpenAi,     endpoint: GENERATE },
    Row { path: "/v1/models",           method: Method::GET,  dialect: Dialect::OpenAi,     endpoint: Endpoint::ListModels },
    Row { path: "/v1/models/",          method: Method::GET,  dialect: Dialect::OpenAi,     endpoint: Endpoint::ShowModel },
    Row { path: "/healthz",             method: Method::GET,  dialect: Dialect::Management, endpoint: Endpoint::Healthz },
    Row { path: "/readyz",              method: Method::GET,  dialect: Dialect::Management, endpoint: Endpoint::Readyz },
    Row { path: "/metrics",             method: Method::GET,  dialect: Dialect::Management, endpoint: Endpoint::Metrics },
];

/// What a request line leads to.
#[derive(Debug)]
pub enum Found {
    /// This row.
    Row(&'static Row),
    /// This row's path, with a method that it does not take.
    WrongMethod(&'static Row),
    /// An API path that this version does not have: answered here, in the API's dialect.
    NoSuchEndpoint(Dialect),
    /// Everything else: the management API answers.
    ControlPlane,
}

/// Finds the row of a path. Paths are compared literally: nothing is decoded, merged or trimmed (spec/wire.md 8.4).
pub fn find(method: &Method, path: &str) -> Found {
    let matches = |row: &&Row| match row.endpoint {
        Endpoint::ShowModel => path.len() > row.path.len() && path.starts_with(row.path),
        _ => path == row.path,
    };
    match ROWS.iter().find(matches) {
        Some(row) if row.method == *method || (row.method == Method::GET && *method == Method::HEAD) => Found::Row(row),
        Some(row) => Found::WrongMethod(row),
        None if path.starts_with("/v1/messages") => Found::NoSuchEndpoint(Dialect::Anthropic),
        None if path.starts_with("/v1/") || path == "/v1" => Found::NoSuchEndpoint(Dialect::OpenAi),
        None => Found::ControlPlane,
    }
}

/// What `Allow` says of a path; None: it is not in the table.
pub fn allow(path: &str) -> Option<&'static str> {
    match find(&Method::GET, path) {
        Found::Row(_) => Some("GET, HEAD, OPTIONS"),
        Found::WrongMethod(_) => Some("POST, OPTIONS"),
        _ => None,
    }
}

/// Undoes percent-encoding in a path segment. A malformed escape stays as it is.
pub fn percent_decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escape = (bytes[at] == b'%').then(|| bytes.get(at + 1..at + 3)).flatten();
        let value = escape
            .filter(|digits| digits.iter().all(u8::is_ascii_hexdigit))
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        decoded.push(value.unwrap_or(bytes[at]));
        at += if value.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_matched_literally() {
        assert!(
            matches!(find(&Method::POST, "/v1/chat/completions"), Found::Row(row) if row.path == "/v1/chat/completions")
        );
        assert!(matches!(find(&Method::GET, "/v1/chat/completions"), Found::WrongMethod(_)));
        assert!(matches!(find(&Method::HEAD, "/v1/models"), Found::Row(_)));
        assert!(matches!(find(&Method::GET, "/v1/models/a/b"), Found::Row(row) if row.endpoint == Endpoint::ShowModel));
        assert!(matches!(find(&Method::GET, "/v1/models/"), Found::NoSuchEndpoint(Dialect::OpenAi)));
        assert!(matches!(find(&Method::POST, "/v1//chat/completions"), Found::NoSuchEndpoint(Dialect::OpenAi)));
        assert!(matches!(find(&Method::POST, "/v1/messages"), Found::NoSuchEndpoint(Dialect::Anthropic)));
        assert!(matches!(find(&Method::GET, "/version"), Found::ControlPlane));
    }

    #[test]
    fn percent_decoding_keeps_what_is_no_escape() {
        assert_eq!(percent_decode("Qwen%2FQwen3%3a8b"), "Qwen/Qwen3:8b");
        assert_eq!(percent_decode("100%"), "100%");
        assert_eq!(percent_decode("%zz%4"), "%zz%4");
        assert_eq!(percent_decode("caf%C3%A9"), "café");
    }
}
