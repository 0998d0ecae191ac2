//! Lines that anybody could cause at any rate, and that are written once in a while.

use std::{
    array,
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use sans_io::api::error::Cause;

/// Milliseconds between two lines of the same kind.
const TELL_EVERY_MS: u64 = 60_000;

/// The zero of the times below. A turn must not be due by it alone, so it is not that of a data
/// plane.
static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);

/// The turns of one kind of line.
#[derive(Debug)]
pub(crate) struct Seldom {
    /// Milliseconds since `EPOCH` from which on the next line is due.
    due: AtomicU64,
    /// Lines since the last one, none of which was written.
    untold: AtomicU64,
}

impl Seldom {
    /// The first line is due at once.
    pub(crate) const fn new() -> Self {
        Self { due: AtomicU64::new(0), untold: AtomicU64::new(0) }
    }

    /// Asks for a line. Some: it is to be written, with this number of lines that were not since
    /// the last one; None: it is not.
    pub(crate) fn turn(&self) -> Option<u64> {
        self.turn_at(u64::try_from(EPOCH.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    fn turn_at(&self, now: u64) -> Option<u64> {
        let order = Ordering::Relaxed;
        let due = self.due.load(order);
        // Of several at once, one tells.
        let next = now.saturating_add(TELL_EVERY_MS);
        if due <= now && self.due.compare_exchange(due, next, order, order).is_ok() {
            return Some(self.untold.swap(0, order));
        }
        self.untold.fetch_add(1, order);
        None
    }
}

/// The turns of the lines about requests and clients.
#[derive(Debug)]
pub(crate) struct Turns {
    /// Requests that failed before their responses began, by what their clients were told.
    failed: [Seldom; Cause::COUNT],
    /// Responses that were truncated, by the same.
    truncated: [Seldom; Cause::COUNT],
    /// Engines that reject this server's own credential.
    pub(crate) credential: Seldom,
    /// Listeners that cannot accept.
    pub(crate) accept: Seldom,
}

impl Turns {
    /// Those of a request that failed for this cause.
    pub(crate) fn failed(&self, cause: Cause) -> &Seldom {
        &self.failed[cause as usize]
    }

    /// Those of a response that was truncated for this cause.
    pub(crate) fn truncated(&self, cause: Cause) -> &Seldom {
        &self.truncated[cause as usize]
    }
}

impl Default for Turns {
    fn default() -> Self {
        let seldom = || array::from_fn(|_| Seldom::new());
        Self {
            failed: seldom(),
            truncated: seldom(),
            credential: Seldom::new(),
            accept: Seldom::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_is_written_and_another_after_a_while_with_the_number_of_the_others() {
        let seldom = Seldom::new();
        assert_eq!(seldom.turn_at(5), Some(0));
        for now in [5, 6, 5 + TELL_EVERY_MS - 1] {
            assert_eq!(seldom.turn_at(now), None);
        }
        assert_eq!(seldom.turn_at(5 + TELL_EVERY_MS), Some(3));
        assert_eq!(seldom.turn_at(5 + TELL_EVERY_MS), None);
        assert_eq!(seldom.turn_at(u64::MAX), Some(1));
    }

    #[test]
    fn every_cause_has_a_turn_of_its_own() {
        let turns = Turns::default();
        assert_eq!(turns.failed(Cause::TranslationFailed).turn(), Some(0));
        assert_eq!(turns.truncated(Cause::TranslationFailed).turn(), Some(0));
        assert_eq!(turns.failed(Cause::VersionNotSupported).turn(), Some(0));
        assert_eq!(turns.failed(Cause::TranslationFailed).turn(), None);
    }
}
