//! Ends what runs with a key: at its revocation, and a WebSocket also when it expires. At the end
//! of a drain it ends everything.
//!
//! Both are rare, and a piece of a stream is not. So whatever moves reads a flag of its key and one
//! of its worker, and whatever waits has left its waker with its worker, which wakes all of them
//! then.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::time::Instant;

use crate::timer::PhaseTimer;
use sans_io::table::Key;

/// The wakers of what waits on one worker.
#[derive(Debug, Default)]
pub(crate) struct Sleepers {
    places: RefCell<Places>,
    /// The drain's limit has passed.
    is_cut: Cell<bool>,
    /// The number of revocations after which all were woken.
    seen: Cell<u64>,
}

/// Wakers in places that are used again and again.
#[derive(Debug, Default)]
struct Places {
    wakers: Vec<Option<Waker>>,
    free: Vec<usize>,
}

impl Sleepers {
    /// Wakes all, if there was a revocation since the last call. `revocations`: how many there were
    /// in all.
    pub(crate) fn wake_after(&self, revocations: u64) {
        if self.seen.replace(revocations) != revocations {
            self.wake();
        }
    }

    /// Ends everything: the drain's limit has passed.
    pub(crate) fn cut(&self) {
        self.is_cut.set(true);
        self.wake();
    }

    fn wake(&self) {
        self.places.borrow().wakers.iter().flatten().for_each(Waker::wake_by_ref);
    }

    /// Leaves a waker, at the place of an earlier one if there is one. Returns its place.
    fn put(&self, place: Option<usize>, waker: &Waker) -> usize {
        let places = &mut *self.places.borrow_mut();
        let place = place.or_else(|| places.free.pop()).unwrap_or(places.wakers.len());
        match places.wakers.get_mut(place) {
            Some(Some(known)) => known.clone_from(waker),
            Some(free) => *free = Some(waker.clone()),
            None => places.wakers.push(Some(waker.clone())),
        }
        place
    }

    fn take(&self, place: usize) {
        let places = &mut *self.places.borrow_mut();
        if let Some(waker) = places.wakers.get_mut(place) {
            *waker = None;
            places.free.push(place);
        }
    }
}

/// Why something ends before its own end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EndedEarly {
    /// Its key was revoked.
    KeyRevoked,
    /// The drain's limit has passed.
    Drained,
}

/// The watch of one request, response or WebSocket over its key.
#[derive(Debug)]
pub(crate) struct KeyWatch {
    /// None: it has no key, and a drain alone ends it.
    key: Option<Arc<Key>>,
    sleepers: Rc<Sleepers>,
    /// Where its waker is; None: it has not waited yet.
    place: Option<usize>,
    /// The first poll for the key's end, and the time that it had left then; None: none was polled.
    life: Option<(Instant, Option<Duration>)>,
    expiry: PhaseTimer,
}

impl KeyWatch {
    /// A watch that begins now.
    pub(crate) fn new(key: Option<Arc<Key>>, sleepers: &Rc<Sleepers>) -> Self {
        let (sleepers, expiry) = (Rc::clone(sleepers), PhaseTimer::default());
        Self { key, sleepers, place: None, life: None, expiry }
    }

    /// Another watch over the same.
    pub(crate) fn again(&self) -> Self {
        Self::new(self.key.clone(), &self.sleepers)
    }

    /// Why what is watched has to end now; None: it may go on.
    pub(crate) fn ended_early(&self) -> Option<EndedEarly> {
        if self.key.as_ref().is_some_and(|key| key.is_revoked()) {
            return Some(EndedEarly::KeyRevoked);
        }
        self.sleepers.is_cut.get().then_some(EndedEarly::Drained)
    }

    /// Wakes the task when it may have to end. For whoever has seen that it may go on, and waits
    /// now.
    pub(crate) fn wait(&mut self, context: &Context<'_>) {
        self.place = Some(self.sleepers.put(self.place, context.waker()));
    }

    /// Ready when what is watched has to end.
    pub(crate) fn poll_ended_early(&mut self, context: &Context<'_>) -> Poll<EndedEarly> {
        let ended = self.ended_early();
        if ended.is_none() {
            self.wait(context);
        }
        ended.map_or(Poll::Pending, Poll::Ready)
    }

