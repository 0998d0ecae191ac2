//! Engines that respond, and whose status says that they fail.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on says where"
)]

#[path = "relay/harness.rs"]
mod harness;

use std::{
    io::Write,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use harness::{Engine, Plane, json_response, read_request};

const GOOD: &str = r#"{"model":"m"}"#;
const POISON: &str = r#"{"model":"m","prompt":"poison"}"#;

/// An engine, and the number of requests that it was asked.
struct Asked {
    engine: Engine,
    count: Arc<AtomicUsize>,
}

impl Asked {
    /// It responds with the status that `says` gives for the request's number and body.
    fn start(says: impl Fn(usize, &str) -> u16 + Send + Sync + 'static) -> Self {
        let count = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&count);
        let engine = Engine::start(true, move |_, mut stream| {
            while let Some(request) = read_request(&mut stream) {
                let number = counter.fetch_add(1, Ordering::SeqCst);
                let status = says(number, &String::from_utf8_lossy(&request.body));
                let response = String::from_utf8(json_response("{}")).unwrap();
                let response = response.replacen("200 OK", &format!("{status} Said"), 1);
                if stream.write_all(response.as_bytes()).is_err() {
                    return;
                }
            }
        });
        Self { engine, count }
    }

    fn count(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }
}

fn plane(engines: &[&Asked]) -> Plane {
    Plane::builder().engines(&engines.iter().map(|asked| &asked.engine).collect::<Vec<_>>()).start()
}

#[test]
fn an_instance_that_answers_with_failures_at_once_is_passed_over() {
    for status in [500, 502, 503, 504, 529, 429, 401, 403] {
        let [bad, one, other] = [status, 200, 200].map(|status| Asked::start(move |_, _| status));
        let plane = plane(&[&one, &bad, &other]);
        let asked = 200;
        let failed = (0..asked).filter(|_| plane.ask(GOOD).status != 200).count();
        assert_eq!(bad.count(), failed, "{status}: nothing is sent twice");
        assert!((1..asked / 4).contains(&failed), "{status}: it got {failed} of {asked}");
        let metrics = plane.metrics();
        let counted = format!("upstream_errors_total{{kind=\"status\"}} {failed}\n");
        assert!(metrics.contains(&counted), "{metrics}");
        let faults = metrics.lines().find(|line| {
            line.starts_with("gpustack_fast_instance_faults_total{")
                && line.contains(&bad.engine.address)
        });
        assert!(faults.unwrap().ends_with(&format!(" {failed}")), "{faults:?}");
        let events = plane.events_in(Duration::ZERO);
        assert!(events.contains(&format!("it responded with status {status}")), "{events}");
    }
}

#[test]
fn what_a_client_or_an_engine_without_an_endpoint_causes_is_no_failure() {
    for status in [400, 404, 413, 422, 499, 501, 505] {
        let engines = [200, status].map(|status| Asked::start(move |_, _| status));
        let plane = plane(&[&engines[0], &engines[1]]);
        // Half of them, so this fails once in 10^13 times.
        for _ in 0..200 {
            plane.ask(GOOD);
        }
        assert!(engines[1].count() > 50, "{status}: it is chosen like the other");
        assert!(plane.metrics().contains("upstream_errors_total{kind=\"status\"} 0"), "{status}");
    }
}

#[test]
fn requests_that_fail_on_every_instance_leave_them_equal() {
    let engines: Vec<Asked> =
        (0..3).map(|_| Asked::start(|_, body| if body == POISON { 500 } else { 200 })).collect();
    let plane = plane(&engines.iter().collect::<Vec<_>>());
    let mut before = [0; 3];
    for round in 0..3 {
        // As many as would eject any of them for minutes, if they counted against it alone.
        for _ in 0..100 {
            assert_eq!(plane.ask(POISON).status, 500);
        }
        for _ in 0..30 {
            assert_eq!(plane.ask(POISON).status, 500);
            assert_eq!(plane.ask(GOOD).status, 200, "nobody else is shut out");
        }
        let counts: Vec<_> = engines.iter().map(Asked::count).collect();
        for (now, before) in counts.iter().zip(&before) {
            assert!(now - before >= 16, "round {round}: all of them serve: {counts:?}");
        }
        before = [counts[0], counts[1], counts[2]];
    }
    assert!(!plane.metrics().lines().any(|line| {
        line.starts_with("gpustack_fast_instance_ejected{") && line.ends_with(" 1")
    }));
}

#[test]
fn the_only_instance_is_asked_whatever_it_answers() {
    let engine = Asked::start(|number, _| if number < 20 { 500 } else { 200 });
    let plane = plane(&[&engine]);
    let statuses: Vec<_> = (0..21).map(|_| plane.ask(GOOD).status).collect();
    assert_eq!((statuses[..20].to_vec(), statuses[20]), (vec![500; 20], 200));
    let page = plane.metrics();
    let line = page.lines().find(|line| line.starts_with("gpustack_fast_instance_faults_total{"));
    assert!(line.unwrap().ends_with(" 20"), "{line:?}");
    assert!(page.lines().any(|line| {
        line.starts_with("gpustack_fast_instance_ejected{") && line.ends_with(" 0")
    }));
    let events = plane.events_in(Duration::ZERO);
    assert_eq!(events.matches("it responded with status 500").count(), 1, "{events}");
}
