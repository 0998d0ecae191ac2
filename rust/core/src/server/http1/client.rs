//! The state of one connection, which its loop, the body of its request and the request itself
//! share.

use std::{
    cell::{Cell, RefCell},
    future::Future,
    io::{self, IoSlice},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use tokio::time::{Instant, Sleep};

use crate::{
    budget::{NoRoom, Share},
    client::{
        io::{ClientIo, ClientStream, ClientWatch},
        places::{PROGRESS, Place, Wait},
        tunnel::Tunnel,
    },
    timer::SendTimer,
    upstream::connection::OutQueue,
    worker::Worker,
};
use sans_io::codec::http1::Decoder;

/// The most that is read ahead of a request that has begun, in bytes. The rest of what its client
/// sends before it has its response waits in the socket.
const AHEAD: usize = 64 * 1024;
/// The time between two probes of a client whose bytes nobody reads.
const PROBE: Duration = Duration::from_millis(250);
/// Messages up to this many bytes are joined before they are written.
const JOINED: usize = 4 * 1024;

/// One client's connection.
pub(super) struct Client<T> {
    pub(super) worker: Rc<Worker>,
    pub(super) io: ClientIo<T>,
    /// The connection's place.
    pub(super) place: Rc<Place>,
    /// A request has had a good key, which makes the place worth more.
    trusted: Cell<bool>,
    /// The present request has a good key.
    keyed: Cell<bool>,
    /// What is sent is an engine's response.
    pub(super) relays: Cell<bool>,
    /// The framing of the present request's body, which tells how much of it is still to come.
    pub(super) decoder: RefCell<Decoder>,
    /// The client waits for a 100 before it sends its body.
    pub(super) continue_due: Cell<bool>,
    /// A response asked for the connection's end.
    pub(super) close: Cell<bool>,
    /// The tunnel that the last response opens.
    pub(super) tunnel: RefCell<Option<Tunnel>>,
    output: RefCell<Output>,
    /// None: no probe was necessary yet.
    next_probe: RefCell<Option<Pin<Box<Sleep>>>>,
}

/// What is not written yet.
#[derive(Default)]
struct Output {
    queue: OutQueue,
    /// Bytes were written since the last flush.
    unflushed: bool,
    /// The time since which the socket has taken no byte; None: nothing waits.
    blocked_since: Option<Instant>,
    /// The part of the memory of all requests that the waiting bytes take.
    room: Share,
    timer: SendTimer,
}

/// The client takes no more bytes, or is gone.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lost;

impl<T: ClientStream> Client<T> {
    pub(super) fn new(worker: Rc<Worker>, io: ClientIo<T>, place: Rc<Place>) -> Rc<Self> {
        Rc::new(Self {
            worker,
            io,
            place,
            trusted: Cell::default(),
            keyed: Cell::default(),
            relays: Cell::default(),
            decoder: RefCell::new(Decoder::Length(0)),
            continue_due: Cell::default(),
            close: Cell::default(),
            tunnel: RefCell::default(),
            output: RefCell::default(),
            next_probe: RefCell::default(),
        })
    }

    /// Begins a request with this body.
    pub(super) fn begin_request(&self, decoder: Decoder, expects_continue: bool) {
        self.place.works();
        // It was sent before the client could know that its place is lost.
        self.close.set(self.close.get() || self.place.is_lost());
        self.relays.set(false);
        self.continue_due.set(expects_continue && !decoder.is_done());
        *self.decoder.borrow_mut() = decoder;
    }

    /// Notes that no request is served at present.
    pub(super) fn waits_for_request(&self) {
        self.keyed.set(false);
        self.place.waits(if self.trusted.get() { Wait::Idle } else { Wait::Stranger });
    }

    /// Notes that the present request waits for its client. Without a key that is no better than
    /// no request.
    pub(super) fn waits_for_client(&self) {
        self.place.waits(match (self.trusted.get(), self.relays.get()) {
            (false, _) => Wait::Stranger,
            (true, false) => Wait::Unserved,
            (true, true) => Wait::Stalled,
        });
    }

    /// Notes that something has moved in the connection's tunnel. What rests longest gives its place
    /// up first, with a good key behind all others.
    pub(super) fn tunnel_moved(&self) {
        self.place.works();
        self.place.waits(if self.trusted.get() { Wait::Tunnel } else { Wait::Stranger });
    }

    /// Notes that this much of the present request's body has come.
    pub(super) fn body_came(&self, bytes: usize, is_whole: bool) {
        if is_whole {
            self.place.works();
        } else if bytes >= PROGRESS {
            self.place.comes_on();
        }
    }

    /// Whether the present request's body was read to its end.
    pub(super) fn is_body_read(&self) -> bool {
        self.decoder.borrow().is_done()
    }

    /// Drops what has come of a body that nobody wants. True: that was the rest of it.
    pub(super) fn skip_body(&self) -> bool {
        let decoder = &mut *self.decoder.borrow_mut();
        self.io.take_ahead(|ahead| decoder.decode(ahead).is_ok()) && decoder.is_done()
    }

    /// Writes a message of three parts, or keeps what the socket does not take. `put_first` writes
    /// the first part. Nothing else may wait to be written but a 100.
    pub(super) fn write(
        &self,
        context: &mut Context<'_>,
        put_first: impl FnOnce(&mut BytesMut),
        data: Bytes,
        last: &'static [u8],
    ) -> Result<(), Lost> {
        let output = &mut *self.output.borrow_mut();
        let joined = &mut *self.worker.joined.borrow_mut();
        joined.clear();
        put_first(joined);
        let first = joined.len();
        let length = first + data.len() + last.len();
        let written = if !output.queue.is_empty() {
            Poll::Ready(Ok(0))
        } else if length <= JOINED {
            joined.extend_from_slice(&data);
            joined.extend_from_slice(last);
            self.io.poll_write(context, &[IoSlice::new(joined)])
        } else {
            self.io.poll_write(context, &[&**joined, &data, last].map(IoSlice::new))
        };
        let written = match written {
            Poll::Ready(Ok(written)) => written,
            Poll::Ready(Err(_)) => return Err(Lost),
            Poll::Pending => 0,
        };
        output.unflushed = true;
        if written < length {
            output.keep(written, &joined[..first], data, last);
        }
        Ok(())
    }

    /// Sends the 100 that the client waits for, unless its body has begun to come.
    pub(super) fn send_continue(&self, context: &mut Context<'_>) {
        if self.continue_due.take() && self.io.ahead() == 0 {
            self.output
                .borrow_mut()
                .queue
                .push(Bytes::from_static(b"HTTP/1.1 100 Continue\r\n\r\n"));
        }
        // Where the client is lost, its body is, too.
        let _ = self.poll_written(context);
    }

    /// Writes what waits. Ready when the system has taken all of it; `Lost`: the client is gone, has
    /// taken nothing for `timeouts.send`, or leaves unread what there is no memory for.
    pub(super) fn poll_written(&self, context: &mut Context<'_>) -> Poll<Result<(), Lost>> {
        let output = &mut *self.output.borrow_mut();
        if !output.unflushed && output.queue.is_empty() {
            return Poll::Ready(Ok(()));
        }
        let blocked_before = output.blocked_since;
        match output.poll(context, &self.io) {
            Poll::Ready(Ok(())) => {
                if output.blocked_since.take().is_some() {
                    self.io.reset_on_close(false);
                    output.room.shrink(0);
                    self.place.works();
                }
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(_)) => Poll::Ready(Err(Lost)),
            Poll::Pending => {
                if output.blocked_since != blocked_before {
                    self.place.works();
                }
                self.waits_for_client();
                let since = *output.blocked_since.get_or_insert_with(|| {
                    // However this ends, the system is not to keep what nobody takes.
                    self.io.reset_on_close(true);
                    Instant::now()
                });
                let limit = self.worker.shared.timeouts().send;
                let taken = || self.io.unread();
                if output.timer.poll(context, since, limit, taken).is_pending() {
                    ready!(self.poll_room(context, output));
                }
                Poll::Ready(Err(Lost))
            }
        }
    }

    /// Takes memory for what the client does not read. Ready when there is none.
    fn poll_room(&self, context: &mut Context<'_>, output: &mut Output) -> Poll<()> {
        let memory = self.worker.memory(self.keyed.get());
        let held = output.queue.bytes() + T::HOLDS + self.io.ahead();
        match output.room.poll_grow(context, memory, held as u64) {
            Poll::Ready(Err(NoRoom)) => {
                self.worker.note_cut_unread(1);
                Poll::Ready(())
            }
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
        }
    }

    /// Reads ahead, up to [`AHEAD`]. Ready when the client's side has ended.
    fn poll_read_ahead(&self, context: &mut Context<'_>) -> Poll<()> {
        while self.io.ahead() < AHEAD {
            if !ready!(self.io.poll_fill(context, &self.worker.scratch)) {
                return Poll::Ready(());
            }
        }
        self.poll_probes(context)
    }

    /// Probes the socket now and then. While bytes wait unread, nothing wakes the task for an end
    /// behind them.
    fn poll_probes(&self, context: &mut Context<'_>) -> Poll<()> {
        let next_probe = &mut *self.next_probe.borrow_mut();
        let next_probe = next_probe.get_or_insert_with(|| Box::pin(tokio::time::sleep(PROBE)));
        loop {
            ready!(next_probe.as_mut().poll(context));
            if self.io.is_closed_by_client() {
                return Poll::Ready(());
            }
            next_probe.as_mut().reset(Instant::now() + PROBE);
        }
    }
}

impl Output {
    /// Keeps what lies behind the first `written` bytes of three parts.
    fn keep(&mut self, written: usize, first: &[u8], mut data: Bytes, last: &'static [u8]) {
        let behind_first = written.saturating_sub(first.len());
        if written < first.len() {
            self.queue.push(Bytes::copy_from_slice(&first[written..]));
        }
        let behind_data = behind_first.saturating_sub(data.len());
        self.queue.push(data.split_off(behind_first.min(data.len())));
        self.queue.push(Bytes::from_static(&last[behind_data.min(last.len())..]));
    }

    fn poll<T: ClientStream>(
        &mut self,
        context: &mut Context<'_>,
        io: &ClientIo<T>,
    ) -> Poll<io::Result<()>> {
        let mut moved = false;
        let written = self.queue.poll_write(|slices| {
            let written = io.poll_write(context, slices);
            moved |= matches!(written, Poll::Ready(Ok(1..)));
            written
        });
        if moved {
            self.blocked_since = self.blocked_since.map(|_| Instant::now());
            self.unflushed = true;
        }
        ready!(written)?;
        // A queue that was long keeps its room otherwise.
        self.queue = OutQueue::default();
        ready!(io.poll_flush(context))?;
        self.unflushed = false;
        Poll::Ready(Ok(()))
    }
}

/// A request's view of its connection.
pub(crate) struct Watch<T>(pub(super) Rc<Client<T>>);

impl<T> Clone for Watch<T> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

impl<T: ClientStream> ClientWatch for Watch<T> {
    fn poll_left(&self, context: &mut Context<'_>) -> Poll<()> {
        if self.0.is_body_read() {
            self.0.poll_read_ahead(context)
        } else {
            self.0.poll_probes(context)
        }
    }

    fn close_after_response(&self) {
        self.0.close.set(true);
    }

    fn set_trusted(&self) {
        self.0.trusted.set(true);
        self.0.keyed.set(true);
        self.0.place.works();
    }

    fn tunnel(&self, tunnel: Tunnel) -> bool {
        self.0.tunnel.replace(Some(tunnel));
        true
    }
}
