//! Reshapes engines' errors for clients.

mod names;
mod reshape;

pub use reshape::{fix_anthropic_error_frames, redact_in_frames, reshape};
