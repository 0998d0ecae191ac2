//! The handle for the control plane: it publishes tables and keys, fetches records and events, and
//! drains.

use std::{
    io,
    net::SocketAddr,
    os::fd::{BorrowedFd, OwnedFd},
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::{Duration, Instant},
};

use tracing::info;

use crate::{
    client::tls::{Tls, TlsError},
    published::{Published, Settings},
    server::listener::{self, Listener},
    shared::{DrainLimits, LoadedParts, Shared, UNIX_PEER},
    telemetry,
};
use sans_io::{
    api::{browser::KnownHosts, cors::CorsError},
    codec::forwarding::{ProxyError, TrustedProxies},
    seam::{
        self, DataPlaneConfig, Event, InstanceEntry, InstanceState, InstanceStats, KeyDelta,
        ModelStats, RouteTokens, ShapeError, Started, Stats, Tokens, read,
    },
    table::{Instance, KeysError, Model, Route, TableError, TokenCounts},
};

/// An error of the data plane as a whole. Its text is a sentence for the operator.
#[derive(Debug, thiserror::Error)]
pub enum DataPlaneError {
    /// A document that cannot be read.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// A descriptor is no listening socket.
    #[error("A listener cannot be used: {0}.")]
    Listener(#[source] io::Error),
    /// The system has no room for the descriptor by which events are waited for.
    #[error("No event descriptor could be made: {0}.")]
    EventDescriptor(#[source] io::Error),
    /// The system has no room for a thread, or for its descriptors.
    #[error("A worker thread could not be started: {0}.")]
    Worker(#[source] io::Error),
    /// It was started a second time.
    #[error("The data plane was started before.")]
    StartedBefore,
    /// A certificate or key that cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// CORS rules that cannot be used.
    #[error(transparent)]
    Cors(#[from] CorsError),
    /// A proxy that is no address.
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    /// A table that cannot be used, or the socket of the management API.
    #[error(transparent)]
    Table(#[from] TableError),
    /// A change of the keys that cannot be used.
    #[error(transparent)]
    Keys(#[from] KeysError),
}

/// A data plane: its workers and all that they share. Dropping it ends the workers at once.
#[derive(Debug)]
pub struct DataPlane {
    shared: Arc<Shared>,
    /// Listeners and the number of workers; None: they were started, or never will be.
    waiting: Mutex<Option<(Vec<Listener>, usize)>>,
    /// Held by the one that publishes a table or keys.
    publishing: Mutex<()>,
}

impl DataPlane {
    /// Reads a `DataPlaneConfig` document and takes the listening sockets. Starts nothing.
    pub fn new(config: &[u8], listeners: Vec<OwnedFd>) -> Result<Self, DataPlaneError> {
        let config: DataPlaneConfig = read("configuration", config)?;
        telemetry::set(config.log_level, config.log_format);
        let listeners = listeners
            .into_iter()
            .map(Listener::new)
            .collect::<io::Result<Vec<_>>>()
            .map_err(DataPlaneError::Listener)?;
        let parts = LoadedParts {
            control_plane: config.control_socket.as_deref().map(control_plane).transpose()?,
            tls: config.tls.as_ref().map(Tls::load).transpose()?,
            settings: settings_at_start(&config)?,
            trusted_proxies: trusted_proxies(&config)?,
            known_hosts: known_hosts(&config, &listeners),
        };
        let workers = config.workers.max(1);
        let shared = Shared::new(config, parts).map_err(DataPlaneError::EventDescriptor)?;
        let waiting = Mutex::new(Some((listeners, workers)));
        Ok(Self { shared: Arc::new(shared), waiting, publishing: Mutex::new(()) })
    }

    /// Starts the workers; returns a `Started` document.
    pub fn start(&self) -> Result<Vec<u8>, DataPlaneError> {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).take();
        let (listeners, workers) = waiting.ok_or(DataPlaneError::StartedBefore)?;
        let started = Started { addresses: listeners.iter().map(Listener::address).collect() };
        listener::spawn_workers(&self.shared, &listeners, workers)
            .map_err(DataPlaneError::Worker)?;
        info!(addresses = started.addresses.join(" "), workers, "listening");
        Ok(write(&started))
    }

    /// Reads the certificate's files, for the reload that is published next; without TLS it does
    /// nothing. Returns whether they hold another certificate than the one in force. Fails where
    /// they cannot be used: the certificate then stays.
    pub fn read_certificate(&self) -> Result<bool, DataPlaneError> {
        Ok(self.shared.tls.as_ref().map_or(Ok(false), Tls::read_again)?)
    }

    /// Replaces the table, and of a reload the settings and the certificate that was read for it,
    /// by a `Table` document; returns its version. Where it fails nothing has changed.
    pub fn publish(&self, table: &[u8]) -> Result<u64, DataPlaneError> {
        let document: seam::Table = read("table", table)?;
        let reloaded = document.settings.as_ref().map(Settings::load).transpose()?;
        let is_reload = reloaded.is_some();
        // Two publishers must not both start from the same table.
        let _one_at_a_time = self.publishing.lock().unwrap_or_else(PoisonError::into_inner);
        let current = self.shared.table.load();
        let (table, left_out) = current.replaced_by(document)?;
        let version = table.version;
        let (models, routes) = (table.models.len(), table.routes.len());
        let frees_waiting = is_reload || current.table.frees_waiting(&table);
        let settings = reloaded.unwrap_or_else(|| current.settings.clone());
        self.shared.table.store(Arc::new(Published { table, settings }));
        if is_reload && let Some(tls) = &self.shared.tls {
            tls.take_up();
        }
        if frees_waiting {
            self.shared.waiting_changed.notify_waiters();
        }
        info!(version, models, routes, reload = is_reload, "table published");
        for instance in left_out.retire() {
            self.shared.idle_listener.idle(&instance, version);
        }
        Ok(version)
    }

    /// Applies a `KeyDelta` document. Workers read the keys anew for every request, so all have it
    /// when this returns. What runs with a key that is gone ends at the next sweep of its worker.
    pub fn update_keys(&self, delta: &[u8]) -> Result<(), DataPlaneError> {
        let delta: KeyDelta = read("key delta", delta)?;
        let _one_at_a_time = self.publishing.lock().unwrap_or_else(PoisonError::into_inner);
        let (replaced, changed, removed) = (delta.replace, delta.upsert.len(), delta.remove.len());
        let keys = Arc::new(self.shared.keys.load().changed_by(delta)?);
        let before = self.shared.keys.swap(Arc::clone(&keys));
        if before.revoke_missing_from(&keys) {
            self.shared.revocations.fetch_add(1, Ordering::Release);
        }
        info!(replaced, changed, removed, "keys changed");
        Ok(())
    }

    /// Adds the tokens of a `Tokens` document to those that were counted here: of an earlier run, or
    /// of requests that another process has finished in this one's place. Routes that the table has
    /// not are left out.
    pub fn add_tokens(&self, tokens: &[u8]) -> Result<(), DataPlaneError> {
        self.with_tokens(tokens, |counts, [input, cached, output]| {
            counts.add(input, cached, output);
        })
    }

    /// Has the metrics show no more than the tokens of a `Tokens` document, of its routes.
    pub fn show_tokens(&self, tokens: &[u8]) -> Result<(), DataPlaneError> {
        self.with_tokens(tokens, TokenCounts::show)
    }

    fn with_tokens(
        &self,
        document: &[u8],
        change: fn(&TokenCounts, [u64; 3]),
    ) -> Result<(), DataPlaneError> {
        let tokens: Tokens = read("token counts", document)?;
        let table = self.shared.table.load();
        for RouteTokens { name, input, cached, output } in tokens.routes {
            if let Some(route) = table.route(&name) {
                change(&route.metrics.tokens, [input, cached, output]);
            }
        }
        Ok(())
    }

    /// A `Polled` document: records and events since the last call. It alone is MessagePack, since
    /// it carries every request.
    pub fn poll(&self) -> Vec<u8> {
        rmp_serde::to_vec_named(&self.shared.records.poll()).unwrap_or_default()
    }

    /// Readable when `poll` should be called soon.
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
            table.models.iter().flat_map(|model| &model.instances).map(|instance| InstanceStats {
                id: instance.id.to_string(),
                outstanding: instance.outstanding(),
                requests: instance.counters.requests.load(Ordering::Relaxed),
                failures: instance.counters.failures.load(Ordering::Relaxed),
                ejected: instance.is_out(),
            });
        let validity = self.shared.tls.as_ref().and_then(Tls::validity);
        write(&Stats {
            version: table.version,
            not_ready: self.shared.not_ready(&table),
            connections: count(&self.shared.metrics.connections),
            in_flight: count(&self.shared.metrics.in_flight),
            certificate_begins: validity.map(|validity| validity.begins),
            certificate_expires: validity.map(|validity| validity.ends),
            instances: instances.collect(),
            models: table.models.iter().map(|model| model_stats(model)).collect(),
            routes: table.routes.iter().map(|route| route_tokens(route)).collect(),
        })
    }

    /// Stops accepting, lets running requests end, and cuts the rest of them after `limit`.
    /// Connections without a request end at once, or may bring another one for `idle_grace`: for
    /// where somebody else accepts in our place, and no client is to meet a connection's end in the
    /// moment in which it sends.
    pub fn drain(&self, limit: Duration, idle_grace: Duration) {
        let now = Instant::now();
        let after = |limit| {
            now.checked_add(limit).unwrap_or_else(|| now + Duration::from_secs(365 * 24 * 3600))
        };
        let (deadline, idle_until) = (after(limit), after(idle_grace));
        let hands_over = !idle_grace.is_zero();
        self.shared.drain_until(DrainLimits { deadline, idle_until, hands_over });
        // There is no worker that would report the end.
        if self.waiting.lock().unwrap_or_else(PoisonError::into_inner).take().is_some() {
            self.shared.records.event(Event::Drained { cut: 0 });
        }
    }
}

#[cfg(test)]
impl DataPlane {
    /// The shared state, for tests.
    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}

impl Drop for DataPlane {
    fn drop(&mut self) {
        self.drain(Duration::ZERO, Duration::ZERO);
    }
}

/// The management API as an instance, at the Unix socket of this path.
fn control_plane(path: &str) -> Result<Arc<Instance>, TableError> {
    let entry = InstanceEntry {
        id: "control-plane".to_owned(),
        address: format!("unix:{path}"),
        state: InstanceState::Running,
        api_key: None,
        idle_timeout: Duration::from_secs(2),
        requests_per_connection: 0,
        closes_after_stream: false,
        cancel_lag: Duration::ZERO,
        context_length: None,
    };
    Instance::new(&entry, &"control-plane".into()).map(Arc::new)
}

fn route_tokens(route: &Route) -> RouteTokens {
    let [input, cached, output] = route.metrics.tokens.kinds().map(|(_, count)| count);
    RouteTokens { name: route.name.to_string(), input, cached, output }
}

fn model_stats(model: &Model) -> ModelStats {
    ModelStats { name: model.name.to_string(), waiting: model.queue.waiting() }
}

/// The settings until the first reload.
fn settings_at_start(config: &DataPlaneConfig) -> Result<Settings, CorsError> {
    Settings::load(&seam::Settings {
        timeouts: config.timeouts,
        limits: config.limits,
        cors: config.cors.clone(),
        response_extras: config.response_extras,
    })
}

/// The proxies in front that are believed; None: none is listed.
fn trusted_proxies(config: &DataPlaneConfig) -> Result<Option<TrustedProxies>, ProxyError> {
    let proxies = TrustedProxies::new(&config.trusted_proxies, UNIX_PEER)?;
    Ok((!proxies.is_empty()).then_some(proxies))
}

/// The hosts that requests without a key may be for. None: any, since others than this machine's
/// own clients are meant to come, and no host is listed.
fn known_hosts(config: &DataPlaneConfig, listeners: &[Listener]) -> Option<KnownHosts> {
    let is_local = |address: String| {
        address.parse::<SocketAddr>().is_ok_and(|address| address.ip().is_loopback())
            || address.starts_with("unix:")
    };
    let all_local = listeners.iter().map(Listener::address).all(is_local);
    let checks = all_local || !config.allowed_hosts.is_empty();
    checks.then(|| KnownHosts::new(&config.host, &config.allowed_hosts))
}

/// Serialises a document. It cannot fail: our own documents hold numbers, text and lists.
fn write<T: serde::Serialize>(document: &T) -> Vec<u8> {
    serde_json::to_vec(document).unwrap_or_default()
}
