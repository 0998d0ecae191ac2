//! The published snapshot: routes, models, instances and keys, with their counters.

mod affinity;
mod asleep;
mod engines;
mod error;
mod instance;
mod keys;
mod metrics;
mod outlier;
mod proxy_paths;
mod route;
mod snapshot;
mod unique;
mod wake_queue;

pub use affinity::{ResponseOrigin, ResponseOwners};
pub use error::{KeysError, TableError};
pub use instance::{Address, IdleListener, Instance, Lease, NoLease};
pub use keys::{AuthError, Key, Keys};
pub use metrics::{Histogram, Metrics, RouteMetrics, TokenCounts, UpstreamError};
pub use outlier::Ejected;
pub use proxy_paths::{ProxyPaths, has_dot_segment};
pub use route::{Access, Choice, FallbackFor, Model, Route, Target};
pub use snapshot::{LeftOut, Table};
pub use wake_queue::{Place, WakeQueue};
