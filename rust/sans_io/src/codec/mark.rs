//! The byte order mark with which a text in UTF-8 may begin. It is no part of the text: readers of
//! event streams pass over it (WHATWG HTML, "Parsing an event stream"), and those of JSON may (RFC
//! 8259, section 8.1).

/// The mark.
pub(crate) const MARK: &[u8] = "\u{feff}".as_bytes();

/// A whole text, or its begin, without the mark.
pub(crate) fn without_mark(text: &[u8]) -> &[u8] {
    text.strip_prefix(MARK).unwrap_or(text)
}
