//! The table of endpoints.
//!
//! To add one that goes to an engine, add its line to `ENDPOINTS`, made by `plain`, and its path to
//! `INFERENCE_PATHS` in `backends/facts.py`, which a test compares with this table. The rest that
//! belongs to an endpoint is in `docs/architecture.md`, "Where to add".

use http::{HeaderMap, Method};

use crate::api::{base_url, error::Dialect};

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
    /// `GET /`: what this is, and where its APIs are.
    About,
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
/// A response, or what is reckoned of one: it may continue an earlier one, whose engine has it.
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

use Dialect::{Anthropic, Management, OpenAi, Responses};
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
    plain(      "/v1/chat/completions/batch", Post,  OpenAi,     COMPUTE),
    with_legacy("/v1/completions",           Post,   OpenAi,     GENERATE),
    plain(      "/v1/messages",              Post,   Anthropic,  MESSAGES),
    plain(      "/v1/messages/count_tokens", Post,   Anthropic,  COUNT_TOKENS),
    with_legacy("/v1/responses",             Post,   Responses,  RESPONSES),
    plain(      "/v1/responses/input_tokens", Post,  Responses,  RESPONSES),
    plain(      "/v1/responses/compact",     Post,   Responses,  RESPONSES),
    plain(      "/v1/responses/",            Stored, Responses,  StoredResponse),
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
    plain(      "/",                         Get,    Management, Kind::Local(Local::About)),
    plain(      "/health",                   Get,    Management, Kind::Local(Local::Healthz)),
    plain(      "/healthz",                  Get,    Management, Kind::Local(Local::Healthz)),
    plain(      "/readyz",                   Get,    Management, Kind::Local(Local::Readyz)),
    plain(      "/metrics",                  Get,    Management, Kind::Local(Local::Metrics)),
];

/// The endpoints of the list of models for clients of Anthropic's API, which have the same paths.
#[rustfmt::skip]
static ANTHROPIC_MODELS: [Endpoint; 2] = [
    with_legacy("/v1/models",                Get,    Anthropic,  LIST_MODELS),
    plain(      "/v1/models/",               Get,    Anthropic,  SHOW_MODEL),
];

/// The endpoint of all other paths. Its records say `control_plane`.
static MANAGEMENT: Endpoint = plain("control_plane", Any, Management, Kind::Management);

/// GPUStack's older prefix.
const LEGACY: &str = "/v1-openai/";

/// The field that every client of Anthropic's API sends, and nobody else.
const ANTHROPIC_VERSION: &str = "anthropic-version";

/// The endpoint of a request line.
#[derive(Debug)]
pub struct Found {
    /// The endpoint.
    pub endpoint: &'static Endpoint,
    /// The path that was meant, where the client's has a mistake that leaves no doubt; None: it is
    /// right.
    pub corrected: Option<String>,
}

/// A request line that leads to no endpoint.
#[derive(Debug)]
pub enum NotFound {
    /// The endpoint has this path, but does not take the method.
    WrongMethod(&'static Endpoint),
    /// An API path that this version does not have.
    NoSuchEndpoint {
        /// The error has the API's shape.
        dialect: Dialect,
        /// What to change, in a sentence; None: nothing is known.
        advice: Option<String>,
    },
}

impl NotFound {
    /// The error shape of what was asked for.
    pub fn dialect(&self) -> Dialect {
        match self {
            Self::WrongMethod(endpoint) => endpoint.dialect,
            Self::NoSuchEndpoint { dialect, .. } => *dialect,
        }
    }
}

/// The endpoint of a request. Paths are compared literally, as engines do: nothing is decoded. One
/// that no endpoint has is that of an inference API with a mistake of the base URL, if its correction
/// leads to one, and else the management API's.
pub fn find(method: &Method, path: &str, headers: &HeaderMap) -> Result<Found, NotFound> {
    let Some(Found { endpoint, corrected }) = find_path(path) else {
        return not_found(path, headers);
    };
    let endpoint = match endpoint.kind {
        Kind::Local(Local::ListModels) if is_anthropic(headers) => &ANTHROPIC_MODELS[0],
        Kind::Local(Local::ShowModel) if is_anthropic(headers) => &ANTHROPIC_MODELS[1],
        _ => endpoint,
    };
    if endpoint.methods.take(method) {
        Ok(Found { endpoint, corrected })
    } else {
        Err(NotFound::WrongMethod(endpoint))
    }
}

/// The value of `Allow` for a path; None: it leads to no endpoint of the table.
pub fn allow(path: &str) -> Option<&'static str> {
    find_path(path).map(|found| found.endpoint.methods.allow())
}

