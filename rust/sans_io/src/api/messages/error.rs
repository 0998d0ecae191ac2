//! The error of a translation.

use std::fmt;

/// A request or a response that cannot be translated, as a whole sentence for the client. It
/// repeats nothing of the body but names of keys and types.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TranslateError {
    /// The sentence.
    pub message: String,
}

impl TranslateError {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into() }
    }
}

impl fmt::Display for TranslateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for TranslateError {}
