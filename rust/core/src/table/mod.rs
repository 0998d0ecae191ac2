//! The published snapshot: routes, models, instances and keys, with their counters.

pub(crate) mod affinity;
pub mod keys;
pub mod metrics;
pub mod proxy_paths;
mod route;

pub use route::{Access, Address, Choice, IdleListener, Instance, Lease, Model, Route, Table, Target};
