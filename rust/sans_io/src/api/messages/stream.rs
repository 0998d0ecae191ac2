//! Translates a chat completion's chunks into the events of a Message.
//!
//! The events: `message_start` at the first chunk; the blocks, one open at a time, each
//! `content_block_start`, deltas, `content_block_stop`; then `message_delta` and `message_stop`, or
//! `error`.

use crate::api::engine_error;
use crate::codec::sse;

use super::blocks::{Blocks, Ending};
use super::chat::{Choice, Completion, Spoken, Usage, Words, stop_reason};
use super::error::TranslateError;
use super::events;
use super::finite::finite;
use super::json::{decoded, inside, literal, object, word};
use super::origin::Origin;
use super::response::{GAVE_UP, NAMELESS, calls, completion, has_given_up, no_completion, words};

/// The translation of one stream. Its events do not depend on how many frames come in one piece.
#[derive(Debug)]
pub struct MessageStream {
    origin: Origin,
    phase: Phase,
    blocks: Blocks,
    usage: Option<Usage>,
    finish_reason: Option<String>,
    /// The engine said a refusal.
    refused: bool,
    /// It said a choice, if only an empty one.
    has_choice: bool,
    /// The stop string that matched, as a JSON string.
    matched: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Phase {
    BeforeStart,
    Started,
    /// The engine has said its `[DONE]`, and nothing of the usage, which some send behind it.
    Done,
    Finished,
}

impl MessageStream {
    /// A stream that has not begun.
    pub fn new(origin: Origin) -> Self {
        Self {
            origin,
            phase: Phase::BeforeStart,
            blocks: Blocks::default(),
            usage: None,
            finish_reason: None,
            refused: false,
            has_choice: false,
            matched: None,
        }
    }

    /// Translates whole frames and appends the events to `out`. Comments stay comments. The rest
    /// behind the last frame, which an engine leaves when it closes, counts only if its data is
    /// `[DONE]`.
    pub fn feed(&mut self, frames: &[u8], out: &mut Vec<u8>) {
        let mut rest = frames;
        for frame in sse::frames(frames) {
            rest = &rest[frame.len()..];
            self.frame(frame, out);
        }
        if self.phase != Phase::Finished
            && sse::data(rest).is_some_and(|data| data.trim_ascii() == b"[DONE]")
        {
            self.finish(out);
        }
    }

    /// Translates a whole chat completion, which an engine sends in place of a stream, and ends the
    /// stream.
    ///
    /// The error: the body is no chat completion.
    pub fn whole(&mut self, body: &[u8], out: &mut Vec<u8>) -> Result<(), TranslateError> {
        let completion = completion(body)?;
        let choice = completion.choice().ok_or_else(no_completion)?;
        let words = words(choice.message)?;
        let finish_reason = choice.finish_reason.and_then(word);
        let calls = calls(&words, finish_reason.as_deref())?;
        self.has_choice = true;
        self.usage = completion.usage.and_then(Usage::read);
        self.start(out);
        self.speak(&words);
        for call in calls {
            self.blocks.whole_call(call);
        }
        self.note_end(&choice);
        self.finish(out);
        Ok(())
    }

    /// Whether the engine has said its all, however its body ends: what follows can be no more than
    /// the usage.
    pub fn has_said_all(&self) -> bool {
        self.finish_reason.is_some() || matches!(self.phase, Phase::Done | Phase::Finished)
    }

    /// Ends the stream when the engine's body has ended by its framing. True: the stream has its
    /// end, `message_stop` or an error event. False: the engine did not end the response, and
    /// nothing was written; the caller must report it.
    pub fn end(&mut self, out: &mut Vec<u8>) -> bool {
        if self.has_said_all() && !self.is_finished() {
            self.finish(out);
        }
        self.is_finished()
    }

    /// Whether `message_stop` or an error event was written: nothing may follow.
    pub fn is_finished(&self) -> bool {
        self.phase == Phase::Finished
    }

    /// The newest counts of tokens from the engine; None while there are none.
    pub fn usage(&self) -> Option<Usage> {
        self.usage
    }

    /// The memory for what waits behind an unfinished block, in bytes.
    pub fn held(&self) -> usize {
        self.blocks.held()
    }

    fn frame(&mut self, frame: &[u8], out: &mut Vec<u8>) {
        match self.phase {
            Phase::Finished => return,
            Phase::Done => return self.late_usage(frame, out),
            Phase::BeforeStart | Phase::Started => {}
        }
        // A comment that is not UTF-8 would fail in the client's decoder.
        for comment in sse::lines(frame)
            .filter(|line| line.starts_with(b":") && std::str::from_utf8(line).is_ok())
        {
            out.extend_from_slice(comment);
            out.extend_from_slice(b"\n\n");
        }
        if let Some(error) = engine_error::named(frame) {
            return self.fail_by_engine(&error, out);
        }
        let data = sse::data(frame).unwrap_or_default();
        match data.trim_ascii() {
            b"" => {}
            b"[DONE]" if self.usage.is_some() => self.finish(out),
            b"[DONE]" => self.phase = Phase::Done,
            data => self.chunk(data, out),
        }
    }

