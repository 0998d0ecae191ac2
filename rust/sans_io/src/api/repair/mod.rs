//! Repairs of chat completions for engines that speak them natively, as far as a model asks for them
//! (`repair`): what the translation of Messages does anyway. All else of request and response passes
//! as it came.
//!
//! | repair | request | response |
//! | --- | --- | --- |
//! | `tool_ids` | ids that were made here become the engine's own again | ids of calls are unique in the conversation |
//! | `system_first` | texts of the system behind the first turn become the user's | |
//! | `result_order` | results of tools stand in the order of their calls | |

mod repairs;
mod request;
mod response;

pub use repairs::Repairs;
pub use request::{Repaired, repaired};
pub use response::UniqueIds;
