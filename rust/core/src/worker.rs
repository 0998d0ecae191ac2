//! Per-thread state.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use crate::{
    body_limits::BodyLimits,
    shared::Shared,
    upstream::{pool::Pool, slot::Lingering},
};

/// A worker is crowded above this multiple of the mean number of connections,
const CROWDED_FACTOR: usize = 2;
/// and this number of connections more.
const CROWDED_MORE: usize = 8;

/// The state of one worker. Only `shared` and `all_connections` are shared with other threads.
pub(crate) struct Worker {
    pub(crate) shared: Arc<Shared>,
    /// Idle connections to engines.
    pub(crate) pool: Rc<Pool>,
    /// Slots of cancelled requests.
    pub(crate) lingering: Rc<Lingering>,
    /// Limits of request bodies.
    pub(crate) body_limits: BodyLimits,
    /// Open client connections of this worker.
    connections: Cell<usize>,
    /// Open client connections of all workers.
    all_connections: Arc<AtomicUsize>,
    /// The number of workers.
    workers: usize,
    random: RefCell<fastrand::Rng>,
    /// The number of the last attempt.
    attempts: Cell<u64>,
}

impl Worker {
    /// A worker without connections. `workers`: how many there are.
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
            // A random begin: the ids of attempts should differ between workers.
            attempts: Cell::new(random.u32(..).into()),
            random: RefCell::new(random),
        }
    }

    /// Open client connections of this worker.
    pub(crate) fn connections(&self) -> usize {
        self.connections.get()
    }

    /// A random number for balancing and ids, not for secrets.
    pub(crate) fn random(&self) -> u64 {
        self.random.borrow_mut().u64(..)
    }

    /// A new request id: 32 hexadecimal digits.
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

    /// A number for an attempt, different from those of this worker's other attempts.
    pub(crate) fn next_attempt(&self) -> u64 {
        let number = self.attempts.get().wrapping_add(1);
        self.attempts.set(number);
        number
    }

    /// Whether this worker has well more connections than the mean.
    pub(crate) fn is_crowded(&self) -> bool {
        let mean = self.all_connections.load(Ordering::Relaxed) / self.workers;
        self.workers > 1 && self.connections.get() > mean * CROWDED_FACTOR + CROWDED_MORE
    }
}

/// Counts a client connection until it is dropped.
pub(crate) struct ConnectionGuard(Rc<Worker>);

impl ConnectionGuard {
    /// Counts a connection from now on.
    pub(crate) fn new(worker: Rc<Worker>) -> Self {
        worker.connections.set(worker.connections.get() + 1);
        worker.all_connections.fetch_add(1, Ordering::Relaxed);
        worker.shared.metrics.connections.fetch_add(1, Ordering::Relaxed);
        Self(worker)
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.0.connections.set(self.0.connections.get() - 1);
        self.0.all_connections.fetch_sub(1, Ordering::Relaxed);
        self.0.shared.metrics.connections.fetch_sub(1, Ordering::Relaxed);
    }
}
