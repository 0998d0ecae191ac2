//! The transformation of an engine's response for its client, piece by piece.

mod completion;
mod document;
mod error;
mod frames;
mod limits;
mod passing;
mod reckoning;
mod rename;

use bytes::Bytes;

pub use self::error::TransformError;
use self::{
    completion::{Assembled, Begin},
    document::DocumentBuffer,
    frames::EventStream,
    passing::PassingFrames,
    rename::Renamer,
};
pub(crate) use self::{
    document::{Document, ErrorShape},
    frames::FrameEdits,
};
use crate::api::{
    response_usage::{ResponseUsage, usage_of_response},
    usage::{Timings, Usage},
};

/// The transformation of one response.
#[derive(Debug, Default)]
pub struct Transform(Kind);

/// The kinds of transformation.
#[derive(Debug, Default)]
enum Kind {
    /// Bytes pass as they come.
    #[default]
    Identity,
    /// Bytes pass as they come, and their usage is read.
    Count(Counting),
    /// Bytes of an event stream pass as they come, and their frames are watched.
    Passing(Box<PassingFrames>),
    /// Bytes pass in whole frames, edited.
    Events(Box<EventStream>),
    /// Bytes are held back until `model` is found and renamed. From then on they pass.
    Rename(Box<Renamer>),
    /// Bytes are held back to the end, then rewritten.
    Document(Box<DocumentBuffer>),
    /// The frames of a stream become a document at the end.
    Assembled(Box<Assembled>),
    /// The first bytes tell which of two transformations it is.
    Begin(Box<Begin<Transform>>),
}

/// The reading of the usage in a response that passes as it is.
#[derive(Debug)]
enum Counting {
    /// Nothing has passed.
    Before,
    /// Some of it has.
    Pieces(Box<ResponseUsage>),
    /// It came in one piece.
    Whole(Option<Usage>),
}

impl Counting {
    /// Reads the next piece. `done`: it is the last.
    fn read(&mut self, piece: &[u8], done: bool) {
        match self {
            Self::Before if done => *self = Self::Whole(usage_of_response(piece)),
            // The end of the body behind its last byte.
            _ if piece.is_empty() => {}
            Self::Before => {
                let mut usage = Box::new(ResponseUsage::new());
                usage.feed(piece);
                *self = Self::Pieces(usage);
            }
            Self::Pieces(usage) => usage.feed(piece),
            Self::Whole(_) => {}
        }
    }

    fn usage(&self) -> Option<Usage> {
        match self {
            Self::Before => None,
            Self::Pieces(usage) => usage.usage(),
            Self::Whole(usage) => *usage,
        }
    }
}

impl Transform {
    /// Bytes pass as they come.
    pub const IDENTITY: Self = Self(Kind::Identity);

    /// Bytes pass as they come; the usage is read.
    pub(crate) fn count() -> Self {
        Self(Kind::Count(Counting::Before))
    }

    /// An event stream passes as it comes, unless it has a frame without an end.
    pub fn passing_events() -> Self {
        Self(Kind::Passing(Box::new(PassingFrames::new())))
    }

    /// An event stream, edited frame by frame.
    pub(crate) fn events(edits: FrameEdits) -> Self {
        Self(Kind::Events(Box::new(EventStream::new(edits))))
    }

    /// A whole response that gets the public name. `name_json`: that name as a JSON string.
    pub(crate) fn rename(name_json: Bytes) -> Self {
        Self(Kind::Rename(Box::new(Renamer::new(name_json))))
    }

    /// A whole response that becomes another document.
    pub(crate) fn document(document: Document) -> Self {
        Self(Kind::Document(Box::new(DocumentBuffer::new(document))))
    }

    /// A chat completion that becomes a document where it is one, and another where it is a stream,
    /// whatever its `Content-Type` says. `counts`: the latter is a count of tokens, and no Message.
    pub(crate) fn whole_completion(
        says_stream: bool,
        document: Document,
        edits: FrameEdits,
        counts: bool,
    ) -> Self {
        let stream = Box::new(Assembled::new(EventStream::new(edits), counts));
        let (document, stream) = (Self::document(document), Self(Kind::Assembled(stream)));
        Self(Kind::Begin(Box::new(Begin::new(says_stream, document, stream))))
    }

    /// A chat completion that becomes an event stream, whatever its `Content-Type` says.
    pub(crate) fn streamed_completion(
        says_stream: bool,
        document: Document,
        edits: FrameEdits,
    ) -> Self {
        let (document, stream) = (Self::document(document), Self::events(edits));
        Self(Kind::Begin(Box::new(Begin::new(says_stream, document, stream))))
    }

    /// Notes that the client of an event stream has got a comment of ours.
    pub fn note_comment(&mut self) {
        match &mut self.0 {
            Kind::Events(events) => events.note_comment(),
            Kind::Document(document) => document.note_comment(),
            Kind::Begin(begin) => begin.both().into_iter().for_each(Self::note_comment),
            _ => {}
        }
    }

    /// What has come whole and waits for more, of a stream that breaks off; empty: nothing does.
    pub fn release(&mut self) -> Bytes {
        match &mut self.0 {
            Kind::Events(events) => events.release(),
            _ => Bytes::new(),
        }
    }

