//! Which repairs a model asks for.

use crate::seam;

/// The repairs that a model asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Repairs {
    /// Ids of tool calls are unique in a conversation.
    pub tool_ids: bool,
    /// Nothing of the system stands behind the first turn.
    pub system_first: bool,
    /// Results stand in the order of their calls.
    pub result_order: bool,
}

impl Repairs {
    /// Those of a published model.
    pub fn new(asked: &[seam::Repair]) -> Self {
        let asks = |repair| asked.contains(&repair);
        Self {
            tool_ids: asks(seam::Repair::ToolIds),
            system_first: asks(seam::Repair::SystemFirst),
            result_order: asks(seam::Repair::ResultOrder),
        }
    }
}
