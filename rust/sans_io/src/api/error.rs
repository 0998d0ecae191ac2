//! Errors for a caller: the status, the words, and the body in the caller's dialect.

use bytes::Bytes;
use serde_json::{Value, json};

/// The dialect of an error body. The path decides it: the SDKs of both vendors read one shape each,
/// whatever they have sent. Where it belongs to both APIs, or to none, `anthropic-version` does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// `{"error": {"message", "type", "param", "code"}}`
    OpenAi,
    /// The same, of the Responses API: its streams have events with names.
    Responses,
    /// `{"type": "error", "error": {"type", "message"}, "request_id"}`
    Anthropic,
    /// GPUStack's `{"code", "reason", "message"}`
    Management,
}

impl Dialect {
    /// An error's body, a JSON document in one line, as an event of a stream.
    pub fn error_event(self, body: &[u8]) -> Bytes {
        match self {
            Self::Responses => responses_events(body),
            Self::Anthropic => [b"event: error\ndata: ", body, b"\n\n"].concat().into(),
            Self::OpenAi | Self::Management => [b"data: ", body, b"\n\n"].concat().into(),
        }
    }

    /// Whether its bodies have `OpenAI`'s shape.
    pub(crate) fn is_openais(self) -> bool {
        matches!(self, Self::OpenAi | Self::Responses)
    }
}

/// An error's body as the events with which `OpenAI`'s servers end a stream of the Responses API:
/// `error`, which the SDK raises, and which has its members flat, too, as the API reference says; then
/// `response.failed`, which Codex reads. How many events came before is not known here.
fn responses_events(body: &[u8]) -> Bytes {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let error = &body["error"];
    let (code, message, param) = (&error["code"], &error["message"], &error["param"]);
    let told = json!({
        "type": "error", "sequence_number": 0, "code": code, "message": message, "param": param,
        "error": error,
    });
    let failed = json!({
        "type": "response.failed", "sequence_number": 1,
        "response": {
            "id": "resp_failed", "object": "response", "status": "failed", "output": [],
            "error": {"code": code, "message": message},
        },
    });
    format!("event: error\ndata: {told}\n\nevent: response.failed\ndata: {failed}\n\n").into()
}

/// The cause of an error, by the names of the statuses and codes that clients know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The request cannot be understood.
    BadRequest,
    /// No key, or an unknown one.
    Unauthorized,
    /// The key may not use this.
    Forbidden,
    /// A page of another site has made the request in somebody's browser.
    CrossSite,
    /// No such path.
    NotFound,
    /// No such route.
    ModelNotFound,
    /// No stored response of this id that belongs to the key.
    ResponseNotFound,
    /// The path exists, with other methods.
    MethodNotAllowed,
    /// The Content-Encoding of the body is not supported.
    UnsupportedEncoding,
    /// The client stopped sending.
    RequestTimeout,
    /// The body is over the limit.
    TooLarge,
    /// The path is longer than a head may be.
    UriTooLong,
    /// `Expect` asks for something else than a 100.
    ExpectationFailed,
    /// The head is over the limit.
    HeadTooLarge,
    /// A framing of the body that this server does not know.
    NotImplemented,
    /// A version of HTTP that this server does not speak.
    VersionNotSupported,
    /// The request is for another host.
    Misdirected,
    /// No instance runs.
    NoRunningInstance,
    /// All instances that run have as many requests as they are given.
    Overloaded,
    /// This server has as many requests, connections or bytes of them as it may.
    ServerOverloaded,
    /// This machine lacks something: descriptors, ports, memory, or room on a disk.
    OutOfResources,
    /// No table was published yet.
    Starting,
    /// The drain waits no longer.
    Stopping,
    /// The management API cannot be reached.
    ManagementUnavailable,
    /// The request could not be translated for its engine, for no fault of its own.
    TranslationFailed,
    /// The engine failed.
    BadGateway,
    /// The engine was too slow.
    GatewayTimeout,
}

impl Cause {
    /// The number of causes.
    pub const COUNT: usize = Self::GatewayTimeout as usize + 1;

    /// The HTTP status.
    pub const fn status(self) -> u16 {
        self.status_and_reason().0
    }