    /// Whether bytes pass as they come, unread.
    pub fn is_identity(&self) -> bool {
        matches!(self.0, Kind::Identity)
    }

    /// Whether the client gets an event stream, edited frame by frame or made of a document.
    pub fn is_event_stream(&self) -> bool {
        match &self.0 {
            Kind::Events(_) => true,
            Kind::Document(document) => document.is_event_stream(),
            Kind::Begin(begin) => begin.expected().is_event_stream(),
            _ => false,
        }
    }

    /// Whether the response has as many bytes as the engine's.
    pub fn keeps_length(&self) -> bool {
        matches!(self.0, Kind::Identity | Kind::Count(_) | Kind::Passing(_))
    }

    /// Whether the response is complete if it ends here with its connection. Of an event stream the
    /// last frame must have said so.
    pub fn may_end_here(&self) -> bool {
        match &self.0 {
            Kind::Events(events) => events.may_end_here(),
            Kind::Assembled(assembled) => assembled.may_end_here(),
            Kind::Begin(begin) => begin.expected().may_end_here(),
            _ => true,
        }
    }

    /// Whether only the end of the body is missing, and the client's last bytes with it.
    pub fn waits_for_end(&self) -> bool {
        let is_stream = matches!(self.0, Kind::Events(_) | Kind::Assembled(_));
        is_stream && self.may_end_here() && !self.is_finished()
    }

    /// Whether the engine's last frame said that the stream is finished. A connection that is lost
    /// afterwards takes only framing with it.
    pub fn is_finished(&self) -> bool {
        matches!(&self.0, Kind::Events(events) if events.is_finished())
    }

    /// Whether the bytes so far end between two frames, so that a comment or event may follow.
    pub fn at_frame_edge(&self) -> bool {
        match &self.0 {
            Kind::Events(events) => events.at_frame_edge(),
            // All of it comes at once.
            _ => self.is_event_stream(),
        }
    }

    /// The memory for what is held back, in bytes; of a document, also for what it will become.
    pub fn held(&self) -> usize {
        match &self.0 {
            Kind::Identity | Kind::Count { .. } | Kind::Passing(_) => 0,
            Kind::Events(events) => events.held(),
            Kind::Rename(renamer) => renamer.held(),
            Kind::Document(document) => document.held(),
            Kind::Assembled(assembled) => assembled.held(),
            Kind::Begin(begin) => {
                let (held, of_document) = begin.held();
                held + of_document.held()
            }
        }
    }

    /// Whether the last bytes ended a frame. Of what is no event stream any bytes do.
    pub fn ended_frame(&self) -> bool {
        match &self.0 {
            Kind::Events(events) => events.ended_frame(),
            Kind::Passing(frames) => frames.ended_frame(),
            Kind::Assembled(assembled) => assembled.ended_frame(),
            _ => true,
        }
    }

    /// Whether the engine's body was replaced by a JSON document.
    pub fn rewrites_body(&self) -> bool {
        match &self.0 {
            Kind::Document(document) => document.is_rewritten() && !document.is_event_stream(),
            Kind::Assembled(_) => true,
            _ => false,
        }
    }

    /// The status that the client gets, where it is not that of the engine's head: known with the
    /// first bytes for the client.
    pub fn status(&self) -> Option<u16> {
        match &self.0 {
            Kind::Document(document) => document.status(),
            _ => None,
        }
    }

    /// The tokens that the engine counted; None: it has not said.
    pub fn usage(&self) -> Option<Usage> {
        match &self.0 {
            Kind::Count(counting) => counting.usage(),
            Kind::Events(events) => events.usage(),
            Kind::Document(document) => document.usage(),
            Kind::Assembled(assembled) => assembled.usage(),
            Kind::Identity | Kind::Passing(_) | Kind::Rename(_) | Kind::Begin(_) => None,
        }
    }

    /// Takes the engine's next bytes and returns the client's. `done`: these are the last.
    pub fn push(
        &mut self,
        data: Bytes,
        done: bool,
        timings: impl FnOnce() -> Timings,
    ) -> Result<Bytes, TransformError> {
        match &mut self.0 {
            Kind::Identity => Ok(data),
            Kind::Count(counting) => {
                counting.read(&data, done);
                Ok(data)
            }
            Kind::Passing(frames) => frames.watch(&data).map(|()| data),
            Kind::Events(events) => events.push(data, done, timings),
            Kind::Rename(renamer) => {
                let Some(piece) = renamer.push(data, done) else { return Ok(Bytes::new()) };
                *self = Self::count();
                self.push(piece, done, timings)
            }
            Kind::Document(document) => {
                let (piece, flushed) = document.push(&data, done)?;
                if flushed {
                    *self = Self::IDENTITY;
                }
                Ok(piece)
            }
            Kind::Assembled(assembled) => assembled.push(data, done, timings),
            Kind::Begin(begin) => {
                let Some((transform, data)) = begin.push(data, done) else {
                    return Ok(Bytes::new());
                };
                *self = transform;
                self.push(data, done, timings)
            }
        }
    }
}
