//! The threads for work that would hold up a worker: files, and the translation of large bodies.
//!
//! One small pool for all workers. Work that waits for a thread holds what it was given, so whoever
//! gives it much gives it the `budget::Share` of that, too: the sum of those bounds
//! the queue. Work that nobody waits for any more is not begun. Names of engines are looked up on
//! threads of each worker's own runtime, so that no lookup waits behind a translation.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

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

    /// Runs `work` on a thread of the pool, whoever waits for it; it waits while all are busy.
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

    /// As `spawn`, for one request: work that has not begun when the job is dropped never does, and
    /// what it holds is freed then.
    pub(crate) fn run<T, W>(&self, work: W) -> Job<T>
    where
        T: Send + 'static,
        W: FnOnce() -> T + Send + 'static,
    {
        let waiting = Arc::new(Mutex::new(Some(work)));
        let taken = Arc::clone(&waiting);
        let handle = self.spawn(move || take(&taken).map(|work| work()));
        Job { handle, waiting }
    }
}

/// Work of one request on the pool. A job that is dropped while it runs goes on to its end.
pub(crate) struct Job<T> {
    handle: JoinHandle<Option<T>>,
    waiting: Arc<dyn Waiting>,
}

/// The job has panicked, or the pool has ended.
#[derive(Debug, thiserror::Error)]
#[error("the work ended before it was done")]
pub(crate) struct Unfinished;

impl<T> Future for Job<T> {
    type Output = Result<T, Unfinished>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let done = ready!(Pin::new(&mut self.handle).poll(context));
        Poll::Ready(done.ok().flatten().ok_or(Unfinished))
    }
}

impl<T> Drop for Job<T> {
    fn drop(&mut self) {
        self.waiting.discard();
    }
}

impl<T> std::fmt::Debug for Job<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Job").finish_non_exhaustive()
    }
}

/// Work that may not have begun.
trait Waiting: Send + Sync {
    /// Drops it, if it has not.
    fn discard(&self);
}

impl<W: Send> Waiting for Mutex<Option<W>> {
    fn discard(&self) {
        drop(take(self));
    }
}

/// Takes work from its place, to do it or to drop it; None: it was taken.
fn take<W>(place: &Mutex<Option<W>>) -> Option<W> {
    // The lock is held for a move alone, so that nothing panics under it.
    place.lock().unwrap_or_else(PoisonError::into_inner).take()
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

    #[tokio::test]
    async fn work_that_nobody_waits_for_is_not_begun_and_frees_what_it_holds() {
        let pool = BlockingPool::new().unwrap();
        let (release, blocked) = mpsc::channel::<()>();
        let blocked = Arc::new(std::sync::Mutex::new(blocked));
        let busy: Vec<_> = (0..THREADS)
            .map(|_| {
                let blocked = Arc::clone(&blocked);
                pool.run(move || blocked.lock().unwrap().recv().is_ok())
            })
            .collect();
        let held = Arc::new(());
        let (given, ran) = (Arc::clone(&held), Arc::new(AtomicUsize::new(0)));
        let count = Arc::clone(&ran);
        let job = pool.run(move || {
            count.fetch_add(1, Ordering::SeqCst);
            drop(given);
        });
        assert_eq!(Arc::strong_count(&held), 2);
        drop(job);
        assert_eq!(Arc::strong_count(&held), 1, "freed before a thread is");
        for _ in 0..THREADS {
            release.send(()).unwrap();
        }
        for done in busy {
            assert!(done.await.unwrap());
        }
        pool.run(|| ()).await.unwrap();
        assert_eq!(ran.load(Ordering::SeqCst), 0);
        assert!(pool.run(|| panic!("on purpose")).await.is_err());
    }
}
