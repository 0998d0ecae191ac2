//! The measuring kit: what `mock_engine` and `load` share.
//!
//! [`address`] where a server listens, [`http1`] the little HTTP/1.1 that both ends read,
//! [`responses`] the bytes that the engine sends and that the load generator therefore expects.
//! Never shipped; it trusts both of its ends.

pub mod address;
pub mod http1;
pub mod responses;

use serde::de::DeserializeOwned;

/// Reads a program's one argument: a JSON document with its settings.
///
/// The error is a sentence for the person who typed it.
pub fn settings<T: DeserializeOwned>() -> Result<T, String> {
    let text = std::env::args()
        .nth(1)
        .ok_or("Give the settings as one JSON document; bench/README.md lists them.")?;
    serde_json::from_str(&text).map_err(|error| format!("The settings do not fit: {error}."))
}

/// A current-thread runtime, as the data plane's workers use it.
pub fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}
