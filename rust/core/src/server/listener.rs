//! Workers: each accepts clients on the shared sockets and serves them on one thread, until the
//! drain.

use std::{
    cell::RefCell,
    future::Future,
    io,
    net::SocketAddr,
    os::fd::OwnedFd,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use rustix::io::Errno;
use socket2::SockRef;
use tokio::{
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    runtime::{LocalOptions, LocalRuntime},
    task::JoinSet,
};
use tracing::{debug, error, info, warn};

use crate::{
    client::tls::Tls,
    failure::is_shortage,
    server::connection,
    shared::{DrainLimits, Shared, UNIX_PEER, WorkerGuard},
    tcp,
    telemetry::WORKER_THREAD,
    worker::Worker,
};
use sans_io::seam::Event;

/// The time between two sweeps of idle connections and lingering slots.
const SWEEP: Duration = Duration::from_millis(250);
/// The time in which those who are cut at the end of a drain are told so.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// The time between a panic and the next try.
const PAUSE: Duration = Duration::from_millis(100);

/// Bytes beyond those on their way to a client that its socket takes, so that a client which reads
/// slowly is seen to read, and one that does not holds little memory of the system's.
const UNSENT: u32 = 64 * 1024;
/// The time between two looks for a place.
const MOMENT: Duration = Duration::from_millis(2);
/// Turns of a worker's other tasks before another connection is accepted, at most.
const TURNS: usize = 4;

/// The most names of engines that one worker looks up at once.
const LOOKUPS: usize = 4;

/// A listening socket that no worker has yet.
#[derive(Debug)]
pub(crate) enum Listener {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener),
}

impl Listener {
    /// Takes a bound, listening TCP or Unix stream socket. Fails for one that does not listen.
    pub(crate) fn new(socket: OwnedFd) -> io::Result<Self> {
        let address = rustix::net::getsockname(&socket)?;
        if !rustix::net::sockopt::socket_acceptconn(&socket)? {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the socket does not listen"));
        }
        rustix::io::ioctl_fionbio(&socket, true)?;
        Ok(if std::net::SocketAddr::try_from(address).is_ok() {
            Self::Tcp(socket.into())
        } else {
            Self::Unix(socket.into())
        })
    }

    /// `IP:PORT` or `unix:PATH`.
    pub(crate) fn address(&self) -> String {
        match self {
            Self::Tcp(listener) => {
                listener.local_addr().map_or_else(|_| String::new(), |address| address.to_string())
            }
            Self::Unix(listener) => {
                let address = listener.local_addr().ok();
                let path = address.as_ref().and_then(|address| address.as_pathname());
                format!(
                    "unix:{}",
                    path.map(std::path::Path::display)
                        .map_or_else(String::new, |path| path.to_string())
                )
            }
        }
    }

    /// The socket under another descriptor.
    fn duplicate(&self) -> io::Result<Self> {
        Ok(match self {
            Self::Tcp(listener) => Self::Tcp(listener.try_clone()?),
            Self::Unix(listener) => Self::Unix(listener.try_clone()?),
        })
    }
}

/// Starts the workers' threads, which end with the drain. Fails where the system has no room for a
/// thread or its descriptors; those that have begun then end at once.
pub(crate) fn spawn_workers(
    shared: &Arc<Shared>,
    listeners: &[Listener],
    workers: usize,
) -> io::Result<()> {
    // Counts as one of them, so that nobody takes the first that ends for the last.
    let _starting = WorkerGuard::new(shared);
    let all_connections = Arc::default();
    (0..workers)
        .try_for_each(|number| spawn_worker(shared, listeners, &all_connections, number, workers))
        .inspect_err(|_| shared.drain_until(DrainLimits::at_once()))
}

