//! The `/metrics` page: counters and the table, as Prometheus text (format 0.0.4).

use std::{
    fmt::Write,
    sync::atomic::{AtomicU64, Ordering},
};

use crate::telemetry;
use sans_io::{
    seam::MetricFamily,
    table::{Histogram, Instance, Metrics, RouteMetrics, Table},
};

/// The whole page. `held`: the bytes that requests hold together, by place. The control plane's own
/// families come last.
pub(crate) fn page(metrics: &Metrics, table: &Table, held: [(&str, u64); 2]) -> String {
    let mut text = String::with_capacity(8 * 1024);
    let named = table.routes.iter().map(|route| (label(&route.name), &*route.metrics));
    let routes: Vec<_> = std::iter::once((String::new(), &metrics.unrouted)).chain(named).collect();
    route_families(&mut text, &routes);
    token_family(&mut text, table);
    process_families(&mut text, metrics);
    held_family(&mut text, held);
    instance_families(&mut text, table);
    wake_families(&mut text, table);
    table.metrics.iter().for_each(|family| control_plane_family(&mut text, family));
    text
}

fn process_families(text: &mut String, metrics: &Metrics) {
    for (name, help, value) in [
        (
            "gpustack_fast_requests_in_flight",
            "Requests between their head and their end.",
            &metrics.in_flight,
        ),
        ("gpustack_fast_client_connections", "Open client connections.", &metrics.connections),
    ] {
        family(text, name, "gauge", help);
        let _ = writeln!(text, "{name} {}", value.load(Ordering::Relaxed));
    }
    for (name, help, value) in plain_counters(metrics) {
        family(text, name, "counter", help);
        let _ = writeln!(text, "{name} {value}");
    }
    let name = "gpustack_fast_connections_closed_total";
    let help = "Client connections that were closed for want of places, by which.";
    family(text, name, "counter", help);
    for (reason, count) in [
        ("evicted", &metrics.connections_evicted),
        ("address_limit", &metrics.connections_over_address_limit),
        ("no_place", &metrics.connections_without_place),
    ] {
        let _ = writeln!(text, "{name}{{reason=\"{reason}\"}} {}", count.load(Ordering::Relaxed));
    }
    let name = "gpustack_fast_upstream_errors_total";
    family(text, name, "counter", "Failures of engines by what was seen.");
    for (kind, count) in metrics.upstream_errors() {
        let _ = writeln!(text, "{name}{{kind=\"{kind}\"}} {count}");
    }
}

/// The counters of the process that have no labels: name, help and value of each.
fn plain_counters(metrics: &Metrics) -> [(&'static str, &'static str, u64); 12] {
    let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    [
        (
            "gpustack_fast_retries_total",
            "Attempts after a failed one of the same request.",
            of(&metrics.retries),
        ),
        (
            "gpustack_fast_accept_failures_total",
            "Failures to accept a client, most likely for want of descriptors.",
            of(&metrics.accept_failures),
        ),
        (
            "gpustack_fast_unread_responses_cut_total",
            "Responses that were cut off because their clients did not read them while all requests \
             held as much memory as they may.",
            of(&metrics.cut_unread),
        ),
        (
            "gpustack_fast_fallbacks_total",
            "Requests that switched to a fallback target.",
            of(&metrics.fallbacks),
        ),
        (
            "gpustack_fast_overloaded_total",
            "Requests that were rejected because every instance had as many as it is given.",
            of(&metrics.overloaded),
        ),
        (
            "gpustack_fast_encoded_answers_total",
            "Responses that engines compressed although they were asked not to.",
            of(&metrics.encoded_responses),
        ),
        (
            "gpustack_fast_response_fields_dropped_total",
            "Header fields of engines' responses that did not pass to clients.",
            of(&metrics.withheld_fields),
        ),
        (
            "gpustack_fast_records_dropped_total",
            "Usage records that were lost because nobody fetched them in time.",
            of(&metrics.records_dropped),
        ),
        (
            "gpustack_fast_events_dropped_total",
            "Events that were lost because nobody fetched them in time.",
            of(&metrics.events_dropped),
        ),
        (
            "gpustack_fast_connections_without_room_total",
            "Connections to engines that could not be opened for want of descriptors, ports or \
             memory of this machine.",
            of(&metrics.connections_without_room),
        ),
        (
            "gpustack_fast_log_lines_lost_total",
            "Log lines that were lost because they could not be written, or not in time.",
            telemetry::lost(),
        ),
        (
            "gpustack_fast_worker_panics_total",
            "Mistakes in the program that cost a request or more.",
            telemetry::panics(),
        ),
    ]
}

