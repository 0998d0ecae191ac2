//! One attempt at one engine.

pub(crate) mod connection;
pub(crate) mod exchange;
pub(crate) mod health;
pub(crate) mod pool;
pub(crate) mod slot;
pub(crate) mod spool;
pub(crate) mod upload;
