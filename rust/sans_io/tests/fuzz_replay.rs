//! The fuzz targets on stable Rust: the committed corpus first, then mutations of it for
//! `FUZZ_SECONDS` (default 10) each. `make fuzz` runs the same checks under libFuzzer.
//!
//! The generator has a fixed seed, so a failure repeats; its input is written to
//! `CARGO_TARGET_TMPDIR`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test that cannot go on says where"
)]

use std::num::NonZero;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::sync::{Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

#[path = "../../fuzz/checks/errors.rs"]
mod errors;
#[path = "../../fuzz/checks/http1.rs"]
mod http1;
#[path = "../../fuzz/checks/json.rs"]
mod json;
#[path = "../../fuzz/checks/messages.rs"]
mod messages;
#[path = "../../fuzz/checks/multipart.rs"]
mod multipart;
#[path = "../../fuzz/checks/requests.rs"]
mod requests;
#[path = "../../fuzz/checks/sse.rs"]
mod sse;

/// Pieces that mutations put in, so that they meet the words that matter.
const JSON_WORDS: &[&str] = &[
    "\"model\":\"m\",",
    "\"mod\\u0065l\":",
    "\"stream\":true",
    "\"stream_options\":{",
    "\"include_usage\":true",
    "\"previous_response_id\":",
    "\"",
    "\\",
    "\\u",
    "\\ud83d",
    "\\ude00",
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    " ",
    "\n",
    "NaN",
    "-Infinity",
    "1e400",
    "-0.0",
    "01",
    "true",
    "null",
    "\u{feff}",
    "€",
    "{\"a\":[1,{\"model\":\"x\"}]}",
    "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
];
const SSE_WORDS: &[&str] = &[
    "\n",
    "\r",
    "\r\n",
    "\n\n",
    "\r\n\r\n",
    "\r\r",
    "data:",
    "data: ",
    "data: {\"model\":\"m\"}",
    "data: [DONE]",
    "event: error\n",
    "event: message_stop",
    "event: response.completed",
    ": ping",
    "id: 1",
    "retry: 1",
    "{\"model\":",
    "\"response\":{",
    "\"message\":{",
    "\"id\":",
    "\"usage\":{",
    "\"usage\":null",
    "\"prompt_tokens\":3",
    "\"choices\":[]",
    "\"choices\":null,",
    "\"finish_reason\":\"stop\"",
    "data: {\"choices\":[{\"finish_reason\":\"stop\"}]}\n\n",
    "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":1},\"timings\":{}}\n\n",
    "\"x\"",
    "}",
    "\u{2028}",
];

const HTTP_WORDS: &[&str] = &[
    "\r\n",
    "\n",
    "\r",
    "HTTP/1.1 200 OK\r\n",
    "HTTP/1.1 103 Early Hints\r\n\r\n",
    "content-length: 3\r\n",
    "transfer-encoding: chunked\r\n",
    "connection: close\r\n",
    "\r\n\r\n",
    "0\r\n\r\n",
    "3\r\nabc\r\n",
    "ffffffffffffffff\r\n",
    "00000000000000001\r\n",
    ";",
    " ",
    "-1",
    "a: b\r\n",
];

const REQUEST_WORDS: &[&str] = &[
    "\r\n",
    "\n",
    "\r",
    "\r\n\r\n",
    "\n\n",
    " ",
    "\t",
    ":",
    "\0",
    "GET / HTTP/1.1\r\n",
    "HTTP/1.0",
    "HTTP/1.1",
    "HTTP/2.0",
    "content-length: 3\r\n",
    "content-length: 18446744073709551615\r\n",
    "transfer-encoding: chunked\r\n",
    "transfer-encoding: gzip, chunked\r\n",
    "connection: close, x\r\n",
    "connection: keep-alive\r\n",
    "host: x\r\n",
    "a: b\r\n",
    " folded\r\n",
    "\u{e9}",
    "-1",
    ",",
    "%",
    "?",
];

const MESSAGE_WORDS: &[&str] = &[
    "\n\n",
    "\r\n\r\n",
    "data: ",
    "data: [DONE]\n\n",
    ": comment\n\n",
    "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"x\"}}]}\n\n",
    "data: {\"choices\":[{\"delta\":{\"tool_calls\":[{\"index\":0,\"function\":{\"arguments\":\"{}\"}}]}}]}\n\n",
    "data: {\"choices\":[{\"delta\":{\"tool_calls\":[{\"index\":1,\"id\":\"i\",\"function\":{\"name\":\"n\"}}]}}]}\n\n",
    "data: {\"error\":\"e\"}\n\n",
    "\"index\":1,",
    "\"finish_reason\":\"stop\"",
    "\"type\":\"text\"",
    "\"type\":\"tool_result\",\"tool_use_id\":\"t\"",
    "\"type\":\"tool_use\",\"id\":\"t\",\"name\":\"n\"",
    "\"type\":\"redacted_thinking\"",
    "\"type\":\"thinking\",\"thinking\":\"t\"",
    "{\"role\":\"system\",\"content\":\"s\"},",
    "{\"role\":\"user\",\"content\":\"\"},",
    "{\"role\":\"assistant\",\"content\":[]},",
    "\"type\":\"document\",\"source\":",
    "\"source\":{\"type\":\"content\",\"content\":",
    "\"content\":[{",
    "\\ud800",
    "\\\"",
    "[",
    "{",
    "}",
    "]",
    ",",
    "null",
    "\"\"",
    "1e400",
    "-",
];

