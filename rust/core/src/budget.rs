//! Bytes that the requests of the whole process share: a limit in sum, where each request has only a
//! limit of its own.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::time::{Instant, Sleep};

/// Bytes are taken in steps of this size, so that not every piece costs an atomic operation.
const STEP: u64 = 64 * 1024;
/// The longest wait for bytes that others hold.
const PATIENCE: Duration = Duration::from_secs(1);
/// The time between two looks whether there is room now.
const PAUSE: Duration = Duration::from_millis(50);
/// The part of a budget that callers without a key share.
const KEYLESS_PART: u64 = 8;

/// A number of bytes that requests share.
#[derive(Debug)]
pub(crate) struct Budget {
    limit: u64,
    used: AtomicU64,
    /// What is taken here is taken there, too.
    whole: Option<Arc<Budget>>,
}

impl Budget {
    /// A budget of which nothing is taken, and the eighth of it that callers without a key share.
    pub(crate) fn new(limit: u64) -> (Arc<Self>, Arc<Self>) {
        let whole = Arc::new(Self { limit, used: AtomicU64::new(0), whole: None });
        let keyless = Self {
            limit: limit / KEYLESS_PART,
            used: AtomicU64::new(0),
            whole: Some(Arc::clone(&whole)),
        };
        (whole, Arc::new(keyless))
    }

    /// The most bytes that may be taken.
    pub(crate) fn limit(&self) -> u64 {
        self.limit
    }

    /// The bytes that are taken.
    pub(crate) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Takes bytes; false: there are not so many.
    fn take(&self, bytes: u64) -> bool {
        let more = |used: u64| used.checked_add(bytes).filter(|used| *used <= self.limit);
        if self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_err() {
            return false;
        }
        let taken = self.whole.as_ref().is_none_or(|whole| whole.take(bytes));
        if !taken {
            self.used.fetch_sub(bytes, Ordering::Relaxed);
        }
        taken
    }

    fn give_back(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
        if let Some(whole) = &self.whole {
            whole.give_back(bytes);
        }
    }
}

/// One request's part of a budget, given back when it is dropped.
#[derive(Debug, Default)]
pub(crate) struct Share {
    /// None: nothing is taken.
    taken: Option<(Arc<Budget>, u64)>,
    wait: RoomWait,
}

/// One task's wait for room: its end, and the time until the next look.
#[derive(Debug, Default)]
pub(crate) struct RoomWait(Option<Box<(Instant, Pin<Box<Sleep>>)>>);

impl RoomWait {
    /// Ready when `grow` has taken what is missing, which it tells.
    pub(crate) fn poll(
        &mut self,
        context: &mut Context<'_>,
        mut grow: impl FnMut() -> bool,
    ) -> Poll<Result<(), NoRoom>> {
        loop {
            if grow() {
                self.0 = None;
                return Poll::Ready(Ok(()));
            }
            let now = Instant::now();
            let (end, pause) = &mut **self.0.get_or_insert_with(|| {
                Box::new((now + PATIENCE, Box::pin(tokio::time::sleep(PAUSE))))
            });
            ready!(pause.as_mut().poll(context));
            if now >= *end {
                self.0 = None;
                return Poll::Ready(Err(NoRoom));
            }
            pause.as_mut().reset(now + PAUSE);
        }
    }
}

/// There was no room within the time that is waited for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NoRoom;

impl Share {
    /// The bytes that were taken.
    pub(crate) fn bytes(&self) -> u64 {
        self.taken.as_ref().map_or(0, |(_, bytes)| *bytes)
    }

    /// Takes as much as is missing to `bytes`; false: there is not so much. What is held already
    /// decides of which budget it is; with nothing it is this one.
    pub(crate) fn grow(&mut self, budget: &Arc<Budget>, bytes: u64) -> bool {
        let missing = bytes.saturating_sub(self.bytes()).next_multiple_of(STEP);
        match &mut self.taken {
            Some((budget, held)) => {
                let grown = budget.take(missing);
                *held += if grown { missing } else { 0 };
                grown
            }
            None if missing > 0 && budget.take(missing) => {
                self.taken = Some((Arc::clone(budget), missing));
                true
            }
            None => missing == 0,
        }
    }

