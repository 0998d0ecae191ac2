//! JSON that passes unread: values as they were written, and strings made of the insides of others.

use std::io::{self, Write};

use serde::{Deserialize, Serialize, Serializer, ser::Error};
use serde_json::value::RawValue;

use crate::api::cost::MEASURED;

/// The longest string that can be a word of the APIs, in bytes, however it is escaped.
const WORD_MAX: usize = 256;

/// A member of an object, as it was written. `None` when it is missing or null.
pub(super) type Raw<'a> = Option<&'a RawValue>;

/// A JSON string for the other document.
pub(super) enum Text<'a> {
    /// A string of the source document.
    Whole(&'a RawValue),
    /// A string made here, with its quotes.
    Made(String),
}

impl Text<'_> {
    /// Joins the insides of strings. `separator` is the inside of a string too.
    pub(super) fn joined(insides: &[&str], separator: &str) -> Self {
        Self::prefixed("", insides, separator)
    }

    /// The same behind a prefix, the inside of a string as well.
    pub(super) fn prefixed(prefix: &str, insides: &[&str], separator: &str) -> Self {
        Self::enclosed(prefix, insides, separator, "")
    }

    /// The same between a prefix and a suffix, the insides of strings as well.
    pub(super) fn enclosed<T: AsRef<str>>(
        prefix: &str,
        insides: &[T],
        separator: &str,
        suffix: &str,
    ) -> Self {
        let length = |inside: &T| inside.as_ref().len() + separator.len();
        let inside: usize = insides.iter().map(length).sum();
        // In one piece from the start: it may be most of a large document.
        let mut made = String::with_capacity(prefix.len() + inside + suffix.len() + 2);
        made.push('"');
        made.push_str(prefix);
        for (at, inside) in insides.iter().enumerate() {
            if at > 0 {
                made.push_str(separator);
            }
            made.push_str(inside.as_ref());
        }
        made.push_str(suffix);
        made.push('"');
        Self::Made(made)
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
    let escaped = |byte: u8| match byte {
        b'"' | b'\\' => 2,
        b'\x00'..=b'\x1f' => 6,
        _ => 1,
    };
    let mut written = Vec::with_capacity(text.bytes().map(escaped).sum::<usize>() + 2);
    // Writing into memory does not fail.
    let _ = serde_json::to_writer(&mut written, text);
    String::from_utf8(written).unwrap_or_default()
}

/// The document as JSON, for one that was made of `source` bytes. None where it has no JSON.
pub(super) fn document<T: Serialize>(value: &T, source: usize) -> Option<Vec<u8>> {
    let length = if source > MEASURED { length(value)? } else { source + source / 4 };
    let mut written = Vec::with_capacity(length);
    serde_json::to_writer(&mut written, value).ok()?;
    Some(written)
}

/// The length of a document. A large one is written twice, so that its memory is not doubled.
fn length<T: Serialize>(value: &T) -> Option<usize> {
    struct Length(usize);
    impl Write for Length {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut length = Length(0);
    serde_json::to_writer(&mut length, value).ok()?;
    Some(length.0)
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

/// As `decoded`, for one of the APIs' own words, which are short; None for a long string.
pub(super) fn word(raw: &RawValue) -> Option<String> {
    if raw.get().len() <= WORD_MAX { decoded(raw) } else { None }
}

/// An object's members; None for other values. The check is needed because serde takes an array for
/// a struct too.
pub(super) fn object<'a, T: Deserialize<'a>>(raw: &'a RawValue) -> Option<T> {
    object_in(raw.get())
}

/// As `object`, for a JSON text without white space before it.
pub(crate) fn object_in<'a, T: Deserialize<'a>>(json: &'a str) -> Option<T> {
    json.starts_with('{').then(|| serde_json::from_str(json).ok())?
}

/// An array's values; None for other values.
pub(crate) fn list(raw: &RawValue) -> Option<Vec<&RawValue>> {
    serde_json::from_str(raw.get()).ok()
}