fn held_family(text: &mut String, places: [(&str, u64); 2]) {
    let name = "gpustack_fast_held_bytes";
    let help = "Bytes that all requests hold together now, of what limits.total_memory_bytes and \
        limits.spool_bytes let them.";
    family(text, name, "gauge", help);
    for (place, bytes) in places {
        let _ = writeln!(text, "{name}{{place=\"{place}\"}} {bytes}");
    }
}

fn histogram(text: &mut String, name: &str, labels: &str, histogram: &Histogram) {
    let mut count = 0;
    for (bound, total) in histogram.buckets() {
        count = total;
        let _ = writeln!(text, "{name}_bucket{{{labels},le=\"{bound}\"}} {total}");
    }
    let _ = writeln!(
        text,
        "{name}_sum{{{labels}}} {}\n{name}_count{{{labels}}} {count}",
        histogram.sum()
    );
}

/// Reads one histogram of a route.
type PickHistogram = fn(&RouteMetrics) -> &Histogram;

fn route_families(text: &mut String, routes: &[(String, &RouteMetrics)]) {
    let name = "gpustack_fast_requests_total";
    let help = "Finished requests by public route name and status; an empty route means that the \
        request reached none.";
    family(text, name, "counter", help);
    for (route, metrics) in routes {
        for (code, count) in metrics.statuses() {
            let _ = writeln!(text, "{name}{{route=\"{route}\",code=\"{code}\"}} {count}");
        }
    }
    let duration = "From a request's head to the end of its response.";
    let first_frame = "From a request's head to the first byte of its response.";
    let histograms: [(&str, &str, PickHistogram); 2] = [
        ("gpustack_fast_request_duration_seconds", duration, |metrics| &metrics.duration),
        ("gpustack_fast_first_frame_seconds", first_frame, |metrics| &metrics.first_frame),
    ];
    for (name, help, pick) in histograms {
        family(text, name, "histogram", help);
        for (route, metrics) in routes {
            histogram(text, name, &format!("route=\"{route}\""), pick(metrics));
        }
    }
}

fn token_family(text: &mut String, table: &Table) {
    let name = "gpustack_fast_tokens_total";
    let help = "Tokens of ended requests by public route name, as engines have counted them. Cached \
        ones are a part of the input.";
    family(text, name, "counter", help);
    for route in &table.routes {
        for (kind, count) in route.metrics.tokens.shown() {
            let route = label(&route.name);
            let _ = writeln!(text, "{name}{{route=\"{route}\",kind=\"{kind}\"}} {count}");
        }
    }
}

/// Reads one counter of an instance.
type PickCounter = fn(&Instance) -> u64;

fn instance_families(text: &mut String, table: &Table) {
    let outstanding: PickCounter = |instance| u64::from(instance.outstanding());
    let requests: PickCounter = |instance| instance.counters.requests.load(Ordering::Relaxed);
    let failures: PickCounter = |instance| instance.counters.failures.load(Ordering::Relaxed);
    let ejected: PickCounter = |instance| u64::from(instance.is_out());
    let families = [
        (
            "gpustack_fast_instance_ejected",
            "gauge",
            "1 while others are preferred to an instance, after failures in a row.",
            ejected,
        ),
        (
            "gpustack_fast_instance_outstanding",
            "gauge",
            "Requests on an instance now.",
            outstanding,
        ),
        (
            "gpustack_fast_instance_requests_total",
            "counter",
            "Requests that were sent to an instance.",
            requests,
        ),
        (
            "gpustack_fast_instance_faults_total",
            "counter",
            "Requests that an instance failed.",
            failures,
        ),
    ];
    for (name, kind, help, pick) in families {
        family(text, name, kind, help);
        for model in &table.models {
            for instance in &model.instances {
                let (model, id) = (label(&model.name), label(&instance.id));
                let _ = writeln!(
                    text,
                    "{name}{{model=\"{model}\",instance=\"{id}\"}} {}",
                    pick(instance)
                );
            }
        }
    }
}

