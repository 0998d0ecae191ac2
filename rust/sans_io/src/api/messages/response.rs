//! Translates a whole chat completion into a Message.

use serde::Serialize;
use serde_json::value::RawValue;

use super::chat::{CallPart, Completion, LastCall, Usage, Words, count, stop_reason};
use super::error::TranslateError;
use super::events::{SIGNATURE, made_tool_id};
use super::json::{Raw, Text, decoded, document, inside, object, raw, word};
use crate::api::cost::CALLS_MAX;
use crate::codec::json::object::ObjectScan;

/// Translates a chat completion into a Message that names the model as the client did.
///
/// The error: the engine's response is no chat completion.
pub fn response(body: &[u8], public_model: &str) -> Result<Vec<u8>, TranslateError> {
    let completion = completion(body)?;
    let choice = completion.choice().ok_or_else(no_completion)?;
    let words: Words<'_> = choice.message.and_then(object).ok_or_else(no_completion)?;
    if words.content.is_some_and(|content| inside(content).is_none()) {
        return Err(no_completion());
    }
    let id = message_id(completion.id);
    let calls = words.calls().ok_or_else(|| {
        TranslateError::new(format!(
            "The engine's response has more than {CALLS_MAX} tool calls, so it cannot be translated \
             into a Message."
        ))
    })?;
    let finish_reason = choice.finish_reason.and_then(word);
    let matched = choice.stop_reason.filter(|matched| inside(matched).is_some());
    let reason = stop_reason(finish_reason.as_deref(), matched.is_some(), last_call(&calls));
    let usage = completion.usage.and_then(Usage::read).unwrap_or_default().message_json();
    let message = Message {
        kind: "message",
        role: "assistant",
        model: public_model,
        content: content(&words, &calls, &id),
        id,
        stop_reason: reason,
        stop_sequence: matched.filter(|_| reason == "stop_sequence"),
        usage: raw(&usage),
    };
    document(&message, body.len()).ok_or_else(no_completion)
}

/// Translates the response to a [`count_request`](super::count_request) into `{"input_tokens": n}`:
/// the engine's own count of the prompt.
///
/// The error: the engine's response is no chat completion, or has no count.
pub fn count_response(body: &[u8]) -> Result<Vec<u8>, TranslateError> {
    let completion = completion(body)?;
    let usage: CountedPrompt<'_> = completion.usage.and_then(object).ok_or_else(no_completion)?;
    let tokens = usage.prompt_tokens.and_then(count).ok_or_else(no_completion)?;
    Ok(format!("{{\"input_tokens\":{tokens}}}").into_bytes())
}

#[derive(serde::Deserialize)]
struct CountedPrompt<'a> {
    #[serde(borrow)]
    prompt_tokens: Raw<'a>,
}

#[derive(Serialize)]
struct Message<'a> {
    id: String,
    #[serde(rename = "type")]
    kind: &'static str,
    role: &'static str,
    model: &'a str,
    content: Vec<Block<'a>>,
    stop_reason: &'static str,
    stop_sequence: Raw<'a>,
    usage: Raw<'a>,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Block<'a> {
    Thinking { thinking: Text<'a>, signature: &'static str },
    Text { text: Text<'a> },
    ToolUse { id: String, name: &'a str, input: &'a RawValue },
}

fn completion(body: &[u8]) -> Result<Completion<'_>, TranslateError> {
    let body: &RawValue = serde_json::from_slice(body).map_err(|_| no_completion())?;
    object(body).ok_or_else(no_completion)
}

fn no_completion() -> TranslateError {
    TranslateError::new(
        "The engine's response is no chat completion, so it cannot be translated into a Message.",
    )
}

/// The blocks of a Message: thinking, text, tool calls. At least one, since programs read the first
/// one unasked.
fn content<'a>(words: &Words<'a>, calls: &'a [CallPart], id: &str) -> Vec<Block<'a>> {
    let thinking = words
        .thinking()
        .map(|text| Block::Thinking { thinking: Text::joined(&[text], ""), signature: SIGNATURE });
    let text = words.text().map(|text| Block::Text { text: Text::joined(&[text], "") });
    let calls = calls.iter().enumerate().map(|(position, call)| Block::ToolUse {
        id: call.id.clone().unwrap_or_else(|| made_tool_id(id, position)),
        name: call.name.as_deref().unwrap_or_default(),
        input: input(&call.arguments),
    });
    let mut blocks: Vec<_> = thinking.into_iter().chain(text).chain(calls).collect();
    if blocks.is_empty() {
        blocks.push(Block::Text { text: Text::written("") });
    }
    blocks
}

/// The arguments as an object; an empty one for arguments that are no object.
fn input(arguments: &str) -> &RawValue {
    let mut scan = ObjectScan::default();
    let object = scan.feed(arguments);
    let whole = if scan.is_whole() { raw(object) } else { None };
    whole.or_else(|| raw("{}")).unwrap_or(RawValue::NULL)
}

fn last_call(calls: &[CallPart]) -> LastCall {
    calls.last().map_or(LastCall::None, |call| {
        let mut scan = ObjectScan::default();
        scan.feed(&call.arguments);
        if scan.is_whole() || scan.is_empty() { LastCall::Whole } else { LastCall::Cut }
    })
}

/// `msg_` and the distinguishing part of the engine's own id.
fn message_id(id: Raw<'_>) -> String {
    let id = id.and_then(decoded).unwrap_or_default();
    let own = id.strip_prefix("chatcmpl-").unwrap_or(&id);
    let own: String = own.chars().filter(char::is_ascii_alphanumeric).take(64).collect();
    format!("msg_{own}")
}
