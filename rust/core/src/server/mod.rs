//! Accepting connections and serving them.

mod connection;
mod crowd;
mod graceful;
mod http1;
mod http2;
pub(crate) mod listener;
mod middleware;
mod receive_progress;
mod send_progress;