    /// `reason` of the management shape: the words of GPUStack's `api/exceptions.py`.
    const fn management(self) -> &'static str {
        self.status_and_reason().1
    }

    const fn status_and_reason(self) -> (u16, &'static str) {
        match self {
            Self::BadRequest => (400, "BadRequest"),
            Self::Unauthorized => (401, "Unauthorized"),
            Self::Forbidden | Self::CrossSite => (403, "Forbidden"),
            Self::NotFound | Self::ModelNotFound | Self::ResponseNotFound => (404, "NotFound"),
            Self::MethodNotAllowed => (405, "MethodNotAllowed"),
            Self::RequestTimeout => (408, "RequestTimeout"),
            Self::TooLarge => (413, "PayloadTooLarge"),
            Self::UriTooLong => (414, "URITooLong"),
            Self::UnsupportedEncoding => (415, "UnsupportedMediaType"),
            Self::ExpectationFailed => (417, "ExpectationFailed"),
            Self::Misdirected => (421, "MisdirectedRequest"),
            Self::HeadTooLarge => (431, "RequestHeaderFieldsTooLarge"),
            Self::NotImplemented => (501, "NotImplemented"),
            Self::BadGateway => (502, "BadGateway"),
            Self::NoRunningInstance
            | Self::Overloaded
            | Self::ServerOverloaded
            | Self::OutOfResources
            | Self::Starting
            | Self::Stopping
            | Self::ManagementUnavailable
            | Self::TranslationFailed => (503, "ServiceUnavailable"),
            Self::GatewayTimeout => (504, "GatewayTimeout"),
            Self::VersionNotSupported => (505, "HTTPVersionNotSupported"),
        }
    }

    /// `error.code` of OpenAI's shape.
    pub const fn code(self) -> &'static str {
        self.openai().1
    }

    /// `error.type` and `error.code` of OpenAI's shape. The SDK builds its exceptions from them
    /// (OpenAI API reference, "Error codes"). OpenAI's servers leave out codes here and there:
    /// programs that look a code up in a table, or call a method of it, fail on null.
    const fn openai(self) -> (&'static str, &'static str) {
        match self {
            Self::BadRequest => ("invalid_request_error", "invalid_request"),
            Self::MethodNotAllowed => ("invalid_request_error", "method_not_allowed"),
            Self::TooLarge => ("invalid_request_error", "request_too_large"),
            Self::RequestTimeout => ("invalid_request_error", "request_timeout"),
            Self::UriTooLong => ("invalid_request_error", "uri_too_long"),
            Self::ExpectationFailed => ("invalid_request_error", "expectation_failed"),
            Self::HeadTooLarge => ("invalid_request_error", "head_too_large"),
            Self::NotImplemented => ("invalid_request_error", "not_implemented"),
            Self::VersionNotSupported => ("invalid_request_error", "http_version_not_supported"),
            Self::NotFound => ("invalid_request_error", "not_found"),
            Self::Unauthorized => ("invalid_request_error", "invalid_api_key"),
            Self::Forbidden => ("permission_error", "model_not_allowed"),
            Self::CrossSite => ("permission_error", "cross_site_request"),
            Self::Misdirected => ("invalid_request_error", "unknown_host"),
            Self::ModelNotFound => ("invalid_request_error", "model_not_found"),
            Self::ResponseNotFound => ("invalid_request_error", "response_not_found"),
            Self::UnsupportedEncoding => ("invalid_request_error", "unsupported_content_encoding"),
            Self::NoRunningInstance => ("server_error", "no_running_instance"),
            Self::Overloaded => ("server_error", "engine_overloaded"),
            Self::ServerOverloaded => ("server_error", "server_overloaded"),
            Self::OutOfResources => ("server_error", "server_out_of_resources"),
            Self::Starting => ("server_error", "server_starting"),
            Self::Stopping => ("server_error", "server_stopping"),
            Self::ManagementUnavailable => ("server_error", "management_unavailable"),
            Self::TranslationFailed => ("server_error", "translation_failed"),
            Self::BadGateway => ("server_error", "engine_error"),
            Self::GatewayTimeout => ("server_error", "engine_timeout"),
        }
    }

    /// `error.type` of Anthropic's shape (Claude API reference, "Errors").
    const fn anthropic(self) -> &'static str {
        match self {
            Self::BadRequest
            | Self::MethodNotAllowed
            | Self::RequestTimeout
            | Self::UriTooLong
            | Self::ExpectationFailed
            | Self::HeadTooLarge
            | Self::NotImplemented
            | Self::VersionNotSupported
            | Self::Misdirected
            | Self::UnsupportedEncoding => "invalid_request_error",
            Self::Unauthorized => "authentication_error",
            Self::Forbidden | Self::CrossSite => "permission_error",
            Self::NotFound | Self::ModelNotFound | Self::ResponseNotFound => "not_found_error",
            Self::TooLarge => "request_too_large",
            Self::NoRunningInstance
            | Self::Overloaded
            | Self::ServerOverloaded
            | Self::OutOfResources
            | Self::Starting
            | Self::Stopping
            | Self::ManagementUnavailable => "overloaded_error",
            Self::BadGateway | Self::TranslationFailed => "api_error",
            Self::GatewayTimeout => "timeout_error",
        }
    }
}

