//! HTTP/2 toward clients, over real sockets: what hyper's own client sees, and what the engine
//! behind us does.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on says where"
)]

#[path = "relay/harness.rs"]
mod harness;

use std::{
    collections::VecDeque,
    io::{Read, Write},
    net::Shutdown,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    task::{Context, Poll},
    thread,
    time::Duration,
};

use bytes::Bytes;
use harness::{Engine, PATIENCE, Plane, Stream, chunk, json_response, read_request};
use http::{HeaderMap, Method, Request, Response};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::{
    body::{Frame, Incoming},
    client::conn::http2::{self, SendRequest},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tokio::{net::TcpStream, task::JoinHandle};

const BODY: &str = r#"{"model":"m","stream":true}"#;
const STREAM_HEAD: &str =
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
/// A frame in which an engine says what it has counted.
const COUNTED: &str =
    concat!(r#"data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":7}}"#, "\n\n");
type Body = UnsyncBoxBody<Bytes, std::io::Error>;

fn body(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A connection that speaks HTTP/2 without having asked.
async fn connect(plane: &Plane) -> (SendRequest<Body>, JoinHandle<hyper::Result<()>>) {
    let (sender, connection, _) = connect_socket(plane).await;
    (sender, connection)
}

/// A connection that speaks HTTP/2 without having asked, and its socket.
async fn connect_socket(
    plane: &Plane,
) -> (SendRequest<Body>, JoinHandle<hyper::Result<()>>, std::net::TcpStream) {
    let socket = std::net::TcpStream::connect(&plane.address).unwrap();
    socket.set_nonblocking(true).unwrap();
    let stream = TcpStream::from_std(socket.try_clone().unwrap()).unwrap();
    let (sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    (sender, tokio::spawn(connection), socket)
}

fn request(method: Method, path: &str, body: Body) -> Request<Body> {
    let builder = Request::builder().method(method).uri(format!("http://plane.test{path}"));
    builder.header("authorization", "Bearer secret").body(body).unwrap()
}

fn completion(text: impl Into<Bytes>) -> Request<Body> {
    request(Method::POST, "/v1/completions", body(text))
}

async fn text(response: Response<Incoming>) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

/// The frames of a body, as they come.
struct Pieces<I>(I);

impl<I: Iterator<Item = Result<Frame<Bytes>, std::io::Error>> + Unpin> hyper::body::Body
    for Pieces<I>
{
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Poll::Ready(self.0.next())
    }
}

/// An engine that responds to every request with its own body.
fn echo() -> Engine {
    Engine::start(true, |_, mut stream| {
        while let Some(request) = read_request(&mut stream) {
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", request.body.len());
            if stream.write_all(&[head.as_bytes(), &request.body].concat()).is_err() {
                return;
            }
        }
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_of_one_connection_are_served_independently() {
    let (go, wait) = mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let engine = Engine::start(true, move |number, mut stream| {
        read_request(&mut stream).unwrap();
        stream.write_all(STREAM_HEAD.as_bytes()).unwrap();
        stream.write_all(&chunk(b"data: 1\n\n")).unwrap();
        if number == 0 {
            wait.lock().unwrap().recv().unwrap();
        }
        stream.write_all(&chunk(b"data: [DONE]\n\n")).unwrap();
        stream.write_all(b"0\r\n\r\n").unwrap();
    });
    let plane = Plane::builder().engines(&[&engine]).start();
    let (mut sender, _connection) = connect(&plane).await;
    let mut first = sender.send_request(completion(BODY)).await.unwrap();
    assert_eq!(
        (first.status().as_u16(), &first.headers()["content-type"]),
        (200, &"text/event-stream".parse().unwrap())
    );
    let frame = first.body_mut().frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(&frame[..], b"data: 1\n\n", "a frame arrives while its stream goes on");
    for _ in 0..20 {
        let other = sender.send_request(completion(BODY)).await.unwrap();
        assert_eq!(text(other).await, "data: 1\n\ndata: [DONE]\n\n");
    }
    go.send(()).unwrap();
    assert_eq!(text(first).await, "data: [DONE]\n\n");
    plane.assert_idle();
}

#[tokio::test(flavor = "multi_thread")]
async fn comments_pass_before_an_engine_has_begun() {
    let (go, wait) = mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let engine = Engine::start(true, move |_, mut stream| {
        read_request(&mut stream).unwrap();
        wait.lock().unwrap().recv().unwrap();
        stream.write_all(STREAM_HEAD.as_bytes()).unwrap();
        stream.write_all(&chunk(b"data: [DONE]\n\n")).unwrap();
        stream.write_all(b"0\r\n\r\n").unwrap();
    });
    let extras = json!({"response_extras": {"sse_keep_alive": 0.05}});
    let plane = Plane::builder().with(extras).engines(&[&engine]).start();
    let (mut sender, _connection) = connect(&plane).await;
    let mut response = sender.send_request(completion(BODY)).await.unwrap();
    assert_eq!(response.status(), 200);
    for _ in 0..2 {
        let comment = response.body_mut().frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(&comment[..], b": keep-alive\n\n");
    }
    go.send(()).unwrap();
    assert!(text(response).await.ends_with("data: [DONE]\n\n"));
    // A reset in the wait is seen by the engine, too.
    let waiting = sender.send_request(completion(BODY)).await.unwrap();
    drop(waiting);
    plane.assert_idle();
    let _ = go.send(());
}

#[test]
fn the_first_bytes_tell_the_protocol_however_they_are_cut() {
    let engine = echo();
    let plane = Plane::builder().engines(&[&engine]).start();
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let http1 = harness::request(BODY);
    for size in [1, 3, 24, 1000] {
        let mut client = plane.connect();
        for piece in preface.chunks(size) {
            client.write(piece);
            thread::sleep(Duration::from_millis(1));
        }
        let mut settings = [0; 9];
        client.read_exact(&mut settings);
        assert_eq!(settings[3..5], [4, 0], "a frame of settings, not of an HTTP/1.1 error");

        let mut client = plane.connect();
        for piece in http1.as_bytes().chunks(size) {
            client.write(piece);
            thread::sleep(Duration::from_millis(1));
        }
        let response = client.response();
        assert_eq!(
            (response.status, &*response.body),
            (200, BODY.as_bytes()),
            "in pieces of {size}"
        );
    }
    // What only resembles the preface is HTTP/1.1, and served as that.
    let mut client = plane.connect();
    client.write(b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n");
    assert!(client.read_to_end().starts_with(b"HTTP/1.1 505"));
}

/// Tells when an engine sees the end of a connection with an unfinished request.
fn watched(said: &'static str) -> (Engine, mpsc::Receiver<()>, mpsc::Receiver<()>) {
    let ((began, begins), (ended, ends)) = (mpsc::channel(), mpsc::channel());
    let engine = Engine::start(true, move |_, mut stream: Stream| {
        read_request(&mut stream).unwrap();
        stream.write_all(said.as_bytes()).unwrap();
        began.send(()).unwrap();
        assert!(matches!(stream.read(&mut [0; 9]), Ok(0) | Err(_)));
        ended.send(()).unwrap();
    });
    (engine, begins, ends)
}

/// The ways in which a client leaves.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Leaving {
    ResetsStream,
    ClosesConnection,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_before_the_engines_head_ends_the_engines_work() {
    for leaving in [Leaving::ResetsStream, Leaving::ClosesConnection] {
        let (engine, begins, ends) = watched("");
        let plane = Plane::builder().engines(&[&engine]).start();
        let (mut sender, _connection, socket) = connect_socket(&plane).await;
        let asked = tokio::spawn(sender.send_request(completion(BODY)));
        begins.recv_timeout(PATIENCE).unwrap();
        match leaving {
            Leaving::ResetsStream => asked.abort(),
            Leaving::ClosesConnection => socket.shutdown(Shutdown::Both).unwrap(),
        }
        ends.recv_timeout(PATIENCE)
            .unwrap_or_else(|_| panic!("the engine goes on after {leaving:?}"));
        plane.assert_idle();
        plane.until_connections(u64::from(leaving == Leaving::ResetsStream));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_a_stream_ends_the_engines_work() {
    const FRAME: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: \
        chunked\r\n\r\n9\r\ndata: 1\n\n\r\n";
    for leaving in [Leaving::ResetsStream, Leaving::ClosesConnection] {
        let (engine, _begins, ends) = watched(FRAME);
        let plane = Plane::builder().engines(&[&engine]).start();
        let (mut sender, _connection, socket) = connect_socket(&plane).await;
        let mut response = sender.send_request(completion(BODY)).await.unwrap();
        response.body_mut().frame().await.unwrap().unwrap();
        match leaving {
            Leaving::ResetsStream => drop(response),
            Leaving::ClosesConnection => socket.shutdown(Shutdown::Both).unwrap(),
        }
        ends.recv_timeout(PATIENCE)
            .unwrap_or_else(|_| panic!("the engine goes on after {leaving:?}"));
        plane.assert_idle();
        plane.until_connections(u64::from(leaving == Leaving::ResetsStream));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_that_breaks_off_resets_its_stream_alone() {
    for head in ["Content-Length: 9", "Transfer-Encoding: chunked"] {
        let engine = Engine::start(true, move |_, mut stream| {
            read_request(&mut stream).unwrap();
            let body = if head.starts_with('T') { "2\r\n{}\r\n" } else { "{}" };
            write!(stream, "HTTP/1.1 200 OK\r\n{head}\r\n\r\n{body}").unwrap();
        });
        let plane = Plane::builder().engines(&[&engine]).start();
        let (mut sender, _connection) = connect(&plane).await;
        let mut response = sender.send_request(completion(BODY)).await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(
            &response.body_mut().frame().await.unwrap().unwrap().into_data().unwrap()[..],
            b"{}"
        );
        let broken = response.body_mut().frame().await.expect("no clean end").unwrap_err();
        let reason =
            std::error::Error::source(&broken).map(ToString::to_string).unwrap_or_default();
        assert!(reason.contains("unexpected internal error"), "INTERNAL_ERROR, not {reason:?}");
        let health = sender.send_request(request(Method::GET, "/healthz", body(""))).await.unwrap();
        assert_eq!(health.status(), 200, "the connection lives on");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_holds_back_its_engine_and_nobody_else() {
    const SIZE: u64 = 256 << 20;
    let written = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&written);
    let engine = Engine::start(true, move |number, mut stream| {
        read_request(&mut stream).unwrap();
        if number > 0 {
            return stream.write_all(&json_response("quick")).unwrap();
        }
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n").unwrap();
        while stream.write_all(&[b'x'; 10_000]).is_ok() {
            count.fetch_add(10_000, Ordering::SeqCst);
        }
    });
    let plane = Plane::builder().engines(&[&engine]).start();
    let (mut sender, _connection) = connect(&plane).await;
    let slow = sender.send_request(completion(BODY)).await.unwrap();
    // Until what it could write stands still.
    let mut before = 0;
    while before == 0 || before != written.load(Ordering::SeqCst) {
        before = written.load(Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(before < SIZE / 8, "{before} bytes went somewhere though nobody reads");
    let quick = sender.send_request(completion(BODY)).await.unwrap();
    assert_eq!(text(quick).await, "quick");
    drop(slow);
    plane.assert_idle();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_does_not_read_holds_back_its_client_and_nobody_else() {
    const SIZE: u64 = 256 << 20;
    let engine = Engine::start(true, |number, mut stream| {
        if number > 0 {
            read_request(&mut stream).unwrap();
            return stream.write_all(&json_response("quick")).unwrap();
        }
        stream.read_exact(&mut [0; 100]).unwrap();
        // Until the test ends, nothing more.
        thread::sleep(PATIENCE);
    });
    let plane = Plane::builder().engines(&[&engine]).start();
    let (mut sender, _connection) = connect(&plane).await;
    let sent = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&sent);
    let start = Bytes::from_static(br#"{"model":"m","prompt":""#);
    let pieces = std::iter::once(start)
        .chain(std::iter::repeat_n(Bytes::from(vec![b'x'; 16_384]), SIZE as usize >> 14));
    let upload = pieces.map(move |piece| {
        count.fetch_add(piece.len() as u64, Ordering::SeqCst);
        Ok(Frame::data(piece))
    });
    let upload = request(Method::POST, "/v1/completions", Pieces(upload).boxed_unsync());
    let asked = tokio::spawn(sender.send_request(upload));
    let mut before = 0;
    while before == 0 || before != sent.load(Ordering::SeqCst) {
        before = sent.load(Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(before < SIZE / 8, "{before} bytes went somewhere though nobody reads");
    assert_eq!(text(sender.send_request(completion(BODY)).await.unwrap()).await, "quick");
    asked.abort();
    plane.assert_idle();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_big_body_passes_and_its_trailers_do_not() {
    let engine = echo();
    let plane = Plane::builder().engines(&[&engine]).start();
    let (mut sender, _connection) = connect(&plane).await;
    let prompt = format!(r#"{{"model":"m","prompt":"{}"}}"#, "é\\n ".repeat(2_000_000));
    let mut frames: Vec<_> = prompt
        .as_bytes()
        .chunks(99_999)
        .map(|piece| Ok(Frame::data(Bytes::copy_from_slice(piece))))
        .collect();
    let mut trailers = HeaderMap::new();
    trailers.insert("authorization", "Bearer other".parse().unwrap());
    frames.push(Ok(Frame::trailers(trailers)));
    let upload = Pieces(frames.into_iter()).boxed_unsync();
    let response =
        sender.send_request(request(Method::POST, "/v1/completions", upload)).await.unwrap();
    assert_eq!(response.status(), 200);
    assert!(text(response).await == prompt);
    plane.assert_idle();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejection_without_reading_ends_no_connection_and_names_none() {
    let engine = echo();
    let plane = Plane::builder().engines(&[&engine]).start();
    let (mut sender, _connection) = connect(&plane).await;
    for _ in 0..3 {
        let mut unread = completion(vec![b'x'; 5_000_000]);
        unread.headers_mut().insert("authorization", "Bearer wrong".parse().unwrap());
        let response = sender.send_request(unread).await.unwrap();
        assert_eq!(response.status(), 401);
        assert!(!response.headers().contains_key("connection"));
        assert!(text(response).await.contains("invalid_api_key"));
    }
    let mut expecting = completion(BODY);
    expecting.headers_mut().insert("expect", "200-ok".parse().unwrap());
    assert_eq!(sender.send_request(expecting).await.unwrap().status(), 417);
    // Over HTTP/1.1 this one ends its connection, and says so.
    let response = sender.send_request(completion("[]")).await.unwrap();
    assert_eq!(response.status(), 400);
    assert!(!response.headers().contains_key("connection"));
    assert_eq!(text(sender.send_request(completion(BODY)).await.unwrap()).await, BODY);
    plane.assert_idle();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_lets_streams_finish_and_then_ends_the_connection() {
    let (go, wait) = mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let engine = Engine::start(true, move |_, mut stream| {
        read_request(&mut stream).unwrap();
        stream.write_all(STREAM_HEAD.as_bytes()).unwrap();
        stream.write_all(&chunk(b"data: 1\n\n")).unwrap();
        wait.lock().unwrap().recv().unwrap();
        stream.write_all(&chunk(b"data: [DONE]\n\n")).unwrap();
        stream.write_all(b"0\r\n\r\n").unwrap();
    });
    let plane = Plane::builder().engines(&[&engine]).start();
    let (mut sender, connection) = connect(&plane).await;
    let (_idle_sender, idle) = connect(&plane).await;
    let mut running = sender.send_request(completion(BODY)).await.unwrap();
    running.body_mut().frame().await.unwrap().unwrap();
    plane.plane.drain(PATIENCE, Duration::ZERO);
    idle.await.unwrap().unwrap();
    go.send(()).unwrap();
    assert_eq!(text(running).await, "data: [DONE]\n\n");
    connection.await.unwrap().unwrap();
    assert_eq!(plane.drained(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_a_drain_cuts_ends_with_an_error_event() {
    let engine = Engine::start(true, move |_, mut stream| {
        read_request(&mut stream).unwrap();
        stream.write_all(STREAM_HEAD.as_bytes()).unwrap();
        stream.write_all(&chunk(b"data: 1\n\n")).unwrap();
        let _ = stream.read(&mut [0]);
    });
    let plane = Plane::builder().engines(&[&engine]).start();
    let (mut sender, connection) = connect(&plane).await;
    let mut running = sender.send_request(completion(BODY)).await.unwrap();
    running.body_mut().frame().await.unwrap().unwrap();
    plane.plane.drain(Duration::from_millis(50), Duration::ZERO);
    let rest = text(running).await;
    assert!(rest.starts_with("data: {\"error\"") && rest.contains("drain_timeout"), "{rest}");
    connection.await.unwrap().unwrap();
    assert_eq!(plane.drained(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_without_requests_ends_when_the_next_head_is_due() {
    let plane = Plane::builder().with(json!({"timeouts": {"head": 0.3}})).start();
    let (mut sender, connection) = connect(&plane).await;
    assert_eq!(
        sender.send_request(request(Method::GET, "/healthz", body(""))).await.unwrap().status(),
        200
    );
    tokio::time::timeout(PATIENCE, connection).await.unwrap().unwrap().unwrap();
    plane.until_connections(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn head_has_the_fields_of_get_and_no_body() {
    let plane = Plane::builder().start();
    let (mut sender, _connection) = connect(&plane).await;
    let mut responses = Vec::new();
    for method in [Method::GET, Method::HEAD] {
        let response = sender.send_request(request(method, "/v1/models", body(""))).await.unwrap();
        assert_eq!(response.status(), 200);
        let length: usize = response.headers()["content-length"].to_str().unwrap().parse().unwrap();
        responses.push((length, text(response).await));
    }
    assert_eq!(responses[0].0, responses[0].1.len());
    assert_eq!(responses[1], (responses[0].0, String::new()));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_management_api_sees_the_authority_as_host() {
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
    let (mut sender, _connection) = connect(&plane).await;
    let response =
        sender.send_request(request(Method::GET, "/v2/models?page=1", body(""))).await.unwrap();
    assert_eq!(response.status(), 200);
    let head = reported.recv_timeout(PATIENCE).unwrap();
    assert!(head.starts_with("GET /v2/models?page=1 HTTP/1.1\r\n"), "{head}");
    assert!(head.contains("\r\nhost: plane.test\r\n"), "{head}");
}

/// A body that does not come.
struct Silence;

impl hyper::body::Body for Silence {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        Poll::Pending
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn long_heads_are_bounded_in_sum() {
    let engine = echo();
    let limits = json!({"total_memory_bytes": 4 << 16, "memory_bytes": 65_536});
    let plane = Plane::builder().engines(&[&engine]).with(json!({"limits": limits})).start();
    let (mut sender, _connection) = connect(&plane).await;
    let mut running = tokio::task::JoinSet::new();
    for _ in 0..5 {
        let mut request = request(Method::POST, "/v1/completions", UnsyncBoxBody::new(Silence));
        // As many fields: the memory of one is more than its text.
        for number in 0..14 {
            let name: http::HeaderName = format!("x-long-{number}").parse().unwrap();
            request.headers_mut().insert(name, "x".repeat(3_000).parse().unwrap());
        }
        running.spawn(sender.send_request(request));
    }
    let refused = tokio::time::timeout(PATIENCE, running.join_next()).await.unwrap();
    let refused = refused.unwrap().unwrap().unwrap();
    assert_eq!(refused.status(), 503);
    assert_eq!(refused.headers()["retry-after"], "2");
    assert!(text(refused).await.contains("limits.total_memory_bytes"));
    assert_eq!(sender.send_request(completion(BODY)).await.unwrap().status(), 200);
    let held = |bytes: u32| format!("gpustack_fast_held_bytes{{place=\"memory\"}} {bytes}\n");
    assert!(plane.metrics().contains(&held(4 << 16)), "{}", plane.metrics());
    drop(running);
    plane.assert_idle();
    assert!(plane.metrics().contains(&held(0)), "{}", plane.metrics());
}

/// A client that writes its frames itself, and grants what windows it likes.
struct RawClient(harness::Client, VecDeque<u8>);

/// A body that no socket takes at once, in bytes.
const LONG: usize = 1_000_000;

impl RawClient {
    /// `window`: of each stream, in bytes.
    fn connect(plane: &Plane, window: u32) -> Self {
        let mut client = plane.connect();
        client.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        let mut client = Self(client, VecDeque::new());
        client.grant(window);
        client
    }

    fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = (payload.len() as u32).to_be_bytes();
        let head = [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat();
        self.0.write(&[&head, payload].concat());
    }

    /// Sets the window of each stream, in bytes.
    fn grant(&mut self, window: u32) {
        self.frame(4, 0, 0, &[&[0, 4], &window.to_be_bytes()[..]].concat());
    }

    /// Sends a head of these fields, pseudo-fields among them, without a body.
    fn head(&mut self, stream: u32, fields: &[(&str, &str)]) {
        let literal = |text: &str| [&[text.len() as u8], text.as_bytes()].concat();
        let field =
            |(name, value): &(&str, &str)| [vec![0], literal(name), literal(value)].concat();
        self.frame(1, 5, stream, &fields.iter().map(field).collect::<Vec<_>>().concat());
    }

    /// Sends a request; an empty body is none.
    fn send(&mut self, stream: u32, path: &str, body: &[u8]) {
        let literal = |text: &str| [&[text.len() as u8], text.as_bytes()].concat();
        let method = if body.is_empty() { 0x82 } else { 0x83 };
        let head = [
            vec![method, 0x86, 0x04],
            literal(path),
            vec![0x01],
            literal("x"),
            vec![0x00],
            literal("authorization"),
            literal("Bearer secret"),
        ]
        .concat();
        self.frame(1, 4 | u8::from(body.is_empty()), stream, &head);
        if !body.is_empty() {
            self.frame(0, 1, stream, body);
        }
    }

    /// Puts back what was read by itself.
    fn behind(&mut self, read: Vec<u8>) {
        self.1.extend(read);
    }

    fn read_exact(&mut self, bytes: &mut [u8]) {
        let known = self.1.len().min(bytes.len());
        bytes[..known].copy_from_slice(&self.1.drain(..known).collect::<Vec<_>>());
        self.0.read_exact(&mut bytes[known..]);
    }

    /// The kind, stream and payload of the next frame.
    fn any(&mut self) -> (u8, u32, Vec<u8>) {
        let mut head = [0; 9];
        self.read_exact(&mut head);
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        self.read_exact(&mut payload);
        (head[3], u32::from_be_bytes([head[5], head[6], head[7], head[8]]), payload)
    }

    /// The kind, stream and payload of the next frame that is neither about settings nor a ping.
    fn next(&mut self) -> (u8, u32, Vec<u8>) {
        loop {
            let frame = self.any();
            if ![4, 6, 8].contains(&frame.0) {
                return frame;
            }
        }
    }
}

/// What comes of a head over HTTP/2.
#[derive(Debug, PartialEq)]
enum Outcome {
    Ok,
    /// 400, with a body that says this.
    BadRequest(&'static str),
    /// `RST_STREAM` with `PROTOCOL_ERROR`: so RFC 9113 8.1.1 has malformed requests treated.
    Reset,
}

#[test]
fn a_malformed_head_is_a_400_with_a_body_or_a_reset_stream() {
    use Outcome::{BadRequest, Ok, Reset};
    let plane = Plane::builder().start();
    let mut client = RawClient::connect(&plane, 65_535);
    let start = [(":method", "GET"), (":scheme", "http"), (":path", "/v1/models")];
    let cases: [(&[(&str, &str)], Outcome); 15] = [
        (&[(":authority", "x")], Ok),
        (&[(":authority", "x"), ("host", "X")], Ok),
        (&[(":authority", "x:80"), ("host", "x")], Ok),
        (&[("host", "x")], Ok),
        (&[], BadRequest("no Host")),
        (&[(":authority", "x"), ("host", "y")], BadRequest("differs")),
        (&[(":authority", "x"), ("host", "")], BadRequest("differs")),
        (&[(":authority", "x"), ("host", "x"), ("host", "x")], BadRequest("two Host")),
        (&[("host", "a b")], BadRequest("is no host")),
        (&[(":authority", "user@x")], BadRequest("without a user")),
        (&[(":authority", "x:99999")], BadRequest("no valid host")),
        (&[(":authority", "a b")], Reset),
        (&[(":authority", "x"), (":path", "/v1/models")], Reset),
        (&[(":authority", "x"), ("connection", "close")], Reset),
        (&[("x", "y"), (":authority", "x")], Reset),
    ];
    for (number, (fields, expected)) in cases.into_iter().enumerate() {
        let stream = 1 + 2 * number as u32;
        let key = [("authorization", "Bearer secret")];
        client.head(stream, &[&start[..], fields, &key].concat());
        let (kind, of, payload) = client.next();
        assert_eq!(of, stream, "{fields:?}");
        if kind == 3 {
            assert_eq!((expected, &payload[..]), (Reset, &[0, 0, 0, 1][..]), "{fields:?}");
            continue;
        }
        let (_, _, body) = client.next();
        let body = String::from_utf8(body).unwrap();
        // The status is the first field: an index of HPACK's own table.
        match (payload[0], &expected) {
            (0x88, Ok) => assert!(body.contains(r#""object":"list""#), "{fields:?}: {body}"),
            (0x8c, BadRequest(text)) => assert!(body.contains(text), "{fields:?}: {body}"),
            (status, _) => panic!("{fields:?}: {status:#x}, not {expected:?}: {body}"),
        }
    }
}

#[test]
fn a_head_without_a_method_a_scheme_or_a_path_resets_its_stream() {
    let plane = Plane::builder().start();
    let mut client = RawClient::connect(&plane, 65_535);
    for (number, fields) in [
        &[(":method", "GET"), (":scheme", "http")][..],
        &[(":method", "GET"), (":scheme", "http"), (":path", "")],
        &[(":method", "GET"), (":scheme", "http"), (":path", "/a b")],
        &[(":method", "GET"), (":scheme", "http"), (":path", "healthz")],
        &[(":method", "GET"), (":path", "/healthz")],
        &[(":scheme", "http"), (":path", "/healthz")],
    ]
    .into_iter()
    .enumerate()
    {
        let stream = 1 + 2 * number as u32;
        client.head(stream, &[fields, &[(":authority", "x")]].concat());
        assert_eq!(client.next(), (3, stream, vec![0, 0, 0, 1]), "{fields:?}");
    }
}

#[test]
fn a_client_that_takes_nothing_loses_its_streams_and_nothing_else() {
    let (engine, begins, ends) = watched(
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n\
         9\r\ndata: 1\n\n\r\n",
    );
    let settings = json!({"timeouts": {"send": 0.3}});
    let plane = Plane::builder().engines(&[&engine]).with(settings).start();
    let mut client = RawClient::connect(&plane, 0);
    client.send(1, "/metrics", b"");
    client.send(3, "/v1/completions", BODY.as_bytes());
    begins.recv_timeout(PATIENCE).unwrap();
    let mut reset = Vec::new();
    while reset.len() < 2 {
        let (kind, stream, payload) = client.next();
        match kind {
            1 => {}
            3 => reset.push((stream, payload)),
            other => panic!("a frame of kind {other}, though there is no window"),
        }
    }
    reset.sort();
    assert_eq!(reset, [1, 3].map(|stream| (stream, vec![0, 0, 0, 8])), "CANCEL");
    ends.recv_timeout(PATIENCE).expect("the engine's work ends");
    plane.assert_idle();
    client.grant(65_535);
    client.send(7, "/healthz", b"");
    assert_eq!((client.next().0, client.next()), (1, (0, 7, b"ok".to_vec())));
}

#[test]
fn a_revoked_keys_stream_ends_though_its_client_takes_nothing() {
    let (ended, ends) = mpsc::channel();
    let engine = Engine::start(true, move |_, mut stream| {
        read_request(&mut stream).unwrap();
        stream.write_all(STREAM_HEAD.as_bytes()).unwrap();
        stream.write_all(&chunk(COUNTED.as_bytes())).unwrap();
        let frame = chunk(format!("data: {}\n\n", "x".repeat(10_000)).as_bytes());
        while stream.write_all(&frame).is_ok() {}
        let _ = ended.send(());
    });
    let plane = Plane::builder().engines(&[&engine]).start();
    let mut client = RawClient::connect(&plane, 65_535);
    client.send(1, "/v1/completions", BODY.as_bytes());
    let mut read = 0;
    while read < 65_535 {
        let (kind, _, payload) = client.next();
        read += if kind == 0 { payload.len() } else { 0 };
    }
    plane.revoke_keys();
    // Long before `timeouts.send` would end it.
    ends.recv_timeout(PATIENCE).expect("the engine's work ends");
    let (kind, stream, _) = client.next();
    assert_eq!((kind, stream), (3, 1), "it is reset");
    plane.assert_idle();
    assert_eq!(plane.end_and_tokens(), ("refused".to_owned(), Some(7)));
    client.frame(8, 0, 0, &65_535_u32.to_be_bytes());
    client.send(3, "/healthz", b"");
    assert_eq!((client.next().0, client.next()), (1, (0, 3, b"ok".to_vec())));
}

#[test]
fn a_stream_that_its_client_resets_is_recorded_with_its_tokens() {
    let engine = Engine::start(true, |_, mut stream| {
        read_request(&mut stream).unwrap();
        stream.write_all(STREAM_HEAD.as_bytes()).unwrap();
        stream.write_all(&chunk(COUNTED.as_bytes())).unwrap();
        let _ = stream.read(&mut [0]);
    });
    let plane = Plane::builder().engines(&[&engine]).start();
    let mut client = RawClient::connect(&plane, 65_535);
    client.send(1, "/v1/completions", BODY.as_bytes());
    assert_eq!((client.next().0, client.next().0), (1, 0));
    client.frame(3, 0, 1, &[0, 0, 0, 8]);
    assert_eq!(plane.end_and_tokens(), ("client_gone".to_owned(), Some(7)));
}

#[test]
fn a_client_that_waits_for_its_engine_takes_nothing_and_keeps_its_stream() {
    let engine = Engine::start(true, |_, mut stream| {
        read_request(&mut stream).unwrap();
        stream.write_all(STREAM_HEAD.as_bytes()).unwrap();
        for frame in ["data: 1\n\n", "data: 2\n\n", "data: [DONE]\n\n"] {
            thread::sleep(Duration::from_millis(500));
            stream.write_all(&chunk(frame.as_bytes())).unwrap();
        }
        stream.write_all(b"0\r\n\r\n").unwrap();
    });
    let settings = json!({"timeouts": {"send": 0.2}});
    let plane = Plane::builder().engines(&[&engine]).with(settings).start();
    let mut client = RawClient::connect(&plane, 65_535);
    client.send(1, "/v1/completions", BODY.as_bytes());
    let mut read = Vec::new();
    while !read.ends_with(b"[DONE]\n\n") {
        let (kind, _, payload) = client.next();
        assert!(kind < 2, "a frame of kind {kind}");
        if kind == 0 {
            read.extend(payload);
        }
    }
}

#[test]
fn a_client_that_reads_slowly_and_steadily_keeps_its_stream() {
    let engine = Engine::start(true, |_, mut stream| {
        read_request(&mut stream).unwrap();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {LONG}\r\n\r\n");
        let _ = stream.write_all(&[head.as_bytes(), &vec![b'x'; LONG]].concat());
    });
    let settings = json!({"timeouts": {"send": 1.0}});
    // In front of a window that is used up, and of a socket that is full.
    for window in [65_535, i32::MAX as u32] {
        let plane = Plane::builder().engines(&[&engine]).with(settings.clone()).start();
        let mut client = RawClient::connect(&plane, window);
        let more = i32::MAX as u32 - 65_535;
        if window > 65_535 {
            client.frame(8, 0, 0, &more.to_be_bytes());
        }
        client.send(1, "/v1/completions", BODY.as_bytes());
        let slowly = client.0.read_slowly(1_000, 30);
        if window == 65_535 {
            client.frame(8, 0, 0, &more.to_be_bytes());
            client.frame(8, 0, 1, &more.to_be_bytes());
        }
        client.behind(slowly);
        let mut read = 0;
        while read < LONG {
            let (kind, _, payload) = client.next();
            assert!(kind < 2, "a frame of kind {kind} behind {read} bytes");
            read += if kind == 0 { payload.len() } else { 0 };
        }
    }
}

#[test]
fn answers_to_pings_are_nothing_that_a_client_takes_of_its_streams() {
    let settings = json!({"timeouts": {"send": 0.5}});
    let plane = Plane::builder().with(settings).start();
    let mut client = RawClient::connect(&plane, 0);
    client.send(1, "/v1/models", b"");
    let mut kind = 1;
    while kind != 3 {
        client.frame(6, 0, 0, &[7; 8]);
        kind = client.any().0;
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_connection_whose_socket_takes_nothing_is_closed() {
    let engine = Engine::start(true, |_, mut stream| {
        read_request(&mut stream).unwrap();
        stream.write_all(STREAM_HEAD.as_bytes()).unwrap();
        let frame = chunk(format!("data: {}\n\n", "x".repeat(10_000)).as_bytes());
        while stream.write_all(&frame).is_ok() {}
    });
    let settings = json!({"timeouts": {"send": 0.3}});
    let plane = Plane::builder().engines(&[&engine]).with(settings).start();
    let mut client = RawClient::connect(&plane, i32::MAX as u32);
    client.frame(8, 0, 0, &(i32::MAX as u32 - 65_535).to_be_bytes());
    client.send(1, "/v1/completions", BODY.as_bytes());
    plane.until_connections(1);
    plane.until_connections(0);
    plane.assert_idle();
}

#[test]
fn pages_in_front_of_a_shut_window_do_not_keep_a_connection() {
    let settings = json!({"timeouts": {"head": 0.3, "send": 0.3}});
    let plane = Plane::builder().with(settings).start();
    // With one byte of room a page leaves the body, and its stream is done for us.
    let mut client = RawClient::connect(&plane, 1);
    client.send(1, "/metrics", b"");
    assert_eq!((client.next().0, client.next().2.len()), (1, 1));
    plane.until_connections(0);
}

#[test]
fn pages_that_lie_in_front_of_a_window_are_bounded_in_sum() {
    let plane = Plane::builder().with(json!({"limits": {"total_memory_bytes": 131_072}})).start();
    // With one byte of room each page leaves its task.
    let mut client = RawClient::connect(&plane, 1);
    let ask = |client: &mut RawClient, pages: std::ops::Range<u32>| {
        for number in pages {
            client.send(1 + 2 * number, "/nowhere", b"");
            assert_eq!((client.next().0, client.next().2.len()), (1, 1));
        }
    };
    let held = |steps: u32| format!("held_bytes{{place=\"memory\"}} {}\n", steps * 65_536);
    ask(&mut client, 0..55);
    plane.until_page(&held(1));
    ask(&mut client, 55..100);
    plane.until_page(&held(2));
    // Who takes them gives back what they took.
    client.grant(65_535);
    for _ in 0..100 {
        assert_eq!(client.next().0, 0);
    }
    plane.until_page(&held(0));
    // Who does not is not let have any number of them.
    client.grant(1);
    for number in 100..220 {
        client.send(1 + 2 * number, "/nowhere", b"");
    }
    plane.until_connections(0);
    plane.until_page(&held(0));
    assert!(!plane.metrics().contains("unread_responses_cut_total 0\n"));
}

#[test]
fn unread_pages_count_by_the_key_of_their_own_request() {
    // Callers without a key have no room at all beyond what is free.
    let plane = Plane::builder().with(json!({"limits": {"total_memory_bytes": 65_536}})).start();
    let mut client = RawClient::connect(&plane, 0);
    client.send(1, "/v1/models", b"");
    assert_eq!(client.next().0, 1);
    for number in 1..20 {
        let path = [(":method", "GET"), (":scheme", "http"), (":path", "/nowhere")];
        client.head(1 + 2 * number, &[&path[..], &[(":authority", "x")]].concat());
    }
    let mut reset = Vec::new();
    while reset.len() < 15 {
        let (kind, stream, _) = client.next();
        assert!(kind == 1 || kind == 3, "a frame of kind {kind}, though there is no window");
        reset.extend((kind == 3).then_some(stream));
    }
    assert!(!reset.contains(&1), "its request has shown a key");
}

#[test]
fn crowds_of_unread_pages_are_bounded_in_sum() {
    // Room for two pages beyond four.
    let plane = Plane::builder().with(json!({"limits": {"total_memory_bytes": 65_536}})).start();
    let mut client = RawClient::connect(&plane, 0);
    for number in 0..20 {
        client.send(1 + 2 * number, "/nowhere", b"");
    }
    let mut reset = 0;
    while reset < 14 {
        match client.next().0 {
            1 => {}
            3 => reset += 1,
            other => panic!("a frame of kind {other}, though there is no window"),
        }
    }
    let page = plane.metrics();
    for line in ["held_bytes{place=\"memory\"} 65536\n", "unread_responses_cut_total 14\n"] {
        assert!(page.contains(&format!("gpustack_fast_{line}")), "{line}: {page}");
    }
    // Who reads has his pages, and what they took comes back.
    client.grant(65_535);
    let mut pages = 0;
    while pages < 6 {
        pages += usize::from(client.next().0 == 0);
    }
    client.send(41, "/healthz", b"");
    assert_eq!((client.next().0, client.next()), (1, (0, 41, b"ok".to_vec())));
    assert!(plane.metrics().contains("gpustack_fast_held_bytes{place=\"memory\"} 0\n"));
}

#[test]
fn half_a_head_and_a_client_that_says_nothing_do_not_hold_up_a_drain() {
    let plane = Plane::builder().start();
    let (mut half, mut silent, mut unread) = (
        RawClient::connect(&plane, 65_535),
        RawClient::connect(&plane, 65_535),
        RawClient::connect(&plane, 1),
    );
    for client in [&mut half, &mut silent, &mut unread] {
        client.send(1, "/healthz", b"");
        assert_eq!((client.next().0, client.next().0), (1, 0));
    }
    // HEADERS without their end, behind which nothing else may come (RFC 9113 6.10).
    half.frame(1, 1, 3, &[0x82, 0x86]);
    plane.plane.drain(Duration::from_secs(600), Duration::ZERO);
    assert_eq!(plane.drained(), 0);
}
