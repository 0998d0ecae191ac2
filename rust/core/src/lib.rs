//! The data plane of gpustack-fast: everything that happens to a request.
//!
//! Its pure half, bytes in and values out, is a crate of its own: `sans_io`. Here is the half that
//! does input and output, over tokio, and for HTTP/2 over hyper:
//!
//! * `server`: accepting clients and serving their connections;
//! * `request`: one request, from its head to its record;
//! * `upstream`: one attempt at one engine;
//! * `client`: one client's connection;
//! * `telemetry`: the log.
//!
//! At the root: `dataplane` (the handle for the control plane), `shared` (state of all workers),
//! `published` (what a publish replaces), `worker` (state of one), `records` (queues toward the
//! control plane), `failure`, `key_watch` (ends what runs with a revoked key), `body_limits`,
//! `budget` (bytes that all requests share), `blocking` (threads for files), `scratch` (what reads go through), `tcp`, `timer`.

#![forbid(unsafe_code)]

mod blocking;
mod body_limits;
#[cfg(test)]
mod bounded;
mod budget;
mod client;
mod dataplane;
mod failure;
mod key_watch;
mod published;
mod records;
mod request;
mod scratch;
mod server;
mod shared;
mod sock_diag;
mod tcp;
mod telemetry;
mod timer;
mod upstream;
mod worker;

pub use dataplane::{DataPlane, DataPlaneError};
pub use telemetry::{ControlPlaneLine, LogFormat, LogLevel, flush_log, log, show};
