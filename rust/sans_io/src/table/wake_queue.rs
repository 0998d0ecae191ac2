//! The places of requests that wait for one model.

use std::sync::{
    Arc,
    atomic::{AtomicU32, AtomicU64, Ordering},
};

/// The requests of all workers that wait until something of a model runs. Every publish that has
/// the model again goes on with it.
#[derive(Debug, Default)]
pub struct WakeQueue {
    waiting: AtomicU32,
    /// Requests that found no place.
    pub refused_full: AtomicU64,
    /// Requests that waited for as long as they may.
    pub refused_late: AtomicU64,
}

impl WakeQueue {
    /// The requests that wait now.
    pub fn waiting(&self) -> u32 {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Whether a request waits, or was refused.
    pub fn was_used(&self) -> bool {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        self.waiting() > 0 || of(&self.refused_full) + of(&self.refused_late) > 0
    }

    /// Takes a place, where fewer than `limit` are taken.
    pub(super) fn enter(self: &Arc<Self>, limit: u32) -> Option<Place> {
        let order = Ordering::Relaxed;
        let below = |waiting: u32| (waiting < limit).then_some(waiting + 1);
        let before = self.waiting.fetch_update(order, order, below).ok()?;
        Some(Place { queue: Arc::clone(self), is_first: before == 0 })
    }
}

/// A request's place, given back when it is dropped.
#[derive(Debug)]
pub struct Place {
    queue: Arc<WakeQueue>,
    /// Nobody else waited when it was taken.
    pub is_first: bool,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.queue.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_up_to_the_limit_and_given_back() {
        let queue = Arc::new(WakeQueue::default());
        let places: Vec<_> = (0..3).map_while(|_| queue.enter(2)).collect();
        assert_eq!(places.iter().map(|place| place.is_first).collect::<Vec<_>>(), [true, false]);
        drop(places);
        assert_eq!(queue.waiting(), 0);
        assert!(queue.enter(2).unwrap().is_first);
        assert!(queue.enter(0).is_none());
    }

    #[test]
    fn of_many_at_once_as_many_come_in_as_there_are_places_and_one_is_the_first() {
        let queue = Arc::new(WakeQueue::default());
        let entered = std::sync::Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let places: Vec<_> = (0..250).filter_map(|_| queue.enter(64)).collect();
                    entered.lock().unwrap().extend(places);
                });
            }
        });
        let entered = entered.into_inner().unwrap();
        assert_eq!(entered.len(), 64);
        assert_eq!(entered.iter().filter(|place| place.is_first).count(), 1);
    }
}
