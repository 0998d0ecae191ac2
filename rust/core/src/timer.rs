//! One timer for all phases of a request, so that a phase costs no timer of its own.

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

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

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
        poll_fn(|context| timer.poll(context, since, Some(second))).await;
        assert_eq!(start.elapsed().as_millis() / 100, 15);
        since = Instant::now();
        poll_fn(|context| timer.poll(context, since, Some(second / 10))).await;
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
}
