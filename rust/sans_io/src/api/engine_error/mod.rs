//! Reshapes engines' errors for clients.

mod names;
mod reshape;

pub use reshape::{fix_anthropic_error_frames, redact_in_frames, reshape};

/// Names of an engine's, each with the public one that a client may see in its place.
pub(crate) type RedactedNames = std::sync::Arc<[(String, String)]>;
