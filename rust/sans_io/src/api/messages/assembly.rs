//! Puts a Message together from the events of its stream, for a client that asked for a document
//! where the engine streams.

use serde::Deserialize;

use super::error::TranslateError;
use super::json::{Raw, decoded, inside, object, raw, word};
use super::response::no_completion;
use crate::codec::sse;

/// The Message so far. It reads what a [`MessageStream`](super::MessageStream) writes.
#[derive(Debug, Default)]
pub struct Assembly {
    /// `id` and `model`, as JSON.
    start: Option<(String, String)>,
    /// The blocks, with commas between.
    content: String,
    /// The open block is a tool call.
    is_call: bool,
    /// The inside of its input, as a string.
    input: String,
    /// `stop_reason`, `stop_sequence` and `usage`, as JSON.
    end: Option<[String; 3]>,
    is_whole: bool,
    /// The words of an error.
    error: Option<String>,
}

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(borrow, rename = "type")]
    kind: Raw<'a>,
    #[serde(borrow)]
    message: Raw<'a>,
    #[serde(borrow)]
    content_block: Raw<'a>,
    #[serde(borrow)]
    delta: Raw<'a>,
    #[serde(borrow)]
    usage: Raw<'a>,
    #[serde(borrow)]
    error: Raw<'a>,
}

/// The members of a message, a block, a delta and an error.
#[derive(Deserialize)]
struct Members<'a> {
    #[serde(borrow, rename = "type")]
    kind: Raw<'a>,
    #[serde(borrow)]
    id: Raw<'a>,
    #[serde(borrow)]
    model: Raw<'a>,
    #[serde(borrow)]
    name: Raw<'a>,
    #[serde(borrow)]
    thinking: Raw<'a>,
    #[serde(borrow)]
    signature: Raw<'a>,
    #[serde(borrow)]
    text: Raw<'a>,
    #[serde(borrow)]
    partial_json: Raw<'a>,
    #[serde(borrow)]
    stop_reason: Raw<'a>,
    #[serde(borrow)]
    stop_sequence: Raw<'a>,
    #[serde(borrow)]
    message: Raw<'a>,
}

impl Assembly {
    /// Adds whole events.
    pub fn feed(&mut self, events: &[u8]) {
        for data in sse::frames(events).filter_map(sse::data) {
            let event = serde_json::from_slice(&data).ok().and_then(object::<Event<'_>>);
            if let Some(event) = event {
                self.event(&event);
            }
        }
    }

    /// The memory of what there is, and of the document that it becomes, in bytes.
    pub fn held(&self) -> usize {
        2 * (self.content.capacity() + self.input.capacity())
    }

    /// The Message. The error: the stream reported one, or had no end.
    pub fn end(self) -> Result<Vec<u8>, TranslateError> {
        if let Some(words) = self.error {
            return Err(TranslateError::new(words));
        }
        let ((id, model), [reason, sequence, usage]) =
            self.start.zip(self.end).filter(|_| self.is_whole).ok_or_else(no_completion)?;
        let content = self.content;
        Ok(format!(
            "{{\"id\":{id},\"type\":\"message\",\"role\":\"assistant\",\"model\":{model},\
             \"content\":[{content}],\"stop_reason\":{reason},\"stop_sequence\":{sequence},\
             \"usage\":{usage}}}"
        )
        .into_bytes())
    }

    fn event(&mut self, event: &Event<'_>) {
        match event.kind.and_then(word).as_deref() {
            Some("message_start") => {
                let message = members(event.message);
                self.start = message.map(|message| (json(message.id), json(message.model)));
            }
            Some("content_block_start") => {
                if let Some(block) = members(event.content_block) {
                    self.start_block(&block);
                }
            }
            Some("content_block_delta") => {
                if let Some(delta) = members(event.delta) {
                    self.add(&delta);
                }
            }
            Some("content_block_stop") => self.stop_block(),
            Some("message_delta") => {
                let delta = members(event.delta);
                self.end = delta.map(|delta| {
                    [json(delta.stop_reason), json(delta.stop_sequence), json(event.usage)]
                });
            }
            Some("message_stop") => self.is_whole = true,
            Some("error") => {
                let words = members(event.error).and_then(|error| error.message);
                self.error = Some(words.and_then(decoded).unwrap_or_default());
            }
            _ => {}
        }
    }

    fn start_block(&mut self, block: &Members<'_>) {
        if !self.content.is_empty() {
            self.content.push(',');
        }
        let kind = block.kind.and_then(word);
        match kind.as_deref() {
            Some("thinking") => self.content.push_str("{\"type\":\"thinking\",\"thinking\":\""),
            Some("tool_use") => {
                let (id, name) = (json(block.id), json(block.name));
                self.content.push_str("{\"type\":\"tool_use\",\"id\":");
                for part in [&*id, ",\"name\":", &*name, ",\"input\":"] {
                    self.content.push_str(part);
                }
                self.is_call = true;
            }
            _ => self.content.push_str("{\"type\":\"text\",\"text\":\""),
        }
    }

    fn add(&mut self, delta: &Members<'_>) {
        if let Some(signature) = delta.signature.and_then(inside) {
            self.content.push_str("\",\"signature\":\"");
            self.content.push_str(signature);
        }
        let words = [delta.text, delta.thinking].into_iter().flatten().find_map(inside);
        self.content.push_str(words.unwrap_or_default());
        self.input.push_str(delta.partial_json.and_then(inside).unwrap_or_default());
    }

    fn stop_block(&mut self) {
        if !std::mem::take(&mut self.is_call) {
            self.content.push_str("\"}");
            return;
        }
        let input = format!("\"{}\"", std::mem::take(&mut self.input));
        let input = raw(&input).and_then(decoded).unwrap_or_default();
        // What was cut off is no object.
        self.content.push_str(raw(&input).map_or("{}", |input| input.get()));
        self.content.push('}');
    }
}

fn members(raw: Raw<'_>) -> Option<Members<'_>> {
    raw.and_then(object)
}

fn json(raw: Raw<'_>) -> String {
    raw.map_or_else(|| "null".to_owned(), |raw| raw.get().to_owned())
}
