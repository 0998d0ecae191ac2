//! The renaming of the model in a whole response.

use bytes::{Bytes, BytesMut};

use super::limits::{EDITED_HELD, append};
use crate::codec::json::Finder;

/// Replaces the `model` of a whole response by the public name.
#[derive(Debug)]
pub(super) struct Renamer {
    held: BytesMut,
    finder: Finder,
    name_json: Bytes,
}

impl Renamer {
    /// `name_json`: the public name as a JSON string.
    pub(super) fn new(name_json: Bytes) -> Self {
        Self { held: BytesMut::new(), finder: Finder::string(&["model"]).of_document(), name_json }
    }

    /// The memory of what is held back, in bytes.
    pub(super) fn held(&self) -> usize {
        self.held.capacity()
    }

    /// The bytes so far, renamed; None: they are held back until `model` is found. A response
    /// without a `model`, or too long before it, passes as it is.
    pub(super) fn push(&mut self, data: Bytes, done: bool) -> Option<Bytes> {
        self.finder.feed(&data);
        let found = self.finder.found();
        let waits = found.is_none() && !done && self.held.len() + data.len() <= EDITED_HELD;
        // The usual response comes in one piece, with the right name: it is not copied.
        let whole = if self.held.is_empty() && !waits {
            data
        } else {
            append(&mut self.held, &data, EDITED_HELD);
            if waits {
                return None;
            }
            std::mem::take(&mut self.held).freeze()
        };
        Some(match found {
            Some(range) if whole[range.clone()] != self.name_json => {
                [&whole[..range.start], &self.name_json, &whole[range.end..]].concat().into()
            }
            _ => whole,
        })
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use crate::api::{transform::Transform, usage::Timings};

    #[test]
    fn a_mark_before_the_document_passes_and_the_name_behind_it_is_replaced() {
        let (engines, clients) = ("\u{feff}{\"model\":\"e\"}", "\u{feff}{\"model\":\"m\"}");
        let timings = || Timings { first_ms: 0.0, elapsed_ms: 0.0 };
        for size in 1..=engines.len() {
            let mut transform = Transform::rename(Bytes::from_static(b"\"m\""));
            let mut out = Vec::new();
            for piece in engines.as_bytes().chunks(size) {
                let piece = Bytes::copy_from_slice(piece);
                out.extend(transform.push(piece, false, timings).unwrap());
            }
            out.extend(transform.push(Bytes::new(), true, timings).unwrap());
            assert_eq!(String::from_utf8(out).unwrap(), clients, "{size}");
        }
    }
}
