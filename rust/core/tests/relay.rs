//! The whole data plane over real sockets: a raw client, a scripted engine, and what each sees of
//! the other.

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
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use harness::{
    Engine, PATIENCE, Plane, chunk, events, json_response, read_request, request, request_with,
};
use sans_io::test_support;
use serde_json::json;

const DONE: &str = "data: [DONE]\n\n";
const STREAM_HEAD: &str =
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
const BODY: &str = r#"{"model":"m","stream":true}"#;

/// An engine that responds to every request, on every connection, with the request's own body.
fn echo(unix: bool) -> Engine {
    Engine::start(unix, |_, mut stream| {
        while let Some(request) = read_request(&mut stream) {
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", request.body.len());
            if stream.write_all(&[head.as_bytes(), &request.body].concat()).is_err() {
                return;
            }
        }
    })
}

#[test]
fn a_body_passes_byte_by_byte_over_tcp_and_unix_in_any_framing() {
    for unix in [false, true] {
        let engine = echo(unix);
        let plane = Plane::builder().engines(&[&engine]).listen_unix(unix).start();
        let mut client = plane.connect();
        for size in [0, 1, 70_000, 3_000_000] {
            let body =
                format!(r#"{{"prompt":"{}","model":"m"}}"#, "é\\n\u{1F600} ".repeat(size / 10));
            client.write(request(&body).as_bytes());
            let response = client.response();
            assert_eq!((response.status, response.whole), (200, true));
            assert!(
                response.body == body.as_bytes(),
                "{size} bytes over unix={unix} came back as they were sent"
            );

            client.write(
                b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer \
                secret\r\nTransfer-Encoding: chunked\r\n\r\n",
            );
            for piece in body.as_bytes().chunks(9_999) {
                client.write(&chunk(piece));
            }
            client.write(b"0\r\nX-Trailer: x\r\n\r\n");
            let response = client.response();
            assert_eq!((response.status, response.whole), (200, true));
            assert!(response.body == body.as_bytes(), "{size} bytes in chunks over unix={unix}");
        }
        plane.assert_idle();
    }
}

#[test]
fn only_whole_frames_pass_at_any_split_of_what_the_engine_writes() {
    let stream =
        format!("data: {{\"model\":\"m\",\"n\":1}}\r\n\r\nevent: x\ndata: é\n\ndata: 2\n\n{DONE}");
    let written = stream.clone();
    // Each request gets its frames cut at another place, the cut in the middle of a pause.
    let engine = Engine::start(false, move |_, mut engine| {
        while let Some(request) = read_request(&mut engine) {
            let cut = request.number("\"seed\":").min(written.len());
            engine.write_all(STREAM_HEAD.as_bytes()).unwrap();
            for part in [&written.as_bytes()[..cut], &written.as_bytes()[cut..]] {
                if !part.is_empty() {
                    engine.write_all(&chunk(part)).unwrap();
                    thread::sleep(Duration::from_millis(3));
                }
            }
            engine.write_all(b"0\r\n\r\n").unwrap();
        }
    });
    let plane = Plane::builder().engines(&[&engine]).start();
    let mut client = plane.connect();
    for cut in 0..=stream.len() {
        client.write(request(&format!(r#"{{"model":"m","stream":true,"seed":{cut}}}"#)).as_bytes());
        let response = client.response();
        assert!(response.whole);
        assert_eq!(String::from_utf8_lossy(&response.body), stream, "cut at {cut}");
        for piece in &response.chunks {
            assert!(
                piece.ends_with(b"\n\n") || piece.ends_with(b"\r\n\r\n"),
                "cut at {cut}: {piece:?}"
            );
        }
    }
    plane.assert_idle();
}

/// An engine that reads a request, responds with `said`, and closes the connection.
fn dying(said: &'static [u8]) -> Engine {
    Engine::start(true, move |_, mut stream| {
        if read_request(&mut stream).is_some() {
            let _ = stream.write_all(said);
        }
    })
}

#[test]
fn a_death_before_the_first_frame_goes_to_the_other_replica() {
    for said in
        [&b""[..], b"HTTP/1.1 200 OK\r\nContent-Type: text/event-st", STREAM_HEAD.as_bytes()]
    {
        let (bad, good) = (dying(said), echo(true));
        let plane = Plane::builder().engines(&[&bad, &good]).start();
        let ask = || {
            let response = plane.ask(BODY);
            assert_eq!(
                (response.status, response.whole, &*response.body),
                (200, true, BODY.as_bytes())
            );
            bad.connections() > 0
        };
        // One of two is chosen, so this fails once in 10^18 times.
        assert!((0..60).any(|_| ask()), "the test has seen a death");
        plane.assert_idle();
    }
}

#[test]
fn a_death_in_the_middle_of_a_stream_ends_it_with_an_error_event_and_no_end_mark() {
    let engine = Engine::start(true, |_, mut stream| {
        read_request(&mut stream).unwrap();
        stream.write_all(STREAM_HEAD.as_bytes()).unwrap();
        stream.write_all(&chunk(b"data: 1\n\ndata: {\"unfin")).unwrap();
    });
    let plane = Plane::builder().engines(&[&engine]).start();
    let mut client = plane.connect();
    client.write(request(BODY).as_bytes());
    let response = client.response();
    assert!(response.whole, "the last chunk is there");
    let frames = events(&response.body);
    assert_eq!((frames.len(), &*frames[0]), (2, "data: 1"));
    assert!(frames[1].starts_with("data: {\"error\":{"), "{frames:?}");
    assert_eq!(client.read_to_end(), b"", "and the connection ends");
    plane.assert_idle();
    assert!(
        plane.events_in(Duration::ZERO).contains("instance_failed"),
        "and the control plane knows"
    );
    assert!(plane.metrics().contains("upstream_errors_total{kind=\"died\"} 1"));
}

#[test]
fn a_whole_response_that_breaks_off_breaks_its_framing_while_the_client_still_listens() {
    for head in ["Content-Length: 9", "Transfer-Encoding: chunked"] {
        let (closed, wait) = mpsc::channel::<()>();
        let engine = Engine::start(true, move |_, mut stream| {
            read_request(&mut stream).unwrap();
            let body = if head.starts_with('T') { "2\r\n{}\r\n" } else { "{}" };
            write!(stream, "HTTP/1.1 200 OK\r\n{head}\r\n\r\n{body}").unwrap();
            thread::sleep(Duration::from_millis(20));
            drop(stream);
            let _ = closed.send(());
        });
        let plane = Plane::builder().engines(&[&engine]).start();
        let mut client = plane.connect();
        client.write(request(BODY).as_bytes());
        wait.recv().unwrap();
        let response = client.response();
        assert_eq!(
            (response.status, response.whole, &*response.body),
            (200, false, &b"{}"[..]),
            "{head}"
        );
        assert_eq!(client.read_to_end(), b"", "it has ended, and is not only silent");
    }
}

#[test]
fn a_second_model_behind_the_first_piece_never_reaches_an_engine_whole() {
    let (report, reported) = mpsc::channel();
    let engine = Engine::start(true, move |_, mut stream| {
        let _ = report.send(read_request(&mut stream).is_some());
    });
    // What could be kept for another attempt would reach no engine before it is whole.
    let limits = json!({"limits": {"replay_bytes": 0}});
    let plane = Plane::builder().engines(&[&engine]).with(limits).start();
    let filler = "x".repeat(200_000);
    for (duplicate, chunked) in
        [("model", false), ("model", true), (r"mod\u0065l", false), (r"mod\u0065l", true)]
    {
        let body = format!(r#"{{"model":"m","prompt":"{filler}","{duplicate}":"other"}}"#);
        let mut client = plane.connect();
        let framing = if chunked {
            "Transfer-Encoding: chunked".to_owned()
        } else {
            format!("Content-Length: {}", body.len())
        };
        client.write(request_with(&framing, "").as_bytes());
        for piece in body.as_bytes().chunks(50_000) {
            client.write(&if chunked { chunk(piece) } else { piece.to_vec() });
            thread::sleep(Duration::from_millis(5));
        }
        if chunked {
            client.try_write(b"0\r\n\r\n");
        }
        let response = client.response();
        assert_eq!(
            response.status,
            400,
            "{duplicate} chunked={chunked}: {}",
            String::from_utf8_lossy(&response.body)
        );
        assert!(
            !reported.recv().unwrap(),
            "{duplicate} chunked={chunked}: the engine had a whole request"
        );
    }
    plane.assert_idle();
}

#[test]
fn a_connection_with_bytes_behind_its_response_is_not_used_again() {
    let engine = Engine::start(true, |number, mut stream| {
        let late = format!("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nlate-{number}");
        while read_request(&mut stream).is_some() {
            let _ = stream.write_all(&[&json_response("mine")[..], late.as_bytes()].concat());
        }
    });
    let plane = Plane::builder().engines(&[&engine]).start();
    let mut client = plane.connect();
    for _ in 0..20 {
        client.write(request(BODY).as_bytes());
        assert_eq!(client.response().body, b"mine");
    }
    assert_eq!(engine.connections(), 20);
}

/// An engine whose streams say one frame, then wait for a word, then end.
fn waiting(go_on: mpsc::Receiver<()>) -> Engine {
    let go_on = std::sync::Mutex::new(go_on);
    Engine::start(true, move |_, mut stream| {
        read_request(&mut stream).unwrap();
        stream.write_all(STREAM_HEAD.as_bytes()).unwrap();
        stream.write_all(&chunk(b"data: 1\n\n")).unwrap();
        if go_on.lock().unwrap().recv().is_ok() {
            let _ = stream.write_all(&chunk(DONE.as_bytes()));
            let _ = stream.write_all(b"0\r\n\r\n");
        }
        let _ = stream.read(&mut [0]);
    })
}

#[test]
fn a_drain_lets_a_stream_finish_and_reports_its_end_once() {
    let (go_on, wait) = mpsc::channel();
    let engine = waiting(wait);
    let plane = Plane::builder().engines(&[&engine]).workers(2).start();
    let (mut client, mut idle) = (plane.connect(), plane.connect());
    idle.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(idle.response().status, 200);
    client.write(request(BODY).as_bytes());
    client.until(b"data: 1\n\n");
    plane.plane.drain(Duration::from_secs(60), Duration::ZERO);
    plane.plane.drain(Duration::from_secs(90), Duration::ZERO);
    assert_eq!(idle.read_to_end(), b"", "a kept connection without a request ends at once");
    go_on.send(()).unwrap();
    client.until(DONE.as_bytes());
    assert!(client.read_to_end().ends_with(b"0\r\n\r\n"));
    assert_eq!(plane.drained(), 0);
    assert!(!plane.events_in(Duration::from_millis(50)).contains("drained"), "reported once");
}

#[test]
fn a_drain_cuts_at_its_deadline_and_a_second_one_can_bring_it_nearer() {
    let (_go_on, wait) = mpsc::channel();
    let engine = waiting(wait);
    let plane = Plane::builder().engines(&[&engine]).workers(2).start();
    let mut client = plane.connect();
    client.write(request(BODY).as_bytes());
    client.until(b"data: 1\n\n");
    plane.plane.drain(Duration::from_secs(600), Duration::ZERO);
    plane.plane.drain(Duration::from_millis(50), Duration::ZERO);
    assert_eq!(plane.drained(), 1);
    let rest = String::from_utf8(client.read_to_end()).unwrap();
    assert!(
        rest.contains("(drain_timeout) has passed, or it was told to stop at once. "),
        "{rest}"
    );
    assert!(rest.contains("data: {\"error\"") && !rest.contains("[DONE]"), "{rest}");
    assert!(rest.contains("\"code\":\"server_stopping\""), "{rest}");
    assert!(rest.ends_with("\n\n\r\n0\r\n\r\n"), "the event is its last one: {rest}");
}

#[test]
fn what_a_drain_cuts_inside_a_body_looks_cut_and_what_has_not_begun_gets_a_503() {
    let (reached, at_engine) = mpsc::channel();
    let engine = Engine::start(true, move |_, mut stream| {
        let asked = read_request(&mut stream).unwrap();
        if asked.body.ends_with(b"true}") {
            let begun = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"a\":1";
            stream.write_all(begun).unwrap();
        }
        reached.send(()).unwrap();
        let _ = stream.read(&mut [0]);
    });
    let plane = Plane::builder().engines(&[&engine]).start();
    let (mut streaming, mut waiting, mut unread) =
        (plane.connect(), plane.connect(), plane.connect());
    streaming.write(request(BODY).as_bytes());
    waiting.write(request(r#"{"model":"m"}"#).as_bytes());
    // Half of a body: nobody has asked an engine for it.
    unread.write(request_with("Content-Length: 100", r#"{"model":"#).as_bytes());
    streaming.until(b"{\"a\":1");
    (0..2).for_each(|_| at_engine.recv().unwrap());
    plane.until_running(3);
    plane.plane.drain(Duration::from_millis(50), Duration::ZERO);
    assert_eq!(streaming.read_to_end(), b"", "more bytes would be taken for the engine's");
    for client in [&mut waiting, &mut unread] {
        let response = client.response();
        assert_eq!((response.status, response.whole), (503, true));
        let text = String::from_utf8_lossy(&response.body);
        assert!(text.contains("This server is stopping") && text.contains("server_stopping"));
        assert_eq!(client.read_to_end(), b"");
    }
    assert_eq!(plane.drained(), 3);
}

#[test]
fn a_client_that_reads_nothing_does_not_hold_up_the_end_of_a_drain() {
    let engine = Engine::start(true, |_, mut stream| {
        read_request(&mut stream).unwrap();
        stream.write_all(STREAM_HEAD.as_bytes()).unwrap();
        while stream.write_all(&chunk(&b"data: 1\n\n".repeat(1_000))).is_ok() {}
    });
    let plane = Plane::builder().engines(&[&engine]).start();
    let mut client = plane.connect();
    client.write(request(BODY).as_bytes());
    client.until(b"data: 1\n\n");
    plane.plane.drain(Duration::from_millis(50), Duration::ZERO);
    assert_eq!(plane.drained(), 1);
}

#[test]
fn half_a_head_holds_up_a_drain_for_a_moment_and_a_body_that_comes_slowly_is_waited_for() {
    const HALF: &[u8] = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuth";
    let engine = echo(true);
    let plane = Plane::builder().engines(&[&engine]).start();
    let (mut first, mut second, mut slow) = (plane.connect(), plane.connect(), plane.connect());
    second.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(second.response().status, 200);
    slow.write(request_with("Content-Length: 13", r#"{"model"#).as_bytes());
    plane.until_running(1);
    first.write(HALF);
    second.write(HALF);
    plane.until_connections(3);
    plane.plane.drain(Duration::from_secs(600), Duration::ZERO);
    for client in [&mut first, &mut second] {
        let response = client.response();
        assert_eq!((response.status, response.whole), (503, true));
        assert!(String::from_utf8_lossy(&response.body).contains("server_stopping"));
        assert_eq!(client.read_to_end(), b"");
    }
    slow.write(br#"":"m"}"#);
    assert_eq!((slow.response().status, slow.read_to_end()), (200, vec![]));
    assert_eq!(plane.drained(), 0);
}

#[test]
fn a_request_that_arrives_in_the_moment_of_a_drain_is_served() {
    let engine = echo(true);
    let plane = Plane::builder().engines(&[&engine]).start();
    let mut clients: Vec<_> = (0..20).map(|_| plane.connect()).collect();
    for client in &mut clients {
        client.write(request(BODY).as_bytes());
        assert_eq!(client.response().status, 200);
    }
    for client in &mut clients {
        client.write(request(BODY).as_bytes());
    }
    plane.plane.drain(Duration::from_secs(600), Duration::ZERO);
    for client in &mut clients {
        let response = client.response();
        assert_eq!((response.status, response.whole), (200, true));
    }
    assert_eq!(plane.drained(), 0);
}

#[test]
fn a_connection_that_never_asked_does_not_hold_up_a_drain() {
    let engine = echo(true);
    let plane = Plane::builder().engines(&[&engine]).start();
    let mut silent = plane.connect();
    plane.until_connections(1);
    plane.plane.drain(Duration::from_secs(600), Duration::ZERO);
    assert_eq!(silent.read_to_end(), b"");
    assert_eq!(plane.drained(), 0);
}

/// Sends a whole request before it reads a byte, as many clients do.
fn stubborn(plane: &Plane, head: &str, body: &[u8]) -> harness::Response {
    let mut client = plane.connect();
    client.write(head.as_bytes());
    client.write(body);
    let response = client.response();
    assert!(client.ends_without_a_reset(), "a reset can take the response away before it is read");
    response
}

#[test]
fn a_rejection_reaches_a_client_that_still_sends_its_body() {
    let engine = echo(true);
    let plane = Plane::builder().engines(&[&engine]).start();
    let body = format!(r#"{{"model":"nobody","prompt":"{}"}}"#, "x".repeat(8_000_000));
    let length = format!("Content-Length: {}", body.len());
    let head = request_with(&length, "").replace("Bearer secret", "Bearer wrong");
    for (head, status) in [(head, 401), (request_with(&length, ""), 404)] {
        assert_eq!(stubborn(&plane, &head, body.as_bytes()).status, status);
    }
}

#[test]
fn an_engines_early_response_reaches_a_client_that_still_sends_its_body() {
    let engine = Engine::start(false, |_, mut stream| {
        let _ = stream.read(&mut [0; 1024]);
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 3\r\n\r\nno!");
    });
    let plane = Plane::builder().engines(&[&engine]).start();
    let body = format!(r#"{{"model":"m","prompt":"{}"}}"#, "x".repeat(8_000_000));
    let response = stubborn(
        &plane,
        &request_with(&format!("Content-Length: {}", body.len()), ""),
        body.as_bytes(),
    );
    let error: serde_json::Value = serde_json::from_slice(&response.body).unwrap();
    assert_eq!((response.status, error["error"]["message"].as_str()), (400, Some("no!")));
}

#[test]
fn a_retry_goes_by_the_table_of_now() {
    let (report, reported) = mpsc::channel();
    let (die, wait) = mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let old = Engine::start(true, move |_, mut stream| {
        read_request(&mut stream).unwrap();
        report.send(()).unwrap();
        let _ = wait.lock().unwrap().recv();
    });
    let new = echo(true);
    let plane = Plane::builder().engines(&[&old]).start();
    let mut client = plane.connect();
    client.write(request(BODY).as_bytes());
    reported.recv().unwrap();
    plane.publish(&[&new], "m");
    die.send(()).unwrap();
    assert_eq!(client.response().status, 200, "an instance runs");
}

#[test]
fn a_body_too_big_to_be_sent_twice_is_not_tried_on_a_connection_that_may_be_stale() {
    // Ends each connection at the start of the second request on it, as an engine whose idle time
    // is over would.
    let engine = Engine::start(true, |_, mut stream| {
        if read_request(&mut stream).is_some() {
            let _ = stream.write_all(&json_response("ok"));
            let _ = stream.read(&mut [0]);
        }
    });
    let plane = Plane::builder()
        .engines(&[&engine])
        .with(json!({"limits": {"max_body_bytes": 9_000_000, "replay_bytes": 1000, "max_nesting": 9}}))
        .start();
    let big = format!(r#"{{"model":"m","prompt":"{}"}}"#, "x".repeat(100_000));
    for body in [BODY, &big, BODY, &big] {
        assert_eq!(plane.ask(body).status, 200);
    }
}

#[test]
fn an_endless_length_that_a_longer_name_would_overflow_is_no_panic() {
    let engine = Engine::start(true, |_, mut stream| {
        read_request(&mut stream).unwrap();
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: \
            18446744073709551615\r\n\r\n";
        stream.write_all(format!("{head}{{\"model\":\"\",").as_bytes()).unwrap();
        thread::sleep(Duration::from_millis(20));
    });
    let plane = Plane::builder().engines(&[&engine]).served_name("e").start();
    let mut client = plane.connect();
    client.write(request(BODY).as_bytes());
    let response = client.response();
    assert_eq!(
        (response.status, response.whole, &*response.body),
        (200, false, &b"{\"model\":\"m\","[..])
    );
    plane.assert_idle();
}

#[test]
fn a_byte_order_mark_of_an_engine_hides_no_name_of_its_own() {
    const MARK: &str = "\u{feff}";
    const FRAME: &str = "data: {\"model\":\"e\"}\n\n";
    let engine = Engine::start(true, |_, mut stream| {
        while let Some(asked) = read_request(&mut stream) {
            let response = if asked.body.ends_with(b"true}") {
                let frames = [MARK, FRAME, DONE].map(|part| chunk(part.as_bytes())).concat();
                [STREAM_HEAD.as_bytes(), &frames, b"0\r\n\r\n"].concat()
            } else {
                let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\
                    Content-Length: 16\r\n\r\n";
                format!("{head}{MARK}{{\"model\":\"e\"}}").into_bytes()
            };
            stream.write_all(&response).unwrap();
        }
    });
    let plane = Plane::builder().engines(&[&engine]).served_name("e").start();
    let whole = plane.ask(r#"{"model":"m"}"#);
    assert_eq!(String::from_utf8(whole.body).unwrap(), format!("{MARK}{{\"model\":\"m\"}}"));
    let stream = String::from_utf8(plane.ask(BODY).body).unwrap();
    assert_eq!(stream, format!("{MARK}{}{DONE}", FRAME.replace("\"e\"", "\"m\"")));
}

#[test]
fn an_http_1_0_client_gets_no_chunks_and_its_end() {
    let engine = Engine::start(true, |_, mut stream| {
        read_request(&mut stream).unwrap();
        stream.write_all(STREAM_HEAD.as_bytes()).unwrap();
        stream
            .write_all(
                &[chunk(b"data: 1\n\n"), chunk(DONE.as_bytes()), b"0\r\n\r\n".to_vec()].concat(),
            )
            .unwrap();
    });
    let plane = Plane::builder().engines(&[&engine]).start();
    let mut client = plane.connect();
    client.write(request(BODY).replace("HTTP/1.1", "HTTP/1.0").as_bytes());
    let said = String::from_utf8(client.read_to_end()).unwrap();
    let (head, body) = said.split_once("\r\n\r\n").unwrap();
    assert!(!head.to_ascii_lowercase().contains("transfer-encoding"), "{head}");
    assert_eq!(body, format!("data: 1\n\n{DONE}"));
}

#[test]
fn a_client_that_leaves_closes_the_engines_connection_and_gives_its_slot_back() {
    for behind in [&b""[..], b"\r\n", b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"] {
        let (report, reported) = mpsc::channel();
        let engine = Engine::start(true, move |_, mut stream| {
            let _ = report.send(read_request(&mut stream).is_some());
            let _ = report.send(matches!(stream.read(&mut [0]), Ok(0) | Err(_)));
        });
        let plane = Plane::builder().engines(&[&engine]).start();
        let mut client = plane.connect();
        client.write(request(BODY).as_bytes());
        client.write(behind);
        assert!(reported.recv().unwrap(), "the request came");
        drop(client);
        assert!(reported.recv_timeout(PATIENCE).unwrap(), "its connection ended");
        plane.assert_idle();
    }
}

#[test]
fn pipelined_requests_are_served_in_turn_and_a_half_closed_client_counts_as_gone() {
    let engine = echo(true);
    let plane = Plane::builder().engines(&[&engine]).start();
    let bodies = [r#"{"model":"m","n":1}"#, r#"{"model":"m","n":22}"#, r#"{"model":"m","n":333}"#];
    let mut client = plane.connect();
    client.write(bodies.map(request).concat().as_bytes());
    for body in bodies {
        assert_eq!(client.response().body, body.as_bytes());
    }
    client.shutdown(Shutdown::Write);
    assert_eq!(client.read_to_end(), b"");
    plane.assert_idle();
}

#[test]
fn a_request_that_ends_every_engine_is_given_to_two_at_most() {
    let deliveries = Arc::new(AtomicUsize::new(0));
    let engines: Vec<Engine> = (0..3)
        .map(|_| {
            let deliveries = Arc::clone(&deliveries);
            Engine::start(true, move |_, mut stream| {
                while let Some(request) = read_request(&mut stream) {
                    if request.body.len() > 100 {
                        deliveries.fetch_add(1, Ordering::SeqCst);
                        return;
                    }
                    if stream.write_all(&json_response("ok")).is_err() {
                        return;
                    }
                }
            })
        })
        .collect();
    let plane = Plane::builder().engines(&engines.iter().collect::<Vec<_>>()).start();
    for _ in 0..20 {
        assert_eq!(plane.ask(BODY).status, 200, "so that every engine has a pooled connection");
    }
    let deadly = format!(r#"{{"model":"m","prompt":"{}"}}"#, "x".repeat(100));
    assert_eq!(plane.ask(&deadly).status, 502);
    assert_eq!(deliveries.load(Ordering::SeqCst), 2);
}

#[test]
fn a_request_with_two_hosts_is_rejected() {
    let engine = echo(true);
    let plane = Plane::builder().engines(&[&engine]).start();
    let mut client = plane.connect();
    client.write(request(BODY).replacen("Host: ", "Host: other\r\nHost: ", 1).as_bytes());
    assert_eq!(client.response().status, 400);
    assert_eq!(engine.connections(), 0);
}

/// An engine that reads a request, says `first`, and then `again` for ever, at short intervals.
fn trickling(first: &'static str, again: &'static [u8]) -> Engine {
    Engine::start(true, move |_, mut stream| {
        read_request(&mut stream).unwrap();
        stream.write_all(first.as_bytes()).unwrap();
        while stream.write_all(again).is_ok() {
            thread::sleep(Duration::from_millis(20));
        }
    })
}

#[test]
fn bytes_that_are_no_whole_frame_do_not_stop_the_first_frame_clock() {
    // Neither fields of a head without an end nor bytes of a frame without one.
    for (first, again) in
        [("HTTP/1.1 200 OK\r\n", &b"x: y\r\n"[..]), (STREAM_HEAD, &b"1\r\nd\r\n"[..])]
    {
        let engine = trickling(first, again);
        let timeouts = json!({"timeouts": {"first_frame": 0.3}});
        let plane = Plane::builder().engines(&[&engine]).with(timeouts).start();
        let response = plane.ask(BODY);
        assert_eq!(response.status, 504, "{first}");
        plane.assert_idle();
    }
}

#[test]
fn a_frame_without_an_end_meets_the_idle_limit() {
    let engine = Engine::start(true, |_, mut stream| {
        read_request(&mut stream).unwrap();
        stream.write_all(STREAM_HEAD.as_bytes()).unwrap();
        stream.write_all(&chunk(b"data: 1\n\n")).unwrap();
        while stream.write_all(&chunk(b"d")).is_ok() {
            thread::sleep(Duration::from_millis(20));
        }
    });
    let timeouts = json!({"timeouts": {"idle": 0.3}});
    let plane = Plane::builder().engines(&[&engine]).with(timeouts).start();
    let response = plane.ask(BODY);
    let frames = events(&response.body);
    assert_eq!(frames[0], "data: 1");
    assert!(frames[1].contains("idle timeout"), "{frames:?}");
    plane.assert_idle();
}

#[test]
fn a_frame_without_an_end_ends_whatever_stream_it_is_in() {
    const MOST: usize = 64 << 20;
    let engine = Engine::start(true, |_, mut stream| {
        let (mut head, mut byte) = (Vec::new(), [0]);
        while !head.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        if head.starts_with(b"POST /v1/responses") {
            let _ = stream.write_all(&json_response(r#"{"id":"resp_1","model":"m"}"#));
            let _ = stream.read(&mut [0; 99]);
            return;
        }
        stream.write_all(STREAM_HEAD.as_bytes()).unwrap();
        stream.write_all(&chunk(b"data: a\n\n")).unwrap();
        let lines = b"data: b\n".repeat(8_000);
        let _ = (0..=2 * MOST / lines.len()).try_for_each(|_| stream.write_all(&chunk(&lines)));
    });
    let plane = Plane::builder().engines(&[&engine]).start();
    let instance = test_support::instance(&engine.address, &engine.address);
    let mut route = test_support::route("m", vec![test_support::target("m", 1)]);
    test_support::change(&mut route, json!({"generic_proxy": true}));
    let model = test_support::model("m", "m", vec![instance]);
    plane
        .plane
        .publish(test_support::table(vec![model], vec![route]).to_string().as_bytes())
        .unwrap();
    let mut client = plane.connect();
    let ask = |method: &str, path: &str, rest: &str| {
        format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer secret\r\n\
             X-GPUStack-Model: m\r\n{rest}"
        )
    };
    let stored = format!("Content-Length: {}\r\n\r\n{BODY}", BODY.len());
    client.write(ask("POST", "/v1/responses", &stored).as_bytes());
    assert_eq!(client.response().status, 200);
    for path in ["/model/proxy/v1/watch", "/v1/responses/resp_1?stream=true"] {
        let mut client = plane.connect();
        client.write(ask("GET", path, "\r\n").as_bytes());
        let response = client.response();
        assert_eq!((response.status, response.whole), (200, false), "{path}");
        let length = response.body.len();
        assert!(length.abs_diff(MOST) < 1 << 20, "{path}: {length}");
    }
    plane.assert_idle();
}

#[test]
fn an_engine_may_send_some_interim_heads_and_not_without_end() {
    const INTERIM: &str = "HTTP/1.1 102 Processing\r\n\r\n";
    let engine = Engine::start(true, |_, mut stream| {
        while let Some(request) = read_request(&mut stream) {
            let interim = INTERIM.repeat(request.number("\"seed\":"));
            stream.write_all(interim.as_bytes()).unwrap();
            stream.write_all(&json_response("{}")).unwrap();
        }
    });
    let plane = Plane::builder().engines(&[&engine]).start();
    assert_eq!(plane.ask(r#"{"model":"m","seed":8}"#).status, 200);
    let refused = plane.ask(r#"{"model":"m","seed":9}"#);
    assert_eq!(refused.status, 502);
    assert!(String::from_utf8_lossy(&refused.body).contains("more than 8 interim"));

    let endless = trickling("", INTERIM.as_bytes());
    let plane = Plane::builder().engines(&[&endless]).start();
    assert_eq!(plane.ask(BODY).status, 502);
    plane.assert_idle();
}

#[test]
fn a_response_that_breaks_http_is_a_502_and_none_of_it_reaches_the_client() {
    const HEADS: [&str; 6] = [
        "HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
        "HTTP/1.1 200 OK\r\nX: y\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 103 Early Hints\n\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 999 Odd\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 600 Odd\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 099 Odd\r\nContent-Length: 2\r\n\r\nok",
    ];
    let engine = Engine::start(true, |_, mut stream| {
        let request = read_request(&mut stream).unwrap();
        stream.write_all(HEADS[request.number("\"seed\":")].as_bytes()).unwrap();
        let _ = stream.read(&mut [0]);
    });
    let plane = Plane::builder().engines(&[&engine]).start();
    for (number, head) in HEADS.iter().enumerate() {
        let response = plane.ask(&format!(r#"{{"model":"m","seed":{number}}}"#));
        let body = String::from_utf8_lossy(&response.body).into_owned();
        let cause = if head.contains("Odd") { "100 to 599" } else { "LF alone" };
        assert_eq!(response.status, 502, "{head:?}: {body}");
        assert!(body.contains(cause), "{head:?}: {body}");
    }
    plane.assert_idle();
}

#[test]
fn a_slow_client_holds_no_engine_before_its_body_is_whole_or_large() {
    let (began, begins) = mpsc::channel();
    let engine = Engine::start(true, move |_, mut stream| {
        began.send(()).unwrap();
        read_request(&mut stream).unwrap();
        let _ = stream.write_all(&json_response("{}"));
    });
    let limits = json!({"limits": {"replay_bytes": 100_000}});
    let plane = Plane::builder().engines(&[&engine]).with(limits).start();
    for (field, size, at_once) in [
        ("Content-Length: 100000", 100_000, false),
        ("Transfer-Encoding: chunked", 100_000, false),
        ("Content-Length: 300000", 300_000, true),
        ("Transfer-Encoding: chunked", 300_000, true),
    ] {
        let body = format!(r#"{{"model":"m","prompt":"{}"}}"#, "x".repeat(size - 25));
        assert_eq!(body.len(), size);
        let mut client = plane.connect();
        client.write(request_with(field, "").as_bytes());
        let chunked = field.starts_with('T');
        let framed = |part: &str| if chunked { chunk(part.as_bytes()) } else { part.into() };
        let (most, rest) = body.split_at(size * 9 / 10);
        client.write(&framed(most));
        if at_once {
            begins.recv_timeout(PATIENCE).expect("the engine is given the begin");
        } else {
            assert!(begins.recv_timeout(Duration::from_millis(200)).is_err(), "{field} {size}");
        }
        client.write(&framed(rest));
        if chunked {
            client.write(b"0\r\n\r\n");
        }
        assert_eq!(client.response().status, 200, "{field} {size}");
        if !at_once {
            begins.recv().unwrap();
        }
    }
    plane.assert_idle();
}

#[test]
fn a_body_below_the_lowest_rate_is_refused_and_one_with_a_pause_is_not() {
    let engine = echo(true);
    let settings = json!({"timeouts": {"body": 2.0}, "limits": {"body_rate": 100_000}});
    let plane = Plane::builder().engines(&[&engine]).with(settings).start();
    let mut slow = plane.connect();
    slow.write(request_with("Content-Length: 900000", r#"{"model":"m","#).as_bytes());
    while slow.try_write(b" ") {
        thread::sleep(Duration::from_millis(20));
        if plane.metrics().contains("code=\"408\"} 1") {
            break;
        }
    }
    let response = slow.response();
    assert_eq!(response.status, 408);
    assert!(String::from_utf8_lossy(&response.body).contains("limits.body_rate"));

    let mut resting = plane.connect();
    let (begin, rest) = BODY.split_at(9);
    resting.write(request_with(&format!("Content-Length: {}", BODY.len()), begin).as_bytes());
    thread::sleep(Duration::from_millis(200));
    resting.write(rest.as_bytes());
    assert_eq!(resting.response().status, 200);
    plane.assert_idle();
}

#[test]
fn a_client_that_shows_its_key_late_draws_on_the_memory_for_those_with_a_key() {
    let engine = Engine::start(true, |_, mut stream| {
        read_request(&mut stream).unwrap();
        let long = vec![b'x'; 20_000_000];
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", long.len());
        let _ = stream.write_all(&[head.as_bytes(), &long].concat());
    });
    // Callers without a key have one step of 64 KB together.
    let settings = json!({"limits": {"total_memory_bytes": 512 << 10}});
    let plane = Plane::builder().engines(&[&engine]).with(settings).start();
    let mut client = plane.connect();
    let pages = 600;
    client.write(&b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(pages));
    plane.until_page("gpustack_fast_held_bytes{place=\"memory\"} 65536\n");
    for _ in 0..pages {
        assert_eq!(client.response().status, 200);
    }
    plane.until_page("gpustack_fast_held_bytes{place=\"memory\"} 0\n");
    client.write(request(BODY).as_bytes());
    client.write(&b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n".repeat(2_000));
    let most = || held(&plane, "memory") >= 2 * 65_536;
    let pause = || thread::sleep(Duration::from_millis(5));
    assert!((0..PATIENCE.as_millis() / 5).any(|_| most() || {
        pause();
        false
    }));
}

/// The begin of a body whose model does not come, of this size.
fn without_model(size: usize) -> String {
    let begin = format!("{{\"x\":\"{}", " ".repeat(size));
    request_with(&format!("Content-Length: {}", size * 2), &begin)
}

/// The bytes that requests hold in one place.
fn held(plane: &Plane, kind: &str) -> usize {
    let line = format!("gpustack_fast_held_bytes{{place=\"{kind}\"}} ");
    let page = plane.metrics();
    page.split_once(&line).unwrap().1.lines().next().unwrap().parse().unwrap()
}

#[test]
fn waiting_bodies_are_bounded_in_sum_in_memory_and_in_files() {
    const SIZE: usize = 3_000_000;
    for (limits, named) in [
        (json!({"total_memory_bytes": 4 << 20, "memory_bytes": 4 << 20}), "total_memory_bytes"),
        (json!({"spool_bytes": 7 << 20, "memory_bytes": 65_536}), "spool_bytes"),
    ] {
        let engine = echo(true);
        let mut changes = json!({"limits": limits});
        changes["limits"]["replay_bytes"] = 0.into();
        let plane = Plane::builder().engines(&[&engine]).with(changes).start();
        let mut first = plane.connect();
        first.write(without_model(SIZE).as_bytes());
        // Else the second could be the one that has room.
        let kind = if named == "spool_bytes" { "spool" } else { "memory" };
        let holds = (0..9_000).any(|_| {
            thread::sleep(Duration::from_millis(5));
            held(&plane, kind) >= SIZE / 2
        });
        assert!(holds, "the first is held in {kind}");
        let mut second = plane.connect();
        second.try_write(without_model(5_000_000).as_bytes());
        let refused = second.response();
        assert_eq!(refused.status, 503, "{named}");
        let text = String::from_utf8_lossy(&refused.body).into_owned();
        assert!(text.contains(named) && text.contains("server_overloaded"), "{text}");
        // An ordinary request needs no room, and what a client held comes back when it leaves.
        assert_eq!(plane.ask(BODY).status, 200);
        drop(first);
        plane.assert_idle();
        let mut third = plane.connect();
        third.write(without_model(SIZE).as_bytes());
        let rest = format!("{}\",\"model\":\"m\"}}", " ".repeat(SIZE - 20));
        third.write(rest.as_bytes());
        assert_eq!(third.response().status, 200, "{named}");
    }
}

#[test]
fn long_heads_are_bounded_in_sum() {
    let engine = echo(true);
    // Room for four heads: each takes a whole step of 64 KB.
    let limits = json!({"total_memory_bytes": 4 << 16, "memory_bytes": 65_536});
    let plane = Plane::builder().engines(&[&engine]).with(json!({"limits": limits})).start();
    let long = |length: usize, body: &str| {
        request_with(&format!("X-Long: {}\r\nContent-Length: {length}", "x".repeat(40_000)), body)
    };
    let mut clients: Vec<_> = (0..4).map(|_| plane.connect()).collect();
    for client in &mut clients {
        client.write(long(BODY.len(), "").as_bytes());
    }
    let holds = (0..9_000).any(|_| {
        thread::sleep(Duration::from_millis(5));
        held(&plane, "memory") == 4 << 16
    });
    assert!(holds, "each head is counted");
    let mut refused = plane.connect();
    refused.write(long(BODY.len(), BODY).as_bytes());
    let refused = refused.response();
    assert_eq!(refused.status, 503);
    assert!(String::from_utf8_lossy(&refused.body).contains("limits.total_memory_bytes"));
    // An ordinary head needs no room, and what a head takes comes back.
    assert_eq!(plane.ask(BODY).status, 200);
    for mut client in clients {
        client.write(BODY.as_bytes());
        assert_eq!(client.response().status, 200);
    }
    plane.assert_idle();
    assert_eq!(held(&plane, "memory"), 0);
}

#[test]
fn what_would_take_too_much_to_translate_is_refused_in_the_clients_dialect() {
    let tiny = |item: &str, count: usize| vec![item; count].join(",");
    // An engine that answers a request for a ranking with very many values.
    let answer = format!("[{}]", tiny("{}", 2_200_000));
    let engine = Engine::start(true, move |_, mut stream| {
        while read_request(&mut stream).is_some() {
            if stream.write_all(&json_response(&answer)).is_err() {
                return;
            }
        }
    });
    let plane = Plane::builder().engines(&[&engine]).start();
    let ask = |path: &str, body: &str| {
        let mut client = plane.connect();
        client.write(request(body).replace("/v1/completions", path).as_bytes());
        let response = client.response();
        (response.status, String::from_utf8(response.body).unwrap())
    };
    let documents =
        |count| format!(r#"{{"model":"m","query":"a","documents":[{}]}}"#, tiny(r#""""#, count));
    let (status, text) = ask("/v1/rerank", &documents(2_500_000));
    assert_eq!(status, 413, "{text}");
    assert!(text.contains("more than 268435456 bytes of memory"), "{text}");
    let blocks = tiny(r#"{"type":"text","text":""}"#, 500_000);
    let message = format!(
        r#"{{"model":"m","max_tokens":1,"messages":[{{"role":"user","content":[{blocks}]}}]}}"#
    );
    let (status, text) = ask("/v1/messages", &message);
    assert_eq!(status, 413, "{text}");
    assert!(text.contains(r#""type":"request_too_large""#), "{text}");
    let (status, text) = ask("/v1/rerank", &documents(1));
    assert_eq!(status, 502, "{text}");
    assert!(text.contains("268435456 bytes of memory"), "{text}");
    plane.assert_idle();
    let page = plane.metrics();
    assert!(page.contains("gpustack_fast_held_bytes{place=\"memory\"} 0"), "{page}");
}

/// A Messages request of this many bytes and a little more, which is translated for the engine.
fn message(size: usize, max_tokens: u32) -> String {
    let body = format!(
        r#"{{"model":"m","max_tokens":{max_tokens},"messages":[{{"role":"user","content":"{}"}}]}}"#,
        "x".repeat(size)
    );
    request(&body).replace("/v1/completions", "/v1/messages")
}

#[test]
fn what_is_translated_and_collected_is_bounded_in_sum() {
    // An engine whose answer is as long as the request's `max_tokens` in hundreds of KB.
    let engine = Engine::start(true, |_, mut stream| {
        while let Some(request) = read_request(&mut stream) {
            let text = "y".repeat(request.number("\"max_tokens\":") * 100_000);
            let answer = json!({"id": "c", "object": "chat.completion", "model": "m", "choices": [
                {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
            ]});
            if stream.write_all(&json_response(&answer.to_string())).is_err() {
                return;
            }
        }
    });
    let limits = json!({"limits": {"total_memory_bytes": 3 << 20}});
    let plane = Plane::builder().engines(&[&engine]).with(limits).start();
    let ask = |size: usize, tokens: u32| {
        let mut client = plane.connect();
        let request = message(size, tokens);
        client.write(request.as_bytes());
        let response = client.response();
        (response.status, String::from_utf8(response.body).unwrap())
    };
    assert_eq!(ask(1_000_000, 1).0, 200, "twice the request is not too much");
    assert_eq!(ask(1_000, 9).0, 200, "nor twice the answer");
    let (status, text) = ask(1_000, 18);
    assert_eq!(status, 503);
    assert!(text.contains("limits.total_memory_bytes"), "{text}");
    let (status, text) = ask(2_000_000, 1);
    assert_eq!(status, 413, "it never finds so much: {text}");
    assert!(text.contains(r#""type":"request_too_large""#), "{text}");
    assert!(text.contains("more than 3145728 bytes of memory"), "{text}");
    plane.assert_idle();
    let page = plane.metrics();
    assert!(page.contains("gpustack_fast_held_bytes{place=\"memory\"} 0"), "{page}");
}

#[test]
fn what_a_translated_frame_becomes_is_bounded_in_sum() {
    // An engine whose stream has a frame of as many thousand values as the request's `max_tokens`.
    let engine = Engine::start(true, |_, mut stream| {
        while let Some(request) = read_request(&mut stream) {
            let values = vec!["1"; request.number("\"max_tokens\":") * 1_000].join(",");
            let choice = r#"{"delta":{"content":"a"},"finish_reason":"stop"}"#;
            let frames = format!("data: {{\"choices\":[{choice},{values}]}}\n\n{DONE}");
            let answer = [STREAM_HEAD.as_bytes(), &chunk(frames.as_bytes()), b"0\r\n\r\n"].concat();
            if stream.write_all(&answer).is_err() {
                return;
            }
        }
    });
    let limits = json!({"limits": {"total_memory_bytes": 3 << 20}});
    let plane = Plane::builder().engines(&[&engine]).with(limits).start();
    let ask = |values: u32| {
        let body = format!(
            r#"{{"model":"m","stream":true,"max_tokens":{values},"messages":[{{"role":"user","content":"a"}}]}}"#
        );
        let mut client = plane.connect();
        client.write(request(&body).replace("/v1/completions", "/v1/messages").as_bytes());
        let response = client.response();
        (response.status, String::from_utf8(response.body).unwrap())
    };
    let (status, text) = ask(20);
    assert!(status == 200 && text.contains("message_stop"), "{text}");
    let (status, text) = ask(200);
    assert!(status == 503 && text.contains("limits.total_memory_bytes"), "{status}: {text}");
    plane.assert_idle();
    assert_eq!(held(&plane, "memory"), 0);
}

#[test]
fn a_translated_response_has_the_form_that_the_client_asked_for() {
    const WHOLE: &str = r#"{"choices":[{"message":{"content":"ab"},"finish_reason":"stop"}]}"#;
    const FRAMES: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"ab\"}}]}\n\n";
    // An engine that sends the form and the type that the request's `max_tokens` says.
    let engine = Engine::start(true, |_, mut stream| {
        while let Some(request) = read_request(&mut stream) {
            let number = request.number("\"max_tokens\":");
            let (is_whole, kind) = (number < 10, number % 10);
            let body = if is_whole { WHOLE.to_owned() } else { format!("{FRAMES}{DONE}") };
            let body = if number == 20 { FRAMES.to_owned() } else { body };
            let kinds = ["text/event-stream", "application/json", "text/plain; charset=utf-8"];
            let kind = kinds.get(kind).map(|kind| format!("Content-Type: {kind}\r\n"));
            let answer = format!(
                "HTTP/1.1 200 OK\r\n{}Content-Length: {}\r\n\r\n{body}",
                kind.unwrap_or_default(),
                body.len()
            );
            if stream.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    });
    let plane = Plane::builder().engines(&[&engine]).start();
    let ask = |number: u32, asked_stream: bool| {
        let body = format!(
            r#"{{"model":"m","stream":{asked_stream},"max_tokens":{number},"messages":[{{"role":"user","content":"a"}}]}}"#
        );
        let mut client = plane.connect();
        client.write(request(&body).replace("/v1/completions", "/v1/messages").as_bytes());
        let response = client.response();
        let kind = response.field("content-type").unwrap_or_default().to_owned();
        (response.status, kind, response.text())
    };
    for number in [0, 1, 2, 3, 10, 11, 12, 13] {
        let (status, kind, text) = ask(number, true);
        assert!(status == 200 && kind.starts_with("text/event-stream"), "{number}: {kind} {text}");
        assert!(text.contains(r#""text":"ab""#) && text.contains("event: message_stop"), "{text}");
        let (status, kind, text) = ask(number, false);
        assert_eq!((status, &*kind), (200, "application/json"), "{number}: {text}");
        assert!(text.contains(r#"[{"type":"text","text":"ab"}]"#), "{text}");
    }
    let (status, kind, text) = ask(20, false);
    assert_eq!((status, &*kind), (502, "application/json"), "cut off: {text}");
    plane.assert_idle();
}

#[test]
fn an_error_in_place_of_a_ranking_keeps_its_words_and_its_status() {
    const SAID: [(&str, u16, &str); 4] = [
        (r#"{"error":{"message":"boom","code":400}}"#, 400, "boom"),
        (r#"{"object":"error","message":"slow","code":429}"#, 429, "slow"),
        (
            r#"{"results":[{"index":0,"score":NaN},{"index":1,"score":0.5}]}"#,
            200,
            r#"[{"index":1,"#,
        ),
        (r#"{"results":"none"}"#, 502, "not a list of ranked documents"),
    ];
    let engine = Engine::start(true, |_, mut stream| {
        while let Some(request) = read_request(&mut stream) {
            let body = SAID[request.number("\"query\":\"")].0;
            let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length:";
            write!(stream, "{head} {}\r\n\r\n{body}", body.len()).unwrap();
        }
    });
    let plane = Plane::builder().engines(&[&engine]).start();
    for (number, (said, status, words)) in SAID.into_iter().enumerate() {
        let body = format!(r#"{{"model":"m","query":"{number}","documents":["a","b"]}}"#);
        let mut client = plane.connect();
        client.write(request(&body).replace("/v1/completions", "/v1/rerank").as_bytes());
        let response = client.response();
        assert_eq!(response.status, status, "{said}");
        assert!(response.text().contains(words), "{said}: {}", response.text());
    }
}

#[test]
fn the_time_that_an_engine_asks_for_reaches_clients_of_every_row() {
    const ERROR: &str = r#"{"error":{"message":"Busy.","code":429}}"#;
    let engine = Engine::start(true, |_, mut stream| {
        while read_request(&mut stream).is_some() {
            let head = "HTTP/1.1 429 Too Many Requests\r\nRetry-After: 7\r\nContent-Length:";
            write!(stream, "{head} {}\r\n\r\n{ERROR}", ERROR.len()).unwrap();
        }
    });
    let plane = Plane::builder().engines(&[&engine]).start();
    for path in ["/v1/chat/completions", "/v1/messages", "/v1/rerank", "/v1/responses"] {
        for stream in ["true", "false"] {
            let body = format!(
                r#"{{"model":"m","stream":{stream},"max_tokens":1,"query":"q","documents":["a"],"messages":[{{"role":"user","content":"a"}}]}}"#
            );
            let mut client = plane.connect();
            client.write(request(&body).replace("/v1/completions", path).as_bytes());
            let response = client.response();
            assert_eq!(
                (response.status, response.field("retry-after")),
                (429, Some("7")),
                "{path}"
            );
        }
    }
}
