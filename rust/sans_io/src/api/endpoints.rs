//! The table of endpoints.
//!
//! To add one that goes to an engine, add its line to `ENDPOINTS`, made by `plain`, and its path to
//! `INFERENCE_PATHS` in `backends/facts.py`, which a test compares with this table. The rest that
//! belongs to an endpoint is in `docs/architecture.md`, "Where to add".

use http::Method;

use crate::api::error::Dialect;

/// One endpoint.
#[derive(Debug)]
pub struct Endpoint {
    /// The literal path; a prefix where it ends with `/`. It stands in the records of requests.
    pub path: &'static str,
    /// The methods that it takes.
    pub methods: Methods,
    /// The shape of its errors.
    pub dialect: Dialect,
    /// Whether `/v1-openai` leads here too: GPUStack's frozen set of older paths.
    pub legacy: bool,
    /// The kind of its requests.
    pub kind: Kind,
}

/// The kind of a request, by which it is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The data plane responds by itself.
    Local(Local),
    /// It goes to an engine of the model that its body names.
    Inference(Inference),
    /// `/v1/responses/{id}` and what lies below: it goes to the instance that made the response.
    StoredResponse,
    /// `GET /v1/realtime?model=`: a WebSocket to an engine.
    Realtime,
    /// `/model/proxy/...`: any path of an engine but the administrative ones.
    GenericProxy,
    /// It goes to the management API.
    Management,
}

/// A request that needs no engine and no Python.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Local {
    /// `GET /v1/models`
    ListModels,
    /// `GET /v1/models/{id}`; the id is what follows the endpoint's path.
    ShowModel,
    /// Whether the process lives.
    Healthz,
    /// Whether inference requests can be served.
    Readyz,
    /// Prometheus text.
    Metrics,
}

/// The treatment of an inference request, as far as its endpoint decides it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inference {
    /// The format of the body, which names the model.
    pub body: BodyKind,
    /// Whether a request that was delivered to an engine which then died may be sent once more: it
    /// costs nothing but time.
    pub retryable: bool,
    /// The place of the model's name in the response.
    pub model_place: ModelPlace,
    /// The edits of request and response beyond the model's name.
    pub operation: Operation,
}

/// The format of a request's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyKind {
    /// A JSON object with `model` at its top level.
    Json,
    /// A form with a field `model`; or a JSON object, if the request's `Content-Type` says so.
    Form,
}

/// The place of the model's name in a response, and in each frame of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelPlace {
    /// `model` at the top level, everywhere.
    TopLevel,
    /// `model` at the top level of a whole response, `response.model` in the events of a stream.
    Response,
    /// `model` at the top level of a whole response, `message.model` in a stream's `message_start`.
    Message,
    /// In no place: the response is not renamed.
    Nowhere,
}

/// The treatment of request and response beyond the model's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Nothing.
    Plain,
    /// Streams are asked for their usage, and get GPUStack's timings in it.
    Generate,
    /// The response's id is remembered with its instance, and a request that names one goes there.
    CreateResponse,
    /// The response gets Jina's shape, from any engine's.
    Rerank,
    /// Anthropic's Messages: translated to chat completions for engines that do not speak them.
    Messages,
    /// The count of a Message's tokens: translated as Messages are.
    CountTokens,
}

impl Operation {
    /// Whether engines respond to it with an event stream where the request's `stream` says so.
    pub fn may_stream(self) -> bool {
        matches!(self, Self::Generate | Self::CreateResponse | Self::Messages)
    }
}

/// The treatment of requests for a response that an engine keeps.
pub const STORED_RESPONSE: Inference = Inference {
    body: BodyKind::Json,
    retryable: true,
    model_place: ModelPlace::Response,
    operation: Operation::Plain,
};

/// The methods that an endpoint takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Methods {
    /// POST
    Post,
    /// GET, and HEAD with it.
    Get,
    /// Those of the Responses API below a response's id.
    Stored,
    /// Every one.
    Any,
}

impl Methods {
    fn take(self, method: &Method) -> bool {
        match self {
            Self::Post => method == Method::POST,
            Self::Get => method == Method::GET || method == Method::HEAD,
            Self::Stored => {
                [Method::GET, Method::HEAD, Method::POST, Method::DELETE].contains(method)
            }
            Self::Any => true,
        }
    }

    /// The value of the `Allow` field.
    pub fn allow(self) -> &'static str {
        match self {
            Self::Post => "POST, OPTIONS",
            Self::Get => "GET, HEAD, OPTIONS",
            Self::Stored => "GET, HEAD, POST, DELETE, OPTIONS",
            Self::Any => "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS",
        }
    }
}

/// An inference endpoint's kind.
const fn inference(
    body: BodyKind,
    retryable: bool,
    model_place: ModelPlace,
    operation: Operation,
) -> Kind {
    Kind::Inference(Inference { body, retryable, model_place, operation })
}

