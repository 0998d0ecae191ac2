//! HTTP/2 toward clients: each stream is a task of its own beside its connection's, on the same
//! thread.

use std::{
    cell::{Cell, RefCell},
    future::{Future, poll_fn},
    pin::pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::Request;
use hyper::{body::Incoming, rt::Executor, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::time::Instant;

use crate::{
    budget::{NoRoom, RoomWait},
    client::{
        io::{ClientIo, ClientStream, ClientWatch},
        places::{Place, Wait},
        tunnel::Tunnel,
    },
    server::{
        crowd::Crowds,
        graceful::{UNBEGUN, until_served},
        middleware,
        receive_progress::{Awaited, AwaitedBody},
        send_progress::{Measured, MeasuredIo, Socket, Unsent},
    },
    timer::{PhaseTimer, SendTimer},
    worker::Worker,
};

/// The first bytes of a client that speaks HTTP/2 without an agreement by TLS (RFC 9113 3.4).
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Requests that one connection may have in flight.
const STREAMS: u32 = 128;
/// Bytes of one request's body that may wait to be read.
const STREAM_WINDOW: u32 = 512 * 1024;
/// Bytes of all bodies of a connection that may wait to be read. There is room for several, so that
/// a few bodies whose engines do not read hold up no others.
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
/// Bytes of one response that wait for a slow client, beside the piece that is being sent.
const SEND_BUFFER: usize = 64 * 1024;
/// The longest head of a request, decoded, in bytes.
const HEAD: u32 = 64 * 1024;
/// The time between two pings, which find clients that do nothing any more.
const PING: Duration = Duration::from_secs(30);
/// The time in which a client must acknowledge a ping. It comes behind all that waits in its socket,
/// which one that reads slowly has before it. (A machine that vanishes is noticed by TCP.)
const PONG: Duration = Duration::from_secs(300);

/// Serves a connection to its end. hyper's own limits apply to streams that are reset before they
/// are served (20), to stream errors of ours (1024), and to continuations of a head. The error is
/// the client's, also that it takes nothing for longer than `timeouts.send` though its socket has
/// something for it.
pub(super) async fn serve<T: ClientStream + 'static>(
    worker: Rc<Worker>,
    io: ClientIo<T>,
    peer: Rc<str>,
    place: Rc<Place>,
) -> Result<(), ClientFault> {
    let shared = Arc::clone(&worker.shared);
    let timeouts = shared.timeouts();
    let left = io.unread_while_open();
    let (io, socket) = MeasuredIo::new(io, left);
    let streams = Streams::new(&worker, place, &socket, timeouts.send);
    let beginning = streams.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let (worker, peer) = (Rc::clone(&worker), Rc::clone(&peer));
        let (unsent, awaited) = beginning.next_progress();
        let request = request.map(|inner| AwaitedBody { inner, awaited });
        let watch = StreamWatch { running: beginning.clone(), unsent: unsent.clone() };
        let inner = middleware::wrap(worker, peer, request, watch);
        Measured { inner, unsent }
    });
    let mut builder = http2::Builder::new(streams.clone());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .max_header_list_size(HEAD)
        .keep_alive_interval(PING)
        .keep_alive_timeout(PONG);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(io), service));
    let (mut timer, mut send_timer) = (PhaseTimer::default(), SendTimer::default());
    let mut ending = None;
    until_served(&shared, |context, end| {
        if end {
            ending = Some(Instant::now());
            connection.as_mut().graceful_shutdown();
        }
        let served = connection.as_mut().poll(context).map_err(|_| ClientFault);
        let is_blocked = socket.since().is_some();
        if served.is_pending() && streams.0.crowds.poll_left(context, is_blocked).is_err() {
            return (Poll::Ready(Err(ClientFault)), false);
        }
        let (unread, limit) = streams.waits_since(ending, shared.is_draining());
        let taken = || Some(socket.taken());
        if let (true, Some(since)) = (served.is_pending(), unread)
            && send_timer.poll(context, since, limit, taken).is_ready()
        {
            return (Poll::Ready(Err(ClientFault)), false);
        }
        // Without a request for longer than the limit for the next one's head, the connection ends,
        // as one of HTTP/1.1 does.
        let idle = streams
            .idle_since()
            .is_some_and(|since| timer.poll(context, since, timeouts.head).is_ready());
        (served, idle)
    })
    .await
}

/// A connection ended by a fault of its client.
#[derive(Debug)]
pub(super) struct ClientFault;

/// Runs the streams of a connection as tasks of its thread, and counts them. A stream whose client
/// takes nothing for too long, or takes nothing while its key is revoked, is reset, by dropping it.
#[derive(Clone)]
struct Streams(Rc<Running>);

