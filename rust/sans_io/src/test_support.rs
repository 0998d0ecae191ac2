//! Complete documents of the seam for tests: each as Python writes it, so that a test names only
//! what it is about.

#![allow(
    clippy::expect_used,
    clippy::missing_panics_doc,
    clippy::needless_pass_by_value,
    reason = "tests read best so, and one that cannot go on says where"
)]

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::api::{
    error::Dialect,
    messages::{HistoryIds, MessageStream, Origin},
    rerank,
    transform::{Document, ErrorShape, FrameEdits, Transform},
    usage::Timings,
};

/// A document as its struct.
pub fn read<T: DeserializeOwned>(document: Value) -> T {
    serde_json::from_value(document).expect("a document of this shape")
}

/// Lays `changes` over a document: objects field by field, anything else as a whole.
pub fn change(document: &mut Value, changes: Value) {
    match (document, changes) {
        (Value::Object(fields), Value::Object(changes)) => {
            for (name, value) in changes {
                change(fields.entry(name).or_insert(Value::Null), value);
            }
        }
        (document, changes) => *document = changes,
    }
}

/// A `DataPlaneConfig`: one worker, everything else as the configuration has it by default.
pub fn config() -> Value {
    json!({
        "host": "127.0.0.1",
        "workers": 1,
        "control_socket": null,
        "spool_folder": std::env::temp_dir(),
        "timeouts": {
            "head": 60.0, "keep_alive": 75.0, "body": 60.0, "send": 60.0, "connect": 3.0,
            "first_frame": 1800.0, "idle": 1800.0, "tcp_keepalive_idle": 5.0,
            "tcp_keepalive_interval": 2.0, "tcp_keepalive_probes": 3, "tcp_unacknowledged": 30.0,
        },
        "limits": {
            "max_body_bytes": 512 << 20,
            "body_rate": 1024,
            "replay_bytes": 1 << 20,
            "memory_bytes": 4 << 20,
            "total_memory_bytes": 1 << 30,
            "spool_bytes": 4_u64 << 30,
            "decoded_ratio": 100,
            "max_nesting": 512,
            "connections": 1000, "connections_per_address": 0, "idle_connections": 128,
            "record_queue": 1024,
        },
        "cors": {
            "origins": [], "methods": [], "headers": [], "expose": [], "credentials": false, "max_age": 600,
        },
        "response_extras": {
            "server_timing": true,
            "server_timing_in_streams": false,
            "usage_timings": true,
            "sse_keep_alive": 0.0,
        },
        "log_level": "off",
        "log_format": "text",
        "trusted_proxies": [],
        "allowed_hosts": [],
        "tls": null,
        "responses_kept": 1024,
    })
}

/// An `InstanceEntry` that runs.
pub fn instance(id: &str, address: &str) -> Value {
    json!({
        "id": id,
        "address": address,
        "state": "running",
        "api_key": null,
        "idle_timeout": 4.0,
        "requests_per_connection": 0,
        "closes_after_stream": false,
        "cancel_lag": 0.0,
        "context_length": null,
    })
}

/// A `ModelEntry` whose engines call it `served_name` and speak `OpenAI`'s API alone.
pub fn model(name: &str, served_name: &str, instances: Vec<Value>) -> Value {
    json!({
        "name": name,
        "served_name": served_name,
        "backend": "external",
        "dialects": ["openai"],
        "stream_usage": false,
        "system_messages": "first",
        "reasoning_names": "both",
        "redacted_names": [],
        "response_headers": [],
        "repair": [],
        "proxy_denied": [],
        "proxy_allowed": null,
        "timeouts": {"connect": null, "first_frame": null, "idle": null},
        "max_in_flight": 0,
        "wake": null,
        "instances": instances,
    })
}

fn at_once() -> Timings {
    Timings { first_ms: 0.0, elapsed_ms: 0.0 }
}

/// The rewriting of a whole response, of which all but the end has come.
pub struct Rewriting(Transform);

