//! One worker's idle connections to engines.

use std::{cell::RefCell, collections::HashMap, rc::Rc, sync::Arc, time::Duration};

use tokio::time::Instant;
use tracing::debug;

use crate::upstream::connection::Connection;
use sans_io::{codec::http1::KeepAlive, table::Instance};

/// An idle connection.
struct Idle {
    connection: Connection,
    since: Instant,
    /// The time in which it may be used again.
    limit: Duration,
}

/// The idle connections by the instance's serial number, the newest last. The instance is held so
/// that its retirement is seen.
type IdleByInstance = HashMap<u64, (Arc<Instance>, Vec<Idle>), foldhash::fast::RandomState>;

/// One worker's idle connections.
#[derive(Default)]
pub(crate) struct Pool {
    idle: RefCell<IdleByInstance>,
    /// The most idle connections to one instance.
    per_instance: usize,
}

impl Pool {
    /// An empty pool. `per_instance`: the most idle connections to one instance.
    pub(crate) fn new(per_instance: usize) -> Rc<Self> {
        Rc::new(Self { idle: RefCell::default(), per_instance })
    }

    /// Takes the connection that was used last and is neither too old nor closed; None: there is
    /// none.
    pub(crate) fn take(&self, instance: &Instance) -> Option<Connection> {
        let idle = &mut self.idle.borrow_mut();
        let (_, connections) = idle.get_mut(&instance.serial)?;
        while let Some(Idle { mut connection, since, limit }) = connections.pop() {
            // The instance's limits may have changed since it was added.
            if since.elapsed() >= limit.min(instance.idle_timeout) {
                // Those below it are older still.
                debug!(instance = &*instance.id, "connections discarded: idle for too long");
                connections.clear();
            } else if is_worn_out(&connection, instance) {
                debug!(instance = &*instance.id, "connection discarded: worn out");
            // Bytes without a request are a late part of the last response, or a timeout's error.
            } else if connection.is_quiet() {
                debug!(
                    instance = &*instance.id,
                    requests = connection.requests,
                    "connection reused"
                );
                connection.requests += 1;
                connection.unfinished = true;
                return Some(connection);
            } else {
                debug!(
                    instance = &*instance.id,
                    "connection discarded: the engine closed it or sent more"
                );
            }
        }
        None
    }

    /// Adds a connection whose last response was whole. `engine`: the limits of the response's
    /// `Keep-Alive` field.
    pub(crate) fn insert(
        &self,
        instance: &Arc<Instance>,
        connection: Connection,
        engine: KeepAlive,
    ) {
        let id = &*instance.id;
        let worn_out = is_worn_out(&connection, instance)
            || engine.max.is_some_and(|most| u64::from(connection.requests) >= most);
        if worn_out || instance.retired().is_some() {
            debug!(instance = id, "connection not kept: worn out, or its instance is retired");
            return;
        }
        // An engine's limit is shortened by the time that a request may need to arrive.
        let allowed = engine
            .timeout
            .map_or(Duration::MAX, |time| time.saturating_sub(Duration::from_secs(1)));
        let limit = instance.idle_timeout.min(allowed);
        let idle = &mut self.idle.borrow_mut();
        let (_, connections) =
            idle.entry(instance.serial).or_insert_with(|| (Arc::clone(instance), Vec::new()));
        if connections.len() < self.per_instance && !limit.is_zero() {
            debug!(instance = id, limit_ms = limit.as_millis() as u64, "connection kept");
            connections.push(Idle { connection, since: Instant::now(), limit });
        } else {
            debug!(
                instance = id,
                "connection not kept: the pool is full, or the engine gives no time"
            );
        }
    }

    /// Closes the connection that was used longest ago, for its descriptor; false: there is none.
    pub(crate) fn close_oldest(&self) -> bool {
        let idle = &mut self.idle.borrow_mut();
        let lists = idle.values_mut().map(|(_, connections)| connections);
        let oldest = lists
            .filter(|connections| !connections.is_empty())
            .min_by_key(|connections| connections.first().map(|idle| idle.since));
        oldest.is_some_and(|connections| {
            connections.remove(0);
            true
        })
    }

    /// Closes connections that are too old, and all to retired instances.
    pub(crate) fn sweep(&self) {
        self.idle.borrow_mut().retain(|_, (instance, connections)| {
            connections.retain(|idle| idle.since.elapsed() < idle.limit);
            instance.retired().is_none() && !connections.is_empty()
        });
    }
}

