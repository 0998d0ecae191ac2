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
    io::Write,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use harness::{Client, Engine, Plane, chunk, read_request, request, request_with};

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
        read_request(&mut stream).unwrap();
        stream.write_all(STREAM_HEAD).unwrap();
        while let Ok(length) = stream.write(&bytes) {
            count.fetch_add(length, Ordering::SeqCst);
        }
    });
    (engine, written)
}

/// Waits until nothing moves any more, and gives the bytes of the heap.
fn settled(written: &AtomicUsize) -> usize {
    let mut last = (0, 0);
    let mut same = 0;
    while same < 10 {
        thread::sleep(Duration::from_millis(20));
        let now = (written.load(Ordering::SeqCst), HELD.load(Ordering::SeqCst));
        same = if now == last { same + 1 } else { 0 };
        last = now;
    }
    last.1
}

/// The bytes that each of some clients costs that read nothing of an endless stream.
fn held_by_each(unix: bool, served_name: &str, bytes: Vec<u8>) -> usize {
    const CLIENTS: usize = 8;
    let (engine, written) = endless(unix, bytes);
    let plane = Plane::builder().engines(&[&engine]).served_name(served_name).start();
    let ask = || {
        let mut client = plane.connect();
        client.write(request(BODY).as_bytes());
        client
    };
    // The first one also fills what all share.
    let first = ask();
    let before = settled(&written);
    let clients: Vec<Client> = (0..CLIENTS).map(|_| ask()).collect();
    let after = settled(&written);
    drop((first, clients));
    plane.assert_idle();
    (after - before) / CLIENTS
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
            let held = held_by_each(unix, served_name, chunk.clone());
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
    let sent = PIECES * piece.len();
    assert!((sent..2 * sent + 64 * KB).contains(&held), "{held} bytes of {sent}");
}
