//! What an engine reports in an error, whatever its shape.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::{Value, value::RawValue};

use super::overflow::Overflow;
use crate::codec::sse;

/// `error.code` of a request with more tokens than its model takes.
pub(super) const OVERFLOW_CODE: &str = "context_length_exceeded";

/// `error.code` of a model that the engine does not have, which clients look for.
const MODEL_NOT_FOUND: &str = "model_not_found";

/// The status of an error in a stream that says none.
pub(super) const UNSAID: u16 = 500;

/// The message of an error in a stream that has none.
pub(super) const WITHOUT_WORDS: &str =
    "The engine reported an error without words; send the request again.";

/// The most characters of a text that is not JSON, or of an over-long message in a stream.
pub(super) const SHOWN: usize = 500;

/// The longest error that is looked for in a good response, in bytes.
const ERROR_READ: usize = 64 * 1024;

/// The values of `error.type` in Anthropic's dialect (Claude API reference, "Errors").
pub(super) const ANTHROPIC_TYPES: [&str; 11] = [
    "invalid_request_error",
    "authentication_error",
    "billing_error",
    "permission_error",
    "not_found_error",
    "conflict_error",
    "request_too_large",
    "rate_limit_error",
    "api_error",
    "timeout_error",
    "overloaded_error",
];

/// Fields found in an engine's error of any known shape.
pub(super) struct Report {
    /// None: it has no words where engines have them.
    pub message: Option<String>,
    pub param: Option<String>,
    /// A number is told as its digits.
    pub code: Option<String>,
    /// The status by its `code`, `status` or `type`.
    pub status: Option<u16>,
    /// None when its `type` is none of [`ANTHROPIC_TYPES`], or says nothing.
    kind: Option<&'static str>,
    /// The request has more tokens than its model takes.
    pub overflow: Option<Overflow>,
}

impl Report {
    /// Reads a body, or the data of an event. `status`: what the response says, if it is an error.
    pub(super) fn read(status: Option<u16>, value: &Value) -> Self {
        // Gemini's servers put the error into a list.
        let value = match value.as_array().map(Vec::as_slice) {
            Some([one]) => one,
            _ => value,
        };
        // OpenAI's and Anthropic's have it inside, TensorRT-LLM's at the top.
        let error = if value["error"].is_object() { &value["error"] } else { value };
        let message = text(&error["message"])
            .or_else(|| text(&value["error"]))
            .or_else(|| detail(&value["detail"]))
            .or_else(|| text(value));
        let kind = error["type"].as_str().unwrap_or_default();
        let known = ANTHROPIC_TYPES.into_iter().find(|&known| known == kind);
        let status = status.or_else(|| status_in(error));
        let may_overflow = !matches!(status, Some(401..=409 | 429));
        let overflow = may_overflow
            .then(|| Overflow::read(error, message.as_deref().unwrap_or_default()))
            .flatten();
        let code = text(&error["code"]).or_else(|| number(&error["code"]));
        let is_own = code.as_deref().is_some_and(|code| code.parse::<u16>().is_err());
        let names_model =
            status == Some(404) && !is_own && message.as_deref().is_some_and(lacks_model);
        Self {
            message,
            param: text(&error["param"]),
            code: if names_model { Some(MODEL_NOT_FOUND.to_owned()) } else { code },
            status,
            // Engines write it for want of a better one.
            kind: known.filter(|&known| known != "api_error"),
            overflow,
        }
    }

    /// Reads the body of a response of `status` (400 or more), which always has a message then.
    /// `value`: the body, if it is JSON.
    pub(super) fn of_body(status: u16, body: &[u8], value: Option<&Value>) -> Self {
        let report = Self::read(Some(status), value.unwrap_or(&Value::Null));
        if report.message.is_some() {
            return report;
        }
        let words = Self::read(Some(status), &Value::from(unknown(status, body)));
        Self { message: words.message, overflow: words.overflow.or(report.overflow), ..report }
    }

    /// `error.type` and `error.message` in Anthropic's dialect.
    pub(super) fn in_anthropics_words(&self, default: u16) -> (&'static str, String) {
        let message = self.message.as_deref().unwrap_or_default();
        if let Some(overflow) = self.overflow {
            return ("invalid_request_error", overflow.in_anthropics_words(message));
        }
        let kind = self.kind.unwrap_or_else(|| anthropic_type(self.status.unwrap_or(default)));
        (kind, message.to_owned())
    }
}

