//! Token usage: asks engines for it, reads it in their responses, and adds GPUStack's timings to
//! it.
//!
//! An engine is asked for the usage of every streamed chat and completion
//! (`stream_options.include_usage`), by an edit of the client's own object. If the client did not
//! ask for it, it is cut out of the response again, wherever it stands: a client sees what the
//! engine would have sent unasked. Engines then put what they say of a whole answer (llama.cpp's
//! `timings`, vLLM's `system_fingerprint`) into the frame of the last choice, and not into one of
//! the usage, which has no choices: many programs read `choices[0]` of every frame, and fail on it.
//! So the frame that finishes a choice waits for the next one, and takes from it what is left when
//! its usage is gone.
//!
//! Frames are searched for `"usage"` as engines write it; an escaped key is not found. Inside a
//! JSON string those bytes cannot stand, since its quotes are escaped. Whole responses, and frames
//! too long to be held back, are read by `response_usage`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::ops::Range;
use std::sync::LazyLock;

use bytes::Bytes;
use memchr::memmem::Finder as Needle;
use serde::Deserialize;
use serde_json::{Value, value::RawValue};

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

/// The edit after which a `stream_options` value asks for usage, and for no more of it than that;
/// None when it asks already, or is of a type that the engine refuses. The value is one whole JSON value, as
/// [`crate::codec::json::Scanner`] has accepted it. Of equal keys the last counts, as in Python.
///
/// `continuous_usage_stats` means nothing where the client did not ask for usage, and is turned
/// off: else vLLM would count in every frame.
pub fn ask_for_usage(stream_options: &[u8]) -> Option<Edit> {
    let Some((b'{', inside)) = stream_options.split_first() else {
        let asking = edit(0..stream_options.len(), br#"{"include_usage":true}"#);
        return (stream_options == b"null").then_some(asking);
    };
    let asking = match find_last(stream_options, &["include_usage"]) {
        Some(range) if &stream_options[range.clone()] == b"true" => return None,
        Some(range) => edit(range, b"true"),
        None if inside.trim_ascii_start().starts_with(b"}") => {
            edit(1..1, br#""include_usage":true"#)
        }
        None => edit(1..1, br#""include_usage":true,"#),
    };
    let continuous = find_last(stream_options, &["continuous_usage_stats"])
        .filter(|range| &stream_options[range.clone()] != b"false")
        .map(|range| edit(range, b"false"));
    Some(match continuous {
        None => asking,
        Some(off) if off.range.start < asking.range.start => both(stream_options, &off, &asking),
        Some(off) => both(stream_options, &asking, &off),
    })
}

/// Two edits as one. The first stands before the second.
fn both(value: &[u8], first: &Edit, second: &Edit) -> Edit {
    let between = &value[first.range.end..second.range.start];
    let text = [&*first.text, between, &*second.text].concat();
    Edit { range: first.range.start..second.range.end, text: text.into() }
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
    hides: bool,
    add_timings: bool,
    seen: Counts,
    /// The frame that finishes a choice, until it is known what follows it. Empty: none waits.
    last_choice: Vec<u8>,
}

impl StreamUsage {
    /// `hides`: the client did not ask for usage. `add_timings`: GPUStack's members are wanted in
    /// it.
    pub fn new(hides: bool, add_timings: bool) -> Self {
        Self { hides, add_timings, seen: Counts::default(), last_choice: Vec::new() }
    }

    /// Edits whole frames; the last one may be cut off at the stream's end. None: they pass
    /// unchanged. `timings` is called when they are needed.
    pub fn push(&mut self, frames: &[u8], timings: impl FnOnce() -> Timings) -> Option<Vec<u8>> {
        if self.hides {
            return self.hide(frames);
        }
        USAGE.find(frames)?;
        let mut passed = Vec::new();
        let mut copied = 0;
        let mut timings = Some(timings);
        for range in sse::frames_with(frames, &USAGE) {
            let frame = &frames[range.clone()];
            let Some(json) = sse::data(frame) else { continue };
            let Some(chunk) = Chunk::of(&json) else { continue };
            self.seen.update(&chunk.counts());
            if self.add_timings
                && let Some(usage) = chunk.usage_alone()
                && let Cow::Borrowed(json) = json
                && let Some(at) = place_of_timings(frame, json, usage)
                && let Some(timings) = timings.take()
            {
                let at = range.start + at;
                passed.extend_from_slice(&frames[copied..at]);
                passed.extend_from_slice(timings().members(self.seen.output).as_bytes());
                copied = at;
            }
        }
        (copied > 0).then(|| {
            passed.extend_from_slice(&frames[copied..]);
            passed
        })
    }

    /// The frame that still waits, for a stream that ends, or whose next frame is not edited.
    pub fn release(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.last_choice)
    }

    /// The memory of the frame that waits, in bytes.
    pub fn held(&self) -> usize {
        self.last_choice.capacity()
    }

    /// Cuts out all usage. None: the frames pass unchanged.
    fn hide(&mut self, frames: &[u8]) -> Option<Vec<u8>> {
        let waits = !self.last_choice.is_empty();
        if !waits && USAGE.find(frames).is_none() && !finishes(frames) {
            return None;
        }
        let mut passed = Vec::with_capacity(self.last_choice.len() + frames.len());
        let mut rest = frames;
        for frame in sse::frames(frames) {
            rest = &rest[frame.len()..];
            self.hide_in(frame, &mut passed);
        }
        // The part of a frame with which a stream breaks off.
        if !rest.is_empty() {
            self.hide_in(rest, &mut passed);
        }
        let unchanged = !waits && self.last_choice.is_empty() && passed == frames;
        (!unchanged).then_some(passed)
    }

    fn hide_in(&mut self, frame: &[u8], passed: &mut Vec<u8>) {
        let Some(data) = sse::data(frame) else {
            // A comment stays behind the frame that waits, and waits with it.
            let waits = !self.last_choice.is_empty();
            let order = if waits { &mut self.last_choice } else { passed };
            return order.extend_from_slice(frame);
        };
        let chunk = if USAGE.find(frame).is_some() { Chunk::of(&data) } else { None };
        if let Some(chunk) = &chunk {
            self.seen.update(&chunk.counts());
        }
        let usage = chunk.as_ref().and_then(Chunk::usage_object);
        let shown = match usage.and_then(|usage| without(&data, usage)) {
            None => Cow::Borrowed(frame),
            Some(json) if chunk.is_some_and(|chunk| chunk.has_no_choices()) => {
                let more = members_beside(&json, &ENVELOPE);
                if more.is_empty() {
                    return;
                }
                if !more.contains_key("error")
                    && let Some(last) = with_members(&self.last_choice, &more)
                {
                    passed.extend_from_slice(&last);
                    self.release();
                    return;
                }
                Cow::Owned(with_data(frame, &json))
            }
            Some(json) => Cow::Owned(with_data(frame, &json)),
        };
        passed.append(&mut self.release());
        if finishes(&shown) {
            self.last_choice.extend_from_slice(&shown);
        } else {
            passed.extend_from_slice(&shown);
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

/// Members that every frame of a stream has.
const ENVELOPE: [&str; 5] = ["id", "object", "created", "model", "choices"];

static FINISH: LazyLock<Needle<'static>> = LazyLock::new(|| Needle::new(b"\"finish_reason\""));

/// Whether a choice is finished in these frames. In the usual frame the reason is null.
fn finishes(frames: &[u8]) -> bool {
    let mut rest = frames;
    // Its own iterator would copy the searcher for every read.
    while let Some(at) = FINISH.find(rest) {
        rest = &rest[at + FINISH.needle().len()..];
        let value = rest.trim_ascii_start().strip_prefix(b":");
        if value.is_some_and(|value| value.trim_ascii_start().starts_with(b"\"")) {
            return true;
        }
    }
    false
}

/// The JSON object without the member whose value `part` is.
fn without(json: &[u8], part: &RawValue) -> Option<Vec<u8>> {
    let start = offset_in(json, part.get())?;
    let end = start + part.get().len();
    // The key has no quote inside.
    let quote = |before: usize| memchr::memrchr(b'"', &json[..before]);
    let key = quote(quote(start)?)?;
    let behind = json[end..].trim_ascii_start();
    let (start, end) = if behind.starts_with(b",") {
        (key, json.len() - behind.len() + 1)
    } else {
        let before = json[..key].trim_ascii_end();
        (before.strip_suffix(b",").map_or(key, <[u8]>::len), end)
    };
    Some([&json[..start], &json[end..]].concat())
}

/// The members of a JSON object, but for those of these names and nulls.
fn members_beside<'a>(json: &'a [u8], names: &[&str]) -> BTreeMap<String, &'a RawValue> {
    let mut members: BTreeMap<String, &RawValue> = serde_json::from_slice(json).unwrap_or_default();
    members.retain(|name, value| !names.contains(&name.as_str()) && value.get() != "null");
    members
}

/// The frame with those of the members that its data lacks; None: its data is no JSON object, or is
/// none that could be edited.
fn with_members(frame: &[u8], members: &BTreeMap<String, &RawValue>) -> Option<Vec<u8>> {
    let Cow::Borrowed(json) = sse::data(frame)? else { return None };
    let has = serde_json::from_slice::<BTreeMap<String, &RawValue>>(json).ok()?;
    let brace = offset_in(frame, json)? + json.trim_ascii_end().len() - 1;
    let mut edited = frame[..brace].to_vec();
    for (name, value) in members.iter().filter(|(name, _)| !has.contains_key(*name)) {
        edited.extend_from_slice(if edited.ends_with(b"{") { b"" } else { b"," });
        edited.extend_from_slice(Value::from(name.as_str()).to_string().as_bytes());
        edited.push(b':');
        edited.extend_from_slice(value.get().as_bytes());
    }
    edited.extend_from_slice(&frame[brace..]);
    Some(edited)
}

/// The frame with other data. Of data of several lines each line becomes one.
fn with_data(frame: &[u8], json: &[u8]) -> Vec<u8> {
    if let Some(Cow::Borrowed(data)) = sse::data(frame)
        && let Some(start) = offset_in(frame, data)
    {
        return [&frame[..start], json, &frame[start + data.len()..]].concat();
    }
    let mut edited = Vec::with_capacity(frame.len());
    let others = sse::lines(frame).filter(|line| sse::field(line).0 != b"data" && !line.is_empty());
    for line in others {
        edited.extend_from_slice(line);
        edited.push(b'\n');
    }
    for line in json.split(|&byte| byte == b'\n') {
        edited.extend_from_slice(b"data: ");
        edited.extend_from_slice(line);
        edited.push(b'\n');
    }
    edited.push(b'\n');
    edited
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
        self.usage_object().filter(|_| self.choices.is_some() && self.has_no_choices())
    }

    fn usage_object(&self) -> Option<&'a RawValue> {
        self.usage.filter(|usage| usage.get().starts_with('{'))
    }

    /// Whether its `choices` are missing, null or an empty array.
    fn has_no_choices(&self) -> bool {
        self.choices.is_none_or(|choices| {
            let inside = choices.get().strip_prefix('[').unwrap_or_default();
            inside.trim_start_matches([' ', '\t', '\r', '\n']) == "]"
        })
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
