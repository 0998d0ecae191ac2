//! Limits of the scanner that others name too.

/// The longest `model` that is looked at, in bytes of UTF-8 after unescaping.
pub const MODEL_BYTES_MAX: usize = 512;

/// The longest id of a response that is kept, in bytes of UTF-8 after unescaping.
pub const RESPONSE_ID_BYTES_MAX: usize = 512;

/// The deepest nesting that any limit can allow; the body's own object counts as one.
pub const NESTING_MAX: u16 = 1024;