/// An error response of this server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    /// The cause; decides status, types and codes.
    pub cause: Cause,
    /// A whole sentence or two: the cause and what to do. Never a key, a prompt or a body.
    pub message: String,
    /// `Retry-After`, in seconds.
    pub retry_after: Option<u32>,
    /// Sends `x-should-retry: false`: both SDKs then do not repeat the request.
    pub do_not_retry: bool,
    /// `Allow`, for a 405.
    pub allow: Option<&'static str>,
    /// Whether the connection must end with this response, since the rest of the request was not
    /// read.
    pub close: bool,
}

impl ApiError {
    /// An error with its words alone.
    pub fn new(cause: Cause, message: impl Into<String>) -> Self {
        Self {
            cause,
            message: message.into(),
            retry_after: None,
            do_not_retry: false,
            allow: None,
            close: false,
        }
    }

    /// Adds `Retry-After`, in seconds.
    #[must_use]
    pub fn retry_after(self, seconds: u32) -> Self {
        Self { retry_after: Some(seconds), ..self }
    }

    /// Ends the connection with this response.
    #[must_use]
    pub fn closing(self) -> Self {
        Self { close: true, ..self }
    }

    /// The JSON body in a dialect.
    pub fn body(&self, dialect: Dialect, request_id: &str) -> Bytes {
        let document = match dialect {
            Dialect::OpenAi | Dialect::Responses => {
                let (kind, code) = self.cause.openai();
                json!({"error": {"message": self.message, "type": kind, "param": null, "code": code}})
            }
            Dialect::Anthropic => json!({
                "type": "error",
                "error": {"type": self.cause.anthropic(), "message": self.message},
                "request_id": request_id,
            }),
            Dialect::Management => json!({
                "code": self.cause.status(),
                "reason": self.cause.management(),
                "message": self.message,
            }),
        };
        Bytes::from(document.to_string())
    }

    /// The error as one event of a stream that has begun. No end mark of a good stream (`[DONE]`,
    /// `message_stop`) may follow it: both SDKs would take the stream for complete.
    pub fn event(&self, dialect: Dialect, request_id: &str) -> Bytes {
        dialect.error_event(&self.body(dialect, request_id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_dialect_tells_the_same_error_in_its_own_shape() {
        let error = ApiError::new(Cause::ModelNotFound, "Model \"x\" was not found.");
        let parse = |bytes: Bytes| serde_json::from_slice::<serde_json::Value>(&bytes).unwrap();
        assert_eq!(
            parse(error.body(Dialect::OpenAi, "r1")),
            json!({"error": {"message": "Model \"x\" was not found.", "type": "invalid_request_error",
                "param": null, "code": "model_not_found"}})
        );
        assert_eq!(
            parse(error.body(Dialect::Anthropic, "r1")),
            json!({"type": "error", "error": {"type": "not_found_error", "message": "Model \"x\" \
                was not found."},
                "request_id": "r1"})
        );
        assert_eq!(
            parse(error.body(Dialect::Management, "r1")),
            json!({"code": 404, "reason": "NotFound", "message": "Model \"x\" was not found."})
        );
    }

    #[test]
    fn an_event_is_one_frame_that_the_dialects_sdk_raises_on() {
        let error = ApiError::new(Cause::BadGateway, "two\nlines");
        let openai = error.event(Dialect::OpenAi, "r1");
        assert!(openai.starts_with(b"data: {\"error\":{"), "{openai:?}");
        assert_eq!(
            memchr::memchr_iter(b'\n', &openai).count(),
            2,
            "a line break in the words stays escaped"
        );
        assert!(
            error.event(Dialect::Anthropic, "r1").starts_with(b"event: error\ndata: {\"error\"")
        );
    }
}
