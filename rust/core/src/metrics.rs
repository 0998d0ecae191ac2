//! Counters and histograms, written by workers with relaxed atomics and read without stopping anyone.

use std::{
    fmt::Write,
    sync::atomic::{AtomicI64, AtomicU64, Ordering},
    time::Duration,
};

use crate::table::{Instance, Table};

/// The statuses that are counted by themselves; any other falls to its class.
const STATUSES: [(u16, &str); 20] = [
    (200, "200"),
    (400, "400"),
    (401, "401"),
    (403, "403"),
    (404, "404"),
    (405, "405"),
    (408, "408"),
    (413, "413"),
    (422, "422"),
    (429, "429"),
    (499, "499"),
    (500, "500"),
    (502, "502"),
    (503, "503"),
    (504, "504"),
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
    /// One for each bound, and one for what is over all of them.
    counts: [AtomicU64; BUCKETS.len() + 1],
    sum_micros: AtomicU64,
}

impl Histogram {
    /// Counts one observation.
    pub fn observe(&self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let bucket = BUCKETS.partition_point(|(bound, _)| *bound < micros);
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum_micros.fetch_add(micros, Ordering::Relaxed);
    }

    fn write(&self, text: &mut String, name: &str, labels: &str) {
        let mut total = 0;
        for (count, bound) in self.counts.iter().zip(BUCKETS.iter().map(|(_, bound)| *bound).chain(["+Inf"])) {
            total += count.load(Ordering::Relaxed);
            let _ = writeln!(text, "{name}_bucket{{{labels},le=\"{bound}\"}} {total}");
        }
        let sum = self.sum_micros.load(Ordering::Relaxed) as f64 / 1e6;
        let _ = writeln!(text, "{name}_sum{{{labels}}} {sum}\n{name}_count{{{labels}}} {total}");
    }
}

/// What is counted for each route (and once for requests that reached none).
#[derive(Debug, Default)]
pub struct RouteMetrics {
    statuses: [AtomicU64; STATUSES.len()],
    duration: Histogram,
    first_frame: Histogram,
}

impl RouteMetrics {
    /// Counts one finished request; `first_frame` only where a byte of an answer came.
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

/// Why an instance was found faulty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpstreamError {
    /// No connection.
    Connect,
    /// The connection ended inside an answer, or before it.
    Died,
    /// The answer breaks HTTP.
    Protocol,
    /// Too slow.
    Timeout,
}

const UPSTREAM_ERRORS: [&str; 4] = ["connect", "died", "protocol", "timeout"];

/// What is counted once for the process.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Requests that reached no route.
    pub unrouted: RouteMetrics,
    /// Requests between their head and their end.
    pub in_flight: AtomicI64,
    /// Open client connections.
    pub connections: AtomicI64,
    /// Requests that were sent to a second instance, or once more.
    pub retries: AtomicU64,
    /// Records that were dropped, since the start.
    pub records_dropped: AtomicU64,
    upstream_errors: [AtomicU64; UPSTREAM_ERRORS.len()],
}

