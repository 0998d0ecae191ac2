//! Accepting connections and serving them.

pub(crate) mod connection;
pub(crate) mod graceful;
pub(crate) mod http2;
pub(crate) mod listener;
pub(crate) mod middleware;
