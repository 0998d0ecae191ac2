//! A closed loop of requests over keep-alive connections. Every response is compared with the bytes
//! that the mock engine sends; the first one that differs ends the run with an error.
//!
//! `load '{"target": "http://127.0.0.1:8080", "connections": 32, "seconds": 4}'` prints one JSON
//! document.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::cell::RefCell;
use std::io;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};

use gpustack_fast_bench_kit::address::{Address, BoxedConnection};
use gpustack_fast_bench_kit::http1::{self, Incoming};
use gpustack_fast_bench_kit::responses::{self, Order};
use gpustack_fast_bench_kit::{runtime, settings};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncWriteExt, ReadHalf, WriteHalf};

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Settings {
    target: Address,
    /// Sent as a bearer token.
    key: String,
    model: String,
    connections: usize,
    /// No request begins later than this; those in flight are finished and counted.
    seconds: f64,
    /// Ends the run earlier: requests in all, over all connections.
    requests: u64,
    body_bytes: usize,
    /// Frames of each stream; 0 asks for whole responses.
    frames: usize,
    pause_ms: u64,
    frame_bytes: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            target: Address::Tcp("127.0.0.1:8080".to_owned()),
            key: String::new(),
            model: "mock".to_owned(),
            connections: 32,
            seconds: 4.0,
            requests: u64::MAX,
            body_bytes: 1024,
            frames: 0,
            pause_ms: 0,
            frame_bytes: responses::FRAME_BYTES,
        }
    }
}

/// What is the same for all requests of a run.
struct Plan {
    request: Vec<u8>,
    expected: Vec<u8>,
    /// Frames of one response and the length of each; no frames in a whole response.
    frames: usize,
    frame_bytes: usize,
    deadline: Instant,
}

impl Plan {
    fn new(settings: &Settings) -> Self {
        let streamed = settings.frames > 0;
        let order = Order {
            frames: streamed.then_some(settings.frames),
            pause: settings.pause_ms,
            usage: false,
        };
        let body = responses::request(&settings.model, settings.body_bytes, order);
        let frame = responses::frame(&settings.model, settings.frame_bytes);
        let expected = if streamed {
            [frame.repeat(settings.frames), responses::DONE.to_vec()].concat()
        } else {
            responses::completion(&settings.model)
        };
        Self {
            request: request(settings, &body),
            expected,
            frames: settings.frames,
            frame_bytes: frame.len(),
            deadline: Instant::now() + Duration::from_secs_f64(settings.seconds),
        }
    }
}

/// The headers that the openai SDK sends, more or less.
fn request(settings: &Settings, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: {}\r\nAccept: application/json\r\n\
         Content-Type: application/json\r\nUser-Agent: gpustack-fast-bench\r\nAuthorization: Bearer {}\r\n\
         Content-Length: {}\r\n\r\n",
        settings.target.host(),
        settings.key,
        body.len()
    );
    [head.as_bytes(), body].concat()
}

/// What was seen, over all connections. Times in microseconds.
#[derive(Default)]
struct Seen {
    started: u64,
    frames: u64,
    latencies: Vec<u32>,
    first_frames: Vec<u32>,
    gaps: Vec<u32>,
}

fn microseconds(span: Duration) -> u32 {
    u32::try_from(span.as_micros()).unwrap_or(u32::MAX)
}

/// One response on its way: how far it agrees with what is expected, and when its frames came.
struct Check<'a> {
    plan: &'a Plan,
    seen: &'a RefCell<Seen>,
    at: usize,
    frames: usize,
    begun: Instant,
    last: Instant,
}

impl<'a> Check<'a> {
    fn begin(plan: &'a Plan, seen: &'a RefCell<Seen>) -> Self {
        let now = Instant::now();
        Self { plan, seen, at: 0, frames: 0, begun: now, last: now }
    }