impl Rewriting {
    /// A chat completion that becomes a Message.
    pub fn message(answer: &[u8]) -> Self {
        Self::of(message(false), answer)
    }

    /// A chat completion that becomes a Message's events.
    pub fn events(answer: &[u8]) -> Self {
        Self::of(message(true), answer)
    }

    /// A ranking in Jina's shape.
    pub fn ranking(prepared: rerank::Prepared, answer: &[u8]) -> Self {
        Self::of(
            Document::Rerank {
                prepared: Box::new(prepared),
                model: "public".into(),
                shape: error_shape(),
            },
            answer,
        )
    }

    fn of(document: Document, answer: &[u8]) -> Self {
        let mut transform = Transform::document(document);
        let _ = transform.push(Bytes::copy_from_slice(answer), false, at_once);
        Self(transform)
    }

    /// The bytes that were reckoned for what is held and what it becomes.
    pub fn held(&self) -> usize {
        self.0.held()
    }

    /// Rewrites it; None: it cannot be.
    pub fn end(&mut self) -> Option<Bytes> {
        self.0.push(Bytes::new(), true, at_once).ok()
    }
}

/// A chat completion that becomes a Message, or its events.
pub(crate) fn message(events: bool) -> Document {
    Document::Message { origin: Box::new(origin()), events, shape: error_shape() }
}

/// The shape of errors for a client of the Messages API.
pub(crate) fn error_shape() -> ErrorShape {
    ErrorShape { dialect: Dialect::Anthropic, request_id: "r-1".into(), names: [].into() }
}

/// What a Message has of its request.
pub fn origin() -> Origin {
    let history = HistoryIds::default();
    Origin { model: "public".into(), message_id: "msg_1".to_owned(), history }
}

/// The edits that make a stream of chat completions one of a Message's events.
pub(crate) fn translated_frames() -> FrameEdits {
    let translate = Some(Box::new(MessageStream::new(origin())));
    FrameEdits { translate, ..FrameEdits::default() }
}

/// A stream of chat completions that becomes one of a Message's events.
pub struct Translating(Transform);

impl Default for Translating {
    fn default() -> Self {
        Self(Transform::events(translated_frames()))
    }
}

impl Translating {
    /// The bytes that were reckoned for the unfinished frame, itself and what it becomes, and for
    /// what waits.
    pub fn held(&self) -> usize {
        self.0.held()
    }

    /// Translates the next bytes; the error in words.
    pub fn push(&mut self, bytes: Bytes) -> Result<Bytes, String> {
        self.0.push(bytes, false, at_once).map_err(|error| error.to_string())
    }
}

/// A `RouteEntry` for every key.
pub fn route(name: &str, targets: Vec<Value>) -> Value {
    json!({
        "name": name,
        "created": 1,
        "targets": targets,
        "categories": [],
        "generic_proxy": false,
        "number": 0,
        "access_policy": "authed",
        "allowed_keys": [],
        "meta": null,
    })
}

/// A `TargetEntry` that is no fallback.
pub fn target(model: &str, weight: u32) -> Value {
    json!({"model": model, "weight": weight, "served_name": null, "fallback": []})
}

/// A `Table` without metrics that leaves the settings as they are.
pub fn table(models: Vec<Value>, routes: Vec<Value>) -> Value {
    json!({
        "models": models,
        "routes": routes,
        "default_route": null,
        "metrics": [],
        "settings": null,
    })
}

/// A `KeyEntry` that may do everything, for ever. `digest`: hexadecimal.
pub fn key(id: &str, digest: &str) -> Value {
    json!({
        "id": id,
        "digest": digest,
        "name": format!("key {id}"),
        "allowed_models": null,
        "scopes": ["*"],
        "expires": null,
    })
}

/// A `KeyDelta` that replaces all keys by these. `salt`: hexadecimal.
pub fn keys(salt: &str, keys: Vec<Value>) -> Value {
    json!({"salt": salt, "replace": true, "upsert": keys, "remove": []})
}
