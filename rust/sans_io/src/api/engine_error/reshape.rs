//! Reshapes engines' errors: into the shape and the vocabulary of the client's dialect, without the
//! engine's own names and paths.
//!
//! Engines write errors in many shapes: OpenAI's with an integer `code` (vLLM), Anthropic's with
//! other words in `type` (vLLM), a string `error` (vLLM's 401), a `detail` (`FastAPI`),
//! TensorRT-LLM's flat object, plain text, HTML, nothing. An error that an SDK can read already
//! passes byte for byte but for the names, and in OpenAI's dialect but for its `code`: that is a
//! string, as OpenAI's servers write it and the SDKs declare it.

use std::ops::Range;

use serde_json::{Value, json};

use crate::{
    api::error::Dialect,
    codec::{json::find_last, splice::edited},
};

use super::names::{redact, redact_in_json};
use super::overflow::Overflow;
use super::report::{
    ANTHROPIC_TYPES, OVERFLOW_CODE, Report, UNSAID, WITHOUT_WORDS, openai_code, openai_type,
};

/// The client's body for an engine's response of `status` (400 or more); None: it passes unchanged.
/// `names` are the engine's own names and paths, each with the public one. The caller limits `body`
/// to 64 KB.
pub fn reshape(
    status: u16,
    body: &[u8],
    dialect: Dialect,
    request_id: &str,
    names: &[(String, String)],
) -> Option<Vec<u8>> {
    if dialect == Dialect::Management {
        return None;
    }
    let value = serde_json::from_slice::<Value>(body).ok();
    if dialect.is_openais()
        && let Some(value) = &value
        && value["error"].is_object()
        && value["type"] != "error"
        && let Some(range) = find_last(body, &["error"])
    {
        let fixed = fix_openai(&body[range.clone()], Some(status), Place::TopLevel)
            .map(|error| [&body[..range.start], &error, &body[range.end..]].concat());
        return redact_in_json(fixed.as_deref().unwrap_or(body), names).or(fixed);
    }
    let report = Report::of_body(status, body, value.as_ref());
    if dialect == Dialect::Anthropic
        && let Some(value) = value.as_ref().filter(|value| is_anthropic(value))
    {
        let (kind, message) = report.in_anthropics_words(status);
        let error = &value["error"];
        let says = error["type"] == kind && error["message"] == *message;
        if report.overflow.is_none() || says {
            return redact_in_json(body, names);
        }
    }
    let mut document = document(report, status, dialect, names);
    if dialect == Dialect::Anthropic {
        document["request_id"] = request_id.into();
    }
    Some(document.to_string().into_bytes())
}

/// What an event says of an error, in the client's shape.
pub(super) fn in_event(value: &Value, dialect: Dialect, names: &[(String, String)]) -> Vec<u8> {
    let mut report = Report::read(None, value);
    let status = report.status.unwrap_or(UNSAID);
    report.message.get_or_insert_with(|| WITHOUT_WORDS.to_owned());
    document(report, status, dialect, names).to_string().into_bytes()
}

/// An error in a dialect's shape. `status`: the response's, or what the engine says beside one that is
/// good.
fn document(report: Report, status: u16, dialect: Dialect, names: &[(String, String)]) -> Value {
    let hidden = |message: String| redact(&message, names).unwrap_or(message);
    if dialect == Dialect::Anthropic {
        let (kind, message) = report.in_anthropics_words(status);
        json!({"type": "error", "error": {"type": kind, "message": hidden(message)}})
    } else {
        let message = report.message.unwrap_or_default();
        let (kind, message, code) = if let Some(overflow) = report.overflow {
            ("invalid_request_error", overflow.in_openais_words(&message), OVERFLOW_CODE.to_owned())
        } else {
            let code = report.code.unwrap_or_else(|| openai_code(status).to_owned());
            (openai_type(status), message, code)
        };
        let param = report
            .param
            .or_else(|| report.overflow.and_then(|_| Overflow::param(&message)).map(str::to_owned));
        json!({"error": {"message": hidden(message), "type": kind, "param": param, "code": code}})
    }
}

/// Where an error object in OpenAI's dialect stands.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// In a body, or in an event.
    TopLevel,
    /// In a response of the Responses API, where it has a code and a message alone.
    Response,
}

/// The error object with a `code` that is a string, and, if the request has more tokens than its
/// model takes, with the words that clients match. No other byte changes. None when nothing does.
/// `status`: the response's; None for an error in a stream.
pub(super) fn fix_openai(object: &[u8], status: Option<u16>, place: Place) -> Option<Vec<u8>> {
    let value = serde_json::from_slice::<Value>(object).ok().filter(Value::is_object)?;
    let report = Report::read(status, &value);
    let mut edits = Edits { object, replaced: Vec::new(), added: Vec::new() };
    let code = &value["code"];
    if let Some(overflow) = report.overflow {
        let message = report.message.as_deref().unwrap_or_default();
        edits.set(&["code"], &value, OVERFLOW_CODE);
        edits.set(&["message"], &value, &overflow.in_openais_words(message));
        if place == Place::TopLevel {
            edits.set(&["type"], &value, "invalid_request_error");
            if let Some(param) = Overflow::param(message).filter(|_| value["param"].is_null()) {
                edits.set(&["param"], &value, param);
            }
        }
    } else if !code.is_string() {
        let by_status = || openai_code(report.status.unwrap_or(UNSAID)).to_owned();
        let code = report.code.unwrap_or_else(by_status);
        edits.set(&["code"], &value, &code);
    }
    edits.apply()
}

/// Changes of members of an object.
struct Edits<'a> {
    object: &'a [u8],
    replaced: Vec<(Range<usize>, String)>,
    added: Vec<String>,
}

impl Edits<'_> {
    /// Replaces the member by a string, or adds it. `path` is the member's name, `value` the
    /// object.
    fn set(&mut self, path: &'static [&'static str; 1], value: &Value, text: &str) {
        let [key] = path;
        if value[key] == text {
            return;
        }
        let text = Value::from(text).to_string();
        match find_last(self.object, path) {
            Some(range) => self.replaced.push((range, text)),
            None => self.added.push(format!("\"{key}\":{text}")),
        }
    }

    /// The object with the changes; None without any.
    fn apply(mut self) -> Option<Vec<u8>> {
        if !self.added.is_empty() {
            let is_empty = self.object[1..].trim_ascii_start().starts_with(b"}");
            let comma = if is_empty { "" } else { "," };
            self.replaced.push((1..1, self.added.join(",") + comma));
        }
        edited(self.object, self.replaced)
    }
}

/// Whether the body has Anthropic's shape, with a known type and a request id.
fn is_anthropic(value: &Value) -> bool {
    let error = &value["error"];
    value["type"] == "error"
        && value["request_id"].is_string()
        && error["message"].is_string()
        && error["type"].as_str().is_some_and(|kind| ANTHROPIC_TYPES.contains(&kind))
}
