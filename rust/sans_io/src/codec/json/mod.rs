//! JSON without a tree: the scanner of request bodies, and small readers of engines' JSON.

mod census;
mod error;
mod finder;
mod limits;
pub(crate) mod object;
mod scanner;
mod skim;
mod token;

pub(crate) use census::Census;
pub use error::{ScanError, ScanErrorKind};
pub use finder::Finder;
pub(crate) use finder::find_last;
pub use limits::{MODEL_BYTES_MAX, NESTING_MAX, RESPONSE_ID_BYTES_MAX};
pub use scanner::{Model, PlaceForModel, Scanner};
pub(crate) use skim::{Skim, is_rest_of_top_level};
pub(crate) use token::{Number, plain_text};
