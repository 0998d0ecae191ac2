//! Per-thread state. Nothing in it is shared with another thread but `shared`.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use crate::{
    limits::BodyLimits,
    shared::Shared,
    upstream::{pool::Pool, slot::Lingering},
};

/// A worker with more connections than the mean by this factor and this number lets others accept
/// first.
const CROWDED_FACTOR: usize = 2;
const CROWDED_MORE: usize = 8;

/// See the module.
pub(crate) struct Worker {
    pub(crate) shared: Arc<Shared>,
    pub(crate) pool: Rc<Pool>,
    pub(crate) lingering: Rc<Lingering>,
    pub(crate) body_limits: BodyLimits,
    /// Client connections that are open.
    connections: Cell<usize>,
    /// Connections of all workers.
    all_connections: Arc<AtomicUsize>,
    workers: usize,
    random: RefCell<fastrand::Rng>,
    attempts: Cell<u64>,
}

impl Worker {
    pub(crate) fn new(
        shared: &Arc<Shared>,
        all_connections: &Arc<AtomicUsize>,
        workers: usize,
    ) -> Self {
        let mut random = fastrand::Rng::new();
        let limits = shared.config.limits;
        Self {
            shared: Arc::clone(shared),
            pool: Pool::new(limits.idle_connections),
            lingering: Rc::default(),
            body_limits: BodyLimits {
                configured: limits,
                spool_folder: shared.config.spool_folder.as_path().into(),
            },
            connections: Cell::new(0),
            all_connections: Arc::clone(all_connections),
            workers,
            attempts: Cell::new(random.u32(..).into()),
            random: RefCell::new(random),
        }
    }

    /// Client connections that are open.
    pub(crate) fn connections(&self) -> usize {
        self.connections.get()
    }

    /// A cheap random number for balancing and ids; nothing secret hangs on it.
    pub(crate) fn random(&self) -> u64 {
        self.random.borrow_mut().u64(..)
    }

    /// 32 hexadecimal digits.
    pub(crate) fn new_request_id(&self) -> Arc<str> {
        let mut digits = [0; 32];
        for half in digits.chunks_exact_mut(16) {
            let mut rest = self.random();
            for digit in half {
                *digit = b"0123456789abcdef"[(rest & 15) as usize];
                rest >>= 4;
            }
        }
        std::str::from_utf8(&digits).unwrap_or_default().into()
    }

    /// A number that no other attempt of this worker has.
    pub(crate) fn next_attempt(&self) -> u64 {
        let number = self.attempts.get().wrapping_add(1);
        self.attempts.set(number);
        number
    }

    /// Well above the mean of connections.
    pub(crate) fn is_crowded(&self) -> bool {
        let mean = self.all_connections.load(Ordering::Relaxed) / self.workers;
        self.workers > 1 && self.connections.get() > mean * CROWDED_FACTOR + CROWDED_MORE
    }
}

/// Counts a connection for as long as it is open.
pub(crate) struct Counted(Rc<Worker>);

impl Counted {
    pub(crate) fn new(worker: Rc<Worker>) -> Self {
        worker.connections.set(worker.connections.get() + 1);
        worker.all_connections.fetch_add(1, Ordering::Relaxed);
        worker.shared.metrics.connections.fetch_add(1, Ordering::Relaxed);
        Self(worker)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.connections.set(self.0.connections.get() - 1);
        self.0.all_connections.fetch_sub(1, Ordering::Relaxed);
        self.0.shared.metrics.connections.fetch_sub(1, Ordering::Relaxed);
    }
}
