//! The path table: one row for each endpoint.

use http::Method;

use crate::api::error::Dialect;

/// What a path means to the data plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// A request for an engine, whose model is named in its body.
    Inference(Inference),
    /// `/v1/responses/{id}` and what lies below: for the instance that made the response.
    StoredResponse,
    /// `GET /v1/realtime?model=`: a WebSocket to an engine.
    Realtime,
    /// `/model/proxy/...`: any path of an engine.
    GenericProxy,
    /// `GET /v1/models`
    ListModels,
    /// `GET /v1/models/{id}`; the id is what follows the row's path.
    ShowModel,
    /// The process answers.
    Healthz,
    /// Inference requests can be served.
    Readyz,
    /// Prometheus text.
    Metrics,
}

/// What may happen to an inference request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inference {
    /// How the request names its model.
    pub body: BodyKind,
    /// Whether a request that reached an engine which then died may be sent once more (it costs
    /// only time).
    pub resend: bool,
    /// Where the answer carries the model's name.
    pub model_in_answer: ModelPlace,
    /// What is made of requests and answers beyond the model's name.
    pub edit: Edit,
}

/// How a request's body is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyKind {
    /// A JSON object with `model` at its top level.
    Json,
    /// A form with a field `model`; or a JSON object, if the request's `Content-Type` says so.
    Form,
}

/// Where an answer, and each frame of a stream, carries the model's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelPlace {
    /// `model` at the top level, everywhere.
    TopLevel,
    /// `model` at the top level of a whole answer, `response.model` in the events of a stream.
    Response,
    /// `model` at the top level of a whole answer, `message.model` in a stream's `message_start`.
    Message,
    /// Nowhere: the answer is not looked into.
    Nowhere,
}

/// What is made of requests and answers beyond the model's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edit {
    /// Nothing.
    None,
    /// Streams are asked for their usage, and get GPUStack's timings in it.
    StreamUsage,
    /// The answer's id is remembered with its instance, and a request that names one goes there.
    StoredResponse,
    /// Jina's shape, from any engine's.
    Rerank,
    /// Translated to chat completions where the engine does not speak Anthropic's Messages.
    Messages,
    /// The same, for the count of a prompt's tokens.
    CountTokens,
}

/// One endpoint.
#[derive(Debug)]
pub struct Row {
    /// The literal path; a prefix where it ends with `/`.
    pub path: &'static str,
    /// The method, and what `Allow` says to others.
    pub methods: Methods,
    /// Its error shape.
    pub dialect: Dialect,
    /// Whether `/v1-openai` leads here too: GPUStack's frozen set.
    pub legacy: bool,
    /// Its meaning.
    pub endpoint: Endpoint,
}

/// The methods that a row takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Methods {
    /// POST
    Post,
    /// GET, and HEAD with it.
    Get,
    /// What the Responses API has below a response's id.
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

    /// What the `Allow` field says.
    pub fn allow(self) -> &'static str {
        match self {
            Self::Post => "POST, OPTIONS",
            Self::Get => "GET, HEAD, OPTIONS",
            Self::Stored => "GET, HEAD, POST, DELETE, OPTIONS",
            Self::Any => "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS",
        }
    }
}

const fn inference(
    body: BodyKind,
    resend: bool,
    model_in_answer: ModelPlace,
    edit: Edit,
) -> Endpoint {
    Endpoint::Inference(Inference { body, resend, model_in_answer, edit })
}

/// Chat and completions.
const GENERATE: Endpoint = inference(BodyKind::Json, true, ModelPlace::TopLevel, Edit::StreamUsage);
/// Embeddings, scores and the like.
const COMPUTE: Endpoint = inference(BodyKind::Json, true, ModelPlace::TopLevel, Edit::None);
const RERANK: Endpoint = inference(BodyKind::Json, true, ModelPlace::Nowhere, Edit::Rerank);
const RESPONSES: Endpoint =
    inference(BodyKind::Json, true, ModelPlace::Response, Edit::StoredResponse);
const MESSAGES: Endpoint = inference(BodyKind::Json, true, ModelPlace::Message, Edit::Messages);
const COUNT_TOKENS: Endpoint =
    inference(BodyKind::Json, true, ModelPlace::Nowhere, Edit::CountTokens);
