//! Limits of the scanner, for others to name too.

/// The longest `model` that is accepted, in bytes of UTF-8 after unescaping.
pub const MODEL_BYTES_MAX: usize = 512;

/// The longest id of a response that is retained, in bytes of UTF-8 after unescaping.
pub const RESPONSE_ID_BYTES_MAX: usize = 512;

/// The deepest nesting that can be allowed. The body's own object counts as one.
pub const NESTING_MAX: u16 = 1024;
