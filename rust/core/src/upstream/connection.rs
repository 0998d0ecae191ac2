//! Connections to engines: opening, reading, writing, and the pool of idle ones.
//!
//! They are polled inside the task of the client whose request they carry: no channel, no second
//! task.

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use rustix::net::RecvFlags;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream},
};
use tokio_util::io::poll_read_buf;

use sans_io::table::{Address, Instance};

/// Room for one read, and the most room when an engine sends faster than that.
const READ: usize = 16 * 1024;
const READ_MOST: usize = 128 * 1024;
/// With less room than this a read gets a fresh buffer.
const READ_LEAST: usize = 4 * 1024;
/// The most slices of one write.
const SLICES: usize = 16;

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

    /// One non-blocking look: an idle connection must have nothing to read, not even its end.
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
    /// Bytes that were read and not yet used.
    pub(crate) buffer: BytesMut,
    read_size: usize,
    /// Requests that it has carried, this one included.
    pub(crate) requests: u32,
    /// A request or its response is not whole: closing it must reset it.
    pub(crate) unfinished: bool,
}

impl Drop for Connection {
    /// A plain close would leave its end behind bytes that an engine does not read, perhaps for
    /// ever; a reset overtakes them. (A Unix socket's end is seen at once.)
    fn drop(&mut self) {
        if let (true, Stream::Tcp(stream)) = (self.unfinished, &self.stream) {
            let _ = rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO));
        }
    }
}

impl Connection {
    /// Whether an idle one has nothing to read.
    pub(super) fn is_quiet(&self) -> bool {
        self.stream.is_quiet()
    }

    /// Opens one, within `limit`.
    pub(crate) async fn open(instance: &Instance, limit: Option<Duration>) -> io::Result<Self> {
        let opening = open_stream(&instance.address);
        let stream = match limit {
            Some(limit) => tokio::time::timeout(limit, opening).await.map_err(|_| {
                io::Error::new(io::ErrorKind::TimedOut, "no connection within the limit")
            })??,
            None => opening.await?,
        };
        Ok(Self { stream, buffer: BytesMut::new(), read_size: READ, requests: 1, unfinished: true })
    }

    /// Whether it was used before: then the engine may have closed it without our knowing.
    pub(crate) fn is_reused(&self) -> bool {
        self.requests > 1
    }

    /// Reads once, behind what the buffer holds. 0 is the end.
    pub(crate) fn poll_fill(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.buffer.capacity() - self.buffer.len() < READ_LEAST {
            self.buffer.reserve(self.read_size);
        }
        let room = self.buffer.capacity() - self.buffer.len();
        let count = ready!(poll_read_buf(Pin::new(&mut self.stream), context, &mut self.buffer))?;
        if count == room {
            self.read_size = (self.read_size * 2).min(READ_MOST);
        }
        Poll::Ready(Ok(count))
    }

    /// Writes a queue until it is empty.
    pub(crate) fn poll_send(
        &mut self,
        context: &mut Context<'_>,
        queue: &mut OutQueue,
    ) -> Poll<io::Result<()>> {
        while !queue.pieces.is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let filled = slices
                .iter_mut()
                .zip(&queue.pieces)
                .map(|(slice, piece)| *slice = IoSlice::new(piece))
                .count();
            let count = ready!(self.stream.poll_write_vectored(context, &slices[..filled]))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            queue.advance(count);
        }
        Poll::Ready(Ok(()))
    }
}

async fn open_stream(address: &Address) -> io::Result<Stream> {
    let stream = match address {
        Address::Unix(path) => return open_unix(path).await.map(Stream::Unix),
        Address::Tcp(address) => TcpStream::connect(address).await?,
        Address::Host(host, port) => TcpStream::connect((host.as_str(), *port)).await?,
    };
    stream.set_nodelay(true)?;
    Ok(Stream::Tcp(stream))
}

/// A Unix socket whose listener's backlog is full answers EAGAIN at once instead of letting us wait
/// (llama.cpp's holds five). So we wait ourselves; the caller's limit ends it.
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

/// Bytes on their way to an engine.
#[derive(Debug, Default)]
pub(crate) struct OutQueue {
    pieces: VecDeque<Bytes>,
}

impl OutQueue {
    pub(crate) fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.pieces.push_back(piece);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    #[cfg(test)]
    pub(crate) fn take_all(&mut self) -> Vec<u8> {
        self.pieces.drain(..).flatten().collect()
    }

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
        let _first = Connection::open(&instance, None).await.unwrap();
        let waiting = Connection::open(&instance, Some(Duration::from_secs(10)));
        let accept = async {
            tokio::time::sleep(Duration::from_millis(30)).await;
            rustix::net::accept(&socket).unwrap()
        };
        let (second, _accepted) = tokio::join!(waiting, accept);
        assert!(second.is_ok());
        let late = Connection::open(&instance, Some(Duration::from_millis(50))).await;
        assert_eq!(late.err().unwrap().kind(), io::ErrorKind::TimedOut);
        let _ = std::fs::remove_file(path);
    }

    #[tokio::test]
    async fn a_queue_of_many_pieces_is_written_whole() {
        let (listener, path) = listen("queue");
        let mut connection =
            Connection::open(&instance(&path, Duration::ZERO, 0), None).await.unwrap();
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
        let ((), read) = tokio::join!(send, receive);
        read.unwrap();
        assert_eq!(received, expected);
        let _ = std::fs::remove_file(path);
    }
}
