//! The errors in an event stream that is not translated.

use std::ops::Range;
use std::sync::LazyLock;

use memchr::memmem::Finder as Needle;
use serde_json::Value;

use crate::{
    api::error::Dialect,
    codec::{
        json::{Finder, find_last},
        splice::edited,
        sse,
    },
};

use super::names::redact_in_json;
use super::report::{ANTHROPIC_TYPES, Report, SHOWN, UNSAID, anthropic_type, named, said, shown};
use super::reshape::{Place, fix_openai, in_event};

static ERROR: LazyLock<Needle<'static>> = LazyLock::new(|| Needle::new(b"error"));

/// Mends the errors of these frames for a client: in `error` and `response.error`, and in the
/// messages of events named `error`. They get the words that clients match, and public names in
/// place of the engine's (`names`). Nothing else changes. None when nothing does.
///
/// An error in a form that the dialect's SDKs pass over in silence becomes an event of theirs.
///
/// In OpenAI's dialect `code` becomes a string. In Anthropic's, the `type` of an event named
/// `error` becomes one of the API's, and a readable message stands in place of a traceback or of
/// more than 500 characters.
pub fn fix_error_frames(
    frames: &[u8],
    dialect: Dialect,
    names: &[(String, String)],
) -> Option<Vec<u8>> {
    // The usual frames have none, and cost no more than this search.
    ERROR.find(frames)?;
    let edits = sse::frames_with(frames, &ERROR)
        .flat_map(|frame| edits(frames, frame, dialect, names))
        .collect();
    edited(frames, edits)
}

/// The edits in one of the frames, which may be an error.
fn edits(
    frames: &[u8],
    range: Range<usize>,
    dialect: Dialect,
    names: &[(String, String)],
) -> Vec<(Range<usize>, Vec<u8>)> {
    let (frame, start) = (&frames[range.clone()], range.start);
    if let Some(event) = rebuilt(frame, dialect, names) {
        return vec![(range, event)];
    }
    let is_error = sse::event_name(frame) == b"error";
    let place = |mut finder: Finder| sse::place_in(frame, &mut finder);
    let mut places = vec![
        (place(Finder::object(&["error"])), Some(Place::TopLevel)),
        (place(Finder::object(&["response", "error"])), Some(Place::Response)),
    ];
    if is_error {
        places.push((place(Finder::string(&["message"])), None));
        places.push((place(Finder::string(&["error"])), None));
    }
    places
        .into_iter()
        .filter_map(|(range, place)| {
            let range = range?;
            let text = &frame[range.clone()];
            let fixed = match (dialect, place) {
                (dialect, Some(place)) if dialect.is_openais() => fix_openai(text, None, place),
                (Dialect::Anthropic, Some(Place::TopLevel)) if is_error => fix_anthropic(text),
                _ => None,
            };
            let text = redact_in_json(fixed.as_deref().unwrap_or(text), names).or(fixed)?;
            Some((start + range.start..start + range.end, text))
        })
        .collect()
}

/// The event in place of an error in a form that clients pass over: an event named `error` without
/// an error object, llama.cpp's older field, or what has no name where clients go by names. None: the
/// frame is no error, or in a form that they read.
fn rebuilt(frame: &[u8], dialect: Dialect, names: &[(String, String)]) -> Option<Vec<u8>> {
    let is_field = sse::lines(frame).any(|line| sse::field(line).0 == b"error");
    let name = sse::event_name(frame);
    let is_named = name == b"error";
    // One that breaks off, or says that it is something else, is left alone.
    if dialect == Dialect::Management
        || !is_named && !name.is_empty()
        || sse::frames(frame).next().is_none()
    {
        return None;
    }
    let object = sse::place_in(frame, &mut Finder::object(&["error"]));
    let is_readable = match dialect {
        Dialect::OpenAi | Dialect::Management => object.is_some() || !is_named,
        Dialect::Anthropic | Dialect::Responses => object.is_some() == is_named,
    };
    if is_readable && !is_field {
        return None;
    }
    let data = named(frame).or_else(|| sse::data(frame).filter(|_| object.is_some()))?;
    let event = Vec::from(dialect.error_event(&in_event(&said(&data), dialect, names)));
    // It is in a form that is read now, and mended as any other.
    Some(fix_error_frames(&event, dialect, names).unwrap_or(event))
}

/// The error object with a type of Anthropic's and a message that can be read. Nothing but these
/// two strings changes. None when neither does.
fn fix_anthropic(object: &[u8]) -> Option<Vec<u8>> {
    let value = serde_json::from_slice::<Value>(object).ok()?;
    let (said, message) = (value["type"].as_str(), value["message"].as_str());
    let report = Report::read(None, &value);
    let (kind, words) = report.in_anthropics_words(UNSAID);
    let is_known = said.is_some_and(|said| ANTHROPIC_TYPES.contains(&said));
    // A known word stays, but for the one that says nothing beside a status that does.
    let kind = match said {
        _ if report.overflow.is_some() => kind,
        Some(said) if is_known && said != "api_error" => said,
        _ => report.status.map_or("api_error", anthropic_type),
    };
    let words = message.and_then(|message| {
        if report.overflow.is_some() {
            return Some(words).filter(|words| words != message);
        }
        readable(message)
    });
    let kind = said.filter(|&said| said != kind).map(|_| kind.to_owned());
    let edit = |path, text: Option<String>| {
        Some((find_last(object, path)?, Value::from(text?).to_string()))
    };
    let edits = [edit(&["type"], kind), edit(&["message"], words)];
    edited(object, edits.into_iter().flatten().collect())
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
    Some(shown(line.unwrap_or_default())).filter(|readable| readable != message)
}
