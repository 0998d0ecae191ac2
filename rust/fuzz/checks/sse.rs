//! `sse` against a reader that takes a stream apart line by line, slowly and plainly.

use sans_io::api::endpoints::ModelPlace;
use sans_io::api::usage::{StreamUsage, Timings};
use sans_io::{
    api::stream_fields::{ResponseIdFinder, is_terminal, rename_model},
    codec::sse::{frames, last_edge},
};
use serde_json::Value;
use serde_json::value::RawValue;

const NAME: &str = "the/public name";

/// Panics when `sse` and the plain reader disagree about `stream`.
pub(crate) fn check(stream: &[u8]) {
    let expected = plain_frames(stream);
    let found: Vec<&[u8]> = frames(stream).collect();
    assert_eq!(found, expected, "other frames");
    let edge = plain_edge(stream, &expected);
    assert_eq!(last_edge(stream, 0).unwrap_or(0), edge, "another last edge");
    for frame in expected {
        assert_eq!(is_terminal(frame), plainly_terminal(frame), "another end of the stream");
    }
    cuts_keep_every_event(stream);
    for (place, outer) in [
        (ModelPlace::TopLevel, ""),
        (ModelPlace::Response, "response"),
        (ModelPlace::Message, "message"),
    ] {
        names_are_replaced(&stream[..edge], place, outer);
    }
    assert_eq!(rename_model(stream, ModelPlace::Nowhere, b"\"x\""), None);
    ids_are_found(&stream[..edge]);
    usage_is_cut_and_timed(&stream[..edge]);
}

/// Relays the stream: reads of any size go out up to the last edge. Nothing is lost, and every
/// write stands for itself.
fn cuts_keep_every_event(stream: &[u8]) {
    let whole = plain_events(stream);
    for size in [1, 2, 3, 7, 64] {
        let (mut relayed, mut events) = (Vec::new(), Vec::new());
        let (mut held, mut looked_at) = (Vec::new(), 0);
        for read in stream.chunks(size) {
            held.extend_from_slice(read);
            let edge = last_edge(&held, looked_at);
            assert_eq!(edge, last_edge(&held, 0), "`from` hides an edge");
            looked_at = held.len();
            if let Some(edge) = edge {
                let write: Vec<u8> = held.drain(..edge).collect();
                looked_at = 0;
                events.extend(plain_events(&write));
                relayed.extend(write);
            }
        }
        // What is left is an unfinished frame, or one whose last CR may still get its LF.
        events.extend(plain_events(&held));
        relayed.extend(held);
        assert_eq!(relayed, stream, "bytes lost in reads of {size}");
        assert_eq!(events, whole, "events lost in reads of {size}");
    }
}

fn names_are_replaced(whole_frames: &[u8], place: ModelPlace, outer: &str) {
    let name_json = Value::from(NAME).to_string();
    let renamed = rename_model(whole_frames, place, name_json.as_bytes());
    assert_ne!(renamed.as_deref(), Some(whole_frames), "copied without need");
    let renamed = renamed.unwrap_or_else(|| whole_frames.to_vec());
    assert_eq!(
        rename_model(&renamed, place, name_json.as_bytes()),
        None,
        "not settled by one replacement"
    );
    let (before, after) = (plain_events(whole_frames), plain_events(&renamed));
    assert_eq!(before.len(), after.len(), "another number of events");
    for (before, after) in before.iter().zip(&after) {
        assert_eq!(before.name, after.name);
        match serde_json::from_slice::<Value>(&before.data()) {
            Ok(Value::Object(object))
                if is_plain(&before.data(), &["model", "response", "message"]) =>
            {
                let mut expected = Value::Object(object);
                let inner =
                    if outer.is_empty() { Some(&mut expected) } else { expected.get_mut(outer) };
                if let Some(model) = inner.and_then(|inner| inner.get_mut("model"))
                    && model.is_string()
                {
                    *model = Value::from(NAME);
                }
                assert_eq!(serde_json::from_slice::<Value>(&after.data()).ok(), Some(expected));
            }
            // Of two, or of broken JSON, the first that can be read is replaced.
            Ok(Value::Object(_)) | Err(_) => {}
            Ok(_) => assert_eq!(before, after, "changed what is no object"),
        }
    }
}

