//! Reshapes engines' errors for clients.

mod frames;
mod names;
mod overflow;
mod report;
mod reshape;

pub use frames::fix_error_frames;
pub use report::true_status;
pub(crate) use report::{in_stream, named};
pub use reshape::reshape;

/// Names of an engine's, each with the public one that a client may see in its place.
pub(crate) type RedactedNames = std::sync::Arc<[(String, String)]>;
