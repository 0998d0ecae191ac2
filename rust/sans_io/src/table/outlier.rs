//! Outlier detection for one instance: what failures that follow one another come to.
//!
//! After each failure others are preferred for [`BRIEF_MS`]. After [`OUT_AFTER`] failures without a
//! response between them the instance is out: others are preferred for a pause, behind which one
//! request tries it, on whose failure the next pause is twice as long. Whoever has no other
//! instance takes one that is out all the same, so the last of a model never is.
//!
//! A response can be a failure, too, by its status ([`Outlier::fail_by_status`]). It may be the
//! request's, which fails alike everywhere. So when no other instance does better than one that
//! fails so, it is not ejected, and the others are taken back ([`Outlier::forgive`]): nobody can
//! eject all but one by what he sends.
//!
//! Times are milliseconds of the data plane's clock. Everything is relaxed atomics: a race between
//! two failures costs a report or a trial more, and no more than that.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

/// The time for which others are preferred after a single failure.
const BRIEF_MS: u64 = 1_000;
/// Failures in a row after which an instance is out.
pub(super) const OUT_AFTER: u32 = 5;
/// The first pause of an instance that is out; each further one is twice as long,
const FIRST_PAUSE_MS: u64 = 10_000;
/// up to this.
const LONGEST_PAUSE_MS: u64 = 300_000;

/// The record of one instance.
#[derive(Debug, Default)]
pub(super) struct Outlier {
    /// Failures since the last response.
    in_a_row: AtomicU32,
    /// Pauses since it is out; 0: it is not.
    pauses: AtomicU32,
    /// Until then others are preferred.
    until: AtomicU64,
    /// A request tries it, or has ended without a response or a failure.
    on_trial: AtomicBool,
    /// All failures in a row were responses.
    by_status: AtomicBool,
}

/// The consequence of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ejected {
    /// Others are preferred for a moment.
    Briefly,
    /// It was ejected already, and has gone on to fail for a while.
    Still,
    /// It is out: others are preferred for so many milliseconds.
    Out {
        /// The pause.
        pause_ms: u64,
    },
}

impl Outlier {
    /// Notes a failure without a response; None: it was ejected already.
    pub(super) fn fail(&self, now: u64) -> Option<Ejected> {
        self.by_status.store(false, Ordering::Relaxed);
        self.count(now)
    }

    /// Notes a response whose status is a failure; None: it was ejected already.
    pub(super) fn fail_by_status(&self, now: u64) -> Option<Ejected> {
        if self.in_a_row.load(Ordering::Relaxed) == 0 {
            self.by_status.store(true, Ordering::Relaxed);
        }
        self.count(now)
    }

    fn count(&self, now: u64) -> Option<Ejected> {
        let in_a_row = self.in_a_row.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        let pauses = self.pauses.load(Ordering::Relaxed);
        if pauses == 0 && in_a_row < OUT_AFTER {
            let before = self.until.fetch_max(now + BRIEF_MS, Ordering::Relaxed);
            return (before <= now).then_some(Ejected::Briefly);
        }
        let until = self.until.load(Ordering::Relaxed);
        let in_a_pause = pauses > 0 && until > now;
        let was_on_trial = self.on_trial.swap(false, Ordering::Relaxed);
        let begins = (was_on_trial || !in_a_pause) && self.pause(until, now, pauses + 1);
        (begins && !was_on_trial).then(|| Ejected::Out { pause_ms: pause_ms(pauses + 1) })
    }

    /// Notes a response; true: it was out.
    pub(super) fn succeed(&self) -> bool {
        if self.in_a_row.load(Ordering::Relaxed) == 0 {
            return false;
        }
        self.in_a_row.store(0, Ordering::Relaxed);
        self.on_trial.store(false, Ordering::Relaxed);
        let was_out = self.pauses.swap(0, Ordering::Relaxed) > 0;
        if was_out {
            self.until.store(0, Ordering::Relaxed);
        }
        was_out
    }

