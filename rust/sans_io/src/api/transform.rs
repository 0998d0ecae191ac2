//! How an engine's answer is shaped for its client: whole frames, and the byte edits that its row
//! asks for. Bytes in, bytes out; nothing of it moves by itself.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use memchr::memmem;

use crate::{
    api::{
        endpoints::ModelPlace,
        engine_error,
        error::Dialect,
        messages::{self, MessageStream},
        rerank, stream_fields,
        usage::{EventUsage, ResponseUsage, StreamUsage, Timings, Usage},
    },
    codec::{json::Finder, sse},
};

/// An unfinished frame is held back up to this size; a longer one is relayed as it comes.
const FRAME_HELD: usize = 64 * 1024;
/// The same, where something in it is to be edited; and how much of a whole answer is held while
/// its `model` is looked for.
const EDITED_HELD: usize = 4 * 1024 * 1024;
/// The longest whole answer that is made anew.
const WHOLE_HELD: usize = 64 * 1024 * 1024;
/// A longer error answer passes as it is.
const ERROR_HELD: usize = 64 * 1024;
/// The usage of a longer answer is not looked for.
const COUNTED: usize = 64 * 1024;

/// Names of an engine's, each with the public one that a client may see in its place.
pub(crate) type HiddenNames = Arc<[(String, String)]>;

/// Why a response cannot be transformed.
#[derive(Debug, thiserror::Error)]
pub enum TransformError {
    /// Its end is missing: the engine died.
    #[error("it closed the connection before the end of its event stream")]
    Incomplete,
    /// It is not what its endpoint gives; a whole sentence.
    #[error("{0}")]
    Unusable(String),
}

/// How an answer's bytes are treated on their way.
#[derive(Debug)]
pub enum Shape {
    /// As they come.
    Plain,
    /// As they come; the first piece, if it is the whole answer, is looked into for its usage.
    Counted {
        /// Its usage, once it was found.
        usage: Option<Usage>,
        /// The next piece is the first.
        first: bool,
    },
    /// Whole frames, edited.
    Events(Box<Events>),
    /// Held back until `model` is found and renamed; from then on as it comes.
    Renamed(Box<HeldAnswer>),
    /// Held back to its end, then made anew.
    Whole(Box<Whole>),
}

impl Shape {
    pub(crate) fn counted() -> Self {
        Self::Counted { usage: None, first: true }
    }

    pub(crate) fn events(edits: FrameEdits) -> Self {
        Self::Events(Box::new(Events { frames: HeldFrames::default(), edits }))
    }

    pub(crate) fn renamed(name: Bytes) -> Self {
        Self::Renamed(Box::new(HeldAnswer {
            held: BytesMut::new(),
            finder: Finder::string(&["model"]),
            name,
        }))
    }

    pub(crate) fn whole(edit: WholeEdit) -> Self {
        Self::Whole(Box::new(Whole { held: BytesMut::new(), edit, changed: false, usage: None }))
    }

    /// Whether the bytes pass as they come, so that their number is known when the engine's is.
    pub fn keeps_length(&self) -> bool {
        matches!(self, Self::Plain | Self::Counted { .. })
    }

    /// Whether an end of the connection can be the end of the answer.
    pub fn may_end_here(&self) -> bool {
        match self {
            Self::Events(events) => events.is_over(),
            _ => true,
        }
    }

    /// Whether the engine's last frame said that the stream is over; all that a death can take away
    /// then is framing.
    pub fn has_said_its_end(&self) -> bool {
        matches!(self, Self::Events(events) if events.is_over())
    }

    /// Whether nothing of a frame has been handed on without its end, so that an event of ours may
    /// follow.
    pub fn at_frame_edge(&self) -> bool {
        matches!(self, Self::Events(events) if !events.frames.raw)
    }

    /// Whether what is handed on is a JSON document of ours.
    pub fn makes_anew(&self) -> bool {
        matches!(self, Self::Whole(whole) if whole.changed)
    }

