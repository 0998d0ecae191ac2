//! Translates a whole chat completion into a Message.

use std::borrow::Cow;

use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use super::arguments::{decoded_twice, object_of};
use super::call_ids::CallIds;
use super::chat::{CallPart, Completion, Spoken, Usage, Words, stop_reason};
use super::error::TranslateError;
use super::events::SIGNATURE;
use super::json::{Raw, Text, document, inside, object, raw, word};
use super::origin::Origin;
use crate::api::{cost::CALLS_MAX, numbers::whole};

/// Values of `finish_reason` with which an engine gives up: the response is incomplete.
const CUT_REASONS: [&str; 4] = ["abort", "cancelled", "error", "timeout"];
pub(super) const GAVE_UP: &str =
    "The engine gave up before the response was complete; send the request again.";

pub(super) const NAMELESS: &str = "The engine's response has a tool call that names no tool, so it cannot be translated into a \
    Message; send the request again.";

/// Whether an engine has given up with this `finish_reason`.
pub(super) fn has_given_up(finish_reason: Option<&str>) -> bool {
    finish_reason.is_some_and(|reason| CUT_REASONS.contains(&reason))
}

/// Translates a chat completion into a Message.
///
/// The error: the engine's response is no chat completion, or incomplete.
pub fn response(body: &[u8], origin: &Origin) -> Result<Vec<u8>, TranslateError> {
    let completion = completion(body)?;
    let choice = completion.choice().ok_or_else(no_completion)?;
    let words = words(choice.message)?;
    let finish_reason = choice.finish_reason.and_then(word);
    let calls = calls(&words, finish_reason.as_deref())?;
    if has_given_up(finish_reason.as_deref()) {
        return Err(TranslateError::new(GAVE_UP));
    }
    let matched = choice.stop_reason.filter(|matched| inside(matched).is_some());
    let (content, refused) = content(&words, &calls, origin);
    let reason =
        stop_reason(finish_reason.as_deref(), matched.is_some(), refused, !calls.is_empty());
    let usage = completion.usage.and_then(Usage::read).unwrap_or_default().message_json();
    let message = Message {
        kind: "message",
        role: "assistant",
        model: &origin.model,
        content,
        id: &origin.message_id,
        stop_reason: reason,
        stop_sequence: matched.filter(|_| reason == "stop_sequence"),
        usage: raw(&usage),
    };
    document(&message, body.len()).ok_or_else(no_completion)
}

/// The words of a whole completion's message.
pub(super) fn words(message: Raw<'_>) -> Result<Words<'_>, TranslateError> {
    let words: Words<'_> = message.and_then(object).ok_or_else(no_completion)?;
    let may_speak = |content: &RawValue| content.get().starts_with(['"', '[', '{']);
    if words.content.is_some_and(|content| !may_speak(content)) {
        return Err(no_completion());
    }
    Ok(words)
}

/// The calls in a whole completion's message. One that the limit of tokens has cut off before its name
/// is left out.
pub(super) fn calls(
    words: &Words<'_>,
    finish_reason: Option<&str>,
) -> Result<Vec<CallPart>, TranslateError> {
    let mut calls = words.calls().ok_or_else(|| {
        TranslateError::new(format!(
            "The engine's response has more than {CALLS_MAX} tool calls, so it cannot be translated \
             into a Message."
        ))
    })?;
    if finish_reason == Some("length") {
        calls.retain(|call| call.name.is_some());
    }
    if calls.iter().any(|call| call.name.is_none()) {
        return Err(TranslateError::new(NAMELESS));
    }
    for call in &mut calls {
        if let Some(arguments) = decoded_twice(&call.arguments) {
            call.arguments = arguments;
        }
    }
    Ok(calls)
}

/// Translates the response to a [`count_request`](super::count_request) into `{"input_tokens": n}`:
/// the engine's own count of the prompt.
///
/// The error: the engine's response is no chat completion, or has no count.
pub fn count_response(body: &[u8]) -> Result<Vec<u8>, TranslateError> {
    let completion = completion(body)?;
    let usage = completion.usage.and_then(object::<CountedPrompt<'_>>);
    let tokens = usage.and_then(|usage| usage.prompt_tokens).and_then(whole);
    tokens.map(counted).ok_or_else(no_count)
}

/// The same where the engine streams. `usage`: what the stream said of it.
pub fn streamed_count(usage: Option<Usage>) -> Result<Vec<u8>, TranslateError> {
    usage.map(|usage| counted(usage.prompt_tokens)).ok_or_else(no_count)
}

fn no_count() -> TranslateError {
    TranslateError::new(
        "The engine's response has no `usage` with a count of `prompt_tokens`, so this model's \
         tokens cannot be counted.",
    )
}

fn counted(tokens: u64) -> Vec<u8> {
    format!("{{\"input_tokens\":{tokens}}}").into_bytes()
}

#[derive(serde::Deserialize)]
struct CountedPrompt<'a> {
    #[serde(borrow)]
    prompt_tokens: Raw<'a>,
}

#[derive(Serialize)]
struct Message<'a> {
    id: &'a str,
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
    ToolUse { id: String, name: &'a str, input: Input<'a> },
}

/// A whole completion, or what stands in its place.
pub(super) fn completion(body: &[u8]) -> Result<Completion<'_>, TranslateError> {
    let body: &RawValue = serde_json::from_slice(body).map_err(|_| no_completion())?;
    object(body).ok_or_else(no_completion)
}

pub(super) fn no_completion() -> TranslateError {
    TranslateError::new(
        "The engine's response is no chat completion, so it cannot be translated into a Message.",
    )
}

/// The blocks of a Message, and whether there is a refusal: what is said, tool calls. At least one
/// block, since programs read the first one unasked.
fn content<'a>(
    words: &Words<'a>,
    calls: &'a [CallPart],
    origin: &Origin,
) -> (Vec<Block<'a>>, bool) {
    let (mut blocks, mut refused) = (Vec::new(), false);
    // Neighbours of one kind are one block.
    let mut run: Vec<Spoken<'a>> = Vec::new();
    words.spoken(|spoken| {
        refused |= matches!(spoken, Spoken::Refusal(_));
        if run.first().is_some_and(|first| first.is_thinking() != spoken.is_thinking()) {
            blocks.extend(spoken_block(&run));
            run.clear();
        }
        run.push(spoken);
    });
    blocks.extend(spoken_block(&run));
    let mut ids = CallIds::default();
    blocks.extend(calls.iter().map(|call| Block::ToolUse {
        id: ids.next(call.id.as_deref(), &origin.message_id, &origin.history),
        name: call.name.as_deref().unwrap_or_default(),
        input: Input(object_of(&call.arguments)),
    }));
    if blocks.is_empty() {
        blocks.push(Block::Text { text: Text::written("") });
    }
    (blocks, refused)
}

/// The block of neighbours of one kind; None: there are none.
fn spoken_block<'a>(run: &[Spoken<'a>]) -> Option<Block<'a>> {
    let insides: Vec<&str> = run.iter().map(Spoken::inside).collect();
    let text = Text::joined(&insides, "");
    run.first().map(|first| match first {
        Spoken::Thinking(_) => Block::Thinking { thinking: text, signature: SIGNATURE },
        Spoken::Text(_) | Spoken::Refusal(_) => Block::Text { text },
    })
}

/// A call's arguments, in JSON.
struct Input<'a>(Cow<'a, str>);

impl Serialize for Input<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        raw(&self.0).unwrap_or(RawValue::NULL).serialize(serializer)
    }
}
