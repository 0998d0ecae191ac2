//! JSON without a tree: the scanner of request bodies, and small readers of what engines write.

mod error;
mod finder;
pub(crate) mod object;
mod scanner;
mod token;

pub use error::{SniffError, SniffErrorKind};
pub(crate) use finder::find_last;
pub use finder::{Finder, find_model};
pub use scanner::{MODEL_BYTES_MAX, Model, NESTING_MAX, RESPONSE_ID_BYTES_MAX, Sniffer};
pub(crate) use token::{Number, plain_text};
