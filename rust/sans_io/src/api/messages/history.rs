//! The ids of tool calls that a conversation has already.

use std::hash::{DefaultHasher, Hash, Hasher};

use serde_json::value::RawValue;

use super::json::{decoded, inside};

/// The most ids that are known of a conversation: the latest.
const IDS_MAX: usize = 4096;

/// An id as its client knows it, in 64 bits. Two that are equal as texts are equal, however their
/// JSON is escaped. A client that finds two texts of one hash fools itself alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct IdHash(u64);

impl IdHash {
    pub(super) fn of(id: &str) -> Self {
        let mut hasher = DefaultHasher::new();
        id.hash(&mut hasher);
        Self(hasher.finish())
    }

    /// The hash of a JSON string.
    pub(super) fn of_json(id: &RawValue) -> Self {
        match inside(id) {
            Some(id) if !id.contains('\\') => Self::of(id),
            // A half of a surrogate pair is no text: then it is what is written.
            _ => decoded(id).map_or_else(|| Self::of(id.get()), |id| Self::of(&id)),
        }
    }
}

/// The ids of the tool calls in a request, the latest 4096 of them: an answer's calls need others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HistoryIds(Box<[IdHash]>);

impl HistoryIds {
    /// Of ids in the order of their calls.
    pub(super) fn new(mut ids: Vec<IdHash>) -> Self {
        ids.drain(..ids.len().saturating_sub(IDS_MAX));
        ids.sort_unstable();
        ids.dedup();
        Self(ids.into())
    }

    /// Of ids as JSON strings, in the order of their calls.
    pub(crate) fn of<'a>(ids: impl Iterator<Item = &'a RawValue>) -> Self {
        Self::new(ids.map(IdHash::of_json).collect())
    }

    /// Whether a call of the conversation has this id, as its client knows it.
    pub fn contains(&self, public_id: &str) -> bool {
        self.0.binary_search(&IdHash::of(public_id)).is_ok()
    }

    /// The memory that they take, in bytes.
    pub fn held(&self) -> usize {
        size_of_val(&*self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::super::json::raw;
    use super::*;

    #[test]
    fn an_id_is_found_however_it_was_escaped_and_the_latest_are_kept() {
        let of = |json: &str| IdHash::of_json(raw(json).unwrap_or_else(|| unreachable!("JSON")));
        let ids =
            HistoryIds::new(vec![of(r#""call_1""#), of(r#""\u0063all_2""#), of(r#""\ud800""#)]);
        assert!(ids.contains("call_1") && ids.contains("call_2") && !ids.contains("call_3"));
        assert!(!HistoryIds::default().contains("call_1"));

        let many = (0..5000).map(|at| of(&format!("\"call_{at}\""))).collect();
        let ids = HistoryIds::new(many);
        assert!(ids.contains("call_4999") && ids.contains("call_904") && !ids.contains("call_903"));
        assert_eq!(ids.held(), 4096 * 8);
    }
}
