//! One engine: its address, its counters, and the leases that requests have on it.

use core::net::{IpAddr, SocketAddr};
use std::{
    fmt,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::{
    seam::InstanceEntry,
    table::{
        error::TableError,
        outlier::{Ejected, Outlier},
    },
};

/// The time after which an instance that goes on failing is told of again, in milliseconds.
const TOLD_AGAIN_MS: u64 = 10_000;
/// The time after which it is told of again, where it has responded meanwhile.
const TOLD_BRIEFLY_MS: u64 = 1_000;

/// The address of an instance.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// An IP address and port.
    Tcp(SocketAddr),
    /// A host name and port, resolved at each connect.
    Host(String, u16),
    /// A Unix socket.
    Unix(PathBuf),
}

impl Address {
    /// Reads `http://HOST:PORT` or `unix:PATH`.
    pub fn parse(text: &str) -> Option<Self> {
        if let Some(path) = text.strip_prefix("unix:") {
            return (!path.is_empty()).then(|| Self::Unix(PathBuf::from(path)));
        }
        let authority = text.strip_prefix("http://")?.trim_end_matches('/');
        if let Ok(address) = authority.parse() {
            return Some(Self::Tcp(address));
        }
        let (host, port) = authority.rsplit_once(':').unwrap_or((authority, "80"));
        let port = port.parse().ok()?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if host.is_empty()
            || !host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_:".contains(&byte))
        {
            return None;
        }
        Some(
            host.parse::<IpAddr>().map_or_else(
                |_| Self::Host(host.to_owned(), port),
                |ip| Self::Tcp((ip, port).into()),
            ),
        )
    }
}

impl fmt::Display for Address {
    /// The value of a `Host` field.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(formatter, "{address}"),
            Self::Host(host, port) => write!(formatter, "{host}:{port}"),
            Self::Unix(_) => formatter.write_str("localhost"),
        }
    }
}

/// The scheme in front of an engine's key.
const BEARER: &str = "Bearer ";

/// The serial number of the next instance.
static SERIAL: AtomicU64 = AtomicU64::new(0);

/// One engine, with the settings that it was published with. A table or a lease holds it. Publishing
/// it with other settings makes another value of the same serial number and counters.
#[derive(Debug)]
pub struct Instance {
    /// Its id, as published.
    pub id: Arc<str>,
    /// Its number, unique in this process. Kept while the id and the address stay.
    pub serial: u64,
    /// The name of its model.
    pub model: Arc<str>,
    /// Its address.
    pub address: Address,
    /// The value of `Host` for it.
    pub host: String,
    /// The value of `Authorization` for it; None: it needs none.
    pub authorization: Option<String>,
    /// The time in which an idle connection may be used again; zero: never.
    pub idle_timeout: Duration,
    /// The requests after which a connection is not used again; 0: no limit.
    pub requests_per_connection: u32,
    /// Whether it closes a connection behind each chunked response, without having said so.
    pub closes_after_stream: bool,
    /// The time for which the engine works on after a request without a stream was cancelled.
    pub cancel_lag: Duration,
    /// Its counters, which every publish of the same id and address goes on with.
    pub counters: Arc<Counters>,
}

/// What is counted and known of one engine since it was published first.
#[derive(Debug, Default)]
pub struct Counters {
    /// Leases on it now.
    outstanding: AtomicU32,
    /// Requests that it was given.
    pub requests: AtomicU64,
    /// Failures of its own.
    pub failures: AtomicU64,
    /// The version of the table that retired it; 0: none has, or it serves again.
    retired: AtomicU64,
    /// Its failures in a row, for which requests prefer other instances.
    outlier: Outlier,
    /// The last time that somebody was told of a failure, in milliseconds of the data plane's clock;
    /// 0: never.
    told: AtomicU64,
    /// The last time that somebody was told that it is out, in the same way.
    told_out: AtomicU64,
    /// Somebody was told that it is out, and not that it has responded since.
    is_told_out: AtomicBool,
}

impl Instance {
    /// An instance that has served nothing yet. Fails for an address or key that cannot be used.
    pub fn new(entry: &InstanceEntry, model: &Arc<str>) -> Result<Self, TableError> {
        let address = Address::parse(&entry.address)
            .ok_or_else(|| TableError::Address { instance: entry.id.clone() })?;
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        Self::published(entry, address, model, serial, Arc::default())
    }

    /// The instance of this entry. `known`: the instance of its id and address in the table before,
    /// which it goes on with: itself where nothing has changed. Fails as [`Self::new`] does.
    pub(super) fn following(
        known: Option<&Arc<Self>>,
        entry: &InstanceEntry,
        model: &Arc<str>,
    ) -> Result<Arc<Self>, TableError> {
        let Some(known) = known else { return Self::new(entry, model).map(Arc::new) };
        if known.has_settings_of(entry) && known.model == *model {
            return Ok(Arc::clone(known));
        }
        let (address, counters) = (known.address.clone(), Arc::clone(&known.counters));
        Self::published(entry, address, model, known.serial, counters).map(Arc::new)
    }

