//! What this process holds for clients that do not read, counted in the heap of the whole process.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on says where"
)]

#[path = "relay/harness.rs"]
mod harness;

use std::{
    alloc::{GlobalAlloc, Layout, System},
    io::{Read, Write},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use harness::{Client, Engine, Plane, chunk, read_request, request, request_with};
use serde_json::json;

/// The system's allocator, whose bytes are counted.
struct Counted;

static HELD: AtomicUsize = AtomicUsize::new(0);

// SAFETY: each call is handed on as it is, so what the system's allocator promises holds here too.
// Counting does not allocate.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HELD.fetch_add(layout.size(), Ordering::Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counted = Counted;

/// One test at a time, since all count the same heap.
static ALONE: Mutex<()> = Mutex::new(());

const KB: usize = 1024;
const BODY: &str = r#"{"model":"m","stream":true}"#;
const STREAM_HEAD: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";

/// A frame of a completion of this length in bytes, whose model the client knows by another name.
fn frame(length: usize) -> String {
    let (start, end) = (r#"data: {"id":"a","model":"served","choices":[{"text":""#, "\"}]}\n\n");
    format!("{start}{}{end}", "x".repeat(length - start.len() - end.len()))
}

/// An engine whose streams consist of these bytes, again and again, and how many it has written.
fn endless(unix: bool, bytes: Vec<u8>) -> (Engine, Arc<AtomicUsize>) {
    let written = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&written);
    let engine = Engine::start(unix, move |_, mut stream| {
        if read_request(&mut stream).is_none() || stream.write_all(STREAM_HEAD).is_err() {
            return;
        }
        while let Ok(length) = stream.write(&bytes) {
            count.fetch_add(length, Ordering::SeqCst);
        }
    });
    (engine, written)
}

/// Whether no other thread of this process runs, or is about to on a machine that is busy.
fn all_others_wait() -> bool {
    let state = |task: std::io::Result<std::fs::DirEntry>| {
        let stat = std::fs::read_to_string(task.ok()?.path().join("stat")).ok()?;
        stat.rsplit_once(") ")?.1.chars().next()
    };
    let states = std::fs::read_dir("/proc/self/task").unwrap().filter_map(state);
    states.filter(|state| matches!(state, 'R' | 'D')).count() <= 1
}

/// Waits until nothing moves any more, and gives the bytes of the heap.
fn settled(written: &AtomicUsize) -> usize {
    let mut last = (0, 0);
    let mut same = 0;
    while same < 10 {
        thread::sleep(Duration::from_millis(20));
        let now = (written.load(Ordering::SeqCst), HELD.load(Ordering::SeqCst));
        same = if now == last && all_others_wait() { same + 1 } else { 0 };
        last = now;
    }
    last.1
}

/// Who asks for streams, and takes nothing of them.
#[derive(Clone, Copy, Debug)]
enum Asking {
    Http1,
    /// So many streams on each connection, each with this window of flow control.
    Http2(u32, u32),
}

impl Asking {
    /// A connection with its requests.
    fn connect(self, plane: &Plane) -> Client {
        let mut client = plane.connect();
        match self {
            Self::Http1 => client.write(request(BODY).as_bytes()),
            Self::Http2(streams, window) => client.write(&http2_requests(streams, window)),
        }
        client
    }

    fn streams(self) -> usize {
        match self {
            Self::Http1 => 1,
            Self::Http2(streams, _) => streams as usize,
        }
    }
}

/// The largest window of flow control (RFC 9113 6.9.1).
const MOST_WINDOW: u32 = (1 << 31) - 1;

fn http2_frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The begin of a connection with a window for each stream, and requests for them.
fn http2_requests(streams: u32, window: u32) -> Vec<u8> {
    http2_requests_for("POST", "/v1/completions", BODY, streams, window)
}

/// The same for another path; an empty body is none.
fn http2_requests_for(method: &str, path: &str, body: &str, streams: u32, window: u32) -> Vec<u8> {
    let fields = [
        (":method", method),
        (":scheme", "http"),
        (":authority", "x"),
        (":path", path),
        ("authorization", "Bearer secret"),
    ];
    // Literal fields without a table (RFC 7541 6.2.2).
    let fields = fields.map(|(name, value)| {
        let text = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
        [vec![0], text(name), text(value)].concat()
    });
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(http2_frame(4, 0, 0, &[&[0, 4][..], &window.to_be_bytes()].concat()));
    // The connection's own window is none.
    bytes.extend(http2_frame(8, 0, 0, &(MOST_WINDOW - 65_535).to_be_bytes()));
    for stream in (0..streams).map(|number| 2 * number + 1) {
        bytes.extend(http2_frame(1, 4 | u8::from(body.is_empty()), stream, &fields.concat()));
        if !body.is_empty() {
            bytes.extend(http2_frame(0, 1, stream, body.as_bytes()));
        }
    }
    bytes
}

/// The bytes that each of some streams costs of which the client takes nothing.
fn held_by_each(asking: Asking, unix: bool, served_name: &str, bytes: Vec<u8>) -> usize {
    const CLIENTS: usize = 8;
    let (engine, written) = endless(unix, bytes);
    let plane = Plane::builder().engines(&[&engine]).served_name(served_name).start();
    // The first one also fills what all share.
    let first = asking.connect(&plane);
    let before = settled(&written);
    let clients: Vec<Client> = (0..CLIENTS).map(|_| asking.connect(&plane)).collect();
    let after = settled(&written);
    drop((first, clients));
    plane.assert_idle();
    (after - before) / CLIENTS / asking.streams()
}

#[test]
fn a_client_that_does_not_read_holds_little_however_its_stream_comes() {
    let _alone = ALONE.lock();
    for (what, chunk, edited, unedited) in [
        ("small frames in large chunks", chunk(frame(180).repeat(400).as_bytes()), 0, 0),
        ("a chunk for each frame", chunk(frame(180).as_bytes()), 0, 0),
        ("small frames in chunks of 1 MB", chunk(frame(180).repeat(6_000).as_bytes()), 0, 0),
        ("frames of 60 KB", chunk(frame(60 * KB).as_bytes()), 64 * KB, 64 * KB),
        ("frames of 1 MB", chunk(frame(1024 * KB).as_bytes()), 1024 * KB, 64 * KB),
    ] {
        for (served_name, unix, frame) in
            [("served", true, edited), ("served", false, edited), ("m", false, unedited)]
        {
            let held = held_by_each(Asking::Http1, unix, served_name, chunk.clone());
            assert!(
                held <= 128 * KB + frame,
                "{what} of {served_name}, Unix socket {unix}: {held} bytes"
            );
        }
    }
}

#[test]
fn a_body_that_comes_slowly_holds_little_more_than_its_bytes() {
    const PIECES: usize = 100;
    let _alone = ALONE.lock();
    let plane = Plane::builder().start();
    let piece = "x".repeat(5_000);
    let length = 2 * PIECES * piece.len();
    let begin = || {
        let mut client = plane.connect();
        client.write(request_with(&format!("Content-Length: {length}"), r#"{"a":""#).as_bytes());
        client
    };
    let send = |client: &mut Client| {
        for _ in 0..PIECES {
            client.write(piece.as_bytes());
            // Each piece is to be read by itself.
            thread::sleep(Duration::from_millis(2));
        }
    };
    send(&mut begin());
    plane.assert_idle();
    let mut slow = begin();
    let before = settled(&AtomicUsize::new(0));
    send(&mut slow);
    let held = settled(&AtomicUsize::new(0)) - before;
    let came = PIECES * piece.len();
    assert!((came..2 * came + 64 * KB).contains(&held), "{held} bytes of {came}");
}

#[test]
fn streams_of_http2_that_are_not_read_hold_little() {
    let _alone = ALONE.lock();
    for asking in
        [Asking::Http2(1, 100_000), Asking::Http2(8, 100_000), Asking::Http2(8, MOST_WINDOW)]
    {
        let held = held_by_each(asking, true, "served", chunk(frame(180).repeat(400).as_bytes()));
        assert!(held <= 208 * KB, "{asking:?}: {held} bytes");
    }
}

#[test]
fn pages_in_front_of_a_window_hold_what_is_reckoned_for_them() {
    const PAGES: u32 = 100;
    let _alone = ALONE.lock();
    let plane = Plane::builder().start();
    // One byte of each page is taken, so that its task ends.
    let connect = |pages| {
        let mut client = plane.connect();
        client.write(&http2_requests_for("GET", "/nowhere", "", pages, 1));
        client
    };
    let _first = connect(PAGES);
    let idle: Vec<Client> = (0..8).map(|_| connect(1)).collect();
    let before = settled(&AtomicUsize::new(0));
    drop(idle);
    plane.until_connections(1);
    let clients: Vec<Client> = (0..8).map(|_| connect(PAGES)).collect();
    let after = settled(&AtomicUsize::new(0));
    let each = after.saturating_sub(before) / clients.len() / (PAGES as usize - 1);
    assert!((KB / 2..=2 * KB + KB / 2).contains(&each), "{each} bytes");
}

#[test]
fn what_clients_do_not_read_is_bounded_in_sum() {
    const TOTAL: usize = 1024 * KB;
    let _alone = ALONE.lock();
    for (asking, clients) in
        [(Asking::Http1, 40), (Asking::Http2(10, 100_000), 4), (Asking::Http2(10, MOST_WINDOW), 4)]
    {
        let (engine, written) = endless(true, chunk(frame(180).repeat(400).as_bytes()));
        let limits = json!({"limits": {"total_memory_bytes": TOTAL}});
        let plane = Plane::builder().engines(&[&engine]).served_name("served").with(limits).start();
        drop(asking.connect(&plane));
        plane.assert_idle();
        let before = settled(&written);
        let asked: Vec<Client> = (0..clients).map(|_| asking.connect(&plane)).collect();
        let streams = clients * asking.streams();
        let cut = || {
            let metrics = plane.metrics();
            let count =
                metrics.split_once("\ngpustack_fast_unread_responses_cut_total ").unwrap().1;
            count.lines().next().unwrap().parse::<usize>().unwrap()
        };
        // No more than 16 have a part of the sum.
        let is_bounded = (0..2_000).any(|_| {
            thread::sleep(Duration::from_millis(20));
            cut() >= streams - 16
        });
        assert!(is_bounded, "{asking:?}: {} cut off", cut());
        let held = settled(&written) - before;
        assert!(held <= TOTAL + 32 * KB * streams, "{asking:?}: {held} bytes");
        drop(asked);
        plane.assert_idle();
    }
}

#[test]
fn a_websocket_holds_nothing_for_what_may_come() {
    const CLIENTS: usize = 8;
    let _alone = ALONE.lock();
    let engine = Engine::start(true, |_, mut stream| {
        let mut byte = [0];
        let mut read = Vec::new();
        while !read.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte).unwrap();
            read.push(byte[0]);
        }
        let head = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\n\
            Upgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
        stream.write_all(head.as_bytes()).unwrap();
        // What the client sends comes back.
        while stream.read_exact(&mut byte).is_ok() {
            stream.write_all(&byte).unwrap();
        }
    });
    let plane = Plane::builder().engines(&[&engine]).start();
    let open = || {
        let mut client = plane.connect();
        client.write(
            b"GET /v1/realtime?model=m HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer secret\r\n\
            Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
            Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\nx",
        );
        client.head();
        client.read_exact(&mut [0]);
        client
    };
    let still = AtomicUsize::new(0);
    let first = open();
    let before = settled(&still);
    let clients: Vec<Client> = (0..CLIENTS).map(|_| open()).collect();
    let held = (settled(&still) - before) / CLIENTS;
    assert!(held <= 16 * KB, "{held} bytes");
    drop((first, clients));
    plane.assert_idle();
}
