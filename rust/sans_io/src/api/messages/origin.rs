//! What a Message has of its request, and the ids of its tool calls.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use super::history::HistoryIds;
use crate::api::tool_ids;

/// What a Message has of the request that it answers.
#[derive(Clone, Debug)]
pub struct Origin {
    /// The model, as the client named it.
    pub model: Arc<str>,
    /// Begins with `msg_`, and is new for each message.
    pub message_id: String,
    /// The ids of the tool calls before.
    pub history: HistoryIds,
}

/// Gives each tool call of a Message an id that no other call of the conversation has.
#[derive(Debug, Default)]
pub(super) struct CallIds {
    /// Hashes of those that were given.
    given: Vec<u64>,
    /// Distinguishes made ids.
    position: usize,
}

impl CallIds {
    /// The next call's id. `engine_id`: the engine's own, if there is one.
    pub(super) fn next(&mut self, engine_id: Option<&str>, origin: &Origin) -> String {
        loop {
            let is_known = |id: &str| origin.history.contains(id) || self.given.contains(&hash(id));
            let id = tool_ids::public_id(engine_id, &origin.message_id, self.position, is_known);
            let is_new = !is_known(&id);
            self.position += 1;
            // A client may name two requests the same, so that a made id can be known as well.
            if is_new {
                self.given.push(hash(&id));
                return id;
            }
        }
    }

    /// The memory that they take, in bytes.
    pub(super) fn held(&self) -> usize {
        self.given.capacity() * size_of::<u64>()
    }
}

fn hash(id: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    id.hash(&mut hasher);
    hasher.finish()
}
