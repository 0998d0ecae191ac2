//! How long the pure half takes: `cargo bench -p gpustack-fast-sans-io --bench pure`. Each figure
//! is the best of nine runs, which on a busy machine is the one least disturbed.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on says where"
)]

use std::hint::black_box;
use std::ops::Range;
use std::time::Instant;

use sans_io::api::endpoints::ModelPlace;
use sans_io::api::usage::{StreamUsage, Timings};
use sans_io::codec::json::{Finder, Scanner};
use sans_io::{
    api::stream_fields::{is_terminal, rename_model},
    codec::sse::{frames, last_edge},
};

const FRAME: &[u8] = b"data: {\"id\":\"chatcmpl-0123456789abcdef01234567\",\"object\":\"chat.completion.chunk\",\
\"created\":1700000000,\"model\":\"Qwen/Qwen3-8B\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\" hello\"},\
\"logprobs\":null,\"finish_reason\":null}]}\n\n";

fn main() {
    scanning();
    framing();
}

fn scanning() {
    let chat = format!(
        "{{\"model\":\"smollm2\",\"messages\":[{{\"role\":\"system\",\"content\":\"You are a helpful assistant. {}\"}},\
         {{\"role\":\"user\",\"content\":\"{}\"}}],\"temperature\":0.7,\"max_tokens\":128,\"stream\":true,\
         \"stream_options\":{{\"include_usage\":true}}}}",
        "Be kind. ".repeat(30),
        "What is the capital of France?\\n".repeat(16),
    );
    let image = format!("{{\"image\":\"{}\",\"model\":\"smollm2\"}}", "QUJD".repeat(2_500_000));
    let escapes =
        format!("{{\"text\":\"{}\",\"model\":\"smollm2\"}}", "line\\n\\\"q\\\" ".repeat(100_000));
    let tokens = format!("{{\"input\":[{}0],\"model\":\"smollm2\"}}", "12345,".repeat(200_000));
    for (name, body, times) in [
        ("chat", &chat, 20_000),
        ("base64", &image, 5),
        ("escapes", &escapes, 5),
        ("token ids", &tokens, 5),
    ] {
        measure(&format!("scan {name}, {} bytes", body.len()), times, || scan([body.as_bytes()]));
    }
    measure("scan base64 in reads of 16 KiB", 5, || scan(image.as_bytes().chunks(16 << 10)));
}

fn scan<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> bool {
    let mut scanner = Scanner::new(128);
    pieces.into_iter().all(|piece| scanner.feed(black_box(piece)).is_ok()) && scanner.end().is_ok()
}

fn framing() {
    let many = FRAME.repeat(64);
    let unfinished = &many[..many.len() - 1];
    let long = [b"data: ".as_slice(), &vec![b'x'; 2 << 20]].concat();
    measure("the model in a chunk", 50_000, || find_model(black_box(&FRAME[6..])));
    measure("rename_model in a frame", 50_000, || {
        rename_model(black_box(FRAME), ModelPlace::TopLevel, b"\"smollm2\"")
    });
    let now = || Timings { first_ms: 1.0, elapsed_ms: 2.0 };
    let mut usage = StreamUsage::new(true, true);
    measure("usage: 64 frames without any", 50_000, || usage.push(black_box(&many), now));
    measure("is_terminal of a frame", 50_000, || is_terminal(black_box(FRAME)));
    measure("last_edge at the buffer's end", 50_000, || last_edge(black_box(&many), 0));
    measure("last_edge one frame back", 50_000, || last_edge(black_box(unfinished), 0));
    measure("frames, 64 of them", 5_000, || frames(black_box(&many)).count());
    measure("last_edge over 2 MiB in one-byte reads", 1, || {
        (0..long.len())
            .all(|end| last_edge(black_box(&long[..end]), end.saturating_sub(1)).is_none())
    });
}

fn find_model(json: &[u8]) -> Option<Range<usize>> {
    let mut finder = Finder::string(&["model"]);
    finder.feed(json);
    finder.found()
}

#[expect(clippy::print_stdout, reason = "figures are what this program is for")]
fn measure<T>(name: &str, times: u32, mut work: impl FnMut() -> T) {
    let mut best = f64::MAX;
    for _ in 0..9 {
        let start = Instant::now();
        for _ in 0..times {
            black_box(work());
        }
        best = best.min(start.elapsed().as_secs_f64() * 1e9 / f64::from(times));
    }
    println!("{name:<44}{best:>14.1} ns");
}
