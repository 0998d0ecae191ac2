//! The data plane of gpustack-fast: everything that happens to a request.
//!
//! Rooms, each with a page of its own. Bytes in, values out, no sockets: [`codec`] (formats), [`api`] (what clients may
//! ask, and how each dialect looks), [`table`] (the published snapshot, the keys, the counters), [`seam`] (what crosses to
//! Python). Moving, over tokio and hyper: `server` (accepting and serving), `request` (one request from head to record),
//! `upstream` (one attempt at one engine), `client` (one client's connection). At the root: `dataplane` (the handle that
//! the control plane holds), `shared` (what all workers have), `worker` (what one has), `limits` and `timer`.

#![forbid(unsafe_code)]

pub mod api;
mod client;
pub mod codec;
mod dataplane;
mod limits;
mod request;
pub mod seam;
mod server;
mod shared;
pub mod table;
mod timer;
mod upstream;
mod worker;

pub use dataplane::{DataPlane, DataPlaneError};
