//! `api::messages` against the rules that Anthropic's SDKs rely on, by an accumulator written from
//! them: events in order, one block open at a time, no gap in the indexes.

use std::collections::HashSet;

use sans_io::api::messages::{
    Assembly, Engine, HistoryIds, MessageStream, Origin, count_request, count_response, finite,
    request, response,
};
use sans_io::codec::sse::frames;
use sans_io::seam::{ReasoningNames, SystemMessages};
use serde_json::value::RawValue;
use serde_json::{Value, json};

#[path = "template.rs"]
pub(crate) mod template;

/// The bytes as a body and as a chat stream. Panics when something comes out that is no JSON, that
/// a chat template may refuse, or that is no Message, when the stream's events depend on how its
/// frames arrive, or when a Message depends on the form in which it is told.
pub(crate) fn check(data: &[u8]) {
    for system_messages in [SystemMessages::First, SystemMessages::Anywhere, SystemMessages::None] {
        let engine = Engine { model: "m", system_messages, reasoning_names: ReasoningNames::Both };
        for request in [request(data, &engine), count_request(data, &engine)].into_iter().flatten()
        {
            is_object(&request.body);
            template::accept(&request.body, system_messages);
        }
    }
    if let Ok(body) = count_response(data) {
        is_object(&body);
    }
    check_whole(data);
    if let Some(data) = finite(data) {
        assert!(finite(&data).is_none());
        check_whole(&data);
    }
    check_stream(data);
}

/// The bytes as a whole chat completion.
fn check_whole(data: &[u8]) {
    let mut events = Vec::new();
    let told = MessageStream::new(origin()).whole(data, &mut events);
    let whole = response(data, &origin());
    assert_eq!(told.is_ok(), whole.is_ok(), "one form takes it, and the other does not");
    let Ok(whole) = whole else {
        return assert!(events.is_empty(), "events of what is no completion");
    };
    let whole = value(std::str::from_utf8(&whole).expect("text"));
    let content = whole["content"].as_array().expect("blocks");
    content.iter().for_each(check_block);
    check_ids(content);
    let told = accumulate(&events);
    if told.end == End::Stopped && told.content.iter().all(|block| !block["input"].is_string()) {
        assert_eq!(&told.content, content, "told as events");
        assert_eq!(told.stop_reason, whole["stop_reason"]);
        assert_eq!(told.usage, whole["usage"]);
    }
}

/// The bytes as a stream of chunks.
fn check_stream(data: &[u8]) {
    let (events, ended) = translated(&[data]);
    let mut pieces: Vec<&[u8]> = frames(data).collect();
    let whole: usize = pieces.iter().map(|piece| piece.len()).sum();
    pieces.push(&data[whole..]);
    assert_eq!(
        (&events, ended),
        (&translated(&pieces).0, translated(&pieces).1),
        "other events in other pieces"
    );
    let message = accumulate(&events);
    assert_eq!(ended, message.end != End::Open, "`end` tells of another end than the events");
    check_ids(&message.content);
    let mut assembly = Assembly::default();
    assembly.feed(&events);
    let assembled = assembly.end();
    assert_eq!(assembled.is_ok(), message.end == End::Stopped);
    if let Ok(assembled) = assembled {
        let assembled = value(std::str::from_utf8(&assembled).expect("text"));
        let content = assembled["content"].as_array().expect("blocks");
        content.iter().for_each(check_block);
        for (block, told) in content.iter().zip(&message.content) {
            if told["input"].is_string() {
                assert!(is_cut_off(&told["input"]) == (block["input"] == json!({})));
            } else {
                assert_eq!(block, told, "put together");
            }
        }
        assert_eq!(content.len(), message.content.len());
        assert_eq!(
            (&assembled["stop_reason"], &assembled["stop_sequence"], &assembled["usage"]),
            (&message.stop_reason, &message.stop_sequence, &message.usage)
        );
    }
}

/// Whether the text is no object.
fn is_cut_off(input: &Value) -> bool {
    input.as_str().is_some_and(|input| serde_json::from_str::<&RawValue>(input).is_err())
}

/// What the Messages of this check have of their requests.
pub(crate) fn origin() -> Origin {
    let history = HistoryIds::default();
    Origin { model: "public".into(), message_id: "msg_1".to_owned(), history }
}

/// A block of a whole Message.
fn check_block(block: &Value) {
    let keys: Vec<&str> = block.as_object().expect("a block").keys().map(String::as_str).collect();
    match block["type"].as_str() {
        Some("text") => assert!(block["text"].is_string() && keys.len() == 2, "{block}"),
        Some("thinking") => assert!(
            block["thinking"].is_string() && block["signature"].is_string() && keys.len() == 3,
            "{block}"
        ),
        Some("tool_use") => assert!(
            block["id"].is_string()
                && block["name"].is_string()
                && (block["input"].is_object() || !block["input"].is_null())
                && keys.len() == 4,
            "{block}"
        ),
        _ => panic!("a block that no client knows: {block}"),
    }
}