/// The management API, or what a client of an inference API is told of a path that is not there.
fn not_found(path: &str, headers: &HeaderMap) -> Result<Found, NotFound> {
    let known: Vec<_> = ENDPOINTS
        .iter()
        .filter(|endpoint| is_correctable(endpoint) && !endpoint.path.ends_with('/'))
        .map(|endpoint| endpoint.path)
        .collect();
    let advice = base_url::advice(path, &known);
    // No client of the management API says that it is one of Anthropic's.
    if advice.is_none() && !is_inference(path) && !is_anthropic(headers) {
        return Ok(Found { endpoint: &MANAGEMENT, corrected: None });
    }
    let names_anthropic =
        || path.split('/').any(|segment| ["messages", "anthropic"].contains(&segment));
    let dialect = if is_anthropic(headers) || names_anthropic() { Anthropic } else { OpenAi };
    Err(NotFound::NoSuchEndpoint { dialect, advice })
}

fn is_anthropic(headers: &HeaderMap) -> bool {
    headers.contains_key(ANTHROPIC_VERSION)
}

/// Whether a path belongs to an inference API, though no endpoint may have it.
fn is_inference(path: &str) -> bool {
    ["/v1/", LEGACY, "/model/"].iter().any(|prefix| path.starts_with(prefix)) || path == "/v1"
}

/// The endpoint of a path, as it is or corrected.
fn find_path(path: &str) -> Option<Found> {
    if let Some(endpoint) = literal(path) {
        return Some(Found { endpoint, corrected: None });
    }
    let corrected = base_url::corrected(path);
    let endpoint = literal(&corrected).filter(|endpoint| is_correctable(endpoint))?;
    Some(Found { endpoint, corrected: Some(corrected) })
}

/// Whether a path with a mistake may lead to an endpoint: never to an engine's other paths, to
/// what operators use, or to the management API.
fn is_correctable(endpoint: &Endpoint) -> bool {
    match endpoint.kind {
        Kind::Inference(_)
        | Kind::StoredResponse
        | Kind::Realtime
        | Kind::Local(Local::ListModels | Local::ShowModel) => true,
        Kind::Local(Local::About | Local::Healthz | Local::Readyz | Local::Metrics)
        | Kind::GenericProxy
        | Kind::Management => false,
    }
}

fn literal(path: &str) -> Option<&'static Endpoint> {
    if let Some(rest) = path.strip_prefix(LEGACY) {
        return ENDPOINTS
            .iter()
            .find(|endpoint| endpoint.legacy && endpoint.path.strip_prefix("/v1/") == Some(rest));
    }
    ENDPOINTS.iter().find(|endpoint| {
        if endpoint.path.len() > 1 && endpoint.path.ends_with('/') {
            path.strip_prefix(endpoint.path)
                .is_some_and(|below| !below.is_empty() && may_stay(endpoint, below))
        } else {
            path == endpoint.path
        }
    })
}

