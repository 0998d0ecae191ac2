//! The limits of transformations, in bytes.

/// The most of a frame that is held back where it is edited, and of a whole response while its
/// `model` is searched for.
pub(super) const EDITED_HELD: usize = 4 * 1024 * 1024;