    /// Ready when what is watched has to end, for which the expiry of its key is a reason, too.
    pub(crate) fn poll_ended(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.poll_ended_early(context).is_ready() {
            return Poll::Ready(());
        }
        let Some(key) = &self.key else { return Poll::Pending };
        let (began, left) = *self.life.get_or_insert_with(|| (Instant::now(), key.time_left()));
        self.expiry.poll(context, began, left)
    }
}

impl Drop for KeyWatch {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            self.sleepers.take(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use sans_io::{seam::KeyDelta, table::Keys, test_support};

    use super::*;
    use crate::bounded::bounded;

    /// A store with one key, and the key. `expires`: in Unix seconds.
    fn store(expires: Option<u64>) -> (Keys, Arc<Key>) {
        use sha2::{Digest, Sha256};
        let digest = Sha256::new().chain_update([0xab]).chain_update(b"secret").finalize();
        let hex: Vec<String> = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut entry = test_support::key("a", &hex.concat());
        entry["expires"] = expires.into();
        let delta: KeyDelta = test_support::read(test_support::keys("ab", vec![entry]));
        let keys = Keys::default().changed_by(delta).unwrap();
        let headers = [("x-api-key", "secret")].map(|(name, value)| {
            (http::HeaderName::from_static(name), http::HeaderValue::from_static(value))
        });
        let key = keys.check(&headers.into_iter().collect()).unwrap();
        (keys, key)
    }

    fn revoke(keys: &Keys) {
        let none = keys.changed_by(test_support::read(test_support::keys("ab", vec![])));
        assert!(keys.revoke_missing_from(&none.unwrap()));
    }

    // The tasks are of their own, so that nothing but their wakers polls them again.

    #[tokio::test(flavor = "local")]
    async fn what_waits_is_woken_after_a_revocation_alone() {
        let ((keys, key), sleepers) = (store(None), Rc::<Sleepers>::default());
        let mut watch = KeyWatch::new(Some(key), &sleepers);
        let polls = Rc::new(Cell::new(0));
        let counted = Rc::clone(&polls);
        let waiting = tokio::task::spawn_local(poll_fn(move |context| {
            counted.set(counted.get() + 1);
            watch.poll_ended(context)
        }));
        tokio::task::yield_now().await;
        sleepers.wake_after(0);
        tokio::task::yield_now().await;
        revoke(&keys);
        tokio::task::yield_now().await;
        assert_eq!(polls.get(), 1, "at the begin");
        sleepers.wake_after(1);
        bounded(waiting).await.unwrap();
        assert_eq!(polls.get(), 2, "and when it was woken");
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_ends_when_its_key_expires() {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let (_, key) = store(Some(now.as_secs() + 1_000));
        let mut watch = KeyWatch::new(Some(key), &Rc::default());
        let started = Instant::now();
        bounded(poll_fn(|context| watch.poll_ended(context))).await;
        // The present second has begun already.
        assert!((998..=1_000).contains(&started.elapsed().as_secs()));
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_key_or_an_expiry_nothing_ends() {
        for key in [None, Some(store(None).1), Some(store(Some(u64::MAX)).1)] {
            let mut watch = KeyWatch::new(key, &Rc::default());
            let ended = poll_fn(|context| watch.poll_ended(context));
            assert!(tokio::time::timeout(Duration::from_secs(999), ended).await.is_err());
        }
    }

    #[tokio::test(flavor = "local")]
    async fn what_waits_without_a_key_is_woken_by_the_end_of_a_drain() {
        let sleepers = Rc::<Sleepers>::default();
        let mut watch = KeyWatch::new(None, &sleepers);
        let waiting =
            tokio::task::spawn_local(poll_fn(move |context| watch.poll_ended_early(context)));
        tokio::task::yield_now().await;
        sleepers.wake_after(1);
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        sleepers.cut();
        assert_eq!(bounded(waiting).await.unwrap(), EndedEarly::Drained);
    }

    #[tokio::test]
    async fn places_are_used_again() {
        let ((_, key), sleepers) = (store(None), Rc::<Sleepers>::default());
        let wait = |watch: &mut KeyWatch| {
            watch.wait(&Context::from_waker(Waker::noop()));
            watch.wait(&Context::from_waker(Waker::noop()));
        };
        for _ in 0..3 {
            let mut watches = [0; 5].map(|_| KeyWatch::new(Some(Arc::clone(&key)), &sleepers));
            watches.iter_mut().for_each(wait);
            assert_eq!(sleepers.places.borrow().wakers.len(), 5);
        }
        assert_eq!(sleepers.places.borrow().free.len(), 5);
    }
}