/// Whether what stands below a prefix needs no correction.
fn may_stay(endpoint: &Endpoint, below: &str) -> bool {
    !is_correctable(endpoint)
        || !(below.starts_with('/') || below.ends_with('/') || below.contains("//"))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn found(method: &Method, path: &str) -> Option<&'static str> {
        find(method, path, &HeaderMap::new()).ok().map(|found| found.endpoint.path)
    }

    /// The endpoint of a path with a mistake, and the path that was meant.
    fn meant(path: &str) -> Option<(&'static str, String)> {
        let found = find(&Method::POST, path, &HeaderMap::new())
            .or_else(|_| find(&Method::GET, path, &HeaderMap::new()));
        let found = found.ok()?;
        Some((found.endpoint.path, found.corrected?))
    }

    fn dialect(method: &Method, path: &str, headers: &HeaderMap) -> Dialect {
        let found = find(method, path, headers);
        found.map_or_else(|missing| missing.dialect(), |found| found.endpoint.dialect)
    }

    fn anthropic() -> HeaderMap {
        [(http::HeaderName::from_static(ANTHROPIC_VERSION), HeaderValue::from_static("2023-06-01"))]
            .into_iter()
            .collect()
    }

    #[test]
    fn what_is_right_is_matched_literally() {
        assert_eq!(found(&Method::POST, "/v1/chat/completions"), Some("/v1/chat/completions"));
        assert!(matches!(
            find(&Method::GET, "/v1/chat/completions", &HeaderMap::new()),
            Err(NotFound::WrongMethod(_))
        ));
        assert_eq!(found(&Method::HEAD, "/v1/models"), Some("/v1/models"));
        assert_eq!(found(&Method::GET, "/v1/models/a/b"), Some("/v1/models/"));
        assert_eq!(found(&Method::GET, "/model/proxy//x/"), Some("/model/proxy/"));
        assert_eq!(found(&Method::GET, "/version"), Some("control_plane"));
        assert_eq!(found(&Method::PATCH, "/model/proxy/x"), Some("/model/proxy/"));
        assert_eq!(found(&Method::DELETE, "/v1/responses/resp_1"), Some("/v1/responses/"));
        assert_eq!(
            found(&Method::POST, "/v1/messages/count_tokens"),
            Some("/v1/messages/count_tokens")
        );
        for endpoint in ENDPOINTS {
            let path = if endpoint.path.len() > 1 && endpoint.path.ends_with('/') {
                format!("{}x", endpoint.path)
            } else {
                endpoint.path.to_owned()
            };
            let found = find_path(&path).unwrap();
            assert_eq!((found.endpoint.path, found.corrected), (endpoint.path, None));
        }
    }

    #[test]
    fn what_is_reckoned_of_a_response_is_no_stored_one() {
        for path in ["/v1/responses/input_tokens", "/v1/responses/compact"] {
            assert_eq!(found(&Method::POST, path), Some(path));
            assert_eq!(meant(&format!("/v1{path}/")), Some((path, path.to_owned())));
            let below = format!("{path}/x");
            assert_eq!(found(&Method::GET, &below), Some("/v1/responses/"));
        }
        assert_eq!(
            found(&Method::POST, "/v1/chat/completions/batch"),
            Some("/v1/chat/completions/batch")
        );
    }

    #[test]
    fn a_mistake_of_the_base_url_that_leaves_no_doubt_is_set_right() {
        for (path, endpoint, corrected) in [
            ("/v1/v1/chat/completions", "/v1/chat/completions", "/v1/chat/completions"),
            ("/chat/completions", "/v1/chat/completions", "/v1/chat/completions"),
            ("/v1/chat/completions/", "/v1/chat/completions", "/v1/chat/completions"),
            ("//v1///chat//completions//", "/v1/chat/completions", "/v1/chat/completions"),
            ("/v1/v1/messages", "/v1/messages", "/v1/messages"),
            ("/messages/count_tokens", "/v1/messages/count_tokens", "/v1/messages/count_tokens"),
            ("/responses", "/v1/responses", "/v1/responses"),
            ("/v1/responses/", "/v1/responses", "/v1/responses"),
            ("/responses/resp_1/cancel", "/v1/responses/", "/v1/responses/resp_1/cancel"),
            ("/completions", "/v1/completions", "/v1/completions"),
            ("/embeddings", "/v1/embeddings", "/v1/embeddings"),
            ("/rerank", "/v1/rerank", "/v1/rerank"),
            ("/v1/v2/rerank", "/v2/rerank", "/v2/rerank"),
            ("/audio/transcriptions/", "/v1/audio/transcriptions", "/v1/audio/transcriptions"),
            ("/models", "/v1/models", "/v1/models"),
            ("/v1/models/", "/v1/models", "/v1/models"),
            ("/v1/models//", "/v1/models", "/v1/models"),
            ("/v1/models//a//b/", "/v1/models/", "/v1/models/a/b"),
            ("/v1/responses/resp_1/", "/v1/responses/", "/v1/responses/resp_1"),
            ("/v1/v1/models/Qwen/Qwen3-8B", "/v1/models/", "/v1/models/Qwen/Qwen3-8B"),
            ("/v1-openai/v1/chat/completions", "/v1/chat/completions", "/v1/chat/completions"),
            ("/v1-openai//models/", "/v1/models", "/v1-openai/models"),
            ("/realtime", "/v1/realtime", "/v1/realtime"),
        ] {
            assert_eq!(meant(path), Some((endpoint, corrected.to_owned())), "{path}");
            assert!(allow(path).is_some(), "{path}");
        }
    }

    #[test]
    fn no_mistake_leads_to_an_engines_other_paths_to_an_operators_or_to_the_management_api() {
        for path in [
            "//model/proxy/x",
            "/v1/model/proxy/x",
            "/v1/v1/model/proxy/x",
            "/v1/v2/models",
            "/v1/v1/v2/models",
            "/v1/metrics",
            "/v1/healthz",
            "/v1/health",
            "/v1/version",
            "/v1/./chat/completions",
            "/v1/x/../chat/completions",
            "/v1/chat%2Fcompletions",
            "/v1%2Fchat/completions",
            "/v1\\chat\\completions",
            "/v1/chat/completions/..",
        ] {
            for method in [Method::POST, Method::GET] {
                let found = find(&method, path, &HeaderMap::new());
                assert!(
                    matches!(found, Err(NotFound::NoSuchEndpoint { .. }))
                        || found.is_ok_and(|found| found.endpoint.kind == Kind::Management
                            && found.corrected.is_none()),
                    "{path}"
                );
            }
        }
        for path in
            ["//metrics", "/metrics/", "/healthz/", "//", "/v2/models/", "//v2/models", "/v2"]
        {
            let found = find(&Method::GET, path, &HeaderMap::new()).unwrap();
            assert_eq!(found.endpoint.kind, Kind::Management, "{path} goes on as it came");
            assert_eq!(found.corrected, None, "{path}");
        }
    }

    #[test]
    fn a_path_that_is_not_there_is_explained_in_the_dialect_of_the_caller() {
        for (path, spoken, part) in [
            ("/v1/chat/completion", OpenAi, "Did you mean /v1/chat/completions?"),
            ("/openai/v1/chat/completions", OpenAi, "Take /openai out of the base URL"),
            ("/anthropic/v1/messages", Anthropic, "Take /anthropic out of the base URL"),
            ("/api/chat", OpenAi, "Ollama"),
        ] {
            match find(&Method::POST, path, &HeaderMap::new()) {
                Err(NotFound::NoSuchEndpoint { dialect, advice: Some(advice) }) => {
                    assert_eq!(dialect, spoken, "{path}");
                    assert!(advice.contains(part), "{path}: {advice}");
                }
                other => panic!("{path}: {other:?}"),
            }
            assert_eq!(dialect(&Method::POST, path, &anthropic()), Anthropic, "{path}");
        }
        assert!(matches!(
            find(&Method::POST, "/v1/nothing", &HeaderMap::new()),
            Err(NotFound::NoSuchEndpoint { dialect: OpenAi, advice: None })
        ));
        assert!(matches!(
            find(&Method::GET, "/model/proxy", &HeaderMap::new()),
            Err(NotFound::NoSuchEndpoint { dialect: OpenAi, .. })
        ));
        assert!(matches!(
            find(&Method::POST, "/v1/messages/batches", &HeaderMap::new()),
            Err(NotFound::NoSuchEndpoint { dialect: Anthropic, .. })
        ));
    }

    #[test]
    fn what_a_path_leads_to_has_the_dialect_of_its_errors() {
        for (path, spoken) in [
            ("/v1/messages", Dialect::Anthropic),
            ("/v1/messages/batches", Dialect::Anthropic),
            ("/messages", Dialect::Anthropic),
            ("/v1/models", Dialect::OpenAi),
            ("/v1/nothing", Dialect::OpenAi),
            ("/", Dialect::Management),
            ("/healthz", Dialect::Management),
            ("/health", Dialect::Management),
            ("/v2/models", Dialect::Management),
        ] {
            for method in [Method::POST, Method::GET] {
                assert_eq!(dialect(&method, path, &HeaderMap::new()), spoken, "{path}");
            }
        }
    }

    #[test]
    fn clients_of_anthropics_api_find_models_in_their_own_dialect_and_all_else_as_everybody() {
        for path in
            ["/v1/models", "/v1/models/a", "/models", "/v1/v1/models/a", "/v1/nothing", "/nothing"]
        {
            for method in [Method::POST, Method::GET] {
                assert_eq!(dialect(&method, path, &anthropic()), Dialect::Anthropic, "{path}");
            }
        }
        assert_eq!(
            dialect(&Method::POST, "/v1/chat/completions", &anthropic()),
            Dialect::OpenAi,
            "the path decides"
        );
        for endpoint in &ANTHROPIC_MODELS {
            let path = if endpoint.path.ends_with('/') { "/v1/models/a" } else { endpoint.path };
            let other = literal(path).unwrap();
            assert_eq!((other.path, other.kind), (endpoint.path, endpoint.kind));
            assert_eq!((other.methods, other.legacy), (endpoint.methods, endpoint.legacy));
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
                matches!(
                    find(&Method::POST, path, &HeaderMap::new()),
                    Err(NotFound::NoSuchEndpoint { .. })
                ),
                "{path}"
            );
        }
    }

    #[test]
    fn every_path_of_the_table_says_what_it_allows() {
        assert_eq!(allow("/v1/chat/completions"), Some("POST, OPTIONS"));
        assert_eq!(allow("/chat/completions/"), Some("POST, OPTIONS"));
        assert_eq!(allow("/v1/models"), Some("GET, HEAD, OPTIONS"));
        assert_eq!(allow("/v1/nothing"), None);
    }
}
