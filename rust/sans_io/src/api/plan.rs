//! The plan of an attempt: the one place that decides how request and response are changed. It is
//! made of the endpoint, the route and the target, before a byte is sent.

use std::sync::Arc;

use bytes::Bytes;

use crate::{
    api::{
        endpoints::{Inference, ModelPlace, Operation},
        error::{ApiError, Cause, Dialect},
        messages::{self, HistoryIds, MessageStream, Origin},
        repair::{self, Repaired, Repairs, UniqueIds},
        rerank,
        transform::{Document, ErrorShape, FrameEdits, Transform},
        usage::{EventUsage, StreamUsage},
    },
    codec::{headers, http1::ResponseHead, inflate, response_fields::Sender, splice::Splice},
    table::{Route, Target},
};

/// The longest request that is translated, in bytes. It is in memory in both forms.
pub const TRANSLATED_MAX: u64 = 64 * 1024 * 1024;

/// The chat endpoint of engines, to which Messages are translated.
const CHAT: &str = "/v1/chat/completions";

/// Whether a request to this target is translated.
fn is_translated(inference: Inference, target: &Target) -> bool {
    match inference.operation {
        Operation::Rerank => true,
        // The translation repairs all that can be asked for.
        Operation::Messages | Operation::CountTokens => {
            !target.model.speaks_anthropic || !target.model.repair.is_empty()
        }
        Operation::Plain | Operation::Generate | Operation::CreateResponse => false,
    }
}

/// Whether a request to this target is read as a whole before it is sent, to be translated or
/// repaired.
pub fn needs_whole_body(inference: Inference, target: &Target) -> bool {
    let is_repaired = inference.operation == Operation::Generate && !target.model.repair.is_empty();
    is_repaired || is_translated(inference, target)
}

/// A translated or repaired request: what stands in place of the client's, and what the response
/// becomes.
pub struct Translation {
    /// The engine's path; None: the client's.
    path: Option<&'static str>,
    /// None: the client's body is sent as it is.
    body: Option<Bytes>,
    /// The messages in place of those of the client's body; None: those stay.
    messages: Option<Splice>,
    response: Translated,
    /// How much of the request the engine does not get, or in words only.
    untranslated: u32,
}

/// What the response becomes.
enum Translated {
    /// A Message, from a chat completion. `history`: the ids of the tool calls in the request.
    Message { history: HistoryIds },
    /// A count of tokens, from a chat completion's usage.
    TokenCount,
    /// Jina's shape, from any engine's.
    Rerank { prepared: Box<rerank::Prepared> },
    /// A chat completion as it is, but for ids of tool calls that are in the request already; None:
    /// they stay, too.
    Repaired { history: Option<HistoryIds> },
}

/// Translates or repairs a whole request body, where [`needs_whole_body`]. Fails with a 400 for a body that
/// cannot be.
pub fn translate(
    inference: Inference,
    target: &Target,
    body: &[u8],
) -> Result<Translation, ApiError> {
    let rejected = |message| ApiError::new(Cause::BadRequest, message);
    let name = &target.served_name;
    let engine = messages::Engine {
        model: name,
        system_messages: target.model.system_messages,
        reasoning_names: target.model.reasoning_names,
    };
    Ok(match inference.operation {
        Operation::Rerank => {
            let engine =
                if target.model.speaks_tei { rerank::Engine::Tei } else { rerank::Engine::Jina };
            let mut prepared =
                rerank::request(body, engine, name).map_err(|error| rejected(error.to_string()))?;
            Translation {
                path: Some(prepared.path),
                messages: None,
                body: prepared.body.take().map(Bytes::from),
                response: Translated::Rerank { prepared: Box::new(prepared) },
                untranslated: 0,
            }
        }
        Operation::CountTokens => {
            let request =
                messages::count_request(body, &engine).map_err(|error| rejected(error.message))?;
            Translation {
                path: Some(CHAT),
                messages: None,
                body: Some(request.body.into()),
                response: Translated::TokenCount,
                untranslated: request.untranslated,
            }
        }
        Operation::Generate => {
            let repairs = Repairs::new(&target.model.repair);
            let Repaired { messages, history } = repair::repaired(body, repairs);
            let response = Translated::Repaired { history: repairs.tool_ids.then_some(history) };
            Translation { path: None, body: None, messages, response, untranslated: 0 }
        }
        Operation::Messages | Operation::Plain | Operation::CreateResponse => {
            let request =
                messages::request(body, &engine).map_err(|error| rejected(error.message))?;
            Translation {
                path: Some(CHAT),
                messages: None,
                body: Some(request.body.into()),
                response: Translated::Message { history: request.history },
                untranslated: request.untranslated,
            }
        }
    })
}

