//! Counters and histograms, written and read with relaxed atomics, so that nobody waits.

use std::{
    sync::atomic::{AtomicI64, AtomicU64, Ordering},
    time::Duration,
};

/// The statuses with a counter of their own, and the classes for all others.
const STATUSES: [(u16, &str); 26] = [
    (200, "200"),
    (400, "400"),
    (401, "401"),
    (403, "403"),
    (404, "404"),
    (405, "405"),
    (408, "408"),
    (413, "413"),
    (414, "414"),
    (417, "417"),
    (421, "421"),
    (422, "422"),
    (429, "429"),
    (431, "431"),
    (499, "499"),
    (500, "500"),
    (501, "501"),
    (502, "502"),
    (503, "503"),
    (504, "504"),
    (505, "505"),
    (2, "2xx"),
    (3, "3xx"),
    (4, "4xx"),
    (5, "5xx"),
    (0, "other"),
];

/// Upper bounds of the histograms' buckets, in microseconds, with their names in seconds.
const BUCKETS: [(u64, &str); 18] = [
    (500, "0.0005"),
    (1_000, "0.001"),
    (2_500, "0.0025"),
    (5_000, "0.005"),
    (10_000, "0.01"),
    (25_000, "0.025"),
    (50_000, "0.05"),
    (100_000, "0.1"),
    (250_000, "0.25"),
    (500_000, "0.5"),
    (1_000_000, "1"),
    (2_500_000, "2.5"),
    (5_000_000, "5"),
    (10_000_000, "10"),
    (30_000_000, "30"),
    (60_000_000, "60"),
    (300_000_000, "300"),
    (1_800_000_000, "1800"),
];

/// A latency histogram.
#[derive(Debug, Default)]
pub struct Histogram {
    /// One for each bound, and one for observations above all of them.
    counts: [AtomicU64; BUCKETS.len() + 1],
    sum_micros: AtomicU64,
}

impl Histogram {
    /// Counts one observation.
    fn observe(&self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let bucket = BUCKETS.partition_point(|(bound, _)| *bound < micros);
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum_micros.fetch_add(micros, Ordering::Relaxed);
    }

    /// The buckets: each upper bound in seconds, with the number of observations up to it.
    pub fn buckets(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let bounds = BUCKETS.iter().map(|(_, bound)| *bound).chain(["+Inf"]);
        let totals = self.counts.iter().scan(0, |total, count| {
            *total += count.load(Ordering::Relaxed);
            Some(*total)
        });
        bounds.zip(totals)
    }

    /// The sum of all observations, in seconds.
    pub fn sum(&self) -> f64 {
        self.sum_micros.load(Ordering::Relaxed) as f64 / 1e6
    }
}

/// Counters of one route, or of the requests that reached none.
#[derive(Debug, Default)]
pub struct RouteMetrics {
    statuses: [AtomicU64; STATUSES.len()],
    /// From a request's head to the end of its response.
    pub duration: Histogram,
    /// From a request's head to the first byte of its response.
    pub first_frame: Histogram,
    /// Those of the requests that have ended, as far as engines have counted them.
    pub tokens: TokenCounts,
}

/// Counters of tokens.
#[derive(Debug)]
pub struct TokenCounts {
    /// Of prompts, the cached ones included.
    pub input: AtomicU64,
    /// Of prompts, those that engines found in their caches.
    pub cached: AtomicU64,
    /// Generated ones.
    pub output: AtomicU64,
    /// The most that is shown of each kind, in the order of `kinds`.
    shown: [AtomicU64; 3],
}

impl Default for TokenCounts {
    fn default() -> Self {
        let [input, cached, output] = [const { AtomicU64::new(0) }; 3];
        Self { input, cached, output, shown: [const { AtomicU64::new(u64::MAX) }; 3] }
    }
}

impl TokenCounts {
    /// Counts more of them.
    pub fn add(&self, input: u64, cached: u64, output: u64) {
        for (counter, more) in
            [(&self.input, input), (&self.cached, cached), (&self.output, output)]
        {
            if more > 0 {
                counter.fetch_add(more, Ordering::Relaxed);
            }
        }
    }