impl Metrics {
    /// Counts a fault of an engine.
    pub fn upstream_error(&self, kind: UpstreamError) {
        self.upstream_errors[kind as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// The whole `/metrics` page (Prometheus text format 0.0.4).
    pub fn page(&self, table: &Table) -> String {
        let mut text = String::with_capacity(8 * 1024);
        let named = table.routes.iter().map(|route| (label(&route.name), &*route.metrics));
        let routes: Vec<_> = std::iter::once((String::new(), &self.unrouted)).chain(named).collect();
        route_families(&mut text, &routes);
        self.process_families(&mut text);
        instance_families(&mut text, table);
        text.push_str(&table.metrics);
        if !text.ends_with('\n') {
            text.push('\n');
        }
        text
    }

    fn process_families(&self, text: &mut String) {
        for (name, help, value) in [
            ("gpustack_fast_requests_in_flight", "Requests between their head and their end.", &self.in_flight),
            ("gpustack_fast_client_connections", "Open client connections.", &self.connections),
        ] {
            family(text, name, "gauge", help);
            let _ = writeln!(text, "{name} {}", value.load(Ordering::Relaxed));
        }
        let lost = "Usage records that were lost because nobody fetched them in time.";
        for (name, help, value) in [
            ("gpustack_fast_retries_total", "Requests that were sent to an instance once more.", &self.retries),
            ("gpustack_fast_records_dropped_total", lost, &self.records_dropped),
        ] {
            family(text, name, "counter", help);
            let _ = writeln!(text, "{name} {}", value.load(Ordering::Relaxed));
        }
        let name = "gpustack_fast_upstream_errors_total";
        family(text, name, "counter", "Faults of engines by what was seen.");
        for (count, kind) in self.upstream_errors.iter().zip(UPSTREAM_ERRORS) {
            let _ = writeln!(text, "{name}{{kind=\"{kind}\"}} {}", count.load(Ordering::Relaxed));
        }
    }
}

/// Reads one histogram of a route.
type PickHistogram = fn(&RouteMetrics) -> &Histogram;

fn route_families(text: &mut String, routes: &[(String, &RouteMetrics)]) {
    let name = "gpustack_fast_requests_total";
    let help = "Finished requests by public route name and status; an empty route means that the request reached none.";
    family(text, name, "counter", help);
    for (route, metrics) in routes {
        for (count, (_, code)) in metrics.statuses.iter().zip(STATUSES) {
            let count = count.load(Ordering::Relaxed);
            if count > 0 {
                let _ = writeln!(text, "{name}{{route=\"{route}\",code=\"{code}\"}} {count}");
            }
        }
    }
    let duration = "From a request's head to the end of its answer.";
    let first_frame = "From a request's head to the first byte of its answer.";
    let histograms: [(&str, &str, PickHistogram); 2] = [
        ("gpustack_fast_request_duration_seconds", duration, |metrics| &metrics.duration),
        ("gpustack_fast_first_frame_seconds", first_frame, |metrics| &metrics.first_frame),
    ];
    for (name, help, pick) in histograms {
        family(text, name, "histogram", help);
        for (route, metrics) in routes {
            pick(metrics).write(text, name, &format!("route=\"{route}\""));
        }
    }
}

/// Reads one counter of an instance.
type PickCounter = fn(&Instance) -> u64;

fn instance_families(text: &mut String, table: &Table) {
    let outstanding: PickCounter = |instance| u64::from(instance.outstanding());
    let requests: PickCounter = |instance| instance.requests.load(Ordering::Relaxed);
    let faults: PickCounter = |instance| instance.faults.load(Ordering::Relaxed);
    let families = [
        ("gpustack_fast_instance_outstanding", "gauge", "Requests on an instance now.", outstanding),
        ("gpustack_fast_instance_requests_total", "counter", "Requests that were given to an instance.", requests),
        ("gpustack_fast_instance_faults_total", "counter", "Times that an instance was found faulty.", faults),
    ];
    for (name, kind, help, pick) in families {
        family(text, name, kind, help);
        for model in &table.models {
            for (instance, _) in &model.instances {
                let (model, id) = (label(&model.name), label(&instance.id));
                let _ = writeln!(text, "{name}{{model=\"{model}\",instance=\"{id}\"}} {}", pick(instance));
            }
        }
    }
}

fn family(text: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

/// A label's value, escaped.
fn label(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
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
        let counts: Vec<u64> = histogram.counts.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        assert_eq!((counts[0], counts[1], counts[BUCKETS.len()]), (2, 2, 1));
    }

    #[test]
    fn unlisted_statuses_are_counted_by_their_class() {
        let metrics = Metrics::default();
        for status in [200, 206, 418, 599, 799] {
            metrics.unrouted.count(status, Duration::from_millis(1), None);
        }
        let page = metrics.page(&Table::default());
        for code in ["200", "2xx", "4xx", "5xx", "other"] {
            assert!(
                page.contains(&format!("gpustack_fast_requests_total{{route=\"\",code=\"{code}\"}} 1")),
                "{code}\n{page}"
            );
        }
    }
}