impl Translation {
    /// The memory that it holds, in bytes.
    pub fn held(&self) -> u64 {
        let response = match &self.response {
            Translated::Message { history } => history.held(),
            Translated::TokenCount => 0,
            Translated::Rerank { prepared } => prepared.texts.held(),
            Translated::Repaired { history } => history.as_ref().map_or(0, HistoryIds::held),
        };
        let messages = self.messages.as_ref().map_or(0, |messages| messages.text.len());
        (self.body.as_ref().map_or(0, Bytes::len) + messages + response) as u64
    }
}

/// The changes that one attempt makes in the request and the response.
pub struct Plan {
    /// None: both pass through unread (the generic proxy, realtime).
    inference: Option<Inference>,
    target: Arc<Target>,
    /// Whether the engine knows the model by another name than the client.
    renames: bool,
    translation: Option<Translation>,
}

/// The client's side of a transformation.
pub struct Requester<'a> {
    /// The route that was asked for.
    pub route: &'a Route,
    /// The shape of errors.
    pub dialect: Dialect,
    /// The request's id.
    pub request_id: &'a Arc<str>,
    /// Whether the client asked for a stream.
    pub asked_stream: bool,
    /// Whether the client itself asked for a stream's usage.
    pub asked_usage: bool,
    /// Whether usage gets GPUStack's timings.
    pub usage_timings: bool,
}

impl Requester<'_> {
    /// The shape of an error of this target's engine.
    fn error_shape(&self, target: &Target) -> ErrorShape {
        ErrorShape {
            dialect: self.dialect,
            request_id: Arc::clone(self.request_id),
            names: Arc::clone(&target.redacted),
        }
    }
}

impl Plan {
    /// The target of the attempt.
    pub fn target(&self) -> &Arc<Target> {
        &self.target
    }

    /// The plan of an attempt at this target. `translation`: the request's, where
    /// [`needs_whole_body`].
    pub fn new(
        inference: Option<Inference>,
        route: &Route,
        target: Arc<Target>,
        translation: Option<Translation>,
    ) -> Self {
        Self { inference, renames: route.renames(&target), target, translation }
    }

