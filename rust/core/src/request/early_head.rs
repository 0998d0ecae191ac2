//! What a request for a stream and the head that goes before its engine's know of each other.

use std::{
    cell::{Cell, OnceCell},
    sync::Arc,
    time::Duration,
};

use sans_io::table::Key;

/// The head of a stream that may go before its engine's.
#[derive(Debug, Default)]
pub(crate) struct EarlyHead {
    /// The request's body is whole, and asks for a stream.
    may_go: Cell<bool>,
    /// From the request's head to this one; None: it has not gone.
    gone: Cell<Option<Duration>>,
    /// Bytes of its comments.
    bytes_out: Cell<u64>,
    /// The caller's.
    key: OnceCell<Arc<Key>>,
}

impl EarlyHead {
    /// Notes that the request's body is whole, and asks for a stream.
    pub(crate) fn asks_stream(&self) {
        self.may_go.set(true);
    }

    /// Whether the head may go: the request is known to ask for a stream.
    pub(crate) fn may_go(&self) -> bool {
        self.may_go.get()
    }

    /// Notes that the head goes now, so long after the request's.
    pub(crate) fn go(&self, after: Duration) {
        self.gone.set(Some(after));
    }

    /// The time from the request's head to this one; None: it has not gone.
    pub(crate) fn gone(&self) -> Option<Duration> {
        self.gone.get()
    }

    /// Adds bytes of comments that are sent behind it.
    pub(crate) fn add_bytes_out(&self, bytes: u64) {
        self.bytes_out.set(self.bytes_out.get() + bytes);
    }

    /// The bytes of comments that were sent behind it.
    pub(crate) fn bytes_out(&self) -> u64 {
        self.bytes_out.get()
    }

    /// Sets the caller's key.
    pub(crate) fn set_key(&self, key: &Arc<Key>) {
        let _ = self.key.set(Arc::clone(key));
    }

    /// The caller's key; None: it has none, or is not known yet.
    pub(crate) fn key(&self) -> Option<Arc<Key>> {
        self.key.get().cloned()
    }
}
