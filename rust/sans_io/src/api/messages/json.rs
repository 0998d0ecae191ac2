//! JSON that passes unread: values as they were written, and strings made of the insides of others.

use serde::{Deserialize, Serialize, Serializer, ser::Error};
use serde_json::value::RawValue;

/// A member of an object, as it was written. `None` when it is missing or null.
pub(super) type Raw<'a> = Option<&'a RawValue>;

/// A JSON string for the other document.
pub(super) enum Text<'a> {
    /// A string of the source document.
    Whole(&'a RawValue),
    /// A string made here, with its quotes.
    Made(String),
}

impl<'a> Text<'a> {
    /// Joins the insides of strings. `separator` is the inside of a string too.
    pub(super) fn joined(insides: &[&'a str], separator: &str) -> Self {
        Self::Made(format!("\"{}\"", insides.join(separator)))
    }

    /// A string made of plain text.
    pub(super) fn written(text: &str) -> Self {
        Self::Made(literal(text))
    }

    /// The text between the quotes, still escaped.
    pub(super) fn inside(&self) -> &str {
        let literal = match self {
            Self::Whole(raw) => raw.get(),
            Self::Made(literal) => literal,
        };
        literal.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or_default()
    }
}

impl Serialize for Text<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Whole(raw) => raw.serialize(serializer),
            Self::Made(literal) => raw(literal)
                .ok_or_else(|| S::Error::custom("no JSON string"))?
                .serialize(serializer),
        }
    }
}

/// The text as a JSON string, quotes included.
pub(super) fn literal(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// A JSON text as a value; None if it is not valid.
pub(super) fn raw(json: &str) -> Raw<'_> {
    serde_json::from_str(json).ok()
}

/// The text between the quotes of a string, still escaped; None for other values.
pub(super) fn inside(raw: &RawValue) -> Option<&str> {
    raw.get().strip_prefix('"')?.strip_suffix('"')
}

/// The text of a string; None for other values and for halves of surrogate pairs.
pub(super) fn decoded(raw: &RawValue) -> Option<String> {
    serde_json::from_str(raw.get()).ok()
}

/// An object's members; None for other values. The check is needed because serde takes an array for
/// a struct too.
pub(super) fn object<'a, T: Deserialize<'a>>(raw: &'a RawValue) -> Option<T> {
    raw.get().starts_with('{').then(|| serde_json::from_str(raw.get()).ok())?
}

/// An array's values; None for other values.
pub(super) fn list(raw: &RawValue) -> Option<Vec<&RawValue>> {
    serde_json::from_str(raw.get()).ok()
}
