//! The client's side of a connection under hyper: it notices that a client has gone while its
//! request is in flight.
//!
//! Bare hyper stops reading while a request is answered if anything lies behind the request (a
//! trailing CRLF, a pipelined request), and then does not see the end of the connection. So the
//! request's own task reads ahead, into a small buffer.

use std::{
    cell::{Cell, RefCell},
    future::{Future, poll_fn},
    io::{self, IoSlice},
    os::fd::AsFd,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, BytesMut};
use rustix::event::{PollFd, PollFlags, Timespec};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream},
    time::{Instant, Sleep},
};
use tokio_rustls::server::TlsStream;
use tokio_util::io::poll_read_buf;

use crate::client::tunnel::Tunnel;

/// The most that is read ahead of a request; a client that sends more before it has its answer is
/// cut.
const AHEAD: usize = 16 * 1024;

/// What the first read of a connection asks for.
const FIRST: usize = 4 * 1024;

/// How often a client whose bytes nobody reads is looked at.
const LOOK: Duration = Duration::from_millis(250);

/// What a request in flight can know of, and do to, its client's connection.
pub(crate) trait ClientWatch {
    /// Ready when the client has left. Once its request's body was read, what it sends is read
    /// ahead; before that its socket is only looked at, now and then.
    fn poll_left(&self, context: &mut Context<'_>) -> Poll<()>;

    /// Ends the connection after the answer, without hurting the answer: what the client still
    /// sends is read and thrown away for a while, since closing a socket with unread bytes would
    /// reset it under the client's eyes.
    fn close_after_response(&self);

    /// Says whether the request's body was read to its end. While it was not, the connection, if it
    /// ends with the response, is treated as after `close_after_response`.
    fn set_body_read(&self, read: bool);

    /// Takes the engine's side of a tunnel, which begins when the answer, a 101, has been sent.
    /// False: this protocol has no tunnels (HTTP/2), and the 101 must not be sent.
    fn tunnel(&self, tunnel: Tunnel) -> bool;
}

/// No watch: HTTP/2's `RST_STREAM` drops the request's future or body by itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NoWatch;

impl ClientWatch for NoWatch {
    fn poll_left(&self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }

    fn close_after_response(&self) {}

    fn set_body_read(&self, _: bool) {}