/// Ids are of Anthropic's pattern, and each its call's own.
fn check_ids(content: &[Value]) {
    let ids: Vec<&str> = content.iter().filter_map(|block| block["id"].as_str()).collect();
    for id in &ids {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
        assert!(!id.is_empty() && id.bytes().all(fits), "{id}");
    }
    assert_eq!(ids.iter().collect::<HashSet<_>>().len(), ids.len(), "{ids:?}");
}

/// A stream's events when its bytes come in these pieces, and what `end` said.
pub(crate) fn translated(pieces: &[&[u8]]) -> (Vec<u8>, bool) {
    let mut stream = MessageStream::new(origin());
    let mut events = Vec::new();
    for piece in pieces {
        stream.feed(piece, &mut events);
    }
    let ended = stream.end(&mut events);
    assert_eq!(ended, stream.is_finished());
    let length = events.len();
    stream.feed(b"data: {\"choices\":[]}\n\ndata: [DONE]\n\n", &mut events);
    assert!(!ended || events.len() == length, "something follows the end");
    events.truncate(length);
    (events, ended)
}

/// The values of an error's `type` (Claude API reference, "Errors").
const ERRORS: [&str; 11] = [
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

/// A client's view of a stream.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Message {
    pub(crate) start: Value,
    pub(crate) content: Vec<Value>,
    pub(crate) stop_reason: Value,
    pub(crate) stop_sequence: Value,
    pub(crate) usage: Value,
    pub(crate) end: End,
    /// The comments on the way.
    pub(crate) comments: usize,
}

#[derive(Debug, Default, PartialEq)]
pub(crate) enum End {
    #[default]
    Open,
    /// With `message_stop`.
    Stopped,
    /// With an error of these words.
    Error(Value),
}

/// The message that the events add up to. Panics at the first event that an SDK could not take.
pub(crate) fn accumulate(events: &[u8]) -> Message {
    let mut message = Message::default();
    let mut open: Option<OpenBlock> = None;
    for (name, data) in read(events, &mut message.comments) {
        assert_eq!(message.end, End::Open, "{name} follows the end");
        assert_eq!(data["type"], name, "an event's name is its type");
        let started = message.start.is_object();
        assert!(
            started != (name == "message_start") || name == "error",
            "{name} at the wrong end of message_start"
        );
        let at = data["index"].as_u64().map(|index| index as usize);
        match name.as_str() {
            "message_start" => message.start = started_message(&data),
            "content_block_start" => {
                assert!(
                    open.is_none() && at == Some(message.content.len()),
                    "{data}: one at a time, without gaps"
                );
                open = Some(OpenBlock::new(&data["content_block"]));
            }
            "content_block_delta" => {
                assert_eq!(at, Some(message.content.len()), "a delta of the open block");
                open.as_mut().expect("a delta needs a block").add(&data["delta"]);
            }
            "content_block_stop" => {
                assert_eq!(at, Some(message.content.len()), "the stop of the open block");
                message.content.push(open.take().expect("a stop needs a block").stop());
            }
            "message_delta" => {
                assert!(
                    open.is_none() && message.stop_reason.is_null() && !message.content.is_empty()
                );
                message.stop_reason = data["delta"]["stop_reason"].clone();
                message.stop_sequence = data["delta"]["stop_sequence"].clone();
                message.usage = data["usage"].clone();
                let reasons = ["end_turn", "max_tokens", "stop_sequence", "tool_use", "refusal"];
                assert!(reasons.iter().any(|reason| message.stop_reason == *reason), "{data}");
                assert_eq!(
                    message.stop_reason == "stop_sequence",
                    message.stop_sequence.is_string()
                );
                assert!(
                    message.usage["output_tokens"].is_u64()
                        && message.usage["input_tokens"].is_u64()
                );
            }
            "message_stop" => {
                assert!(message.stop_reason.is_string(), "message_delta comes before message_stop");
                message.end = End::Stopped;
            }
            "error" => {
                let kind = data["error"]["type"].as_str().expect("a kind");
                assert!(ERRORS.contains(&kind), "a kind that no client knows: {kind}");
                assert!(data["error"]["message"].is_string());
                message.end = End::Error(data["error"]["message"].clone());
            }
            _ => panic!("an event that no client knows: {name}"),
        }
    }
    message
}

/// The events: their names and data. Each frame is one event of two lines, or a comment.
fn read(events: &[u8], comments: &mut usize) -> Vec<(String, Value)> {
    let mut found = Vec::new();
    for frame in frames(events) {
        if frame.starts_with(b":") {
            *comments += 1;
            continue;
        }
        let frame = std::str::from_utf8(frame).expect("events are text");
        let (name, data) = frame
            .strip_prefix("event: ")
            .and_then(|rest| rest.split_once("\ndata: "))
            .expect("two lines");
        let data = data.strip_suffix("\n\n").expect("an empty line");
        assert!(!data.contains(['\n', '\r']), "data of one line");
        found.push((name.to_owned(), value(data)));
    }
    let whole: usize = frames(events).map(<[u8]>::len).sum();
    assert_eq!(whole, events.len(), "whole frames");
    found
}

