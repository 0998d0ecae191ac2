//! Writes the events of a Message's stream. Each has a name, equal to the `type` in its data:
//! Anthropic's SDK drops an event without a name.

use super::chat::Usage;
use super::json::literal;

/// The signature of a thinking block. Clients require a string, send it back, and nobody reads it.
pub(super) const SIGNATURE: &str = "unsigned";

/// Writes one event. `members` are the members of its data behind `type`, each with a comma before
/// it.
fn event(out: &mut Vec<u8>, name: &str, members: &[&str]) {
    for part in ["event: ", name, "\ndata: {\"type\":\"", name, "\""] {
        out.extend_from_slice(part.as_bytes());
    }
    for part in members {
        out.extend_from_slice(part.as_bytes());
    }
    out.extend_from_slice(b"}\n\n");
}

pub(super) fn message_start(out: &mut Vec<u8>, id: &str, model: &str, usage: Usage) {
    let (id, model, usage) = (literal(id), literal(model), usage.message_json());
    let members = format!(
        ",\"message\":{{\"id\":{id},\"type\":\"message\",\"role\":\"assistant\",\"model\":{model},\"content\":[],\
         \"stop_reason\":null,\"stop_sequence\":null,\"usage\":{usage}}}"
    );
    event(out, "message_start", &[&members]);
}

/// `block` is the JSON of the block as it begins.
pub(super) fn block_start(out: &mut Vec<u8>, index: usize, block: &str) {
    event(
        out,
        "content_block_start",
        &[",\"index\":", itoa::Buffer::new().format(index), ",\"content_block\":", block],
    );
}

/// `inside` is the text between the quotes of the delta's JSON string.
pub(super) fn block_delta(out: &mut Vec<u8>, index: usize, delta: Delta, inside: &str) {
    let (kind, key) = match delta {
        Delta::Thinking => ("thinking_delta", "thinking"),
        Delta::Signature => ("signature_delta", "signature"),
        Delta::Text => ("text_delta", "text"),
        Delta::InputJson => ("input_json_delta", "partial_json"),
    };
    let mut number = itoa::Buffer::new();
    let index = number.format(index);
    let members = [
        ",\"index\":",
        index,
        ",\"delta\":{\"type\":\"",
        kind,
        "\",\"",
        key,
        "\":\"",
        inside,
        "\"}",
    ];
    event(out, "content_block_delta", &members);
}

#[derive(Clone, Copy)]
pub(super) enum Delta {
    Thinking,
    Signature,
    Text,
    InputJson,
}

pub(super) fn block_stop(out: &mut Vec<u8>, index: usize) {
    event(out, "content_block_stop", &[",\"index\":", itoa::Buffer::new().format(index)]);
}

/// `stop_sequence` is JSON.
pub(super) fn message_delta(
    out: &mut Vec<u8>,
    stop_reason: &str,
    stop_sequence: &str,
    usage: Usage,
) {
    let usage = usage.message_json();
    let members = format!(
        ",\"delta\":{{\"stop_reason\":\"{stop_reason}\",\"stop_sequence\":{stop_sequence}}},\"usage\":{usage}"
    );
    event(out, "message_delta", &[&members]);
}

pub(super) fn message_stop(out: &mut Vec<u8>) {
    event(out, "message_stop", &[]);
}

/// `kind` is a word of the API, `message` a JSON string.
pub(super) fn error(out: &mut Vec<u8>, kind: &str, message: &str) {
    let members = [",\"error\":{\"type\":\"", kind, "\",\"message\":", message, "}"];
    event(out, "error", &members);
}