/// Chat and completions.
const GENERATE: Kind = inference(BodyKind::Json, true, ModelPlace::TopLevel, Operation::Generate);
/// Embeddings, scores and the like.
const COMPUTE: Kind = inference(BodyKind::Json, true, ModelPlace::TopLevel, Operation::Plain);
const RERANK: Kind = inference(BodyKind::Json, true, ModelPlace::Nowhere, Operation::Rerank);
const RESPONSES: Kind =
    inference(BodyKind::Json, true, ModelPlace::Response, Operation::CreateResponse);
const MESSAGES: Kind = inference(BodyKind::Json, true, ModelPlace::Message, Operation::Messages);
const COUNT_TOKENS: Kind =
    inference(BodyKind::Json, true, ModelPlace::Nowhere, Operation::CountTokens);
/// Image and speech generation: never retried after delivery; no `model` in the response.
const GENERATE_MEDIA: Kind =
    inference(BodyKind::Json, false, ModelPlace::Nowhere, Operation::Plain);
const EDIT_MEDIA: Kind = inference(BodyKind::Form, false, ModelPlace::Nowhere, Operation::Plain);
const TRANSCRIBE: Kind = inference(BodyKind::Form, true, ModelPlace::TopLevel, Operation::Plain);
const LIST_MODELS: Kind = Kind::Local(Local::ListModels);
const SHOW_MODEL: Kind = Kind::Local(Local::ShowModel);

use Dialect::{Anthropic, Management, OpenAi};
use Kind::{GenericProxy, Realtime, StoredResponse};
use Methods::{Any, Get, Post, Stored};

/// An endpoint that `/v1-openai` leads to as well: one of GPUStack's frozen set, which is complete.
/// Never for a new endpoint.
const fn with_legacy(
    path: &'static str,
    methods: Methods,
    dialect: Dialect,
    kind: Kind,
) -> Endpoint {
    Endpoint { path, methods, dialect, legacy: true, kind }
}

/// An endpoint without an older path, as every new one is.
const fn plain(path: &'static str, methods: Methods, dialect: Dialect, kind: Kind) -> Endpoint {
    Endpoint { path, methods, dialect, legacy: false, kind }
}

/// All endpoints but the management API's. The first one whose path matches counts.
#[rustfmt::skip]
static ENDPOINTS: &[Endpoint] = &[
    with_legacy("/v1/chat/completions",      Post,   OpenAi,     GENERATE),
    with_legacy("/v1/completions",           Post,   OpenAi,     GENERATE),
    plain(      "/v1/messages",              Post,   Anthropic,  MESSAGES),
    plain(      "/v1/messages/count_tokens", Post,   Anthropic,  COUNT_TOKENS),
    with_legacy("/v1/responses",             Post,   OpenAi,     RESPONSES),
    plain(      "/v1/responses/",            Stored, OpenAi,     StoredResponse),
    with_legacy("/v1/embeddings",            Post,   OpenAi,     COMPUTE),
    plain(      "/v1/rerank",                Post,   OpenAi,     RERANK),
    plain(      "/v2/rerank",                Post,   OpenAi,     RERANK),
    plain(      "/v1/score",                 Post,   OpenAi,     COMPUTE),
    plain(      "/v1/moderations",           Post,   OpenAi,     COMPUTE),
    with_legacy("/v1/images/generations",    Post,   OpenAi,     GENERATE_MEDIA),
    with_legacy("/v1/images/edits",          Post,   OpenAi,     EDIT_MEDIA),
    plain(      "/v1/images/variations",     Post,   OpenAi,     EDIT_MEDIA),
    with_legacy("/v1/audio/speech",          Post,   OpenAi,     GENERATE_MEDIA),
    with_legacy("/v1/audio/transcriptions",  Post,   OpenAi,     TRANSCRIBE),
    plain(      "/v1/audio/translations",    Post,   OpenAi,     TRANSCRIBE),
    plain(      "/v1/realtime",              Get,    OpenAi,     Realtime),
    plain(      "/model/proxy/",             Any,    OpenAi,     GenericProxy),
    with_legacy("/v1/models",                Get,    OpenAi,     LIST_MODELS),
    plain(      "/v1/models/",               Get,    OpenAi,     SHOW_MODEL),
    plain(      "/healthz",                  Get,    Management, Kind::Local(Local::Healthz)),
    plain(      "/readyz",                   Get,    Management, Kind::Local(Local::Readyz)),
    plain(      "/metrics",                  Get,    Management, Kind::Local(Local::Metrics)),
];

/// The endpoint of all other paths. Its records say `control_plane`.
static MANAGEMENT: Endpoint = plain("control_plane", Any, Management, Kind::Management);

/// GPUStack's older prefix.
const LEGACY: &str = "/v1-openai/";

/// A request line that leads to no endpoint.
#[derive(Debug)]
pub enum NotFound {
    /// The endpoint has this path, but does not take the method.
    WrongMethod(&'static Endpoint),
    /// An API path that this version does not have; the error has the API's shape.
    NoSuchEndpoint(Dialect),
}

impl NotFound {
    /// The error shape of what was asked for.
    pub fn dialect(&self) -> Dialect {
        match self {
            Self::WrongMethod(endpoint) => endpoint.dialect,
            Self::NoSuchEndpoint(dialect) => *dialect,
        }
    }
}

/// The endpoint of a request line. Paths are compared literally, as engines do: nothing is decoded,
/// merged or trimmed.
pub fn find(method: &Method, path: &str) -> Result<&'static Endpoint, NotFound> {
    match find_path(path) {
        Some(endpoint) if endpoint.methods.take(method) => Ok(endpoint),
        Some(endpoint) => Err(NotFound::WrongMethod(endpoint)),
        None if path.starts_with("/v1/messages") => Err(NotFound::NoSuchEndpoint(Anthropic)),
        None if is_openai(path) => Err(NotFound::NoSuchEndpoint(OpenAi)),
        None => Ok(&MANAGEMENT),
    }
}