    /// Takes back an ejection by nothing but statuses, since no other instance does better. One that
    /// is out is tried by the next request, and its pauses begin anew.
    pub(super) fn forgive(&self) {
        if !self.by_status.load(Ordering::Relaxed) {
            return;
        }
        if self.is_out() {
            self.pauses.store(1, Ordering::Relaxed);
            self.on_trial.store(false, Ordering::Relaxed);
        } else {
            self.in_a_row.store(0, Ordering::Relaxed);
        }
        self.until.store(0, Ordering::Relaxed);
    }

    /// Ends whatever ejection there is: no other instance does better, and this one responds.
    pub(super) fn take_back(&self) {
        self.succeed();
        self.until.store(0, Ordering::Relaxed);
    }

    /// Whether others are preferred now.
    pub(super) fn is_ejected(&self, now: u64) -> bool {
        self.until.load(Ordering::Relaxed) > now
    }

    /// Whether it is out, until it responds to a trial.
    pub(super) fn is_out(&self) -> bool {
        self.pauses.load(Ordering::Relaxed) > 0
    }

    /// Whether a request that has chosen this instance may go there. Behind a pause one may, as a
    /// trial: a response brings the instance back, and with a failure the next pause begins. One that
    /// shows neither, as its client leaves or its slot is taken, lets the next try after the time of
    /// the first pause.
    pub(super) fn admit(&self, now: u64) -> bool {
        if self.pauses.load(Ordering::Relaxed) == 0 {
            return true;
        }
        let until = self.until.load(Ordering::Relaxed);
        if until > now {
            // In a pause it was chosen because there is no other.
            return true;
        }
        let begun = self.prefer_others(until, now + FIRST_PAUSE_MS);
        if begun {
            self.on_trial.store(true, Ordering::Relaxed);
        }
        begun
    }

    /// Begins this pause, unless another thread has begun one since `until` was read.
    fn pause(&self, until: u64, now: u64, number: u32) -> bool {
        let begun = self.prefer_others(until, now + pause_ms(number));
        if begun {
            self.pauses.store(number, Ordering::Relaxed);
        }
        begun
    }

    /// Prefers others up to `ends`, unless another thread has changed `until` since it was read.
    fn prefer_others(&self, until: u64, ends: u64) -> bool {
        let order = Ordering::Relaxed;
        self.until.compare_exchange(until, ends, order, order).is_ok()
    }
}