const ERROR_WORDS: &[&str] = &[
    "\n\n",
    "data: ",
    "event: error\n",
    "\"error\":",
    "\"response\":{",
    "\"message\":\"tiny\"",
    "\"code\":400",
    "\"code\":null",
    "\"code\":\"429\"",
    "\"type\":\"api_error\"",
    "\"type\":\"BadRequestError\"",
    "\"request_id\":\"r\"",
    "maximum context length is 9 tokens",
    "prompt is too long: 8 tokens > 7 maximum",
    " in the messages",
    "is too large: 99999",
    "tiny",
    "\"",
    "\\ud800",
    "{",
    "}",
    "[",
    "]",
    ",",
    "null",
    "1e400",
    "<html>",
];

const FORM_WORDS: &[&str] = &[
    "\r\n",
    "\n",
    "\r",
    " ",
    "--x",
    "--x\r\n",
    "--x--",
    "\r\n--x\r\n",
    "\r\n--x \r\n",
    "\r\n--x--\r\n",
    "\r\n\r\n",
    "Content-Disposition: form-data; name=\"model\"\r\n",
    "\r\n--x\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nm",
    "\r\n--x\r\nContent-Disposition: form-data; name=\"stream\"\r\n\r\ntrue",
    "Content-Transfer-Encoding: base64\r\n",
    "; filename=\"a\"",
    "; filename*=UTF-8''a",
    "; name=model",
    "name=",
    "stream",
    "model",
    "\"",
    "\\",
    ";",
    "=",
];

#[test]
fn http1_agrees_with_itself_in_other_reads_and_with_a_plain_decoder() {
    fuzz("http1", HTTP_WORDS, http1::check);
}

#[test]
fn requests_agree_with_themselves_in_other_reads_and_with_a_plain_reader() {
    fuzz("requests", REQUEST_WORDS, requests::check);
}

#[test]
fn multipart_agrees_with_itself_in_other_splits_and_with_a_plain_reader() {
    fuzz("multipart", FORM_WORDS, multipart::check);
}

#[test]
fn json_agrees_with_serde_json() {
    fuzz("json", JSON_WORDS, json::check);
}

#[test]
fn sse_agrees_with_a_line_by_line_reader() {
    fuzz("sse", SSE_WORDS, sse::check);
}

#[test]
fn errors_always_become_the_dialects() {
    fuzz("errors", ERROR_WORDS, errors::check);
}

#[test]
fn messages_never_break_the_rules_of_a_messages_stream() {
    fuzz("messages", MESSAGE_WORDS, messages::check);
}

/// Replays `rust/fuzz/corpus/<target>`, then checks mutations of it until the time is over.
fn fuzz(target: &str, words: &[&str], check: fn(&[u8])) {
    let seeds = corpus(target);
    assert!(!seeds.is_empty(), "rust/fuzz/corpus/{target} is empty");
    for seed in &seeds {
        run(target, seed, check);
    }
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    let _core = Core::take();
    let end = Instant::now() + seconds();
    while Instant::now() < end {
        // Looking at the clock costs more than a small check.
        for _ in 0..64 {
            run(target, &mutated(&seeds, words, &mut random), check);
        }
    }
}

/// A core for one target, however many tests run at once: its seconds are not shared.
struct Core;

static TAKEN: Mutex<usize> = Mutex::new(0);
static RETURNED: Condvar = Condvar::new();

impl Core {
    /// Waits until there is one.
    fn take() -> Self {
        let cores = thread::available_parallelism().map_or(1, NonZero::get);
        let taken = TAKEN.lock().unwrap();
        *RETURNED.wait_while(taken, |taken| *taken >= cores).unwrap() += 1;
        Self
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        *TAKEN.lock().unwrap() -= 1;
        RETURNED.notify_one();
    }
}

fn seconds() -> Duration {
    match std::env::var("FUZZ_SECONDS") {
        Ok(text) => {
            Duration::from_secs(text.parse().expect("FUZZ_SECONDS is a whole number of seconds"))
        }
        Err(_) => Duration::from_secs(10),
    }
}

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
    let entries = std::fs::read_dir(&folder).expect("the corpus is part of the repository");
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("a readable folder").path()).collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).expect("a readable seed")).collect()
}

/// Checks one input; one that fails is kept as a file before the panic goes on.
fn run(target: &str, data: &[u8], check: fn(&[u8])) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| check(data))) {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{target}-failure"));
        std::fs::write(&path, data).expect("the build folder is writable");
        eprintln!("the input that fails is in {}: {}", path.display(), data.escape_ascii());
        resume_unwind(panic);
    }
}

/// A seed, or the start of one and the end of another, with up to eight small changes.
fn mutated(seeds: &[Vec<u8>], words: &[&str], random: &mut Random) -> Vec<u8> {
    let mut data = seeds[random.below(seeds.len())].clone();
    if random.below(4) == 0 {
        let other = &seeds[random.below(seeds.len())];
        data.truncate(random.below(data.len() + 1));
        data.extend_from_slice(&other[random.below(other.len() + 1)..]);
    }
    for _ in 0..random.below(9) {
        change(&mut data, words, random);
    }
    data
}

fn change(data: &mut Vec<u8>, words: &[&str], random: &mut Random) {
    let at = random.below(data.len() + 1);
    let end = (at + random.below(24)).min(data.len());
    match random.below(7) {
        0 => drop(data.drain(at..end)),
        1 => data.truncate(at),
        2 => data.insert(at, random.below(256) as u8),
        3 => data[at..end].iter_mut().take(1).for_each(|byte| *byte ^= 1 << random.below(8)),
        4 => {
            let copy = data[at..end].repeat(1 + random.below(8));
            data.splice(at..at, copy);
        }
        _ => drop(data.splice(at..at, words[random.below(words.len())].bytes())),
    }
}

/// Marsaglia's xorshift: the same numbers on every machine.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 32) as usize % limit
    }
}
