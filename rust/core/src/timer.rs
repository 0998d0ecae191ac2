//! One timer for all phases of a request, so that a phase costs no timer of its own; and one for what
//! a client does not take.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::time::{Instant, Sleep};

/// Fires when no event has happened for a limit's time. Events cost nothing: the time of the last
/// one is compared only when the timer would fire.
#[derive(Debug, Default)]
pub(crate) struct PhaseTimer {
    sleep: Option<Pin<Box<Sleep>>>,
}

impl PhaseTimer {
    /// Ready when `limit` has passed since `since`, the time of the last event; None: never. It
    /// must be polled again after an event.
    pub(crate) fn poll(
        &mut self,
        context: &mut Context<'_>,
        since: Instant,
        limit: Option<Duration>,
    ) -> Poll<()> {
        let Some(deadline) = limit.and_then(|limit| since.checked_add(limit)) else {
            return Poll::Pending;
        };
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        if sleep.deadline() > deadline {
            sleep.as_mut().reset(deadline);
        }
        loop {
            ready!(sleep.as_mut().poll(context));
            if Instant::now() >= deadline {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
    }
}

/// The system is asked so often within a limit.
const ASKED: u32 = 4;

/// Fires when a client has taken nothing for a limit's time of what there is for it. A socket that
/// takes no byte of ours does not show that: its client may read what the system holds. So the
/// system is asked now and then, and never where the client is faster than a part of the limit.
#[derive(Debug, Default)]
pub(crate) struct SendTimer {
    timer: PhaseTimer,
    asked: Option<Asked>,
}

/// The last answer of the system.
#[derive(Clone, Copy, Debug)]
struct Asked {
    /// The wait in which it was asked, by its begin.
    since: Instant,
    at: Instant,
    /// The last number that changes with what the client has taken; None: the system tells none.
    taken: Option<u64>,
    /// The last time at which the client may have taken something.
    changed: Instant,
}

impl SendTimer {
    /// Ready when the client has taken nothing for `limit`, and up to a quarter more; None: never.
    /// `since`: the last time at which it was seen to take something, or at which there was
    /// something for it. `taken` gives a number that changes with what it has taken; None: it is
    /// not known, and has not changed then.
    pub(crate) fn poll(
        &mut self,
        context: &mut Context<'_>,
        since: Instant,
        limit: Option<Duration>,
        taken: impl Fn() -> Option<u64>,
    ) -> Poll<()> {
        let Some(limit) = limit else { return Poll::Pending };
        loop {
            let asked = self.asked.filter(|asked| asked.since == since);
            let (at, changed) = asked.map_or((since, since), |asked| (asked.at, asked.changed));
            let rest = limit.saturating_sub(at.duration_since(changed));
            ready!(self.timer.poll(context, at, Some(rest.min(limit / ASKED))));
            let (now, taken) = (Instant::now(), taken());
            let before = asked.and_then(|asked| asked.taken);
            // What it has taken before the first answer is not known.
            let changed = if taken.is_some() && taken != before { now } else { changed };
            if now.duration_since(changed) >= limit {
                return Poll::Ready(());
            }
            self.asked = Some(Asked { since, at: now, taken: taken.or(before), changed });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;
    use crate::bounded::bounded;

    #[tokio::test(start_paused = true)]
    async fn it_fires_a_limit_after_the_last_event_and_follows_a_shorter_limit() {
        let start = Instant::now();
        let mut timer = PhaseTimer::default();
        let second = Duration::from_secs(1);
        let mut since = start;
        let fired = tokio::time::timeout(
            second / 2,
            poll_fn(|context| timer.poll(context, since, Some(second))),
        )
        .await;
        assert!(fired.is_err());
        since = Instant::now();
        bounded(poll_fn(|context| timer.poll(context, since, Some(second)))).await;
        assert_eq!(start.elapsed().as_millis() / 100, 15);
        since = Instant::now();
        bounded(poll_fn(|context| timer.poll(context, since, Some(second / 10)))).await;
        assert_eq!(start.elapsed().as_millis() / 100, 16);
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_limit_it_never_fires() {
        let mut timer = PhaseTimer::default();
        let since = Instant::now();
        let fired = tokio::time::timeout(
            Duration::from_secs(9),
            poll_fn(|context| timer.poll(context, since, None)),
        )
        .await;
        assert!(fired.is_err());
    }

    /// The time in which a timer with a limit of 4 s fires, in quarters of a second, where `taken`
    /// is asked in each second.
    async fn fires_after(taken: impl Fn(u64) -> Option<u64>) -> u128 {
        let (start, limit) = (Instant::now(), Some(Duration::from_secs(4)));
        let mut timer = SendTimer::default();
        let taken = || taken(start.elapsed().as_secs());
        poll_fn(|context| timer.poll(context, start, limit, taken)).await;
        start.elapsed().as_millis() / 250
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_something_within_each_limit_is_waited_for() {
        assert_eq!(fires_after(|_| None).await, 16, "nothing is known of it");
        assert_eq!(
            fires_after(|_| Some(7)).await,
            20,
            "nothing was taken since the first question"
        );
        assert_eq!(fires_after(|second| Some(second.min(100))).await, (100 + 4) * 4);
        assert_eq!(fires_after(|second| Some(second.min(100) / 3)).await, (99 + 4) * 4);
        assert_eq!(fires_after(|second| (second % 2 == 0).then_some(second.min(50))).await, 54 * 4);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_taken_before_a_new_wait_does_not_count_in_it() {
        let limit = Some(Duration::from_secs(4));
        let mut timer = SendTimer::default();
        for _ in 0..3 {
            let since = Instant::now();
            poll_fn(|context| timer.poll(context, since, limit, || Some(7))).await;
            assert_eq!(since.elapsed().as_secs(), 5);
        }
    }
}
