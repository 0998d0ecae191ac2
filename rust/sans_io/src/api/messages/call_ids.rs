//! The ids of an answer's tool calls.

use super::history::{HistoryIds, IdHash};
use crate::api::tool_ids;

/// Gives each tool call of an answer an id that no other call of the conversation has.
#[derive(Debug, Default)]
pub(crate) struct CallIds {
    given: Vec<IdHash>,
    /// Distinguishes made ids.
    position: usize,
}

impl CallIds {
    /// The next call's id. `engine_id`: the engine's own, if there is one. `message_id`: the
    /// answer's. `history`: those of the calls before it.
    pub(crate) fn next(
        &mut self,
        engine_id: Option<&str>,
        message_id: &str,
        history: &HistoryIds,
    ) -> String {
        loop {
            let is_known = |id: &str| history.contains(id) || self.given.contains(&IdHash::of(id));
            let id = tool_ids::public_id(engine_id, message_id, self.position, is_known);
            let is_new = !is_known(&id);
            self.position += 1;
            // A client may name two requests the same, so that a made id can be known as well.
            if is_new {
                self.given.push(IdHash::of(&id));
                return id;
            }
        }
    }

    /// The memory that they take, in bytes.
    pub(crate) fn held(&self) -> usize {
        self.given.capacity() * size_of::<IdHash>()
    }
}
