//! The reader of clients' requests beside hyper's server: what ours takes, hyper takes for the same
//! requests; what hyper takes and ours does not has a reason that is listed here.
//!
//! Behind the corpus so many heads are generated as one machine reads in some seconds, the same ones
//! in each run; with `DIFFERENTIAL_SECONDS` more, for so long.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test that cannot go on says where"
)]

use std::{
    cell::RefCell,
    convert::Infallible,
    rc::Rc,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use sans_io::codec::http1::request::{HeadError, HeadReader};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Requests of one connection, as far as they were read.
#[derive(Debug, Default, PartialEq)]
struct Read {
    requests: Vec<Seen>,
    /// The last one is not whole, or its framing is broken.
    broken: bool,
}

#[derive(Debug, PartialEq)]
struct Seen {
    line: String,
    fields: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
}

fn seen(method: &http::Method, uri: &http::Uri, headers: &HeaderMap, body: Vec<u8>) -> Seen {
    let fields = headers.iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec()));
    let mut fields: Vec<_> = fields.collect();
    fields.sort_by(|one, other| one.0.cmp(&other.0));
    Seen { line: format!("{method} {uri}"), fields, body }
}

/// Reads as our server does. The error is the one that ends the connection.
fn ours(bytes: &[u8]) -> (Read, Option<HeadError>) {
    let (mut reader, mut buffer) = (HeadReader::default(), BytesMut::from(bytes));
    let mut read = Read::default();
    loop {
        let head = match reader.take(&mut buffer) {
            Ok(Some(head)) => head,
            Ok(None) => return (read, None),
            Err(unreadable) => return (read, Some(unreadable.error)),
        };
        let mut decoder = head.decoder;
        let mut body = Vec::new();
        while !decoder.is_done() {
            let before = buffer.len();
            match decoder.decode(&mut buffer) {
                Ok(piece) => body.extend_from_slice(&piece.data),
                Err(_) => read.broken = true,
            }
            read.broken |= before == buffer.len() && !decoder.is_done();
            if read.broken {
                return (read, None);
            }
        }
        read.requests.push(seen(&head.method, &head.uri, &head.headers, body));
        if !head.keep_alive {
            return (read, None);
        }
    }
}

/// Reads as hyper's server does.
async fn hypers(bytes: &[u8]) -> Read {
    let (mut client, server) = tokio::io::duplex(1 << 20);
    let requests = Rc::new(RefCell::new(Read::default()));
    let noted = Rc::clone(&requests);
    let service = service_fn(move |request: Request<Incoming>| {
        let noted = Rc::clone(&noted);
        async move {
            let (parts, body) = request.into_parts();
            match body.collect().await {
                Ok(body) => noted.borrow_mut().requests.push(seen(
                    &parts.method,
                    &parts.uri,
                    &parts.headers,
                    body.to_bytes().to_vec(),
                )),
                Err(_) => noted.borrow_mut().broken = true,
            }
            Ok::<_, Infallible>(Response::new(Empty::<bytes::Bytes>::new()))
        }
    });
    client.write_all(bytes).await.unwrap();
    client.shutdown().await.unwrap();
    let serving =
        http1::Builder::new().half_close(true).serve_connection(TokioIo::new(server), service);
    let mut said = Vec::new();
    let (_, _) = tokio::join!(serving, client.read_to_end(&mut said));
    requests.take()
}

/// The requests that hyper takes and ours does not, with the reason.
fn is_explained(error: Option<HeadError>) -> bool {
    matches!(
        error,
        Some(
            // RFC 9112 2.2 lets a recipient take LF for a line's end; a proxy before us may not.
            HeadError::BareLineFeed
            // hyper lets Transfer-Encoding win, and takes a length that is repeated (RFC 9112 6.3).
            | HeadError::LengthAndChunked
            | HeadError::Length
            // hyper takes any list that ends with `chunked`.
            | HeadError::TransferCoding
            // hyper drops a fragment, and takes a host for a target, URLs of any scheme, and `*` with
            // any method.
            | HeadError::Target
        )
    )
}

