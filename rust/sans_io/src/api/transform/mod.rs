//! How the bytes of an engine's response are edited for its client. Bytes in, bytes out; nothing of
//! it moves by itself.

mod document;
mod error;
mod frames;
mod limits;
mod rename;

use bytes::Bytes;

pub use self::error::TransformError;
pub(crate) use self::{document::Document, frames::FrameEdits};
use self::{document::DocumentBuffer, frames::EventStream, limits::COUNTED, rename::Renamer};
use crate::api::usage::{Timings, Usage, usage_in_tail};

/// What is done to the bytes of one response.
#[derive(Debug)]
pub struct Transform(Kind);

#[derive(Debug)]
enum Kind {
    /// They pass as they come.
    Identity,
    /// They pass as they come; the first piece, if it is the whole response, is looked into for its
    /// usage.
    Count { usage: Option<Usage>, first: bool },
    /// They pass in whole frames, edited.
    Events(Box<EventStream>),
    /// They are held back until `model` is found and renamed; from then on they pass.
    Rename(Box<Renamer>),
    /// They are held back to the end, then rewritten.
    Document(Box<DocumentBuffer>),
}

impl Transform {
    /// The bytes pass as they come.
    pub const IDENTITY: Self = Self(Kind::Identity);

    pub(crate) fn count() -> Self {
        Self(Kind::Count { usage: None, first: true })
    }

    pub(crate) fn events(edits: FrameEdits) -> Self {
        Self(Kind::Events(Box::new(EventStream::new(edits))))
    }

    /// `name_json`: the public name, as a JSON string.
    pub(crate) fn rename(name_json: Bytes) -> Self {
        Self(Kind::Rename(Box::new(Renamer::new(name_json))))
    }

    pub(crate) fn document(document: Document) -> Self {
        Self(Kind::Document(Box::new(DocumentBuffer::new(document))))
    }

    /// Whether it works on events, one by one.
    pub fn is_event_stream(&self) -> bool {
        matches!(self.0, Kind::Events(_))
    }

    /// Whether the bytes pass as they come, so that their number is known when the engine's is.
    pub fn keeps_length(&self) -> bool {
        matches!(self.0, Kind::Identity | Kind::Count { .. })
    }

    /// Whether an end of the connection can be the end of the response.
    pub fn may_end_here(&self) -> bool {
        match &self.0 {
            Kind::Events(events) => events.is_finished(),
            _ => true,
        }
    }

    /// Whether the engine's last frame said that the stream is finished; all that a lost connection
    /// can take away then is framing.
    pub fn is_finished(&self) -> bool {
        matches!(&self.0, Kind::Events(events) if events.is_finished())
    }

    /// Whether nothing of a frame has gone on without its end, so that an event of ours may follow.
    pub fn at_frame_edge(&self) -> bool {
        matches!(&self.0, Kind::Events(events) if events.at_frame_edge())
    }

    /// Whether the bytes that went on are a JSON document of ours.
    pub fn rewrites_body(&self) -> bool {
        matches!(&self.0, Kind::Document(document) if document.is_rewritten())
    }

    /// The tokens that the engine counted, as far as it said.
    pub fn usage(&self) -> Option<Usage> {
        match &self.0 {
            Kind::Count { usage, .. } => *usage,
            Kind::Events(events) => events.usage(),
            Kind::Document(document) => document.usage(),
            Kind::Identity | Kind::Rename(_) => None,
        }
    }

    /// Takes the engine's next bytes and gives those that go on now; `done`: these are the last.
    pub fn push(
        &mut self,
        data: Bytes,
        done: bool,
        timings: impl FnOnce() -> Timings,
    ) -> Result<Bytes, TransformError> {
        match &mut self.0 {
            Kind::Identity => Ok(data),
            Kind::Count { usage, first } => {
                if *first && done && data.len() <= COUNTED {
                    *usage = usage_in_tail(&data);
                }
                *first = false;
                Ok(data)
            }
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
        }
    }
}
