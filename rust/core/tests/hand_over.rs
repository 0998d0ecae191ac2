//! What a successor on the same sockets needs of a drain: no client that keeps its connection meets
//! the connection's end in the moment in which it sends.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on says where"
)]

#[path = "relay/harness.rs"]
mod harness;

use std::{io::Write, time::Duration};

use harness::{Client, Engine, PATIENCE, Plane, json_response, read_request, request};

const BODY: &str = r#"{"model":"m"}"#;
const HEALTH: &[u8] = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";

/// An engine that responds to each request with a JSON document.
fn engine() -> Engine {
    Engine::start(true, |_, mut stream| {
        while read_request(&mut stream).is_some() {
            stream.write_all(&json_response("{}")).unwrap();
        }
    })
}

/// The head of the response to this request, whose body is read, too.
fn asked(client: &mut Client, request: &[u8], length: usize) -> String {
    client.write(request);
    let head = client.head();
    client.read_exact(&mut vec![0; length]);
    head.to_ascii_lowercase()
}

#[test]
fn an_idle_connection_may_bring_one_more_request_in_the_grace_of_a_drain() {
    let engine = engine();
    let plane = Plane::builder().engines(&[&engine]).workers(2).start();
    let mut clients: Vec<_> = (0..4).map(|_| plane.connect()).collect();
    for client in &mut clients {
        let head = asked(client, HEALTH, 2);
        assert!(head.contains("connection: keep-alive"), "{head}");
    }
    // One of whom nothing has come: its request may be on its way.
    clients.push(plane.connect());
    plane.until_connections(5);
    plane.plane.drain(PATIENCE, PATIENCE);
    for client in &mut clients {
        let head = asked(client, request(BODY).as_bytes(), 2);
        assert!(head.starts_with("http/1.1 200"), "{head}");
        assert!(head.contains("connection: close"), "{head}");
        assert_eq!(client.read_to_end(), b"");
    }
    assert_eq!(plane.drained(), 0);
}

#[test]
fn in_the_grace_a_kept_connection_is_told_that_the_service_is_ready() {
    let engine = engine();
    let plane = Plane::builder().engines(&[&engine]).start();
    let mut client = plane.connect();
    asked(&mut client, HEALTH, 2);
    plane.plane.drain(PATIENCE, PATIENCE);
    let head = asked(&mut client, b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n", 2);
    assert!(head.starts_with("http/1.1 200"), "{head}");
    assert_eq!(plane.drained(), 0);
}

#[test]
fn connections_that_bring_nothing_end_with_the_grace() {
    let plane = Plane::builder().start();
    let (mut idle, mut silent, mut half) = (plane.connect(), plane.connect(), plane.connect());
    asked(&mut idle, HEALTH, 2);
    half.write(b"PRI * HTT");
    plane.until_connections(3);
    plane.plane.drain(PATIENCE * 100, Duration::from_millis(100));
    for client in [&mut idle, &mut silent, &mut half] {
        assert_eq!(client.read_to_end(), b"");
    }
    assert_eq!(plane.drained(), 0);
}

#[test]
fn a_second_drain_can_end_the_grace() {
    let plane = Plane::builder().start();
    let (mut idle, mut silent) = (plane.connect(), plane.connect());
    asked(&mut idle, HEALTH, 2);
    plane.until_connections(2);
    plane.plane.drain(PATIENCE * 100, PATIENCE * 100);
    // Both have begun to wait for the end of that grace.
    plane.plane.drain(PATIENCE * 100, PATIENCE * 200);
    plane.plane.drain(PATIENCE * 100, Duration::ZERO);
    for client in [&mut idle, &mut silent] {
        assert_eq!(client.read_to_end(), b"");
    }
    assert_eq!(plane.drained(), 0);
}

#[test]
fn a_connection_that_was_promised_to_be_kept_is_served_in_the_grace() {
    let engine = Engine::start(true, |_, mut stream| {
        while read_request(&mut stream).is_some() {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n{}").unwrap();
            std::thread::sleep(Duration::from_millis(300));
            stream.write_all(b"  ").unwrap();
        }
    });
    let plane = Plane::builder().engines(&[&engine]).start();
    let mut client = plane.connect();
    client.write(request(BODY).as_bytes());
    let head = client.head().to_ascii_lowercase();
    assert!(head.contains("connection: keep-alive"), "{head}");
    plane.plane.drain(PATIENCE, PATIENCE);
    client.read_exact(&mut [0; 4]);
    let head = asked(&mut client, request(BODY).as_bytes(), 4);
    assert!(head.contains("connection: close"), "{head}");
    assert_eq!((client.read_to_end(), plane.drained()), (vec![], 0));
}
