//! The documents that cross the seam, as serde structs.
//!
//! They are JSON, but for [`Polled`], which carries a record for every request and is MessagePack.
//! Each has a msgspec twin of the same name in `gpustack_fast/seam/documents.py`, where the meaning
//! of every field is told. Times are milliseconds and sizes are bytes unless a name says otherwise.

#![allow(missing_docs, reason = "the fields are described once, beside their Python twins")]

use std::sync::Arc;

use serde::{Deserialize, Serialize, Serializer, ser::SerializeTuple};

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Timeouts {
    pub head: u64,
    pub body: u64,
    pub connect: u64,
    pub first_frame: u64,
    pub idle: u64,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { head: 60_000, body: 60_000, connect: 3_000, first_frame: 1_800_000, idle: 1_800_000 }
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    pub body: u64,
    pub replay: u64,
    pub memory: u64,
    pub ratio: u32,
    pub nesting: u16,
}

impl Default for Limits {
    fn default() -> Self {
        Self { body: 512 << 20, replay: 1 << 20, memory: 4 << 20, ratio: 100, nesting: 512 }
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConnectionLimits {
    pub idle_per_instance: usize,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self { idle_per_instance: 128 }
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    pub certificate: String,
    pub key: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cors {
    pub origins: Vec<String>,
    pub methods: Vec<String>,
    pub headers: Vec<String>,
    pub expose: Vec<String>,
    pub credentials: bool,
    pub max_age: u64,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Telling {
    pub server_timing: bool,
    pub server_timing_in_streams: bool,
    pub usage_timings: bool,
    pub sse_keep_alive: u64,
}

impl Default for Telling {
    fn default() -> Self {
        Self {
            server_timing: true,
            server_timing_in_streams: false,
            usage_timings: true,
            sse_keep_alive: 0,
        }
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataPlaneConfig {
    pub workers: usize,
    #[serde(default)]
    pub control_socket: Option<String>,
    #[serde(default)]
    pub timeouts: Timeouts,
    #[serde(default)]
    pub limits: Limits,
    #[serde(default)]
    pub connections: ConnectionLimits,
    #[serde(default)]
    pub telling: Telling,
    #[serde(default)]
    pub tls: Option<Tls>,
    #[serde(default)]
    pub cors: Option<Cors>,
    #[serde(default)]
    pub spool_folder: Option<String>,
    #[serde(default = "responses_kept")]
    pub responses_kept: usize,
    pub record_queue: usize,
}

fn responses_kept() -> usize {
    65_536
}

impl Default for DataPlaneConfig {
    fn default() -> Self {
        Self {
            workers: 1,
            control_socket: None,
            timeouts: Timeouts::default(),
            limits: Limits::default(),
            connections: ConnectionLimits::default(),
            telling: Telling::default(),
            tls: None,
            cors: None,
            spool_folder: None,
            responses_kept: responses_kept(),
            record_queue: 16_384,
        }
    }
}

#[derive(Clone, Debug, Serialize)]
pub struct Started {
    pub addresses: Vec<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InstanceEntry {
    pub id: String,
    pub address: String,
    pub state: String,
    #[serde(default)]
    pub api_key: Option<String>,
    pub idle_timeout: u64,
    pub requests_per_connection: u32,
    pub cancel_lag: u64,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelEntry {
    pub name: String,
    pub served_name: String,
    pub backend: String,
    pub dialects: Vec<String>,
    #[serde(default)]
    pub stream_usage: bool,
    #[serde(default)]
    pub hidden_names: Vec<String>,
    #[serde(default)]
    pub proxy_denied: Vec<String>,
    #[serde(default)]
    pub proxy_allowed: Option<Vec<String>>,
    pub instances: Vec<InstanceEntry>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TargetEntry {
    pub model: String,
    pub weight: u32,
    #[serde(default)]
    pub served_name: Option<String>,
    #[serde(default)]
    pub fallback: Vec<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteEntry {
    pub name: String,
    pub created: u64,
    pub targets: Vec<TargetEntry>,
    pub categories: Vec<String>,
    pub generic_proxy: bool,
    #[serde(default)]
    pub number: u64,
    #[serde(default = "authed")]
    pub access_policy: String,
    #[serde(default)]
    pub allowed_keys: Vec<String>,
    #[serde(default)]
    pub meta: Option<serde_json::Value>,
}

fn authed() -> String {
    "authed".to_owned()
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TableDocument {
    pub models: Vec<ModelEntry>,
    pub routes: Vec<RouteEntry>,
    pub metrics: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyEntry {
    pub id: String,
    pub digest: String,
    #[serde(default)]
    pub name: String,
    #[serde(default)]
    pub allowed_models: Option<Vec<String>>,
    #[serde(default = "all_scopes")]
    pub scopes: Vec<String>,
    #[serde(default)]
    pub expires: Option<u64>,
}

fn all_scopes() -> Vec<String> {
    vec!["*".to_owned()]
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyDelta {
    pub salt: String,
    pub replace: bool,
    pub upsert: Vec<KeyEntry>,
    pub remove: Vec<String>,
}

/// One finished request. It crosses as an array, in the order of the fields.
#[derive(Clone, Debug)]
pub struct Record {
    pub started: f64,
    pub request_id: Arc<str>,
    pub key: Option<Arc<str>>,
    pub route: Option<Arc<str>>,
    pub instance: Option<Arc<str>>,
    pub path: &'static str,
    pub status: u16,
    pub attempts: u8,
    pub first_frame: f64,
    pub duration: f64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub input_tokens: u64,
    pub cached_tokens: u64,
    pub output_tokens: u64,
    pub stream: bool,
    pub end: End,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    Done,
    Refused,
    EngineError,
    EngineDied,
    ClientGone,
    Timeout,
    Drained,
}

impl Serialize for Record {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut row = serializer.serialize_tuple(17)?;
        row.serialize_element(&self.started)?;
        row.serialize_element(&*self.request_id)?;
        row.serialize_element(self.key.as_deref().unwrap_or_default())?;
        row.serialize_element(self.route.as_deref().unwrap_or_default())?;
        row.serialize_element(self.instance.as_deref().unwrap_or_default())?;
        row.serialize_element(self.path)?;
        row.serialize_element(&self.status)?;
        row.serialize_element(&self.attempts)?;
        row.serialize_element(&self.first_frame)?;
        row.serialize_element(&self.duration)?;
        row.serialize_element(&self.bytes_in)?;
        row.serialize_element(&self.bytes_out)?;
        row.serialize_element(&self.input_tokens)?;
        row.serialize_element(&self.cached_tokens)?;
        row.serialize_element(&self.output_tokens)?;
        row.serialize_element(&self.stream)?;
        row.serialize_element(&self.end)?;
        row.end()
    }
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Event {
    InstanceIdle { instance: String, version: u64 },
    InstanceFaulted { instance: String, reason: String },
    CertificateRenewed,
    CertificateRefused { reason: String },
    Drained { cut: u64 },
}

#[derive(Debug, Serialize)]
pub struct Polled {
    pub finished: usize,
    pub records: Vec<Record>,
    pub dropped: u64,
    pub events: Vec<Event>,
}

#[derive(Debug, Serialize)]
pub struct InstanceStats {
    pub id: String,
    pub outstanding: u32,
    pub requests: u64,
    pub faults: u64,
}

#[derive(Debug, Serialize)]
pub struct Stats {
    pub version: u64,
    pub connections: u64,
    pub in_flight: u64,
    pub instances: Vec<InstanceStats>,
}