/// Whether it has carried as many requests as the instance takes on one connection.
fn is_worn_out(connection: &Connection, instance: &Instance) -> bool {
    let most = instance.requests_per_connection;
    most != 0 && connection.requests >= most
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use sans_io::{table::Table, test_support};

    use super::*;
    use crate::{
        bounded::bounded,
        upstream::connection::tests::{instance, listen},
    };

    #[tokio::test]
    async fn the_connection_that_idles_longest_is_given_up_first() {
        let (listener, path) = listen("oldest");
        let instance = instance(&path, Duration::from_secs(60), 0);
        let pool = Pool::new(4);
        let mut engines = Vec::new();
        for _ in 0..2 {
            let connection = Connection::open(&instance, None, &Rc::default()).await.unwrap();
            engines.push(listener.accept().await.unwrap().0);
            pool.insert(&instance, connection, KeepAlive::default());
        }
        assert!(pool.close_oldest());
        let end = bounded(tokio::io::AsyncReadExt::read(&mut engines[0], &mut [0])).await;
        assert_eq!(end.unwrap(), 0, "the first one was closed");
        assert!(pool.take(&instance).is_some(), "the second one is there");
        assert!(!pool.close_oldest());
        let _ = std::fs::remove_file(path);
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_quiet_young_connection_is_used_again() {
        let (listener, path) = listen("quiet");
        let instance = instance(&path, Duration::from_millis(200), 3);
        let pool = Pool::new(4);
        let opened = async || {
            let connection = Connection::open(&instance, None, &Rc::default()).await.unwrap();
            (connection, listener.accept().await.unwrap().0)
        };

        let (connection, _engine) = opened().await;
        pool.insert(&instance, connection, KeepAlive::default());
        let again = pool.take(&instance).unwrap();
        assert!(again.is_reused());
        pool.insert(&instance, again, KeepAlive::default());
        let third = pool.take(&instance).unwrap();
        pool.insert(&instance, third, KeepAlive::default());
        assert!(pool.take(&instance).is_none(), "worn out after three requests");

        let (connection, mut engine) = opened().await;
        pool.insert(&instance, connection, KeepAlive::default());
        engine.write_all(b"late").await.unwrap();
        assert!(pool.take(&instance).is_none(), "bytes behind the end of a response poison it");

        let (connection, engine) = opened().await;
        pool.insert(&instance, connection, KeepAlive::default());
        drop(engine);
        assert!(pool.take(&instance).is_none(), "the engine closed it");

        let (connection, _engine) = opened().await;
        pool.insert(&instance, connection, KeepAlive::default());
        tokio::time::sleep(Duration::from_millis(250)).await;
        assert!(pool.take(&instance).is_none(), "too old");

        let (connection, _engine) = opened().await;
        pool.insert(
            &instance,
            connection,
            KeepAlive { timeout: Some(Duration::from_secs(1)), max: None },
        );
        assert!(pool.take(&instance).is_none(), "the engine's own limit leaves no time");

        let (connection, _engine) = opened().await;
        pool.insert(&instance, connection, KeepAlive { timeout: None, max: Some(1) });
        assert!(pool.take(&instance).is_none(), "the engine takes no second request on it");
        let _ = std::fs::remove_file(path);
    }

    #[tokio::test]
    async fn a_limit_that_was_lowered_holds_for_connections_from_before() {
        let (listener, path) = listen("lowered");
        let address = format!("unix:{}", path.display());
        let published = |before: &Table, idle_timeout: f64, requests: u32| {
            let mut entry = test_support::instance("a", &address);
            entry["idle_timeout"] = idle_timeout.into();
            entry["requests_per_connection"] = requests.into();
            let model = test_support::model("m", "m", vec![entry]);
            let document = test_support::table(vec![model], vec![]);
            before.replaced_by(test_support::read(document)).unwrap().0
        };
        let instance = |table: &Table| Arc::clone(&table.models[0].instances[0]);
        let generous = published(&Table::default(), 60.0, 0);
        let pool = Pool::new(4);
        let keep = async |times| {
            for _ in 0..times {
                let opened =
                    Connection::open(&instance(&generous), None, &Rc::default()).await.unwrap();
                pool.insert(&instance(&generous), opened, KeepAlive::default());
            }
        };
        keep(1).await;
        assert!(pool.take(&instance(&published(&generous, 30.0, 0))).is_some());
        keep(1).await;
        assert!(pool.take(&instance(&published(&generous, 0.0, 0))).is_none());
        keep(2).await;
        assert!(
            pool.take(&instance(&published(&generous, 60.0, 1))).is_none(),
            "both are worn out"
        );
        assert!(pool.take(&instance(&generous)).is_none());
        let _ = (std::fs::remove_file(path), listener);
    }
}
