//! HTTP/1.1 toward clients, over real sockets: what a strict server says to raw bytes.

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
    net::Shutdown,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use harness::{
    Client, Engine, PATIENCE, Plane, json_response, read_request, request, request_with,
};
use serde_json::{Value, json};

const BODY: &str = r#"{"model":"m"}"#;
const HEALTH: &str = "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";

/// An engine whose response to every request is the request's own body.
fn echo() -> Engine {
    Engine::start(true, |_, mut stream| {
        while let Some(request) = read_request(&mut stream) {
            let response = json_response(&String::from_utf8_lossy(&request.body));
            if stream.write_all(&response).is_err() {
                return;
            }
        }
    })
}

/// All that comes back for these bytes, until the connection ends.
fn said(plane: &Plane, bytes: &[u8]) -> String {
    let mut client = plane.connect();
    let _ = client.try_write(bytes);
    String::from_utf8(client.read_to_end()).unwrap()
}

fn body_of(response: &str) -> Value {
    serde_json::from_str(response.split_once("\r\n\r\n").unwrap().1).unwrap()
}

#[test]
fn what_cannot_be_read_gets_a_body_an_id_and_the_connections_end() {
    let plane = Plane::builder().start();
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(70_000));
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(101));
    let big = format!("GET / HTTP/1.1\r\nA: {}\r\n\r\n", "b".repeat(70_000));
    let framed =
        |field: &str| format!("POST /v1/completions HTTP/1.1\r\nHost: x\r\n{field}\r\n\r\n");
    for (bytes, status) in [
        (long, 414),
        (many, 431),
        (big, 431),
        ("GET / HTTP/3.0\r\n\r\n".into(), 505),
        ("GET /a b HTTP/1.1\r\nHost: x\r\n\r\n".into(), 400),
        ("GET / b\r\n\r\n".into(), 400),
        ("GET h:80 HTTP/1.1\r\nHost: x\r\n\r\n".into(), 400),
        ("GET ftp://x/ HTTP/1.1\r\nHost: x\r\n\r\n".into(), 400),
        ("\r\n".repeat(40_000), 431),
        ("GET /\r\n\r\n".into(), 400),
        ("nonsense\r\n\r\n".into(), 400),
        ("\x16\x03\x01\x02".into(), 400),
        ("GET / HTTP/1.1\nHost: x\n\n".into(), 400),
        ("GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n".into(), 400),
        ("GET / HTTP/1.1\r\nHost: x\r\nA: b\rc\r\n\r\n".into(), 400),
        ("GET / HTTP/1.1\r\nHost : x\r\n\r\n".into(), 400),
        (framed("Content-Length: 3\r\nContent-Length: 3"), 400),
        (framed("Content-Length: 3\r\nTransfer-Encoding: chunked"), 400),
        (framed("Content-Length: -1"), 400),
        (framed("Content-Length: 0x3"), 400),
        (framed("Content-Length: 18446744073709551616"), 413),
        (framed("Transfer-Encoding: gzip, chunked"), 501),
        (framed("Transfer-Encoding: chunked, identity"), 501),
        (framed("Transfer-Encoding: chunked").replace("1.1", "1.0"), 400),
    ] {
        let response = said(&plane, bytes.as_bytes());
        let start: String = bytes.chars().take(80).collect();
        assert!(response.starts_with(&format!("HTTP/1.1 {status} ")), "{start:?}: {response}");
        assert!(response.contains("\r\nconnection: close\r\n"), "{response}");
        assert!(response.contains("\r\nx-request-id: "), "{response}");
        let body = body_of(&response);
        // `/` is the management API's, which has a shape of its own.
        let message = body["error"]["message"].as_str().or(body["message"].as_str()).unwrap();
        assert!(message.ends_with('.'), "{message}");
        assert!(!response.contains("\nHTTP/1.1 "), "{response}");
    }
}

