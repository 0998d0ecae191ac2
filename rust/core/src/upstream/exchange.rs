//! One attempt on one connection: the request toward an instance, and its response.
//!
//! Both directions are polled together, since an engine may respond before it has read the request.
//! For the same reason a write error is not the end: the response may lie in the socket already.

use std::{
    io,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http_body::Body;
use tokio::time::Instant;

use crate::{
    failure::Failure,
    timer::PhaseTimer,
    upstream::{
        connection::{Connection, OutQueue},
        delivery::DeliveryWatch,
        framing::Framing,
        pool::Pool,
        response::{Expected, Receiving, ResponseBody},
        slot::Slot,
        upload::Upload,
    },
};
use sans_io::{
    codec::{
        http1::{self, ResponseHead},
        response_fields::Sender,
    },
    seam::Timeouts,
    table::Instance,
};

/// A pooled connection that ends without a byte, sooner than this and its way there and back after it
/// was taken, is stale: the engine closed it before the request arrived.
const STALE: Duration = Duration::from_millis(50);
/// The way, in the times that connecting took: it may be slower than it was then.
const ROUND_TRIPS: u32 = 2;
/// The most that is granted to the way: connecting may have taken longer for other reasons.
const ROUND_TRIPS_MOST: Duration = Duration::from_secs(2);

/// The head of a request toward an engine.
pub(crate) struct RequestHead {
    /// Request line and fields, without the framing field and the empty line.
    pub(crate) head: BytesMut,
    /// The framing of the body.
    pub(crate) framing: Framing,
    /// The kind of response.
    pub(crate) expected: Expected,
}

/// A request and its response on one connection. Dropping it closes the connection.
pub(crate) struct Exchange<B> {
    upload: Box<Upload<B>>,
    slot: Slot,
    /// None: the exchange has ended.
    active: Option<Active>,
    started: Instant,
    /// The last progress, from which all limits count: bytes of the request that moved, and then
    /// what `note_frame` says of the response.
    moved: Instant,
    /// Whether a frame of the response has come, so that the next one is waited for.
    framed: bool,
    limits: Timeouts,
    timer: PhaseTimer,
    delivery: DeliveryWatch,
}

/// An exchange that has not ended, with a state for each direction. A response before the end of
/// the request is `Sending::Stopped` with `Receiving::Body`; `Open` never goes with a body.
struct Active {
    connection: Connection,
    /// Bytes that were not written yet.
    queue: OutQueue,
    sending: Sending,
    receiving: Receiving,
    /// Interim responses so far.
    interim: u8,
}

/// The request's progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sending {
    /// The request is being sent.
    Open(Framing),
    /// All of the request was written to the socket.
    Delivered,
    /// The rest of the request is not sent: the engine reads no more, or has responded already.
    Stopped,
}

