//! The part of `[server]` that is the data plane's. Defaults, bounds and units of each setting are
//! in `gpustack_fast/config/server.py`.

use std::{path::PathBuf, time::Duration};

use serde::Deserialize;

use crate::seam::seconds;

/// The configuration of the data plane.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataPlaneConfig {
    /// The host to listen on, as it was written. The listeners decide; it is only a name that
    /// requests may be for.
    pub host: String,
    /// Worker threads; 0 counts as 1.
    pub workers: usize,
    /// The Unix socket where the management API listens: it gets every path that is neither
    /// inference nor the data plane's own. None: those paths get 503.
    #[serde(deserialize_with = "Option::deserialize")]
    pub control_socket: Option<String>,
    /// The folder where large request bodies wait until their model is known.
    pub spool_folder: PathBuf,
    /// `[server.timeouts]`, as the three below until a reload publishes others.
    pub timeouts: Timeouts,
    /// `[server.limits]`.
    pub limits: Limits,
    /// `[server.cors]`.
    pub cors: Cors,
    /// Additions to engines' responses.
    pub response_extras: ResponseExtras,
    /// The least urgent lines that are written. It and the format hold for the process.
    pub log_level: LogLevel,
    /// The form of the lines.
    pub log_format: LogFormat,
    /// The proxies in front whose forwarding fields are believed: addresses, networks such as
    /// `10.0.0.0/8`, and `unix` for clients of a Unix socket.
    pub trusted_proxies: Vec<String>,
    /// Further hosts that requests without a key may be for: `*` is any, `*.example` any below it.
    pub allowed_hosts: Vec<String>,
    /// The TCP listeners' certificate; None: they speak plain HTTP.
    #[serde(deserialize_with = "Option::deserialize")]
    pub tls: Option<Tls>,
    /// Responses of the Responses API that are remembered with the instance that made them.
    pub responses_kept: usize,
}

/// The settings that a running server can change: those of a reload come with a table, in
/// [`crate::seam::Table::settings`]. Of each section only the fields that the configuration marks so
/// differ from those at the start.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// `[server.timeouts]`.
    pub timeouts: Timeouts,
    /// `[server.limits]`.
    pub limits: Limits,
    /// `[server.cors]`.
    pub cors: Cors,
    /// Additions to engines' responses.
    pub response_extras: ResponseExtras,
}

/// The longest time that each phase of a request may stand still; 0 (None): no limit. There is none
/// on a whole request: a long generation may take as long as it makes progress.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Timeouts {
    /// From the first chance to read a request's head until it is whole.
    #[serde(deserialize_with = "seconds::limit")]
    pub head: Option<Duration>,
    /// The wait for another request on a client's connection, as the client is told.
    #[serde(deserialize_with = "seconds::limit")]
    pub keep_alive: Option<Duration>,
    /// From one piece of a client's request body to the next.
    #[serde(deserialize_with = "seconds::limit")]
    pub body: Option<Duration>,
    /// The time in which a client takes no byte of a response that waits for it.
    #[serde(deserialize_with = "seconds::limit")]
    pub send: Option<Duration>,
    /// Connecting to an instance.
    #[serde(deserialize_with = "seconds::limit")]
    pub connect: Option<Duration>,
    /// From a request's delivery to the first frame of its response (of a whole response: its first
    /// byte).
    #[serde(deserialize_with = "seconds::limit")]
    pub first_frame: Option<Duration>,
    /// From one piece of a response to the next; in a stream, from one whole frame to the next.
    #[serde(deserialize_with = "seconds::limit")]
    pub idle: Option<Duration>,
    /// The silence of an engine's connection after which its machine is probed.
    #[serde(deserialize_with = "seconds::limit")]
    pub tcp_keepalive_idle: Option<Duration>,
    /// From one probe to the next.
    #[serde(deserialize_with = "seconds::duration")]
    pub tcp_keepalive_interval: Duration,
    /// Probes without an answer after which the connection has ended.
    pub tcp_keepalive_probes: u32,
    /// The time in which an engine's machine must acknowledge what is sent to it.
    #[serde(deserialize_with = "seconds::limit")]
    pub tcp_unacknowledged: Option<Duration>,
}

/// Bounds on what one request and the process may hold.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// The largest request body; a larger one gets 413.
    pub max_body_bytes: u64,
    /// The largest request body that is buffered for a second attempt at another instance.
    pub replay_bytes: u64,
    /// The lowest rate of a request body, in bytes a second, beyond one pause of `Timeouts::body`; a
    /// slower one gets 408. 0: no limit.
    pub body_rate: u64,
    /// The most of one request body in memory while its model is not known; see
    /// [`Limits::buffered_bytes`].
    pub memory_bytes: u64,
    /// What all requests together may hold in memory of bodies, of their translations and of
    /// responses that are collected, beyond a little that each may have; callers without a key an
    /// eighth of it. Beyond it: 503.
    pub total_memory_bytes: u64,
    /// What the files of all request bodies may hold; those of callers without a key an eighth of
    /// it. Beyond it: 503.
    pub spool_bytes: u64,
    /// Decoded bytes for each byte of a compressed request body, at most, once more than 1 MB was
    /// decoded.
    pub decoded_ratio: u32,
    /// The deepest nesting of a JSON body (1,024 at most); a deeper one gets 400.
    pub max_nesting: u16,
    /// Client connections that may be open at once; 0: as many as the descriptors allow.
    pub connections: usize,
    /// Client connections of one address; 0: no limit.
    pub connections_per_address: usize,
    /// Idle connections that each worker keeps to each instance.
    pub idle_connections: usize,
    /// Finished requests that wait for `poll`; what comes while it is full is dropped and counted.
    pub record_queue: usize,
}

impl Limits {
    /// The most of one request body in memory before it can go on to an engine. What can be
    /// replayed is in memory anyway.
    pub fn buffered_bytes(&self) -> u64 {
        self.memory_bytes.max(self.replay_bytes)
    }
}

/// The pages of other origins that may use the API from a browser. They were checked when the
/// configuration was read.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cors {
    /// `https://HOST[:PORT]`, or `*` for all; empty: none, and browsers are told nothing.
    pub origins: Vec<String>,
    /// Methods that a page may use; empty: those of each path.
    pub methods: Vec<String>,
    /// Request headers that a page may set, beside those that the SDKs send; `*`: any.
    pub headers: Vec<String>,
    /// Response headers that a page may read, beside those that the SDKs read.
    pub expose: Vec<String>,
    /// Whether a page may send its cookies and certificates.
    pub credentials: bool,
    /// Life of the response to a preflight in a browser's cache.
    #[serde(deserialize_with = "seconds::duration")]
    pub max_age: Duration,
}

/// Additions to engines' responses.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResponseExtras {
    /// The `Server-Timing` header.
    pub server_timing: bool,
    /// A comment of the same content at the end of an event stream.
    pub server_timing_in_streams: bool,
    /// GPUStack's three fields in the `usage` of a stream's last usage frame.
    pub usage_timings: bool,
    /// Silence after which a stream gets a comment; 0 (None): it never does.
    #[serde(deserialize_with = "seconds::limit")]
    pub sse_keep_alive: Option<Duration>,
}

/// PEM files of a certificate and its key.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// The server's certificate, followed by those between it and a root.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// The least urgent lines that are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogLevel {
    /// None at all.
    Off,
    /// What failed.
    Error,
    /// What went wrong and was worked around.
    Warn,
    /// Changes of state.
    Info,
    /// Each attempt, each decision of the pool, each commit.
    Debug,
    /// More than that.
    Trace,
}

/// The form of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One object a line.
    Json,
}
