//! With `sse_keep_alive` a stream begins before its engine has responded: comments pass, and whatever
//! comes of the request comes behind them.

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
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use harness::{Client, Engine, PATIENCE, Plane, PlaneBuilder, chunk, read_request, request};
use serde_json::{Value, json};

const BODY: &str = r#"{"model":"m","stream":true}"#;
const COMMENT: &str = ": keep-alive\n\n";
const DONE: &str = "data: [DONE]\n\n";
const STREAM_HEAD: &str =
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
const ONE_COMMENT: &[u8] = COMMENT.as_bytes();

/// An engine that does this once it is told to, for each request of a connection.
fn told(
    wait: mpsc::Receiver<()>,
    says: impl Fn(&mut harness::Stream) + Send + Sync + 'static,
) -> Engine {
    let wait = Mutex::new(wait);
    Engine::start(true, move |_, mut stream| {
        while read_request(&mut stream).is_some() {
            if wait.lock().unwrap().recv().is_ok() {
                says(&mut stream);
            }
        }
    })
}

fn stream(to: &mut harness::Stream) {
    to.write_all(STREAM_HEAD.as_bytes()).unwrap();
    to.write_all(&chunk(b"data: 1\n\n")).unwrap();
    to.write_all(&chunk(DONE.as_bytes())).unwrap();
    to.write_all(b"0\r\n\r\n").unwrap();
}

fn status(to: &mut harness::Stream, status: &str, body: &str) {
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    to.write_all(head.as_bytes()).unwrap();
}

fn chatty() -> PlaneBuilder {
    Plane::builder().with(json!({"response_extras": {"sse_keep_alive": 0.05}}))
}

/// A client whose request has its head and two comments.
fn begun(plane: &Plane, request: &str) -> Client {
    let mut client = plane.connect();
    client.write(request.as_bytes());
    let head = client.head().to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 200 "), "{head}");
    for field in ["text/event-stream", "x-request-id: ", "cache-control: no-cache", "nosniff"] {
        assert!(head.contains(field), "{field}: {head}");
    }
    (0..2).for_each(|_| client.until(ONE_COMMENT));
    client
}

/// What follows, without the comments. It must end in order.
fn rest(client: &mut Client) -> String {
    let text = String::from_utf8(client.until_last_chunk().concat()).unwrap();
    text.replace(COMMENT, "")
}

/// The only event, as a document.
fn only_event(text: &str) -> Value {
    let data = text.strip_prefix("event: error\n").unwrap_or(text).strip_prefix("data: ").unwrap();
    let (document, behind) = data.split_once("\n\n").unwrap();
    assert_eq!(behind, "");
    serde_json::from_str(document).unwrap()
}

#[test]
fn comments_pass_until_the_engine_begins_and_its_stream_follows() {
    let (go, wait) = mpsc::channel();
    let engine = told(wait, stream);
    let plane = chatty().engines(&[&engine]).start();
    let mut client = begun(&plane, &request(BODY));
    go.send(()).unwrap();
    assert_eq!(rest(&mut client), format!("data: 1\n\n{DONE}"));
    // The connection is good for another one.
    client.write(request(BODY).as_bytes());
    go.send(()).unwrap();
    client.until(DONE.as_bytes());
    plane.assert_idle();
    let record = &plane.poll()["records"][0];
    assert_eq!(
        (&record[6], &record[7], &record[15], &record[16]),
        (&json!(200), &json!(1), &json!(true), &json!("done"))
    );
}

