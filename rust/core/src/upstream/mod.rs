//! One attempt at one engine: `exchange` drives a `connection`, an `upload` and a response.

pub(crate) mod connection;
pub(crate) mod decoding;
mod delivery;
mod edits;
pub(crate) mod exchange;
pub(crate) mod framing;
pub(crate) mod health;
mod intake;
mod patience;
pub(crate) mod pool;
mod replay;
pub(crate) mod response;
mod scan;
pub(crate) mod slot;
mod spool;
pub(crate) mod upload;