fn started_message(data: &Value) -> Value {
    let message = &data["message"];
    assert!(message["id"].is_string() && message["model"].is_string());
    assert_eq!((&message["type"], &message["role"]), (&json!("message"), &json!("assistant")));
    assert_eq!(message["content"], json!([]));
    assert!(message["stop_reason"].is_null() && message["stop_sequence"].is_null());
    assert!(
        message["usage"]["input_tokens"].is_u64() && message["usage"]["output_tokens"].is_u64()
    );
    message.clone()
}

struct OpenBlock {
    block: Value,
    text: String,
    signature: Option<Value>,
}

impl OpenBlock {
    fn new(block: &Value) -> Self {
        let expected = match block["type"].as_str() {
            Some("text") => json!({"type": "text", "text": ""}),
            Some("thinking") => json!({"type": "thinking", "thinking": "", "signature": ""}),
            Some("tool_use") => {
                assert!(
                    block["id"].as_str().is_some_and(|id| !id.is_empty())
                        && block["name"].is_string()
                );
                json!({"type": "tool_use", "id": block["id"], "name": block["name"], "input": {}})
            }
            _ => panic!("a block that no client knows: {block}"),
        };
        assert_eq!(*block, expected);
        Self { block: expected, text: String::new(), signature: None }
    }

    fn add(&mut self, delta: &Value) {
        assert!(self.signature.is_none(), "nothing follows a signature");
        let key = match (self.block["type"].as_str(), delta["type"].as_str()) {
            (Some("text"), Some("text_delta")) => "text",
            (Some("thinking"), Some("thinking_delta")) => "thinking",
            (Some("tool_use"), Some("input_json_delta")) => "partial_json",
            (Some("thinking"), Some("signature_delta")) => {
                assert!(delta["signature"].is_string());
                self.signature = Some(delta["signature"].clone());
                return;
            }
            (block, delta) => panic!("{delta:?} in a block {block:?}"),
        };
        let piece = delta[key].as_str().expect("a delta's text");
        assert!(!piece.is_empty(), "a delta without anything");
        self.text.push_str(piece);
    }

    fn stop(mut self) -> Value {
        match self.block["type"].as_str() {
            Some("tool_use") => self.block["input"] = input(&self.text),
            Some("thinking") => {
                self.block["thinking"] = Value::from(self.text);
                self.block["signature"] = self.signature.expect("thinking is signed");
            }
            _ => self.block["text"] = Value::from(self.text),
        }
        self.block
    }
}

/// The object that the fragments of a tool's input add up to; of one that was cut off, its text.
fn input(text: &str) -> Value {
    match serde_json::from_str::<&RawValue>(text) {
        _ if text.is_empty() => json!({}),
        Ok(_) => {
            assert!(text.starts_with('{'), "no object: {text}");
            // An object can nest deeper than `Value` goes, and have numbers that are too big for
            // it.
            serde_json::from_str(text).unwrap_or_else(|_| Value::from(text))
        }
        Err(_) => {
            assert!(
                text.starts_with('{') && is_cut(text),
                "neither an object nor the beginning of one: {text}"
            );
            Value::from(text)
        }
    }
}

/// Whether the JSON text only ends too early.
fn is_cut(text: &str) -> bool {
    let is_cut =
        |text: &str| serde_json::from_str::<&RawValue>(text).is_err_and(|error| error.is_eof());
    // serde_json calls the beginning of a number a wrong number.
    is_cut(text) || is_cut(&format!("{text}0"))
}

/// Halves of surrogate pairs are JSON, but no `Value`, and so are numbers that no float can be.
fn value(json: &str) -> Value {
    is_object(json.as_bytes());
    serde_json::from_str(json).unwrap_or_else(|_| {
        let lower = json.replace("\\uD", "\\ud");
        let mut whole = lower.clone();
        for digit in "89abcdefABCDEF".chars() {
            whole = whole.replace(&format!("\\ud{digit}"), &format!("\\u0{digit}"));
        }
        serde_json::from_str(&whole)
            .unwrap_or_else(|_| serde_json::from_str(&with_small_exponents(&whole)).expect("JSON"))
    })
}

/// The text without an exponent of three digits or more. Strings change alike in all that is
/// compared.
fn with_small_exponents(json: &str) -> String {
    let mut small = String::with_capacity(json.len());
    let mut rest = json;
    while let Some(at) = rest.find(['e', 'E']) {
        let (before, exponent) = rest.split_at(at);
        let digits = exponent[1..].trim_start_matches('+');
        let behind = digits.trim_start_matches(|digit: char| digit.is_ascii_digit());
        small.push_str(before);
        small.push_str(&exponent[..1]);
        let is_large = digits.len() - behind.len() > 2;
        rest = if is_large { behind } else { &exponent[1..] };
        small.push_str(if is_large { "1" } else { "" });
    }
    small + rest
}

fn is_object(json: &[u8]) {
    let value: &RawValue = serde_json::from_slice(json).expect("JSON");
    assert!(value.get().starts_with('{'));
}
