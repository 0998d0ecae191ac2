//! What all workers and the control plane's handle share: the published snapshots, counters,
//! queues, and how far the end is.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering},
    },
    time::Instant,
};

use arc_swap::ArcSwap;
use tokio::sync::Notify;

use crate::{client::tls::Tls, limits::PhaseLimits, records::Records};
use sans_io::{
    api::cors::Cors,
    seam::documents::{DataPlaneConfig, Event, Limits, Telling},
    table::{IdleListener, Instance, Table, affinity::Responses, keys::Keys, metrics::Metrics},
};

/// Who a Unix socket's client is.
pub(crate) const UNIX_PEER: &str = "unix";

/// How far the end is.
mod phase {
    pub(super) const SERVING: u8 = 0;
    pub(super) const DRAINING: u8 = 1;
    pub(super) const CUTTING: u8 = 2;
}

/// What all workers and the handle share: the published snapshots, counters, queues.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) table: ArcSwap<Table>,
    pub(crate) keys: ArcSwap<Keys>,
    pub(crate) metrics: Metrics,
    pub(crate) records: Arc<Records>,
    pub(crate) control_plane: Option<Arc<Instance>>,
    pub(crate) idle_listener: Arc<dyn IdleListener>,
    pub(crate) phases: PhaseLimits,
    pub(crate) limits: Limits,
    pub(crate) spool_folder: PathBuf,
    pub(crate) idle_per_instance: usize,
    pub(crate) telling: Telling,
    /// Which instance made which response of the Responses API.
    pub(crate) responses: Responses,
    /// What TCP listeners speak; None: plain.
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

impl Shared {
    /// Without a table, without keys, serving.
    pub(crate) fn new(
        config: &DataPlaneConfig,
        control_plane: Option<Arc<Instance>>,
        (tls, cors): (Option<Tls>, Option<Cors>),
    ) -> std::io::Result<Self> {
        let records = Arc::new(Records::new(config.record_queue)?);
        Ok(Self {
            table: ArcSwap::default(),
            keys: ArcSwap::default(),
            metrics: Metrics::default(),
            control_plane,
            idle_listener: Arc::new(TellIdle(Arc::clone(&records))),
            records,
            phases: PhaseLimits::from(&config.timeouts),
            limits: config.limits.clone(),
            spool_folder: config
                .spool_folder
                .as_ref()
                .map_or_else(std::env::temp_dir, PathBuf::from),
            idle_per_instance: config.connections.idle_per_instance,
            telling: config.telling.clone(),
            responses: Responses::new(config.responses_kept),
            tls,
            cors: cors.map(Arc::new),
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

    /// What a client of this address speaks.
    pub(crate) fn scheme(&self, peer: &str) -> &'static str {
        if self.tls.is_some() && peer != UNIX_PEER { "https" } else { "http" }
    }

    /// No new connections are taken.
    pub(crate) fn is_draining(&self) -> bool {
        self.phase.load(Ordering::SeqCst) != phase::SERVING
    }

    /// The deadline is over: what still runs is cut.
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
        let _ = self.phase.compare_exchange(
            phase::SERVING,
            phase::DRAINING,
            Ordering::SeqCst,
            Ordering::SeqCst,
        );
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
struct TellIdle(Arc<Records>);

impl IdleListener for TellIdle {
    fn idle(&self, instance: &Instance, version: u64) {
        self.0.event(Event::InstanceIdle { instance: instance.id.to_string(), version });
    }
}
