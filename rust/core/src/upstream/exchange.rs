//! One attempt: a request on its way to one instance, and that instance's answer on its way back.
//!
//! Both directions are polled together, since an engine may answer before it has read the request;
//! and a write error is not the end, since the answer may already lie in the socket.

use std::{
    io,
    task::{Context, Poll},
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
        pool::Pool,
        slot::Slot,
        upload::Upload,
    },
};
use sans_io::{
    codec::http1::{self, Decoder, KeepAlive, ResponseHead},
    seam::Timeouts,
    table::Instance,
};

/// A pooled connection that ends sooner than this after it was taken, without a byte, was closed by
/// the engine before it saw the request.
const STALE: Duration = Duration::from_millis(50);

/// A request's head toward an engine, without its framing field and empty line: they depend on the
/// body and are added when it is sent.
pub(crate) struct RequestHead {
    pub(crate) head: BytesMut,
    /// The body's length; None: chunked.
    pub(crate) length: Option<u64>,
    /// An empty body needs no word: the method has none by nature.
    pub(crate) bodiless: bool,
    pub(crate) to_head_request: bool,
    /// It asks for another protocol.
    pub(crate) upgrade: bool,
}

/// See the module.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a fact of its own, about one direction or the other"
)]
pub(crate) struct Exchange<B> {
    upload: Box<Upload<B>>,
    slot: Slot,
    /// None: it has ended.
    connection: Option<Connection>,
    queue: OutQueue,
    chunked: bool,
    /// The engine reads no more, or has answered: what is left of the request stays here.
    sending_stopped: bool,
    to_head_request: bool,
    upgrade: bool,
    decoder: Option<Decoder>,
    until_close: bool,
    keep_alive: bool,
    keep_alive_limits: KeepAlive,
    any_byte: bool,
    started: Instant,
    /// When something last moved.
    moved: Instant,
    /// Body data of the answer has come.
    framed: bool,
    limits: Timeouts,
    timer: PhaseTimer,
}

