//! Reading HTTP/1.1 messages: a head, and a body by length or in chunks. For ends that trust each
//! other.

use std::io;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

/// How a message's body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// After so many bytes.
    Length(usize),
    /// With the last chunk.
    Chunked,
}

fn broken(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

/// The framing that a head announces; a head without length or coding has no body.
pub fn framing(head: &[u8]) -> io::Result<Framing> {
    let first_line = memchr::memchr(b'\n', head).ok_or_else(|| broken("A head without a line."))?;
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let parsed = httparse::parse_headers(&head[first_line + 1..], &mut headers);
    let Ok(httparse::Status::Complete((_, headers))) = parsed else {
        return Err(broken("A head that cannot be read."));
    };
    let mut found = Framing::Length(0);
    for header in headers {
        if header.name.eq_ignore_ascii_case("transfer-encoding") {
            return Ok(Framing::Chunked);
        }
        if header.name.eq_ignore_ascii_case("content-length") {
            let text = std::str::from_utf8(header.value).unwrap_or_default();
            found = Framing::Length(
                text.parse().map_err(|_| broken("A content-length that is no number."))?,
            );
        }
    }
    Ok(found)
}

/// The status of a response's head.
pub fn status(head: &[u8]) -> io::Result<u16> {
    let digits = head.get(9..12).and_then(|digits| std::str::from_utf8(digits).ok());
    digits
        .and_then(|digits| digits.parse().ok())
        .ok_or_else(|| broken("A response without a status."))
}

/// The reading half of a connection, with what was read and not yet used.
#[derive(Debug)]
pub struct Incoming<R> {
    io: R,
    buffer: BytesMut,
}

impl<R: AsyncRead + Unpin> Incoming<R> {
    /// Starts with an empty buffer.
    pub fn new(io: R) -> Self {
        Self { io, buffer: BytesMut::with_capacity(64 * 1024) }
    }

    async fn fill(&mut self) -> io::Result<()> {
        self.buffer.reserve(16 * 1024);
        match self.io.read_buf(&mut self.buffer).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    /// Everything up to and including `mark`.
    async fn take_through(&mut self, mark: &[u8]) -> io::Result<Bytes> {
        loop {
            if let Some(at) = memchr::memmem::find(&self.buffer, mark) {
                return Ok(self.buffer.split_to(at + mark.len()).freeze());
            }
            self.fill().await?;
        }
    }

    /// The next head, its empty line included; `UnexpectedEof` when the other end has closed.
    pub async fn head(&mut self) -> io::Result<Bytes> {
        self.take_through(b"\r\n\r\n").await
    }

    /// The body that follows a head: `each` gets it piece by piece, as reads bring it.
    pub async fn body(
        &mut self,
        framing: Framing,
        mut each: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        match framing {
            Framing::Length(length) => self.bytes(length, &mut each).await,
            Framing::Chunked => self.chunks(&mut each).await,
        }
    }

    async fn bytes(
        &mut self,
        mut left: usize,
        each: &mut impl FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        while left > 0 {
            if self.buffer.is_empty() {
                self.fill().await?;
            }
            let size = left.min(self.buffer.len());
            each(&self.buffer[..size])?;
            self.buffer.advance(size);
            left -= size;
        }
        Ok(())
    }

    async fn chunks(&mut self, each: &mut impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        loop {
            let line = self.take_through(b"\r\n").await?;
            let digits = std::str::from_utf8(&line[..line.len() - 2]).unwrap_or_default();
            let size =
                usize::from_str_radix(digits, 16).map_err(|_| broken("A chunk without a size."))?;
            self.bytes(size, each).await?;
            if self.take_through(b"\r\n").await?.len() != 2 {
                return Err(broken("A chunk that is longer than it says, or trailers."));
            }
            if size == 0 {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(wire: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        crate::runtime()?.block_on(async {
            let mut incoming = Incoming::new(wire);
            let mut bodies = Vec::new();
            loop {
                let head = match incoming.head().await {
                    Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                        return Ok(bodies);
                    }
                    head => head?,
                };
                let mut body = Vec::new();
                let keep = |piece: &[u8]| {
                    body.extend_from_slice(piece);
                    Ok(())
                };
                incoming.body(framing(&head)?, keep).await?;
                bodies.push(body);
            }
        })
    }

    #[test]
    fn bodies_by_length_and_in_chunks_follow_each_other_on_one_connection() -> io::Result<()> {
        let wire = b"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabcGET / HTTP/1.1\r\n\r\n\
                     HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nde\r\nA\r\n0123456789\r\n0\r\n\r\n";
        assert_eq!(read(wire)?, [b"abc".to_vec(), Vec::new(), b"de0123456789".to_vec()]);
        Ok(())
    }

    #[test]
    fn a_chunk_that_is_longer_than_it_says_is_an_error() {
        assert!(
            read(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\ndef\r\n0\r\n\r\n")
                .is_err()
        );
    }

    #[test]
    fn a_body_that_breaks_off_is_an_error() {
        let cut = crate::runtime().map(|runtime| {
            runtime
                .block_on(Incoming::new(&b"ab"[..]).body(Framing::Length(3), |_| Ok(())))
                .is_err()
        });
        assert!(matches!(cut, Ok(true)));
    }

    #[test]
    fn the_status_is_read_from_the_first_line() {
        assert!(matches!(status(b"HTTP/1.1 503 Service Unavailable\r\n\r\n"), Ok(503)));
        assert!(status(b"HTTP/1.1").is_err());
    }
}