    /// The engine's path; None: the client's.
    pub fn path(&self) -> Option<&'static str> {
        self.translation.as_ref()?.path
    }

    /// The target whose name replaces the client's `model`; None: both names are the same.
    pub fn rename(&self) -> Option<&Target> {
        self.renames.then_some(&*self.target)
    }

    /// Whether a stream is asked for its usage.
    pub fn asks_usage(&self) -> bool {
        self.inference.is_some_and(|inference| inference.operation == Operation::Generate)
            && self.target.model.stream_usage
    }

    /// The body in place of the client's; None: the client's is sent, or it was taken.
    pub fn substitute(&self) -> Option<&Bytes> {
        self.translation.as_ref()?.body.as_ref()
    }

    /// The sender of the response, by which its fields pass to the client. `proxied`: the request
    /// is the generic proxy's.
    pub fn sender(&self, proxied: bool) -> Sender<'_> {
        if proxied { Sender::Proxied } else { Sender::Engine(&self.target.model.response_headers) }
    }

    /// How many blocks and tools of the request the engine does not get, or in words only.
    pub fn untranslated(&self) -> u32 {
        self.translation.as_ref().map_or(0, |translation| translation.untranslated)
    }

    /// Takes that body, so that it is freed as it is sent.
    pub fn take_substitute(&mut self) -> Option<Bytes> {
        self.translation.as_mut()?.body.take()
    }

    /// Takes the messages in place of those of the client's body; None: those stay.
    pub fn take_messages(&mut self) -> Option<Splice> {
        self.translation.as_mut()?.messages.take()
    }

    /// Whether the client gets an event stream for the response with this head. Of a translated one
    /// the client's request decides.
    pub fn is_event_stream(&self, head: &ResponseHead, asked_stream: bool) -> bool {
        match self.translation.as_ref().map(|translation| &translation.response) {
            Some(Translated::Message { .. }) if head.status.as_u16() < 400 => asked_stream,
            Some(Translated::TokenCount) if head.status.as_u16() < 400 => false,
            _ => headers::is_event_stream(&head.headers),
        }
    }

    /// The transformation of the response with this head. `events`: the client gets an event stream.
    pub fn transform(
        mut self,
        head: &ResponseHead,
        events: bool,
        requester: &Requester<'_>,
    ) -> Transform {
        let Some(inference) = self.inference else { return unread(head, events) };
        if head.status.as_u16() >= 400 && !events {
            let status = head.status.as_u16();
            return Transform::document(Document::Error {
                status,
                shape: requester.error_shape(&self.target),
            });
        }
        let translated = self.translation.take().map(|translation| translation.response);
        let ids = match translated {
            Some(
                Translated::Rerank { .. } | Translated::Message { .. } | Translated::TokenCount,
            ) if head.status.is_redirection() => {
                return Transform::document(Document::Redirect { status: head.status.as_u16() });
            }
            Some(Translated::Rerank { prepared }) => {
                let model = Arc::clone(&requester.route.name);
                let shape = requester.error_shape(&self.target);
                return Transform::document(Document::Rerank { prepared, model, shape });
            }
            Some(Translated::Repaired { history }) => {
                history.map(|history| Box::new(UniqueIds::new(requester.request_id, history)))
            }
            Some(Translated::Message { history }) => {
                return completion(Some(history), &self.target, requester, head);
            }
            Some(Translated::TokenCount) => return completion(None, &self.target, requester, head),
            None => None,
        };
        match ids {
            _ if events => {
                let edits = self.frame_edits(inference, requester);
                Transform::events(FrameEdits { ids, ..edits })
            }
            _ if !headers::is_json(&head.headers) => Transform::IDENTITY,
            Some(ids) => {
                let name_json = requester.route.name_json.clone();
                Transform::document(Document::Repaired { ids, name_json })
            }
            None if inference.model_place == ModelPlace::Nowhere => Transform::count(),
            None => Transform::rename(requester.route.name_json.clone()),
        }
    }

    /// The edits in the frames of a stream that is not translated.
    fn frame_edits(&self, inference: Inference, requester: &Requester<'_>) -> FrameEdits {
        let Inference { model_place, operation, .. } = inference;
        // The client did not ask for the usage that was asked for in its place.
        let cut_usage = self.asks_usage() && !requester.asked_usage;
        FrameEdits {
            rename: (model_place != ModelPlace::Nowhere)
                .then(|| (model_place, requester.route.name_json.clone())),
            rename_expected: self.renames,
            stream_usage: (operation == Operation::Generate)
                .then(|| StreamUsage::new(cut_usage, requester.usage_timings)),
            event_usage: (operation != Operation::Generate).then(EventUsage::default),
            redacted: redacted(&self.target),
            errors: Some(requester.dialect),
            ids: None,
            translate: None,
        }
    }
}

/// The transformation of a response that passes unread. A stream that is compressed, as the client
/// likes it, cannot be watched.
pub fn unread(head: &ResponseHead, events: bool) -> Transform {
    if events && inflate::coding(&head.headers) == Ok(None) {
        Transform::passing_events()
    } else {
        Transform::IDENTITY
    }
}

/// The transformation of a chat completion into a Message, or into a count of tokens (no `history`).
/// An engine may not send the form that was asked for, or not say what it sends.
fn completion(
    history: Option<HistoryIds>,
    target: &Target,
    requester: &Requester<'_>,
    head: &ResponseHead,
) -> Transform {
    let says_stream = headers::is_event_stream(&head.headers);
    let counts = history.is_none();
    let origin = Origin {
        model: Arc::clone(&requester.route.name),
        message_id: format!("msg_{}", requester.request_id),
        history: history.unwrap_or_default(),
    };
    let events = requester.asked_stream && !counts;
    let edits = translated_frames(target, origin.clone(), requester.dialect);
    let shape = requester.error_shape(target);
    let document = if counts {
        Document::TokenCount { shape }
    } else {
        Document::Message { origin: Box::new(origin), events, shape }
    };
    if events {
        Transform::streamed_completion(says_stream, document, edits)
    } else {
        Transform::whole_completion(says_stream, document, edits, counts)
    }
}

/// The edits that make a stream of chat chunks one of Messages events.
fn translated_frames(target: &Target, origin: Origin, dialect: Dialect) -> FrameEdits {
    let translate = Some(Box::new(MessageStream::new(origin)));
    let event_usage = Some(EventUsage::default());
    let redacted = redacted(target);
    // The words are the translation's own: only names are to be hidden in them.
    let errors = redacted.is_some().then_some(dialect);
    FrameEdits { event_usage, redacted, errors, translate, ..FrameEdits::default() }
}

/// The engine's names that no client may see; None: there are none.
fn redacted(target: &Target) -> Option<Arc<[(String, String)]>> {
    (!target.redacted.is_empty()).then(|| Arc::clone(&target.redacted))
}
