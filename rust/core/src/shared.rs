//! State shared by all workers and the control plane's handle: published snapshots, counters,
//! queues, and the phase of the drain.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use tokio::sync::Notify;

use crate::{
    blocking::BlockingPool,
    budget::Budget,
    client::{places::Addresses, tls::Tls},
    published::{Published, Settings},
    records::Records,
    telemetry::seldom::Turns,
};
use sans_io::{
    api::browser::KnownHosts,
    codec::forwarding::TrustedProxies,
    seam::{DataPlaneConfig, Event, Limits, Timeouts},
    table::{IdleListener, Instance, Keys, Metrics, ResponseOwners, Table},
};

/// Stands for the address of a Unix socket's client.
pub(crate) const UNIX_PEER: &str = "unix";

/// Phases of the drain.
mod phase {
    /// Clients are accepted.
    pub(super) const SERVING: u8 = 0;
    /// No clients are accepted, and running requests may end.
    pub(super) const DRAINING: u8 = 1;
    /// The deadline has passed: running requests are cut.
    pub(super) const CUTTING: u8 = 2;
}

/// The shared state of one data plane.
#[derive(Debug)]
pub(crate) struct Shared {
    /// Fixed for the data plane's life. A reload leaves it alone: what it can change is read from
    /// `table`.
    pub(crate) config: DataPlaneConfig,
    /// The newest table, and the settings that came with it.
    pub(crate) table: ArcSwap<Published>,
    /// The newest keys.
    pub(crate) keys: ArcSwap<Keys>,
    /// Changes of the keys that revoked one.
    pub(crate) revocations: AtomicU64,
    pub(crate) metrics: Metrics,
    /// The turns of log lines that clients could cause at any rate.
    pub(crate) turns: Turns,
    /// What the files of spooled bodies may hold: of all callers, and of those without a key.
    pub(crate) spool: (Arc<Budget>, Arc<Budget>),
    /// What requests may hold in memory beyond a little each: of all callers, and of those without a
    /// key.
    pub(crate) memory: (Arc<Budget>, Arc<Budget>),
    /// The threads for files and large translations.
    pub(crate) blocking: Arc<BlockingPool>,
    /// The queues toward the control plane.
    pub(crate) records: Arc<Records>,
    /// The management API; None: this data plane has none.
    pub(crate) control_plane: Option<Arc<Instance>>,
    /// Reports retired instances that have become idle, as events.
    pub(crate) idle_listener: Arc<dyn IdleListener>,
    /// The instances that made the stored responses of the Responses API.
    pub(crate) responses: ResponseOwners,
    /// The certificate of TCP listeners; None: they speak plain HTTP.
    pub(crate) tls: Option<Tls>,
    /// None: the forwarding fields of nobody are believed.
    pub(crate) trusted_proxies: Option<TrustedProxies>,
    /// The hosts that requests without a key may be for; None: any.
    pub(crate) known_hosts: Option<KnownHosts>,
    /// Client connections for which there are descriptors.
    default_budget: usize,
    /// Open connections of each client's address.
    pub(crate) addresses: Addresses,
    /// Requests without a key that run.
    pub(crate) keyless: AtomicUsize,
    /// Running worker threads, see [`WorkerGuard`].
    workers: AtomicUsize,
    /// Requests that the drain has cut.
    cut_requests: AtomicU64,
    /// Wakes workers and connections when the drain begins or its limits come nearer.
    pub(crate) drain_changed: Notify,
    /// Wakes requests that wait for a model: when a table may have it, or the drain begins.
    pub(crate) waiting_changed: Notify,
    /// See [`phase`].
    phase: AtomicU8,
    /// None while serving.
    limits: Mutex<Option<DrainLimits>>,
    /// The zero of [`Shared::clock`].
    epoch: Instant,
}

/// How long a drain waits, and for what.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DrainLimits {
    /// The time when running requests are cut.
    pub(crate) deadline: Instant,
    /// The time when connections without a request are ended.
    pub(crate) idle_until: Instant,
    /// Somebody else accepts in our place.
    pub(crate) hands_over: bool,
}

