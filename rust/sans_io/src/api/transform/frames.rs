//! The editing of an event stream, in whole frames.

use bytes::{Buf, Bytes, BytesMut};
use memchr::memmem;

use super::{
    error::TransformError,
    limits::{EDITED_HELD, FRAME_MOST, append, endless_frame},
    reckoning::FrameReckoning,
};
use crate::{
    api::{
        endpoints::ModelPlace,
        engine_error::{self, RedactedNames},
        error::Dialect,
        messages::{self, MessageStream},
        repair::UniqueIds,
        response_usage::ResponseUsage,
        stream_fields,
        usage::{EventUsage, StreamUsage, Timings, Usage},
    },
    codec::{mark::MARK, sse},
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
    /// The dialect of the client, in whose words errors are told; None: they pass, or are
    /// translated.
    pub errors: Option<Dialect>,
    /// The ids of tool calls, which are made unique; None: they stay.
    pub ids: Option<Box<UniqueIds>>,
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

    /// The frame that waits for its next one; empty: none does.
    fn release(&mut self) -> Bytes {
        self.stream_usage.as_mut().map(StreamUsage::release).unwrap_or_default().into()
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
        if let Some(ids) = &mut self.ids {
            frames = ids.in_frames(&frames).map_or(frames, Bytes::from);
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
        if let Some(dialect) = self.errors {
            let names = self.redacted.as_deref().unwrap_or_default();
            frames =
                engine_error::fix_error_frames(&frames, dialect, names).map_or(frames, Bytes::from);
        }
        frames
    }
}

/// An event stream, edited frame by frame.
#[derive(Debug)]
pub(super) struct EventStream {
    frames: FrameBuffer,
    edits: FrameEdits,
    /// The frame that is too long to be held back, while it passes.
    long_frame: Option<Box<LongFrame>>,
    /// The most of one frame that passes, in bytes.
    most: u64,
    /// What translating the unfinished frame will take.
    reckoning: FrameReckoning,
}

/// A frame that passes in pieces.
#[derive(Debug)]
struct LongFrame {
    /// Reads its usage.
    usage: ResponseUsage,
    /// Bytes that have passed.
    passed: u64,
}

impl EventStream {
    /// A stream of which nothing has passed.
    pub(super) fn new(edits: FrameEdits) -> Self {
        Self {
            frames: FrameBuffer::default(),
            edits,
            long_frame: None,
            most: FRAME_MOST,
            reckoning: FrameReckoning::default(),
        }
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

    /// Whether the stream is complete if its connection ends here.
    pub(super) fn may_end_here(&self) -> bool {
        let translate = self.edits.translate.as_ref();
        translate.map_or_else(|| self.is_finished(), |stream| stream.has_said_all())
    }

    /// Whether the bytes so far end between two frames.
    pub(super) fn at_frame_edge(&self) -> bool {
        !self.frames.raw
    }

    /// The memory of the unfinished frame, and of what it will become; and of what a translation
    /// holds back. In bytes.
    pub(super) fn held(&self) -> usize {
        let translation = self.edits.translate.as_ref().map_or(0, |stream| stream.held())
            + self.edits.ids.as_ref().map_or(0, |ids| ids.held());
        let waiting = self.edits.stream_usage.as_ref().map_or(0, StreamUsage::held);
        self.frames.tail.capacity() + self.reckoning.cost() + translation + waiting
    }

    /// Whether the last bytes ended a frame.
    pub(super) fn ended_frame(&self) -> bool {
        self.frames.ended_frame
    }

    /// The tokens that the engine counted; None: it has not said.
    pub(super) fn usage(&self) -> Option<Usage> {
        self.edits.usage()
    }

    /// The counts of a stream that is translated, as the engine made them; None: it has not.
    pub(super) fn translated_usage(&self) -> Option<messages::Usage> {
        self.edits.translate.as_ref().and_then(|stream| stream.usage())
    }

    /// The whole frame that waits for the next one, which will not come; empty: none waits.
    pub(super) fn release(&mut self) -> Bytes {
        self.edits.release()
    }

    /// Notes that the client has got a comment of ours.
    pub(super) fn note_comment(&mut self) {
        if self.frames.begin == Begin::Untouched {
            self.frames.begin = Begin::Commented;
        }
    }

    /// Takes the engine's next bytes and returns the client's. `done`: these are the last. A byte
    /// order mark before the first frame passes, unless the stream is translated or a comment of
    /// ours stands before it: there it would be a part of a field's name.
    pub(super) fn push(
        &mut self,
        data: Bytes,
        done: bool,
        timings: impl FnOnce() -> Timings,
    ) -> Result<Bytes, TransformError> {
        let (marked, frames) = self.frames.push(data, done, self.edits.held());
        self.count_long_frame(&frames)?;
        if self.edits.translate.is_some() {
            self.reckoning.follow(&self.frames.tail, self.frames.ended_frame);
        }
        let frames = self.edit(frames, done, timings)?;
        let passes = marked && self.edits.translate.is_none();
        Ok(if passes { [MARK, &frames].concat().into() } else { frames })
    }

    /// Edits frames, or the part of one that is too long to be held back.
    fn edit(
        &mut self,
        frames: Bytes,
        done: bool,
        timings: impl FnOnce() -> Timings,
    ) -> Result<Bytes, TransformError> {
        let frames = if self.frames.raw {
            if self.edits.translate.is_some() {
                return Err(TransformError::Unusable(format!(
                    "The engine's stream has a frame of more than {EDITED_HELD} bytes, which \
                     cannot be translated."
                )));
            }
            joined(self.edits.release(), frames)
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
            _ if done => Ok(joined(frames, self.edits.release())),
            _ => Ok(frames),
        }
    }
}

impl EventStream {
    /// Reads the usage in the parts of a frame that passes in pieces. Fails where it has no end.
    fn count_long_frame(&mut self, frames: &[u8]) -> Result<(), TransformError> {
        if self.frames.raw && self.long_frame.is_none() {
            let long = LongFrame { usage: ResponseUsage::of_event(), passed: 0 };
            self.long_frame = Some(Box::new(long));
        }
        let Some(long) = &mut self.long_frame else { return Ok(()) };
        // Behind its end it reads no more.
        long.usage.feed(frames);
        if !self.frames.raw {
            self.edits.add_usage(&long.usage);
            self.long_frame = None;
            return Ok(());
        }
        long.passed += frames.len() as u64;
        if long.passed > self.most {
            return Err(endless_frame(self.most));
        }
        Ok(())
    }
}

/// What has passed before an event stream's next bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Begin {
    /// Nothing.
    #[default]
    Untouched,
    /// A comment of ours.
    Commented,
    /// Frames of the engine's.
    Past,
}

/// Cuts an event stream into whole frames.
#[derive(Debug, Default)]
pub(super) struct FrameBuffer {
    begin: Begin,
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
    /// Returns the whole frames, with whether a byte order mark stood at the stream's begin before
    /// them, and holds back the unfinished tail, up to `held` bytes. `done`: these are the last
    /// bytes.
    fn push(&mut self, data: Bytes, done: bool, held: usize) -> (bool, Bytes) {
        let mut frames = self.cut(data, done, held);
        if frames.is_empty() {
            return (false, frames);
        }
        let begin = std::mem::replace(&mut self.begin, Begin::Past);
        let marked = begin != Begin::Past && frames.starts_with(MARK);
        if marked {
            frames.advance(MARK.len());
        }
        self.finished = !self.raw && stream_fields::is_terminal(sse::last_frame(&frames));
        (marked && begin == Begin::Untouched, frames)
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

/// One behind the other, without a copy where one is empty.
fn joined(first: Bytes, second: Bytes) -> Bytes {
    match (first.is_empty(), second.is_empty()) {
        (true, _) => second,
        (_, true) => first,
        _ => [first, second].concat().into(),
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
    use proptest::prelude::*;

    use super::*;

    const MARK_SAID: &str = "\u{feff}";

    /// A stream in which the engine's name becomes `m`, and usage that nobody asked for is cut out.
    fn renaming() -> EventStream {
        EventStream::new(FrameEdits {
            rename: Some((ModelPlace::TopLevel, Bytes::from_static(b"\"m\""))),
            rename_expected: true,
            stream_usage: Some(StreamUsage::new(true, false)),
            ..Default::default()
        })
    }

    /// What becomes of an engine's stream in pieces of this size.
    fn pushed(stream: &mut EventStream, bytes: &str, size: usize) -> String {
        let timings = || Timings { first_ms: 0.0, elapsed_ms: 0.0 };
        let mut out = Vec::new();
        for piece in bytes.as_bytes().chunks(size) {
            out.extend(stream.push(Bytes::copy_from_slice(piece), false, timings).unwrap());
        }
        out.extend(stream.push(Bytes::new(), true, timings).unwrap());
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_mark_before_the_first_frame_passes_and_hides_nothing() {
        for (engines, clients) in [
            ("\u{feff}data: {\"model\":\"e\"}\n\n", "\u{feff}data: {\"model\":\"m\"}\n\n"),
            ("\u{feff}\ndata: {\"model\":\"e\"}\n\n", "\u{feff}\ndata: {\"model\":\"m\"}\n\n"),
            ("\u{feff}", "\u{feff}"),
            // Twice, or later, it is a part of a field's name, so that there is no data.
            (
                "\u{feff}\u{feff}data: {\"model\":\"e\"}\n\n",
                "\u{feff}\u{feff}data: {\"model\":\"e\"}\n\n",
            ),
            (
                ": x\n\n\u{feff}data: {\"model\":\"e\"}\n\n",
                ": x\n\n\u{feff}data: {\"model\":\"e\"}\n\n",
            ),
        ] {
            for size in [1, 2, 3, 4, 100] {
                assert_eq!(pushed(&mut renaming(), engines, size), clients);
            }
        }
    }

    #[test]
    fn a_stream_whose_only_frame_is_marked_may_end() {
        let mut stream = renaming();
        assert_eq!(pushed(&mut stream, "\u{feff}data: [DONE]\n\n", 5), "\u{feff}data: [DONE]\n\n");
        assert!(stream.is_finished());
    }

    #[test]
    fn behind_a_comment_of_ours_a_mark_is_left_out() {
        let mut stream = renaming();
        stream.note_comment();
        let clients = "data: {\"model\":\"m\"}\n\n";
        assert_eq!(pushed(&mut stream, "\u{feff}data: {\"model\":\"e\"}\n\n", 2), clients);
    }

    #[test]
    fn a_last_choice_that_waits_passes_at_the_end_and_before_a_long_frame() {
        let last = "data: {\"choices\":[{\"finish_reason\":\"stop\"}]}\n\n";
        let long = format!("data: {{\"x\":\"{}\"}}\n\n", "x".repeat(EDITED_HELD));
        for stream in [last.to_owned(), format!("{last}{long}"), format!("{last}data: [DONE]\n\n")]
        {
            for size in [10, 100_000] {
                let mut events = renaming();
                assert!(pushed(&mut events, &stream, size) == stream, "in pieces of {size}");
                assert!(events.held() < BLOCK_KEPT);
            }
        }
    }

    proptest! {
        #[test]
        fn a_marked_stream_becomes_the_same_as_another_behind_its_mark(
            lines in prop::collection::vec(prop::sample::select(vec![
                "", "", "data: {\"model\":\"e\"}", "data: {\"model\":", "data: \"e\"}", "\u{feff}",
                "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":1}}", "event: x", ": y",
            ]), 0..12),
            size in 1..40_usize,
        ) {
            let plain = lines.join("\n");
            let marked = format!("{MARK_SAID}{plain}");
            // A mark alone is told from the begin of a stream that has one.
            prop_assume!(!plain.starts_with(MARK_SAID));
            let expected = pushed(&mut renaming(), &plain, plain.len().max(1));
            let found = pushed(&mut renaming(), &marked, size);
            prop_assert_eq!(found, format!("{MARK_SAID}{expected}"));
        }
    }

    #[test]
    fn a_frame_without_an_end_ends_its_stream() {
        let timings = || Timings { first_ms: 0.0, elapsed_ms: 0.0 };
        let frame = |size: usize| [b"data: ", &*vec![b'x'; size], b"\n\n"].concat();
        for edits in
            [FrameEdits::default(), FrameEdits { rename_expected: true, ..Default::default() }]
        {
            let held = edits.held();
            let mut stream = EventStream::new(edits);
            stream.most = 3 * held as u64;
            let mut push = |bytes: &[u8]| {
                let mut pieces = bytes.chunks(held / 4).map(Bytes::copy_from_slice);
                pieces.try_for_each(|piece| stream.push(piece, false, timings).map(|_| ()))
            };
            // Each frame counts by itself.
            for _ in 0..3 {
                push(&frame(2 * held)).unwrap();
                push(&frame(10)).unwrap();
            }
            let error = push(&frame(4 * held)).unwrap_err();
            assert!(matches!(error, TransformError::Unusable(_)));
            assert!(error.to_string().contains("has a frame of more than"), "{error}");
        }
    }

    #[test]
    fn a_frame_that_waits_is_given_out_where_its_stream_breaks_off() {
        let timings = || Timings { first_ms: 0.0, elapsed_ms: 0.0 };
        let mut stream = renaming();
        let last = "data: {\"model\":\"m\",\"choices\":[{\"delta\":{\"content\":\"LAST\"},\"finish_reason\":\"length\"}]}\n\n";
        let passed = stream.push(Bytes::from_static(last.as_bytes()), false, timings).unwrap();
        assert_eq!(passed, "", "it waits for the usage");
        assert_eq!(stream.release(), last);
        assert_eq!(stream.release(), "", "once");
    }

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