/// The running streams of a connection.
struct Running {
    count: Cell<usize>,
    /// The time when the last one ended, or of the connection's begin.
    since: Cell<Instant>,
    /// Of these, those that wait for their client,
    waiting: Cell<usize>,
    /// and those of them whose response it does not take, with what others have left behind.
    crowds: Rc<Crowds>,
    /// A request has had a good key, which makes the place worth more.
    trusted: Cell<bool>,
    socket: Rc<Socket>,
    place: Rc<Place>,
    /// Of the stream that is executed next. hyper calls the service for a request, and then executes
    /// what it has made of that at once.
    next: RefCell<Option<(Unsent, Awaited)>>,
    /// The longest time in which a client may take nothing; None: no limit.
    send_limit: Option<Duration>,
}

impl Streams {
    /// `send_limit`: the longest time in which a client may take nothing; None: no limit.
    fn new(
        worker: &Rc<Worker>,
        place: Rc<Place>,
        socket: &Rc<Socket>,
        send_limit: Option<Duration>,
    ) -> Self {
        place.waits(Wait::Stranger);
        Self(Rc::new(Running {
            count: Cell::new(0),
            waiting: Cell::new(0),
            crowds: Crowds::new(worker),
            trusted: Cell::default(),
            since: Cell::new(Instant::now()),
            socket: Rc::clone(socket),
            place,
            next: RefCell::default(),
            send_limit,
        }))
    }

    /// Where the stream that is executed next notes what is unread, and that its body is waited for.
    fn next_progress(&self) -> (Unsent, Awaited) {
        let progress = (Unsent::new(&self.0.crowds, &self.0.socket), Awaited::default());
        *self.0.next.borrow_mut() = Some(progress.clone());
        progress
    }

    /// The time since which the connection waits for its client to take something, and how long it
    /// may; None: it does not wait. `ending`: since when it is to end.
    fn waits_since(
        &self,
        ending: Option<Instant>,
        is_draining: bool,
    ) -> (Option<Instant>, Option<Duration>) {
        let limit = self.0.send_limit;
        // Pieces that have left our bodies may still lie in front of a window that does not open.
        // Once the connection is to end, they hold it up no longer than that. The drain waits for
        // its client less long: half a head is no request.
        let ended = ending.and_then(|ending| Some(ending.max(self.idle_since()?)));
        match ended {
            Some(_) if is_draining => {
                (ended, Some(limit.map_or(UNBEGUN, |limit| limit.min(UNBEGUN))))
            }
            _ => (self.0.socket.since().or(ended), limit),
        }
    }

    /// The time since which no stream has run; None: one runs.
    fn idle_since(&self) -> Option<Instant> {
        (self.0.count.get() == 0).then(|| self.0.since.get())
    }
}

/// A request's view of its stream.
#[derive(Clone)]
pub(crate) struct StreamWatch {
    running: Streams,
    unsent: Unsent,
}

/// `RST_STREAM` drops the request's future or body by itself.
impl ClientWatch for StreamWatch {
    fn poll_left(&self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }

    fn close_after_response(&self) {}

    fn set_trusted(&self) {
        self.unsent.set_keyed();
        let Running { trusted, place, .. } = &*self.running.0;
        trusted.set(true);
        place.works();
    }

    fn tunnel(&self, _: Tunnel) -> bool {
        false
    }
}

impl<F: Future<Output = ()> + 'static> Executor<F> for Streams {
    fn execute(&self, stream: F) {
        let mut running = Stream::begin(&self.0);
        let (progress, limit) = (self.0.next.take(), self.0.send_limit);
        tokio::task::spawn_local(async move {
            let (mut stream, mut timer) = (pin!(stream), SendTimer::default());
            poll_fn(|context| {
                let unsent = progress.as_ref().map(|(unsent, _)| unsent);
                if stream.as_mut().poll(context).is_ready() {
                    unsent.inspect(|unsent| unsent.leave_behind());
                    return Poll::Ready(());
                }
                if unsent.is_some_and(|unsent| unsent.poll_ended_early(context).is_ready()) {
                    return Poll::Ready(());
                }
                let since = unsent.and_then(Unsent::since);
                let awaits_body = progress.as_ref().is_some_and(|(_, awaited)| awaited.get());
                running.note(since, awaits_body, unsent.is_some_and(Unsent::is_keyed));
                if since.is_some() && running.poll_room(context).is_err() {
                    return Poll::Ready(());
                }
                let taken = || unsent.map(Unsent::taken);
                since.map_or(Poll::Pending, |since| timer.poll(context, since, limit, taken))
            })
            .await;
            drop(running);
        });
    }
}

impl Running {
    /// Notes what the connection's place is worth.
    fn tell_place(&self) {
        let (running, waiting) = (self.count.get(), self.waiting.get());
        match (self.trusted.get(), running) {
            (_, 1..) if waiting < running => self.place.works(),
            (true, 0) => self.place.waits(Wait::Idle),
            (true, _) if !self.crowds.has_unread() => self.place.waits(Wait::Unserved),
            (true, _) => self.place.waits(Wait::Stalled),
            (false, _) => self.place.waits(Wait::Stranger),
        }
    }
}

