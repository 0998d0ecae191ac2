//! The routing table: models with their instances, routes, and the control plane's own metrics.

use std::time::Duration;

use serde::{Deserialize, Deserializer, de::IntoDeserializer};

use crate::seam::{Settings, Timeouts, seconds};

/// The whole routing table. Every target must name a model in it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    /// All models.
    pub models: Vec<ModelEntry>,
    /// All public names.
    pub routes: Vec<RouteEntry>,
    /// The one that serves requests which name no model; None: such requests are errors.
    #[serde(deserialize_with = "Option::deserialize")]
    pub default_route: Option<String>,
    /// The control plane's own families, behind those of the data plane on `/metrics`.
    pub metrics: Vec<MetricFamily>,
    /// Of a reload: the settings from now on, and a certificate that was read for it comes into force
    /// as well. None: only engines have changed, and the settings stay.
    #[serde(deserialize_with = "Option::deserialize")]
    pub settings: Option<Settings>,
}

/// A deployment: interchangeable instances that serve the same thing.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelEntry {
    /// Its name in the configuration.
    pub name: String,
    /// Its engines' name for it: `model` becomes this on the way in, and the route's name on the
    /// way out.
    pub served_name: String,
    /// The file in `backends/` that knows its kind of engine. Only told; nothing is decided by it.
    pub backend: String,
    /// The APIs that its engines speak by themselves; the rest is translated.
    pub dialects: Vec<Dialect>,
    /// Whether its engines know `stream_options.include_usage`.
    pub stream_usage: bool,
    /// The system messages that a translated request may have.
    pub system_messages: SystemMessages,
    /// The names under which its engines take what an assistant thought.
    pub reasoning_names: ReasoningNames,
    /// Further names and paths that its engines call it by, and that no client may see, in errors
    /// neither.
    pub redacted_names: Vec<String>,
    /// Fields of its engines' responses that reach clients, beside those that all do. In any case.
    pub response_headers: Vec<String>,
    /// What is repaired in chat completions that its engines speak natively. Messages are translated
    /// where there is any.
    pub repair: Vec<Repair>,
    /// Administrative paths: 404 through the generic proxy, whatever the key. Each also covers what
    /// lies below it.
    pub proxy_denied: Vec<String>,
    /// The only paths that the generic proxy passes on; None: all that are not denied.
    #[serde(deserialize_with = "Option::deserialize")]
    pub proxy_allowed: Option<Vec<String>>,
    /// Limits of requests to its engines, in place of the server's.
    pub timeouts: ModelTimeouts,
    /// Requests that each of its engines is given at the same time; 0: no limit.
    pub max_in_flight: u32,
    /// While nothing of it runs, requests wait for it so; None: they get a 503 at once.
    #[serde(deserialize_with = "Option::deserialize")]
    pub wake: Option<Wake>,
    /// Its engines, in whatever state, as far as they have an address.
    pub instances: Vec<InstanceEntry>,
}

/// How requests wait for a model of which nothing runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wake {
    /// The most requests that wait at the same time.
    pub queue: u32,
    /// The longest time that each of them waits.
    #[serde(deserialize_with = "seconds::duration")]
    pub timeout: Duration,
}

/// Limits of a model's own, in place of those of the same names in [`Timeouts`].
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelTimeouts {
    /// Connecting to an instance.
    #[serde(deserialize_with = "own_limit")]
    pub connect: OwnLimit,
    /// From a request's delivery to the first frame of its response.
    #[serde(deserialize_with = "own_limit")]
    pub first_frame: OwnLimit,
    /// From one piece of a response to the next.
    #[serde(deserialize_with = "own_limit")]
    pub idle: OwnLimit,
}

impl ModelTimeouts {
    /// The limits of a request to this model.
    pub fn over(self, server: Timeouts) -> Timeouts {
        Timeouts {
            connect: self.connect.over(server.connect),
            first_frame: self.first_frame.over(server.first_frame),
            idle: self.idle.over(server.idle),
            ..server
        }
    }
}

/// A limit in place of the server's.
#[derive(Clone, Copy, Debug)]
pub enum OwnLimit {
    /// There is none of its own: the server's holds.
    Servers,
    /// Its own; None: no limit.
    Own(Option<Duration>),
}

impl OwnLimit {
    fn over(self, server: Option<Duration>) -> Option<Duration> {
        match self {
            Self::Servers => server,
            Self::Own(limit) => limit,
        }
    }
}

/// Reads seconds, of which 0 is no limit, or null.
fn own_limit<'de, D: Deserializer<'de>>(deserializer: D) -> Result<OwnLimit, D::Error> {
    let Some(seconds) = Option::<f64>::deserialize(deserializer)? else {
        return Ok(OwnLimit::Servers);
    };
    seconds::limit(seconds.into_deserializer()).map(OwnLimit::Own)
}

