//! The receiving side of an exchange, from the engine's silence to the end of its response.

use bytes::{Bytes, BytesMut};
use http::Method;

use sans_io::codec::http1::{Decoder, KeepAlive, ParsedHead, WireError};

/// The kind of response that a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    /// A head and a body.
    Full,
    /// The head alone: the request is a HEAD.
    HeadOnly,
    /// A full one too, or a switch to another protocol.
    Upgrade,
}

impl Expected {
    /// The kind for a request with this method. `upgrade`: it asks for a WebSocket.
    pub(crate) fn of(method: &Method, upgrade: bool) -> Self {
        match () {
            () if *method == Method::HEAD => Self::HeadOnly,
            () if upgrade => Self::Upgrade,
            () => Self::Full,
        }
    }
}

/// The response's progress.
#[derive(Debug)]
pub(super) enum Receiving {
    /// No byte was received.
    Silent(Expected),
    /// Some bytes were received, but not the whole final head.
    Head(Expected),
    /// The final head was received.
    Body(ResponseBody),
}

impl Receiving {
    /// Notes that bytes were received.
    pub(super) fn note_bytes(&mut self) {
        if let Self::Silent(expected) = *self {
            *self = Self::Head(expected);
        }
    }

    /// The engine's limits for the idle connection; None: it must not carry another request, since
    /// the engine said so, the response is not whole, or the engine is about to close it.
    /// `closes_after_stream`: as [`Instance::closes_after_stream`].
    ///
    /// [`Instance::closes_after_stream`]: sans_io::table::Instance::closes_after_stream
    pub(super) fn reuse(&self, closes_after_stream: bool) -> Option<KeepAlive> {
        match self {
            Self::Body(body) if body.is_whole() => {
                body.reuse.filter(|_| !(closes_after_stream && body.is_chunked()))
            }
            _ => None,
        }
    }
}

/// The body of a response on its way in.
#[derive(Debug)]
pub(super) struct ResponseBody {
    decoder: Decoder,
    /// Its last piece was taken.
    whole: bool,
    /// The engine's limits for the idle connection; None: it must not carry another request.
    reuse: Option<KeepAlive>,
}

impl ResponseBody {
    /// The body behind this head.
    pub(super) fn new(head: &ParsedHead) -> Self {
        Self {
            decoder: head.decoder.clone(),
            whole: false,
            reuse: head.keep_alive.then_some(head.keep_alive_limits),
        }
    }

    /// Takes the next piece off the connection's buffer; None: more must be read. Only the last
    /// piece may be empty.
    pub(super) fn next(&mut self, buffer: &mut BytesMut) -> Result<Option<Bytes>, WireError> {
        // An empty body is whole before anything is read.
        if buffer.is_empty() && !self.decoder.is_done() {
            return Ok(None);
        }
        let piece = self.decoder.decode(buffer)?;
        // Its memory goes with the piece.
        if buffer.is_empty() {
            *buffer = BytesMut::new();
        }
        if piece.done {
            self.whole = true;
        } else if piece.data.is_empty() {
            return Ok(None);
        }
        Ok(Some(piece.data))
    }

    /// Notes that the connection has ended. True: by its framing, so has the body.
    pub(super) fn ends_with_connection(&mut self) -> bool {
        if self.is_close_delimited() {
            self.whole = true;
        }
        self.is_close_delimited()
    }

    /// Whether its last piece was taken.
    pub(super) fn is_whole(&self) -> bool {
        self.whole
    }

    /// Whether it ends with its connection (RFC 9112 6.3), so that a death looks like an end.
    pub(super) fn is_close_delimited(&self) -> bool {
        self.decoder == Decoder::CloseDelimited
    }

    fn is_chunked(&self) -> bool {
        matches!(self.decoder, Decoder::Chunked(_))
    }

    /// The exact number of bytes to come; None: the framing does not tell.
    pub(super) fn remaining(&self) -> Option<u64> {
        self.decoder.remaining()
    }
}

