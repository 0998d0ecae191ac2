//! Reports of the data plane: its addresses, finished requests, events and counters.

use std::sync::Arc;

use serde::{Serialize, Serializer, ser::SerializeTuple};

use crate::seam::RouteTokens;

/// The addresses of the data plane.
#[derive(Clone, Debug, Serialize)]
pub struct Started {
    /// `127.0.0.1:8080`, `[::1]:8080` or `unix:PATH`, in the order of the listeners.
    pub addresses: Vec<String>,
}

/// One finished request. It crosses as an array, in the order of the fields.
#[derive(Clone, Debug)]
pub struct Record {
    /// Unix seconds.
    pub started: f64,
    /// As in `X-Request-Id`.
    pub request_id: Arc<str>,
    /// The key's id; None where none was needed or none was right.
    pub key: Option<Arc<str>>,
    /// The public name; None when the request did not get so far.
    pub route: Option<Arc<str>>,
    /// The instance that was tried last, whether or not it responded; None when none was tried.
    pub instance: Option<Arc<str>>,
    /// The path of its endpoint, such as `/v1/chat/completions`.
    pub path: &'static str,
    /// The client's; 499 when it left before the head.
    pub status: u16,
    /// Attempts, of which several may have been at one instance; 0 for the management API.
    pub attempts: u8,
    /// From the request's head to the first byte handed to the client; 0 when there was none.
    pub first_frame_ms: f64,
    /// From the request's head to the end.
    pub duration_ms: f64,
    /// Bytes of the request's body, decoded.
    pub bytes_in: u64,
    /// Bytes of the response's body.
    pub bytes_out: u64,
    /// Tokens of the prompt as the engine counted them, the cached ones included; None when it did
    /// not say, which is not 0.
    pub input_tokens: Option<u64>,
    /// Of these, those that the engine found in its cache; None when it did not say.
    pub cached_tokens: Option<u64>,
    /// Tokens that the engine generated; None when it did not say.
    pub output_tokens: Option<u64>,
    /// Whether the response was an event stream.
    pub stream: bool,
    /// The manner of its end.
    pub end: End,
}

/// The manner of a request's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// The engine's response, or the data plane's own, reached the client whole.
    Done,
    /// The data plane itself responded with an error, or ended what ran with a key that was revoked
    /// (a WebSocket also when it expired).
    Refused,
    /// The engine's response broke HTTP, could not be relayed, or rejected our credential. (An
    /// engine's own error that reached the client whole is `Done`.)
    EngineError,
    /// The engine's connection ended before its response.
    EngineDied,
    /// The client left.
    ClientGone,
    /// A phase stood still for longer than its limit.
    Timeout,
    /// It was cut at the end of a drain.
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
        row.serialize_element(&self.first_frame_ms)?;
        row.serialize_element(&self.duration_ms)?;
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

/// Something that the control plane should act on soon.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Event {
    /// The last request of a retired instance has ended.
    InstanceIdle {
        /// Its id.
        instance: String,
        /// The version of the table that retired it.
        version: u64,
    },
    /// An instance failed a request. Where there are others, they are preferred to it for a while.
    InstanceFailed {
        /// Its id.
        instance: String,
        /// The cause, such as `connect: Connection refused`.
        reason: String,
    },
    /// A request waits for a model of which nothing runs, as none did before.
    ModelWanted {
        /// Its name.
        model: String,
    },
    /// New files of the certificate were taken up.
    CertificateRenewed,
    /// New files of the certificate cannot be used; the old certificate stays.
    CertificateRefused {
        /// The cause, in a sentence.
        reason: String,
    },
    /// The last worker has ended.
    Drained {
        /// Requests that were cut at the deadline.
        cut: u64,
    },
}

/// Events and finished requests since the last poll.
#[derive(Debug, Serialize)]
pub struct Polled {
    /// The number of records.
    pub finished: usize,
    /// The oldest first.
    pub records: Vec<Record>,
    /// Records that were dropped since the last poll because the queue was full.
    pub dropped: u64,
    /// The oldest first.
    pub events: Vec<Event>,
}

/// A reading of the counters.
#[derive(Debug, Serialize)]
pub struct Stats {
    /// The table's version; 0 before the first.
    pub version: u64,
    /// The reason why no inference can be served now; None: it can.
    pub not_ready: Option<&'static str>,
    /// Open client connections.
    pub connections: u64,
    /// Requests between their head and their end.
    pub in_flight: u64,
    /// The begin of the certificate that is in force, in Unix seconds; None: there is none, or it
    /// cannot be read from it.
    pub certificate_begins: Option<u64>,
    /// Its end, likewise.
    pub certificate_expires: Option<u64>,
    /// All instances of the table.
    pub instances: Vec<InstanceStats>,
    /// All models of the table.
    pub models: Vec<ModelStats>,
    /// All routes of the table, with the tokens of their requests that have ended.
    pub routes: Vec<RouteTokens>,
}

/// One model's counters.
#[derive(Debug, Serialize)]
pub struct ModelStats {
    /// Its name.
    pub name: String,
    /// Requests that wait until something of it runs.
    pub waiting: u32,
}

/// One instance's counters.
#[derive(Debug, Serialize)]
pub struct InstanceStats {
    /// Its id.
    pub id: String,
    /// Requests on it now.
    pub outstanding: u32,
    /// Requests since it came.
    pub requests: u64,
    /// Those that it failed.
    pub failures: u64,
    /// Whether failures in a row have ejected it, and it has not responded since.
    pub ejected: bool,
}