/// One engine process, or one address of somebody else's engine.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InstanceEntry {
    /// Unique for ever: a restarted engine gets a new one, so that its counters start anew.
    pub id: String,
    /// `http://HOST:PORT` or `unix:PATH`.
    pub address: String,
    /// Only a running one gets requests.
    pub state: InstanceState,
    /// Sent to the engine as `Authorization: Bearer`; None: no such header.
    #[serde(deserialize_with = "Option::deserialize")]
    pub api_key: Option<String>,
    /// Time in which an idle connection to it may be used again; below the engine's own limit.
    #[serde(deserialize_with = "seconds::duration")]
    pub idle_timeout: Duration,
    /// After so many requests a connection is not used again, below the engine's own limit; 0: no
    /// limit.
    pub requests_per_connection: u32,
    /// Whether the engine closes a connection behind each chunked response, without having said so:
    /// a request that meets the close would have to be sent once more.
    pub closes_after_stream: bool,
    /// Time for which the engine goes on with a non-streamed request after its connection was
    /// closed: so long the slot stays counted. (For streams a close ends the work at once, in every engine
    /// that we know.)
    #[serde(deserialize_with = "seconds::duration")]
    pub cancel_lag: Duration,
    /// The tokens of its model's context, as it has told; None: it has not.
    #[serde(deserialize_with = "Option::deserialize")]
    pub context_length: Option<u64>,
}

/// A public name: what clients send in `model`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteEntry {
    /// The name.
    pub name: String,
    /// When it was first seen, in Unix seconds.
    pub created: u64,
    /// The models that it leads to.
    pub targets: Vec<TargetEntry>,
    /// Its purposes, by GPUStack's words; only shown and filtered by.
    pub categories: Vec<String>,
    /// Whether the generic proxy leads to it.
    pub generic_proxy: bool,
    /// Its number for ever, as in `/model/proxy/NUMBER/...`; 0: none.
    pub number: u64,
    /// The clients that may use it.
    pub access_policy: AccessPolicy,
    /// Names or ids of keys; for [`AccessPolicy::AllowedKeys`] only.
    pub allowed_keys: Vec<String>,
    /// Its operator's description, shown by `GET /v1/models?with_meta=true`.
    #[serde(deserialize_with = "Option::deserialize")]
    pub meta: Option<serde_json::Value>,
}

/// A weighted link from a route to a model.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TargetEntry {
    /// The model's name.
    pub model: String,
    /// Its share of the route's requests among those of the other targets; 0: none of its own.
    pub weight: u32,
    /// The name that `model` becomes for this target, such as an adapter's; None: the model's own
    /// served name.
    #[serde(deserialize_with = "Option::deserialize")]
    pub served_name: Option<String>,
    /// It is tried when the other targets have responded so, or when none of them runs; empty:
    /// never as a fallback.
    pub fallback: Vec<StatusClass>,
}

/// The state of an instance, by GPUStack's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "GPUStack's names, which its documentation tells")]
pub enum InstanceState {
    Pending,
    Analyzing,
    Scheduled,
    Initializing,
    Downloading,
    Starting,
    /// It serves.
    Running,
    Error,
    /// Somebody else's engine, where nobody responds.
    Unreachable,
    /// It runs, and its operator has taken it out: what runs on it ends.
    Draining,
    /// As draining, and nothing runs on it any more.
    Drained,
    /// Its engine has given its memory back, and can be woken.
    Sleeping,
    /// It is being woken.
    Waking,
}

/// An API that engines may speak by themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dialect {
    /// `OpenAI`'s.
    Openai,
    /// Anthropic's Messages; else `/v1/messages` is translated.
    Anthropic,
    /// The rerank API of text-embeddings-inference.
    Tei,
}

/// The names under which an engine takes what an assistant thought, in a chat's message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReasoningNames {
    /// `reasoning` alone: it rejects members that it does not know.
    Reasoning,
    /// `reasoning` and `reasoning_content`, of which it reads the one that it knows.
    Both,
}

/// The system messages that a model's chat template takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SystemMessages {
    /// One, at the beginning.
    First,
    /// Any number, between turns too.
    Anywhere,
    /// None at all.
    None,
}

/// A repair of conversations that a model's engines take natively.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Repair {
    /// Ids of tool calls are made unique in a conversation.
    ToolIds,
    /// What the system says behind the first turn becomes the user's.
    SystemFirst,
    /// Results of tools are put in the order of their calls.
    ResultOrder,
}

/// The clients that may use a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AccessPolicy {
    /// Everybody, without a key too.
    Public,
    /// Every key.
    Authed,
    /// The keys in `allowed_keys`.
    AllowedKeys,
}

/// The statuses of an engine's responses that a fallback is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum StatusClass {
    /// 400 to 499.
    #[serde(rename = "4xx")]
    ClientError,
    /// 500 to 599.
    #[serde(rename = "5xx")]
    ServerError,
}

impl StatusClass {
    /// Whether a status is of this class.
    pub fn contains(self, status: u16) -> bool {
        let first_digit = match self {
            Self::ClientError => 4,
            Self::ServerError => 5,
        };
        status / 100 == first_digit
    }
}

/// A metric family of the control plane's.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MetricFamily {
    /// Its name.
    pub name: String,
    /// Its meaning, in a sentence.
    pub help: String,
    /// Its type.
    pub kind: MetricKind,
    /// Its values of now.
    pub samples: Vec<MetricSample>,
}

/// One value of a family.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MetricSample {
    /// Names and values, in the order in which they are shown; the values are not escaped yet.
    pub labels: Vec<(String, String)>,
    /// The value.
    pub value: u64,
}

/// The type of a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MetricKind {
    /// It goes up only.
    Counter,
    /// It goes up and down.
    Gauge,
}

impl MetricKind {
    /// Its name in Prometheus' text.
    pub fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
        }
    }
}
