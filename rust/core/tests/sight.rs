//! The log on standard error. There is one for a process, so each test looks at a process of its
//! own: this program again, as a server that has a busy day.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on says where"
)]

#[path = "relay/harness.rs"]
mod harness;

use std::{
    io::{Read, Write},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use gpustack_fast_core::{ControlPlaneLine, DataPlane, LogFormat, LogLevel, flush_log};
use harness::{Engine, Plane, json_response, read_request, request};
use sans_io::test_support;
use serde_json::json;

const PATIENCE: Duration = Duration::from_secs(60);
/// Texts that no line may hold: the client's key (the harness's), a wrong one, a prompt, a
/// response, a query, a field.
const SECRETS: [&str; 6] =
    ["secret", "guessed-key", "words of a prompt", "words of a model", "asked-for", "field-value"];

/// Runs one of the ignored tests below in a process of its own.
fn spawn(name: &str, level: &str, format: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture", name])
        .env("SIGHT_LEVEL", level)
        .env("SIGHT_FORMAT", format)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// The log of a server with this level and format on a busy day.
fn log(level: &str, format: &str) -> String {
    log_of("busy_day", level, format)
}

/// The log of one of the ignored tests below.
fn log_of(name: &str, level: &str, format: &str) -> String {
    let mut child = spawn(name, level, format);
    let mut text = String::new();
    child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    assert!(child.wait().unwrap().success(), "{text}");
    text
}

fn plane_with_log(engine: &Engine) -> Plane {
    let of = |name: &str| std::env::var(name).unwrap();
    let log = json!({"log_level": of("SIGHT_LEVEL"), "log_format": of("SIGHT_FORMAT")});
    Plane::builder().engines(&[engine]).with(log).start()
}

/// An engine that responds to most requests, and breaks HTTP at some.
fn engine() -> Engine {
    Engine::start(false, |_, mut stream| {
        while let Some(request) = read_request(&mut stream) {
            let body = String::from_utf8_lossy(&request.body);
            let response = if body.contains("break") {
                b"HTTP/1.1 words of a model\r\n\r\n".to_vec()
            } else if body.contains("cut") {
                b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{".to_vec()
            } else if body.contains("locked") {
                b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\n{}".to_vec()
            } else {
                json_response(r#"{"model":"m","choices":[{"text":"words of a model"}]}"#)
            };
            if stream.write_all(&response).is_err() || body.contains("cut") {
                return;
            }
        }
    })
}

#[test]
#[ignore = "the process whose log other tests read"]
fn busy_day() {
    let engine = engine();
    let plane = plane_with_log(&engine);
    let good = r#"{"model":"m","prompt":"words of a prompt"}"#;
    for _ in 0..3 {
        assert_eq!(plane.ask(good).status, 200);
    }
    assert_eq!(plane.ask(r#"{"model":"m","prompt":"words of a prompt: break"}"#).status, 502);
    assert_eq!(plane.ask(r#"{"model":"m","prompt":"words of a prompt: locked"}"#).status, 502);
    assert_eq!(plane.ask(r#"{"model":"m","prompt":"words of a prompt"#).status, 400);
    let odd = request(good)
        .replace("Bearer secret", "Bearer guessed-key\r\nX-Odd: field-value")
        .replace("/completions", "/completions?q=asked-for");
    let mut client = plane.connect();
    client.write(odd.as_bytes());
    assert_eq!(client.response().status, 401);
    // As in a worker that slices a text within a character.
    let worker = std::thread::Builder::new().name("gpustack-fast-9".to_owned());
    let cut = String::from("words of a prompt é");
    assert!(worker.spawn(move || cut[..cut.len() - 1].len()).unwrap().join().is_err());
    plane.plane.drain(Duration::from_secs(1), Duration::ZERO);
    plane.drained();
    assert!(flush_log(PATIENCE));
}

#[test]
#[ignore = "the process whose log another test reads"]
fn bad_day() {
    let engine = engine();
    let plane = plane_with_log(&engine);
    for _ in 0..10 {
        assert_eq!(plane.ask(r#"{"model":"m","prompt":"break"}"#).status, 502);
        assert_eq!(plane.ask(r#"{"model":"m","prompt":"locked"}"#).status, 502);
        assert!(!plane.ask(r#"{"model":"m","prompt":"cut"}"#).whole);
        let worker = std::thread::Builder::new().name("gpustack-fast-9".to_owned());
        assert!(worker.spawn(|| panic!("a mistake")).unwrap().join().is_err());
    }
    plane.publish(&[], "m");
    for _ in 0..10 {
        assert_eq!(plane.ask(r#"{"model":"m"}"#).status, 503);
    }
    assert!(flush_log(PATIENCE));
}

#[test]
fn what_each_request_could_cause_is_one_line_of_each_kind() {
    let log = log_of("bad_day", "debug", "text");
    let count = |level: &str, words: &str| {
        log.lines().filter(|line| line.contains(level) && line.contains(words)).count()
    };
    for (level, words) in [
        ("WARN ", "request failed code=engine_error"),
        ("WARN ", "request failed code=no_running_instance"),
        ("WARN ", "response truncated"),
        ("WARN ", "the engine rejected this server's own credential"),
        ("ERROR", "a worker panicked"),
    ] {
        assert_eq!(count(level, words), 1, "{words}\n{log}");
    }
    for words in ["request failed", "response truncated", "own credential"] {
        assert!(count("DEBUG", words) >= 9, "{words}\n{log}");
    }
}

#[test]
#[ignore = "the process whose log nobody reads"]
fn flooded_day() {
    let engine = engine();
    let plane = plane_with_log(&engine);
    for number in 0..20_000 {
        let message = format!("a line of the control plane, number {number}");
        gpustack_fast_core::log(&ControlPlaneLine {
            level: LogLevel::Info,
            format: LogFormat::Text,
            subject: "flood",
            message: &message,
            request_id: None,
            exception: None,
        });
    }
    for _ in 0..500 {
        assert_eq!(plane.ask(r#"{"model":"m"}"#).status, 200);
    }
    let page = plane.metrics();
    let lost = page.lines().find(|line| line.starts_with("gpustack_fast_log_lines_lost_total "));
    assert_ne!(lost.unwrap(), "gpustack_fast_log_lines_lost_total 0");
    assert!(!flush_log(Duration::from_millis(1)));
}

#[test]
fn a_log_that_nobody_reads_holds_no_request_up_and_its_lost_lines_are_counted() {
    let mut child = spawn("flooded_day", "debug", "text");
    // Held open, and never read.
    let pipe = child.stderr.take();
    let began = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if began.elapsed() > PATIENCE {
            child.kill().unwrap();
            panic!("the server stands still");
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let mut text = String::new();
    pipe.unwrap().read_to_string(&mut text).unwrap();
    assert!(status.success(), "{}", &text[..500]);
}

#[test]
fn text_lines_have_time_level_subject_and_no_secret_even_at_trace() {
    let text = log("trace", "text");
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let (time, level, subject) =
            (words.next().unwrap(), words.next().unwrap(), words.next().unwrap());
        assert!(time.len() == 24 && time.ends_with('Z') && time.starts_with("20"), "{line}");
        assert!(["ERROR", "WARN", "INFO", "DEBUG", "TRACE"].contains(&level), "{line}");
        assert!(!subject.contains(':'), "{line}");
    }
    for line in [
        "INFO  dataplane keys changed",
        "INFO  dataplane table published version=1 models=1 routes=1",
        "INFO  dataplane listening addresses=127.0.0.1:",
        "DEBUG server.listener client accepted peer=127.0.0.1:",
        "DEBUG upstream.pool connection kept",
        "DEBUG upstream.pool connection reused",
        "WARN  records instance failed",
        "ERROR telemetry a worker panicked",
        "INFO  shared drain begins",
        "INFO  records drained",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
    for secret in SECRETS {
        assert!(!text.contains(secret), "{secret}\n{text}");
    }
}

#[test]
fn json_lines_are_objects_with_the_same_and_no_secret() {
    let text = log("trace", "json");
    let mut published = 0;
    for line in text.lines() {
        let object: serde_json::Value = serde_json::from_str(line).unwrap();
        for key in ["time", "level", "subject", "message"] {
            assert!(object[key].is_string(), "{line}");
        }
        published += u32::from(object["message"] == "table published");
    }
    assert_eq!(published, 1);
    for secret in SECRETS {
        assert!(!text.contains(secret), "{secret}\n{text}");
    }
}

#[test]
fn the_level_decides_what_is_written() {
    let off = log("off", "text");
    assert!(!off.contains("ERROR "), "{off}");
    let warn = log("warn", "text");
    assert!(warn.contains("request failed") && warn.contains("own credential"), "{warn}");
    assert!(warn.contains("WARN ") && !warn.contains("INFO "), "{warn}");
    let info = log("info", "text");
    assert!(info.contains("INFO ") && !info.contains("DEBUG "), "{info}");
}

#[test]
fn an_unknown_level_is_an_error_that_names_the_known_ones() {
    let mut config = test_support::config();
    config["log_level"] = "loud".into();
    let error = DataPlane::new(config.to_string().as_bytes(), vec![]).unwrap_err().to_string();
    assert!(
        error.contains("unknown variant `loud`, expected one of `off`, `error`, `warn`"),
        "{error}"
    );
}

#[test]
fn at_debug_each_step_of_a_request_is_logged_with_the_request_it_belongs_to() {
    let log = log("debug", "json");
    let lines: Vec<serde_json::Value> =
        log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let ids = |message: &str| -> Vec<&str> {
        let found = lines.iter().filter(|line| line["message"] == message);
        found.map(|line| line["request_id"].as_str().unwrap_or_default()).collect()
    };
    let begun = ids("attempt begins");
    assert_eq!(begun.len(), 5, "three good ones, a broken one and a locked one: {log}");
    assert!(begun.iter().all(|id| id.len() == 32), "{log}");
    assert_eq!(ids("committed"), [&begun[..3], &begun[4..]].concat(), "{log}");
    assert!(ids("request ended").starts_with(&begun), "{log}");
    assert_eq!(ids("attempt failed"), begun[3..4], "{log}");
    assert!(ids("request failed").contains(&begun[3]), "{log}");
    let credential = ids("the engine rejected this server's own credential");
    assert_eq!(credential, begun[4..], "{log}");
}
