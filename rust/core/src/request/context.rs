//! State shared by the stages of a request to an engine or to the management API, and the wait for
//! its body. (Local responses need none.)

use std::{
    future::poll_fn,
    io,
    rc::Rc,
    sync::{Arc, atomic::Ordering},
    task::Poll,
};

use bytes::Bytes;
use http::{Method, Version, request::Parts};
use http_body::Body;
use tokio::time::Instant;

use crate::{
    body_limits::BodyLimits,
    budget::{NoRoom, Share},
    client::io::ClientWatch,
    failure::Failure,
    key_watch::KeyWatch,
    published::{Published, Settings},
    request::{accounting::Accounting, head, peer::Peer},
    shared::Shared,
    timer::PhaseTimer,
    upstream::upload::Upload,
    worker::Worker,
};
use sans_io::{
    api::endpoints::{Endpoint, Kind},
    codec::headers,
    table::{Key, Table},
};

/// One in so many places is kept for requests with a key.
const KEYED_SHARE: usize = 8;
/// So many bytes of its head each request may hold without a share of the memory of all requests.
const FREE_HEAD: u64 = 4 * 1024;

/// One request to an engine or to the management API.
pub(crate) struct RequestContext<W> {
    worker: Rc<Worker>,
    /// The state of routes and settings that the request meets.
    published: Arc<Published>,
    parts: Parts,
    /// The part of the memory of all requests that a long head takes.
    head_room: Share,
    peer: Peer,
    endpoint: &'static Endpoint,
    /// The caller's valid key; None: it sent none, or is not known yet.
    key: Option<Arc<Key>>,
    /// The request's counters, timeline and record.
    pub(crate) accounting: Box<Accounting>,
    /// Sees the client leave.
    watch: W,
}

impl<W: ClientWatch> RequestContext<W> {
    /// A boxed context: stages pass it by value, and would copy it each time. `peer`: the other
    /// end of the connection, an IP address or `unix`.
    pub(crate) fn new(
        worker: Rc<Worker>,
        published: Arc<Published>,
        parts: Parts,
        peer: Rc<str>,
        endpoint: &'static Endpoint,
        accounting: Box<Accounting>,
        watch: W,
    ) -> Box<Self> {
        let peer = Peer::of(&worker.shared, peer, &parts.headers);
        let (head_room, key) = (Share::default(), None);
        Box::new(Self {
            worker,
            published,
            parts,
            head_room,
            peer,
            endpoint,
            key,
            accounting,
            watch,
        })
    }

    /// The worker that serves the request.
    pub(crate) fn worker(&self) -> &Worker {
        &self.worker
    }

    /// The state of all workers.
    pub(crate) fn shared(&self) -> &Shared {
        &self.worker.shared
    }

    /// The routes that the request meets.
    pub(crate) fn table(&self) -> &Table {
        &self.published.table
    }

    /// The settings that the request meets.
    pub(crate) fn settings(&self) -> &Settings {
        &self.published.settings
    }

    /// Goes over to a newer state of routes and settings.
    pub(crate) fn follow(&mut self, newer: Arc<Published>) {
        self.published = newer;
    }

    /// The limits of the request's body. `has_key`: its caller has shown a valid key.
    pub(crate) fn body_limits(&self, has_key: bool) -> BodyLimits {
        let settings = &self.published.settings;
        self.worker.body_limits(has_key).with(settings.limits, settings.timeouts.body)
    }

    /// Sets the caller's key, which is also the record's.
    pub(crate) fn set_key(&mut self, key: &Arc<Key>) {
        self.accounting.set_key(&key.id);
        if let Some(head) = self.accounting.early_head() {
            head.set_key(key);
        }
        self.key = Some(Arc::clone(key));
    }

    /// Finds a descriptor for the engine's connection of this request. Each that runs may have one,
    /// and over HTTP/2 so may each of a connection's many. Where all are in use, a connection that
    /// waits for its client is closed: its request has no engine yet, or the engine's response is
    /// not taken. False: there is none.
    pub(crate) fn find_descriptor(&self) -> bool {
        self.descriptors_in_use() <= self.shared().descriptor_budget()
            || self.worker.evict(&self.worker.places)
    }

