//! An engine's errors, made fit for its clients.

mod names;
mod reshape;

pub use names::hide_name;
pub use reshape::{fix_anthropic_error_frames, hide_in_frames, reshape};