/// The value of `Allow` for a path; None: it is not in the table.
pub fn allow(path: &str) -> Option<&'static str> {
    find_path(path).map(|endpoint| endpoint.methods.allow())
}

fn is_openai(path: &str) -> bool {
    ["/v1/", LEGACY, "/model/"].iter().any(|prefix| path.starts_with(prefix)) || path == "/v1"
}

fn find_path(path: &str) -> Option<&'static Endpoint> {
    if let Some(rest) = path.strip_prefix(LEGACY) {
        return ENDPOINTS
            .iter()
            .find(|endpoint| endpoint.legacy && endpoint.path.strip_prefix("/v1/") == Some(rest));
    }
    ENDPOINTS.iter().find(|endpoint| {
        if endpoint.path.ends_with('/') {
            path.len() > endpoint.path.len() && path.starts_with(endpoint.path)
        } else {
            path == endpoint.path
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(method: &Method, path: &str) -> Option<&'static str> {
        find(method, path).ok().map(|endpoint| endpoint.path)
    }

    #[test]
    fn paths_are_matched_literally() {
        assert_eq!(found(&Method::POST, "/v1/chat/completions"), Some("/v1/chat/completions"));
        assert!(matches!(
            find(&Method::GET, "/v1/chat/completions"),
            Err(NotFound::WrongMethod(_))
        ));
        assert_eq!(found(&Method::HEAD, "/v1/models"), Some("/v1/models"));
        assert_eq!(found(&Method::GET, "/v1/models/a/b"), Some("/v1/models/"));
        assert!(matches!(
            find(&Method::GET, "/v1/models/"),
            Err(NotFound::NoSuchEndpoint(Dialect::OpenAi))
        ));
        assert!(matches!(
            find(&Method::POST, "/v1//chat/completions"),
            Err(NotFound::NoSuchEndpoint(Dialect::OpenAi))
        ));
        assert!(matches!(
            find(&Method::POST, "/v1/messages/batches"),
            Err(NotFound::NoSuchEndpoint(Dialect::Anthropic))
        ));
        assert_eq!(find(&Method::GET, "/version").unwrap().kind, Kind::Management);
        assert!(matches!(
            find(&Method::GET, "/model/proxy"),
            Err(NotFound::NoSuchEndpoint(Dialect::OpenAi))
        ));
        assert_eq!(found(&Method::PATCH, "/model/proxy/x"), Some("/model/proxy/"));
        assert_eq!(found(&Method::DELETE, "/v1/responses/resp_1"), Some("/v1/responses/"));
        assert_eq!(
            found(&Method::POST, "/v1/messages/count_tokens"),
            Some("/v1/messages/count_tokens")
        );
    }

    #[test]
    fn what_a_path_leads_to_has_the_dialect_of_its_errors() {
        for (path, dialect) in [
            ("/v1/messages", Dialect::Anthropic),
            ("/v1/messages/batches", Dialect::Anthropic),
            ("/v1/models", Dialect::OpenAi),
            ("/v1/nothing", Dialect::OpenAi),
            ("/healthz", Dialect::Management),
            ("/v2/models", Dialect::Management),
        ] {
            for method in [Method::POST, Method::GET] {
                let found = find(&method, path);
                let found = found.map_or_else(|missing| missing.dialect(), |found| found.dialect);
                assert_eq!(found, dialect, "{path}");
            }
        }
    }

    #[test]
    fn the_legacy_prefix_leads_to_its_frozen_set_alone() {
        let legacy: Vec<_> =
            ENDPOINTS.iter().filter(|one| one.legacy && one.methods == Methods::Post).collect();
        assert_eq!(legacy.len(), 8);
        assert_eq!(
            found(&Method::POST, "/v1-openai/chat/completions"),
            Some("/v1/chat/completions")
        );
        assert_eq!(found(&Method::GET, "/v1-openai/models"), Some("/v1/models"));
        for path in
            ["/v1-openai/rerank", "/v1-openai/messages", "/v1-openai/", "/v1-openai/models/a"]
        {
            assert!(
                matches!(find(&Method::POST, path), Err(NotFound::NoSuchEndpoint(Dialect::OpenAi))),
                "{path}"
            );
        }
    }

    #[test]
    fn every_path_of_the_table_says_what_it_allows() {
        assert_eq!(allow("/v1/chat/completions"), Some("POST, OPTIONS"));
        assert_eq!(allow("/v1/models"), Some("GET, HEAD, OPTIONS"));
        assert_eq!(allow("/v1/nothing"), None);
    }
}