/// Pictures and speech cost too much to be made twice, and carry no name.
const GENERATE_MEDIA: Endpoint = inference(BodyKind::Json, false, ModelPlace::Nowhere, Edit::None);
const EDIT_MEDIA: Endpoint = inference(BodyKind::Form, false, ModelPlace::Nowhere, Edit::None);
const TRANSCRIBE: Endpoint = inference(BodyKind::Form, true, ModelPlace::TopLevel, Edit::None);

use Dialect::{Anthropic, Management, OpenAi};
use Methods::{Any, Get, Post, Stored};

#[rustfmt::skip]
static ROWS: &[Row] = &[
    Row { path: "/v1/chat/completions",      methods: Post,   dialect: OpenAi,     legacy: true,  endpoint: GENERATE },
    Row { path: "/v1/completions",           methods: Post,   dialect: OpenAi,     legacy: true,  endpoint: GENERATE },
    Row { path: "/v1/messages",              methods: Post,   dialect: Anthropic,  legacy: false, endpoint: MESSAGES },
    Row { path: "/v1/messages/count_tokens", methods: Post,   dialect: Anthropic,  legacy: false, endpoint: COUNT_TOKENS },
    Row { path: "/v1/responses",             methods: Post,   dialect: OpenAi,     legacy: true,  endpoint: RESPONSES },
    Row { path: "/v1/responses/",            methods: Stored, dialect: OpenAi,     legacy: false, endpoint: Endpoint::StoredResponse },
    Row { path: "/v1/embeddings",            methods: Post,   dialect: OpenAi,     legacy: true,  endpoint: COMPUTE },
    Row { path: "/v1/rerank",                methods: Post,   dialect: OpenAi,     legacy: false, endpoint: RERANK },
    Row { path: "/v2/rerank",                methods: Post,   dialect: OpenAi,     legacy: false, endpoint: RERANK },
    Row { path: "/v1/score",                 methods: Post,   dialect: OpenAi,     legacy: false, endpoint: COMPUTE },
    Row { path: "/v1/moderations",           methods: Post,   dialect: OpenAi,     legacy: false, endpoint: COMPUTE },
    Row { path: "/v1/images/generations",    methods: Post,   dialect: OpenAi,     legacy: true,  endpoint: GENERATE_MEDIA },
    Row { path: "/v1/images/edits",          methods: Post,   dialect: OpenAi,     legacy: true,  endpoint: EDIT_MEDIA },
    Row { path: "/v1/images/variations",     methods: Post,   dialect: OpenAi,     legacy: false, endpoint: EDIT_MEDIA },
    Row { path: "/v1/audio/speech",          methods: Post,   dialect: OpenAi,     legacy: true,  endpoint: GENERATE_MEDIA },
    Row { path: "/v1/audio/transcriptions",  methods: Post,   dialect: OpenAi,     legacy: true,  endpoint: TRANSCRIBE },
    Row { path: "/v1/audio/translations",    methods: Post,   dialect: OpenAi,     legacy: false, endpoint: TRANSCRIBE },
    Row { path: "/v1/realtime",              methods: Get,    dialect: OpenAi,     legacy: false, endpoint: Endpoint::Realtime },
    Row { path: "/model/proxy/",             methods: Any,    dialect: OpenAi,     legacy: false, endpoint: Endpoint::GenericProxy },
    Row { path: "/v1/models",                methods: Get,    dialect: OpenAi,     legacy: true,  endpoint: Endpoint::ListModels },
    Row { path: "/v1/models/",               methods: Get,    dialect: OpenAi,     legacy: false, endpoint: Endpoint::ShowModel },
    Row { path: "/healthz",                  methods: Get,    dialect: Management, legacy: false, endpoint: Endpoint::Healthz },
    Row { path: "/readyz",                   methods: Get,    dialect: Management, legacy: false, endpoint: Endpoint::Readyz },
    Row { path: "/metrics",                  methods: Get,    dialect: Management, legacy: false, endpoint: Endpoint::Metrics },
];

/// GPUStack's older prefix.
const LEGACY: &str = "/v1-openai/";

