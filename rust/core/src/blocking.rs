//! The threads for work that would hold up a worker: files, and the translation of large bodies.
//!
//! One small pool for all workers. Names of engines are looked up on threads of each worker's own
//! runtime, so that no lookup waits behind a translation.

use std::io;

use tokio::{
    runtime::{Builder, Runtime},
    task::JoinHandle,
};

use crate::telemetry::WORKER_THREAD;

/// The most threads. They end when they have had nothing to do for some seconds.
const THREADS: usize = 8;

/// The pool. Work that still runs when it is dropped is not waited for.
#[derive(Debug)]
pub(crate) struct BlockingPool(Option<Runtime>);

impl BlockingPool {
    /// A pool without threads; each starts when it is needed. Fails where the system has no room.
    pub(crate) fn new() -> io::Result<Self> {
        // Nothing is ever polled on this runtime: tokio has no pool without one.
        let runtime = Builder::new_current_thread()
            .max_blocking_threads(THREADS)
            .thread_name(format!("{WORKER_THREAD}blocking"))
            .build()?;
        Ok(Self(Some(runtime)))
    }

    /// Runs `work` on a thread of the pool; it waits while all are busy.
    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        match &self.0 {
            Some(runtime) => runtime.spawn_blocking(work),
            // Only while it is dropped, when nobody can call this.
            None => tokio::task::spawn_blocking(work),
        }
    }
}

impl Drop for BlockingPool {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    };

    use super::*;

    #[tokio::test]
    async fn the_pool_stays_small_however_much_work_there_is() {
        let pool = BlockingPool::new().unwrap();
        let running = Arc::new(AtomicUsize::new(0));
        let (most, all) = (Arc::new(AtomicUsize::new(0)), THREADS * 4);
        let (reached, full) = mpsc::channel();
        let work: Vec<_> = (0..all)
            .map(|_| {
                let (running, most, reached) = (running.clone(), most.clone(), reached.clone());
                pool.spawn(move || {
                    most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    reached.send(()).unwrap();
                    std::thread::sleep(std::time::Duration::from_millis(5));
                    running.fetch_sub(1, Ordering::SeqCst);
                })
            })
            .collect();
        for done in work {
            done.await.unwrap();
        }
        assert_eq!(full.try_iter().count(), all);
        assert!(most.load(Ordering::SeqCst) <= THREADS);
    }
}
