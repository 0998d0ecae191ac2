//! An event stream on its way: whole frames, and the edits in them.

use bytes::{Bytes, BytesMut};
use memchr::memmem;

use super::{error::TransformError, limits::EDITED_HELD};
use crate::{
    api::{
        endpoints::ModelPlace,
        engine_error::{self, RedactedNames},
        messages::MessageStream,
        stream_fields,
        usage::{EventUsage, StreamUsage, Timings, Usage},
    },
    codec::sse,
};

/// An unfinished frame is held back up to this size; a longer one is relayed as it comes.
const FRAME_HELD: usize = 64 * 1024;

/// The edits in the frames of a stream.
#[derive(Debug, Default)]
pub(crate) struct FrameEdits {
    /// The public name, as a JSON string, and where it goes.
    pub rename: Option<(ModelPlace, Bytes)>,
    /// The engine is known to say another name; else, when its first frames say the public one, no
    /// more are looked into.
    pub rename_expected: bool,
    /// The usage that was asked for in the client's place, and the timings in it.
    pub stream_usage: Option<StreamUsage>,
    /// The usage in events of other shapes: only read.
    pub event_usage: Option<EventUsage>,
    /// Names that no client may see in an error.
    pub redacted: Option<RedactedNames>,
    /// Errors in frames become Anthropic's.
    pub anthropic_errors: bool,
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
        if let Some(names) = &self.redacted {
            frames = engine_error::redact_in_frames(&frames, names).map_or(frames, Bytes::from);
        }
        if self.anthropic_errors {
            frames = engine_error::fix_anthropic_error_frames(&frames).map_or(frames, Bytes::from);
        }
        frames
    }
}

/// An event stream, edited frame by frame.
#[derive(Debug)]
pub(super) struct EventStream {
    frames: FrameBuffer,
    edits: FrameEdits,
}

impl EventStream {
    pub(super) fn new(edits: FrameEdits) -> Self {
        Self { frames: FrameBuffer::default(), edits }
    }

    /// Whether the engine's last frame said that the stream is finished, and nothing follows it.
    pub(super) fn is_finished(&self) -> bool {
        let said = self
            .edits
            .translate
            .as_ref()
            .map_or(self.frames.finished, |stream| stream.is_finished());
        said && self.frames.tail.is_empty()
    }

    /// Whether nothing of a frame went on without its end.
    pub(super) fn at_frame_edge(&self) -> bool {
        !self.frames.raw
    }

    /// The tokens that the engine counted.
    pub(super) fn usage(&self) -> Option<Usage> {
        self.edits.usage()
    }

    pub(super) fn push(
        &mut self,
        data: Bytes,
        done: bool,
        timings: impl FnOnce() -> Timings,
    ) -> Result<Bytes, TransformError> {
        let frames = self.frames.push(data, done, self.edits.held());
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

/// Cuts an event stream into whole frames.
#[derive(Debug, Default)]
pub(super) struct FrameBuffer {
    /// The unfinished frame.
    tail: BytesMut,
    /// Bytes of `tail` that were looked at without finding a frame's edge.
    searched: usize,
    /// Inside a frame that is too long to hold: it is relayed as it comes.
    raw: bool,
    /// The last frame that went on said that the stream is finished.
    finished: bool,
}

impl FrameBuffer {
    /// Gives the whole frames and keeps the unfinished tail, which may be `held` bytes long.
    /// `done`: these are the last bytes.
    fn push(&mut self, data: Bytes, done: bool, held: usize) -> Bytes {
        let frames = self.cut(data, done, held);
        if !frames.is_empty() {
            self.finished = !self.raw && stream_fields::is_terminal(sse::last_frame(&frames));
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
