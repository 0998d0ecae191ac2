//! Why a request has no response from an engine, or not all of it. One type for the whole path.

use std::io;

use sans_io::{
    api::{error::ApiError, transform::TransformError},
    codec::http1::WireError,
};

/// A failure, named by the phase in which it came to pass. What a client is told of it is decided
/// in `request::rejections` alone; what it says of an instance, in `upstream::health`.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// Nobody is there to read a response.
    #[error("the client left")]
    ClientLeft,
    /// The client's request body stood still for longer than the limit.
    #[error("the client stopped sending its request body")]
    BodyTimeout,
    /// The request was found to be out of order, forbidden or without a place to go.
    #[error("the request was rejected with status {}", .0.cause.status())]
    Rejected(ApiError),
    /// The body is too large for memory, and could not be kept in a file.
    #[error("the request body could not be kept in a file")]
    Spool(#[source] io::Error),
    /// No connection to an instance: nothing was delivered.
    #[error("connect: {0}")]
    Connect(#[source] io::Error),
    /// Every instance refused the connection, the last by its silence: nothing was delivered.
    #[error("no connection to any instance within the limit")]
    ConnectTimeout,
    /// The engine had closed the pooled connection: nothing was delivered.
    #[error("the pooled connection had been closed by the engine")]
    StaleConnection,
    /// The connection ended before its response did.
    #[error("died: {0}")]
    ConnectionLost(#[source] io::Error),
    /// Two engines ended while they worked on the request, so no third gets it.
    #[error("two engines ended while they worked on the request")]
    LostTwice,
    /// The response breaks HTTP.
    #[error("protocol: {0}")]
    Protocol(#[source] WireError),
    /// No first frame came within the limit.
    #[error("no first frame within the limit")]
    FirstFrameTimeout,
    /// The response stood still for longer than the limit.
    #[error("no next frame within the limit")]
    IdleTimeout,
    /// The response has a status for which the route has a fallback.
    #[error("status {0}, for which there is a fallback")]
    FallbackStatus(u16),
    /// The response is not what its endpoint gives, so that it cannot be made fit for the client.
    #[error("the response cannot be passed on: {0}")]
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