/// Of each model that is waited for while nothing of it runs, or was.
fn wake_families(text: &mut String, table: &Table) {
    let models: Vec<_> = table
        .models
        .iter()
        .filter(|model| model.wake.is_some() || model.queue.was_used())
        .map(|model| (label(&model.name), &*model.queue))
        .collect();
    let name = "gpustack_fast_waiting_requests";
    let help = "Requests that wait until a model runs again.";
    family(text, name, "gauge", help);
    for (model, queue) in &models {
        let _ = writeln!(text, "{name}{{model=\"{model}\"}} {}", queue.waiting());
    }
    let name = "gpustack_fast_wake_refused_total";
    let help = "Requests for a model that did not run which were rejected, by whether there was no \
        place to wait for it, or it did not run in time.";
    family(text, name, "counter", help);
    for (model, queue) in &models {
        for (reason, count) in
            [("queue_full", &queue.refused_full), ("timeout", &queue.refused_late)]
        {
            let count = count.load(Ordering::Relaxed);
            let _ = writeln!(text, "{name}{{model=\"{model}\",reason=\"{reason}\"}} {count}");
        }
    }
}

fn control_plane_family(text: &mut String, found: &MetricFamily) {
    family(text, &found.name, found.kind.name(), &found.help);
    for sample in &found.samples {
        let labels: Vec<_> = sample
            .labels
            .iter()
            .map(|(name, value)| format!("{name}=\"{}\"", label(value)))
            .collect();
        let _ = writeln!(text, "{}{{{}}} {}", found.name, labels.join(","), sample.value);
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
    use std::time::Duration;

    use super::*;
    use sans_io::seam::{MetricKind, MetricSample};

    #[test]
    fn a_page_holds_every_family_with_its_type_and_ends_with_a_line() {
        let metrics = Metrics::default();
        metrics.unrouted.count(404, Duration::from_millis(3), Some(Duration::from_millis(2)));
        let mut table = Table::default();
        table.metrics.push(MetricFamily {
            name: "own".to_owned(),
            help: "The control plane's.".to_owned(),
            kind: MetricKind::Gauge,
            samples: vec![MetricSample {
                labels: vec![("a".to_owned(), "b\"".to_owned()), ("c".to_owned(), String::new())],
                value: 1,
            }],
        });
        let page = page(&metrics, &table, [("memory", 65_536), ("spool", 0)]);
        for line in [
            "# TYPE gpustack_fast_requests_total counter",
            "gpustack_fast_requests_total{route=\"\",code=\"404\"} 1",
            "gpustack_fast_request_duration_seconds_bucket{route=\"\",le=\"0.0025\"} 0",
            "gpustack_fast_request_duration_seconds_bucket{route=\"\",le=\"0.005\"} 1",
            "gpustack_fast_request_duration_seconds_bucket{route=\"\",le=\"+Inf\"} 1",
            "gpustack_fast_first_frame_seconds_sum{route=\"\"} 0.002",
            "gpustack_fast_upstream_errors_total{kind=\"connect\"} 0",
            "gpustack_fast_held_bytes{place=\"memory\"} 65536",
        ] {
            assert!(page.lines().any(|found| found == line), "{line}\n{page}");
        }
        let own = "# HELP own The control plane's.\n# TYPE own gauge\nown{a=\"b\\\"\",c=\"\"} 1\n";
        assert!(page.ends_with(own), "{page}");
    }

    #[test]
    fn labels_are_escaped() {
        assert_eq!(label("a\"b\\c\nd"), r#"a\"b\\c\nd"#);
    }
}
