//! The repair of the ids of tool calls in a response.

use std::{ops::Range, sync::LazyLock};

use memchr::memmem::Finder as Needle;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    api::messages::{CallIds, HistoryIds, list, object_in},
    codec::{
        splice::{edited, place_in},
        sse,
    },
};

static TOOL_CALLS: LazyLock<Needle<'static>> = LazyLock::new(|| Needle::new(b"\"tool_calls\""));

/// The ids of the tool calls in one response: each is unique in its conversation. Only ids change;
/// a fragment without one stays without.
#[derive(Debug)]
pub struct UniqueIds {
    /// The response's own id, from which those of its calls are made.
    message_id: String,
    /// Those of the conversation so far.
    history: HistoryIds,
    ids: CallIds,
    /// The calls of this response, in the order in which they came.
    calls: Vec<Call>,
}

#[derive(Debug)]
struct Call {
    choice: u64,
    index: u64,
    engine_id: String,
    public_id: String,
}

/// The most calls of one response whose ids are looked after; a later one keeps the engine's.
const CALLS_MAX: usize = crate::api::cost::CALLS_MAX;

impl UniqueIds {
    /// Those of a response that has no call yet. `message_id`: its own id.
    pub fn new(message_id: &str, history: HistoryIds) -> Self {
        Self {
            message_id: message_id.to_owned(),
            history,
            ids: CallIds::default(),
            calls: Vec::new(),
        }
    }

    /// Repairs a whole response; None: nothing changes.
    pub fn in_document(&mut self, document: &[u8]) -> Option<Vec<u8>> {
        let edits = self.edits(std::str::from_utf8(document).ok()?);
        edited(document, edits)
    }

    /// Repairs whole frames of a stream; None: nothing changes.
    pub fn in_frames(&mut self, frames: &[u8]) -> Option<Vec<u8>> {
        let mut edits = Vec::new();
        for frame in sse::frames_with(frames, &TOOL_CALLS) {
            for line in sse::lines(&frames[frame]) {
                if let (b"data", data) = sse::field(line)
                    && let Ok(json) = std::str::from_utf8(data)
                {
                    let start = place_in(frames, data).start;
                    let moved = |(range, id): (Range<usize>, String)| {
                        (start + range.start..start + range.end, id)
                    };
                    edits.extend(self.edits(json).into_iter().map(moved));
                }
            }
        }
        edited(frames, edits)
    }

    /// The memory that they take, in bytes.
    pub fn held(&self) -> usize {
        let texts = self.calls.iter().map(|call| call.engine_id.len() + call.public_id.len());
        self.history.held()
            + self.ids.held()
            + self.calls.capacity() * size_of::<Call>()
            + texts.sum::<usize>()
    }

    /// The places of ids in a completion or a chunk of one, and the JSON strings that they become.
    fn edits(&mut self, json: &str) -> Vec<(Range<usize>, String)> {
        let mut edits = Vec::new();
        let choices = object_in::<Completion<'_>>(json.trim_ascii_start())
            .and_then(|completion| completion.choices);
        for choice in choices.and_then(list).unwrap_or_default() {
            let Some(choice) = object_in::<Choice<'_>>(choice.get()) else { continue };
            let words = choice.delta.or(choice.message);
            let words = words.and_then(|words| object_in::<Words<'_>>(words.get()));
            let calls = words.and_then(|words| words.tool_calls).and_then(list);
            for (position, call) in calls.unwrap_or_default().into_iter().enumerate() {
                let Some(call) = object_in::<CallObject<'_>>(call.get()) else { continue };
                let Some(id) = call.id else { continue };
                let Ok(engine_id) = serde_json::from_str::<String>(id.get()) else { continue };
                let number = |raw: Option<&RawValue>| raw.and_then(|raw| raw.get().parse().ok());
                let index = number(call.index).unwrap_or(position as u64);
                let choice = number(choice.index).unwrap_or(0);
                if let Some(public) = self.public(choice, index, &engine_id)
                    && *public != engine_id
                {
                    let text = serde_json::Value::from(public).to_string();
                    edits.push((place_in(json, id.get()), text));
                }
            }
        }
        edits
    }

    /// The id for the client; None: there are too many calls, or it is a fragment's empty one.
    fn public(&mut self, choice: u64, index: u64, engine_id: &str) -> Option<&str> {
        let is_same = |call: &Call| call.choice == choice && call.index == index;
        let known = self.calls.iter().rposition(|call| {
            is_same(call) && (call.engine_id == engine_id || engine_id.is_empty())
        });
        let position = match known {
            Some(position) => position,
            None if self.calls.len() >= CALLS_MAX => return None,
            None => {
                let public_id = self.ids.next(Some(engine_id), &self.message_id, &self.history);
                let engine_id = engine_id.to_owned();
                self.calls.push(Call { choice, index, engine_id, public_id });
                self.calls.len() - 1
            }
        };
        self.calls.get(position).map(|call| &*call.public_id)
    }
}

#[derive(Deserialize)]
struct Completion<'a> {
    #[serde(borrow)]
    choices: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Choice<'a> {
    #[serde(borrow)]
    index: Option<&'a RawValue>,
    /// In a chunk.
    #[serde(borrow)]
    delta: Option<&'a RawValue>,
    /// In a whole completion.
    #[serde(borrow)]
    message: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Words<'a> {
    #[serde(borrow)]
    tool_calls: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct CallObject<'a> {
    #[serde(borrow)]
    index: Option<&'a RawValue>,
    #[serde(borrow)]
    id: Option<&'a RawValue>,
}
