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
        Self { held: BytesMut::new(), finder: Finder::string(&["model"]), name_json }
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
