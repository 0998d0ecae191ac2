//! One client's stream, with the bytes that were read from it and not used yet.
//!
//! Reads go through a buffer of the worker's, so that a connection holds no more than what was
//! really received, and nothing while it is idle.

use std::{
    cell::RefCell,
    future::poll_fn,
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
};
use tokio_rustls::server::TlsStream;

use crate::{client::tunnel::Tunnel, scratch::Scratch, sock_diag};

/// The view that a request in flight has of its client's connection.
pub(crate) trait ClientWatch {
    /// Ready when the client has left. Behind the request's body the stream is read ahead; before
    /// the body's end, which the request reads, the socket is only probed now and then.
    fn poll_left(&self, context: &mut Context<'_>) -> Poll<()>;

    /// Ends the connection after the response. Bytes that the client still sends are discarded for
    /// a while: a socket that is closed with unread bytes is reset, and the client may lose the
    /// response.
    fn close_after_response(&self);

    /// Notes that the request has a good key, so that its connection is worth its place; see
    /// [`crate::client::places`].
    fn set_trusted(&self);

    /// Takes the engine's side of a tunnel, which begins when the response, a 101, was sent. False:
    /// this protocol has no tunnels (HTTP/2), and the 101 must not be sent.
    fn tunnel(&self, tunnel: Tunnel) -> bool;
}

/// A client's stream: TCP, TLS or a Unix socket.
pub(crate) trait ClientStream: AsyncRead + AsyncWrite + Unpin {
    /// The most that it holds of what was written and the socket has not taken, in bytes.
    const HOLDS: usize = 0;

    /// Whether the client has closed its side, even if bytes before that were not read.
    fn is_closed_by_client(&self) -> bool;

    /// Whether there is something to read, if only an end.
    fn is_readable(&self) -> bool;

    /// Whether the close is a reset, which discards what the client has not taken.
    fn reset_on_close(&self, is_reset: bool);

    /// Bytes that were written and that the client has not taken, as far as the system knows; None:
    /// it does not tell. To ask takes a descriptor and some system calls.
    fn unread(&self) -> Option<u64>;
}

impl ClientStream for TcpStream {
    fn is_closed_by_client(&self) -> bool {
        polls(self, HUNG_UP)
    }

    fn is_readable(&self) -> bool {
        polls(self, READABLE)
    }

    fn reset_on_close(&self, is_reset: bool) {
        let linger = is_reset.then_some(Duration::ZERO);
        let _ = rustix::net::sockopt::set_socket_linger(self, linger);
    }

    fn unread(&self) -> Option<u64> {
        sock_diag::tcp_unread(self.local_addr().ok()?, self.peer_addr().ok()?).ok()
    }
}

/// A client that leaves ends its socket, whether or not it ends TLS before.
impl ClientStream for TlsStream<TcpStream> {
    /// The limit that rustls has unless it is told another.
    const HOLDS: usize = 64 * 1024;

    fn is_closed_by_client(&self) -> bool {
        self.get_ref().0.is_closed_by_client()
    }

    fn is_readable(&self) -> bool {
        self.get_ref().0.is_readable()
    }

    fn reset_on_close(&self, is_reset: bool) {
        self.get_ref().0.reset_on_close(is_reset);
    }

    fn unread(&self) -> Option<u64> {
        self.get_ref().0.unread()
    }
}

impl ClientStream for UnixStream {
    fn is_closed_by_client(&self) -> bool {
        polls(self, HUNG_UP)
    }

    fn is_readable(&self) -> bool {
        polls(self, READABLE)
    }

    /// A Unix socket has no reset.
    fn reset_on_close(&self, _: bool) {}

