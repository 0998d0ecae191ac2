//! The data plane of gpustack-fast: everything that happens to a request.
//!
//! Its pure half, bytes in and values out, is a crate of its own: `sans_io`. Here is what moves,
//! over tokio and hyper: `server` (accepting and serving), `request` (one request from head to
//! record), `upstream` (one attempt at one engine), `client` (one client's connection). At the
//! root: `dataplane` (the handle that the control plane holds), `shared` (what all workers have),
//! `worker` (what one has), `records` (what requests leave for Python), `limits`, `timer`, and
//! `telemetry` (the log).

#![forbid(unsafe_code)]

mod client;
mod dataplane;
mod failure;
mod limits;
mod records;
mod request;
mod server;
mod shared;
mod telemetry;
mod timer;
mod upstream;
mod worker;

pub use dataplane::{DataPlane, DataPlaneError};
pub use telemetry::{ControlPlaneLine, LogFormat, LogLevel, flush_log, log, show};
