//! OPTIONS, CORS and expectations over real sockets.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on says where"
)]

#[path = "relay/harness.rs"]
mod harness;

use std::io::Write;

use harness::{Client, Engine, Plane, read_request, request_with};
use serde_json::{Value, json};

const BODY: &str = r#"{"model":"m"}"#;
fn rules() -> Value {
    json!({"cors": {"origins": ["https://app.test"], "max_age": 60}})
}

/// An engine with a mind of its own about origins.
fn engine() -> Engine {
    Engine::start(true, |_, mut stream| {
        while read_request(&mut stream).is_some() {
            let response =
                b"HTTP/1.1 200 OK\r\nAccess-Control-Allow-Origin: *\r\nContent-Length: 2\r\n\r\n{}";
            let _ = stream.write_all(response);
        }
    })
}

/// Asks without a body, and without a key; the head of the response, in lower case.
fn head_of(client: &mut Client, line: &str, fields: &str) -> String {
    client.write(format!("{line} HTTP/1.1\r\nHost: x\r\n{fields}\r\n").as_bytes());
    client.head().to_ascii_lowercase()
}

#[test]
fn options_shows_what_a_path_takes_without_a_key_and_without_cors() {
    let plane = Plane::builder().start();
    let mut client = plane.connect();
    for (path, methods) in
        [("/v1/chat/completions", "post, options"), ("/v1/models", "get, head, options")]
    {
        let head = head_of(&mut client, &format!("OPTIONS {path}"), "Origin: https://app.test\r\n");
        assert!(head.starts_with("http/1.1 204 "), "{head}");
        assert!(head.contains(&format!("\r\nallow: {methods}\r\n")), "{head}");
        assert!(head.contains("\r\nx-request-id: ") && !head.contains("access-control"), "{head}");
    }
    let head = head_of(&mut client, "OPTIONS *", "");
    assert!(head.starts_with("http/1.1 204 "), "{head}");
    let head = head_of(&mut client, "OPTIONS /v1/no/such/path", "Connection: close\r\n");
    assert!(head.starts_with("http/1.1 404 "), "{head}");
    plane.assert_idle();
}

#[test]
fn a_preflight_is_granted_to_listed_origins_alone() {
    let plane = Plane::builder().with(rules()).start();
    let mut client = plane.connect();
    let asked =
        "Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: authorization\r\n";
    let head = head_of(
        &mut client,
        "OPTIONS /v1/completions",
        &format!("Origin: https://app.test\r\n{asked}"),
    );
    assert!(head.starts_with("http/1.1 204 "), "{head}");
    for line in [
        "access-control-allow-origin: https://app.test",
        "access-control-allow-methods: post, options",
        "access-control-allow-headers: authorization",
        "access-control-max-age: 60",
    ] {
        assert!(head.contains(&format!("\r\n{line}\r\n")), "{line} in {head}");
    }
    let head = head_of(
        &mut client,
        "OPTIONS /v1/completions",
        &format!("Origin: https://evil.test\r\n{asked}"),
    );
    assert!(head.starts_with("http/1.1 204 ") && !head.contains("\r\naccess-control"), "{head}");
    assert!(head.contains("\r\nvary: origin"), "{head}");
}

#[test]
fn responses_and_errors_carry_the_fields_that_let_a_page_read_them() {
    let engine = engine();
    let plane = Plane::builder().engines(&[&engine]).with(rules()).start();
    for (origin, granted) in [("https://app.test", true), ("https://evil.test", false)] {
        for (key, status) in [("secret", 200), ("wrong", 401)] {
            let mut client = plane.connect();
            client.write(
                format!(
                    "POST /v1/completions HTTP/1.1\r\nHost: x\r\nOrigin: {origin}\r\n\
                     Authorization: Bearer {key}\r\nContent-Length: {}\r\n\r\n{BODY}",
                    BODY.len()
                )
                .as_bytes(),
            );
            let head = client.head().to_ascii_lowercase();
            assert!(head.starts_with(&format!("http/1.1 {status} ")), "{head}");
            assert_eq!(
                head.contains(&format!("\r\naccess-control-allow-origin: {origin}\r\n")),
                granted,
                "{head}"
            );
            assert!(
                !head.contains("access-control-allow-origin: *"),
                "the engine's own rules are not ours: {head}"
            );
            assert_eq!(
                head.contains("\r\naccess-control-expose-headers: x-request-id, "),
                granted,
                "{head}"
            );
            assert!(head.contains("\r\nvary: origin\r\n"), "{head}");
        }
    }
    plane.assert_idle();
}

#[test]
fn head_has_the_fields_of_get_and_no_body() {
    let plane = Plane::builder().start();
    let mut client = plane.connect();
    client.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n");
    let length = format!("\r\ncontent-length: {}\r\n", client.response().body.len());
    for _ in 0..2 {
        // The second would find the body of the first.
        let head = head_of(&mut client, "HEAD /healthz", "");
        assert!(head.starts_with("http/1.1 200 ") && head.contains(&length), "{head}");
    }
}

#[test]
fn a_body_is_asked_for_only_when_it_is_about_to_be_read() {
    let engine = engine();
    let plane = Plane::builder().engines(&[&engine]).start();
    let expecting =
        request_with(&format!("Expect: 100-Continue\r\nContent-Length: {}", BODY.len()), "");
    let mut client = plane.connect();
    for _ in 0..2 {
        client.write(expecting.as_bytes());
        assert_eq!(client.head(), "HTTP/1.1 100 Continue\r\n\r\n");
        client.write(BODY.as_bytes());
        assert_eq!(client.response().status, 200);
    }
    // Rejected: no 100, the final response at once, and the end, since the client may send its body
    // all the same.
    for (wrong, right, status) in [
        ("Bearer wrong", "Bearer secret", 401),
        ("/v1/no/such", "/v1/completions", 404),
        ("Content-Length: 999999999999", &*format!("Content-Length: {}", BODY.len()), 413),
    ] {
        let mut client = plane.connect();
        client.write(expecting.replace(right, wrong).as_bytes());
        let response = client.response();
        assert_eq!((response.status, response.whole), (status, true));
        assert_eq!(client.read_to_end(), b"", "{status}");
    }
    plane.assert_idle();
}