    fn late_usage(&mut self, frame: &[u8], out: &mut Vec<u8>) {
        let data = sse::data(frame).unwrap_or_default();
        let chunk = serde_json::from_slice(&data).ok().and_then(object::<Completion<'_>>);
        self.usage = chunk.and_then(|chunk| chunk.usage).and_then(Usage::read);
        if self.usage.is_some() {
            self.finish(out);
        }
    }

    fn chunk(&mut self, data: &[u8], out: &mut Vec<u8>) {
        let Some(chunk) = serde_json::from_slice(data).ok().and_then(object::<Completion<'_>>)
        else {
            if let Some(data) = finite(data) {
                return self.chunk(&data, out);
            }
            return self.fail(
                "The engine sent an event that is no part of a chat completion; send the \
                    request again.",
                out,
            );
        };
        if chunk.error_message().is_some() {
            return self.fail_by_engine(data, out);
        }
        if let Some(usage) = chunk.usage.and_then(Usage::read) {
            self.usage = Some(usage);
        }
        self.start(out);
        let Some(choice) = chunk.choice() else { return };
        self.has_choice = true;
        if let Some(delta) = choice.delta.and_then(object) {
            self.delta(&delta, out);
        }
        if let Some(message) = choice.message.and_then(object) {
            self.message(&message, out);
        }
        self.note_end(&choice);
    }

    /// Notes why the engine stops, if this choice says so.
    fn note_end(&mut self, choice: &Choice<'_>) {
        if let Some(reason) = choice.finish_reason.and_then(decoded) {
            self.finish_reason = Some(reason);
        }
        if let Some(matched) = choice.stop_reason.filter(|matched| inside(matched).is_some()) {
            self.matched = Some(matched.get().to_owned());
        }
    }

    fn speak(&mut self, words: &Words<'_>) {
        words.spoken(|spoken| {
            self.refused |= matches!(spoken, Spoken::Refusal(_));
            self.blocks.speak(spoken);
        });
    }

    fn delta(&mut self, delta: &Words<'_>, out: &mut Vec<u8>) {
        self.speak(delta);
        self.calls(delta, out);
    }

    fn calls(&mut self, delta: &Words<'_>, out: &mut Vec<u8>) {
        let calls = delta.calls();
        let too_many = calls.is_none();
        for (at, call) in calls.unwrap_or_default().into_iter().enumerate() {
            self.blocks.call(call, at);
        }
        self.blocks.send(&self.origin, out);
        if too_many || self.blocks.is_too_much() {
            self.fail(
                "The engine mixes more tool calls than can be put in order; ask for fewer at \
                a time.",
                out,
            );
        }
    }

    /// Takes a chunk in the form of a whole completion: some servers send their last one so, or their
    /// only one. Behind others its words say the same once more, and its calls where there are some.
    fn message(&mut self, message: &Words<'_>, out: &mut Vec<u8>) {
        if self.blocks.is_empty() {
            self.delta(message, out);
        } else if !self.blocks.has_call() {
            self.calls(message, out);
        }
    }

    /// Starts the message at the first chunk of any kind, so that the client hears of it at once.
    fn start(&mut self, out: &mut Vec<u8>) {
        if self.phase == Phase::BeforeStart {
            self.phase = Phase::Started;
            events::message_start(
                out,
                &self.origin.message_id,
                &self.origin.model,
                self.usage.unwrap_or_default(),
            );
        }
    }

    fn finish(&mut self, out: &mut Vec<u8>) {
        let finish_reason = self.finish_reason.take();
        if has_given_up(finish_reason.as_deref()) {
            return self.fail(GAVE_UP, out);
        }
        if !self.has_choice {
            return self.fail(
                "The engine ended its stream without an answer; send the request again.",
                out,
            );
        }
        let is_cut = finish_reason.as_deref() == Some("length");
        if !is_cut && self.blocks.has_nameless_call() {
            return self.fail(NAMELESS, out);
        }
        self.start(out);
        let has_call = self.blocks.has_call();
        let end = if is_cut { Ending::Cut } else { Ending::Whole };
        self.blocks.finish(end, &self.origin, out);
        let reason =
            stop_reason(finish_reason.as_deref(), self.matched.is_some(), self.refused, has_call);
        let sequence =
            self.matched.as_deref().filter(|_| reason == "stop_sequence").unwrap_or("null");
        events::message_delta(out, reason, sequence, self.usage.unwrap_or_default());
        events::message_stop(out);
        self.phase = Phase::Finished;
    }

    /// Ends the stream with the engine's error, of which this is the data.
    fn fail_by_engine(&mut self, data: &[u8], out: &mut Vec<u8>) {
        let (kind, message) = engine_error::in_stream(data);
        self.fail_with(kind, &message, out);
    }

    /// Ends the stream with an error that the gateway words itself.
    fn fail(&mut self, sentence: &str, out: &mut Vec<u8>) {
        self.fail_with("api_error", sentence, out);
    }

    /// Ends the stream with an error. `kind` is a word of Anthropic's API.
    fn fail_with(&mut self, kind: &str, message: &str, out: &mut Vec<u8>) {
        events::error(out, kind, &literal(message));
        self.phase = Phase::Finished;
    }
}
