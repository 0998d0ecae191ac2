//! The editing of an event stream, in whole frames.

use bytes::{Bytes, BytesMut};
use memchr::memmem;

use super::{
    error::TransformError,
    limits::{EDITED_HELD, append},
};
use crate::{
    api::{
        endpoints::ModelPlace,
        engine_error::{self, RedactedNames},
        messages::MessageStream,
        response_usage::ResponseUsage,
        stream_fields,
        usage::{EventUsage, StreamUsage, Timings, Usage},
    },
    codec::sse,
};

/// The most of an unfinished frame that is held back, in bytes; a longer one passes as it comes.
const FRAME_HELD: usize = 64 * 1024;
/// A block of memory that is larger, in bytes, is not kept for the rest behind the frames in it:
/// a stream with one long frame would hold its memory to the end.
const BLOCK_KEPT: usize = 16 * 1024;
/// Edited frames give back the room that they do not need, if it is more than this, in bytes.
const SPARE: usize = 16 * 1024;

/// The edits in the frames of a stream.
#[derive(Debug, Default)]
pub(crate) struct FrameEdits {
    /// The place of the model's name, and the public name as a JSON string; None: names stay.
    pub rename: Option<(ModelPlace, Bytes)>,
    /// Whether the engine is known to say another name. If not, frames are no longer searched once
    /// the engine has said the public one.
    pub rename_expected: bool,
    /// The usage in streams of chat and completions: read, cut out, or completed with timings.
    pub stream_usage: Option<StreamUsage>,
    /// The usage in streams of other shapes, which is only read.
    pub event_usage: Option<EventUsage>,
    /// The engine's names, which no client may see in an error.
    pub redacted: Option<RedactedNames>,
    /// Whether errors get Anthropic's shape.
    pub anthropic_errors: bool,
    /// The translation of chat chunks to Messages events.
    pub translate: Option<Box<MessageStream>>,
}

impl FrameEdits {
    /// The most of an unfinished frame that is held back, in bytes.
    fn held(&self) -> usize {
        let edits = self.rename_expected || self.translate.is_some();
        if edits { EDITED_HELD } else { FRAME_HELD }
    }

    fn usage(&self) -> Option<Usage> {
        let streamed = self.stream_usage.as_ref().and_then(StreamUsage::usage);
        streamed.or_else(|| self.event_usage.as_ref().and_then(EventUsage::usage))
    }

    /// Takes over the usage of a frame that was too long to be read whole.
    fn add_usage(&mut self, long: &ResponseUsage) {
        if let Some(usage) = &mut self.stream_usage {
            usage.add(long.counts());
        }
        if let Some(usage) = &mut self.event_usage {
            usage.add(long.counts());
        }
    }