    fn piece(&mut self, piece: &[u8]) -> io::Result<()> {
        let end = self.at + piece.len();
        if self.plan.expected.get(self.at..end) != Some(piece) {
            let text = format!(
                "A response differs from the engine's at its byte {} or soon after.",
                self.at
            );
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        self.at = end;
        let frames = (end / self.plan.frame_bytes).min(self.plan.frames);
        if frames > self.frames {
            self.note_frames(frames);
        }
        Ok(())
    }

    fn note_frames(&mut self, frames: usize) {
        let now = Instant::now();
        let mut seen = self.seen.borrow_mut();
        if self.frames == 0 {
            seen.first_frames.push(microseconds(now - self.begun));
        } else {
            seen.gaps.push(microseconds(now - self.last));
        }
        self.frames = frames;
        self.last = now;
    }

    fn finish(self) -> io::Result<()> {
        if self.at != self.plan.expected.len() {
            let text = format!(
                "A response ended after {} of {} bytes.",
                self.at,
                self.plan.expected.len()
            );
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        let mut seen = self.seen.borrow_mut();
        seen.frames += self.frames as u64;
        seen.latencies.push(microseconds(self.begun.elapsed()));
        Ok(())
    }
}

async fn exchange(
    read: &mut Incoming<ReadHalf<BoxedConnection>>,
    write: &mut WriteHalf<BoxedConnection>,
    plan: &Plan,
    seen: &RefCell<Seen>,
) -> io::Result<()> {
    let mut check = Check::begin(plan, seen);
    write.write_all(&plan.request).await?;
    let head = read.head().await?;
    let status = http1::status(&head)?;
    if status != 200 {
        return Err(io::Error::other(format!("A response had the status {status}.")));
    }
    read.body(http1::framing(&head)?, |piece| check.piece(piece)).await?;
    check.finish()
}

async fn connection(
    settings: Rc<Settings>,
    plan: Rc<Plan>,
    seen: Rc<RefCell<Seen>>,
) -> io::Result<()> {
    let (read, mut write) = tokio::io::split(settings.target.connect().await?);
    let mut read = Incoming::new(read);
    while Instant::now() < plan.deadline && seen.borrow().started < settings.requests {
        seen.borrow_mut().started += 1;
        exchange(&mut read, &mut write, &plan, &seen).await?;
    }
    Ok(())
}

#[derive(Serialize)]
struct Percentiles {
    p50: u32,
    p90: u32,
    p99: u32,
    p999: u32,
    max: u32,
}

impl Percentiles {
    fn of(mut values: Vec<u32>) -> Option<Self> {
        values.sort_unstable();
        let at = |share: f64| values[((values.len() - 1) as f64 * share) as usize];
        let max = *values.last()?;
        Some(Self { p50: at(0.5), p90: at(0.9), p99: at(0.99), p999: at(0.999), max })
    }
}

/// What is printed. Times in microseconds.
#[derive(Serialize)]
struct Report {
    requests: usize,
    frames: u64,
    seconds: f64,
    requests_per_second: f64,
    frames_per_second: f64,
    latency: Option<Percentiles>,
    first_frame: Option<Percentiles>,
    gap: Option<Percentiles>,
}

async fn run(settings: Settings) -> io::Result<Report> {
    let plan = Rc::new(Plan::new(&settings));
    let settings = Rc::new(settings);
    let seen = Rc::new(RefCell::new(Seen::default()));
    let begun = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..settings.connections {
        tasks.spawn_local(connection(settings.clone(), plan.clone(), seen.clone()));
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    let seconds = begun.elapsed().as_secs_f64();
    let seen = seen.take();
    Ok(Report {
        requests: seen.latencies.len(),
        frames: seen.frames,
        seconds,
        requests_per_second: seen.latencies.len() as f64 / seconds,
        frames_per_second: seen.frames as f64 / seconds,
        latency: Percentiles::of(seen.latencies),
        first_frame: Percentiles::of(seen.first_frames),
        gap: Percentiles::of(seen.gaps),
    })
}

fn measure() -> Result<String, String> {
    let settings: Settings = settings()?;
    let outcome = runtime().and_then(|runtime| {
        let local = tokio::task::LocalSet::new();
        local.block_on(&runtime, run(settings))
    });
    let report = outcome.map_err(|error| format!("The run is worth nothing: {error}"))?;
    serde_json::to_string(&report).map_err(|error| error.to_string())
}

fn main() -> ExitCode {
    match measure() {
        Ok(report) => {
            println!("{report}");
            ExitCode::SUCCESS
        }
        Err(sentence) => {
            eprintln!("load: {sentence}");
            ExitCode::FAILURE
        }
    }
}