/// One running stream.
struct Stream {
    running: Rc<Running>,
    /// Since when its client takes nothing; None: there is nothing for it.
    unread: Option<Instant>,
    /// Its caller has a good key, as far as was known when it began to be unread.
    keyed: bool,
    /// It waits for its client.
    waits: bool,
    /// The wait for memory, while it is unread.
    room: RoomWait,
}

impl Stream {
    fn begin(running: &Rc<Running>) -> Self {
        running.count.set(running.count.get() + 1);
        running.tell_place();
        let room = RoomWait::default();
        Self { running: Rc::clone(running), unread: None, keyed: false, waits: false, room }
    }

    /// Notes since when its client takes nothing (None: there is nothing for it), and whether the
    /// body is waited for. `keyed`: its caller has a good key.
    fn note(&mut self, unread: Option<Instant>, awaits_body: bool, keyed: bool) {
        let before = std::mem::replace(&mut self.unread, unread);
        if before != unread {
            self.running.place.works();
        }
        let waits = unread.is_some() || awaits_body;
        let crowds = &self.running.crowds;
        match (before, unread) {
            (None, Some(_)) => {
                self.keyed = keyed;
                crowds.enter(keyed);
            }
            (Some(_), None) => crowds.leave(self.keyed),
            _ => {}
        }
        let waited = std::mem::replace(&mut self.waits, waits);
        if waited && !waits {
            self.running.place.comes_on();
        }
        count(&self.running.waiting, waited, waits);
        self.running.tell_place();
    }

    /// Takes memory for the connection's responses that are not taken, of which this is one. Fails
    /// where there was none for a while.
    fn poll_room(&mut self, context: &mut Context<'_>) -> Result<(), NoRoom> {
        self.running.crowds.poll_room(context, self.keyed, &mut self.room)
    }
}

/// Counts one of which something is now so.
fn count(counter: &Cell<usize>, was: bool, is: bool) {
    counter.set(counter.get() + usize::from(is) - usize::from(was));
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.running.count.set(self.running.count.get() - 1);
        self.running.since.set(Instant::now());
        self.note(None, false, self.keyed);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::Response;
    use sans_io::test_support;
    use serde_json::json;
    use tokio::task::LocalSet;

    use super::*;
    use crate::{bounded::bounded, request::body::ResponseBody};

    /// Runs the client's side as tasks of this thread.
    #[derive(Clone)]
    struct Tasks;

    impl<F: Future<Output = ()> + 'static> Executor<F> for Tasks {
        fn execute(&self, task: F) {
            tokio::task::spawn_local(task);
        }
    }

    #[test]
    fn the_request_path_serves_http2_over_a_pipe() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let config = test_support::config().to_string();
        let plane = crate::DataPlane::new(config.as_bytes(), vec![]).unwrap();
        LocalSet::new().block_on(&runtime, async {
            let worker = Rc::new(Worker::new(plane.shared(), &Arc::default(), 1));
            let (client, server) = tokio::io::duplex(4096);
            let own = Rc::new(worker.places.take());
            tokio::task::spawn_local(serve(worker, ClientIo::new(server), "pipe".into(), own));
            let handshake = hyper::client::conn::http2::handshake(Tasks, TokioIo::new(client));
            let (mut sender, connection) = handshake.await.unwrap();
            tokio::task::spawn_local(async move {
                let _ = connection.await;
            });
            let ask = |path: &str| {
                Request::get(format!("http://x{path}"))
                    .body(ResponseBody::<Incoming, StreamWatch>::Full(Bytes::new()))
                    .unwrap()
            };
            let (health, models) =
                (sender.send_request(ask("/healthz")), sender.send_request(ask("/v1/models")));
            let (health, models): (Response<Incoming>, Response<Incoming>) =
                (health.await.unwrap(), models.await.unwrap());
            assert_eq!((health.status().as_u16(), models.status().as_u16()), (200, 401));
        });
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_acknowledges_no_ping_is_dropped() {
        let mut config = test_support::config();
        let timeouts = json!({
            "head": 0, "keep_alive": 0, "body": 0, "send": 0, "connect": 0, "first_frame": 0,
            "idle": 0, "tcp_keepalive_idle": 0, "tcp_keepalive_interval": 0,
            "tcp_keepalive_probes": 1, "tcp_unacknowledged": 0,
        });
        test_support::change(&mut config, json!({"timeouts": timeouts}));
        let plane = crate::DataPlane::new(config.to_string().as_bytes(), vec![]).unwrap();
        let started = Instant::now();
        let serving = async {
            let worker = Rc::new(Worker::new(plane.shared(), &Arc::default(), 1));
            let (mut client, server) = tokio::io::duplex(4096);
            let greet = [PREFACE, b"\0\0\0\x04\0\0\0\0\0"].concat();
            tokio::io::AsyncWriteExt::write_all(&mut client, &greet).await.unwrap();
            let own = Rc::new(worker.places.take());
            let _ = serve(worker, ClientIo::new(server), "pipe".into(), own).await;
        };
        bounded(LocalSet::new().run_until(serving)).await;
        assert_eq!(started.elapsed().as_secs(), (PING + PONG).as_secs());
    }
}
