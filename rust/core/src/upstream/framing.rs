//! The framing of a request toward an engine (RFC 9112 6).

use bytes::{Bytes, BytesMut};
use http::Method;

use crate::upstream::connection::OutQueue;
use sans_io::codec::http1::SizeLine;

/// The framing of a request's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// Empty, without a field: the method defines no body (RFC 9110 8.6).
    Bodiless,
    /// `Content-Length`, in bytes.
    Length(u64),
    /// Chunks: the length is unknown before the body's end.
    Chunked,
}

impl Framing {
    /// The framing for a body of this length; None: unknown.
    pub(crate) fn of(method: &Method, length: Option<u64>) -> Self {
        let defines_body =
            *method == Method::POST || *method == Method::PUT || *method == Method::PATCH;
        match length {
            Some(0) if !defines_body => Self::Bodiless,
            Some(length) => Self::Length(length),
            None => Self::Chunked,
        }
    }

    /// Writes the framing's field, and the empty line behind the head.
    pub(super) fn end_head(self, head: &mut BytesMut) {
        match self {
            Self::Bodiless => head.extend_from_slice(b"\r\n"),
            Self::Length(length) => {
                head.extend_from_slice(b"content-length: ");
                head.extend_from_slice(itoa::Buffer::new().format(length).as_bytes());
                head.extend_from_slice(b"\r\n\r\n");
            }
            Self::Chunked => head.extend_from_slice(b"transfer-encoding: chunked\r\n\r\n"),
        }
    }

    /// Queues a part of the body.
    pub(super) fn push(self, queue: &mut OutQueue, part: Bytes) {
        // An empty chunk would end the body.
        if self == Self::Chunked && !part.is_empty() {
            queue.push(Bytes::copy_from_slice(SizeLine::new(part.len()).as_bytes()));
            queue.push(part);
            queue.push(Bytes::from_static(b"\r\n"));
        } else {
            queue.push(part);
        }
    }

    /// Queues the end of the body.
    pub(super) fn end(self, queue: &mut OutQueue) {
        if self == Self::Chunked {
            queue.push(Bytes::from_static(b"0\r\n\r\n"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_method_that_defines_a_body_says_that_it_is_empty() {
        assert_eq!(Framing::of(&Method::GET, Some(0)), Framing::Bodiless);
        assert_eq!(Framing::of(&Method::DELETE, Some(0)), Framing::Bodiless);
        assert_eq!(Framing::of(&Method::POST, Some(0)), Framing::Length(0));
        assert_eq!(Framing::of(&Method::GET, Some(3)), Framing::Length(3));
        assert_eq!(Framing::of(&Method::GET, None), Framing::Chunked);
    }

    #[test]
    fn a_chunked_body_ends_with_its_last_chunk_and_no_sooner() {
        let mut queue = OutQueue::default();
        Framing::Chunked.push(&mut queue, Bytes::from_static(b"0123456789"));
        Framing::Chunked.push(&mut queue, Bytes::new());
        Framing::Chunked.end(&mut queue);
        assert_eq!(queue.take_all(), b"a\r\n0123456789\r\n0\r\n\r\n");
        Framing::Length(2).push(&mut queue, Bytes::from_static(b"ab"));
        Framing::Length(2).end(&mut queue);
        assert_eq!(queue.take_all(), b"ab");
    }
}
