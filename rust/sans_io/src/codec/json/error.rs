//! Errors of a JSON body, in words for the client.

use std::fmt;

use super::limits::MODEL_BYTES_MAX;

/// The error of a body, and where it is. Displayed to the client: a whole sentence that repeats
/// nothing of the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScanError {
    /// The kind of error.
    pub kind: ScanErrorKind,
    /// The byte of the body that shows it, counted from 0. For an error of the model's value: where
    /// the value begins.
    pub offset: u64,
}

/// Kinds of errors of a JSON body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScanErrorKind {
    /// Nothing or only white space.
    Empty,
    /// Something other than a JSON object.
    NotAnObject,
    /// Not JSON; says what was expected.
    Syntax(&'static str),
    /// Something other than white space follows the object.
    TrailingData,
    /// The body ends inside the object.
    Truncated,
    /// More open objects and arrays than allowed.
    TooDeep,
    /// The body begins with a byte order mark.
    ByteOrderMark,
    /// The body looks like UTF-16 or UTF-32.
    NotUtf8,
    /// The object has no top-level `model`.
    ModelMissing,
    /// `model` is null, a number, an object and so on.
    ModelNotAString,
    /// `model` is empty or blank.
    ModelEmpty,
    /// `model` is longer than [`MODEL_BYTES_MAX`].
    ModelTooLong,
    /// The object has a second top-level `model`, escaped or not.
    ModelTwice,
    /// `model` holds half of a surrogate pair.
    ModelLoneSurrogate,
    /// `model` is not UTF-8.
    ModelNotUnicode,
}

impl ScanErrorKind {
    /// Whether some readers of JSON find members in such a body all the same, which were not seen
    /// here: those that look for its encoding, or that take deeper values.
    pub fn may_hide(self) -> bool {
        matches!(self, Self::ByteOrderMark | Self::NotUtf8 | Self::TooDeep)
    }
}

impl std::error::Error for ScanError {}

impl fmt::Display for ScanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = self.offset;
        match self.kind {
            ScanErrorKind::Empty => f.write_str("The request body is empty; send a JSON object."),
            ScanErrorKind::NotAnObject => write!(
                f,
                "The request body is not a JSON object: byte {at} is not `{{`; send one JSON \
                 object."
            ),
            ScanErrorKind::Syntax(expected) => write!(
                f,
                "The request body is not valid JSON: at byte {at} there should be {expected}."
            ),
            ScanErrorKind::TrailingData => write!(
                f,
                "The request body goes on after its JSON object, at byte {at}; send one JSON \
                 object only."
            ),
            ScanErrorKind::Truncated => write!(
                f,
                "The request body ends after {at} bytes, inside its JSON object; send the whole \
                 object."
            ),
            ScanErrorKind::TooDeep => write!(
                f,
                "The request body nests objects and arrays too deeply at byte {at}; send a \
                 flatter one."
            ),
            ScanErrorKind::ByteOrderMark => f.write_str(
                "The request body begins with a byte order mark; send UTF-8 without one.",
            ),
            ScanErrorKind::NotUtf8 => {
                f.write_str("The request body looks like UTF-16 or UTF-32; send UTF-8.")
            }
            _ => self.model(f),
        }
    }
}

impl ScanError {
    fn model(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = self.offset;
        match self.kind {
            ScanErrorKind::ModelNotAString => {
                write!(f, "`model` must be a string; at byte {at} it is something else.")
            }
            ScanErrorKind::ModelEmpty => {
                f.write_str("`model` is empty; name the model to use, as /v1/models lists it.")
            }
            ScanErrorKind::ModelTooLong => write!(
                f,
                "`model` is longer than {MODEL_BYTES_MAX} bytes; name the model as /v1/models \
                 lists it."
            ),
            ScanErrorKind::ModelTwice => write!(
                f,
                "The request body has a second `model` before byte {at}; send `model` once."
            ),
            ScanErrorKind::ModelLoneSurrogate => f.write_str(
                "`model` holds half of a surrogate pair, which is no character; name the model in \
                 Unicode.",
            ),
            ScanErrorKind::ModelNotUnicode => {
                f.write_str("`model` is not valid UTF-8; name the model in UTF-8.")
            }
            _ => f.write_str(
                "The request body has no `model`; name the model to use, as /v1/models lists it.",
            ),
        }
    }
}