    /// Each kind, by its name, with its number.
    pub fn kinds(&self) -> [(&'static str, u64); 3] {
        [("input", &self.input), ("cached", &self.cached), ("output", &self.output)]
            .map(|(kind, counter)| (kind, counter.load(Ordering::Relaxed)))
    }

    /// Shows no more than these from now on, in the order of `kinds`: a counter that is kept over
    /// the death of the process must not have shown what the next one does not know, since whoever
    /// collects it would take the step back for a new begin, and count everything once more.
    pub fn show(&self, most: [u64; 3]) {
        for (shown, most) in self.shown.iter().zip(most) {
            shown.store(most, Ordering::Relaxed);
        }
    }

    /// What is to be shown of each kind, by its name.
    pub fn shown(&self) -> [(&'static str, u64); 3] {
        let mut kinds = self.kinds();
        for ((_, count), most) in kinds.iter_mut().zip(&self.shown) {
            *count = (*count).min(most.load(Ordering::Relaxed));
        }
        kinds
    }
}

impl RouteMetrics {
    /// The number of requests by status or class of statuses, without zeros.
    pub fn statuses(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = self.statuses.iter().map(|count| count.load(Ordering::Relaxed));
        STATUSES.iter().map(|(_, code)| *code).zip(counts).filter(|(_, count)| *count > 0)
    }

    /// Counts one finished request. `first_frame` is None where no response has begun.
    pub fn count(&self, status: u16, duration: Duration, first_frame: Option<Duration>) {
        let exact = STATUSES.iter().position(|(known, _)| *known == status);
        let class = || STATUSES.iter().position(|(known, _)| *known == status / 100);
        let index = exact.or_else(class).unwrap_or(STATUSES.len() - 1);
        self.statuses[index].fetch_add(1, Ordering::Relaxed);
        self.duration.observe(duration);
        if let Some(time) = first_frame {
            self.first_frame.observe(time);
        }
    }
}

/// A kind of failure of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpstreamError {
    /// It could not be connected to.
    Connect,
    /// The connection ended inside a response, or before it.
    Died,
    /// The response breaks HTTP.
    Protocol,
    /// A first frame or a later one did not come in time.
    Timeout,
    /// The status of the response says so.
    Status,
}

/// The labels of [`UpstreamError`], in its order.
const UPSTREAM_ERRORS: [&str; 5] = ["connect", "died", "protocol", "timeout", "status"];

/// Counters of the process.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Requests that reached no route.
    pub unrouted: RouteMetrics,
    /// Requests between their head and their end.
    pub in_flight: AtomicI64,
    /// Open client connections.
    pub connections: AtomicI64,
    /// Connections that waited for their clients and gave their places to new ones.
    pub connections_evicted: AtomicU64,
    /// Connections that were closed at once: their addresses had as many as they may.
    pub connections_over_address_limit: AtomicU64,
    /// Connections that were closed at once: there was no place, not even for a 503.
    pub connections_without_place: AtomicU64,
    /// Clients that could not be accepted at once, for want of descriptors or memory.
    pub accept_failures: AtomicU64,
    /// Responses that were cut off: their clients did not read them, and all requests held as much
    /// memory as they may.
    pub cut_unread: AtomicU64,
    /// Attempts after a failed one of the same request, at fallback targets too.
    pub retries: AtomicU64,
    /// Requests that switched to a fallback target.
    pub fallbacks: AtomicU64,
    /// Requests that were rejected because every instance was full.
    pub overloaded: AtomicU64,
    /// Responses that engines compressed although they were asked not to.
    pub encoded_responses: AtomicU64,
    /// Fields of engines' responses that did not pass to clients.
    pub withheld_fields: AtomicU64,
    /// Records that were lost since the start.
    pub records_dropped: AtomicU64,
    /// Events that were lost since the start.
    pub events_dropped: AtomicU64,
    /// Connections to engines for which this machine lacked something.
    pub connections_without_room: AtomicU64,
    upstream_errors: [AtomicU64; UPSTREAM_ERRORS.len()],
}

impl Metrics {
    /// The number of failures of engines by kind.
    pub fn upstream_errors(&self) -> impl Iterator<Item = (&'static str, u64)> {
        UPSTREAM_ERRORS
            .into_iter()
            .zip(self.upstream_errors.iter().map(|count| count.load(Ordering::Relaxed)))
    }

    /// Counts a failure of an engine.
    pub fn upstream_error(&self, kind: UpstreamError) {
        self.upstream_errors[kind as usize].fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_observation_falls_into_the_bucket_whose_bound_it_does_not_exceed() {
        let histogram = Histogram::default();
        for micros in [0, 500, 501, 1_000, u64::MAX] {
            histogram.observe(Duration::from_micros(micros));
        }
        let counts: Vec<u64> =
            histogram.counts.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        assert_eq!((counts[0], counts[1], counts[BUCKETS.len()]), (2, 2, 1));
    }

    #[test]
    fn unlisted_statuses_are_counted_by_their_class() {
        let metrics = Metrics::default();
        for status in [200, 206, 418, 599, 799] {
            metrics.unrouted.count(status, Duration::from_millis(1), None);
        }
        let counted: Vec<_> = metrics.unrouted.statuses().collect();
        assert_eq!(counted, [("200", 1), ("2xx", 1), ("4xx", 1), ("5xx", 1), ("other", 1)]);
    }

    #[test]
    fn no_more_tokens_are_shown_than_may_be() {
        let counts = TokenCounts::default();
        counts.add(10, 4, 3);
        let shown = |counts: &TokenCounts| counts.shown().map(|(_, count)| count);
        assert_eq!(shown(&counts), [10, 4, 3]);
        counts.show([10, 3, 0]);
        counts.add(1, 1, 1);
        assert_eq!(shown(&counts), [10, 3, 0]);
        counts.show([20, 20, 20]);
        assert_eq!(shown(&counts), [11, 5, 4]);
        assert_eq!(counts.kinds(), counts.shown());
    }
}
