//! The handle that the control plane holds: it publishes tables and keys, fetches what happened,
//! and ends it all.

use std::{
    fmt,
    os::fd::{BorrowedFd, OwnedFd},
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::{Duration, Instant},
};

use serde::de::DeserializeOwned;

use crate::{
    client::tls::Tls,
    server::listener::{self, Listener},
    shared::Shared,
};
use sans_io::{
    api::cors::Cors,
    seam::documents::{
        DataPlaneConfig, Event, InstanceEntry, InstanceStats, KeyDelta, Started, Stats,
        TableDocument,
    },
    table::Instance,
};

/// Why the data plane cannot do what was asked: a sentence with the cause.
#[derive(Debug)]
pub struct DataPlaneError(String);

impl fmt::Display for DataPlaneError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for DataPlaneError {}

/// See the module. Dropping it ends the workers at once.
#[derive(Debug)]
pub struct DataPlane {
    shared: Arc<Shared>,
    /// Listeners and the number of workers, until they are started.
    waiting: Mutex<Option<(Vec<Listener>, usize)>>,
    publishing: Mutex<()>,
}

impl DataPlane {
    /// Reads a `DataPlaneConfig` document and takes the listening sockets.
    pub fn new(config: &[u8], listeners: Vec<OwnedFd>) -> Result<Self, DataPlaneError> {
        let config: DataPlaneConfig = read("configuration", config)?;
        let listeners =
            listeners.into_iter().map(Listener::new).collect::<std::io::Result<Vec<_>>>();
        let listeners = listeners
            .map_err(|error| DataPlaneError(format!("A listener cannot be used: {error}.")))?;
        let control_plane = config.control_socket.as_deref().map(control_plane).transpose()?;
        let tls = config.tls.as_ref().map(Tls::load).transpose().map_err(DataPlaneError)?;
        let cors = config.cors.as_ref().map(Cors::new).transpose().map_err(DataPlaneError)?;
        let shared = Shared::new(&config, control_plane, (tls, cors)).map_err(|error| {
            DataPlaneError(format!("No event descriptor could be made: {error}."))
        })?;
        let waiting = Mutex::new(Some((listeners, config.workers.max(1))));
        Ok(Self { shared: Arc::new(shared), waiting, publishing: Mutex::new(()) })
    }

    /// Starts the workers; returns a `Started` document.
    pub fn start(&self) -> Result<Vec<u8>, DataPlaneError> {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).take();
        let (listeners, workers) = waiting
            .ok_or_else(|| DataPlaneError("The data plane was started before.".to_owned()))?;
        let started = Started { addresses: listeners.iter().map(Listener::address).collect() };
        self.shared.workers.store(workers, Ordering::SeqCst);
        listener::spawn_workers(&self.shared, &listeners, workers).map_err(|error| {
            DataPlaneError(format!("A worker thread could not be started: {error}."))
        })?;
        Ok(write(&started))
    }

    /// Replaces the table by a `Table` document; returns its version.
    pub fn publish(&self, table: &[u8]) -> Result<u64, DataPlaneError> {
        let document: TableDocument = read("table", table)?;
        // Two publishers must not both start from the same table.
        let _one_at_a_time = self.publishing.lock().unwrap_or_else(PoisonError::into_inner);
        let (table, idle) =
            self.shared.table.load().replaced_by(document).map_err(DataPlaneError)?;
        let version = table.version;
        self.shared.table.store(Arc::new(table));
        for instance in idle {
            self.shared.idle_listener.idle(&instance, version);
        }
        Ok(version)
    }

    /// Applies a `KeyDelta` document. Workers read the keys anew for every request, so all have it
    /// when this returns.
    pub fn update_keys(&self, delta: &[u8]) -> Result<(), DataPlaneError> {
        let delta: KeyDelta = read("key delta", delta)?;
        let _one_at_a_time = self.publishing.lock().unwrap_or_else(PoisonError::into_inner);
        let keys = self.shared.keys.load().changed_by(delta).map_err(DataPlaneError)?;
        self.shared.keys.store(Arc::new(keys));
        Ok(())
    }

    /// A `Polled` document: what happened since the last call. It alone is MessagePack, since it
    /// carries every request.
    pub fn poll(&self) -> Vec<u8> {
        rmp_serde::to_vec_named(&self.shared.records.poll()).unwrap_or_default()
    }

    /// Readable when `poll` has something that should be fetched soon.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.shared.records.fd()
    }

    /// A `Stats` document.
    pub fn stats(&self) -> Vec<u8> {
        let table = self.shared.table.load();
        let count = |value: &std::sync::atomic::AtomicI64| {
            u64::try_from(value.load(Ordering::Relaxed)).unwrap_or(0)
        };
        let instances =
            table.models.iter().flat_map(|model| &model.instances).map(|(instance, _)| {
                InstanceStats {
                    id: instance.id.to_string(),
                    outstanding: instance.outstanding(),
                    requests: instance.requests.load(Ordering::Relaxed),
                    faults: instance.faults.load(Ordering::Relaxed),
                }
            });
        write(&Stats {
            version: table.version,
            connections: count(&self.shared.metrics.connections),
            in_flight: count(&self.shared.metrics.in_flight),
            instances: instances.collect(),
        })
    }

    /// Stops accepting, lets running requests end, and cuts what is left after `limit`.
    pub fn drain(&self, limit: Duration) {
        let now = Instant::now();
        let deadline =
            now.checked_add(limit).unwrap_or_else(|| now + Duration::from_secs(365 * 24 * 3600));
        self.shared.end_at(deadline);
        // Without workers nobody else would tell.
        if self.waiting.lock().unwrap_or_else(PoisonError::into_inner).take().is_some() {
            self.shared.records.event(Event::Drained { cut: 0 });
        }
    }
}

#[cfg(test)]
impl DataPlane {
    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}

impl Drop for DataPlane {
    fn drop(&mut self) {
        self.drain(Duration::ZERO);
    }
}

/// The management API as an instance like any other.
fn control_plane(path: &str) -> Result<Arc<Instance>, DataPlaneError> {
    let entry = InstanceEntry {
        id: "control-plane".to_owned(),
        address: format!("unix:{path}"),
        state: "running".to_owned(),
        api_key: None,
        idle_timeout: 2_000,
        requests_per_connection: 0,
        cancel_lag: 0,
    };
    Instance::new(&entry, &"control-plane".into()).map(Arc::new).map_err(DataPlaneError)
}

fn read<T: DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T, DataPlaneError> {
    serde_json::from_slice(bytes)
        .map_err(|error| DataPlaneError(format!("The {what} does not have its shape: {error}.")))
}

/// Our own documents always serialise: they hold numbers, text and lists.
fn write<T: serde::Serialize>(document: &T) -> Vec<u8> {
    serde_json::to_vec(document).unwrap_or_default()
}