    fn published(
        entry: &InstanceEntry,
        address: Address,
        model: &Arc<str>,
        serial: u64,
        counters: Arc<Counters>,
    ) -> Result<Self, TableError> {
        if entry.api_key.as_ref().is_some_and(|key| key.bytes().any(|byte| byte.is_ascii_control()))
        {
            return Err(TableError::EngineKey { instance: entry.id.clone() });
        }
        Ok(Self {
            id: entry.id.as_str().into(),
            serial,
            model: Arc::clone(model),
            host: address.to_string(),
            address,
            authorization: entry.api_key.as_ref().map(|key| format!("{BEARER}{key}")),
            idle_timeout: entry.idle_timeout,
            requests_per_connection: entry.requests_per_connection,
            closes_after_stream: entry.closes_after_stream,
            cancel_lag: entry.cancel_lag,
            counters,
        })
    }

    /// Whether it has all that the entry says of it, but for id, address and state. A new field of
    /// the entry does not compile before it was thought of here.
    fn has_settings_of(&self, entry: &InstanceEntry) -> bool {
        let InstanceEntry {
            id: _,
            address: _,
            state: _,
            api_key,
            idle_timeout,
            requests_per_connection,
            closes_after_stream,
            cancel_lag,
            // The table keeps it, for the model.
            context_length: _,
        } = entry;
        let key = self.authorization.as_deref().and_then(|value| value.strip_prefix(BEARER));
        key == api_key.as_deref()
            && self.idle_timeout == *idle_timeout
            && self.requests_per_connection == *requests_per_connection
            && self.closes_after_stream == *closes_after_stream
            && self.cancel_lag == *cancel_lag
    }

    /// Leases on it now: running requests, and cancelled ones that the engine still works on.
    pub fn outstanding(&self) -> u32 {
        self.counters.outstanding.load(Ordering::Relaxed)
    }

    /// The version of the table that retired it; None: none has.
    pub fn retired(&self) -> Option<u64> {
        match self.counters.retired.load(Ordering::SeqCst) {
            0 => None,
            version => Some(version),
        }
    }

    /// Retires it; true: no lease is on it, so that it is idle at once.
    pub(super) fn retire(&self, version: u64) -> bool {
        self.counters.retired.store(version, Ordering::SeqCst);
        self.counters.outstanding.load(Ordering::SeqCst) == 0
    }

    /// Puts it back into service, after it may have been retired. Leases from before go on to count,
    /// and no longer report it idle.
    pub(super) fn serve_again(&self) {
        // Most publishes find it in service: no line of the cache is written then.
        if self.retired().is_some() {
            self.counters.retired.store(0, Ordering::SeqCst);
            // What it failed before it was away says nothing about it now.
            self.counters.outlier.succeed();
        }
    }

    /// Counts a failure without a response, and ejects the instance. None: nobody need be told, since
    /// it was ejected, and somebody was told not long ago. `now`: in milliseconds of the data plane's
    /// clock, as everywhere here.
    pub fn fail(&self, now: u64) -> Option<Ejected> {
        let ejected = self.counters.outlier.fail(now);
        self.count_failure(ejected, now)
    }

    /// Counts a response whose status is a failure, and ejects the instance for it as
    /// [`Self::fail`] does.
    pub(super) fn fail_by_status(&self, now: u64) -> Option<Ejected> {
        let ejected = self.counters.outlier.fail_by_status(now);
        self.count_failure(ejected, now)
    }

    /// Counts such a response of an instance that does no worse than the others: it is not ejected.
    pub(super) fn fail_like_others(&self, now: u64) -> Option<Ejected> {
        self.counters.outlier.take_back();
        self.counters.is_told_out.store(false, Ordering::Relaxed);
        self.count_failure(None, now)
    }

    /// Takes back an ejection by statuses alone; see [`Outlier::forgive`].
    pub(super) fn forgive(&self) {
        self.counters.outlier.forgive();
    }