impl DrainLimits {
    /// A drain that ends whatever runs at once.
    pub(crate) fn at_once() -> Self {
        let now = Instant::now();
        Self { deadline: now, idle_until: now, hands_over: false }
    }

    fn shortened(self, other: Self) -> Self {
        Self {
            deadline: self.deadline.min(other.deadline),
            idle_until: self.idle_until.min(other.idle_until),
            hands_over: self.hands_over && other.hands_over,
        }
    }
}

/// The parts of the shared state that are read from the configuration, which may fail.
pub(crate) struct LoadedParts {
    /// The management API.
    pub(crate) control_plane: Option<Arc<Instance>>,
    /// The certificate of TCP listeners.
    pub(crate) tls: Option<Tls>,
    /// The settings that a reload can change.
    pub(crate) settings: Settings,
    /// The proxies in front.
    pub(crate) trusted_proxies: Option<TrustedProxies>,
    /// The hosts that requests without a key may be for.
    pub(crate) known_hosts: Option<KnownHosts>,
}

impl Shared {
    /// The state at the start: the empty table, no keys, serving. Fails without a free descriptor.
    pub(crate) fn new(config: DataPlaneConfig, parts: LoadedParts) -> std::io::Result<Self> {
        let records = Arc::new(Records::new(config.limits.record_queue)?);
        Ok(Self {
            table: ArcSwap::from_pointee(Published {
                table: Table::default(),
                settings: parts.settings,
            }),
            keys: ArcSwap::default(),
            revocations: AtomicU64::new(0),
            metrics: Metrics::default(),
            turns: Turns::default(),
            spool: Budget::new(config.limits.spool_bytes),
            memory: Budget::new(config.limits.total_memory_bytes),
            blocking: Arc::new(BlockingPool::new()?),
            control_plane: parts.control_plane,
            idle_listener: Arc::new(IdleEvents(Arc::clone(&records))),
            records,
            responses: ResponseOwners::new(config.responses_kept),
            tls: parts.tls,
            trusted_proxies: parts.trusted_proxies,
            known_hosts: parts.known_hosts,
            default_budget: default_budget(),
            addresses: Addresses::default(),
            keyless: AtomicUsize::new(0),
            workers: AtomicUsize::new(0),
            cut_requests: AtomicU64::new(0),
            drain_changed: Notify::new(),
            waiting_changed: Notify::new(),
            phase: AtomicU8::new(phase::SERVING),
            limits: Mutex::new(None),
            epoch: Instant::now(),
            config,
        })
    }

    /// Client connections that may be open at once.
    pub(crate) fn connection_budget(&self, limits: &Limits) -> usize {
        if limits.connections > 0 { limits.connections } else { self.default_budget }
    }

    /// The descriptors for connections of clients and of engines together.
    pub(crate) fn descriptor_budget(&self) -> usize {
        self.default_budget.saturating_mul(2)
    }

    /// The timeouts of now, for what is no request's: a connection takes them when it begins.
    pub(crate) fn timeouts(&self) -> Timeouts {
        self.table.load().settings.timeouts
    }

    /// Milliseconds since the data plane was made.
    pub(crate) fn clock(&self) -> u64 {
        self.epoch.elapsed().as_millis() as u64
    }