impl<B: Body<Data = Bytes> + Unpin> Exchange<B>
where
    B::Error: std::error::Error + 'static,
{
    /// An exchange of which nothing was sent yet. `upload` has started this attempt.
    pub(crate) fn new(
        connection: Connection,
        slot: Slot,
        upload: Box<Upload<B>>,
        request: RequestHead,
        limits: Timeouts,
    ) -> Box<Self> {
        let RequestHead { mut head, framing, expected } = request;
        framing.end_head(&mut head);
        let mut queue = OutQueue::default();
        queue.push(head.freeze());
        let now = Instant::now();
        Box::new(Self {
            upload,
            slot,
            active: Some(Active {
                connection,
                queue,
                sending: Sending::Open(framing),
                receiving: Receiving::Silent(expected),
                interim: 0,
            }),
            started: now,
            moved: now,
            framed: false,
            timer: PhaseTimer::default(),
            delivery: DeliveryWatch::new(limits.tcp_unacknowledged),
            limits,
        })
    }

    /// Waits for the head of the response, and sends meanwhile. `sender` decides which of its
    /// fields are kept. Fails with
    ///
    /// * `StaleConnection` or `ConnectionLost`: the connection ended;
    /// * `Protocol`: the head breaks HTTP;
    /// * `FirstFrameTimeout`: the engine was silent;
    /// * `ClientLeft`, `BodyTimeout`, `BodyTooSlow`, `Rejected`, `Spool` or `NoRoom`: the client's
    ///   body.
    pub(crate) fn poll_head(
        &mut self,
        context: &mut Context<'_>,
        sender: Sender<'_>,
    ) -> Poll<Result<ResponseHead, Failure>> {
        loop {
            self.send(context)?;
            let Some(active) = &mut self.active else { return Poll::Ready(Err(already_ended())) };
            match active.take_head(sender) {
                Ok(None) => {}
                Ok(Some(head)) => return Poll::Ready(Ok(head)),
                Err(broken) => return Poll::Ready(Err(self.broken(broken))),
            }
            match active.connection.poll_fill(context) {
                // Neither interim heads nor a piece of the final one are what is waited for.
                Poll::Ready(Ok(1..)) => active.receiving.note_bytes(),
                Poll::Ready(Ok(0)) => {
                    return Poll::Ready(Err(self.lost(closed("it closed the connection"))));
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(self.lost(error))),
                Poll::Pending => return self.wait(context).map(Err),
            }
        }
    }

    /// Waits for the next piece of the response's body. Only the last piece (`is_done`) may be
    /// empty. Fails with `ConnectionLost`, `Protocol`, `FirstFrameTimeout` (before the first
    /// `note_frame`) or `IdleTimeout`.
    pub(crate) fn poll_data(&mut self, context: &mut Context<'_>) -> Poll<Result<Bytes, Failure>> {
        let Some(Active { connection, receiving: Receiving::Body(body), .. }) = &mut self.active
        else {
            return Poll::Ready(Err(already_ended()));
        };
        loop {
            match body.next(&mut connection.buffer) {
                Ok(None) => {}
                Ok(Some(data)) => {
                    if body.is_whole() {
                        self.slot.set_lingers(false);
                    }
                    return Poll::Ready(Ok(data));
                }
                Err(error) => return Poll::Ready(Err(self.broken(Failure::Protocol(error)))),
            }
            match connection.poll_fill(context) {
                Poll::Ready(Ok(1..)) => {}
                // A body without a length ends so by its framing (RFC 9112 6.3). Whether that was a
                // death is for the caller to find out.
                Poll::Ready(Ok(0)) if body.ends_with_connection() => {
                    self.slot.set_lingers(false);
                    return Poll::Ready(Ok(Bytes::new()));
                }
                Poll::Ready(Ok(0)) => {
                    let error = closed("it closed the connection inside its response");
                    return Poll::Ready(Err(self.broken(Failure::ConnectionLost(error))));
                }
                Poll::Ready(Err(error)) => {
                    return Poll::Ready(Err(self.broken(Failure::ConnectionLost(error))));
                }
                Poll::Pending => return self.wait(context).map(Err),
            }
        }
    }

    /// Ends the exchange after a whole response. The connection goes back to the pool if it can
    /// carry another request.
    pub(crate) fn finish(&mut self, pool: &Pool) {
        self.slot.give_back();
        let Some(Active { mut connection, sending, receiving, .. }) = self.active.take() else {
            return;
        };
        // The engine would take the next request for the rest of one that was not delivered. Bytes
        // behind the response belong to no request, so the connection cannot be trusted either.
        let delivered = sending == Sending::Delivered;
        connection.unfinished = !delivered;
        if let Some(granted) =
            receiving.reuse(self.slot.instance.closes_after_stream).filter(|_| delivered)
            && connection.buffer.is_empty()
        {
            pool.insert(&self.slot.instance, connection, granted);
        }
    }

    /// Sends the request as far as the client's bytes and the engine's socket allow.
    fn send(&mut self, context: &mut Context<'_>) -> Result<(), Failure> {
        let Some(active) = &mut self.active else { return Ok(()) };
        while let Sending::Open(framing) = active.sending {
            self.upload.send_into(&mut active.queue, framing);
            if !active.queue.is_empty() {
                match active.connection.poll_send(context, &mut active.queue) {
                    Poll::Ready(Ok(())) => self.moved = Instant::now(),
                    // Not the end: the response may lie in the socket already.
                    Poll::Ready(Err(_)) => active.sending = Sending::Stopped,
                    Poll::Pending => return Ok(()),
                }
            } else if self.upload.is_sent() {
                active.sending = Sending::Delivered;
                // Before its end a request is worked on by nobody. An engine that streams notices a
                // lost client at its next frame.
                self.slot.set_lingers(!self.upload.asks_stream());
            } else if self.upload.poll_receive(context)?.is_ready() {
                self.moved = Instant::now();
            } else {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Waits while nothing moves. The failure tells which phase has used up its limit.
    fn wait(&mut self, context: &mut Context<'_>) -> Poll<Failure> {
        let (limit, failure): (_, fn() -> Failure) = match &self.active {
            _ if self.framed => (self.limits.idle, || Failure::IdleTimeout),
            // Not the engine's silence: it waits for the client just as we do.
            Some(active)
                if active.needs_client()
                    && let Some((since, limit, failure)) = self.upload.client_wait() =>
            {
                return self.timer.poll(context, since, limit).map(|()| failure);
            }
            _ => (self.limits.first_frame, || Failure::FirstFrameTimeout),
        };
        while let Some((since, time)) = self.next_question(limit) {
            ready!(self.timer.poll(context, since, Some(time)));
            if self.engine_has_vanished() {
                return Poll::Ready(self.lost(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "its machine acknowledges nothing any more",
                )));
            }
        }
        self.timer.poll(context, self.moved, limit).map(|()| failure())
    }

    /// The time at which the system is asked whether the request was acknowledged: after a moment,
    /// and how long; None: it is not asked before the limit.
    fn next_question(&self, limit: Option<Duration>) -> Option<(Instant, Duration)> {
        // Between the frames of a response nothing is asked: its head says that the request came.
        if let Receiving::Body(_) = self.active.as_ref()?.receiving {
            return None;
        }
        let (since, time) = self.delivery.next(self.moved)?;
        let is_first = limit.is_none_or(|limit| since + time < self.moved + limit);
        is_first.then_some((since, time))
    }

    fn engine_has_vanished(&mut self) -> bool {
        self.active.as_ref().is_some_and(|active| {
            let delivered = active.sending == Sending::Delivered;
            self.delivery.has_vanished(&active.connection, delivered)
        })
    }

    /// The failure where the connection ends before the response's head.
    fn lost(&mut self, error: io::Error) -> Failure {
        let elapsed = self.started.elapsed();
        let is_stale = self.active.as_ref().is_some_and(|active| {
            let way = (active.connection.round_trip * ROUND_TRIPS).min(ROUND_TRIPS_MOST);
            active.connection.is_reused()
                && matches!(active.receiving, Receiving::Silent(_))
                && elapsed < STALE + way
        });
        let failure =
            if is_stale { Failure::StaleConnection } else { Failure::ConnectionLost(error) };
        self.broken(failure)
    }

    /// This failure, by which the engine has ended the exchange: it works on nothing, so that the
    /// slot is free at once.
    fn broken(&mut self, failure: Failure) -> Failure {
        self.slot.set_lingers(false);
        failure
    }
}

impl<B> Exchange<B> {
    /// Whether the response's body is whole.
    pub(crate) fn is_done(&self) -> bool {
        self.response_body().is_some_and(ResponseBody::is_whole)
    }

    /// The exact number of body bytes to come, where the response's framing tells it.
    pub(crate) fn remaining(&self) -> Option<u64> {
        self.response_body().and_then(ResponseBody::remaining)
    }

    /// Whether the response ends with its connection, so that a death looks like an end.
    pub(crate) fn was_close_delimited(&self) -> bool {
        self.response_body().is_some_and(ResponseBody::is_close_delimited)
    }

    /// Whether the exchange has ended, by `finish` or `abort`.
    pub(crate) fn has_ended(&self) -> bool {
        self.active.is_none()
    }

    /// Takes memory for this many bytes of the response that are held back. Fails with `NoRoom`.
    pub(crate) fn poll_hold(
        &mut self,
        context: &mut Context<'_>,
        bytes: u64,
    ) -> Poll<Result<(), Failure>> {
        self.upload.poll_hold(context, bytes)
    }

    /// Notes a frame of the response: the limit for the next one counts from now. Bytes that end no
    /// frame are not noted, so that a frame without an end meets the limit.
    pub(crate) fn note_frame(&mut self) {
        self.moved = Instant::now();
        self.framed = true;
    }

    /// The client's body.
    pub(crate) fn upload(&self) -> &Upload<B> {
        &self.upload
    }

    /// Frees what is held of the request's body: the response has begun for the client, so that no
    /// attempt follows. (Nothing more of it is sent behind the response's head.)
    pub(crate) fn release_upload(&mut self) {
        self.upload.release();
        if let Some(active) = &mut self.active {
            active.queue = OutQueue::default();
        }
    }

    /// The instance that responds.
    pub(crate) fn instance(&self) -> &Instance {
        &self.slot.instance
    }

    /// Ends the exchange at once. The connection is closed, which stops the engine's work.
    pub(crate) fn abort(&mut self) {
        self.active = None;
        self.slot.release();
    }

    /// The connection, for another protocol, and the slot. The error is the client's body, where
    /// the exchange has ended.
    pub(crate) fn into_upgraded(self: Box<Self>) -> Result<(Connection, Slot), Box<Upload<B>>> {
        let Self { active, mut slot, upload, .. } = *self;
        slot.set_lingers(false);
        active.map(|active| (active.connection, slot)).ok_or(upload)
    }

    /// The client's body, for another attempt. The connection is closed.
    pub(crate) fn into_upload(self: Box<Self>) -> Box<Upload<B>> {
        self.upload
    }

    /// The client's body, for another attempt after a response that is not relayed. The engine is
    /// done with the request, so the slot is free at once.
    pub(crate) fn into_upload_after_response(mut self: Box<Self>) -> Box<Upload<B>> {
        self.slot.give_back();
        self.upload
    }

    fn response_body(&self) -> Option<&ResponseBody> {
        match &self.active {
            Some(Active { receiving: Receiving::Body(body), .. }) => Some(body),
            _ => None,
        }
    }
}

impl Active {
    /// Takes the response's head off the connection's buffer; None: it is not whole.
    fn take_head(&mut self, sender: Sender<'_>) -> Result<Option<ResponseHead>, Failure> {
        let Receiving::Head(expected) = self.receiving else { return Ok(None) };
        let (head_only, upgrade) = (expected == Expected::HeadOnly, expected == Expected::Upgrade);
        let (buffer, interim) = (&mut self.connection.buffer, &mut self.interim);
        let head = http1::take_response_head(buffer, head_only, upgrade, sender, interim)
            .map_err(Failure::Protocol)?;
        let Some(head) = head else { return Ok(None) };
        // An engine that has responded, most likely with an error, has no use for the rest.
        if let Sending::Open(_) = self.sending {
            self.sending = Sending::Stopped;
        }
        self.receiving = Receiving::Body(ResponseBody::new(&head));
        Ok(Some(ResponseHead {
            status: head.status,
            headers: head.headers,
            withheld: head.withheld,
            content_length: head.content_length,
        }))
    }

    /// Whether all bytes of the client so far were written, so that only more of them help.
    fn needs_client(&self) -> bool {
        matches!(self.sending, Sending::Open(_)) && self.queue.is_empty()
    }
}

/// The error for a connection that ended too early. `when`: a clause for logs and clients.
pub(crate) fn closed(when: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, when)
}

/// A caller's mistake, which ends one request and no more.
fn already_ended() -> Failure {
    Failure::ConnectionLost(closed("the exchange has ended"))
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, rc::Rc, sync::Arc};

    use sans_io::table::{IdleListener, Lease};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::UnixStream,
    };

    use super::*;
    use crate::{
        bounded::bounded,
        upstream::{
            connection::tests::{instance, listen},
            intake::tests::{Ready, limits},
            upload::{Changes, Reading},
        },
    };

    #[derive(Debug)]
    struct Nobody;

    impl IdleListener for Nobody {
        fn idle(&self, _: &Instance, _: u64) {}
    }

    const BODY: &[u8] = &[b'x'; 40_000];

    /// One attempt at an engine of its own, which has a connection and reads as the test says.
    struct Attempt {
        exchange: Box<Exchange<Ready>>,
        engine: UnixStream,
        pool: Rc<Pool>,
    }

    impl Attempt {
        /// `name`: the socket's; `requests`: so many did the connection carry, this one included.
        async fn begin(name: &str, requests: u32) -> Self {
            let (listener, path) = listen(name);
            let instance = instance(&path, Duration::from_secs(10), 0);
            let mut connection = Connection::open(&instance, None, &Rc::default()).await.unwrap();
            connection.requests = requests;
            let (engine, _) = listener.accept().await.unwrap();
            let _ = std::fs::remove_file(path);
            let idle: Arc<dyn IdleListener> = Arc::new(Nobody);
            let slot = Slot::new(Lease::take(&instance, 0, &idle).unwrap(), &Rc::default());
            let pieces = vec![Bytes::from_static(BODY); 100].into();
            let mut upload =
                Upload::new(Ready(pieces, false), Reading::Carry, None, &limits(0, 0)).unwrap();
            let length = upload.start_attempt(Changes::default());
            let request = RequestHead {
                head: BytesMut::from("POST / HTTP/1.1\r\n"),
                framing: Framing::of(&http::Method::POST, length),
                expected: Expected::Full,
            };
            let limits = Timeouts {
                head: None,
                keep_alive: None,
                body: None,
                send: None,
                connect: None,
                first_frame: None,
                idle: None,
                tcp_keepalive_idle: None,
                tcp_keepalive_interval: Duration::ZERO,
                tcp_keepalive_probes: 1,
                tcp_unacknowledged: None,
            };
            let exchange = Exchange::new(connection, slot, upload, request, limits);
            Self { exchange, engine, pool: Pool::new(1) }
        }

        async fn head(&mut self) -> Result<ResponseHead, Failure> {
            bounded(poll_fn(|context| self.exchange.poll_head(context, Sender::Proxied))).await
        }

        async fn body(&mut self) -> Result<Bytes, Failure> {
            bounded(poll_fn(|context| self.exchange.poll_data(context))).await
        }

        fn sending(&self) -> Sending {
            self.exchange.active.as_ref().unwrap().sending
        }

        /// Ends the exchange; true: its connection is back in the pool.
        fn finish(mut self) -> bool {
            assert!(self.exchange.is_done());
            self.exchange.finish(&self.pool);
            assert!(self.exchange.has_ended());
            self.pool.take(self.exchange.instance()).is_some()
        }
    }

    #[tokio::test]
    async fn a_delivered_request_and_a_whole_response_leave_a_connection_for_the_next() {
        let mut attempt = Attempt::begin("delivered", 1).await;
        let (mut reader, mut writer) = attempt.engine.split();
        let read = async {
            let mut request = vec![0; 64 * 1024];
            let mut end = Vec::new();
            while !end.ends_with(b"\r\n0\r\n\r\n") {
                let count = reader.read(&mut request).await.unwrap();
                end.extend_from_slice(&request[..count]);
                end.drain(..end.len().saturating_sub(7));
            }
            writer.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
        };
        let exchange = &mut attempt.exchange;
        let head = poll_fn(|context| exchange.poll_head(context, Sender::Proxied));
        let (head, ()) = bounded(async { tokio::join!(head, read) }).await;
        assert_eq!(head.unwrap().status, 200);
        assert_eq!(attempt.sending(), Sending::Delivered);
        assert_eq!(attempt.body().await.unwrap(), "ok");
        assert!(attempt.finish());
    }

    #[tokio::test]
    async fn a_response_before_the_requests_end_stops_the_request_and_costs_the_connection() {
        let mut attempt = Attempt::begin("early", 1).await;
        let early = b"HTTP/1.1 413 Payload Too Large\r\ncontent-length: 2\r\n\r\nno";
        attempt.engine.write_all(early).await.unwrap();
        assert_eq!(attempt.head().await.unwrap().status, 413);
        assert_eq!(attempt.sending(), Sending::Stopped);
        assert_eq!(attempt.body().await.unwrap(), "no");
        assert!(!attempt.finish(), "the engine waits for the request's rest there");
    }

    #[tokio::test]
    async fn a_response_is_read_from_an_engine_that_reads_no_more() {
        let mut attempt = Attempt::begin("deaf", 1).await;
        let last = b"HTTP/1.1 400 Bad Request\r\n\r\nwhy";
        attempt.engine.write_all(last).await.unwrap();
        attempt.engine = UnixStream::pair().unwrap().0;
        assert_eq!(attempt.head().await.unwrap().status, 400);
        assert_eq!(attempt.sending(), Sending::Stopped);
        assert_eq!(attempt.body().await.unwrap(), "why");
        assert!(!attempt.exchange.is_done() && attempt.exchange.was_close_delimited());
        assert_eq!(attempt.body().await.unwrap(), "");
        assert!(!attempt.finish());
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_used_connection_that_ends_without_a_byte_is_stale() {
        let mut used = Attempt::begin("stale", 2).await;
        used.engine = UnixStream::pair().unwrap().0;
        assert!(matches!(used.head().await, Err(Failure::StaleConnection)));
        let mut new = Attempt::begin("new", 1).await;
        new.engine = UnixStream::pair().unwrap().0;
        assert!(matches!(new.head().await, Err(Failure::ConnectionLost(_))));
        let mut heard = Attempt::begin("heard", 2).await;
        heard.engine.write_all(b"HTTP").await.unwrap();
        heard.engine = UnixStream::pair().unwrap().0;
        assert!(matches!(heard.head().await, Err(Failure::ConnectionLost(_))));
    }

    #[tokio::test(start_paused = true)]
    async fn a_used_connection_is_stale_for_as_long_as_the_way_to_its_engine_takes() {
        for (round_trip_ms, after_ms, stale) in [
            (0, 49, true),
            (0, 51, false),
            (80, 200, true),
            (80, 211, false),
            (60_000, 2_051, false),
        ] {
            let mut used = Attempt::begin(&format!("far-{after_ms}"), 2).await;
            let active = used.exchange.active.as_mut().unwrap();
            active.connection.round_trip = Duration::from_millis(round_trip_ms);
            tokio::time::advance(Duration::from_millis(after_ms)).await;
            used.engine = UnixStream::pair().unwrap().0;
            let failure = used.head().await.unwrap_err();
            let is_stale = matches!(failure, Failure::StaleConnection);
            assert_eq!(is_stale, stale, "{after_ms} ms with {round_trip_ms} ms to go");
        }
    }

    #[tokio::test]
    async fn nothing_comes_from_an_exchange_that_was_aborted() {
        let mut attempt = Attempt::begin("aborted", 1).await;
        attempt.exchange.abort();
        assert!(attempt.exchange.has_ended() && !attempt.exchange.is_done());
        assert!(matches!(attempt.head().await, Err(Failure::ConnectionLost(_))));
        assert!(matches!(attempt.body().await, Err(Failure::ConnectionLost(_))));
    }
}