    /// Counts a failure. None: nobody need be told. `ejected`: what it came to.
    fn count_failure(&self, ejected: Option<Ejected>, now: u64) -> Option<Ejected> {
        let Counters { failures, told, .. } = &*self.counters;
        failures.fetch_add(1, Ordering::Relaxed);
        if matches!(ejected, Some(Ejected::Out { .. })) && !self.tells_out(now) {
            return None;
        }
        let last = told.load(Ordering::Relaxed);
        let pause = match ejected {
            None => Some(TOLD_AGAIN_MS),
            Some(Ejected::Briefly) => Some(TOLD_BRIEFLY_MS),
            Some(_) => None,
        };
        if pause.is_some_and(|pause| was_told_within(pause, last, now)) {
            return None;
        }
        // Of several that fail at once, one tells.
        let order = Ordering::Relaxed;
        let tells = told.compare_exchange(last, now.max(1), order, order).is_ok();
        ejected.or(tells.then_some(Ejected::Still))
    }

    /// Whether somebody is told that it is out. One that answers some requests and fails others may
    /// be out and back at any rate, as whoever sends these likes.
    fn tells_out(&self, now: u64) -> bool {
        let Counters { told_out, is_told_out, .. } = &*self.counters;
        let tells = !was_told_within(TOLD_AGAIN_MS, told_out.load(Ordering::Relaxed), now);
        if tells {
            told_out.store(now.max(1), Ordering::Relaxed);
            is_told_out.store(true, Ordering::Relaxed);
        }
        tells
    }

    /// Notes that it has responded; true: it was out, and somebody was told so.
    pub fn succeed(&self) -> bool {
        let Counters { outlier, is_told_out, .. } = &*self.counters;
        outlier.succeed() && is_told_out.swap(false, Ordering::Relaxed)
    }

    /// Whether it is out: failures in a row have ejected it, and it has not responded since.
    pub fn is_out(&self) -> bool {
        self.counters.outlier.is_out()
    }

    /// Whether requests prefer others now.
    pub(super) fn is_ejected(&self, now: u64) -> bool {
        self.counters.outlier.is_ejected(now)
    }

    /// Whether a request that has chosen it may go there; see [`Outlier::admit`].
    pub(super) fn admit(&self, now: u64) -> bool {
        self.counters.outlier.admit(now)
    }
}

/// The reason why no slot could be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoLease {
    /// No instance runs.
    NotRunning,
    /// Those that run have as many requests as they are given at the same time.
    Full,
}

/// A request's slot on an instance, given back when it is dropped.
#[derive(Debug)]
pub struct Lease {
    instance: Arc<Instance>,
    idle: Arc<dyn IdleListener>,
}

/// The receiver of retired instances that have become idle.
pub trait IdleListener: fmt::Debug + Send + Sync {
    /// The last lease on `instance`, which table `version` has retired, was given back.
    fn idle(&self, instance: &Instance, version: u64);
}

impl Lease {
    /// Takes a slot, where fewer than `limit` are taken (0: no limit). Fails with `NotRunning` for
    /// a retired instance.
    pub fn take(
        instance: &Arc<Instance>,
        limit: u32,
        idle: &Arc<dyn IdleListener>,
    ) -> Result<Self, NoLease> {
        // Before `retired` is read, so that a request with an old table cannot slip onto an
        // instance that was reported idle.
        let before = instance.counters.outstanding.fetch_add(1, Ordering::SeqCst);
        let lease = Self { instance: Arc::clone(instance), idle: Arc::clone(idle) };
        if instance.retired().is_some() {
            return Err(NoLease::NotRunning);
        }
        if limit > 0 && before >= limit {
            return Err(NoLease::Full);
        }
        instance.counters.requests.fetch_add(1, Ordering::Relaxed);
        Ok(lease)
    }

    /// The instance.
    pub fn instance(&self) -> &Arc<Instance> {
        &self.instance
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.instance.counters.outstanding.fetch_sub(1, Ordering::SeqCst) == 1
            && let Some(version) = self.instance.retired()
        {
            self.idle.idle(&self.instance, version);
        }
    }
}

/// Whether somebody was told in the last so many milliseconds. `last`: when; 0: never.
fn was_told_within(pause: u64, last: u64, now: u64) -> bool {
    last > 0 && last + pause > now
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_in_all_their_forms() {
        let shown = |text: &str| Address::parse(text).map(|address| address.to_string());
        assert_eq!(shown("http://127.0.0.1:8000").as_deref(), Some("127.0.0.1:8000"));
        assert_eq!(shown("http://[::1]:8000/").as_deref(), Some("[::1]:8000"));
        assert_eq!(shown("http://engine.local:81").as_deref(), Some("engine.local:81"));
        assert_eq!(shown("http://engine").as_deref(), Some("engine:80"));
        assert_eq!(shown("unix:/run/e.sock").as_deref(), Some("localhost"));
        for wrong in [
            "https://a:1",
            "http://",
            "http://a:b",
            "http://a/b:1",
            "unix:",
            "127.0.0.1:8000",
            "http://a b:1",
        ] {
            assert_eq!(Address::parse(wrong), None, "{wrong}");
        }
    }
}