    fn tunnel(&self, _: Tunnel) -> bool {
        false
    }
}

/// A client's stream, of whatever kind.
pub(crate) trait ClientStream: AsyncRead + AsyncWrite + Unpin {
    /// Whether the client has closed its side, even if bytes before that were not read.
    fn is_closed_by_client(&self) -> bool;
}

impl ClientStream for TcpStream {
    fn is_closed_by_client(&self) -> bool {
        is_hung_up(self)
    }
}

/// Over TLS too the socket's end is what tells: a client that leaves ends both.
impl ClientStream for TlsStream<TcpStream> {
    fn is_closed_by_client(&self) -> bool {
        is_hung_up(self.get_ref().0)
    }
}

impl ClientStream for UnixStream {
    fn is_closed_by_client(&self) -> bool {
        is_hung_up(self)
    }
}

fn is_hung_up(socket: &impl AsFd) -> bool {
    let gone = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
    let mut looked_at = [PollFd::new(socket, gone)];
    let polled = rustix::event::poll(&mut looked_at, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
    polled.is_ok() && looked_at[0].revents().intersects(gone)
}

/// The stream that hyper reads and writes.
pub(crate) struct ClientIo<T> {
    shared: Rc<Shared<T>>,
}

/// A request's view of that stream.
pub(crate) struct StreamWatch<T> {
    shared: Rc<Shared<T>>,
}

struct Shared<T> {
    stream: RefCell<ReadAhead<T>>,
    close: Cell<bool>,
    /// The body of the request in flight was read to its end.
    body_read: Cell<bool>,
    tunnel: RefCell<Option<Tunnel>>,
    next_look: RefCell<Option<Pin<Box<Sleep>>>>,
}

struct ReadAhead<T> {
    io: T,
    ahead: BytesMut,
    ended: bool,
    /// Our side has been ended.
    shut: bool,
}

impl<T> ClientIo<T> {
    pub(crate) fn new(io: T) -> (Self, StreamWatch<T>) {
        let stream =
            RefCell::new(ReadAhead { io, ahead: BytesMut::new(), ended: false, shut: false });
        let shared = Rc::new(Shared {
            stream,
            close: Cell::default(),
            body_read: Cell::new(true),
            tunnel: RefCell::default(),
            next_look: RefCell::default(),
        });
        (Self { shared: Rc::clone(&shared) }, StreamWatch { shared })
    }
}

impl<T> Clone for StreamWatch<T> {
    fn clone(&self) -> Self {
        Self { shared: Rc::clone(&self.shared) }
    }
}

impl<T> StreamWatch<T> {
    /// Whether an answer asked for the connection's end.
    pub(crate) fn must_close(&self) -> bool {
        self.shared.close.get()
    }

    /// Whether the client may still be sending when its connection ends.
    pub(crate) fn must_discard(&self) -> bool {
        self.shared.close.get() || !self.shared.body_read.get()
    }

    /// The tunnel that the last answer has opened.
    pub(crate) fn take_tunnel(&self) -> Option<Tunnel> {
        self.shared.tunnel.take()
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> StreamWatch<T> {
    /// Whether the first bytes are these. It reads no further than it must to tell, or what one
    /// read brings; nothing is lost.
    pub(crate) async fn begins_with(&self, start: &[u8]) -> bool {
        poll_fn(|context| {
            let stream = &mut *self.shared.stream.borrow_mut();
            loop {
                let known = stream.ahead.len().min(start.len());
                if stream.ended || stream.ahead[..known] != start[..known] {
                    return Poll::Ready(false);
                }
                if known == start.len() {
                    return Poll::Ready(true);
                }
                stream.ahead.reserve(FIRST);
                let read =
                    ready!(poll_read_buf(Pin::new(&mut stream.io), context, &mut stream.ahead));
                stream.ended = !matches!(read, Ok(1..));
            }
        })
        .await
    }

    /// Ends our side, unless that was done.
    pub(crate) async fn end(&self) {
        poll_fn(|context| {
            let stream = &mut *self.shared.stream.borrow_mut();
            if !stream.shut {
                let _ = ready!(Pin::new(&mut stream.io).poll_shutdown(context));
                stream.shut = true;
            }
            Poll::Ready(())
        })
        .await;
    }

    /// Ends our side, then reads and throws away what the client still sends, until it ends too.
    pub(crate) async fn discard(&self) {
        // An answer that broke off has not ended our side yet, and its client waits for that end.
        self.end().await;
        poll_fn(|context| {
            let stream = &mut *self.shared.stream.borrow_mut();
            while !stream.ended {
                stream.ahead.clear();
                stream.ahead.reserve(AHEAD);
                let read =
                    ready!(poll_read_buf(Pin::new(&mut stream.io), context, &mut stream.ahead));
                stream.ended = !matches!(read, Ok(1..));
            }
            Poll::Ready(())
        })
        .await;
    }
}

impl<T: ClientStream> StreamWatch<T> {
    /// Reads ahead until there is nothing to read, or too much, or the end.
    fn poll_gone(&self, context: &mut Context<'_>) -> Poll<()> {
        let stream = &mut *self.shared.stream.borrow_mut();
        while !stream.ended && stream.ahead.len() < AHEAD {
            let read = ready!(poll_read_buf(Pin::new(&mut stream.io), context, &mut stream.ahead));
            // A reset counts as the end that it is.
            stream.ended = !matches!(read, Ok(1..));
        }
        Poll::Ready(())
    }

    /// Looks at the socket now and then: while its bytes wait unread, nothing wakes us for an end
    /// behind them.
    fn poll_looks(&self, context: &mut Context<'_>) -> Poll<()> {
        let next_look = &mut *self.shared.next_look.borrow_mut();
        let next_look = next_look.get_or_insert_with(|| Box::pin(tokio::time::sleep(LOOK)));
        loop {
            ready!(next_look.as_mut().poll(context));
            if self.shared.stream.borrow().io.is_closed_by_client() {
                return Poll::Ready(());
            }
            next_look.as_mut().reset(Instant::now() + LOOK);
        }
    }
}

impl<T: ClientStream> ClientWatch for StreamWatch<T> {
    fn poll_left(&self, context: &mut Context<'_>) -> Poll<()> {
        if self.shared.body_read.get() { self.poll_gone(context) } else { self.poll_looks(context) }
    }

    fn close_after_response(&self) {
        self.shared.close.set(true);
    }

    fn set_body_read(&self, read: bool) {
        self.shared.body_read.set(read);
    }

    fn tunnel(&self, tunnel: Tunnel) -> bool {
        self.shared.tunnel.replace(Some(tunnel));
        true
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for ClientIo<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let stream = &mut *self.shared.stream.borrow_mut();
        if !stream.ahead.is_empty() {
            let length = stream.ahead.len().min(buffer.remaining());
            buffer.put_slice(&stream.ahead[..length]);
            stream.ahead.advance(length);
            if stream.ahead.is_empty() {
                // Most connections never need it again.
                stream.ahead = BytesMut::new();
            }
            return Poll::Ready(Ok(()));
        }
        if stream.ended {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut stream.io).poll_read(context, buffer)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for ClientIo<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.shared.stream.borrow_mut().io).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.shared.stream.borrow_mut().io).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.shared.stream.borrow().io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.shared.stream.borrow_mut().io).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let stream = &mut *self.shared.stream.borrow_mut();
        let ended = ready!(Pin::new(&mut stream.io).poll_shutdown(context));
        stream.shut = true;
        Poll::Ready(ended)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    impl ClientStream for tokio::io::DuplexStream {
        fn is_closed_by_client(&self) -> bool {
            false
        }
    }

    async fn is_gone<T: ClientStream>(watch: &StreamWatch<T>) -> bool {
        poll_fn(|context| Poll::Ready(watch.poll_left(context).is_ready())).await
    }

    #[tokio::test]
    async fn a_close_is_seen_behind_a_body_that_nobody_reads() {
        let (mut client, server) = UnixStream::pair().unwrap();
        let (_io, watch) = ClientIo::new(server);
        watch.set_body_read(false);
        client.write_all(&[b'x'; 100]).await.unwrap();
        let early =
            tokio::time::timeout(LOOK * 2, poll_fn(|context| watch.poll_left(context))).await;
        assert!(early.is_err());
        drop(client);
        poll_fn(|context| watch.poll_left(context)).await;
    }

    #[tokio::test]
    async fn a_close_is_seen_behind_bytes_that_nobody_reads_yet() {
        let (mut client, server) = tokio::io::duplex(64 * 1024);
        let (mut io, watch) = ClientIo::new(server);
        assert!(!is_gone(&watch).await);
        client.write_all(b"\r\nGET / HTTP/1.1\r\n").await.unwrap();
        assert!(!is_gone(&watch).await);
        drop(client);
        assert!(is_gone(&watch).await);
        let mut read = Vec::new();
        io.read_to_end(&mut read).await.unwrap();
        assert_eq!(read, b"\r\nGET / HTTP/1.1\r\n", "what was read ahead is not lost");
    }

    #[tokio::test]
    async fn a_client_that_sends_too_far_ahead_counts_as_gone() {
        let (mut client, server) = tokio::io::duplex(64 * 1024);
        let (_io, watch) = ClientIo::new(server);
        client.write_all(&vec![b'x'; AHEAD - 1]).await.unwrap();
        assert!(!is_gone(&watch).await);
        client.write_all(b"xx").await.unwrap();
        assert!(is_gone(&watch).await);
    }
}
