//! Token usage: asks engines for it, reads it in their responses, and adds GPUStack's timings to
//! it.
//!
//! An engine is asked for the usage of every streamed chat and completion
//! (`stream_options.include_usage`), by an edit of the client's own object. If the client did not
//! ask for it, it is cut out of the response again: the frame with `usage` and an empty `choices`.
//! Many programs read `choices[0]` of every frame, and fail on it.
//!
//! Frames are searched for `"usage"` as engines write it; an escaped key is not found. Inside a
//! JSON string those bytes cannot stand, since its quotes are escaped. Whole responses, and frames
//! too long to be held back, are read by `response_usage`.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::ops::Range;
use std::sync::LazyLock;

use bytes::Bytes;
use memchr::memmem::Finder as Needle;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::codec::json::find_last;
use crate::codec::sse;

/// Inserted before the closing brace of a request without `stream_options`. The request has at
/// least `model` before it, hence the comma.
pub const STREAM_OPTIONS_MEMBER: &[u8] = br#","stream_options":{"include_usage":true}"#;

static USAGE: LazyLock<Needle<'static>> = LazyLock::new(|| Needle::new(b"\"usage\""));

/// The replacement of a range of bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edit {
    /// The bytes to replace, counted from the first byte of the value that was looked at.
    pub range: Range<usize>,
    /// The replacement.
    pub text: Bytes,
}

