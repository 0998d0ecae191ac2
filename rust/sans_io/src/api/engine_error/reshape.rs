//! Reshapes engines' errors: into the shape and the vocabulary of the client's dialect, without the
//! engine's own names and paths.
//!
//! Engines write errors in many shapes: OpenAI's with an integer `code` (vLLM), Anthropic's with
//! other words in `type` (vLLM), a string `error` (vLLM's 401), a `detail` (`FastAPI`),
//! TensorRT-LLM's flat object, plain text, HTML, nothing. An error that an SDK can read already
//! passes byte for byte but for the names.

use std::ops::Range;
use std::sync::LazyLock;

use memchr::memmem::Finder as Needle;
use serde_json::{Value, json};

use crate::{
    api::error::Dialect,
    codec::{json::Finder, sse},
};

use super::names::{redact, redact_in_json};

/// The most characters of a text that is not JSON, or of an over-long message in a stream.
const SHOWN: usize = 500;

/// The values of `error.type` in Anthropic's dialect (Claude API reference, "Errors").
const ANTHROPIC_TYPES: [&str; 11] = [
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

static ERROR: LazyLock<Needle<'static>> = LazyLock::new(|| Needle::new(b"\"error\""));

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
    let value = serde_json::from_slice::<Value>(body).ok();
    let fits = value.as_ref().is_some_and(|value| match dialect {
        Dialect::OpenAi => value["error"].is_object() && value["type"] != "error",
        Dialect::Anthropic => is_anthropic(value),
        Dialect::Management => false,
    });
    if dialect == Dialect::Management {
        return None;
    }
    if fits {
        return redact_in_json(body, names);
    }
    let parsed = ParsedError::read(status, body, value.as_ref());
    let message = redact(&parsed.message, names).unwrap_or(parsed.message);
    let document = match dialect {
        Dialect::Anthropic => json!({
            "type": "error",
            "error": {"type": parsed.anthropic_type.unwrap_or(anthropic_type(status)), "message": message},
            "request_id": request_id,
        }),
        _ => json!({
            "error": {"message": message, "type": openai_type(status), "param": parsed.param, "code": parsed.code},
        }),
    };
    Some(document.to_string().into_bytes())
}

/// Replaces the engine's names in the errors of these frames: in `error` and `response.error`, and
/// in the messages of events named `error`. Only whole strings in there change. None when nothing
/// does.
pub fn redact_in_frames(frames: &[u8], names: &[(String, String)]) -> Option<Vec<u8>> {
    edit_frames(frames, |frame| {
        let place = |mut finder: Finder| sse::place_in(frame, &mut finder);
        let mut places: Vec<_> =
            [Finder::object(&["error"]), Finder::object(&["response", "error"])].map(place).into();
        if sse::event_name(frame) == b"error" {
            places.push(place(Finder::string(&["message"])));
            places.push(place(Finder::string(&["error"])));
        }
        let hidden =
            |range: Range<usize>| Some((range.clone(), redact_in_json(&frame[range], names)?));
        places.into_iter().flatten().filter_map(hidden).collect()
    })
}

/// Puts Anthropic's vocabulary into `error.type` of events named `error`, and a readable message in
/// place of a traceback or of more than 500 characters. Nothing but these two strings changes. None
/// when nothing does.
pub fn fix_anthropic_error_frames(frames: &[u8]) -> Option<Vec<u8>> {
    edit_frames(frames, |frame| {
        if sse::event_name(frame) != b"error" {
            return Vec::new();
        }
        let edit = |path, fixed: fn(&str) -> Option<String>| {
            let range = sse::place_in(frame, &mut Finder::string(path))?;
            let text: String = serde_json::from_slice(&frame[range.clone()]).ok()?;
            Some((range, Value::from(fixed(&text)?).to_string().into_bytes()))
        };
        let kind = edit(&["error", "type"], |kind| {
            (!ANTHROPIC_TYPES.contains(&kind)).then(|| anthropic_word(kind).to_owned())
        });
        let message = edit(&["error", "message"], readable);
        kind.into_iter().chain(message).collect()
    })
}

