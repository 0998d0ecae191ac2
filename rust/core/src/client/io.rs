//! The client's stream under hyper, which notices that a client leaves while its request is in
//! flight.
//!
//! hyper alone stops reading during a response if anything lies behind the request, such as a CRLF
//! or a pipelined request. It does not see the end of the connection then. So the request's own
//! task reads ahead, into a small buffer.

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

/// The most that is read ahead, in bytes. A client that sends more before it has its response
/// counts as one that has left.
const AHEAD: usize = 16 * 1024;

/// The room for the first read of a connection, in bytes.
const FIRST: usize = 4 * 1024;

/// The time between two probes of a client whose bytes nobody reads.
const PROBE: Duration = Duration::from_millis(250);

/// The view that a request in flight has of its client's connection.
pub(crate) trait ClientWatch {
    /// Ready when the client has left. Behind the request's body the stream is read ahead; before
    /// the body's end, which hyper reads, the socket is only probed now and then.
    fn poll_left(&self, context: &mut Context<'_>) -> Poll<()>;

    /// Ends the connection after the response. Bytes that the client still sends are discarded for
    /// a while: a socket that is closed with unread bytes is reset, and the client may lose the
    /// response.
    fn close_after_response(&self);

    /// Sets whether the request's body was read to its end. If it was not when the connection ends,
    /// bytes are discarded as after `close_after_response`.
    fn set_body_read(&self, read: bool);

    /// Takes the engine's side of a tunnel, which begins when the response, a 101, was sent. False:
    /// this protocol has no tunnels (HTTP/2), and the 101 must not be sent.
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

/// A client's stream: TCP, TLS or a Unix socket.
pub(crate) trait ClientStream: AsyncRead + AsyncWrite + Unpin {
    /// Whether the client has closed its side, even if bytes before that were not read.
    fn is_closed_by_client(&self) -> bool;
}

impl ClientStream for TcpStream {
    fn is_closed_by_client(&self) -> bool {
        is_hung_up(self)
    }
}

/// A client that leaves ends its socket, whether or not it ends TLS before.
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

/// Whether the other end of a socket was closed.
fn is_hung_up(socket: &impl AsFd) -> bool {
    let gone = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
    let mut probed = [PollFd::new(socket, gone)];
    let polled = rustix::event::poll(&mut probed, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
    polled.is_ok() && probed[0].revents().intersects(gone)
}

/// The stream that hyper reads and writes.
pub(crate) struct ClientIo<T> {
    shared: Rc<Shared<T>>,
}

/// A request's view of that stream.
pub(crate) struct StreamWatch<T> {
    shared: Rc<Shared<T>>,
}

/// The state of both views.
struct Shared<T> {
    stream: RefCell<ReadAhead<T>>,
    /// A response asked for the connection's end.
    close: Cell<bool>,
    /// The body of the request in flight was read to its end.
    body_read: Cell<bool>,
    /// The tunnel that the last response opens.
    tunnel: RefCell<Option<Tunnel>>,
    /// None: no probe was necessary yet.
    next_probe: RefCell<Option<Pin<Box<Sleep>>>>,
}

/// A stream with the bytes that were read ahead of it.
struct ReadAhead<T> {
    io: T,
    /// Bytes that hyper has not read yet.
    ahead: BytesMut,
    /// The client's side has ended, or is broken.
    ended: bool,
    /// Our side was ended.
    shut: bool,
}

impl<T> ClientIo<T> {
    /// Both views of one stream.
    pub(crate) fn new(io: T) -> (Self, StreamWatch<T>) {
        let stream =
            RefCell::new(ReadAhead { io, ahead: BytesMut::new(), ended: false, shut: false });
        let shared = Rc::new(Shared {
            stream,
            close: Cell::default(),
            body_read: Cell::new(true),
            tunnel: RefCell::default(),
            next_probe: RefCell::default(),
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
    /// Whether a response asked for the connection's end.
    pub(crate) fn must_close(&self) -> bool {
        self.shared.close.get()
    }

    /// Whether the client may still be sending when its connection ends.
    pub(crate) fn must_discard(&self) -> bool {
        self.shared.close.get() || !self.shared.body_read.get()
    }

    /// The tunnel that the last response opens, once.
    pub(crate) fn take_tunnel(&self) -> Option<Tunnel> {
        self.shared.tunnel.take()
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> StreamWatch<T> {
    /// Whether the first bytes are these. It reads until that is decided; no byte is lost.
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

    /// Ends our side, unless that was done before.
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

    /// Ends our side, then discards what the client still sends, until it ends its side.
    pub(crate) async fn discard(&self) {
        // A response that was truncated has not ended our side yet, and its client waits for that.
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
    /// Reads ahead. Ready at the stream's end, or when too much was read; see [`AHEAD`].
    fn poll_read_ahead(&self, context: &mut Context<'_>) -> Poll<()> {
        let stream = &mut *self.shared.stream.borrow_mut();
        while !stream.ended && stream.ahead.len() < AHEAD {
            let read = ready!(poll_read_buf(Pin::new(&mut stream.io), context, &mut stream.ahead));
            // A reset is an end, too.
            stream.ended = !matches!(read, Ok(1..));
        }
        Poll::Ready(())
    }

    /// Probes the socket now and then. While bytes wait unread, nothing wakes the task for an end
    /// behind them.
    fn poll_probes(&self, context: &mut Context<'_>) -> Poll<()> {
        let next_probe = &mut *self.shared.next_probe.borrow_mut();
        let next_probe = next_probe.get_or_insert_with(|| Box::pin(tokio::time::sleep(PROBE)));
        loop {
            ready!(next_probe.as_mut().poll(context));
            if self.shared.stream.borrow().io.is_closed_by_client() {
                return Poll::Ready(());
            }
            next_probe.as_mut().reset(Instant::now() + PROBE);
        }
    }
}

impl<T: ClientStream> ClientWatch for StreamWatch<T> {
    fn poll_left(&self, context: &mut Context<'_>) -> Poll<()> {
        if self.shared.body_read.get() {
            self.poll_read_ahead(context)
        } else {
            self.poll_probes(context)
        }
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
                // Most connections never read ahead again.
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
            tokio::time::timeout(PROBE * 2, poll_fn(|context| watch.poll_left(context))).await;
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