#[test]
fn another_instance_is_tried_behind_the_head() {
    // vLLM and llama.cpp send their head before they have read the prompt, others behind it.
    // A router's own comments are no frame either.
    let comment = format!("{STREAM_HEAD}{}", String::from_utf8(chunk(b": ping\n\n")).unwrap());
    for said_before_death in ["", STREAM_HEAD, &comment] {
        // The first request of all kills its engine, whichever that is.
        let deaths = Arc::new(AtomicUsize::new(0));
        let engines = [(); 2].map(|()| {
            let (deaths, said) = (Arc::clone(&deaths), said_before_death.to_owned());
            Engine::start(true, move |_, mut to| {
                if read_request(&mut to).is_none() {
                    return;
                }
                if deaths.fetch_add(1, Ordering::SeqCst) == 0 {
                    to.write_all(said.as_bytes()).unwrap();
                    thread::sleep(Duration::from_millis(300));
                    return;
                }
                stream(&mut to);
            })
        });
        let plane = chatty().engines(&[&engines[0], &engines[1]]).start();
        let mut client = begun(&plane, &request(BODY));
        assert_eq!(rest(&mut client), format!("data: 1\n\n{DONE}"), "{said_before_death}");
        plane.until_page("gpustack_fast_retries_total 1");
    }
}

#[test]
fn an_engines_own_comments_come_with_its_first_frame() {
    let (go, wait) = mpsc::channel();
    let engine = told(wait, |to| {
        to.write_all(STREAM_HEAD.as_bytes()).unwrap();
        to.write_all(&chunk(b": ping\n\n")).unwrap();
        thread::sleep(Duration::from_millis(100));
        to.write_all(&chunk(b": ping\n\n: pong\n\ndata: 1\n\n")).unwrap();
        to.write_all(&chunk(DONE.as_bytes())).unwrap();
        to.write_all(b"0\r\n\r\n").unwrap();
    });
    let plane = chatty().engines(&[&engine]).start();
    let mut client = begun(&plane, &request(BODY));
    go.send(()).unwrap();
    let expected = format!(": ping\n\n: ping\n\n: pong\n\ndata: 1\n\n{DONE}");
    assert_eq!(rest(&mut client), expected);
}

#[test]
fn a_failure_of_the_responses_api_behind_the_head_is_told_in_its_events() {
    let wake = json!({"wake": {"queue": 8, "timeout": 0.4}});
    let plane = chatty().model(wake).start();
    let responses = request(BODY).replacen("/v1/completions", "/v1/responses", 1);
    let text = rest(&mut begun(&plane, &responses));
    let (error, failed) = text.split_once("event: response.failed\ndata: ").unwrap();
    let error = only_event(error);
    assert_eq!((&error["type"], &error["code"]), (&json!("error"), &json!("no_running_instance")));
    let failed: Value = serde_json::from_str(failed.trim_end()).unwrap();
    assert_eq!(failed["response"]["error"]["code"], "no_running_instance");
}

#[test]
fn comments_pass_while_a_model_wakes() {
    let engine = Engine::start(true, |_, mut to| {
        while read_request(&mut to).is_some() {
            stream(&mut to);
        }
    });
    let wake = json!({"wake": {"queue": 8, "timeout": 600.0}});
    let plane = chatty()
        .engines(&[&engine])
        .model(wake.clone())
        .instance(json!({"state": "sleeping"}))
        .start();
    let mut client = begun(&plane, &request(BODY));
    plane.until_waiting(1);
    plane.publish_changed(&[&engine], wake, json!({}));
    assert_eq!(rest(&mut client), format!("data: 1\n\n{DONE}"));
}

#[test]
fn a_failure_behind_the_head_is_an_event_in_the_shape_of_the_api() {
    let plane = || {
        let wake =
            json!({"wake": {"queue": 8, "timeout": 0.4}, "dialects": ["openai", "anthropic"]});
        chatty().model(wake).start()
    };
    let one = plane();
    let mut client = begun(&one, &request(BODY));
    let text = rest(&mut client);
    let said = only_event(&text);
    assert!(said["error"]["code"] == "no_running_instance", "{text}");
    assert_eq!(client.read_to_end(), b"", "the connection ends behind it");
    let one = plane();
    let body = r#"{"model":"m","stream":true,"max_tokens":1,"messages":[]}"#;
    let messages = request(body).replacen("/v1/completions", "/v1/messages", 1);
    let text = rest(&mut begun(&one, &messages));
    assert!(text.starts_with("event: error\n"), "{text}");
    assert_eq!(only_event(&text)["type"], "error");
    let record = &one.poll()["records"][0];
    assert_eq!((&record[6], &record[16]), (&json!(200), &json!("refused")));
}

