//! Per-thread state.

use std::{
    cell::{Cell, RefCell},
    net::IpAddr,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::{BufMut, Bytes, BytesMut};
use tokio::time::Instant;
use tracing::debug;

use crate::{
    body_limits::{BodyLimits, Rooms},
    budget::Budget,
    client::places::{Place, Places},
    key_watch::Sleepers,
    scratch::Scratch,
    shared::Shared,
    upstream::{pool::Pool, slot::Lingering},
};

/// A worker is crowded above this multiple of the mean number of connections,
const CROWDED_FACTOR: usize = 2;
/// and this number of connections more.
const CROWDED_MORE: usize = 8;
/// The longest time for which a page is given out again.
const PAGE_AGE: Duration = Duration::from_millis(250);

/// A page of this server's own, such as `/metrics`.
struct Page {
    /// What the page was made of, besides the state of the server.
    about: Box<str>,
    made: Instant,
    text: Bytes,
}

/// Connections beyond the budget, which get the probes' paths or a 503.
const KEPT_PLACES: usize = 16;

/// The state of one worker. Only `shared` and `all_connections` are shared with other threads.
pub(crate) struct Worker {
    pub(crate) shared: Arc<Shared>,
    /// Idle connections to engines.
    pub(crate) pool: Rc<Pool>,
    /// Slots of cancelled requests.
    pub(crate) lingering: Rc<Lingering>,
    /// What waits, and ends when its key is revoked.
    pub(crate) sleepers: Rc<Sleepers>,
    /// Reads of clients and engines go through it.
    pub(crate) scratch: Rc<Scratch>,
    /// Heads and short pieces are put together in it before they are written.
    pub(crate) joined: RefCell<BytesMut>,
    /// The last value of `Date`, with its second.
    date: RefCell<(u64, String)>,
    /// Limits of request bodies, of callers with a key.
    body_limits: BodyLimits,
    /// The same for callers without one.
    keyless_limits: BodyLimits,
    /// The last page that was made here.
    last_page: RefCell<Option<Page>>,
    /// Places of client connections.
    pub(crate) places: Rc<Places>,
    /// Places beyond the budget, for clients that ask how the server is.
    kept: Rc<Places>,
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
        let body_limits = |spool: &Arc<Budget>, memory: &Arc<Budget>| {
            let rooms = Rooms {
                spool_folder: shared.config.spool_folder.clone(),
                spool: Arc::clone(spool),
                memory: Arc::clone(memory),
                blocking: Arc::clone(&shared.blocking),
            };
            let pause = shared.config.timeouts.body;
            BodyLimits { configured: limits, pause, rooms: Rc::new(rooms) }
        };
        Self {
            shared: Arc::clone(shared),
            pool: Pool::new(limits.idle_connections),
            lingering: Rc::default(),
            sleepers: Rc::default(),
            scratch: Rc::default(),
            joined: RefCell::default(),
            date: RefCell::default(),
            body_limits: body_limits(&shared.spool.0, &shared.memory.0),
            keyless_limits: body_limits(&shared.spool.1, &shared.memory.1),
            last_page: RefCell::default(),
            places: Rc::default(),
            kept: Rc::default(),
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

    /// Open client connections of all workers.
    pub(crate) fn all_connections(&self) -> usize {
        self.all_connections.load(Ordering::Relaxed)
    }

    /// Limits of a request's body. `has_key`: whether its caller has shown a valid key.
    pub(crate) fn body_limits(&self, has_key: bool) -> &BodyLimits {
        if has_key { &self.body_limits } else { &self.keyless_limits }
    }

    /// What all requests may hold in memory together, or those of callers without a key. `has_key`:
    /// as of `body_limits`.
    pub(crate) fn memory(&self, has_key: bool) -> &Arc<Budget> {
        &self.body_limits(has_key).rooms.memory
    }

    /// Notes that so many responses were cut off, since their client did not read them and there
    /// was no memory for that.
    pub(crate) fn note_cut_unread(&self, count: u64) {
        self.shared.metrics.cut_unread.fetch_add(count, Ordering::Relaxed);
        debug!(
            count,
            "response cut off: its client does not read, and the memory for requests is full"
        );
    }

    /// A page of this server's own. While the last one is still being sent to others, and is young,
    /// it is sent once more: clients that do not read hold one page together. `about`: what the
    /// page is made of, besides the state of the server.
    pub(crate) fn page<E>(
        &self,
        about: &str,
        make: impl FnOnce() -> Result<Bytes, E>,
    ) -> Result<Bytes, E> {
        let mut last = self.last_page.borrow_mut();
        let shared = last.as_ref().filter(|page| {
            *page.about == *about && !page.text.is_unique() && page.made.elapsed() < PAGE_AGE
        });
        if let Some(page) = shared {
            return Ok(page.text.clone());
        }
        let text = make()?;
        *last = Some(Page { about: about.into(), made: Instant::now(), text: text.clone() });
        Ok(text)
    }

    /// A random number for balancing and ids, not for secrets.
    pub(crate) fn random(&self) -> u64 {
        self.random.borrow_mut().u64(..)
    }

    /// Writes the `Date` field of now.
    pub(crate) fn put_date(&self, out: &mut BytesMut) {
        let now = SystemTime::now();
        let second = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let date = &mut *self.date.borrow_mut();
        if date.0 != second {
            *date = (second, httpdate::fmt_http_date(now));
        }
        out.put_slice(b"date: ");
        out.put_slice(date.1.as_bytes());
        out.put_slice(b"\r\n");
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

/// A client's connection, counted until it is dropped.
pub(crate) struct Admitted {
    worker: Rc<Worker>,
    /// Its place, which may be given to somebody else.
    pub(crate) place: Rc<Place>,
    /// The place is one of those kept for probes.
    pub(crate) is_kept: bool,
    /// The address that it is counted for; None: there is no limit for it.
    address: Option<IpAddr>,
}

impl Worker {
    /// Finds a place for a new connection: a free one, that of a connection that waits for its
    /// client (see [`crate::client::places`]), or one of the few kept for probes. None: its address has its share already, or there
    /// is no place at all. `address`: None for a Unix socket.
    pub(crate) fn admit(self: &Rc<Self>, address: Option<IpAddr>) -> Option<Admitted> {
        let (shared, metrics) = (&self.shared, &self.shared.metrics);
        let limits = shared.table.load().settings.limits;
        let limit = limits.connections_per_address;
        // A proxy's connections are those of its clients.
        let is_proxy = |address| {
            shared.trusted_proxies.as_ref().is_some_and(|proxies| proxies.contains(address))
        };
        let address = address.filter(|address| limit > 0 && !is_proxy(*address));
        if address.is_some_and(|address| !shared.addresses.enter(address, limit)) {
            metrics.connections_over_address_limit.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        let open = self.all_connections.load(Ordering::Relaxed);
        let budget = shared.connection_budget(&limits);
        let is_kept = open >= budget && !self.evict(&self.places);
        if is_kept && open >= budget + KEPT_PLACES && !self.evict(&self.kept) {
            metrics.connections_without_place.fetch_add(1, Ordering::Relaxed);
            if let Some(address) = address {
                shared.addresses.leave(address);
            }
            return None;
        }
        let places = if is_kept { &self.kept } else { &self.places };
        self.connections.set(self.connections.get() + 1);
        self.all_connections.fetch_add(1, Ordering::Relaxed);
        metrics.connections.fetch_add(1, Ordering::Relaxed);
        let place = Rc::new(places.take());
        Some(Admitted { worker: Rc::clone(self), place, is_kept, address })
    }

    /// Closes the connection that waits longest for its client; false: none waits.
    pub(crate) fn evict(&self, places: &Places) -> bool {
        let evicted = places.evict();
        if evicted {
            self.shared.metrics.connections_evicted.fetch_add(1, Ordering::Relaxed);
        }
        evicted
    }

    /// Whether a connection that was accepted should wait for a place: there will be one soon, when
    /// the time is over that new clients have.
    pub(crate) fn awaits_place(&self) -> bool {
        let limits = self.shared.table.load().settings.limits;
        let open = self.all_connections.load(Ordering::Relaxed);
        let Some(beyond) = open.checked_sub(self.shared.connection_budget(&limits)) else {
            return false;
        };
        let is_kept = !self.places.has_waiting() && beyond >= KEPT_PLACES;
        self.places.has_only_new() || is_kept && self.kept.has_only_new()
    }

    /// Whether other tasks should run before another connection is accepted: evicted connections
    /// that are on their way out, or new ones of which nobody knows yet what came on them, so that
    /// they are not taken for those that wait.
    pub(crate) fn is_overfull(&self) -> bool {
        let limits = self.shared.table.load().settings.limits;
        let open = self.all_connections.load(Ordering::Relaxed);
        let budget = self.shared.connection_budget(&limits);
        let is_unsettled = || self.places.has_untried() && !self.places.has_waiting();
        open >= budget + KEPT_PLACES / 2 || open >= budget && is_unsettled()
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let worker = &self.worker;
        worker.connections.set(worker.connections.get() - 1);
        worker.all_connections.fetch_sub(1, Ordering::Relaxed);
        worker.shared.metrics.connections.fetch_sub(1, Ordering::Relaxed);
        if let Some(address) = self.address {
            worker.shared.addresses.leave(address);
        }
    }
}

#[cfg(test)]
mod tests {
    use sans_io::test_support;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_page_is_shared_while_it_is_young_and_being_sent() {
        let config = test_support::config().to_string();
        let plane = crate::DataPlane::new(config.as_bytes(), vec![]).unwrap();
        let worker = Worker::new(plane.shared(), &Arc::default(), 1);
        let made = Cell::new(0);
        let page = |about: &str| {
            worker.page(about, || {
                made.set(made.get() + 1);
                Ok::<Bytes, ()>(vec![b'x'; 1_000].into())
            })
        };
        let fails = worker.page("metrics", || Err(()));
        assert!(fails.is_err(), "and nothing is kept of it");
        let unread: Vec<_> = (0..100).map(|_| page("metrics")).collect();
        assert_eq!(made.get(), 1);
        let _other = page("models");
        assert_eq!(made.get(), 2, "another page is not this one");
        drop(unread);
        let _first = page("metrics");
        drop(page("metrics"));
        assert_eq!(made.get(), 3);
        tokio::time::advance(PAGE_AGE).await;
        let again = page("metrics");
        assert_eq!(made.get(), 4, "it is too old");
        drop(again);
        drop(page("metrics"));
        assert_eq!(made.get(), 5, "nobody reads it any more, so the next one is of this moment");
    }
}
