//! The failures of requests: one type for the whole path.

use std::io;

use sans_io::{
    api::{error::ApiError, transform::TransformError},
    codec::http1::WireError,
};

/// A failure, named by its phase. `request::rejections` makes the client's error of it (`Rejected`
/// brings its own), `request::retry` decides whether another attempt follows, and
/// `upstream::health` whether its instance is ejected.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The client left before the end of its response.
    #[error("the client left")]
    ClientLeft,
    /// The client sent nothing of its request body for longer than the body timeout.
    #[error("the client stopped sending its request body")]
    BodyTimeout,
    /// The client sent its request body slower than the lowest rate. `rate`: that, in bytes a
    /// second.
    #[error("the client sent its request body too slowly")]
    BodyTooSlow { rate: u64 },
    /// The request is malformed, forbidden, or cannot be served now.
    #[error("the request was rejected with status {}", .0.cause.status())]
    Rejected(ApiError),
    /// The request body is too large for memory, and could not be buffered in a file.
    #[error("the request body could not be buffered in a file: {0}")]
    Spool(#[source] io::Error),
    /// The request body is too large for memory, and the files of all requests hold as much as they
    /// may.
    #[error("the spool is full")]
    SpoolFull,
    /// All requests together hold as much in memory as they may.
    #[error("the memory for requests is full")]
    NoRoom,
    /// An instance could not be connected to. Nothing was delivered.
    #[error("connect: {0}")]
    Connect(#[source] io::Error),
    /// No instance could be connected to, the last one within the connect timeout. Nothing was
    /// delivered.
    #[error("no connection to any instance within the limit")]
    ConnectTimeout,
    /// The engine had closed the pooled connection. Most likely nothing was delivered.
    #[error("the pooled connection had been closed by the engine")]
    StaleConnection,
    /// The connection ended before the response did.
    #[error("died: {0}")]
    ConnectionLost(#[source] io::Error),
    /// Connections were lost while engines worked on the request, as often as that may happen. (A
    /// stale connection counts: an engine that dies of a request looks the same.)
    #[error("connections were lost too often while engines worked on the request")]
    LostTooOften,
    /// The response breaks HTTP.
    #[error("protocol: {0}")]
    Protocol(#[source] WireError),
    /// The first-frame timeout passed without a piece of the response's body.
    #[error("no first frame within the limit")]
    FirstFrameTimeout,
    /// The engine sent nothing of the response's body for longer than the idle timeout.
    #[error("no next frame within the limit")]
    IdleTimeout,
    /// The response was dropped: the route has a fallback target for its status.
    #[error("status {0}, for which there is a fallback")]
    FallbackStatus(u16),
    /// The key of the request was revoked while it ran.
    #[error("its API key was revoked")]
    KeyRevoked,
    /// The response is not of the kind that its endpoint gives, so that it cannot be transformed.
    #[error("the response cannot be relayed: {0}")]
    Unusable(#[source] TransformError),
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        Self::Rejected(error)
    }
}

impl From<TransformError> for Failure {
    fn from(error: TransformError) -> Self {
        match error {
            TransformError::Incomplete => {
                Self::ConnectionLost(io::Error::new(io::ErrorKind::UnexpectedEof, error))
            }
            TransformError::Unusable(_) => Self::Unusable(error),
        }
    }
}