impl<B: Body<Data = Bytes> + Unpin> Exchange<B>
where
    B::Error: std::error::Error + 'static,
{
    /// Begins an attempt.
    pub(crate) fn new(
        connection: Connection,
        slot: Slot,
        upload: Box<Upload<B>>,
        request: RequestHead,
        limits: Timeouts,
    ) -> Box<Self> {
        let RequestHead { mut head, length, bodiless, to_head_request, upgrade } = request;
        match length {
            Some(0) if bodiless => head.extend_from_slice(b"\r\n"),
            Some(length) => {
                head.extend_from_slice(b"content-length: ");
                head.extend_from_slice(itoa::Buffer::new().format(length).as_bytes());
                head.extend_from_slice(b"\r\n\r\n");
            }
            None => head.extend_from_slice(b"transfer-encoding: chunked\r\n\r\n"),
        }
        let mut queue = OutQueue::default();
        queue.push(head.freeze());
        let now = Instant::now();
        Box::new(Self {
            upload,
            slot,
            connection: Some(connection),
            queue,
            chunked: length.is_none(),
            sending_stopped: false,
            to_head_request,
            upgrade,
            decoder: None,
            until_close: false,
            keep_alive: false,
            keep_alive_limits: KeepAlive::default(),
            any_byte: false,
            started: now,
            moved: now,
            framed: false,
            limits,
            timer: PhaseTimer::default(),
        })
    }

    /// Waits for the head of the answer, sending meanwhile.
    pub(crate) fn poll_head(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<ResponseHead, Failure>> {
        loop {
            self.send(context)?;
            let Some(connection) = &mut self.connection else {
                return Poll::Ready(Err(Failure::ConnectionLost(closed("the exchange is over"))));
            };
            if self.any_byte
                && let Some(head) = http1::take_response_head(
                    &mut connection.buffer,
                    self.to_head_request,
                    self.upgrade,
                )
                .map_err(Failure::Protocol)?
            {
                return Poll::Ready(Ok(self.take_answer(head)));
            }
            match connection.poll_fill(context) {
                Poll::Ready(Ok(1..)) => {
                    self.any_byte = true;
                    self.moved = Instant::now();
                }
                Poll::Ready(Ok(0)) => {
                    return Poll::Ready(Err(self.lost(closed("it closed the connection"))));
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(self.lost(error))),
                Poll::Pending => return self.wait(context).map(Err),
            }
        }
    }

    fn take_answer(&mut self, head: http1::ParsedHead) -> ResponseHead {
        // The request's rest is of no use to an engine that has answered.
        self.sending_stopped |= !self.is_delivered();
        self.until_close = head.decoder == Decoder::CloseDelimited;
        self.decoder = Some(head.decoder);
        self.keep_alive = head.keep_alive;
        self.keep_alive_limits = head.keep_alive_limits;
        ResponseHead {
            status: head.status,
            headers: head.headers,
            content_length: head.content_length,
        }
    }

    /// The next piece of the answer's body; empty only when the body ends with it (`is_done`).
    pub(crate) fn poll_data(&mut self, context: &mut Context<'_>) -> Poll<Result<Bytes, Failure>> {
        let (Some(decoder), Some(connection)) = (&mut self.decoder, &mut self.connection) else {
            return Poll::Ready(Err(Failure::ConnectionLost(closed("the exchange is over"))));
        };
        loop {
            if !connection.buffer.is_empty() || decoder.is_done() {
                let piece = decoder.decode(&mut connection.buffer).map_err(Failure::Protocol)?;
                if !piece.data.is_empty() || piece.done {
                    self.framed = true;
                    return Poll::Ready(Ok(piece.data));
                }
            }
            match connection.poll_fill(context) {
                Poll::Ready(Ok(1..)) => self.moved = Instant::now(),
                Poll::Ready(Ok(0)) if *decoder == Decoder::CloseDelimited => {
                    *decoder = Decoder::Length(0);
                }
                Poll::Ready(Ok(0)) => {
                    let error = closed("it closed the connection inside its response");
                    return Poll::Ready(Err(Failure::ConnectionLost(error)));
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(Failure::ConnectionLost(error))),
                Poll::Pending => return self.wait(context).map(Err),
            }
        }
    }

    /// Whether the answer's body is whole.
    pub(crate) fn is_done(&self) -> bool {
        self.decoder.as_ref().is_some_and(Decoder::is_done)
    }

    /// The exact number of body bytes to come, where the answer's framing tells it.
    pub(crate) fn remaining(&self) -> Option<u64> {
        self.decoder.as_ref().and_then(Decoder::remaining)
    }

    /// Whether the answer's end is the connection's end, so that a death looks like an end.
    pub(crate) fn was_until_close(&self) -> bool {
        self.until_close
    }

    /// Ends it after a whole answer: the connection goes back to the pool if nothing speaks against
    /// its use.
    pub(crate) fn finish(&mut self, pool: &Pool) {
        let delivered = self.is_delivered();
        let clean = self.is_done() && delivered && self.keep_alive && !self.sending_stopped;
        self.slot.give_back();
        let Some(mut connection) = self.connection.take() else { return };
        connection.unfinished = !delivered;
        if clean && connection.buffer.is_empty() {
            pool.put(&self.slot.instance, connection, self.keep_alive_limits);
        }
    }

    /// The connection, which speaks another protocol from now on, and the slot that it holds; the
    /// request's body where it has ended.
    pub(crate) fn into_upgraded(self: Box<Self>) -> Result<(Connection, Slot), Box<Upload<B>>> {
        let Self { connection, mut slot, upload, .. } = *self;
        slot.lingers = false;
        connection.map(|connection| (connection, slot)).ok_or(upload)
    }

    /// The request's body.
    pub(crate) fn upload(&self) -> &Upload<B> {
        &self.upload
    }

    /// Who answers.
    pub(crate) fn instance(&self) -> &Instance {
        &self.slot.instance
    }

    /// Ends it at once: the connection closes, which stops the engine's work.
    pub(crate) fn abort(&mut self) {
        self.connection = None;
        self.slot.release();
    }

    /// Whether it has ended.
    pub(crate) fn is_over(&self) -> bool {
        self.connection.is_none()
    }

    /// The request's body, for another attempt.
    pub(crate) fn into_upload(self: Box<Self>) -> Box<Upload<B>> {
        self.upload
    }

    /// The same after an answer that is not passed on: the engine is done with the request.
    pub(crate) fn into_upload_after_answer(mut self: Box<Self>) -> Box<Upload<B>> {
        self.slot.give_back();
        self.upload
    }

    fn is_delivered(&self) -> bool {
        self.upload.is_sent() && self.queue.is_empty()
    }

    /// Moves the request on as far as both sides allow.
    fn send(&mut self, context: &mut Context<'_>) -> Result<(), Failure> {
        while !self.sending_stopped {
            self.upload.send_into(&mut self.queue, self.chunked);
            let Some(connection) = &mut self.connection else {
                return Ok(());
            };
            if !self.queue.is_empty() {
                match connection.poll_send(context, &mut self.queue) {
                    Poll::Ready(Ok(())) => {
                        self.moved = Instant::now();
                        self.slot.lingers = !self.upload.asks_stream();
                    }
                    Poll::Ready(Err(_)) => self.sending_stopped = true,
                    Poll::Pending => return Ok(()),
                }
            } else if self.upload.is_sent() {
                return Ok(());
            } else if self.upload.poll_receive(context)?.is_ready() {
                self.moved = Instant::now();
            } else {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Nothing moves: which limit does that use up?
    fn wait(&mut self, context: &mut Context<'_>) -> Poll<Failure> {
        let waits_for_client = self.decoder.is_none()
            && !self.sending_stopped
            && self.queue.is_empty()
            && !self.upload.is_whole();
        let (limit, failure): (_, fn() -> Failure) = if waits_for_client {
            (self.limits.body, || Failure::BodyTimeout)
        } else if self.framed {
            (self.limits.idle, || Failure::IdleTimeout)
        } else {
            (self.limits.first_frame, || Failure::FirstFrameTimeout)
        };
        self.timer.poll(context, self.moved, limit).map(|()| failure())
    }

    /// The connection ended before the response's head.
    fn lost(&mut self, error: io::Error) -> Failure {
        self.slot.lingers = false;
        let reused = self.connection.as_ref().is_some_and(Connection::is_reused);
        if reused && !self.any_byte && self.started.elapsed() < STALE {
            return Failure::StaleConnection;
        }
        Failure::ConnectionLost(error)
    }
}

/// An end of the connection where more was to come.
pub(crate) fn closed(when: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, when)
}
