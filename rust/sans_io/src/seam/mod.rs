//! The documents that cross to Python, as serde structs of the same names as their msgspec twins in
//! `gpustack_fast/seam`.
//!
//! They are JSON, but for [`Polled`], which carries a record for every request and is MessagePack.
//! None has a default on either side: a document carries every value, a field that is missing or
//! unknown is an error, and so is a word that an enum does not list. Times are seconds
//! ([`Duration`](std::time::Duration) here, `Seconds` there) unless a name says otherwise.

mod config;
mod keys;
mod read;
mod report;
mod seconds;
mod table;
mod tokens;

pub use config::{
    Cors, DataPlaneConfig, Limits, LogFormat, LogLevel, ResponseExtras, Settings, Timeouts, Tls,
};
pub use keys::{KeyDelta, KeyEntry, Scope};
pub use read::{ShapeError, read};
pub use report::{End, Event, InstanceStats, ModelStats, Polled, Record, Started, Stats};
pub use table::{
    AccessPolicy, Dialect, InstanceEntry, InstanceState, MetricFamily, MetricKind, MetricSample,
    ModelEntry, ModelTimeouts, OwnLimit, ReasoningNames, Repair, RouteEntry, StatusClass,
    SystemMessages, Table, TargetEntry, Wake,
};
pub use tokens::{RouteTokens, Tokens};
