//! One connection to an engine: opening, reading and writing. Idle ones are in `pool`.
//!
//! A connection is polled inside the task of the client whose request it carries, without a channel
//! or a task of its own.

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    net::SocketAddr,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use rustix::{io::Errno, net::RecvFlags};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream, lookup_host},
    time::Instant,
};

use crate::{
    failure::is_shortage,
    scratch::{READ, Scratch},
    tcp::{self, Delivery},
};
use sans_io::{
    seam::Timeouts,
    table::{Address, Instance},
};

/// The most slices of one write.
const SLICES: usize = 16;

/// The socket, of either kind.
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Unix(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().stream.poll_write_vectored(context, &[IoSlice::new(bytes)])
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_shutdown(context),
            Stream::Unix(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

impl Stream {
    fn poll_write_vectored(
        &mut self,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(context, slices),
            Self::Unix(stream) => Pin::new(stream).poll_write_vectored(context, slices),
        }
    }

    /// Whether there is nothing to read, not even an end.
    fn is_quiet(&self) -> bool {
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        let peeked = match self {
            Self::Tcp(stream) => rustix::net::recv(stream, &mut [0_u8; 1], flags),
            Self::Unix(stream) => rustix::net::recv(stream, &mut [0_u8; 1], flags),
        };
        matches!(peeked, Err(rustix::io::Errno::AGAIN))
    }
}

/// A connection to an engine.
pub(crate) struct Connection {
    stream: Stream,
    /// Bytes that were read and not used yet.
    pub(crate) buffer: BytesMut,
    /// The last read was filled, and there may be as much to be read as then.
    sends_much: bool,
    scratch: Rc<Scratch>,
    /// The requests that it has carried, the present one included.
    pub(crate) requests: u32,
    /// Whether a request or its response is not whole, so that closing must reset the connection.
    pub(crate) unfinished: bool,
    /// The time to the engine and back: as long as connecting took; zero for a Unix socket.
    pub(super) round_trip: Duration,
}

impl Drop for Connection {
    /// Resets an unfinished TCP connection. The end of a plain close stands behind bytes that an
    /// engine may never read; a reset overtakes them. The end of a Unix socket is seen at once.
    fn drop(&mut self) {
        if let (true, Stream::Tcp(stream)) = (self.unfinished, &self.stream) {
            let _ = rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO));
        }
    }
}

impl Connection {
    /// Whether there is nothing to read, not even an end; else an idle connection is of no use.
    pub(super) fn is_quiet(&self) -> bool {
        self.stream.is_quiet()
    }

    /// Opens a connection within `limit`; None: however long it takes. The error is `TimedOut`, or
    /// the system's.
    pub(crate) async fn open(
        instance: &Instance,
        limit: Option<Duration>,
        scratch: &Rc<Scratch>,
    ) -> io::Result<Self> {
        let opening = open_stream(&instance.address);
        let (stream, round_trip) = match limit {
            Some(limit) => tokio::time::timeout(limit, opening).await.map_err(|_| {
                io::Error::new(io::ErrorKind::TimedOut, "no connection within the limit")
            })??,
            None => opening.await?,
        };
        Ok(Self {
            stream,
            buffer: BytesMut::new(),
            sends_much: false,
            scratch: Rc::clone(scratch),
            requests: 1,
            unfinished: true,
            round_trip,
        })
    }

    /// Makes the system notice an engine whose machine vanishes.
    pub(crate) fn keep_alive(&self, timeouts: &Timeouts) {
        if let Stream::Tcp(stream) = &self.stream
            && let Ok(peer) = stream.peer_addr()
        {
            tcp::notice_vanishing(stream, peer.ip(), timeouts);
        }
    }