    /// Edits whole frames.
    fn edit(&mut self, mut frames: Bytes, timings: impl FnOnce() -> Timings) -> Bytes {
        if let Some(usage) = &mut self.event_usage {
            usage.read(&frames);
        }
        if let Some(stream) = &mut self.translate {
            let mut events = Vec::with_capacity(frames.len());
            stream.feed(&frames, &mut events);
            frames = trimmed(events);
        }
        if let Some((place, name)) = &self.rename
            && !frames.is_empty()
        {
            match stream_fields::rename_model(&frames, *place, name) {
                Some(renamed) => {
                    self.rename_expected = true;
                    frames = trimmed(renamed);
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
    /// Reads the usage of a frame that is too long to be held back, while it passes.
    long_frame: Option<Box<ResponseUsage>>,
}

impl EventStream {
    /// A stream of which nothing has passed.
    pub(super) fn new(edits: FrameEdits) -> Self {
        Self { frames: FrameBuffer::default(), edits, long_frame: None }
    }

    /// Whether the last frame said that the stream is finished, and nothing follows it.
    pub(super) fn is_finished(&self) -> bool {
        let said = self
            .edits
            .translate
            .as_ref()
            .map_or(self.frames.finished, |stream| stream.is_finished());
        said && self.frames.tail.is_empty()
    }

    /// Whether the bytes so far end between two frames.
    pub(super) fn at_frame_edge(&self) -> bool {
        !self.frames.raw
    }

    /// The memory of the unfinished frame, in bytes.
    pub(super) fn held(&self) -> usize {
        self.frames.tail.capacity()
    }

    /// Whether the last bytes ended a frame.
    pub(super) fn ended_frame(&self) -> bool {
        self.frames.ended_frame
    }

    /// The tokens that the engine counted; None: it has not said.
    pub(super) fn usage(&self) -> Option<Usage> {
        self.edits.usage()
    }

    /// Takes the engine's next bytes and returns the client's. `done`: these are the last.
    pub(super) fn push(
        &mut self,
        data: Bytes,
        done: bool,
        timings: impl FnOnce() -> Timings,
    ) -> Result<Bytes, TransformError> {
        let frames = self.frames.push(data, done, self.edits.held());
        self.count_long_frame(&frames);
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

impl EventStream {
    /// Reads the usage in the parts of a frame that passes in pieces.
    fn count_long_frame(&mut self, frames: &[u8]) {
        if self.frames.raw && self.long_frame.is_none() {
            self.long_frame = Some(Box::new(ResponseUsage::of_event()));
        }
        let Some(long) = &mut self.long_frame else { return };
        // Behind its end it reads no more.
        long.feed(frames);
        if !self.frames.raw {
            self.edits.add_usage(long);
            self.long_frame = None;
        }
    }
}

/// Cuts an event stream into whole frames.
#[derive(Debug, Default)]
pub(super) struct FrameBuffer {
    /// The unfinished frame.
    tail: BytesMut,
    /// Bytes of `tail` that were searched for a frame's edge in vain.
    searched: usize,
    /// Inside a frame that is too long to be held back, so that it passes as it comes.
    raw: bool,
    /// The last bytes ended a frame.
    ended_frame: bool,
    /// The last frame that passed said that the stream is finished.
    finished: bool,
}

impl FrameBuffer {
    /// Returns the whole frames and holds back the unfinished tail, up to `held` bytes. `done`:
    /// these are the last bytes.
    fn push(&mut self, data: Bytes, done: bool, held: usize) -> Bytes {
        let frames = self.cut(data, done, held);
        if !frames.is_empty() {
            self.finished = !self.raw && stream_fields::is_terminal(sse::last_frame(&frames));
        }
        frames
    }

    /// Cuts the bytes behind the last edge.
    fn cut(&mut self, mut data: Bytes, done: bool, held: usize) -> Bytes {
        // The usual read ends with a frame and is not copied.
        if self.tail.is_empty()
            && !self.raw
            && let Some(edge) = if done { Some(data.len()) } else { sse::last_edge(&data, 0) }
        {
            self.tail.extend_from_slice(&data.split_off(edge));
            self.searched = self.tail.len();
            self.ended_frame = true;
            return data;
        }
        append(&mut self.tail, &data, held);
        drop(data);
        let edge =
            if done { Some(self.tail.len()) } else { sse::last_edge(&self.tail, self.searched) };
        self.ended_frame = edge.is_some();
        let ready = match edge {
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
        let is_large = self.tail.capacity() > BLOCK_KEPT;
        let frames = self.tail.split_to(ready).freeze();
        if is_large && ready > 0 {
            self.tail = BytesMut::from(&*self.tail);
        }
        self.searched = self.tail.len();
        frames
    }
}

/// Edited frames, without room that they do not need.
fn trimmed(mut edited: Vec<u8>) -> Bytes {
    if edited.capacity() - edited.len() > SPARE {
        edited.shrink_to_fit();
    }
    edited.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_frame_holds_its_memory_no_longer_than_it_takes() {
        let mut stream =
            EventStream::new(FrameEdits { rename_expected: true, ..Default::default() });
        let long = [b"data: ", &*vec![b'x'; 2_000_000], b"\n\n"].concat();
        let timings = || Timings { first_ms: 0.0, elapsed_ms: 0.0 };
        let mut passed = 0;
        for piece in long.chunks(50_000) {
            let frames = stream.push(Bytes::copy_from_slice(piece), false, timings);
            passed += frames.unwrap().len();
            assert!(stream.held() <= 3_000_000);
        }
        assert_eq!((passed, stream.held()), (long.len(), 0));
        let next = stream.push(Bytes::from_static(b"data: a\n\ndata"), false, timings);
        assert_eq!(next.unwrap(), "data: a\n\n");
        assert!(stream.held() < 100);
    }
}