    fn unread(&self) -> Option<u64> {
        sock_diag::unix_unread(self).ok()
    }
}

/// The other end of a socket was closed.
const HUNG_UP: PollFlags = PollFlags::RDHUP.union(PollFlags::HUP).union(PollFlags::ERR);
/// There is something to read.
const READABLE: PollFlags = HUNG_UP.union(PollFlags::IN);

/// Whether a socket has one of these events now.
fn polls(socket: &impl AsFd, events: PollFlags) -> bool {
    let mut probed = [PollFd::new(socket, events)];
    let polled = rustix::event::poll(&mut probed, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
    polled.is_ok() && probed[0].revents().intersects(events)
}

/// A handle of a client's stream; its clones are the same one.
pub(crate) struct ClientIo<T>(Rc<RefCell<Buffered<T>>>);

/// A stream with the bytes that were read ahead of its user.
struct Buffered<T> {
    io: T,
    /// Bytes that were read and not used yet.
    ahead: BytesMut,
    /// The client's side has ended, or is broken.
    ended: bool,
    /// Our side was ended.
    shut: bool,
}

impl<T> Clone for ClientIo<T> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

impl<T> ClientIo<T> {
    /// A stream of which nothing was read yet.
    pub(crate) fn new(io: T) -> Self {
        let (ahead, ended, shut) = (BytesMut::new(), false, false);
        Self(Rc::new(RefCell::new(Buffered { io, ahead, ended, shut })))
    }

    /// Bytes that were read and not used yet.
    pub(crate) fn ahead(&self) -> usize {
        self.0.borrow().ahead.len()
    }

    /// Uses bytes that were read: `take` removes them from the front of the buffer, whose memory
    /// is given back when nothing is left in it.
    pub(crate) fn take_ahead<R>(&self, take: impl FnOnce(&mut BytesMut) -> R) -> R {
        let ahead = &mut self.0.borrow_mut().ahead;
        let taken = take(ahead);
        if ahead.is_empty() {
            *ahead = BytesMut::new();
        }
        taken
    }
}

impl<T: ClientStream> ClientIo<T> {
    /// Reads once more. Ready with false: the client's side has ended, or is broken.
    pub(crate) fn poll_fill(&self, context: &mut Context<'_>, scratch: &Scratch) -> Poll<bool> {
        self.poll_read_ahead(|io, ahead| scratch.poll_read(io, context, ahead))
    }

    /// As `poll_fill`, where much is expected: what comes in large pieces is not copied.
    pub(crate) fn poll_fill_large(
        &self,
        context: &mut Context<'_>,
        scratch: &Scratch,
    ) -> Poll<bool> {
        self.poll_read_ahead(|io, ahead| scratch.poll_read_large(io, context, ahead))
    }

    /// Reads by `read`, unless the client's side has ended.
    fn poll_read_ahead(
        &self,
        read: impl FnOnce(Pin<&mut T>, &mut BytesMut) -> Poll<io::Result<usize>>,
    ) -> Poll<bool> {
        let stream = &mut *self.0.borrow_mut();
        if !stream.ended {
            let read = ready!(read(Pin::new(&mut stream.io), &mut stream.ahead));
            // A reset is an end, too.
            stream.ended = !matches!(read, Ok(1..));
        }
        Poll::Ready(!stream.ended)
    }

    /// Whether the first bytes are these. It reads until that is decided; no byte is lost.
    pub(crate) async fn begins_with(&self, start: &[u8], scratch: &Scratch) -> bool {
        poll_fn(|context| {
            loop {
                {
                    let ahead = &self.0.borrow().ahead;
                    let known = ahead.len().min(start.len());
                    if ahead[..known] != start[..known] {
                        return Poll::Ready(false);
                    }
                    if known == start.len() {
                        return Poll::Ready(true);
                    }
                }
                if !ready!(self.poll_fill(context, scratch)) {
                    return Poll::Ready(false);
                }
            }
        })
        .await
    }

    /// Whether the client has closed its side, even if bytes before that were not read.
    pub(crate) fn is_closed_by_client(&self) -> bool {
        self.0.borrow().io.is_closed_by_client()
    }

    /// Whether there is something to read, if only an end.
    pub(crate) fn is_readable(&self) -> bool {
        self.0.borrow().io.is_readable()
    }

    /// Whether the close is a reset, which discards what the client has not taken.
    pub(crate) fn reset_on_close(&self, is_reset: bool) {
        self.0.borrow().io.reset_on_close(is_reset);
    }

    /// Bytes that were written and that the client has not taken; see [`ClientStream::unread`].
    pub(crate) fn unread(&self) -> Option<u64> {
        self.0.borrow().io.unread()
    }

    /// As `unread`, to be asked by those who must not keep the stream open.
    pub(crate) fn unread_while_open(&self) -> impl Fn() -> Option<u64> + use<T> {
        let stream = Rc::downgrade(&self.0);
        move || stream.upgrade()?.borrow().io.unread()
    }

    /// Writes as much as the socket takes at once.
    pub(crate) fn poll_write(
        &self,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let io = &mut self.0.borrow_mut().io;
        match slices {
            // One piece costs the system less by itself.
            [slice] => Pin::new(io).poll_write(context, slice),
            _ => Pin::new(io).poll_write_vectored(context, slices),
        }
    }

    /// Hands what was written to the system (TLS holds encrypted bytes back).
    pub(crate) fn poll_flush(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.borrow_mut().io).poll_flush(context)
    }

    /// Ends our side, unless that was done before.
    pub(crate) async fn end(&self) {
        poll_fn(|context| {
            let stream = &mut *self.0.borrow_mut();
            if !stream.shut {
                let _ = ready!(Pin::new(&mut stream.io).poll_shutdown(context));
                stream.shut = true;
            }
            Poll::Ready(())
        })
        .await;
    }

    /// Ends our side, then discards what the client still sends, until it ends its side.
    pub(crate) async fn discard(&self, scratch: &Scratch) {
        // A response that was truncated has not ended our side yet, and its client waits for that.
        self.end().await;
        poll_fn(|context| {
            loop {
                self.take_ahead(BytesMut::clear);
                if !ready!(self.poll_fill(context, scratch)) {
                    return Poll::Ready(());
                }
            }
        })
        .await;
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for ClientIo<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let stream = &mut *self.0.borrow_mut();
        if !stream.ahead.is_empty() {
            let length = stream.ahead.len().min(buffer.remaining());
            buffer.put_slice(&stream.ahead[..length]);
            stream.ahead.advance(length);
            if stream.ahead.is_empty() {
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
        Pin::new(&mut self.0.borrow_mut().io).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0.borrow_mut().io).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.borrow().io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.borrow_mut().io).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let stream = &mut *self.0.borrow_mut();
        let ended = ready!(Pin::new(&mut stream.io).poll_shutdown(context));
        stream.shut = true;
        Poll::Ready(ended)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::bounded::bounded;

    impl ClientStream for tokio::io::DuplexStream {
        fn is_closed_by_client(&self) -> bool {
            false
        }

        fn is_readable(&self) -> bool {
            false
        }

        fn reset_on_close(&self, _: bool) {}

        fn unread(&self) -> Option<u64> {
            None
        }
    }

    #[tokio::test]
    async fn what_was_read_ahead_is_not_lost_and_its_memory_is_given_back() {
        let (mut client, server) = tokio::io::duplex(64 * 1024);
        let (io, scratch) = (ClientIo::new(server), Scratch::default());
        client.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
        assert!(!io.begins_with(b"PRI", &scratch).await);
        client.write_all(b"\r\n").await.unwrap();
        assert!(poll_fn(|context| io.poll_fill_large(context, &scratch)).await);
        drop(client);
        assert_eq!(io.ahead(), 18);
        let mut read = Vec::new();
        bounded(io.clone().read_to_end(&mut read)).await.unwrap();
        assert_eq!(read, b"GET / HTTP/1.1\r\n\r\n");
        assert_eq!(io.0.borrow().ahead.capacity(), 0);
        assert!(!bounded(poll_fn(|context| io.poll_fill(context, &scratch))).await);
    }
}