    /// Counts the request as one without a key. False: so many run that those with one could find no
    /// place, or no descriptor.
    pub(crate) fn enter_keyless(&mut self) -> bool {
        let without_share = |budget: usize| budget - budget / KEYED_SHARE;
        let most = without_share(self.shared().connection_budget(&self.settings().limits));
        let has_place =
            self.accounting.enter_keyless() <= most || self.worker.all_connections() <= most;
        has_place && self.descriptors_in_use() <= without_share(self.shared().descriptor_budget())
    }

    /// Open client connections, and requests that run.
    fn descriptors_in_use(&self) -> usize {
        let running = self.shared().metrics.in_flight.load(Ordering::Relaxed);
        self.worker.all_connections() + usize::try_from(running).unwrap_or_default()
    }

    /// A watch over the caller's key.
    pub(crate) fn key_watch(&self) -> KeyWatch {
        KeyWatch::new(self.key.clone(), &self.worker.sleepers)
    }

    /// The request's head.
    pub(crate) fn parts(&self) -> &Parts {
        &self.parts
    }

    /// Takes memory for a long head, which is held until the response begins. `has_key`: its caller
    /// has shown a valid key. Fails with `NoRoom`.
    pub(crate) async fn hold_head(&mut self, has_key: bool) -> Result<(), Failure> {
        let held = head::memory(&self.parts);
        if held <= FREE_HEAD {
            return Ok(());
        }
        let (memory, room) = (self.worker.memory(has_key), &mut self.head_room);
        let held = poll_fn(|context| room.poll_grow(context, memory, held)).await;
        held.map_err(|NoRoom| Failure::NoRoom)
    }

    /// The request's method.
    pub(crate) fn method(&self) -> &Method {
        &self.parts.method
    }

    /// The far end of the request.
    pub(crate) fn peer(&self) -> &Peer {
        &self.peer
    }

    /// The endpoint of the request.
    pub(crate) fn endpoint(&self) -> &'static Endpoint {
        self.endpoint
    }

    /// Whether the request goes to the management API.
    pub(crate) fn is_management(&self) -> bool {
        self.endpoint.kind == Kind::Management
    }

    /// The watch over the client's connection.
    pub(crate) fn watch(&self) -> &W {
        &self.watch
    }

    /// The parts that a response needs.
    #[expect(
        clippy::boxed_local,
        reason = "a context lives in its box, and would be copied out of it"
    )]
    pub(crate) fn into_accounting(self: Box<Self>) -> (Box<Accounting>, W) {
        (self.accounting, self.watch)
    }

    /// Whether the client asks for a WebSocket over HTTP/1.1, the one version that has them here.
    pub(crate) fn asks_websocket(&self) -> bool {
        self.parts.version == Version::HTTP_11
            && self.parts.method == Method::GET
            && headers::asks_websocket(&self.parts.headers)
    }

    /// Notes whether the body asks for a stream, once it is whole, for a head that may go before the
    /// engine's.
    pub(crate) fn note_stream<B>(&self, upload: &Upload<B>) {
        if let Some(head) = self.accounting.early_head()
            && upload.is_whole()
            && upload.asks_stream()
        {
            head.asks_stream();
        }
    }

    /// Reads the body until `enough`, or to its end. Fails with `ClientLeft`, `BodyTimeout`,
    /// `BodyTooSlow`, `Rejected` (malformed or too large), `Spool`, `SpoolFull` or `NoRoom`.
    pub(crate) async fn receive_until<B>(
        &mut self,
        upload: &mut Upload<B>,
        enough: impl Fn(&Upload<B>) -> bool,
    ) -> Result<(), Failure>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: std::error::Error + 'static,
    {
        let limit = self.published.settings.timeouts.body;
        let mut timer = PhaseTimer::default();
        while !enough(upload) && !upload.is_whole() {
            let mut since = None;
            let received = poll_fn(|context| match upload.poll_receive(context) {
                Poll::Ready(received) => Poll::Ready(received),
                Poll::Pending => {
                    let since = *since.get_or_insert_with(Instant::now);
                    let wait = upload.client_wait();
                    let (since, limit, failure) = wait.unwrap_or_else(|| {
                        (since, limit, Failure::Spool(io::ErrorKind::TimedOut.into()))
                    });
                    timer.poll(context, since, limit).map(|()| Err(failure))
                }
            })
            .await;
            if since.is_some() {
                self.accounting.timeline.waited_for_client(upload.waited());
            }
            received?;
            self.accounting.set_bytes_in(upload.received());
        }
        Ok(())
    }
}