/// The edit after which a `stream_options` value asks for usage; None when it asks already. The
/// value is one whole JSON value, as [`crate::codec::json::Scanner`] has accepted it. Of equal keys
/// the last counts, as in Python.
pub fn ask_for_usage(stream_options: &[u8]) -> Option<Edit> {
    let Some((b'{', inside)) = stream_options.split_first() else {
        return Some(edit(0..stream_options.len(), br#"{"include_usage":true}"#));
    };
    match find_last(stream_options, &["include_usage"]) {
        Some(range) if &stream_options[range.clone()] == b"true" => None,
        Some(range) => Some(edit(range, b"true")),
        None if inside.trim_ascii_start().starts_with(b"}") => {
            Some(edit(1..1, br#""include_usage":true"#))
        }
        None => Some(edit(1..1, br#""include_usage":true,"#)),
    }
}

fn edit(range: Range<usize>, text: &'static [u8]) -> Edit {
    Edit { range, text: Bytes::from_static(text) }
}

/// The tokens of one request, counted alike in all dialects. None is what the engine did not say,
/// which is not 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt, cached ones included.
    pub input: Option<u64>,
    /// Generated tokens, reasoning included.
    pub output: Option<u64>,
    /// Tokens of the prompt that came from the engine's cache.
    pub cached: Option<u64>,
}

/// Points in time of one request, in milliseconds since its head.
#[derive(Clone, Copy, Debug)]
pub struct Timings {
    /// The first frame was passed to the client.
    pub first_ms: f64,
    /// Now.
    pub elapsed_ms: f64,
}

/// Reads the usage in a stream of any kind as it passes: of chat and completions (`usage`), of
/// Responses (`response.usage`), of Messages (`message.usage` in `message_start`, `usage` in
/// `message_delta`).
#[derive(Debug, Default)]
pub struct EventUsage {
    seen: Counts,
}

impl EventUsage {
    /// Reads whole frames.
    pub fn read(&mut self, frames: &[u8]) {
        for range in sse::frames_with(frames, &USAGE) {
            let json = sse::data(&frames[range]).unwrap_or_default();
            if let Some(chunk) = Chunk::of(&json) {
                self.seen.update(&chunk.counts());
            }
        }
    }

    /// Takes over the counts of a frame that was too long to be read whole.
    pub(crate) fn add(&mut self, counts: &Counts) {
        self.seen.update(counts);
    }

    /// The newest usage so far; None while there is none.
    pub fn usage(&self) -> Option<Usage> {
        self.seen.usage()
    }
}

/// Usage in a stream of chat or completions: read as by [`EventUsage`], cut out, or completed with
/// timings.
#[derive(Debug)]
pub struct StreamUsage {
    cut_usage_frame: bool,
    add_timings: bool,
    seen: Counts,
}

impl StreamUsage {
    /// `cut_usage_frame`: the client did not ask for the frame. `add_timings`: GPUStack's members
    /// are wanted in it.
    pub fn new(cut_usage_frame: bool, add_timings: bool) -> Self {
        Self { cut_usage_frame, add_timings, seen: Counts::default() }
    }

    /// Edits whole frames; the last one may be cut off at the stream's end. None: they pass
    /// unchanged. Only usage-only frames are changed: cut out, or completed before the closing
    /// brace of their `usage`. `timings` is called when they are needed.
    pub fn push(&mut self, frames: &[u8], timings: impl FnOnce() -> Timings) -> Option<Vec<u8>> {
        USAGE.find(frames)?;
        let mut passed = Vec::new();
        let (mut copied, mut changed) = (0, false);
        let mut timings = Some(timings);
        for range in sse::frames_with(frames, &USAGE) {
            let frame = &frames[range.clone()];
            let Some(json) = sse::data(frame) else { continue };
            let Some(chunk) = Chunk::of(&json) else { continue };
            self.seen.update(&chunk.counts());
            let Some(usage) = chunk.usage_alone() else { continue };
            if self.cut_usage_frame {
                passed.extend_from_slice(&frames[copied..range.start]);
            } else if self.add_timings
                && let Cow::Borrowed(json) = json
                && let Some(at) = place_of_timings(frame, json, usage)
                && let Some(timings) = timings.take()
            {
                let at = range.start + at;
                passed.extend_from_slice(&frames[copied..at]);
                passed.extend_from_slice(timings().members(self.seen.output).as_bytes());
                passed.extend_from_slice(&frames[at..range.end]);
            } else {
                continue;
            }
            changed = true;
            copied = range.end;
        }
        changed.then(|| {
            passed.extend_from_slice(&frames[copied..]);
            passed
        })
    }

    /// Takes over the counts of a frame that was too long to be read whole.
    pub(crate) fn add(&mut self, counts: &Counts) {
        self.seen.update(counts);
    }

    /// The newest usage so far; None while there is none.
    pub fn usage(&self) -> Option<Usage> {
        self.seen.usage()
    }
}

/// The index in the frame of the `}` of a `usage` that is to get timings; None when it gets none.
/// `json` is the frame's only line of data: data of several lines has no place in the frame.
fn place_of_timings(frame: &[u8], json: &[u8], usage: &RawValue) -> Option<usize> {
    let tokens: Tokens<'_> = serde_json::from_str(usage.get()).ok()?;
    let wanted = tokens.prompt_tokens.is_some() && tokens.tokens_per_second.is_none();
    let brace = offset_in(json, usage.get())? + usage.get().len() - 1;
    wanted.then_some(offset_in(frame, json)? + brace)
}

/// The offset of `part` in `whole`, of which it is a part.
fn offset_in(whole: &[u8], part: impl AsRef<[u8]>) -> Option<usize> {
    (part.as_ref().as_ptr() as usize).checked_sub(whole.as_ptr() as usize)
}

impl Timings {
    /// GPUStack's members of a `usage`, each with a comma before it: the time to the first token,
    /// the time per further token, and tokens per second as 1000 / the latter. A member that cannot
    /// be computed is left out.
    fn members(self, output: Option<u64>) -> String {
        let mut members = String::new();
        if self.first_ms.is_finite() && self.first_ms >= 0.0 {
            let _ = write!(members, ",\"time_to_first_token_ms\":{:.0}", self.first_ms);
        }
        let Some(output) = output.filter(|&output| output > 0) else { return members };
        let each = (self.elapsed_ms - self.first_ms) / (output - 1).max(1) as f64;
        if each.is_finite() && each >= 0.0 {
            let _ = write!(members, ",\"time_per_output_token_ms\":{each:.2}");
            let rate = 1000.0 / each;
            if rate.is_finite() {
                let _ = write!(members, ",\"tokens_per_second\":{rate:.2}");
            }
        }
        members
    }
}

/// The data of a frame, as far as it matters. Members may be of any type.
#[derive(Deserialize)]
struct Chunk<'a> {
    #[serde(borrow)]
    usage: Option<&'a RawValue>,
    #[serde(borrow)]
    choices: Option<&'a RawValue>,
    #[serde(borrow)]
    response: Option<&'a RawValue>,
    #[serde(borrow)]
    message: Option<&'a RawValue>,
}

/// An object inside an event that has a `usage`.
#[derive(Deserialize)]
struct Inner<'a> {
    #[serde(borrow)]
    usage: Option<&'a RawValue>,
}

impl<'a> Chunk<'a> {
    fn of(json: &'a [u8]) -> Option<Self> {
        // An array could be read as the members in order.
        let is_object = json.trim_ascii_start().starts_with(b"{");
        serde_json::from_slice(json).ok().filter(|_| is_object)
    }

    /// The counts of the frame, wherever it has its `usage`; empty when it has none.
    fn counts(&self) -> Counts {
        let inner = |outer: Option<&'a RawValue>| {
            serde_json::from_str::<Inner<'a>>(outer?.get()).ok()?.usage
        };
        let usage = self.usage.or_else(|| inner(self.response)).or_else(|| inner(self.message));
        usage.and_then(|usage| Counts::of(usage.get())).unwrap_or_default()
    }

    /// The `usage` object of a usage-only frame: its `choices` are an empty array.
    fn usage_alone(&self) -> Option<&'a RawValue> {
        let choices = self.choices?.get().strip_prefix('[')?;
        let alone = choices.trim_start_matches([' ', '\t', '\r', '\n']) == "]";
        self.usage.filter(|usage| alone && usage.get().starts_with('{'))
    }
}

/// Members of a `usage` that count, by their names in all dialects.
#[derive(Deserialize)]
#[expect(clippy::struct_field_names, reason = "the names of the wire")]
struct Tokens<'a> {
    #[serde(borrow)]
    prompt_tokens: Option<&'a RawValue>,
    #[serde(borrow)]
    completion_tokens: Option<&'a RawValue>,
    #[serde(borrow)]
    total_tokens: Option<&'a RawValue>,
    #[serde(borrow)]
    input_tokens: Option<&'a RawValue>,
    #[serde(borrow)]
    output_tokens: Option<&'a RawValue>,
    #[serde(borrow)]
    cache_read_input_tokens: Option<&'a RawValue>,
    #[serde(borrow)]
    cache_creation_input_tokens: Option<&'a RawValue>,
    #[serde(borrow)]
    prompt_tokens_details: Option<&'a RawValue>,
    #[serde(borrow)]
    input_tokens_details: Option<&'a RawValue>,
    #[serde(borrow)]
    tokens_per_second: Option<&'a RawValue>,
}

