//! The place of a request on its engine (`max_in_flight`): how long it is taken.

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
    sync::mpsc,
};

use harness::{Engine, PATIENCE, Plane, json_response, read_request, request, request_with};
use serde_json::json;

const GOOD: &str = r#"{"model":"m"}"#;

/// A plane whose only engine is given one request at the same time, and works on for longer than any
/// test waits after one that was cancelled.
fn with_one_place(engine: &Engine, replay_bytes: u64) -> Plane {
    Plane::builder()
        .engines(&[engine])
        .model(json!({"max_in_flight": 1}))
        .instance(json!({"cancel_lag": 600.0}))
        .with(json!({"limits": {"replay_bytes": replay_bytes}}))
        .start()
}

#[test]
fn an_engine_that_ends_a_request_has_its_place_free_at_once() {
    for said in [
        "",
        "HTTP/1.1 200 OK\r\nContent-Le",
        "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\n{}\r\n",
        "HTTP/1.1 200 OK\r\nContent-Encoding: unknown\r\nContent-Length: 2\r\n\r\n{}",
        "HTP/1.1 200 OK\r\n\r\n",
    ] {
        let engine = Engine::start(false, move |_, mut stream| {
            while let Some(request) = read_request(&mut stream) {
                if request.body != GOOD.as_bytes() {
                    let _ = stream.write_all(said.as_bytes());
                    return;
                }
                stream.write_all(&json_response("good")).unwrap();
            }
        });
        let plane = with_one_place(&engine, 100_000);
        let bad = plane.ask(r#"{"model":"m","prompt":"bad"}"#);
        assert!(bad.status == 502 || !bad.whole || bad.body == b"{}", "{said:?}: {}", bad.status);
        let before = engine.connections();
        let good = plane.ask(GOOD);
        assert_eq!((good.status, &*good.body), (200, &b"good"[..]), "behind {said:?}");
        assert_eq!(engine.connections(), before + 1, "{said:?}: over a new connection");
        plane.assert_idle();
    }
}

#[test]
fn a_request_that_did_not_come_whole_is_worked_on_by_nobody() {
    let (report, reported) = mpsc::channel();
    let engine = Engine::start(true, move |_, mut stream| {
        let _ = report.send(stream.read_exact(&mut vec![0; 50_000]).is_ok());
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let plane = with_one_place(&engine, 0);
    let body = format!(r#"{{"model":"m","prompt":"{}"#, "x".repeat(200_000));
    let mut client = plane.connect();
    client.write(request_with("Content-Length: 400000", &body).as_bytes());
    assert!(reported.recv_timeout(PATIENCE).unwrap(), "a part of it is there");
    drop(client);
    plane.assert_idle();
}

#[test]
fn a_request_that_was_cancelled_keeps_its_place_while_its_engine_works_on() {
    let (report, reported) = mpsc::channel();
    let engine = Engine::start(true, move |_, mut stream| {
        let _ = report.send(read_request(&mut stream).is_some());
        let _ = report.send(matches!(stream.read(&mut [0]), Ok(0) | Err(_)));
    });
    let plane = with_one_place(&engine, 0);
    let mut client = plane.connect();
    client.write(request(GOOD).as_bytes());
    assert!(reported.recv_timeout(PATIENCE).unwrap(), "the request came");
    drop(client);
    assert!(reported.recv_timeout(PATIENCE).unwrap(), "its connection ended");
    plane.until_at_engines(1);
    assert_eq!(plane.ask(GOOD).status, 503);
}