    /// The tokens that the engine counted, as far as it said.
    pub fn usage(&self) -> Option<Usage> {
        match self {
            Self::Counted { usage, .. } => *usage,
            Self::Events(events) => events.edits.usage(),
            Self::Whole(whole) => whole.usage,
            Self::Plain | Self::Renamed(_) => None,
        }
    }

    /// What of the engine's bytes goes on now; `done`: these are the last.
    pub fn pass(
        &mut self,
        data: Bytes,
        done: bool,
        timings: impl FnOnce() -> Timings,
    ) -> Result<Bytes, TransformError> {
        match self {
            Self::Plain => Ok(data),
            Self::Counted { usage, first } => {
                if *first && done && data.len() <= COUNTED {
                    *usage = usage_in_tail(&data);
                }
                *first = false;
                Ok(data)
            }
            Self::Events(events) => events.pass(data, done, timings),
            Self::Renamed(answer) => {
                let Some(piece) = answer.pass(data, done) else { return Ok(Bytes::new()) };
                *self = Self::counted();
                self.pass(piece, done, timings)
            }
            Self::Whole(whole) => {
                let (piece, flushed) = whole.pass(&data, done)?;
                if flushed {
                    *self = Self::Plain;
                }
                Ok(piece)
            }
        }
    }
}