fn ids_are_found(whole_frames: &[u8]) {
    let events = plain_events(whole_frames);
    let plain = |event: &Event| is_plain(&event.data(), &["id", "response"]);
    let parsed: Vec<Value> =
        events.iter().filter_map(|event| serde_json::from_slice(&event.data()).ok()).collect();
    if events.iter().all(plain) && parsed.len() == events.len() {
        let id = parsed
            .iter()
            .find_map(|event| event.get("response")?.get("id")?.as_str().map(str::to_owned));
        let mut finder = ResponseIdFinder::new();
        finder.feed_frames(whole_frames);
        assert_eq!(finder.found(), id.as_deref());
        // A mark at the begin of a stream is no part of it.
        let mut finder = ResponseIdFinder::new();
        finder.feed_frames(&["\u{feff}".as_bytes(), whole_frames].concat());
        assert_eq!(finder.found(), id.as_deref(), "hidden by a mark");
    }
}

/// Hiding leaves what the engine says beside the usage; timings are one insertion in each usage-only
/// frame.
fn usage_is_cut_and_timed(whole_frames: &[u8]) {
    let now = || Timings { first_ms: 12.4, elapsed_ms: 112.4 };
    let mut reader = StreamUsage::new(false, false);
    assert_eq!(reader.push(whole_frames, now), None, "changed by reading");
    let frames = plain_frames(whole_frames);
    let members = ["usage", "choices", "response", "message"];
    if !frames.iter().all(|frame| is_plain(frame, &members)) {
        return;
    }
    if let Some(expected) = plainly_hidden(&frames) {
        let mut usage = StreamUsage::new(true, true);
        let cut = usage.push(whole_frames, now);
        assert_ne!(cut.as_deref(), Some(whole_frames), "copied without need");
        let mut shown = cut.unwrap_or_else(|| whole_frames.to_vec());
        shown.extend(usage.release());
        let found: Vec<Shown> = plain_events(&shown).iter().map(Shown::of).collect();
        assert_eq!(found, expected, "hid something else");
    }
    let Some(timed) = StreamUsage::new(false, true).push(whole_frames, now) else { return };
    let inserted = timed.len() - whole_frames.len();
    let same = timed.iter().zip(whole_frames).take_while(|(timed, plain)| timed == plain).count();
    let behind = timed
        .iter()
        .rev()
        .zip(whole_frames.iter().rev())
        .take_while(|(timed, plain)| timed == plain)
        .count();
    assert!(inserted > 0 && same + behind >= whole_frames.len(), "changed something else");
    let (before, after) = (plain_events(whole_frames), plain_events(&timed));
    assert_eq!(before.len(), after.len(), "another number of events");
    let is_timed = |event: &&Event| {
        String::from_utf8_lossy(&event.data()).contains(",\"time_to_first_token_ms\":12")
    };
    assert_eq!(after.iter().filter(is_timed).count(), before.iter().filter(is_timed).count() + 1);
}

/// An event by its name, and what it says: JSON however it is written, or bytes.
#[derive(Debug, PartialEq)]
struct Shown {
    name: Vec<u8>,
    said: Result<Value, Vec<u8>>,
}

impl Shown {
    fn of(event: &Event) -> Self {
        let said = serde_json::from_slice(&event.data()).map_err(|_| event.data());
        Self { name: event.name.clone(), said }
    }
}

/// The events without their usage, by way of a tree; None where a tree holds less than the text.
fn plainly_hidden(frames: &[&[u8]]) -> Option<Vec<Shown>> {
    const ENVELOPE: [&str; 5] = ["id", "object", "created", "model", "choices"];
    let mut shown: Vec<Shown> = Vec::new();
    let mut last_finishes = false;
    for frame in frames {
        let Some(event) = plain_events(frame).pop() else { continue };
        let mut event = Shown::of(&event);
        if event.said.as_ref().is_err_and(|text| serde_json::from_slice::<&RawValue>(text).is_ok())
        {
            return None;
        }
        let mut text = String::from_utf8_lossy(frame).into_owned();
        if let Ok(Value::Object(chunk)) = &mut event.said
            && chunk.get("usage").is_some_and(Value::is_object)
        {
            chunk.remove("usage");
            text = Value::Object(chunk.clone()).to_string();
            let choices = chunk.get("choices").cloned().unwrap_or_default();
            if choices.is_null() || choices == Value::Array(Vec::new()) {
                let mut more = chunk.clone();
                more.retain(|key, value| !ENVELOPE.contains(&key.as_str()) && !value.is_null());
                let Some(last) = shown.last_mut().filter(|_| last_finishes) else {
                    if !more.is_empty() {
                        last_finishes = plainly_finishes(&text);
                        shown.push(event);
                    }
                    continue;
                };
                if more.is_empty() {
                    continue;
                }
                if let (Ok(Value::Object(last)), false) =
                    (&mut last.said, more.contains_key("error"))
                {
                    for (key, value) in more {
                        last.entry(key).or_insert(value);
                    }
                    last_finishes = false;
                    continue;
                }
            }
        }
        last_finishes = plainly_finishes(&text);
        shown.push(event);
    }
    Some(shown)
}

