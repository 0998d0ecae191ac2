//! `http://HOST:PORT` or `unix:PATH`: listening there and connecting there.

use std::io;
use std::path::PathBuf;

use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

/// Where a server listens.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "String")]
pub enum Address {
    /// `HOST:PORT`.
    Tcp(String),
    /// The path of a socket.
    Unix(PathBuf),
}

impl TryFrom<String> for Address {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            Ok(Self::Unix(path.into()))
        } else if let Some(authority) = text.strip_prefix("http://") {
            Ok(Self::Tcp(authority.trim_end_matches('/').to_owned()))
        } else {
            Err(format!("`{text}` is no address: write http://HOST:PORT or unix:PATH"))
        }
    }
}

/// A connection of either kind.
pub trait Connection: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Connection for T {}

/// A connection of either kind, in a box.
pub type BoxedConnection = Box<dyn Connection>;

impl Address {
    /// Opens a connection, with `TCP_NODELAY` where there is TCP.
    pub async fn connect(&self) -> io::Result<BoxedConnection> {
        match self {
            Self::Tcp(authority) => {
                let stream = TcpStream::connect(authority).await?;
                stream.set_nodelay(true)?;
                Ok(Box::new(stream))
            }
            Self::Unix(path) => Ok(Box::new(UnixStream::connect(path).await?)),
        }
    }

    /// What a client writes into `Host`.
    pub fn host(&self) -> &str {
        match self {
            Self::Tcp(authority) => authority,
            Self::Unix(_) => "localhost",
        }
    }

    /// Binds and listens; outside a runtime, so that several threads can share the socket by
    /// [`Listening::share`].
    pub fn listen(&self) -> io::Result<Listening> {
        match self {
            Self::Tcp(authority) => std::net::TcpListener::bind(authority).map(Listening::Tcp),
            Self::Unix(path) => std::os::unix::net::UnixListener::bind(path).map(Listening::Unix),
        }
    }
}

/// A bound socket that is not yet any runtime's.
#[derive(Debug)]
pub enum Listening {
    /// Over TCP.
    Tcp(std::net::TcpListener),
    /// Over a Unix socket.
    Unix(std::os::unix::net::UnixListener),
}

impl Listening {
    /// The same socket once more, for another thread.
    pub fn share(&self) -> io::Result<Self> {
        match self {
            Self::Tcp(listener) => listener.try_clone().map(Self::Tcp),
            Self::Unix(listener) => listener.try_clone().map(Self::Unix),
        }
    }

    /// Hands the socket to the runtime that calls.
    pub fn into_acceptor(self) -> io::Result<Acceptor> {
        match self {
            Self::Tcp(listener) => {
                listener.set_nonblocking(true)?;
                TcpListener::from_std(listener).map(Acceptor::Tcp)
            }
            Self::Unix(listener) => {
                listener.set_nonblocking(true)?;
                UnixListener::from_std(listener).map(Acceptor::Unix)
            }
        }
    }
}

/// A listening socket in a runtime.
#[derive(Debug)]
pub enum Acceptor {
    /// Over TCP.
    Tcp(TcpListener),
    /// Over a Unix socket.
    Unix(UnixListener),
}

impl Acceptor {
    /// Waits for the next connection.
    pub async fn accept(&self) -> io::Result<BoxedConnection> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok(Box::new(stream))
            }
            Self::Unix(listener) => Ok(Box::new(listener.accept().await?.0)),
        }
    }
}