/// The usage of a whole answer, without reading all of it: engines write it last, or nearly. A
/// quoted key cannot stand inside a string, where its quotes would be escaped.
fn usage_in_tail(answer: &[u8]) -> Option<Usage> {
    let at = memmem::rfind(answer, br#""usage""#)?;
    let mut usage = ResponseUsage::new();
    usage.feed(b"{");
    usage.feed(&answer[at..]);
    usage.usage()
}

/// What is edited in the frames of a stream.
#[derive(Debug, Default)]
pub(crate) struct FrameEdits {
    /// The public name, as a JSON string, and where it goes.
    pub rename: Option<(ModelPlace, Bytes)>,
    /// The engine is known to say another name; else, when its first frames say the public one, no
    /// more are looked into.
    pub(crate) rename_expected: bool,
    /// The usage that was asked for in the client's place, and the timings in it.
    pub(crate) stream_usage: Option<StreamUsage>,
    /// The usage of other rows' events: only read.
    pub(crate) event_usage: Option<EventUsage>,
    /// Names that no client may see in an error.
    pub hidden: Option<HiddenNames>,
    /// Errors in frames become Anthropic's.
    pub(crate) anthropic_errors: bool,
    /// Chat chunks become Messages events.
    pub translate: Option<Box<MessageStream>>,
}

impl FrameEdits {
    fn held(&self) -> usize {
        let edits = self.rename_expected || self.translate.is_some();
        if edits { EDITED_HELD } else { FRAME_HELD }
    }

    fn usage(&self) -> Option<Usage> {
        let translated =
            self.translate.as_ref().and_then(|stream| stream.usage()).map(|usage| Usage {
                input: usage.prompt_tokens,
                output: usage.completion_tokens,
                cached: usage.cached_tokens.unwrap_or(0),
            });
        let streamed = || self.stream_usage.as_ref().and_then(StreamUsage::usage);
        translated
            .or_else(streamed)
            .or_else(|| self.event_usage.as_ref().and_then(EventUsage::usage))
    }

    fn edit(&mut self, mut frames: Bytes, timings: impl FnOnce() -> Timings) -> Bytes {
        if let Some(usage) = &mut self.event_usage {
            usage.read(&frames);
        }
        if let Some(stream) = &mut self.translate {
            let mut events = Vec::with_capacity(frames.len());
            stream.feed(&frames, &mut events);
            frames = events.into();
        }
        if let Some((place, name)) = &self.rename
            && !frames.is_empty()
        {
            match stream_fields::rename_model(&frames, *place, name) {
                Some(renamed) => {
                    self.rename_expected = true;
                    frames = renamed.into();
                }
                None if !self.rename_expected && memmem::find(&frames, b"model").is_some() => {
                    self.rename = None;
                }
                None => {}
            }
        }
        if let Some(usage) = &mut self.stream_usage {
            frames = usage.push(&frames, timings).map_or(frames, Bytes::from);
        }
        if let Some(names) = &self.hidden {
            frames = engine_error::redact_in_frames(&frames, names).map_or(frames, Bytes::from);
        }
        if self.anthropic_errors {
            frames = engine_error::fix_anthropic_error_frames(&frames).map_or(frames, Bytes::from);
        }
        frames
    }
}

/// An event stream on its way.
#[derive(Debug)]
pub struct Events {
    frames: HeldFrames,
    edits: FrameEdits,
}

impl Events {
    fn is_over(&self) -> bool {
        let said =
            self.edits.translate.as_ref().map_or(self.frames.over, |stream| stream.is_finished());
        said && self.frames.tail.is_empty()
    }

    fn pass(
        &mut self,
        data: Bytes,
        done: bool,
        timings: impl FnOnce() -> Timings,
    ) -> Result<Bytes, TransformError> {
        let frames = self.frames.pass(data, done, self.edits.held());
        let frames = if self.frames.raw {
            if self.edits.translate.is_some() {
                return Err(TransformError::Unusable(format!(
                    "The engine's stream has a frame of more than {EDITED_HELD} bytes, which \
                     cannot be translated."
                )));
            }
            frames
        } else {
            self.edits.edit(frames, timings)
        };
        match &mut self.edits.translate {
            Some(stream) if done && !stream.is_finished() => {
                let mut last = Vec::from(frames);
                if stream.end(&mut last) {
                    Ok(last.into())
                } else {
                    Err(TransformError::Incomplete)
                }
            }
            _ => Ok(frames),
        }
    }
}

/// A whole answer, held back until its `model` is found.
#[derive(Debug)]
pub struct HeldAnswer {
    held: BytesMut,
    finder: Finder,
    name: Bytes,
}

impl HeldAnswer {
    /// What was held, renamed; None while more must come. An answer without a `model`, or too long
    /// before it, goes on as it is.
    fn pass(&mut self, data: Bytes, done: bool) -> Option<Bytes> {
        self.finder.feed(&data);
        let found = self.finder.found();
        let waits = found.is_none() && !done && self.held.len() + data.len() <= EDITED_HELD;
        // The usual answer comes in one piece, with the right name: it is not copied.
        let whole = if self.held.is_empty() && !waits {
            data
        } else {
            self.held.extend_from_slice(&data);
            if waits {
                return None;
            }
            self.held.split().freeze()
        };
        Some(match found {
            Some(range) if whole[range.clone()] != self.name => {
                [&whole[..range.start], &self.name, &whole[range.end..]].concat().into()
            }
            _ => whole,
        })
    }
}

/// An event stream, handed on in whole frames.
#[derive(Debug, Default)]
pub(crate) struct HeldFrames {
    /// The unfinished frame.
    tail: BytesMut,
    /// Bytes of `tail` that were looked at without finding a frame's edge.
    searched: usize,
    /// Inside a frame that is too long to hold.
    raw: bool,
    /// The last frame that went on said that the stream is over.
    over: bool,
}

impl HeldFrames {
    /// Whole frames go on, the unfinished tail waits. `done`: these are the last bytes; `held`: how
    /// long a tail may be.
    fn pass(&mut self, data: Bytes, done: bool, held: usize) -> Bytes {
        let frames = self.cut(data, done, held);
        if !frames.is_empty() {
            self.over = !self.raw && stream_fields::is_terminal(sse::last_frame(&frames));
        }
        frames
    }

    fn cut(&mut self, mut data: Bytes, done: bool, held: usize) -> Bytes {
        // The usual read ends with a frame and is not copied.
        if self.tail.is_empty()
            && !self.raw
            && let Some(edge) = if done { Some(data.len()) } else { sse::last_edge(&data, 0) }
        {
            self.tail.extend_from_slice(&data.split_off(edge));
            self.searched = self.tail.len();
            return data;
        }
        self.tail.extend_from_slice(&data);
        let edge =
            if done { Some(self.tail.len()) } else { sse::last_edge(&self.tail, self.searched) };
        let passing = match edge {
            Some(edge) => {
                self.raw = false;
                edge
            }
            None if self.raw || self.tail.len() > held => {
                // The last three bytes stay, so that an edge that is cut by a read is still seen
                // whole.
                self.raw = true;
                self.tail.len().saturating_sub(3)
            }
            None => 0,
        };
        let frames = self.tail.split_to(passing).freeze();
        self.searched = self.tail.len();
        frames
    }
}

/// What a whole answer becomes.
#[derive(Debug)]
pub(crate) enum WholeEdit {
    /// An error, in the client's shape and without the engine's names.
    Error { status: u16, dialect: Dialect, request_id: Arc<str>, names: HiddenNames },
    /// A Message, from a chat completion.
    Message { model: Arc<str> },
    /// A count of tokens, from a chat completion's usage.
    TokenCount,
    /// Jina's shape, from any engine's.
    Rerank { prepared: Box<rerank::Prepared>, model: Arc<str> },
}

/// A whole answer, held back to its end.
#[derive(Debug)]
pub struct Whole {
    held: BytesMut,
    edit: WholeEdit,
    changed: bool,
    usage: Option<Usage>,
}

impl Whole {
    /// What goes on, and whether from now on all the rest does.
    fn pass(&mut self, data: &[u8], done: bool) -> Result<(Bytes, bool), TransformError> {
        self.held.extend_from_slice(data);
        if matches!(self.edit, WholeEdit::Error { .. }) && self.held.len() > ERROR_HELD {
            return Ok((self.held.split().freeze(), true));
        }
        if self.held.len() > WHOLE_HELD {
            return Err(TransformError::Unusable(format!(
                "The engine's answer is longer than {WHOLE_HELD} bytes, and cannot be translated."
            )));
        }
        if !done {
            return Ok((Bytes::new(), false));
        }
        let whole = self.held.split().freeze();
        self.usage = (whole.len() <= COUNTED).then(|| usage_in_tail(&whole)).flatten();
        Ok((self.made_anew(whole)?, false))
    }

    fn made_anew(&mut self, whole: Bytes) -> Result<Bytes, TransformError> {
        let made = match &self.edit {
            WholeEdit::Error { status, dialect, request_id, names } => {
                engine_error::reshape(*status, &whole, *dialect, request_id, names)
            }
            WholeEdit::Message { model } => Some(
                messages::response(&whole, model)
                    .map_err(|error| TransformError::Unusable(error.message))?,
            ),
            WholeEdit::TokenCount => Some(
                messages::count_response(&whole)
                    .map_err(|error| TransformError::Unusable(error.message))?,
            ),
            WholeEdit::Rerank { prepared, model } => Some(
                rerank::response(&whole, prepared, model)
                    .map_err(|error| TransformError::Unusable(error.to_string()))?,
            ),
        };
        self.changed = made.is_some();
        Ok(made.map_or(whole, Bytes::from))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usage_of_an_answer_is_found_behind_texts_that_speak_of_it() {
        let answer =
            br#"{"choices":[{"message":{"content":"say \"usage\":{\"prompt_tokens\":9}"}}],
            "usage": {"prompt_tokens": 3, "completion_tokens": 4}, "timings": {"usag": 1}}"#;
        let usage = usage_in_tail(answer).unwrap();
        assert_eq!((usage.input, usage.output), (3, 4));
        assert!(usage_in_tail(br#"{"choices":[]}"#).is_none());
        assert!(usage_in_tail(br#"{"usage":null}"#).is_none());
    }
}
