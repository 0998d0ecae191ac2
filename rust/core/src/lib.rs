//! The data plane of gpustack-fast: everything that happens to a request.
//!
//! The parts, and what flows between them. Bytes in, values out, no sockets:
//!
//! * [`sniff`] finds the model in a JSON body while it arrives; [`sse`] finds the edges of frames;
//!   [`usage`] reads and edits what is said of tokens;
//!   [`http1`] reads engines' answers; [`headers`] says which fields pass;
//! * [`rerank`] puts Jina's reranking before engines of several dialects;
//! * [`translate`] turns Anthropic's Messages into chat completions and back;
//! * [`multipart`] finds the model in a form while it arrives;
//! * [`inflate`] decodes a compressed body while it arrives;
//! * [`paths`] is the table of endpoints, [`auth`] the table of keys, [`table`] the table of routes and instances, with the
//!   lease that a request has on an instance;
//! * [`error`] is what a caller is told, [`engine_error`] an engine's error made fit for it; [`metrics`] counts;
//!   [`documents`] is what crosses the seam to Python.
//!
//! Moving, over tokio and hyper: `dataplane` (the handle that the control plane holds) → `listener` (accepting, the drain)
//! → `connection` (one client's, over `tls` or not, with `http2` beside HTTP/1.1) → `answering` (OPTIONS and [`cors`], around
//! every answer) → `request` (from its head to the errand that it is, with `admission` for who may; `inbound` is what its stages share) → `attempt` (trying instances until
//! one answers, each by its `plan`) → `upload` (the request's body, with `spool` for large ones that must wait), `exchange` (one attempt at one instance) over
//! `upstream` (connections to engines) → `respond` (the answer's head), `body` (the answer on its way, as its `shape` has
//! it), `tunnel` (a WebSocket on its way) → `ticket` and `records` (what a request leaves behind). `refusals` is what is
//! said when no engine answers, `local` what needs no engine, with `prometheus` for the metrics page; `responses` knows
//! which instance made which response; `server_timing` tells where the time went; `client_io` notices clients that leave;
//! `worker` is what one thread has, `shared` what all have, `limits` and `timer` the phases' limits.

#![forbid(unsafe_code)]

mod admission;
mod answering;
mod attempt;
pub mod auth;
mod body;
mod client_io;
mod connection;
pub mod cors;
mod dataplane;
pub mod documents;
pub mod engine_error;
pub mod error;
mod exchange;
pub mod headers;
pub mod http1;
mod http2;
mod inbound;
pub mod inflate;
mod limits;
mod listener;
mod local;
pub mod metrics;
pub mod multipart;
pub mod paths;
mod plan;
mod prometheus;
pub mod proxy_paths;
mod records;
mod refusals;
mod request;
pub mod rerank;
mod respond;
mod responses;
mod server_timing;
mod shape;
mod shared;
pub mod sniff;
mod spool;
pub mod sse;
pub mod table;
mod ticket;
mod timer;
mod tls;
pub mod translate;
mod tunnel;
mod upload;
mod upstream;
pub mod usage;
mod worker;

pub use dataplane::{DataPlane, DataPlaneError};
