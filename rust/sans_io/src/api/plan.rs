//! What one attempt makes of a request and of its answer: decided from the row, the route and the
//! target, before a byte goes out.

use std::sync::Arc;

use bytes::Bytes;
use http::header;

use crate::{
    api::{
        endpoints::{Edit, Inference, ModelPlace},
        error::{ApiError, Cause, Dialect},
        messages::{self, MessageStream},
        rerank,
        transform::{FrameEdits, Shape, WholeEdit},
        usage::{EventUsage, StreamUsage},
    },
    codec::{headers, http1::ResponseHead},
    table::{Route, Target},
};

/// The longest request that is translated: it is held in memory, in both forms.
pub const WHOLE_BODY: u64 = 64 * 1024 * 1024;

/// Whether the request must be whole before it can be sent to this target.
pub fn needs_whole(inference: Inference, target: &Target) -> bool {
    match inference.edit {
        Edit::Rerank => true,
        Edit::Messages | Edit::CountTokens => !target.model.speaks_anthropic,
        Edit::None | Edit::StreamUsage | Edit::StoredResponse => false,
    }
}

/// See the module.
pub struct Plan {
    inference: Inference,
    /// Where it is sent.
    pub target: Arc<Target>,
    /// The engine's path, where it is not the row's.
    pub path: Option<&'static str>,
    /// Whether the engine knows the model by another name than the client.
    renames: bool,
    /// Whether a stream is asked for its usage.
    pub ask_usage: bool,
    /// Sent in place of the client's body.
    pub substitute: Option<Bytes>,
    make: Make,
}

/// What a good answer becomes.
enum Make {
    /// Itself, edited.
    Itself,
    Message,
    TokenCount,
    Reranked(Box<rerank::Prepared>),
}

/// What a plan needs to know of the client's request to shape the answer.
pub struct Asker<'a> {
    /// The route that was asked for.
    pub route: &'a Route,
    /// The shape of errors.
    pub dialect: Dialect,
    /// The request's id.
    pub request_id: &'a Arc<str>,
    /// The client itself asked for a stream's usage.
    pub asked_usage: bool,
    /// Whether usage gets GPUStack's timings.
    pub usage_timings: bool,
}

/// What a translated request and its answer are.
pub struct Translated {
    path: &'static str,
    body: Option<Bytes>,
    make: Make,
}

/// Translates a whole request, where `needs_whole` says so. The error is the client's.
pub fn translate(
    inference: Inference,
    target: &Target,
    body: &[u8],
) -> Result<Translated, ApiError> {
    const CHAT: &str = "/v1/chat/completions";
    let refused = |message| ApiError::new(Cause::BadRequest, message);
    let name = &target.served_name;
    Ok(match inference.edit {
        Edit::Rerank => {
            let engine =
                if target.model.speaks_tei { rerank::Engine::Tei } else { rerank::Engine::Jina };
            let mut prepared =
                rerank::request(body, engine, name).map_err(|error| refused(error.to_string()))?;
            let body = prepared.body.take().map(Bytes::from);
            Translated { path: prepared.path, body, make: Make::Reranked(Box::new(prepared)) }
        }
        Edit::CountTokens => {
            let request =
                messages::count_request(body, name).map_err(|error| refused(error.message))?;
            Translated { path: CHAT, body: Some(request.body.into()), make: Make::TokenCount }
        }
        Edit::Messages | Edit::None | Edit::StreamUsage | Edit::StoredResponse => {
            let request = messages::request(body, name).map_err(|error| refused(error.message))?;
            Translated { path: CHAT, body: Some(request.body.into()), make: Make::Message }
        }
    })
}

impl Plan {
    /// `translated`: the request, where `needs_whole` says so.
    pub fn new(
        inference: Inference,
        route: &Route,
        target: &Arc<Target>,
        translated: Option<Translated>,
    ) -> Self {
        let (path, substitute, make) = translated
            .map_or((None, None, Make::Itself), |translated| {
                (Some(translated.path), translated.body, translated.make)
            });
        Self {
            inference,
            target: Arc::clone(target),
            path,
            renames: route.renames(target),
            ask_usage: inference.edit == Edit::StreamUsage && target.model.stream_usage,
            substitute,
            make,
        }
    }

    /// How the answer with this head is treated.
    pub fn shape(self, head: &ResponseHead, asker: &Asker<'_>) -> Shape {
        let events = headers::is_event_stream(&head.headers);
        if head.status.as_u16() >= 400 && !events {
            return Shape::whole(WholeEdit::Error {
                status: head.status.as_u16(),
                dialect: asker.dialect,
                request_id: Arc::clone(asker.request_id),
                names: Arc::clone(&self.target.hidden),
            });
        }
        let model = || Arc::clone(&asker.route.name);
        match self.make {
            Make::Message if !events => Shape::whole(WholeEdit::Message { model: model() }),
            Make::TokenCount => Shape::whole(WholeEdit::TokenCount),
            Make::Reranked(prepared) => {
                Shape::whole(WholeEdit::Rerank { prepared, model: model() })
            }
            Make::Itself | Make::Message if events => Shape::events(self.frame_edits(asker)),
            _ if self.inference.model_in_answer != ModelPlace::Nowhere
                && headers::is_json(&head.headers) =>
            {
                Shape::renamed(asker.route.name_json.clone())
            }
            _ if headers::is_json(&head.headers) => Shape::counted(),
            _ => Shape::Plain,
        }
    }

    fn frame_edits(self, asker: &Asker<'_>) -> FrameEdits {
        let hidden = (!self.target.hidden.is_empty()).then(|| Arc::clone(&self.target.hidden));
        if matches!(self.make, Make::Message) {
            let id = format!("msg_{}", asker.request_id);
            let translate = Some(Box::new(MessageStream::new(&asker.route.name, &id)));
            return FrameEdits { hidden, translate, ..FrameEdits::default() };
        }
        let place = self.inference.model_in_answer;
        let streams_usage = self.inference.edit == Edit::StreamUsage;
        let cut = self.ask_usage && !asker.asked_usage;
        let reads_usage = matches!(self.inference.edit, Edit::Messages | Edit::StoredResponse);
        FrameEdits {
            rename: (place != ModelPlace::Nowhere).then(|| (place, asker.route.name_json.clone())),
            rename_expected: self.renames,
            stream_usage: streams_usage.then(|| StreamUsage::new(cut, asker.usage_timings)),
            event_usage: reads_usage.then(EventUsage::default),
            hidden,
            anthropic_errors: asker.dialect == Dialect::Anthropic,
            translate: None,
        }
    }
}

/// Whether an engine encoded its answer although it was asked not to: then it cannot be looked
/// into.
pub fn is_encoded(head: &ResponseHead) -> bool {
    head.headers.get(header::CONTENT_ENCODING).is_some_and(|coding| coding != "identity")
}
