//! Scans forms (multipart/form-data, RFC 7578) without a copy.

mod error;
mod header;
mod limits;
mod scanner;

pub use error::{MultipartError, MultipartErrorKind};
pub use limits::{HEADER_BYTES_MAX, PARTS_MAX};
pub use scanner::Scanner;