    /// What the system knows of the bytes that were written; None: nothing, or it is a Unix socket.
    pub(super) fn delivery(&self, limit: Duration) -> Option<Delivery> {
        let Stream::Tcp(stream) = &self.stream else { return None };
        let asked = tcp::delivery(stream.local_addr().ok()?, stream.peer_addr().ok()?, limit);
        match asked {
            // To ask takes a descriptor. The next time there may be one.
            Err(error) if Errno::from_io_error(&error).is_some_and(is_shortage) => {
                Some(Delivery::Underway)
            }
            asked => asked.ok(),
        }
    }

    /// Whether it has carried requests before, so that it may be stale.
    pub(crate) fn is_reused(&self) -> bool {
        self.requests > 1
    }

    /// Reads once into the buffer, behind the bytes in it. Gives their number; 0: the end.
    pub(crate) fn poll_fill(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let stream = Pin::new(&mut self.stream);
        let read = if self.sends_much {
            self.scratch.poll_read_large(stream, context, &mut self.buffer)
        } else {
            self.scratch.poll_read(stream, context, &mut self.buffer)
        };
        match read {
            // A read that fills the room was cut by it.
            Poll::Ready(Ok(READ)) => self.sends_much = true,
            Poll::Ready(_) => {}
            Poll::Pending => self.sends_much = false,
        }
        read
    }

    /// Writes until the queue is empty.
    pub(crate) fn poll_send(
        &mut self,
        context: &mut Context<'_>,
        queue: &mut OutQueue,
    ) -> Poll<io::Result<()>> {
        queue.poll_write(|slices| self.stream.poll_write_vectored(context, slices))
    }
}

/// Connects to an address of either kind. Gives also the time that the connection itself took,
/// without the resolution of a name.
async fn open_stream(address: &Address) -> io::Result<(Stream, Duration)> {
    let (stream, round_trip) = match address {
        Address::Unix(path) => {
            return open_unix(path).await.map(|stream| (Stream::Unix(stream), Duration::ZERO));
        }
        Address::Tcp(address) => open_tcp(*address).await?,
        Address::Host(host, port) => open_host(host, *port).await?,
    };
    stream.set_nodelay(true)?;
    Ok((Stream::Tcp(stream), round_trip))
}

async fn open_tcp(address: SocketAddr) -> io::Result<(TcpStream, Duration)> {
    let begun = Instant::now();
    let stream = TcpStream::connect(address).await?;
    Ok((stream, begun.elapsed()))
}