    /// The scheme of the URLs that a client of this address uses.
    pub(crate) fn scheme(&self, peer: &str) -> &'static str {
        if self.tls.is_some() && peer != UNIX_PEER { "https" } else { "http" }
    }

    /// The reason why no inference can be served by this table now; None: it can. Where
    /// somebody else accepts in our place, a drain is none: he is as ready as this table is, and a check
    /// over a kept connection must not take him out of service.
    pub(crate) fn not_ready(&self, table: &Table) -> Option<&'static str> {
        if self.is_stopping() {
            Some("draining: this server is stopping")
        } else if table.version == 0 {
            Some("starting: no routing table has been published yet")
        } else if !table.routes.iter().any(|route| route.is_ready()) {
            Some("no model has a running instance")
        } else {
            None
        }
    }

    /// Whether the drain has begun: no clients are accepted.
    pub(crate) fn is_draining(&self) -> bool {
        self.phase.load(Ordering::SeqCst) != phase::SERVING
    }

    /// Whether the drain has begun, and nobody accepts in our place.
    pub(crate) fn is_stopping(&self) -> bool {
        self.is_draining() && self.drain_limits().is_some_and(|limits| !limits.hands_over)
    }

    /// Whether the drain's deadline has passed: running requests are cut.
    pub(crate) fn is_cutting(&self) -> bool {
        self.phase.load(Ordering::SeqCst) == phase::CUTTING
    }

    /// The drain's deadline; None while serving.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.drain_limits().map(|limits| limits.deadline)
    }

    /// How long, in a drain, connections without a request may still bring one; None: no longer, or
    /// nothing is drained.
    pub(crate) fn idle_left(&self) -> Option<Duration> {
        let until = self.drain_limits()?.idle_until;
        Some(until.saturating_duration_since(Instant::now())).filter(|left| !left.is_zero())
    }

    fn drain_limits(&self) -> Option<DrainLimits> {
        *self.limits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins the drain, or shortens it. Requests that run at its deadline are cut.
    pub(crate) fn drain_until(&self, limits: DrainLimits) {
        let deadline = limits.deadline;
        {
            let mut current = self.limits.lock().unwrap_or_else(PoisonError::into_inner);
            *current = Some(current.map_or(limits, |current| current.shortened(limits)));
        }
        let (order, failed) = (Ordering::SeqCst, Ordering::SeqCst);
        let begun =
            self.phase.compare_exchange(phase::SERVING, phase::DRAINING, order, failed).is_ok();
        if begun {
            let in_flight = self.metrics.in_flight.load(Ordering::Relaxed);
            let limit = deadline.saturating_duration_since(Instant::now());
            tracing::info!(in_flight, limit_s = limit.as_secs_f64().round(), "drain begins");
        }
        self.drain_changed.notify_waiters();
        self.waiting_changed.notify_waiters();
    }

    /// Begins to cut requests. The first worker that reaches the deadline counts them.
    pub(crate) fn begin_cutting(&self) {
        if self.phase.swap(phase::CUTTING, Ordering::SeqCst) != phase::CUTTING {
            let running = self.metrics.in_flight.load(Ordering::SeqCst);
            self.cut_requests.store(u64::try_from(running).unwrap_or(0), Ordering::SeqCst);
        }
    }
}

/// Counts a worker until it has ended, in whatever way. The last one notifies the control plane.
#[derive(Debug)]
pub(crate) struct WorkerGuard(Arc<Shared>);

impl WorkerGuard {
    /// Counts a worker from now on.
    pub(crate) fn new(shared: &Arc<Shared>) -> Self {
        shared.workers.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(shared))
    }
}

impl Drop for WorkerGuard {
    fn drop(&mut self) {
        if self.0.workers.fetch_sub(1, Ordering::SeqCst) == 1 {
            let cut = self.0.cut_requests.load(Ordering::SeqCst);
            self.0.records.event(Event::Drained { cut });
        }
    }
}

/// Descriptors that are no client's and no engine's: files, listeners, events, the control plane's.
const OTHER_DESCRIPTORS: u64 = 64;

/// As many client connections as the descriptors of this process allow, where each may need another
/// one for an engine.
fn default_budget() -> usize {
    let descriptors = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let budget = descriptors.unwrap_or(u64::MAX).saturating_sub(OTHER_DESCRIPTORS) / 2;
    usize::try_from(budget).unwrap_or(usize::MAX).clamp(LEAST_CONNECTIONS, MOST_CONNECTIONS)
}

/// The bounds of a budget that nobody has set.
const LEAST_CONNECTIONS: usize = 16;
const MOST_CONNECTIONS: usize = 1 << 20;

/// Notifies the control plane of retired instances that have become idle.
#[derive(Debug)]
struct IdleEvents(Arc<Records>);

impl IdleListener for IdleEvents {
    fn idle(&self, instance: &Instance, version: u64) {
        self.0.event(Event::InstanceIdle { instance: instance.id.to_string(), version });
    }
}