/// Starts one worker's thread.
fn spawn_worker(
    shared: &Arc<Shared>,
    listeners: &[Listener],
    all_connections: &Arc<AtomicUsize>,
    number: usize,
    workers: usize,
) -> io::Result<()> {
    let listeners = listeners.iter().map(Listener::duplicate).collect::<io::Result<Vec<_>>>()?;
    let (shared, all_connections) = (Arc::clone(shared), Arc::clone(all_connections));
    let counted = WorkerGuard::new(&shared);
    let (report, started) = std::sync::mpsc::channel();
    std::thread::Builder::new().name(format!("{WORKER_THREAD}{number}")).spawn(move || {
        let _counted = counted;
        // A local runtime belongs to the thread that makes it.
        let mut built = match runtime() {
            Ok(runtime) => Some(runtime),
            Err(error) => return drop(report.send(Err(error))),
        };
        let _ = report.send(Ok(()));
        let listeners = Rc::new(RefCell::new(listeners));
        debug!(number, "worker begins");
        until_drained(&shared, || {
            let runtime = built.take().map_or_else(runtime, Ok)?;
            let worker = Rc::new(Worker::new(&shared, &all_connections, workers));
            let serving = AssertUnwindSafe(|| runtime.block_on(run(worker, &listeners)));
            let served = catch_unwind(serving);
            // This drops the requests that still run, each of which leaves its record. A name that
            // is being resolved on a thread of the runtime is not waited for.
            runtime.shutdown_background();
            served.map_err(|_| io::Error::other("a panic outside of a request"))
        });
        debug!(number, "worker ends");
    })?;
    started.recv().map_err(io::Error::other)?
}

/// A worker's runtime. Fails without descriptors.
fn runtime() -> io::Result<LocalRuntime> {
    tokio::runtime::Builder::new_current_thread()
        // Its other threads' panics are logged as the workers' are.
        .thread_name(format!("{WORKER_THREAD}blocking"))
        .enable_all()
        .max_blocking_threads(LOOKUPS)
        .build_local(LocalOptions::default())
}

/// Serves until the drain has ended, again after whatever ends it before.
fn until_drained(shared: &Shared, mut serve: impl FnMut() -> io::Result<()>) {
    let mut told = false;
    while let Err(error) = serve()
        && !shared.is_draining()
    {
        if !std::mem::replace(&mut told, true) {
            error!(%error, "a worker has lost its requests and begins anew");
        }
        std::thread::sleep(PAUSE);
    }
}

/// Serves clients until the drain has ended. `listeners` are closed when it begins.
async fn run(worker: Rc<Worker>, listeners: &Rc<RefCell<Vec<Listener>>>) {
    let sweeping = Rc::clone(&worker);
    let sweeper = tokio::task::spawn_local(keep(move || sweep(Rc::clone(&sweeping))));
    let count = listeners.borrow().len();
    let acceptors: Vec<_> = (0..count)
        .map(|number| {
            let (worker, listeners) = (Rc::clone(&worker), Rc::clone(listeners));
            let accept = move || accept(Rc::clone(&worker), Rc::clone(&listeners), number);
            tokio::task::spawn_local(keep(accept))
        })
        .collect();
    loop {
        let changed = worker.shared.drain_changed.notified();
        let mut changed = pin!(changed);
        // Registered before the phase is read, so that no change is missed.
        changed.as_mut().enable();
        let Some(deadline) = worker.shared.deadline() else {
            changed.await;
            continue;
        };
        for acceptor in &acceptors {
            acceptor.abort();
        }
        listeners.borrow_mut().clear();
        if until_idle(&worker, deadline.into(), changed).await {
            break;
        }
    }
    sweeper.abort();
}

