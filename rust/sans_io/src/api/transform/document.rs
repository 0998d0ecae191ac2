//! The rewriting of a whole response: an error, a translation, a ranking.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use serde_json::Value;

use super::{error::TransformError, limits::append, rename::Renamer};
use crate::{
    api::{
        cost::{self, TRANSLATION_MAX},
        engine_error::{self, RedactedNames},
        error::Dialect,
        messages::{self, MessageStream, Origin, TranslateError},
        repair::UniqueIds,
        rerank,
        response_usage::usage_of_response,
        usage::Usage,
    },
    codec::{json::Census, mark::without_mark},
};

impl Document {
    /// The memory of what it keeps of the request, in bytes.
    pub(crate) fn held(&self) -> usize {
        match self {
            Self::Rerank { prepared, .. } => prepared.texts.held(),
            Self::Message { origin, .. } => origin.history.held(),
            Self::Repaired { ids, .. } => ids.held(),
            Self::Error { .. } | Self::TokenCount { .. } | Self::Redirect { .. } => 0,
        }
    }
}

/// The longest whole response that is rewritten, in bytes.
pub(super) const DOCUMENT_HELD: usize = 64 * 1024 * 1024;
/// The longest error that is rewritten, in bytes; a longer one passes as it is.
const ERROR_HELD: usize = 64 * 1024;

/// The document that a whole response becomes.
#[derive(Debug)]
pub(crate) enum Document {
    /// An error, in the client's shape and without the engine's names.
    Error { status: u16, shape: ErrorShape },
    /// A Message, from a chat completion. `events`: as a stream of events. `shape`: of an error in
    /// its place.
    Message { origin: Box<Origin>, events: bool, shape: ErrorShape },
    /// A count of tokens, from a chat completion's usage.
    TokenCount { shape: ErrorShape },
    /// Nothing: the engine says that it is elsewhere.
    Redirect { status: u16 },
    /// Jina's shape, from any engine's.
    Rerank { prepared: Box<rerank::Prepared>, model: Arc<str>, shape: ErrorShape },
    /// The chat completion itself, with unique ids of tool calls and the public name, a JSON string.
    Repaired { ids: Box<UniqueIds>, name_json: Bytes },
}

/// What an engine's error needs to become the client's.
#[derive(Clone, Debug)]
pub(crate) struct ErrorShape {
    pub(crate) dialect: Dialect,
    pub(crate) request_id: Arc<str>,
    /// The engine's names, which no client may see.
    pub(crate) names: RedactedNames,
}

impl ErrorShape {
    /// The client's body; None: the engine's is good.
    fn reshape(&self, status: u16, body: &[u8]) -> Option<Vec<u8>> {
        engine_error::reshape(status, body, self.dialect, &self.request_id, &self.names)
    }
}

/// Holds a whole response back to its end, and rewrites it.
#[derive(Debug)]
pub(super) struct DocumentBuffer {
    held: BytesMut,
    /// The census of what is held.
    census: Census,
    document: Document,
    /// The engine's body was replaced.
    rewritten: bool,
    /// The status in place of the one of the engine's head.
    status: Option<u16>,
    /// The client has got a comment of ours, and the engine's status with it.
    commented: bool,
    usage: Option<Usage>,
}

impl DocumentBuffer {
    /// An empty buffer.
    pub(super) fn new(document: Document) -> Self {
        Self {
            held: BytesMut::new(),
            census: Census::default(),
            document,
            rewritten: false,
            status: None,
            commented: false,
            usage: None,
        }
    }

    /// The memory of what is held back, and of what it will become, in bytes.
    pub(super) fn held(&self) -> usize {
        let rewriting = if self.held.is_empty() { 0 } else { self.cost() };
        self.held.capacity() + self.document.held() + rewriting
    }

    /// The most bytes that rewriting what is held takes beside it.
    fn cost(&self) -> usize {
        let (length, census) = (self.held.len(), &self.census);
        match &self.document {
            Document::Error { .. } | Document::Redirect { .. } => length,
            Document::Message { events: true, .. } => cost::of_told_completion(length, census),
            Document::Message { .. } | Document::TokenCount { .. } | Document::Repaired { .. } => {
                cost::of_completion(length, census)
            }
            Document::Rerank { prepared, .. } => {
                cost::of_ranking(length, prepared.texts.held(), census)
            }
        }
    }

    /// Whether the client gets an event stream.
    pub(super) fn is_event_stream(&self) -> bool {
        self.status.is_none() && matches!(self.document, Document::Message { events: true, .. })
    }

    /// The status that the client gets, where it is not that of the engine's head.
    pub(super) fn status(&self) -> Option<u16> {
        self.status
    }

