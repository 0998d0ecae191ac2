//! What a Message has of its request.

use std::sync::Arc;

use super::history::HistoryIds;

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