fn plainly_finishes(text: &str) -> bool {
    let text: String = text.split_ascii_whitespace().collect();
    text.contains("\"finish_reason\":\"")
}

/// Whether the text says each key once at most, at any depth, and nothing in escapes or in other
/// alphabets.
fn is_plain(text: &[u8], keys: &[&str]) -> bool {
    let once = |key: &&str| {
        let quoted = format!("\"{key}\"");
        text.windows(quoted.len()).filter(|window| *window == quoted.as_bytes()).count() <= 1
    };
    keys.iter().all(once) && !text.contains(&b'\\') && text.is_ascii()
}

#[derive(Debug, PartialEq)]
struct Event {
    name: Vec<u8>,
    lines: Vec<Vec<u8>>,
}

impl Event {
    fn data(&self) -> Vec<u8> {
        self.lines.join(&b'\n')
    }
}

fn plainly_terminal(frame: &[u8]) -> bool {
    let names: [&[u8]; 5] = [
        b"message_stop",
        b"error",
        b"response.completed",
        b"response.failed",
        b"response.incomplete",
    ];
    plain_events(frame).iter().any(|event| {
        names.contains(&event.name.as_slice()) || event.lines.len() == 1 && done(&event.lines[0])
    })
}

fn done(line: &[u8]) -> bool {
    line.trim_ascii() == b"[DONE]"
}

/// The events that a browser would dispatch; the rest without an empty line is dropped.
fn plain_events(stream: &[u8]) -> Vec<Event> {
    let (mut events, mut name, mut data) = (Vec::new(), Vec::new(), Vec::new());
    for (line, _) in plain_lines(stream) {
        let (field, value) = match line.iter().position(|&byte| byte == b':') {
            Some(colon) => (&line[..colon], &line[colon + 1..]),
            None => (line, &line[line.len()..]),
        };
        let value = if value.first() == Some(&b' ') { &value[1..] } else { value };
        match field {
            _ if line.is_empty() => {
                let lines = std::mem::take(&mut data);
                let name = std::mem::take(&mut name);
                if !lines.is_empty() {
                    events.push(Event { name, lines });
                }
            }
            b"event" => name = value.to_vec(),
            b"data" => data.push(value.to_vec()),
            _ => {}
        }
    }
    events
}

fn plain_frames(stream: &[u8]) -> Vec<&[u8]> {
    let (mut frames, mut start, mut at) = (Vec::new(), 0, 0);
    for (line, end) in plain_lines(stream) {
        at += line.len() + end.len();
        if line.is_empty() {
            frames.push(&stream[start..at]);
            start = at;
        }
    }
    frames
}

/// Where the last frame ends that cannot grow: a final CR may get an LF, except where lines end
/// with CR alone.
fn plain_edge(stream: &[u8], frames: &[&[u8]]) -> usize {
    let all: usize = frames.iter().map(|frame| frame.len()).sum();
    let before = plain_lines(stream).into_iter().rev().nth(1).map(|(_, end)| end);
    if all == stream.len() && stream.ends_with(b"\r") && before != Some("\r") {
        return all - frames.last().map_or(0, |frame| frame.len());
    }
    all
}

/// The finished lines and what ends each.
fn plain_lines(stream: &[u8]) -> Vec<(&[u8], &'static str)> {
    let (mut lines, mut start, mut at) = (Vec::new(), 0, 0);
    while at < stream.len() {
        let end = match &stream[at..] {
            [b'\r', b'\n', ..] => "\r\n",
            [b'\r', ..] => "\r",
            [b'\n', ..] => "\n",
            _ => "",
        };
        if !end.is_empty() {
            lines.push((&stream[start..at], end));
            start = at + end.len();
        }
        at += end.len().max(1);
    }
    lines
}