/// Tries the addresses of a host in their order. The error is that of the last.
async fn open_host(host: &str, port: u16) -> io::Result<(TcpStream, Duration)> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    for address in lookup_host((host, port)).await? {
        match open_tcp(address).await {
            Ok(opened) => return Ok(opened),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Connects to a Unix socket. With a full backlog (llama.cpp's holds five) the system fails at once
/// with EAGAIN where TCP would wait, so the waiting is done here.
async fn open_unix(path: &std::path::Path) -> io::Result<UnixStream> {
    let mut pause = Duration::from_millis(1);
    loop {
        match UnixStream::connect(path).await {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                tokio::time::sleep(pause).await;
            }
            connected => return connected,
        }
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

/// Bytes to be written to a socket.
#[derive(Debug, Default)]
pub(crate) struct OutQueue {
    pieces: VecDeque<Bytes>,
}

impl OutQueue {
    /// Adds a piece behind the others; an empty one is left out.
    pub(crate) fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.pieces.push_back(piece);
        }
    }

    /// Whether everything was written.
    pub(crate) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// The bytes in it.
    pub(crate) fn bytes(&self) -> usize {
        self.pieces.iter().map(Bytes::len).sum()
    }

    /// Writes from the front until the queue is empty. `write` gets the first pieces, and says how
    /// many of their bytes were taken.
    pub(crate) fn poll_write(
        &mut self,
        mut write: impl FnMut(&[IoSlice<'_>]) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<()>> {
        while !self.pieces.is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let filled = slices
                .iter_mut()
                .zip(&self.pieces)
                .map(|(slice, piece)| *slice = IoSlice::new(piece))
                .count();
            let count = ready!(write(&slices[..filled]))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.advance(count);
        }
        Poll::Ready(Ok(()))
    }

    #[cfg(test)]
    pub(crate) fn take_all(&mut self) -> Vec<u8> {
        self.pieces.drain(..).flatten().collect()
    }

    /// Takes off bytes that were written.
    fn advance(&mut self, mut count: usize) {
        while let Some(front) = self.pieces.front_mut() {
            if count < front.len() {
                front.advance(count);
                return;
            }
            count -= front.len();
            self.pieces.pop_front();
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::future::poll_fn;

    use tokio::net::UnixListener;

    use std::sync::Arc;

    use super::*;
    use crate::bounded::bounded;
    use sans_io::test_support;

    pub(in crate::upstream) fn instance(
        path: &std::path::Path,
        idle_timeout: Duration,
        requests_per_connection: u32,
    ) -> Arc<Instance> {
        let mut entry = test_support::instance("a", &format!("unix:{}", path.display()));
        entry["idle_timeout"] = idle_timeout.as_secs_f64().into();
        entry["requests_per_connection"] = requests_per_connection.into();
        Arc::new(Instance::new(&test_support::read(entry), &"m".into()).unwrap())
    }

    pub(in crate::upstream) fn listen(name: &str) -> (UnixListener, std::path::PathBuf) {
        let path =
            std::env::temp_dir().join(format!("gpustack-fast-{name}-{}.sock", std::process::id()));
        let _ = std::fs::remove_file(&path);
        (UnixListener::bind(&path).unwrap(), path)
    }

    #[tokio::test]
    async fn a_full_backlog_is_waited_for() {
        let path =
            std::env::temp_dir().join(format!("gpustack-fast-backlog-{}.sock", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let socket = rustix::net::socket(
            rustix::net::AddressFamily::UNIX,
            rustix::net::SocketType::STREAM,
            None,
        )
        .unwrap();
        rustix::net::bind(&socket, &rustix::net::SocketAddrUnix::new(&path).unwrap()).unwrap();
        rustix::net::listen(&socket, 0).unwrap();
        let instance = instance(&path, Duration::from_millis(200), 0);
        let scratch = Rc::default();
        let _first = Connection::open(&instance, None, &Rc::default()).await.unwrap();
        let waiting = Connection::open(&instance, Some(Duration::from_secs(10)), &scratch);
        let accept = async {
            tokio::time::sleep(Duration::from_millis(30)).await;
            rustix::net::accept(&socket).unwrap()
        };
        let (second, _accepted) = bounded(async { tokio::join!(waiting, accept) }).await;
        assert!(second.is_ok());
        let late = Connection::open(&instance, Some(Duration::from_millis(50)), &scratch);
        let late = bounded(late).await;
        assert_eq!(late.err().unwrap().kind(), io::ErrorKind::TimedOut);
        let _ = std::fs::remove_file(path);
    }

    #[tokio::test]
    async fn a_queue_of_many_pieces_is_written_whole() {
        let (listener, path) = listen("queue");
        let mut connection =
            Connection::open(&instance(&path, Duration::ZERO, 0), None, &Rc::default())
                .await
                .unwrap();
        let (mut engine, _) = listener.accept().await.unwrap();
        let mut queue = OutQueue::default();
        let mut expected = Vec::new();
        for number in 0..1000_u32 {
            let piece = Bytes::from(number.to_string().repeat(number as usize % 7));
            expected.extend_from_slice(&piece);
            queue.push(piece);
        }
        let send = async {
            poll_fn(|context| connection.poll_send(context, &mut queue)).await.unwrap();
            drop(connection);
        };
        let mut received = Vec::new();
        let receive = tokio::io::AsyncReadExt::read_to_end(&mut engine, &mut received);
        let ((), read) = bounded(async { tokio::join!(send, receive) }).await;
        read.unwrap();
        assert_eq!(received, expected);
        let _ = std::fs::remove_file(path);
    }
}