/// Details of a prompt's tokens.
#[derive(Deserialize)]
struct Details<'a> {
    #[serde(borrow)]
    cached_tokens: Option<&'a RawValue>,
}

/// Counts so far. Later frames may leave out what earlier ones said, as `message_delta` does.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    input: Option<u64>,
    output: Option<u64>,
    cached: Option<u64>,
    /// Anthropic's `input_tokens` excludes cached tokens; OpenAI's `prompt_tokens` includes them.
    cache_read: Option<u64>,
    cache_creation: Option<u64>,
}

impl Counts {
    /// The counts of a `usage` object; None for one that is broken.
    pub(crate) fn of(usage: &str) -> Option<Self> {
        let tokens: Tokens<'_> = serde_json::from_str(usage).ok()?;
        let details = tokens.prompt_tokens_details.or(tokens.input_tokens_details);
        let cached = details.and_then(|details| {
            serde_json::from_str::<Details<'_>>(details.get()).ok()?.cached_tokens
        });
        // `prompt_tokens` includes the cached ones, so they must not be added to it.
        let outside = tokens.prompt_tokens.is_none();
        let input = count(tokens.prompt_tokens.or(tokens.input_tokens));
        let output = count(tokens.completion_tokens.or(tokens.output_tokens));
        // Jina's rankings and embeddings say the total alone, all of it the prompt's.
        let total = || count(tokens.total_tokens).filter(|_| output.is_none());
        Some(Self {
            input: input.or_else(total),
            output,
            cached: count(cached),
            cache_read: count(tokens.cache_read_input_tokens.filter(|_| outside)),
            cache_creation: count(tokens.cache_creation_input_tokens.filter(|_| outside)),
        })
    }

    fn update(&mut self, newer: &Self) {
        self.input = newer.input.or(self.input);
        self.output = newer.output.or(self.output);
        self.cached = newer.cached.or(self.cached);
        self.cache_read = newer.cache_read.or(self.cache_read);
        self.cache_creation = newer.cache_creation.or(self.cache_creation);
    }

    /// None: the engine has counted nothing.
    pub(crate) fn usage(&self) -> Option<Usage> {
        if self.input.is_none() && self.output.is_none() {
            return None;
        }
        let outside = self.cache_read.unwrap_or(0).saturating_add(self.cache_creation.unwrap_or(0));
        Some(Usage {
            input: self.input.map(|input| input.saturating_add(outside)),
            output: self.output,
            cached: self.cached.or(self.cache_read),
        })
    }
}

/// A whole number that is not negative; None for anything else.
fn count(value: Option<&RawValue>) -> Option<u64> {
    value?.get().parse().ok()
}