#[test]
fn an_unreadable_head_is_explained_in_the_shape_of_its_path() {
    let plane = Plane::builder().start();
    let response = said(&plane, b"POST /v1/messages?beta=true HTTP/1.1\r\nbad\r\n\r\n");
    let body = body_of(&response);
    assert_eq!(body["type"], "error");
    assert!(response.contains(&format!("x-request-id: {}", body["request_id"].as_str().unwrap())));
    assert!(plane.metrics().contains(r#"gpustack_fast_requests_total{route="",code="400"} 1"#));
}

#[test]
fn a_connection_is_told_how_long_it_lives() {
    let timeouts = json!({"timeouts": {"keep_alive": 61.0}});
    let plane = Plane::builder().with(timeouts).start();
    let head = |version: &str, field: &str| {
        let mut client = plane.connect();
        client.write(format!("GET /healthz HTTP/{version}\r\nHost: x\r\n{field}\r\n").as_bytes());
        client.head()
    };
    for (version, field) in [("1.1", ""), ("1.0", "Connection: keep-alive\r\n")] {
        let head = head(version, field);
        assert!(head.contains("connection: keep-alive\r\nkeep-alive: timeout=61\r\n"), "{head}");
    }
    for (version, field) in [("1.1", "Connection: close\r\n"), ("1.0", "")] {
        let head = head(version, field);
        assert!(head.contains("connection: close\r\n") && !head.contains("timeout"), "{head}");
    }
}

#[test]
fn an_idle_connection_ends_after_its_time_and_a_slow_head_after_another() {
    let timeouts = json!({"timeouts": {"keep_alive": 0.2, "head": 3.0}});
    let plane = Plane::builder().with(timeouts).start();
    let mut idle = plane.connect();
    idle.write(HEALTH.as_bytes());
    assert_eq!(idle.response().status, 200);
    // In the grace behind the time that was told a request is still served.
    thread::sleep(Duration::from_millis(400));
    idle.write(HEALTH.as_bytes());
    assert_eq!(idle.response().status, 200);
    let mut slow = plane.connect();
    slow.write(HEALTH.as_bytes());
    assert_eq!(slow.response().status, 200);
    slow.write(b"GET / HT");
    assert_eq!(idle.read_to_end(), b"", "it was not asked for anything");
    let late = slow.response();
    assert_eq!((late.status, late.whole), (408, true));
    let mut silent = plane.connect();
    assert_eq!(silent.read_to_end(), b"");
}

#[test]
fn empty_lines_do_not_keep_an_idle_connection() {
    let timeouts = json!({"timeouts": {"keep_alive": 0.2, "head": 0.4}});
    let plane = Plane::builder().with(timeouts).start();
    let mut idle = plane.connect();
    idle.write(HEALTH.as_bytes());
    assert_eq!(idle.response().status, 200);
    let trickle = |mut writer: harness::Stream| {
        thread::spawn(move || {
            for half in [b"\r", b"\n"].into_iter().cycle() {
                if writer.write_all(half).is_err() {
                    return;
                }
                thread::sleep(Duration::from_millis(50));
            }
        })
    };
    let new = plane.connect();
    let writing = [&idle, &new].map(|client| trickle(client.duplicate()));
    plane.until_connections(0);
    for thread in writing {
        thread.join().unwrap();
    }
}

#[test]
fn a_request_is_for_one_valid_host() {
    let plane = Plane::builder().start();
    let ask = |line: &str, fields: &str| {
        said(&plane, format!("{line}\r\n{fields}Connection: close\r\n\r\n").as_bytes())
    };
    let (path, url) = ("GET /v1/models HTTP/1.1", "GET http://x:80/v1/models HTTP/1.1");
    for (line, host) in [
        (path, "Host: x\r\n"),
        (path, "Host: \r\n"),
        (path, "Host: [::1]:8080\r\n"),
        (url, "Host: x:80\r\n"),
        // RFC 9112 3.2.2: it is replaced.
        (url, "Host: y\r\n"),
        ("GET http://x/v1/models HTTP/1.0", ""),
        ("GET /v1/models HTTP/1.0", ""),
    ] {
        let response = ask(line, &format!("{host}Authorization: Bearer secret\r\n"));
        assert!(response.starts_with("HTTP/1.1 200 "), "{line} {host}: {response}");
    }
    for (line, host) in [
        (path, ""),
        (path, "Host: a b\r\n"),
        (path, "Host: a@b\r\n"),
        (path, "Host: a:port\r\n"),
        (path, "Host: a/b\r\n"),
        (path, "Host: x\r\nHost: x\r\n"),
        ("GET /v1/models HTTP/1.0", "Host: a b\r\n"),
        ("OPTIONS /v1/models HTTP/1.1", "Host: a b\r\n"),
        ("OPTIONS /v1/models HTTP/1.1", ""),
        ("OPTIONS * HTTP/1.1", "Host: x\r\nHost: x\r\n"),
        (url, "Host: a b\r\n"),
        (url, "Host: \r\n"),
        ("GET http://a@x/v1/models HTTP/1.1", "Host: x\r\n"),
        ("GET http://x:/v1/models?a=http://x HTTP/1.1", "Host: x\r\nHost: y\r\n"),
    ] {
        let response = ask(line, &format!("{host}Authorization: Bearer secret\r\n"));
        assert!(response.starts_with("HTTP/1.1 400 "), "{line} {host}: {response}");
        assert!(response.contains("\r\nconnection: close\r\n"), "{response}");
        assert!(response.to_lowercase().contains("host"), "{response}");
    }
}

#[test]
fn the_host_of_the_target_is_the_one_that_counts() {
    let (report, reported) = mpsc::channel();
    let api = Engine::start(true, move |_, mut stream| {
        let (mut head, mut byte) = (Vec::new(), [0]);
        while !head.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        report.send(String::from_utf8(head).unwrap()).unwrap();
        stream.write_all(&json_response("{}")).unwrap();
    });
    let socket = api.address.strip_prefix("unix:").unwrap();
    let plane = Plane::builder().with(json!({"control_socket": socket})).start();
    let ask = |target: &str, fields: &str| {
        said(&plane, format!("GET {target} HTTP/1.1\r\n{fields}\r\n\r\n").as_bytes())
    };
    // A page whose name points at this machine is not let in by a second name.
    let close = "Connection: close";
    for target in ["http://evil.example/metrics", "http://evil.example/v2/models"] {
        let response = ask(target, &format!("Host: localhost\r\n{close}"));
        assert!(response.starts_with("HTTP/1.1 421 "), "{target}: {response}");
    }
    let response = ask("http://LocalHost:1/v2/models", &format!("Host: evil.example\r\n{close}"));
    assert!(response.starts_with("HTTP/1.1 200 "), "{response}");
    let head = reported.recv_timeout(Duration::from_secs(10)).unwrap().to_lowercase();
    assert!(head.starts_with("get /v2/models http/1.1\r\n"), "{head}");
    assert!(head.contains("\r\nhost: localhost:1\r\n"), "{head}");
    assert!(head.contains("\r\nx-forwarded-host: localhost:1\r\n"), "{head}");
    assert!(!head.contains("evil"), "{head}");
}

#[test]
fn pipelined_requests_are_served_in_order_however_many_and_however_cut() {
    let engine = echo();
    let plane = Plane::builder().engines(&[&engine]).start();
    let bodies: Vec<String> =
        (0..1_000).map(|number| format!(r#"{{"model":"m","n":{number}}}"#)).collect();
    let all = bodies.iter().map(|body| request(body)).collect::<String>();
    assert!(all.len() > 100_000, "more than is read ahead");
    for size in [all.len(), 16_384, 1_000, 77] {
        let mut client = plane.connect();
        let pieces: Vec<Vec<u8>> = all.as_bytes().chunks(size).map(<[u8]>::to_vec).collect();
        let mut writer = client.duplicate();
        let writing = thread::spawn(move || {
            for piece in pieces {
                writer.write_all(&piece).unwrap();
            }
        });
        for body in &bodies {
            assert_eq!(client.response().body, body.as_bytes(), "in pieces of {size}");
        }
        writing.join().unwrap();
    }
    plane.assert_idle();
}

#[test]
fn chunked_and_measured_bodies_alternate_on_one_connection() {
    let engine = echo();
    let plane = Plane::builder().engines(&[&engine]).start();
    let chunked = "Transfer-Encoding: chunked";
    let mut client = plane.connect();
    let mut written = String::new();
    for _ in 0..3 {
        written +=
            &request_with(chunked, "5;x=y\r\n{\"mod\r\n8\r\nel\":\"m\"}\r\n0\r\nT: x\r\n\r\n");
        written += &request(BODY);
        written += "\r\n";
        written += HEALTH;
    }
    for byte in written.as_bytes().chunks(3) {
        client.write(byte);
    }
    for _ in 0..3 {
        assert_eq!(client.response().body, BODY.as_bytes());
        assert_eq!(client.response().body, BODY.as_bytes());
        assert_eq!(client.response().body, b"ok");
    }
}

#[test]
fn malformed_chunks_are_a_400_and_never_another_request() {
    let engine = echo();
    let plane = Plane::builder().engines(&[&engine]).start();
    let long_trailer = format!("d\r\n{{\"model\":\"m\"}}\r\n0\r\n{}\r\n", "T: x\r\n".repeat(1_000));
    for body in [
        "zz\r\n",
        "5\n{\"mod\n",
        "5\r\n{\"model\r\n",
        "fffffffffffffffff\r\n",
        "-1\r\n",
        "0x5\r\n",
        "5\r\n{\"mod\r\n8\r\nel\":\"m\"}\r\n0\r\nT x\n\r\n",
        "d\r\n{\"model\":\"m\"}\r\n0\r\nno colon\r\n\r\n",
        "d\r\n{\"model\":\"m\"}\r\n0\r\nT: x\r\n folded\r\n\r\n",
        "d\r\n{\"model\":\"m\"}\r\n0\r\nT : x\r\n\r\n",
        "d\r\n{\"model\":\"m\"}\r\n0\r\nT: x\ry\r\n\r\n",
        "d\r\n{\"model\":\"m\"}\r\n0\r\nT: \0\r\n\r\n",
        "d;a\0b\r\n{\"model\":\"m\"}\r\n0\r\n\r\n",
        &long_trailer,
    ] {
        let smuggled = format!("{body}GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n");
        let response =
            said(&plane, request_with("Transfer-Encoding: chunked", &smuggled).as_bytes());
        assert!(response.starts_with("HTTP/1.1 400 "), "{body:?}: {response}");
        assert!(!response.contains("\nHTTP/1.1 "), "{body:?}: {response}");
    }
    plane.assert_idle();
}

#[test]
fn a_client_that_waits_for_a_100_gets_it_when_its_body_is_wanted() {
    let engine = echo();
    let plane = Plane::builder().engines(&[&engine]).start();
    let expecting =
        request_with(&format!("Expect: 100-continue\r\nContent-Length: {}", BODY.len()), "");
    let mut client = plane.connect();
    client.write(expecting.as_bytes());
    assert_eq!(client.head(), "HTTP/1.1 100 Continue\r\n\r\n");
    client.write(BODY.as_bytes());
    assert_eq!(client.response().body, BODY.as_bytes());
    // Whose body is there already gets none.
    client.write(format!("{expecting}{BODY}").as_bytes());
    assert_eq!(client.response().status, 200);
    // Nor does one whose request is rejected by its head; the rest of it is not waited for.
    let mut client = plane.connect();
    client.write(expecting.replace("secret", "wrong").as_bytes());
    let head = client.head();
    assert!(head.starts_with("HTTP/1.1 401 ") && head.contains("connection: close"), "{head}");
    // HTTP/1.0 knows no 100.
    let mut client = plane.connect();
    client.write(format!("{}{BODY}", expecting.replace("HTTP/1.1", "HTTP/1.0")).as_bytes());
    assert!(client.head().starts_with("HTTP/1.1 200 "));
}

#[test]
fn a_client_that_expects_what_is_not_known_is_told_so_before_it_sends_its_body() {
    let engine = echo();
    let plane = Plane::builder().engines(&[&engine]).start();
    let head = |expectation: &str| {
        request_with(&format!("Expect: {expectation}\r\nContent-Length: {}", BODY.len()), "")
    };
    for expectation in
        ["200-ok", "100-continue, 200-ok", "100-continue;x=1", "200-ok\r\nExpect: 100-continue"]
    {
        let mut client = plane.connect();
        client.write(head(expectation).as_bytes());
        let answer = String::from_utf8(client.read_to_end()).unwrap();
        assert!(answer.starts_with("HTTP/1.1 417 "), "{expectation}: {answer}");
        assert!(answer.contains("connection: close"), "{answer}");
        assert!(
            answer.contains("invalid_request_error") && answer.contains("100-continue"),
            "{answer}"
        );
        assert!(!answer.contains("HTTP/1.1 100"), "{answer}");
    }
    let messages = head("200-ok").replace("/v1/completions", "/v1/messages");
    let mut client = plane.connect();
    client.write(messages.as_bytes());
    assert!(String::from_utf8(client.read_to_end()).unwrap().contains("\"type\":\"error\""));
    assert_eq!(engine.connections(), 0);
    for known in ["100-Continue", "100-continue, 100-continue", ", 100-continue"] {
        let mut client = plane.connect();
        client.write(head(known).as_bytes());
        assert_eq!(client.head(), "HTTP/1.1 100 Continue\r\n\r\n", "{known}");
        client.write(BODY.as_bytes());
        assert_eq!(client.response().status, 200, "{known}");
    }
    // HTTP/1.0 knows no expectations, and an empty one is none.
    for request in [head("200-ok").replace("HTTP/1.1", "HTTP/1.0"), head("")] {
        let mut client = plane.connect();
        client.write(format!("{request}{BODY}").as_bytes());
        assert!(client.head().starts_with("HTTP/1.1 200 "));
    }
    assert!(plane.metrics().contains("code=\"417\"} 5"));
}

#[test]
fn a_rejected_request_whose_body_has_come_keeps_its_connection() {
    let plane = Plane::builder().start();
    let mut client = plane.connect();
    for _ in 0..3 {
        client.write(request(BODY).replace("secret", "wrong").as_bytes());
        let response = client.response();
        assert_eq!((response.status, response.whole), (401, true));
    }
}

#[test]
fn a_head_request_gets_the_length_and_no_body() {
    let plane = Plane::builder().start();
    let mut client = plane.connect();
    client.write(b"HEAD /healthz HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(client.head().contains("content-length: 2\r\n"));
    client.write(HEALTH.as_bytes());
    assert_eq!(client.response().body, b"ok");
}

#[test]
fn every_byte_reaches_a_slow_reader() {
    let engine = echo();
    let plane = Plane::builder().engines(&[&engine]).start();
    let body = format!(r#"{{"model":"m","x":"{}"}}"#, "0123456789".repeat(1_000_000));
    let mut client = plane.connect();
    let mut writer = client.duplicate();
    let sent = request(&body);
    let writing = thread::spawn(move || writer.write_all(sent.as_bytes()).unwrap());
    thread::sleep(Duration::from_millis(300));
    let response = client.response();
    writing.join().unwrap();
    assert!(response.whole && response.body == body.as_bytes());
    client.write(HEALTH.as_bytes());
    assert_eq!(client.response().body, b"ok");
}

#[test]
fn a_cut_response_to_http_1_0_does_not_look_whole() {
    let (go_on, wait) = mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let engine = Engine::start(true, move |_, mut stream| {
        read_request(&mut stream).unwrap();
        let head = "HTTP/1.1 200 OK\r\nContent-Type: audio/mpeg\r\nTransfer-Encoding: chunked\r\n";
        let _ = stream.write_all(&[head.as_bytes(), b"\r\n5\r\nsound\r\n"].concat());
        let _ = wait.lock().unwrap().recv();
    });
    let plane = Plane::builder().engines(&[&engine]).start();
    let mut client = plane.connect();
    client.write(request(BODY).replace("HTTP/1.1", "HTTP/1.0").as_bytes());
    client.until(b"sound");
    go_on.send(()).unwrap();
    assert!(!client.ends_without_a_reset());
}

/// An engine that sends frames without end, and tells when nobody takes them any more.
fn endless() -> (Engine, mpsc::Receiver<()>) {
    let (ended, ends) = mpsc::channel();
    let engine = Engine::start(true, move |_, mut stream| {
        read_request(&mut stream).unwrap();
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n";
        let frame = format!("data: {}\n\n", "x".repeat(10_000));
        let mut wrote = stream.write_all(head.as_bytes());
        while wrote.is_ok() {
            wrote = stream.write_all(frame.as_bytes());
        }
        let _ = ended.send(());
    });
    (engine, ends)
}

#[test]
fn a_client_that_takes_no_byte_is_cut_off_and_frees_its_engine() {
    let (engine, ends) = endless();
    let timeouts = json!({"timeouts": {"send": 0.5}});
    let plane = Plane::builder().engines(&[&engine]).with(timeouts).start();
    let mut client = plane.connect();
    client.write(request(r#"{"model":"m","stream":true}"#).as_bytes());
    ends.recv_timeout(PATIENCE).unwrap();
    plane.assert_idle();
    plane.until_connections(0);
    assert!(!client.ends_without_a_reset(), "what it has not taken is discarded");
}

#[test]
fn a_revoked_keys_response_ends_though_its_client_takes_nothing() {
    let (engine, ends) = endless();
    let plane = Plane::builder().engines(&[&engine]).start();
    let mut client = plane.connect();
    client.write(request(r#"{"model":"m","stream":true}"#).as_bytes());
    client.until(b"data: xx");
    // By then nothing moves any more.
    thread::sleep(Duration::from_millis(700));
    plane.revoke_keys();
    ends.recv_timeout(PATIENCE).expect("the engine's work ends");
    plane.assert_idle();
    plane.until_connections(0);
}

#[test]
fn a_client_that_takes_a_little_now_and_then_is_not_cut_off() {
    let (engine, ends) = endless();
    let timeouts = json!({"timeouts": {"send": 3.0}});
    let plane = Plane::builder().engines(&[&engine]).with(timeouts).start();
    let mut client = plane.connect();
    client.write(request(r#"{"model":"m","stream":true}"#).as_bytes());
    let mut room = vec![0; 500_000];
    for _ in 0..20 {
        thread::sleep(Duration::from_millis(200));
        client.read_exact(&mut room);
    }
    drop(client);
    ends.recv_timeout(PATIENCE).unwrap();
}

/// An engine whose every response has this head, and behind it a long stream that has an end.
fn long(head: &'static str) -> Engine {
    Engine::start(true, move |_, mut stream| {
        if head.contains("101") {
            Client::over(stream.duplicate()).head();
        } else {
            read_request(&mut stream).unwrap();
        }
        let frame = format!("data: {}\n\n", "x".repeat(10_000));
        let body = format!("{head}\r\n\r\n{}data: [DONE]\n\n", frame.repeat(60));
        let _ = stream.write_all(body.as_bytes());
    })
}

#[test]
fn a_client_that_reads_slowly_and_steadily_gets_the_whole_of_its_response() {
    let responds = long("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream");
    let switches = long(
        "HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
    );
    let stream = request(r#"{"model":"m","stream":true}"#);
    let upgrade = "GET /v1/realtime?model=m HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer secret\r\n\
        Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let cases =
        [(false, &responds, &*stream), (true, &responds, &*stream), (false, &switches, upgrade)];
    thread::scope(|scope| {
        for (unix, engine, asked) in cases {
            scope.spawn(move || {
                let timeouts = json!({"timeouts": {"send": 1.0}});
                let builder = Plane::builder().engines(&[engine]).listen_unix(unix);
                let plane = builder.with(timeouts).start();
                let mut client = plane.connect();
                client.write(asked.as_bytes());
                // For three times the limit.
                client.read_slowly(1_000, 30);
                client.read_exact(&mut vec![0; 500_000]);
                client.until(b"[DONE]\n\n");
            });
        }
    });
}

#[test]
fn a_page_that_nobody_reads_does_not_hold_its_connection() {
    let plane = Plane::builder().with(json!({"timeouts": {"send": 0.5}})).start();
    let mut client = plane.connect();
    let asked = Instant::now();
    // Far more pages than sockets hold.
    let many = "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n".repeat(1_000);
    while asked.elapsed() < PATIENCE && client.try_write(many.as_bytes()) {}
    plane.until_connections(0);
}

// -- places ----------------------------------------------------------------------------

fn crowded(connections: usize, more: &Value) -> Plane {
    let mut limits = json!({"connections": connections});
    limits.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    Plane::builder().with(json!({"limits": limits})).start()
}

#[test]
fn at_the_budget_the_oldest_connection_without_a_request_gives_way() {
    let plane = crowded(3, &json!({}));
    let ask = |client: &mut Client| {
        client.write(HEALTH.as_bytes());
        assert_eq!(client.response().status, 200);
    };
    let mut clients: Vec<Client> = (0..3).map(|_| plane.connect()).collect();
    clients.iter_mut().for_each(ask);
    // The first has asked again, so the second is the oldest.
    ask(&mut clients[0]);
    let mut fourth = plane.connect();
    ask(&mut fourth);
    assert_eq!(clients[1].read_to_end(), b"");
    ask(&mut clients[0]);
    ask(&mut clients[2]);
    assert!(plane.metrics().contains(r#"connections_closed_total{reason="evicted"} 2"#));
}

#[test]
fn half_a_head_and_an_unread_page_give_way_too() {
    let plane = crowded(2, &json!({}));
    let mut half = plane.connect();
    half.write(b"GET /healthz HTTP/1.1\r\nHo");
    let mut unread = plane.connect();
    let many = "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n".repeat(300);
    for _ in 0..20 {
        unread.write(many.as_bytes());
    }
    thread::sleep(Duration::from_millis(100));
    for _ in 0..4 {
        let mut client = plane.connect();
        client.write(HEALTH.as_bytes());
        assert_eq!(client.response().status, 200);
    }
}

#[test]
fn who_has_shown_a_key_outlasts_strangers_and_his_requests_go_last() {
    let (engine, limits) = (echo(), json!({"limits": {"connections": 4}}));
    let plane = Plane::builder().engines(&[&engine]).with(limits).start();
    let ask = |client: &mut Client| {
        client.write(request(BODY).as_bytes());
        assert_eq!(client.response().status, 200);
    };
    let (mut known, mut trickling) = (plane.connect(), plane.connect());
    ask(&mut known);
    let long = request_with("Content-Length: 1000", BODY);
    trickling.write(long.as_bytes());
    plane.until_running(1);
    for _ in 0..10 {
        let mut stranger = plane.connect();
        stranger.write(HEALTH.as_bytes());
        assert_eq!(stranger.response().status, 200);
        trickling.write(b" ");
    }
    ask(&mut known);
    // Two of these take the places of strangers, and the next one that which idles longest.
    let _idle = [(); 3].map(|()| {
        let mut idle = plane.connect();
        ask(&mut idle);
        idle
    });
    assert_eq!(known.read_to_end(), b"");
    // Three of these take the places of those, and the last one that of the slow request.
    trickling.write(b" ");
    let _busy = [2, 3, 4, 4].map(|running| {
        let mut busy = plane.connect();
        busy.write(long.as_bytes());
        // It is a stranger until its head was read.
        plane.until_running(running);
        busy
    });
    assert_eq!(trickling.read_to_end(), b"");
}

#[test]
fn where_every_place_works_probes_are_answered_and_others_get_a_503() {
    let (go_on, wait) = mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let engine = Engine::start(true, move |_, mut stream| {
        read_request(&mut stream).unwrap();
        let _ = wait.lock().unwrap().recv();
        let _ = stream.write_all(&json_response("{}"));
    });
    let limits = json!({"limits": {"connections": 2}});
    let plane = Plane::builder().engines(&[&engine]).with(limits).start();
    let mut busy: Vec<Client> = (0..2).map(|_| plane.connect()).collect();
    for client in &mut busy {
        client.write(request(BODY).as_bytes());
    }
    plane.until_at_engines(2);
    let mut waiting: Vec<Client> = (0..30).map(|_| plane.connect()).collect();
    for _ in 0..20 {
        let mut probe = plane.connect();
        probe.write(HEALTH.as_bytes());
        assert!(probe.head().contains("connection: close"));
        let mut other = plane.connect();
        other.write(request(BODY).as_bytes());
        let answer = String::from_utf8(other.read_to_end()).unwrap();
        for part in ["HTTP/1.1 503 ", "retry-after: 1", "\"code\":\"server_overloaded\""] {
            assert!(answer.contains(part), "{answer}");
        }
    }
    drop(go_on);
    for client in &mut busy {
        assert_eq!(client.response().status, 200, "no request was given up");
    }
    assert!(waiting.iter_mut().any(|client| client.read_to_end().is_empty()));
}

#[test]
fn one_address_has_its_share_alone() {
    let plane = crowded(100, &json!({"connections_per_address": 2}));
    let mut two: Vec<Client> = (0..2).map(|_| plane.connect()).collect();
    plane.until_connections(2);
    assert_eq!(plane.connect().read_to_end(), b"");
    for client in &mut two {
        client.write(HEALTH.as_bytes());
        assert_eq!(client.response().status, 200);
    }
    two.clear();
    plane.until_connections(0);
    let mut next = plane.connect();
    next.write(HEALTH.as_bytes());
    assert_eq!(next.response().status, 200);
    next.shutdown(Shutdown::Both);
}

#[test]
fn a_trusted_proxy_has_as_many_connections_as_its_clients_need() {
    let limits = json!({"connections": 100, "connections_per_address": 2});
    for (proxy, limited) in [("127.0.0.0/8", false), ("10.0.0.0/8", true)] {
        let settings = json!({"limits": limits, "trusted_proxies": [proxy]});
        let plane = Plane::builder().with(settings).start();
        let mut clients: Vec<Client> = (0..5).map(|_| plane.connect()).collect();
        if limited {
            assert_eq!(clients[4].read_to_end(), b"");
            continue;
        }
        for client in &mut clients {
            client.write(HEALTH.as_bytes());
            assert_eq!(client.response().status, 200);
        }
    }
}

#[test]
fn an_engines_101_that_opens_no_websocket_is_502_and_its_connection_is_closed() {
    const ACCEPT: &str = "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
    const SWITCH: &str = "Connection: upgrade\r\nUpgrade: websocket";
    for (fields, cause) in [
        (format!("{SWITCH}\r\n{ACCEPT}"), None),
        (format!("{SWITCH}\r\n{ACCEPT}\r\nSec-WebSocket-Protocol: a"), None),
        (SWITCH.to_owned(), Some("its Sec-WebSocket-Accept is missing or does not fit the key")),
        (format!("{SWITCH}\r\nSec-WebSocket-Accept: x"), Some("does not fit the key")),
        (ACCEPT.to_owned(), Some("lacks Connection: upgrade with Upgrade: websocket")),
        (format!("Upgrade: websocket\r\n{ACCEPT}"), Some("lacks Connection: upgrade")),
        (format!("Connection: upgrade\r\nUpgrade: h2c\r\n{ACCEPT}"), Some("lacks Connection")),
        (format!("{SWITCH}\r\n{ACCEPT}\r\nContent-Length: 5"), Some("has a Content-Length")),
        (format!("{SWITCH}\r\n{ACCEPT}\r\nTransfer-Encoding: chunked"), Some("has a Content")),
        (format!("{SWITCH}\r\n{ACCEPT}\r\nSec-WebSocket-Protocol: c"), Some("not offered")),
        (format!("{SWITCH}\r\n{ACCEPT}\r\nSec-WebSocket-Extensions: c"), Some("not offered")),
    ] {
        let head = format!("HTTP/1.1 101 Switching Protocols\r\n{fields}\r\n\r\n");
        let (report, closed) = mpsc::channel();
        let engine = Engine::start(true, move |_, mut stream| {
            let (mut read, mut byte) = (Vec::new(), [0]);
            while !read.ends_with(b"\r\n\r\n") {
                stream.read_exact(&mut byte).unwrap();
                read.push(byte[0]);
            }
            stream.write_all(head.as_bytes()).unwrap();
            report.send(stream.read(&mut byte).unwrap_or(0)).unwrap();
        });
        let plane = Plane::builder().engines(&[&engine]).start();
        let mut client = plane.connect();
        client.write(
            b"GET /v1/realtime?model=m HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer secret\r\n\
            Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Protocol: a, b\r\n\
            Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        );
        if let Some(cause) = cause {
            let response = client.response();
            let text = String::from_utf8(response.body).unwrap();
            assert_eq!(response.status, 502, "{fields}");
            assert!(text.contains("opens no WebSocket") && text.contains(cause), "{text}");
            assert_eq!(closed.recv_timeout(PATIENCE).unwrap(), 0, "{fields}");
            plane.assert_idle();
        } else {
            assert!(client.head().starts_with("HTTP/1.1 101 "), "{fields}");
        }
    }
}

#[test]
fn a_tunnels_bytes_behind_the_request_are_the_engines() {
    let engine = Engine::start(true, |_, mut stream| {
        let mut read = Vec::new();
        let mut byte = [0];
        while !read.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte).unwrap();
            read.push(byte[0]);
        }
        let head = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\n\
            Upgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
        stream.write_all(format!("{head}hello").as_bytes()).unwrap();
        let mut early = [0; 5];
        stream.read_exact(&mut early).unwrap();
        stream.write_all(&early).unwrap();
    });
    let plane = Plane::builder().engines(&[&engine]).start();
    let mut client = plane.connect();
    client.write(
        b"GET /v1/realtime?model=m HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer secret\r\n\
        Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\nearly",
    );
    let head = client.head();
    assert!(head.starts_with("HTTP/1.1 101 ") && head.contains("upgrade: websocket"), "{head}");
    assert!(!head.contains("transfer-encoding") && !head.contains("content-length"), "{head}");
    let mut both = [0; 10];
    client.read_exact(&mut both);
    assert_eq!(&both, b"helloearly");
    plane.assert_idle();
}
