//! How long a client may keep us waiting for its request's body: the longest pause, and the lowest
//! rate beyond it.
//!
//! Both are one credit of time. Only waiting for this client uses it up: not an engine that does not
//! read, nor the file, nor a pause of our own. Each byte gives some of it back, as much as the lowest
//! rate allows for one. So a client may rest once for as long as the longest pause, and then at any
//! rate that is not below the lowest.

use std::time::Duration;

use tokio::time::Instant;

use crate::failure::Failure;

/// The credit where pauses have no limit, but the rate has.
const UNLIMITED_PAUSE: Duration = Duration::from_secs(60);

/// The patience with one client.
#[derive(Debug)]
pub(super) struct Patience {
    /// None: neither pauses nor the rate are limited.
    most: Option<Duration>,
    /// What is left of `most`.
    left: Duration,
    /// Bytes for each second of credit; 0: any byte gives all of it back.
    rate: u64,
    /// Since when the client is waited for; None: it is not.
    since: Option<Instant>,
    /// All waiting that has ended.
    waited: Duration,
}

impl Patience {
    /// `pause`: the longest pause; None: no limit. `rate`: the lowest rate, in bytes a second; 0: no
    /// limit.
    pub(super) fn new(pause: Option<Duration>, rate: u64) -> Self {
        let most = pause.or((rate > 0).then_some(UNLIMITED_PAUSE));
        let left = most.unwrap_or_default();
        Self { most, left, rate, since: None, waited: Duration::ZERO }
    }

    /// Notes that nothing can be done before the client sends more.
    pub(super) fn wait(&mut self) {
        self.since.get_or_insert_with(Instant::now);
    }

    /// Notes that this many bytes came.
    pub(super) fn came(&mut self, bytes: usize) {
        if let Some(since) = self.since.take() {
            let waited = since.elapsed();
            self.waited += waited;
            self.left = self.left.saturating_sub(waited);
        }
        if let Some(most) = self.most.filter(|most| self.left < *most) {
            let earned = (bytes as u64).saturating_mul(1_000_000).checked_div(self.rate);
            let left = earned.map_or(most, |earned| self.left + Duration::from_micros(earned));
            self.left = left.min(most);
        }
    }

    /// All waiting so far, the present one included.
    pub(super) fn waited(&self) -> Duration {
        self.waited + self.since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// The present wait: since when, its limit, and the failure beyond that. None: the client is not
    /// waited for.
    pub(super) fn limit(&self) -> Option<(Instant, Option<Duration>, Failure)> {
        let since = self.since?;
        Some(match self.most {
            Some(most) if self.left < most => {
                (since, Some(self.left), Failure::BodyTooSlow { rate: self.rate })
            }
            most => (since, most, Failure::BodyTimeout),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// The time until the limit, from now on.
    fn left(patience: &Patience) -> Option<Duration> {
        let (since, limit, _) = patience.limit()?;
        Some(limit?.saturating_sub(since.elapsed()))
    }

    async fn rest(patience: &mut Patience, time: Duration, bytes: usize) {
        patience.wait();
        tokio::time::advance(time).await;
        patience.came(bytes);
        patience.wait();
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_at_the_lowest_rate_is_never_too_slow() {
        let mut patience = Patience::new(Some(60 * SECOND), 1_000);
        for _ in 0..1_000 {
            rest(&mut patience, SECOND, 1_000).await;
        }
        assert_eq!(left(&patience), Some(60 * SECOND));
        rest(&mut patience, 40 * SECOND, 40_000).await;
        assert_eq!(left(&patience), Some(60 * SECOND), "a pause is made up for");
        assert_eq!(patience.waited(), 1_040 * SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_below_the_lowest_rate_uses_its_credit_up() {
        let mut patience = Patience::new(Some(60 * SECOND), 1_000);
        for second in 1..=59 {
            rest(&mut patience, SECOND, 1).await;
            assert!(left(&patience) > Some((59 - second) * SECOND));
        }
        assert!(left(&patience) < Some(2 * SECOND));
        assert!(matches!(patience.limit(), Some((_, _, Failure::BodyTooSlow { rate: 1_000 }))));
        patience.came(1_000_000);
        patience.wait();
        assert_eq!(left(&patience), Some(60 * SECOND), "and no more than that");
        assert!(matches!(patience.limit(), Some((_, _, Failure::BodyTimeout))));
    }

    #[tokio::test(start_paused = true)]
    async fn only_waiting_for_the_client_counts() {
        let mut patience = Patience::new(Some(SECOND), 1_000);
        tokio::time::advance(9 * SECOND).await;
        assert!(patience.limit().is_none());
        patience.came(1);
        patience.wait();
        assert_eq!(left(&patience), Some(SECOND));
    }

    #[tokio::test(start_paused = true)]
    async fn each_limit_may_be_off() {
        let mut patience = Patience::new(Some(SECOND), 0);
        for _ in 0..9 {
            rest(&mut patience, SECOND / 2, 1).await;
            assert_eq!(left(&patience), Some(SECOND), "without a rate only pauses count");
        }
        let mut patience = Patience::new(None, 1_000);
        rest(&mut patience, UNLIMITED_PAUSE / 2, 1).await;
        assert!(left(&patience) < Some(UNLIMITED_PAUSE / 2 + SECOND));
        let mut patience = Patience::new(None, 0);
        rest(&mut patience, 9_999 * SECOND, 1).await;
        assert_eq!(patience.limit().map(|(_, limit, _)| limit), Some(None));
    }
}
