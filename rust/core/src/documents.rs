//! The documents that cross the seam, as serde structs.
//!
//! They are JSON, but for [`Polled`], which carries a record for every request and is MessagePack. Each has a msgspec
//! twin of the same name in `gpustack_fast/dataplane.py`, where the meaning of every field is told. Times are milliseconds and sizes are bytes unless a name says otherwise.

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
    pub nesting: u16,
}

impl Default for Limits {
    fn default() -> Self {
        Self { body: 512 << 20, replay: 1 << 20, nesting: 512 }
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
    pub record_queue: usize,
}

impl Default for DataPlaneConfig {
    fn default() -> Self {
        Self {
            workers: 1,
            control_socket: None,
            timeouts: Timeouts::default(),
            limits: Limits::default(),
            connections: ConnectionLimits::default(),
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
    pub instances: Vec<InstanceEntry>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TargetEntry {
    pub model: String,
    pub weight: u32,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteEntry {
    pub name: String,
    pub created: u64,
    pub targets: Vec<TargetEntry>,
    pub categories: Vec<String>,
    pub generic_proxy: bool,
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
    pub allowed_models: Option<Vec<String>>,
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
        let mut row = serializer.serialize_tuple(14)?;
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
