//! The published snapshot: routes, models, instances and keys, with their counters.

pub mod affinity;
mod instance;
pub mod keys;
pub mod metrics;
pub mod proxy_paths;
mod route;
mod snapshot;

pub use instance::{Address, IdleListener, Instance, Lease};
pub use route::{Access, Choice, Model, Route, Target};
pub use snapshot::Table;
