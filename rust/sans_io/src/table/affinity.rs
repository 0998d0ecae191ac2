//! The owners of stored responses of the Responses API. Each lives in the memory of one engine
//! alone.

use std::{
    collections::{HashMap, VecDeque},
    hash::BuildHasher,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// The number of parts, each with a lock of its own, so that workers seldom wait for each other.
const PARTS: usize = 16;

/// The origin of a stored response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResponseOrigin {
    /// The id of the key that the response belongs to.
    owner: Arc<str>,
    /// The name of the route that it was asked of.
    pub route: Arc<str>,
    /// The id of the instance that holds it.
    pub instance: Arc<str>,
}

/// A bounded map from the ids of stored responses, which forgets the oldest first.
///
/// A response belongs to the key that asked for it; no other key finds it. The first owner of an id
/// stays its owner. Some engines let a client choose the id (vLLM's `request_id`), and a client
/// that chooses another's must not come to own the response behind it.
#[derive(Debug)]
pub struct ResponseOwners {
    parts: [Mutex<Part>; PARTS],
    most_per_part: usize,
    hasher: foldhash::fast::RandomState,
}

/// One part of the map.
#[derive(Debug, Default)]
struct Part {
    by_id: HashMap<Arc<str>, ResponseOrigin, foldhash::fast::RandomState>,
    oldest_first: VecDeque<Arc<str>>,
}

impl ResponseOwners {
    /// An empty map for about `most` responses.
    pub fn new(most: usize) -> Self {
        Self {
            parts: Default::default(),
            most_per_part: most.div_ceil(PARTS),
            hasher: foldhash::fast::RandomState::default(),
        }
    }

    /// Remembers a response that was made for this key. None (on a public route): it has no owner,
    /// so it is not remembered.
    pub fn remember(&self, key: Option<&str>, id: String, route: &Arc<str>, instance: &Arc<str>) {
        let Some(key) = key else { return };
        let (owner, id): (Arc<str>, Arc<str>) = (key.into(), id.into());
        let part = &mut *self.part(&id);
        match part.by_id.get(&id) {
            Some(known) if known.owner != owner => return,
            Some(_) => {}
            None => part.oldest_first.push_back(Arc::clone(&id)),
        }
        let origin =
            ResponseOrigin { owner, route: Arc::clone(route), instance: Arc::clone(instance) };
        part.by_id.insert(id, origin);
        while part.oldest_first.len() > self.most_per_part {
            if let Some(oldest) = part.oldest_first.pop_front() {
                part.by_id.remove(&oldest);
            }
        }
    }

    /// The origin of this key's response of this id; None: unknown, forgotten, or another key's.
    pub fn find(&self, key: Option<&str>, id: &str) -> Option<ResponseOrigin> {
        let key = key?;
        self.part(id).by_id.get(id).filter(|origin| *origin.owner == *key).cloned()
    }

    fn part(&self, id: &str) -> MutexGuard<'_, Part> {
        let index = self.hasher.hash_one(id) as usize % PARTS;
        self.parts[index].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_is_found_by_its_own_key_alone() {
        let responses = ResponseOwners::new(100);
        responses.remember(Some("a"), "resp_1".to_owned(), &"r".into(), &"i-1".into());
        let origin =
            ResponseOrigin { owner: "a".into(), route: "r".into(), instance: "i-1".into() };
        assert_eq!(responses.find(Some("a"), "resp_1"), Some(origin));
        assert_eq!(responses.find(Some("b"), "resp_1"), None);
        assert_eq!(responses.find(None, "resp_1"), None);
        assert_eq!(responses.find(Some("a"), "resp_2"), None);
    }

    #[test]
    fn a_key_that_asks_for_anothers_id_does_not_come_to_own_it() {
        let responses = ResponseOwners::new(100);
        responses.remember(Some("a"), "resp_1".to_owned(), &"r".into(), &"i-1".into());
        responses.remember(Some("b"), "resp_1".to_owned(), &"r".into(), &"i-1".into());
        assert_eq!(responses.find(Some("b"), "resp_1"), None);
        assert!(responses.find(Some("a"), "resp_1").is_some());
        responses.remember(Some("a"), "resp_1".to_owned(), &"r".into(), &"i-2".into());
        assert_eq!(responses.find(Some("a"), "resp_1").unwrap().instance, "i-2".into());
    }

    #[test]
    fn the_oldest_are_forgotten_first_and_the_number_is_bounded() {
        let responses = ResponseOwners::new(160);
        for number in 0..10_000 {
            responses.remember(Some("a"), format!("resp_{number}"), &"r".into(), &"i-1".into());
        }
        let kept = (0..10_000)
            .filter(|number| responses.find(Some("a"), &format!("resp_{number}")).is_some())
            .count();
        assert!(kept <= 160, "{kept}");
        assert!(responses.find(Some("a"), "resp_9999").is_some());
        assert!(responses.find(Some("a"), "resp_0").is_none());
    }
}
