//! What is known of an engine.

use crate::seam::{ReasoningNames, SystemMessages};

/// What is known of the engine that a request is translated for.
#[derive(Clone, Copy, Debug)]
pub struct Engine<'a> {
    /// Its name for the model.
    pub model: &'a str,
    /// The system messages that the model's chat template takes.
    pub system_messages: SystemMessages,
    /// The names under which it takes what an assistant thought.
    pub reasoning_names: ReasoningNames,
}
