//! Forwarding fields toward the management API, over real sockets: who is believed, and what it is
//! told. (Toward engines: `tests/end_to_end/test_forwarding.py`.)

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
    sync::mpsc::{self, Receiver},
};

use gpustack_fast_core::DataPlane;
use harness::{Engine, PATIENCE, Plane};
use sans_io::test_support;
use serde_json::json;

/// A management API that reports each head that it reads.
fn management() -> (Engine, Receiver<String>) {
    let (report, reported) = mpsc::channel();
    let api = Engine::start(true, move |_, mut stream| {
        let (mut head, mut byte) = (Vec::new(), [0]);
        while !head.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        report.send(String::from_utf8(head).unwrap()).unwrap();
        stream.write_all(&harness::json_response("{}")).unwrap();
    });
    (api, reported)
}

/// The forwarding fields that the management API gets of a client that claims to be another.
fn told(unix: bool, trusted: &[&str]) -> Vec<String> {
    let (api, reported) = management();
    let socket = api.address.strip_prefix("unix:").unwrap();
    let settings = json!({
        "control_socket": socket,
        "trusted_proxies": trusted,
        "allowed_hosts": ["llm.example"],
    });
    let plane = Plane::builder().listen_unix(unix).with(settings).start();
    let mut client = plane.connect();
    client.write(
        b"GET /v2/models HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: 6.6.6.6, 203.0.113.9\r\n\
          X-Forwarded-Proto: https\r\nX-Forwarded-Host: llm.example\r\nForwarded: for=6.6.6.6\r\n\
          X-Real-IP: 6.6.6.6\r\nX-Forwarded-Prefix: /x\r\n\r\n",
    );
    assert_eq!(client.response().status, 200);
    let head = reported.recv_timeout(PATIENCE).unwrap();
    let fields = head.lines().filter(|line| line.contains("forwarded") || line.contains("6.6."));
    fields.map(str::to_owned).collect()
}

#[test]
fn the_management_api_learns_of_the_client_from_trusted_proxies_alone() {
    let stranger = |address: &str| {
        vec![
            format!("x-forwarded-for: {address}"),
            "x-forwarded-proto: http".to_owned(),
            "x-forwarded-host: localhost".to_owned(),
        ]
    };
    let believed = [
        "x-forwarded-for: 203.0.113.9",
        "x-forwarded-proto: https",
        "x-forwarded-host: llm.example",
    ];
    assert_eq!(told(false, &[]), stranger("127.0.0.1"));
    assert_eq!(told(false, &["10.0.0.0/8", "unix"]), stranger("127.0.0.1"));
    assert_eq!(told(false, &["::ffff:127.0.0.0/104"]), believed);
    assert_eq!(told(true, &["127.0.0.0/8"]), stranger("unix"));
    assert_eq!(told(true, &["unix"]), believed);
}

#[test]
fn a_proxy_that_is_no_address_is_rejected_by_name() {
    let mut config = test_support::config();
    test_support::change(&mut config, json!({"trusted_proxies": ["10.0.0.0/8", "proxy"]}));
    let error = DataPlane::new(config.to_string().as_bytes(), vec![]).unwrap_err().to_string();
    assert!(error.contains("\"proxy\" is neither an address"), "{error}");
}