/// What a frame says of an error by its form alone, whatever is in it: the data of an event named
/// `error`, or the field `error` that llama.cpp's server wrote until 2025. None: it is none of these.
pub(crate) fn named(frame: &[u8]) -> Option<Cow<'_, [u8]>> {
    let own = sse::lines(frame).map(sse::field).filter(|(name, _)| *name == b"error").last();
    if let Some((_, value)) = own {
        return Some(value.into());
    }
    let is_named = sse::event_name(frame) == b"error";
    is_named.then(|| sse::data(frame)).flatten().filter(|data| data.trim_ascii() != b"[DONE]")
}

/// `error.type` and `error.message` in Anthropic's dialect for an error that a stream of chat
/// chunks ends with.
pub(crate) fn in_stream(data: &[u8]) -> (&'static str, String) {
    let (kind, message) = Report::read(None, &said(data)).in_anthropics_words(UNSAID);
    (kind, if message.is_empty() { WITHOUT_WORDS.to_owned() } else { message })
}

/// The data of an error: JSON, or a text.
pub(super) fn said(data: &[u8]) -> Value {
    let text = || Value::from(shown(&String::from_utf8_lossy(data)));
    serde_json::from_slice(data).unwrap_or_else(|_| text())
}

/// The status for a client where the engine's does not fit: for an error with the status of a good
/// response, and for a request with more tokens than its model takes, which is 400. None: it fits.
///
/// What an engine says of keys is nothing that the client can mend: that is 502, as for any error
/// of which nothing is known.
pub fn true_status(status: u16, body: &[u8]) -> Option<u16> {
    if status < 400 {
        let value = error_of_success(body)?;
        let report = Report::read(None, &value);
        return Some(match report.status {
            _ if report.overflow.is_some() => 400,
            Some(401 | 403 | 407) | None => 502,
            Some(status) => status,
        });
    }
    let value = serde_json::from_slice::<Value>(body).ok();
    let overflow = Report::of_body(status, body, value.as_ref()).overflow;
    (status != 400 && overflow.is_some()).then_some(400)
}

/// The members by which an error is told from what was asked for.
#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    error: Option<&'a RawValue>,
    #[serde(borrow)]
    object: Option<&'a RawValue>,
    #[serde(borrow, rename = "type")]
    kind: Option<&'a RawValue>,
}

/// The error that stands in place of what was asked for: in OpenAI's or Anthropic's shape, as a
/// bare string (vLLM), or flat (TensorRT-LLM).
fn error_of_success(body: &[u8]) -> Option<Value> {
    // A completion's own `error` is null, and its text may be long.
    memchr::memmem::find(body, b"error").filter(|_| body.trim_ascii_start().starts_with(b"{"))?;
    let envelope: Envelope<'_> = serde_json::from_slice(body).ok()?;
    let is = |member: Option<&RawValue>, word| member.is_some_and(|raw| raw.get() == word);
    let says = |raw: &RawValue| raw.get().len() > 2 && raw.get().starts_with(['{', '"']);
    let flat = is(envelope.object, "\"error\"") || is(envelope.kind, "\"error\"");
    match envelope.error {
        Some(error) if says(error) && error.get().len() <= ERROR_READ => {
            Some(serde_json::json!({"error": serde_json::from_str::<Value>(error.get()).ok()?}))
        }
        _ if flat && body.len() <= ERROR_READ => serde_json::from_slice(body).ok(),
        _ => None,
    }
}

/// The status that an error object tells: by a word that means one, or by a number.
fn status_in(error: &Value) -> Option<u16> {
    let by_word = |member: &str| error[member].as_str().and_then(status_of_word);
    let by_number = |member: &str| {
        let value = &error[member];
        let number = value.as_u64().or_else(|| value.as_str()?.parse().ok())?;
        u16::try_from(number).ok().filter(|status| (400..600).contains(status))
    };
    let kind = by_word("type");
    kind.filter(|&status| status != 500)
        .or_else(|| {
            ["code", "status", "status_code", "http_status"].into_iter().find_map(by_number)
        })
        .or_else(|| ["code", "status"].into_iter().find_map(by_word))
        .or(kind)
}

