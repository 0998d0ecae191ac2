//! State shared by all workers and the control plane's handle: the published snapshots, counters,
//! queues, and the phase of the drain.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering},
    },
    time::Instant,
};

use arc_swap::ArcSwap;
use tokio::sync::Notify;

use crate::{client::tls::Tls, records::Records};
use sans_io::{
    api::cors::Cors,
    seam::{DataPlaneConfig, Event},
    table::{IdleListener, Instance, Keys, Metrics, ResponseOwners, Table},
};

/// The address of a Unix socket's client.
pub(crate) const UNIX_PEER: &str = "unix";

/// Phases of the drain.
mod phase {
    pub(super) const SERVING: u8 = 0;
    pub(super) const DRAINING: u8 = 1;
    pub(super) const CUTTING: u8 = 2;
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: DataPlaneConfig,
    pub(crate) table: ArcSwap<Table>,
    pub(crate) keys: ArcSwap<Keys>,
    pub(crate) metrics: Metrics,
    pub(crate) records: Arc<Records>,
    pub(crate) control_plane: Option<Arc<Instance>>,
    pub(crate) idle_listener: Arc<dyn IdleListener>,
    /// The instances that made the stored responses of the Responses API.
    pub(crate) responses: ResponseOwners,
    /// TCP listeners speak it; None: plain HTTP.
    pub(crate) tls: Option<Tls>,
    pub(crate) cors: Option<Arc<Cors>>,
    /// Worker threads that run.
    pub(crate) workers: AtomicUsize,
    /// Requests that a drain has cut.
    pub(crate) cut: AtomicU64,
    /// Workers are woken when the end comes nearer.
    pub(crate) ending: Notify,
    phase: AtomicU8,
    /// When what still runs is cut.
    deadline: Mutex<Option<Instant>>,
    epoch: Instant,
}

/// Parts that are loaded by the configuration, which may fail.
pub(crate) struct LoadedParts {
    /// The management API.
    pub(crate) control_plane: Option<Arc<Instance>>,
    pub(crate) tls: Option<Tls>,
    pub(crate) cors: Option<Cors>,
}

impl Shared {
    /// Without a table, without keys, serving.
    pub(crate) fn new(config: DataPlaneConfig, parts: LoadedParts) -> std::io::Result<Self> {
        let records = Arc::new(Records::new(config.limits.record_queue)?);
        Ok(Self {
            table: ArcSwap::default(),
            keys: ArcSwap::default(),
            metrics: Metrics::default(),
            control_plane: parts.control_plane,
            idle_listener: Arc::new(IdleEvents(Arc::clone(&records))),
            records,
            responses: ResponseOwners::new(config.responses_kept),
            tls: parts.tls,
            cors: parts.cors.map(Arc::new),
            config,
            workers: AtomicUsize::new(0),
            cut: AtomicU64::new(0),
            ending: Notify::new(),
            phase: AtomicU8::new(phase::SERVING),
            deadline: Mutex::new(None),
            epoch: Instant::now(),
        })
    }

    /// Milliseconds since the data plane was made.
    pub(crate) fn clock(&self) -> u64 {
        self.epoch.elapsed().as_millis() as u64
    }

    /// The scheme of the URLs that a client of this address uses.
    pub(crate) fn scheme(&self, peer: &str) -> &'static str {
        if self.tls.is_some() && peer != UNIX_PEER { "https" } else { "http" }
    }

    /// No new connections are taken.
    pub(crate) fn is_draining(&self) -> bool {
        self.phase.load(Ordering::SeqCst) != phase::SERVING
    }

    /// The deadline has passed: what still runs is cut.
    pub(crate) fn is_cutting(&self) -> bool {
        self.phase.load(Ordering::SeqCst) == phase::CUTTING
    }

    /// When the drain ends; None while serving.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        *self.deadline.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins the drain, or shortens it: what still runs at `deadline` is cut.
    pub(crate) fn end_at(&self, deadline: Instant) {
        {
            let mut current = self.deadline.lock().unwrap_or_else(PoisonError::into_inner);
            *current = Some(current.map_or(deadline, |current| current.min(deadline)));
        }
        let (order, failed) = (Ordering::SeqCst, Ordering::SeqCst);
        let begun =
            self.phase.compare_exchange(phase::SERVING, phase::DRAINING, order, failed).is_ok();
        if begun {
            let in_flight = self.metrics.in_flight.load(Ordering::Relaxed);
            let limit = deadline.saturating_duration_since(Instant::now());
            tracing::info!(in_flight, limit_s = limit.as_secs_f64().round(), "drain begins");
        }
        self.ending.notify_waiters();
    }

    /// The first worker that reaches the deadline says how many requests are cut.
    pub(crate) fn cut(&self) {
        if self.phase.swap(phase::CUTTING, Ordering::SeqCst) != phase::CUTTING {
            let running = self.metrics.in_flight.load(Ordering::SeqCst);
            self.cut.store(u64::try_from(running).unwrap_or(0), Ordering::SeqCst);
        }
    }

    /// A worker has ended; the last one tells the control plane.
    pub(crate) fn worker_ended(&self) {
        if self.workers.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.records.event(Event::Drained { cut: self.cut.load(Ordering::SeqCst) });
        }
    }
}

/// Tells the control plane of instances that have become idle.
#[derive(Debug)]
struct IdleEvents(Arc<Records>);

impl IdleListener for IdleEvents {
    fn idle(&self, instance: &Instance, version: u64) {
        self.0.event(Event::InstanceIdle { instance: instance.id.to_string(), version });
    }
}
