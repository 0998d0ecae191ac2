//! The memory that a translation takes, reckoned before it begins.
//!
//! Many small values become lists of far more bytes than their text, so each value is counted. The
//! bounds hold for the worst shape of each document (`core/tests/translation_memory.rs` measures
//! them), and ordinary ones cost less.

use memchr::memmem;

use crate::{api::endpoints::Operation, codec::json::Census};

/// The most bytes that one translation may take, the document itself included. What would take more
/// is answered 413, or 502 for an engine's response.
pub const TRANSLATION_MAX: u64 = 256 * 1024 * 1024;

/// The most tool calls in one chat completion that becomes a Message: each takes many times what it
/// is as text.
pub(crate) const CALLS_MAX: usize = 1024;

/// Buffers of fixed size, and what a translation writes once.
const FIXED: usize = 4 * 1024;
/// A shorter document is written without knowing its length, so that its memory is doubled where it
/// has to grow: three times its length in the worst moment.
pub(crate) const MEASURED: usize = 64 * 1024;
/// A buffer that is doubled as it grows takes so many times what is in it.
const DOUBLED: usize = 3;

/// What Anthropic's own tools are as functions: a request has one of each at most.
const CLIENT_TOOLS: usize = 16 * 1024;

/// The bytes for each value of a Messages request: its places in lists, twice while they grow, and
/// what is written around it or in its place.
const MESSAGES_VALUE: usize = 192;
/// The same of a request for a ranking.
const RERANK_VALUE: usize = 112;
/// The same of a ranking.
const RANKING_VALUE: usize = 64;
/// The same of a chat completion.
const COMPLETION_VALUE: usize = 64;
/// The bytes for each byte of a stream's frame: what waits, and its events, whose length is not
/// known before.
const EVENT: usize = 6;
/// The bytes for each of its values: a place in a list, twice while that grows.
const EVENT_VALUE: usize = 48;
/// The bytes for each value of a chat completion's tool calls.
const CALL_VALUE: usize = 448;
/// The bytes for each of these values in the events of a whole chat completion's calls.
const CALL_EVENTS: usize = 448;
/// The most values that make tool calls: each consists of two.
const CALL_VALUES: usize = 2 * CALLS_MAX;

/// The most bytes that the translation of a request takes beside its body, the result included.
pub fn of_request(operation: Operation, body: &[u8]) -> u64 {
    let census = Census::of(body);
    let (keys, values) = (DOUBLED * census.longest_escaped_key(), census.values());
    let cost = match operation {
        // The texts for the response, and the engine's request.
        Operation::Rerank => 2 * body.len() + RERANK_VALUE * values,
        Operation::Messages
        | Operation::CountTokens
        | Operation::Plain
        | Operation::Generate
        | Operation::CreateResponse => {
            let length = body.len() + census.expansion();
            written(length) + thinking(body, &census) + MESSAGES_VALUE * values + CLIENT_TOOLS
        }
    };
    (cost + keys + FIXED) as u64
}

/// What an assistant thought is written under two names.
fn thinking(body: &[u8], census: &Census) -> usize {
    let may_think =
        memmem::find(body, b"\"thinking\"").is_some() || census.longest_escaped_key() > 0;
    if may_think { written(body.len()) - body.len() } else { 0 }
}

/// The same for a chat completion of this length that becomes a Message.
pub(crate) fn of_completion(length: usize, census: &Census) -> usize {
    let calls = CALL_VALUE * census.values().min(CALL_VALUES);
    let decoded = DOUBLED * census.longest_escaped();
    written(length + census.expansion())
        + COMPLETION_VALUE * census.values()
        + calls
        + decoded
        + FIXED
}

/// The same for a frame of a stream of chat completions, of this length.
pub(crate) fn of_event(length: usize, census: &Census) -> usize {
    EVENT * (length + census.expansion())
        + EVENT_VALUE * census.values()
        + CALL_VALUE * census.values().min(CALL_VALUES)
        + DOUBLED * census.longest_escaped()
        + FIXED
}

/// The same for a chat completion of this length that becomes a Message's events.
pub(crate) fn of_told_completion(length: usize, census: &Census) -> usize {
    of_event(length, census) + CALL_EVENTS * census.values().min(CALL_VALUES)
}

/// The same for a ranking of this length. `texts`: the bytes of the documents that go with it.
pub(crate) fn of_ranking(length: usize, texts: usize, census: &Census) -> usize {
    let keys = DOUBLED * census.longest_escaped_key();
    length + texts + RANKING_VALUE * census.values() + keys + FIXED
}

/// The strings that are made for a document of this length, and the document itself.
fn written(length: usize) -> usize {
    let document = if length > MEASURED { length } else { DOUBLED * length };
    length + document
}
