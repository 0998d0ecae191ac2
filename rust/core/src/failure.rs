//! The failures of requests: one type for the whole path.

use std::{error::Error, io};

use rustix::io::Errno;

use crate::key_watch::EndedEarly;
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
    /// This machine lacks what another connection needs: descriptors, ports or memory. That says
    /// nothing about the instance, and nothing was delivered.
    #[error("no room for a connection: {0}")]
    MachineExhausted(#[source] io::Error),
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
    /// The server stops, and the drain's limit has passed.
    #[error("the limit of the drain has passed")]
    Drained,
    /// The response is not of the kind that its endpoint gives, so that it cannot be transformed.
    #[error("the response cannot be relayed: {0}")]
    Unusable(#[source] TransformError),
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        Self::Rejected(error)
    }
}

impl From<EndedEarly> for Failure {
    fn from(ended: EndedEarly) -> Self {
        match ended {
            EndedEarly::KeyRevoked => Self::KeyRevoked,
            EndedEarly::Drained => Self::Drained,
        }
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

impl Failure {
    /// The failure of opening a connection: the instance's, or this machine's.
    pub(crate) fn of_connecting(error: io::Error) -> Self {
        lacking(&error)
            .map_or(Self::Connect(error), |lacking| Self::MachineExhausted(lacking.into()))
    }
}

/// What this machine lacks, if that is why a connection could not be opened.
fn lacking(error: &io::Error) -> Option<Errno> {
    let number = match Errno::from_io_error(error) {
        Some(number) => number,
        None if error.kind() == io::ErrorKind::TimedOut => return None,
        // The resolver does not say why it found nothing. It opens files.
        None => rustix::io::fcntl_dupfd_cloexec(io::stderr(), 0).err()?,
    };
    let may_be_ours = matches!(number, Errno::NOSPC | Errno::ADDRNOTAVAIL | Errno::AGAIN);
    (may_be_ours || is_shortage(number)).then_some(number)
}

/// Whether it says that this machine has no descriptor or no memory left.
pub(crate) fn is_shortage(number: Errno) -> bool {
    matches!(number, Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOBUFS)
}

/// The system's words for an error, without the path that a library may have added.
pub(crate) fn system_reason(error: &io::Error) -> String {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(found) = cause {
        let system = found.downcast_ref::<io::Error>().and_then(Errno::from_io_error);
        if let Some(number) = system {
            return io::Error::from(number).to_string();
        }
        cause = found.source();
    }
    error.kind().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_this_machine_lacks_is_no_failure_of_the_instance() {
        let of = |number: Errno| Failure::of_connecting(number.into());
        for number in [Errno::MFILE, Errno::NFILE, Errno::ADDRNOTAVAIL, Errno::NOBUFS] {
            assert!(matches!(of(number), Failure::MachineExhausted(_)), "{number}");
        }
        for number in [Errno::CONNREFUSED, Errno::NOENT, Errno::HOSTUNREACH, Errno::TIMEDOUT] {
            assert!(matches!(of(number), Failure::Connect(_)), "{number}");
        }
        let silent = io::Error::other("failed to lookup address information");
        assert!(matches!(Failure::of_connecting(silent), Failure::Connect(_)));
    }

    #[test]
    fn the_words_of_an_error_name_no_path() {
        let error = tempfile::tempfile_in("/nonexistent").unwrap_err();
        assert_eq!(system_reason(&error), "No such file or directory (os error 2)");
        assert_eq!(system_reason(&io::Error::other("x")), "other error");
    }
}
