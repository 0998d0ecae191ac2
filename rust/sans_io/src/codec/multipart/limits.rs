//! Limits of a form.

/// The longest header section of one part, line ends included, and the longest preamble of a form.
pub const HEADER_BYTES_MAX: usize = 16 << 10;

/// The most parts of one form; Starlette takes as many files and as many fields.
pub const PARTS_MAX: u32 = 1000;

/// The longest boundary of RFC 2046.
pub(super) const BOUNDARY_MAX: usize = 70;