    /// Notes that the client has got a comment of ours.
    pub(super) fn note_comment(&mut self) {
        self.commented = true;
    }

    /// Whether the engine's body was replaced by a JSON document.
    pub(super) fn is_rewritten(&self) -> bool {
        self.rewritten
    }

    /// The tokens that the engine counted; None: it has not said.
    pub(super) fn usage(&self) -> Option<Usage> {
        self.usage
    }

    /// Takes the engine's next bytes. Returns the client's, and whether all the rest passes as it
    /// is.
    pub(super) fn push(
        &mut self,
        data: &[u8],
        done: bool,
    ) -> Result<(Bytes, bool), TransformError> {
        append(&mut self.held, data, DOCUMENT_HELD);
        if matches!(self.document, Document::Error { .. }) && self.held.len() > ERROR_HELD {
            return Ok((std::mem::take(&mut self.held).freeze(), true));
        }
        if self.held.len() > DOCUMENT_HELD {
            return Err(TransformError::Unusable(format!(
                "The engine's response is longer than {DOCUMENT_HELD} bytes, and cannot be translated."
            )));
        }
        if !matches!(self.document, Document::Error { .. }) {
            self.census.feed(data);
            if self.held() as u64 > TRANSLATION_MAX {
                return Err(TransformError::Unusable(format!(
                    "Translating the engine's response would take more than {TRANSLATION_MAX} bytes of \
                     memory, since it consists of so many values. Ask for less at a time."
                )));
            }
        }
        if !done {
            return Ok((Bytes::new(), false));
        }
        let whole = std::mem::take(&mut self.held).freeze();
        self.usage = usage_of_response(&whole);
        Ok((self.rewrite(whole)?, false))
    }

    /// The document in place of a whole response.
    fn rewrite(&mut self, whole: Bytes) -> Result<Bytes, TransformError> {
        let unusable = |error: TranslateError| TransformError::Unusable(error.message);
        if let Document::Repaired { ids, name_json } = &mut self.document {
            let repaired = ids.in_document(&whole).map_or(whole, Bytes::from);
            let named = Renamer::new(name_json.clone()).push(repaired, true);
            return Ok(named.unwrap_or_default());
        }
        let text = without_mark(&whole);
        let made = match &self.document {
            Document::Error { status, shape } => {
                self.status = engine_error::true_status(*status, text);
                shape.reshape(self.status.unwrap_or(*status), text)
            }
            Document::Message { shape, .. }
            | Document::TokenCount { shape }
            | Document::Rerank { shape, .. } => {
                if let Some(error) = self.error(text, &shape.clone()) {
                    return Ok(error);
                }
                let made = match self.translate(text) {
                    // The first text is freed before the other one is translated.
                    Err(error) => match messages::finite(text) {
                        Some(text) => {
                            drop(whole);
                            self.translate(&text)
                        }
                        None => Err(error),
                    },
                    made => made,
                };
                self.rewritten = true;
                return made.map(Bytes::from).map_err(unusable);
            }
            Document::Redirect { status } => {
                return Err(TransformError::Unusable(format!(
                    "The engine answered with a redirect (status {status}), which is not followed. \
                     Correct the scheme, the host and the path of this target's `urls`."
                )));
            }
            Document::Repaired { .. } => None,
        };
        self.rewritten = made.is_some();
        Ok(made.map_or(whole, Bytes::from))
    }

    /// The error that stands in place of what was asked for, for its client; None: there is none.
    fn error(&mut self, text: &[u8], shape: &ErrorShape) -> Option<Bytes> {
        let status = engine_error::true_status(200, text).filter(|_| text.len() <= ERROR_HELD)?;
        let body = shape.reshape(status, text).unwrap_or_else(|| text.to_vec());
        self.rewritten = true;
        if self.is_event_stream() && self.commented {
            // A line break would end the event.
            let line = serde_json::from_slice(&body).map(|error: Value| error.to_string());
            return Some(shape.dialect.error_event(line.unwrap_or_default().as_bytes()));
        }
        self.status = Some(status);
        Some(body.into())
    }

    /// What a chat completion or a ranking becomes.
    fn translate(&self, text: &[u8]) -> Result<Vec<u8>, TranslateError> {
        match &self.document {
            Document::Message { origin, events: true, .. } => {
                let mut made = Vec::new();
                MessageStream::new(Origin::clone(origin)).whole(text, &mut made)?;
                Ok(made)
            }
            Document::Message { origin, events: false, .. } => messages::response(text, origin),
            Document::Rerank { prepared, model, .. } => rerank::response(text, prepared, model)
                .map_err(|error| TranslateError { message: error.to_string() }),
            _ => messages::count_response(text),
        }
    }
}