/// Applies the edits that `edits` finds in each frame that may be an error; None when it finds
/// none.
fn edit_frames(
    frames: &[u8],
    edits: impl Fn(&[u8]) -> Vec<(Range<usize>, Vec<u8>)>,
) -> Option<Vec<u8>> {
    let mut edited = Vec::new();
    let mut copied = 0;
    for frame in sse::frames_with(frames, &ERROR) {
        let mut found = edits(&frames[frame.clone()]);
        found.sort_unstable_by_key(|(range, _)| range.start);
        for (range, text) in found {
            edited.extend_from_slice(&frames[copied..frame.start + range.start]);
            edited.extend_from_slice(&text);
            copied = frame.start + range.end;
        }
    }
    (copied > 0).then(|| {
        edited.extend_from_slice(&frames[copied..]);
        edited
    })
}

/// Fields found in an upstream error body of any known shape.
struct ParsedError {
    message: String,
    param: Option<String>,
    code: Option<String>,
    /// None when the body has none of [`ANTHROPIC_TYPES`].
    anthropic_type: Option<&'static str>,
}

impl ParsedError {
    fn read(status: u16, body: &[u8], value: Option<&Value>) -> Self {
        let nothing = Value::Null;
        let value = value.unwrap_or(&nothing);
        // OpenAI's and Anthropic's have it inside, TensorRT-LLM's at the top.
        let error = if value["error"].is_object() { &value["error"] } else { value };
        let text = |value: &Value| {
            value.as_str().filter(|text| !text.trim().is_empty()).map(str::to_owned)
        };
        let message = text(&error["message"])
            .or_else(|| text(&value["error"]))
            .or_else(|| detail(&value["detail"]))
            .or_else(|| text(value))
            .unwrap_or_else(|| unknown(status, body));
        let kind = error["type"].as_str();
        Self {
            message,
            param: text(&error["param"]),
            code: text(&error["code"]),
            anthropic_type: ANTHROPIC_TYPES.into_iter().find(|&known| Some(known) == kind),
        }
    }
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
fn shown(text: &str) -> String {
    text.chars().take(SHOWN).collect()
}

/// `error.type` of OpenAI's shape for a status.
fn openai_type(status: u16) -> &'static str {
    match status {
        403 => "permission_error",
        429 => "rate_limit_exceeded",
        500.. => "server_error",
        _ => "invalid_request_error",
    }
}

/// `error.type` of Anthropic's shape for a status.
fn anthropic_type(status: u16) -> &'static str {
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

/// `error.type` of Anthropic's shape for an engine's word: vLLM writes `BadRequestError`, `Not
/// Found`, `internal_error`.
fn anthropic_word(kind: &str) -> &'static str {
    let plain: String =
        kind.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect();
    match plain.strip_suffix("error").unwrap_or(&plain) {
        "badrequest" | "invalidrequest" | "unprocessableentity" | "validation" | "value" => {
            "invalid_request_error"
        }
        "unauthorized" | "authentication" => "authentication_error",
        "forbidden" | "permission" | "permissiondenied" => "permission_error",
        "notfound" => "not_found_error",
        "toomanyrequests" | "ratelimit" | "ratelimitexceeded" => "rate_limit_error",
        "serviceunavailable" | "overloaded" => "overloaded_error",
        "timeout" | "gatewaytimeout" => "timeout_error",
        _ => "api_error",
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

/// The telling line of a traceback or of pydantic's errors, or the start of an over-long message,
/// at most 500 characters; None for a message that is readable.
fn readable(message: &str) -> Option<String> {
    let is_traceback = message.starts_with("Traceback");
    let is_pydantic = message.contains("validation error") && message.contains('\n');
    if !is_traceback && !is_pydantic && message.chars().count() <= SHOWN {
        return None;
    }
    let mut lines = message.lines().filter(|line| !line.trim().is_empty());
    let line = if is_traceback { lines.next_back() } else { lines.next() };
    Some(shown(line.unwrap_or_default()))
}
