//! One engine: where it listens, what is counted of it, and the lease that a request has on it.

use core::net::{IpAddr, SocketAddr};
use std::{
    fmt,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::{seam::InstanceEntry, table::error::TableError};

/// The address of an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    /// As a `Host` field says it.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(formatter, "{address}"),
            Self::Host(host, port) => write!(formatter, "{host}:{port}"),
            Self::Unix(_) => formatter.write_str("localhost"),
        }
    }
}

static SERIAL: AtomicU64 = AtomicU64::new(0);

/// One engine. It lives as long as a table or a lease holds it; its counters go on over every
/// publish.
#[derive(Debug)]
pub struct Instance {
    /// Its name for ever.
    pub id: Arc<str>,
    /// Its number, unique in this process.
    pub serial: u64,
    /// The model it serves.
    pub model: Arc<str>,
    /// Its address.
    pub address: Address,
    /// The value of `Host` toward it.
    pub host: String,
    /// The value of `Authorization` toward it.
    pub authorization: Option<String>,
    /// Time in which an idle connection to it may be used again.
    pub idle_timeout: Duration,
    /// After so many requests a connection is not used again; 0: no limit.
    pub requests_per_connection: u32,
    /// Time for which a cancelled, non-streamed request goes on working inside the engine.
    pub cancel_lag: Duration,
    /// Requests on it now.
    outstanding: AtomicU32,
    /// Requests since it came.
    pub requests: AtomicU64,
    /// Requests that it failed.
    pub failures: AtomicU64,
    /// The version of the table that retired it; 0: it serves.
    retired: AtomicU64,
    /// Milliseconds of the data plane's clock until which others are preferred.
    ejected_until: AtomicU64,
}

impl Instance {
    /// An instance that has served nothing yet.
    pub fn new(entry: &InstanceEntry, model: &Arc<str>) -> Result<Self, TableError> {
        let address = Address::parse(&entry.address)
            .ok_or_else(|| TableError::Address { instance: entry.id.clone() })?;
        let host = address.to_string();
        if entry.api_key.as_ref().is_some_and(|key| key.bytes().any(|byte| byte.is_ascii_control()))
        {
            return Err(TableError::EngineKey { instance: entry.id.clone() });
        }
        Ok(Self {
            id: entry.id.as_str().into(),
            serial: SERIAL.fetch_add(1, Ordering::Relaxed),
            model: Arc::clone(model),
            address,
            host,
            authorization: entry.api_key.as_ref().map(|key| format!("Bearer {key}")),
            idle_timeout: entry.idle_timeout,
            requests_per_connection: entry.requests_per_connection,
            cancel_lag: entry.cancel_lag,
            outstanding: AtomicU32::new(0),
            requests: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            retired: AtomicU64::new(0),
            ejected_until: AtomicU64::new(0),
        })
    }

    /// Requests on it now.
    pub fn outstanding(&self) -> u32 {
        self.outstanding.load(Ordering::Relaxed)
    }

    /// The version that retired it, if one did.
    pub fn retired(&self) -> Option<u64> {
        match self.retired.load(Ordering::SeqCst) {
            0 => None,
            version => Some(version),
        }
    }

    /// Retires it; true when no request is on it, so that it is idle at once.
    pub(super) fn retire(&self, version: u64) -> bool {
        self.retired.store(version, Ordering::SeqCst);
        self.outstanding.load(Ordering::SeqCst) == 0
    }

    /// Counts a failure and prefers others for a while (milliseconds of the data plane's clock);
    /// true when it was not ejected before.
    pub fn eject(&self, now: u64, until: u64) -> bool {
        self.failures.fetch_add(1, Ordering::Relaxed);
        self.ejected_until.swap(until, Ordering::Relaxed) <= now
    }

    pub(super) fn is_ejected(&self, now: u64) -> bool {
        self.ejected_until.load(Ordering::Relaxed) > now
    }

    pub(super) fn same_engine(&self, entry: &InstanceEntry) -> bool {
        *self.id == *entry.id && Address::parse(&entry.address).as_ref() == Some(&self.address)
    }
}

/// One request's hold on an instance. Dropping it gives the slot back.
#[derive(Debug)]
pub struct Lease {
    instance: Arc<Instance>,
    idle: Arc<dyn IdleListener>,
}

/// Receives the retired instances that have become idle.
pub trait IdleListener: fmt::Debug + Send + Sync {
    /// The last request of `instance`, retired by table `version`, has ended.
    fn idle(&self, instance: &Instance, version: u64);
}

impl Lease {
    /// Takes a slot. It increments first and reads `retired` afterwards, so that a request with an
    /// old table cannot slip onto an instance that was already seen idle. None: it is retired.
    pub fn take(instance: &Arc<Instance>, idle: &Arc<dyn IdleListener>) -> Option<Self> {
        instance.outstanding.fetch_add(1, Ordering::SeqCst);
        let lease = Self { instance: Arc::clone(instance), idle: Arc::clone(idle) };
        if instance.retired().is_some() {
            return None;
        }
        instance.requests.fetch_add(1, Ordering::Relaxed);
        Some(lease)
    }

    /// The instance.
    pub fn instance(&self) -> &Arc<Instance> {
        &self.instance
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.instance.outstanding.fetch_sub(1, Ordering::SeqCst) == 1
            && let Some(version) = self.instance.retired()
        {
            self.idle.idle(&self.instance, version);
        }
    }
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