/// The length of a pause: the first, the second, ...
fn pause_ms(number: u32) -> u64 {
    let doublings = number.saturating_sub(1).min(16);
    (FIRST_PAUSE_MS << doublings).min(LONGEST_PAUSE_MS)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An instance that has just failed until it was out, at the time 100.
    fn out() -> Outlier {
        let outlier = Outlier::default();
        let told: Vec<_> = (0..OUT_AFTER).map(|_| outlier.fail(100)).collect();
        let last = Some(Ejected::Out { pause_ms: 10_000 });
        assert_eq!(told, [Some(Ejected::Briefly), None, None, None, last]);
        outlier
    }

    #[test]
    fn failures_in_a_row_put_an_instance_out_and_a_crowd_of_them_counts_once() {
        let outlier = out();
        assert!((0..100).all(|_| outlier.fail(100).is_none()), "they belong to the same death");
        assert!(outlier.is_out() && outlier.is_ejected(10_099) && !outlier.is_ejected(10_100));
    }

    #[test]
    fn a_response_between_failures_keeps_an_instance_in() {
        let outlier = Outlier::default();
        for second in 0..20 {
            assert_eq!(outlier.fail(second * 1_000), Some(Ejected::Briefly));
            assert!(!outlier.is_out() && outlier.admit(second * 1_000));
            assert!(!outlier.succeed());
        }
    }

    #[test]
    fn behind_a_pause_one_request_tries_and_its_response_brings_the_instance_back() {
        let outlier = out();
        assert!(outlier.admit(10_099), "in a pause it is taken only where there is no other");
        assert!(outlier.admit(10_100), "the trial");
        assert!(outlier.is_ejected(10_100), "for all others");
        assert!(outlier.succeed());
        assert!(!outlier.is_out() && !outlier.is_ejected(10_100));
        assert_eq!(outlier.fail(10_200), Some(Ejected::Briefly), "it begins anew");
    }

    #[test]
    fn pauses_grow_with_each_trial_that_fails_up_to_a_bound() {
        let outlier = out();
        let mut now = 10_100;
        for pause in [20_000, 40_000, 80_000, 160_000, 300_000, 300_000] {
            assert!(outlier.admit(now));
            assert_eq!(outlier.fail(now), None, "it is known to be out");
            assert!((0..9).all(|_| outlier.fail(now).is_none()), "they belong to the same death");
            assert!(outlier.is_ejected(now + pause - 1) && !outlier.is_ejected(now + pause));
            now += pause;
        }
        assert_eq!(
            outlier.fail(now),
            Some(Ejected::Out { pause_ms: 300_000 }),
            "a request that was not chosen, such as one that is pinned to the instance"
        );
    }

    #[test]
    fn a_trial_that_shows_nothing_makes_no_pause_longer() {
        let outlier = out();
        for trial in 0..9 {
            let now = 10_100 + trial * FIRST_PAUSE_MS;
            assert!(outlier.admit(now), "its request never got there");
            assert!(outlier.is_ejected(now + FIRST_PAUSE_MS - 1), "others are preferred");
        }
        let now = 10_100 + 9 * FIRST_PAUSE_MS;
        assert!(outlier.admit(now));
        outlier.fail(now);
        assert!(outlier.is_ejected(now + 19_999) && !outlier.is_ejected(now + 20_000));
    }

    #[test]
    fn failures_by_status_eject_like_any_other_until_they_are_forgiven() {
        let outlier = Outlier::default();
        let told: Vec<_> = (0..OUT_AFTER).map(|_| outlier.fail_by_status(100)).collect();
        let out = Some(Ejected::Out { pause_ms: 10_000 });
        assert_eq!(told, [Some(Ejected::Briefly), None, None, None, out]);
        assert!(outlier.admit(10_100), "the trial");
        assert_eq!(outlier.fail_by_status(10_100), None);
        assert!(outlier.is_ejected(30_099), "it was a failed one");
        outlier.forgive();
        assert!(outlier.is_out() && !outlier.is_ejected(10_100));
        assert!(outlier.admit(10_100) && outlier.is_ejected(10_100), "one request tries it");
        outlier.fail_by_status(10_100);
        assert!(outlier.is_ejected(30_099) && !outlier.is_ejected(30_100));
        assert!(outlier.succeed() && !outlier.is_ejected(10_100));
    }

    #[test]
    fn forgiven_failures_do_not_count_for_the_row() {
        let outlier = Outlier::default();
        for _ in 0..3 * OUT_AFTER {
            assert_eq!(outlier.fail_by_status(100), Some(Ejected::Briefly));
            outlier.forgive();
            assert!(!outlier.is_ejected(100) && !outlier.is_out());
        }
    }

    #[test]
    fn an_engine_that_did_not_respond_is_not_forgiven() {
        let outlier = out();
        outlier.fail_by_status(100);
        outlier.forgive();
        assert!(outlier.is_out() && outlier.is_ejected(10_099));
        assert!(outlier.succeed(), "and then all is new");
        outlier.fail_by_status(200);
        outlier.forgive();
        assert!(!outlier.is_ejected(200));
    }

    #[test]
    fn one_that_responds_is_taken_back_whatever_ejected_it() {
        for outlier in [out(), Outlier::default()] {
            outlier.fail(100);
            outlier.take_back();
            assert!(!outlier.is_out() && !outlier.is_ejected(100));
        }
    }
}