/// What a request line leads to.
#[derive(Debug)]
pub enum Found {
    /// This row.
    Row(&'static Row),
    /// This row's path, with a method that it does not take.
    WrongMethod(&'static Row),
    /// An API path that this version does not have: answered here, in the API's dialect.
    NoSuchEndpoint(Dialect),
    /// Everything else: the management API answers.
    ControlPlane,
}

impl Found {
    /// The error shape of what was asked for.
    pub fn dialect(&self) -> Dialect {
        match self {
            Self::Row(row) | Self::WrongMethod(row) => row.dialect,
            Self::NoSuchEndpoint(dialect) => *dialect,
            Self::ControlPlane => Dialect::Management,
        }
    }
}

/// Finds the row of a path. Paths are compared literally: nothing is decoded, merged or trimmed
/// (spec/wire.md 8.4).
pub fn find(method: &Method, path: &str) -> Found {
    match find_row(path) {
        Some(row) if row.methods.take(method) => Found::Row(row),
        Some(row) => Found::WrongMethod(row),
        None if path.starts_with("/v1/messages") => Found::NoSuchEndpoint(Dialect::Anthropic),
        None if ["/v1/", LEGACY, "/model/"].iter().any(|prefix| path.starts_with(prefix))
            || path == "/v1" =>
        {
            Found::NoSuchEndpoint(Dialect::OpenAi)
        }
        None => Found::ControlPlane,
    }
}

/// What `Allow` says of a path; None: it is none of the table's.
pub fn allow(path: &str) -> Option<&'static str> {
    find_row(path).map(|row| row.methods.allow())
}

fn find_row(path: &str) -> Option<&'static Row> {
    if let Some(rest) = path.strip_prefix(LEGACY) {
        return ROWS.iter().find(|row| row.legacy && row.path.strip_prefix("/v1/") == Some(rest));
    }
    ROWS.iter().find(|row| {
        if row.path.ends_with('/') {
            path.len() > row.path.len() && path.starts_with(row.path)
        } else {
            path == row.path
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(method: &Method, path: &str) -> Option<&'static str> {
        match find(method, path) {
            Found::Row(row) => Some(row.path),
            _ => None,
        }
    }

    #[test]
    fn paths_are_matched_literally() {
        assert_eq!(row(&Method::POST, "/v1/chat/completions"), Some("/v1/chat/completions"));
        assert!(matches!(find(&Method::GET, "/v1/chat/completions"), Found::WrongMethod(_)));
        assert_eq!(row(&Method::HEAD, "/v1/models"), Some("/v1/models"));
        assert_eq!(row(&Method::GET, "/v1/models/a/b"), Some("/v1/models/"));
        assert!(matches!(
            find(&Method::GET, "/v1/models/"),
            Found::NoSuchEndpoint(Dialect::OpenAi)
        ));
        assert!(matches!(
            find(&Method::POST, "/v1//chat/completions"),
            Found::NoSuchEndpoint(Dialect::OpenAi)
        ));
        assert!(matches!(
            find(&Method::POST, "/v1/messages/batches"),
            Found::NoSuchEndpoint(Dialect::Anthropic)
        ));
        assert!(matches!(find(&Method::GET, "/version"), Found::ControlPlane));
        assert!(matches!(
            find(&Method::GET, "/model/proxy"),
            Found::NoSuchEndpoint(Dialect::OpenAi)
        ));
        assert_eq!(row(&Method::PATCH, "/model/proxy/x"), Some("/model/proxy/"));
        assert_eq!(row(&Method::DELETE, "/v1/responses/resp_1"), Some("/v1/responses/"));
        assert_eq!(
            row(&Method::POST, "/v1/messages/count_tokens"),
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
                assert_eq!(find(&method, path).dialect(), dialect, "{path}");
            }
        }
    }

    #[test]
    fn the_legacy_prefix_leads_to_its_frozen_set_alone() {
        let legacy: Vec<_> =
            ROWS.iter().filter(|row| row.legacy && row.methods == Methods::Post).collect();
        assert_eq!(legacy.len(), 8);
        assert_eq!(row(&Method::POST, "/v1-openai/chat/completions"), Some("/v1/chat/completions"));
        assert_eq!(row(&Method::GET, "/v1-openai/models"), Some("/v1/models"));
        for path in
            ["/v1-openai/rerank", "/v1-openai/messages", "/v1-openai/", "/v1-openai/models/a"]
        {
            assert!(
                matches!(find(&Method::POST, path), Found::NoSuchEndpoint(Dialect::OpenAi)),
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
