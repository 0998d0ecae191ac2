//! Forms (RFC 7578) without a copy.

mod error;
mod header;
mod scanner;

pub use error::{MultipartError, MultipartErrorKind};
pub use scanner::{HEADER_BYTES_MAX, PARTS_MAX, Scanner};
