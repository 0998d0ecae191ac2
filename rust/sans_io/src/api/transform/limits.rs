//! How much of a response is held and looked into.

/// How much is held where something in it is to be edited: of a frame, and of a whole response while
/// its `model` is looked for.
pub(super) const EDITED_HELD: usize = 4 * 1024 * 1024;
/// The usage of a longer response is not looked for.
pub(super) const COUNTED: usize = 64 * 1024;