#[cfg(test)]
mod tests {
    use sans_io::codec::{http1, response_fields::Sender};

    use super::*;

    /// The body of a response with this head, and what was read behind the head.
    fn response(text: &str) -> (ResponseBody, BytesMut) {
        let mut buffer = BytesMut::from(text);
        let head = http1::take_response_head(&mut buffer, false, false, Sender::Proxied, &mut 0)
            .unwrap()
            .unwrap();
        (ResponseBody::new(&head), buffer)
    }

    fn reuse(body: ResponseBody) -> Option<KeepAlive> {
        Receiving::Body(body).reuse(false)
    }

    #[test]
    fn a_body_comes_in_pieces_until_it_is_whole() {
        let (mut body, mut buffer) = response("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n");
        assert_eq!(body.next(&mut buffer), Ok(None));
        assert!(!body.is_whole() && body.remaining() == Some(4));
        buffer.extend_from_slice(b"ab");
        assert_eq!(body.next(&mut buffer), Ok(Some(Bytes::from_static(b"ab"))));
        assert!(!body.is_whole() && body.remaining() == Some(2));
        buffer.extend_from_slice(b"cd");
        assert_eq!(body.next(&mut buffer), Ok(Some(Bytes::from_static(b"cd"))));
        assert!(body.is_whole() && reuse(body).is_some());
    }

    #[test]
    fn an_empty_body_is_whole_with_its_first_piece() {
        let (mut body, mut buffer) = response("HTTP/1.1 204 No Content\r\n\r\n");
        assert_eq!(body.next(&mut buffer), Ok(Some(Bytes::new())));
        assert!(body.is_whole() && reuse(body).is_some());
    }

    #[test]
    fn only_a_close_delimited_body_ends_with_its_connection() {
        let (mut body, mut buffer) = response("HTTP/1.1 200 OK\r\n\r\nab");
        assert_eq!(body.next(&mut buffer), Ok(Some(Bytes::from_static(b"ab"))));
        assert!(!body.is_whole() && body.ends_with_connection());
        assert!(body.is_whole() && body.is_close_delimited() && reuse(body).is_none());

        let (mut body, mut buffer) = response("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nab");
        assert_eq!(body.next(&mut buffer), Ok(Some(Bytes::from_static(b"ab"))));
        assert!(!body.ends_with_connection());
        assert!(!body.is_whole() && reuse(body).is_none());
    }

    #[test]
    fn a_chunk_that_is_not_whole_gives_no_empty_piece() {
        let (mut body, mut buffer) =
            response("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2");
        assert_eq!(body.next(&mut buffer), Ok(None));
        assert!(!body.is_whole());
        buffer.extend_from_slice(b"\r\nab\r\n0\r\n\r\n");
        assert_eq!(body.next(&mut buffer), Ok(Some(Bytes::from_static(b"ab"))));
        assert!(body.is_whole());
    }

    #[test]
    fn an_engine_that_says_close_gets_no_second_request() {
        let (mut body, mut buffer) =
            response("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
        assert_eq!(body.next(&mut buffer), Ok(Some(Bytes::new())));
        assert!(body.is_whole() && reuse(body).is_none());
    }

    #[test]
    fn an_engine_that_closes_behind_its_streams_gets_no_second_request_there() {
        let read = |text| {
            let (mut body, mut buffer) = response(text);
            body.next(&mut buffer).unwrap();
            assert!(body.is_whole());
            Receiving::Body(body)
        };
        let stream =
            read("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n");
        assert!(stream.reuse(true).is_none() && stream.reuse(false).is_some());
        let whole = read("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nab");
        assert!(whole.reuse(true).is_some());
    }

    #[test]
    fn a_head_request_expects_no_body() {
        assert_eq!(Expected::of(&Method::HEAD, false), Expected::HeadOnly);
        assert_eq!(Expected::of(&Method::GET, true), Expected::Upgrade);
        assert_eq!(Expected::of(&Method::POST, false), Expected::Full);
    }
}