/// Gives how many requests both took.
async fn check(bytes: &[u8]) -> usize {
    let (ours, error) = ours(bytes);
    let hypers = hypers(bytes).await;
    let shown = bytes.escape_ascii();
    for (one, other) in ours.requests.iter().zip(&hypers.requests) {
        assert_eq!(one, other, "{shown}");
    }
    assert!(
        ours.requests.len() <= hypers.requests.len() || hypers.broken,
        "ours takes more: {ours:?}, not {hypers:?}: {shown}"
    );
    if hypers.requests.len() > ours.requests.len() {
        // A chunk's framing that only hyper takes: a bare LF, blanks or control characters in the
        // size line, a trailer whose lines are no fields.
        assert!(is_explained(error) || ours.broken, "hyper alone takes {hypers:?}: {shown}");
    }
    ours.requests.len()
}

/// Connections whose bytes are generated, at least.
const GENERATED: usize = 150_000;

/// Pieces from which requests are put together.
const PIECES: &[&str] = &[
    "GET ",
    "POST ",
    "/",
    "/v1/x?y=1",
    "http://h/p",
    " HTTP/1.1\r\n",
    " HTTP/1.0\r\n",
    "Host: h\r\n",
    "Content-Length: 3\r\n",
    "Content-Length: 3\r\n",
    "content-length: 0\r\n",
    "\r\n",
    "\r\n",
    "\r\n\r\n",
    "abc",
    "Transfer-Encoding: chunked\r\n",
    "Transfer-Encoding: gzip, chunked\r\n",
    "3\r\nabc\r\n",
    "3;x=\"y\"\r\nabc\r\n",
    "0\r\n\r\n",
    "0\r\nT: x\r\n\r\n",
    "0\r\nT x\r\n\r\n",
    "a: b\r\n",
    "A:\t b \t\r\n",
    "Connection: close\r\n",
    "Connection: keep-alive\r\n",
    "Expect: 100-continue\r\n",
    "Expect: 200-ok\r\n",
    "\n",
    "\r",
    " ",
    ":",
    "\u{e9}",
    "#",
    "\0",
    "+3",
];

#[test]
fn ours_takes_what_hyper_takes_for_the_same_requests_and_nothing_else() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let seconds = std::env::var("DIFFERENTIAL_SECONDS").map_or(0, |text| text.parse().unwrap());
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus/requests");
    let mut seeds = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        seeds.push(std::fs::read(entry.unwrap().path()).unwrap());
    }
    seeds.sort();
    runtime.block_on(async {
        for seed in &seeds {
            check(seed).await;
        }
        let mut random = fastrand::Rng::with_seed(7);
        let end = Instant::now() + Duration::from_secs(seconds);
        let (mut cases, mut taken) = (0, 0);
        while cases < GENERATED || Instant::now() < end {
            cases += 1;
            taken += check(&generated(&mut random, &seeds)).await;
        }
        println!("{cases} connections, {taken} requests that both take");
        assert!(taken > cases / 4, "most of what is generated is rejected by both");
    });
}

/// A seed with some pieces in it, or a likely request of pieces alone, and then another one.
fn generated(random: &mut fastrand::Rng, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..random.usize(1..4) {
        if random.bool() {
            bytes.extend_from_slice(&seeds[random.usize(..seeds.len())]);
        } else {
            bytes.extend_from_slice(b"POST / HTTP/1.1\r\nHost: h\r\n");
            for _ in 0..random.usize(..6) {
                bytes.extend_from_slice(PIECES[random.usize(..PIECES.len())].as_bytes());
            }
            bytes.extend_from_slice(b"\r\n");
        }
    }
    for _ in 0..random.usize(..4) {
        let at = random.usize(..=bytes.len());
        match random.u8(..3) {
            0 => drop(bytes.splice(at..at, PIECES[random.usize(..PIECES.len())].bytes())),
            1 => drop(bytes.drain(at..(at + random.usize(..5)).min(bytes.len()))),
            _ => bytes.truncate(at),
        }
    }
    bytes
}