#[test]
fn an_engines_own_error_behind_the_head_is_an_event_and_so_is_what_is_no_stream() {
    for (said, body, expected) in [
        ("400 Bad Request", r#"{"error":{"message":"too long","code":"x"}}"#, "too long"),
        ("400 Bad Request", "{\"error\":\n{\"message\":\"long\"}}", "long"),
        ("500 Internal Server Error", "<html>", "status 500"),
        ("503 Service Unavailable", "", "status 503"),
        ("200 OK", r#"{"choices":[]}"#, "status 200 and no stream"),
        ("401 Unauthorized", r#"{"error":{"message":"no"}}"#, "this server's own credential"),
    ] {
        let (go, wait) = mpsc::channel();
        let engine = told(wait, move |to| status(to, said, body));
        let plane = chatty().engines(&[&engine]).start();
        let mut client = begun(&plane, &request(BODY));
        go.send(()).unwrap();
        let text = rest(&mut client);
        let message = only_event(&text)["error"]["message"].as_str().unwrap().to_owned();
        assert!(message.contains(expected), "{text}");
        plane.assert_idle();
    }
}

#[test]
fn what_comes_in_time_has_its_own_status() {
    let engine = Engine::start(true, |_, mut to| {
        while read_request(&mut to).is_some() {
            status(&mut to, "400 Bad Request", r#"{"error":{"message":"too long"}}"#);
        }
    });
    let plane = Plane::builder().with(json!({"response_extras": {"sse_keep_alive": 600.0}}));
    let plane = plane.engines(&[&engine]).start();
    assert_eq!(plane.ask(BODY).status, 400);
}

#[test]
fn who_asks_for_no_stream_or_of_an_endpoint_without_one_gets_no_comments() {
    let (go, wait) = mpsc::channel();
    let engine = told(wait, |to| status(to, "200 OK", "{}"));
    let plane = chatty().engines(&[&engine]).start();
    let embeddings = request(BODY).replacen("/v1/completions", "/v1/embeddings", 1);
    let last_counts = request(r#"{"model":"m","stream":true,"stream":false}"#);
    for asked in [request(r#"{"model":"m"}"#), embeddings, last_counts] {
        let mut client = plane.connect();
        client.write(asked.as_bytes());
        plane.until_at_engines(1);
        thread::sleep(Duration::from_millis(200));
        go.send(()).unwrap();
        let response = client.response();
        assert_eq!((response.status, response.text().as_str()), (200, "{}"));
    }
}

#[test]
fn a_client_that_leaves_behind_the_head_stops_the_engine() {
    let (left, seen) = mpsc::channel();
    let left = Mutex::new(left);
    let engine = Engine::start(true, move |_, mut to| {
        read_request(&mut to).unwrap();
        let _ = to.read(&mut [0]);
        left.lock().unwrap().send(()).unwrap();
    });
    let plane = chatty().engines(&[&engine]).start();
    let client = begun(&plane, &request(BODY));
    client.shutdown(Shutdown::Both);
    seen.recv_timeout(PATIENCE).unwrap();
    plane.assert_idle();
    assert_eq!(plane.end_and_tokens().0, "client_gone");
}

#[test]
fn a_revoked_key_and_the_end_of_a_drain_end_it_with_an_event() {
    let hangs = || {
        Engine::start(true, |_, mut to| {
            read_request(&mut to).unwrap();
            let _ = to.read(&mut [0]);
        })
    };
    let engine = hangs();
    let plane = chatty().engines(&[&engine]).start();
    let mut client = begun(&plane, &request(BODY));
    plane.revoke_keys();
    let text = rest(&mut client);
    assert_eq!(only_event(&text)["error"]["code"], "invalid_api_key");
    let engine = hangs();
    let plane = chatty().engines(&[&engine]).start();
    let mut client = begun(&plane, &request(BODY));
    plane.plane.drain(Duration::from_millis(50), Duration::ZERO);
    let text = rest(&mut client);
    assert_eq!(only_event(&text)["error"]["code"], "server_stopping");
    assert_eq!(plane.drained(), 1);
}