/// Does a part of a worker's work, again after a panic, which would else end it in silence.
async fn keep<F: Future<Output = ()> + 'static>(mut work: impl FnMut() -> F) {
    loop {
        // Dropped with this future, it ends what is in it.
        let mut one = JoinSet::new();
        one.spawn_local(work());
        if let None | Some(Ok(())) = one.join_next().await {
            return;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Waits for the end of the drain: true when no connection is left or the deadline has passed, and
/// those who were cut have been told;
/// false when the deadline was changed.
async fn until_idle(
    worker: &Worker,
    deadline: tokio::time::Instant,
    changed: impl Future<Output = ()>,
) -> bool {
    let mut changed = pin!(changed);
    let mut changed_early = false;
    while worker.connections() > 0 && tokio::time::Instant::now() < deadline && !changed_early {
        let pause = deadline.min(tokio::time::Instant::now() + Duration::from_millis(10));
        changed_early = tokio::time::timeout_at(pause, changed.as_mut()).await.is_ok();
    }
    if changed_early {
        return false;
    }
    if worker.connections() > 0 {
        worker.shared.begin_cutting();
        worker.sleepers.cut();
        let until = tokio::time::Instant::now() + LAST_WORDS;
        while worker.connections() > 0 && tokio::time::Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    true
}

/// Sweeps idle connections and lingering slots, wakes what a revocation ends, and checks the certificate, for ever.
async fn sweep(worker: Rc<Worker>) {
    loop {
        tokio::time::sleep(SWEEP).await;
        worker.pool.sweep();
        worker.lingering.sweep();
        worker.sleepers.wake_after(worker.shared.revocations.load(Ordering::Acquire));
        check_certificate(&worker.shared);
    }
}

/// Takes up a renewed certificate, on a thread of its own, since files may be slow.
fn check_certificate(shared: &Arc<Shared>) {
    if shared.tls.as_ref().is_some_and(|tls| tls.is_check_due(shared.clock())) {
        let shared = Arc::clone(shared);
        let blocking = Arc::clone(&shared.blocking);
        drop(blocking.spawn(move || match shared.tls.as_ref().map(Tls::refresh) {
            Some(Ok(true)) => drop(shared.records.event(Event::CertificateRenewed)),
            Some(Err(error)) => {
                shared.records.event(Event::CertificateRefused { reason: error.to_string() });
            }
            Some(Ok(false)) | None => {}
        }));
    }
}

/// Accepts on one of the sockets, which all workers share with its one queue of clients, until the
/// drain begins.
async fn accept(worker: Rc<Worker>, listeners: Rc<RefCell<Vec<Listener>>>, number: usize) {
    let mut failing = Failing::default();
    loop {
        let listener = listeners.borrow().get(number).map(Listener::duplicate);
        let served = match listener {
            None => return,
            Some(Err(error)) => Err(error),
            Some(Ok(Listener::Tcp(listener))) => match TcpListener::from_std(listener) {
                Ok(listener) => accept_tcp(Rc::clone(&worker), listener).await,
                Err(error) => Err(error),
            },
            Some(Ok(Listener::Unix(listener))) => match UnixListener::from_std(listener) {
                Ok(listener) => accept_unix(Rc::clone(&worker), listener).await,
                Err(error) => Err(error),
            },
        };
        if let Err(error) = served {
            failing.pause(&error, &worker).await;
        }
    }
}

/// Accepts TCP clients for ever.
async fn accept_tcp(worker: Rc<Worker>, listener: TcpListener) -> io::Result<()> {
    let mut failing = Failing::default();
    loop {
        give_way(&worker).await;
        match listener.accept().await {
            Ok((stream, peer)) => {
                failing.accepted();
                let begin = move |worker| begin_tcp(worker, stream, peer);
                begin_in_turn(&worker, begin).await;
            }
            Err(error) => failing.pause(&error, &worker).await,
        }
    }
}

/// Accepts clients of a Unix socket for ever.
async fn accept_unix(worker: Rc<Worker>, listener: UnixListener) -> io::Result<()> {
    let mut failing = Failing::default();
    loop {
        give_way(&worker).await;
        match UnixListener::accept(&listener).await {
            Ok((stream, _)) => {
                failing.accepted();
                let begin = move |worker| begin_unix(worker, stream);
                begin_in_turn(&worker, begin).await;
            }
            Err(error) => failing.pause(&error, &worker).await,
        }
    }
}

/// Begins to serve a TCP client that was accepted.
fn begin_tcp(worker: Rc<Worker>, stream: TcpStream, peer: SocketAddr) {
    let Some(admitted) = worker.admit(Some(peer.ip())) else { return };
    debug!(%peer, "client accepted");
    let _ = TcpStream::set_nodelay(&stream, true);
    // Without it the limit for what a client does not take is the system's own.
    let _ = SockRef::from(&stream).set_tcp_notsent_lowat(UNSENT);
    tcp::notice_vanishing(&stream, peer.ip(), &worker.shared.timeouts());
    tokio::task::spawn_local(connection::serve_tcp(worker, stream, peer, admitted));
}

/// Begins to serve a Unix socket's client that was accepted.
fn begin_unix(worker: Rc<Worker>, stream: UnixStream) {
    let Some(admitted) = worker.admit(None) else { return };
    debug!(peer = UNIX_PEER, "client accepted");
    tokio::task::spawn_local(connection::serve_unix(worker, stream, admitted));
}

/// Lets other workers accept first, where this one has well more connections than the mean; and
/// lets connections that were evicted end, and new ones be read, before more are accepted.
async fn give_way(worker: &Worker) {
    if worker.is_crowded() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    for _ in 0..TURNS {
        if !worker.is_overfull() {
            break;
        }
        tokio::task::yield_now().await;
    }
}

/// Lets a client that was accepted wait until one of those that are new has had its time, and begins
/// to serve it. Those behind it wait in the system's queue. A drain, which ends the acceptor, does
/// not end the wait: nobody else has that client.
async fn begin_in_turn(worker: &Rc<Worker>, begin: impl FnOnce(Rc<Worker>) + 'static) {
    let worker = Rc::clone(worker);
    if !worker.awaits_place() {
        return begin(worker);
    }
    let waiting = tokio::task::spawn_local(async move {
        while worker.awaits_place() {
            tokio::time::sleep(MOMENT).await;
        }
        begin(worker);
    });
    let _ = waiting.await;
}

/// Whether a log line has said that a listener cannot accept, and none that it can again. Clients
/// that take all descriptors can make it so, and otherwise, fifty times a second.
#[derive(Default)]
struct Failing(bool);

impl Failing {
    /// Waits after an error. Without descriptors or memory nothing helps but to close the connection
    /// that waits longest; a client that left before it was accepted is no error.
    async fn pause(&mut self, error: &io::Error, worker: &Worker) {
        use io::ErrorKind::{ConnectionAborted, ConnectionReset};
        if matches!(error.kind(), ConnectionAborted | ConnectionReset) {
            return;
        }
        worker.shared.metrics.accept_failures.fetch_add(1, Ordering::Relaxed);
        if let Some(since_last_line) = worker.shared.turns.accept.turn() {
            self.0 = true;
            warn!(%error, since_last_line, "clients cannot be accepted; retrying");
        }
        if Errno::from_io_error(error).is_some_and(is_shortage) {
            let _ = worker.evict(&worker.places) || worker.pool.close_oldest();
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    /// Notes that a client was accepted, where a line has said that none could be.
    fn accepted(&mut self) {
        if std::mem::take(&mut self.0) {
            info!("clients are accepted again");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use sans_io::test_support;

    #[test]
    fn a_worker_that_fails_begins_anew_until_the_drain() {
        let config = test_support::config().to_string();
        let plane = crate::DataPlane::new(config.as_bytes(), vec![]).unwrap();
        let shared = plane.shared();
        let mut begun = 0;
        until_drained(shared, || {
            begun += 1;
            if begun == 3 {
                shared.drain_until(DrainLimits::at_once());
            }
            Err(io::Error::other("a mistake"))
        });
        assert_eq!(begun, 3);
    }

    #[tokio::test(flavor = "local")]
    async fn work_that_panics_is_done_again_until_it_ends() {
        let begun = Rc::new(Cell::new(0));
        let counting = Rc::clone(&begun);
        keep(move || {
            let begun = Rc::clone(&counting);
            async move {
                begun.set(begun.get() + 1);
                assert!(begun.get() > 2, "a mistake");
            }
        })
        .await;
        assert_eq!(begun.get(), 3);
    }
}