/// The status that an engine's word for an error means: vLLM writes `BadRequestError`, `Not Found`,
/// `internal_error`, OpenAI's servers `rate_limit_exceeded`, Google's `RESOURCE_EXHAUSTED`.
pub(super) fn status_of_word(word: &str) -> Option<u16> {
    let plain: String =
        word.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect();
    Some(match plain.strip_suffix("error").unwrap_or(&plain) {
        "badrequest"
        | "invalidrequest"
        | "unprocessableentity"
        | "validation"
        | "value"
        | "invalidargument"
        | "contextlengthexceeded"
        | "exceedcontextsize" => 400,
        "unauthorized" | "authentication" | "invalidapikey" | "unauthenticated" => 401,
        "billing" => 402,
        "forbidden" | "permission" | "permissiondenied" => 403,
        "notfound" | "modelnotfound" => 404,
        "conflict" => 409,
        "requesttoolarge" | "contenttoolarge" | "payloadtoolarge" => 413,
        "toomanyrequests" | "ratelimit" | "ratelimitexceeded" | "insufficientquota"
        | "resourceexhausted" => 429,
        "internalserver" | "internal" | "server" | "api" => 500,
        "badgateway" => 502,
        "serviceunavailable" | "overloaded" | "engineoverloaded" | "serveroverloaded"
        | "unavailable" => 503,
        "timeout" | "gatewaytimeout" | "deadlineexceeded" => 504,
        _ => return None,
    })
}

/// `error.type` of Anthropic's shape for a status.
pub(super) fn anthropic_type(status: u16) -> &'static str {
    match status {
        401 => "authentication_error",
        402 => "billing_error",
        403 => "permission_error",
        404 => "not_found_error",
        409 => "conflict_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        503 | 529 => "overloaded_error",
        504 => "timeout_error",
        500.. => "api_error",
        _ => "invalid_request_error",
    }
}

/// `error.type` of OpenAI's shape for a status.
pub(super) fn openai_type(status: u16) -> &'static str {
    match status {
        403 => "permission_error",
        429 => "rate_limit_exceeded",
        500.. => "server_error",
        _ => "invalid_request_error",
    }
}

/// `error.code` of OpenAI's shape for an error that has none of its own.
pub(super) fn openai_code(status: u16) -> &'static str {
    match status {
        401 => "invalid_api_key",
        403 => "permission_denied",
        404 => "not_found",
        409 => "conflict",
        413 => "request_too_large",
        429 => "rate_limit_exceeded",
        503 | 529 => "engine_overloaded",
        504 => "engine_timeout",
        500.. => "engine_error",
        _ => "invalid_request",
    }
}

/// Whether an engine's words say that it has no such model: vLLM's and `SGLang`'s `The model ... does
/// not exist`, llama.cpp's `model ... not found`.
fn lacks_model(message: &str) -> bool {
    let said = message.to_ascii_lowercase();
    said.contains("model") && (said.contains("not exist") || said.contains("not found"))
}

/// A string with something in it.
pub(super) fn text(value: &Value) -> Option<String> {
    value.as_str().filter(|text| !text.trim().is_empty()).map(str::to_owned)
}

fn number(value: &Value) -> Option<String> {
    value.as_number().map(ToString::to_string)
}

/// The text of a `detail`: a string, or a list of `{"loc", "msg"}` (`FastAPI`).
fn detail(detail: &Value) -> Option<String> {
    if let Some(text) = detail.as_str() {
        return Some(text.to_owned()).filter(|text| !text.is_empty());
    }
    let problems = detail.as_array()?.iter().filter_map(|problem| {
        let places = problem["loc"].as_array().map(Vec::as_slice).unwrap_or_default();
        let places: Vec<String> = places
            .iter()
            .map(|place| place.as_str().map_or_else(|| place.to_string(), str::to_owned))
            .collect();
        let message = problem["msg"].as_str()?;
        Some(if places.is_empty() {
            message.to_owned()
        } else {
            format!("{}: {message}", places.join("."))
        })
    });
    let problems: Vec<String> = problems.collect();
    (!problems.is_empty()).then(|| problems.join("; "))
}

/// The message for a body without one where engines have it.
fn unknown(status: u16, body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let text = text.trim();
    let said = if text.is_empty() {
        "without a word".to_owned()
    } else if text.starts_with('<') {
        "and a page of HTML".to_owned()
    } else {
        return shown(text);
    };
    format!(
        "The engine responded with status {status} {said}. Send the request again, or look into \
         the engine's log."
    )
}

/// The text, cut to [`SHOWN`] characters.
pub(super) fn shown(text: &str) -> String {
    text.chars().take(SHOWN).collect()
}