    /// As `grow`, but waits a while where there is not so much.
    pub(crate) fn poll_grow(
        &mut self,
        context: &mut Context<'_>,
        budget: &Arc<Budget>,
        bytes: u64,
    ) -> Poll<Result<(), NoRoom>> {
        let mut wait = std::mem::take(&mut self.wait);
        let grown = wait.poll(context, || bytes <= self.bytes() || self.grow(budget, bytes));
        self.wait = wait;
        grown
    }

    /// Gives back all but what `bytes` need.
    pub(crate) fn shrink(&mut self, bytes: u64) {
        if let Some((budget, held)) = &mut self.taken {
            let excess = held.saturating_sub(bytes.next_multiple_of(STEP));
            budget.give_back(excess);
            *held -= excess;
            // The next request on a connection may have a key where this one had none.
            if *held == 0 {
                self.taken = None;
            }
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.shrink(0);
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;
    use crate::bounded::bounded;

    #[test]
    fn shares_are_taken_in_sum_and_given_back() {
        let (whole, _) = Budget::new(10 * STEP);
        let (mut first, mut second) = (Share::default(), Share::default());
        assert!(first.grow(&whole, 6 * STEP - 5) && first.bytes() == 6 * STEP);
        assert!(!second.grow(&whole, 5 * STEP) && second.bytes() == 0);
        first.shrink(STEP + 1);
        assert!(first.bytes() == 2 * STEP && second.grow(&whole, 8 * STEP));
        assert!(!first.grow(&whole, 3 * STEP));
        drop(second);
        assert!(first.grow(&whole, 10 * STEP));
        drop(first);
        assert_eq!(whole.used(), 0);
    }

    #[test]
    fn callers_without_a_key_share_an_eighth_and_leave_the_rest() {
        let (whole, keyless) = Budget::new(16 * STEP);
        let (mut stranger, mut other) = (Share::default(), Share::default());
        assert!(stranger.grow(&keyless, 2 * STEP) && !other.grow(&keyless, 1));
        let mut known = Share::default();
        assert!(!known.grow(&whole, 15 * STEP) && known.grow(&whole, 14 * STEP));
        drop(stranger);
        assert!(known.grow(&whole, 16 * STEP) && !other.grow(&keyless, 1));
        drop(known);
        assert!(other.grow(&keyless, 1));
    }

    #[test]
    fn a_share_that_is_empty_is_taken_of_the_budget_that_is_given_next() {
        let (whole, keyless) = Budget::new(16 * STEP);
        let mut share = Share::default();
        assert!(share.grow(&keyless, STEP) && keyless.used() == STEP);
        assert!(share.grow(&whole, 2 * STEP) && keyless.used() == 2 * STEP, "it is one share");
        share.shrink(0);
        assert!(share.grow(&whole, 2 * STEP) && keyless.used() == 0);
        drop(share);
        let mut refused = Share::default();
        assert!(!refused.grow(&keyless, 3 * STEP) && refused.grow(&whole, 3 * STEP));
        assert_eq!((keyless.used(), whole.used()), (0, 3 * STEP));
    }

    #[tokio::test(start_paused = true)]
    async fn room_is_waited_for_and_not_for_long() {
        let (whole, _) = Budget::new(2 * STEP);
        let (mut first, mut second) = (Share::default(), Share::default());
        assert!(first.grow(&whole, 2 * STEP));
        let begun = Instant::now();
        assert_eq!(
            bounded(poll_fn(|context| second.poll_grow(context, &whole, STEP))).await,
            Err(NoRoom),
            "nobody gives back"
        );
        assert!(begun.elapsed() >= PATIENCE);
        let wait = poll_fn(|context| second.poll_grow(context, &whole, STEP));
        let give_back = async {
            tokio::time::sleep(PATIENCE / 2).await;
            drop(first);
        };
        let (waited, ()) = bounded(async { tokio::join!(wait, give_back) }).await;
        assert_eq!(waited, Ok(()));
    }
}
