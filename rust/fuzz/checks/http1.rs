//! `http1` against itself in other reads, and its chunked decoder against one that reads line by
//! line.

use bytes::BytesMut;
use sans_io::codec::{
    http1::{Chunk, Decoder, WireError, take_response_head},
    response_fields::Sender,
};

/// Panics when a response means something else in other reads, or when the plain decoder disagrees
/// about its body.
pub(crate) fn check(response: &[u8]) {
    for to_head_request in [false, true] {
        let expected = read_response(response, response.len().max(1), to_head_request);
        for size in [1, 2, 3, 7, 64] {
            assert_eq!(
                read_response(response, size, to_head_request),
                expected,
                "in reads of {size} bytes"
            );
        }
    }
    let expected = plain_chunks(response);
    for size in [1, 2, 5, response.len().max(1)] {
        let found = decode(Decoder::Chunked(Chunk::Size), response, size);
        assert_eq!(found, expected, "chunks in reads of {size} bytes");
    }
}

/// A body as it was decoded.
#[derive(Debug, PartialEq)]
enum Body {
    Whole { data: Vec<u8>, behind: Vec<u8> },
    More { data: Vec<u8> },
    Broken,
}

/// A response as it was parsed: its status and fields, its body.
#[derive(Debug, PartialEq)]
enum Response {
    NoHead,
    BrokenHead(WireError),
    Read { status: u16, fields: Vec<(String, Vec<u8>)>, keep_alive: bool, body: Body },
}

fn read_response(response: &[u8], size: usize, to_head_request: bool) -> Response {
    let mut buffer = BytesMut::new();
    let (mut read, mut interim) = (0, 0);
    for piece in response.chunks(size) {
        buffer.extend_from_slice(piece);
        read += piece.len();
        match take_response_head(&mut buffer, to_head_request, false, Sender::Proxied, &mut interim)
        {
            Err(error) => return Response::BrokenHead(error),
            Ok(None) => {}
            Ok(Some(head)) => {
                let fields = head
                    .headers
                    .iter()
                    .map(|(name, value)| (name.to_string(), value.as_bytes().to_vec()));
                let rest = [&buffer, &response[read..]].concat();
                return Response::Read {
                    status: head.status.as_u16(),
                    fields: fields.collect(),
                    keep_alive: head.keep_alive,
                    body: decode(head.decoder, &rest, size),
                };
            }
        }
    }
    Response::NoHead
}

fn decode(mut decoder: Decoder, body: &[u8], size: usize) -> Body {
    let (mut buffer, mut data) = (BytesMut::new(), Vec::new());
    for piece in body.chunks(size) {
        buffer.extend_from_slice(piece);
        if decoder.is_done() {
            continue;
        }
        match decoder.decode(&mut buffer) {
            Ok(piece) => data.extend_from_slice(&piece.data),
            Err(_) => return Body::Broken,
        }
    }
    if decoder.is_done() {
        Body::Whole { data, behind: buffer.to_vec() }
    } else {
        Body::More { data }
    }
}

/// Line by line, with the rules of RFC 9112 7.1 and nothing forgiven; lines and trailers of up to 4
/// KB.
fn plain_chunks(body: &[u8]) -> Body {
    let (mut data, mut rest) = (Vec::new(), body);
    loop {
        let size = match line(rest, 0) {
            Line::Whole(text, length) => match plain_size(text) {
                Some(size) => {
                    rest = &rest[length..];
                    size
                }
                None => return Body::Broken,
            },
            Line::More if rest.iter().take_while(|byte| byte.is_ascii_hexdigit()).count() > 16 => {
                return Body::Broken;
            }
            Line::More => return Body::More { data },
            Line::Broken => return Body::Broken,
        };
        if size == 0 {
            return plain_trailer(data, rest);
        }
        let here = usize::try_from(size).unwrap_or(usize::MAX).min(rest.len());
        data.extend_from_slice(&rest[..here]);
        rest = &rest[here..];
        if (here as u64) < size {
            return Body::More { data };
        }
        match rest {
            [] | [b'\r'] => return Body::More { data },
            [b'\r', b'\n', behind @ ..] => rest = behind,
            _ => return Body::Broken,
        }
    }
}

fn plain_trailer(data: Vec<u8>, mut rest: &[u8]) -> Body {
    let mut seen = 0;
    loop {
        match line(rest, seen) {
            Line::Whole([], length) => {
                return Body::Whole { data, behind: rest[length..].to_vec() };
            }
            Line::Whole(text, length) if is_field(text) => {
                seen += length;
                rest = &rest[length..];
            }
            Line::More => return Body::More { data },
            Line::Whole(..) | Line::Broken => return Body::Broken,
        }
    }
}

/// `NAME: VALUE`, of letters that each may have.
fn is_field(line: &[u8]) -> bool {
    let mut parts = line.splitn(2, |byte| *byte == b':');
    let (Some(name), Some(value)) = (parts.next(), parts.next()) else { return false };
    let is_token =
        |byte: &u8| byte.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(char::from(*byte));
    !name.is_empty() && name.iter().all(is_token) && value.iter().all(|byte| is_text(*byte))
}

fn is_text(byte: u8) -> bool {
    byte == b'\t' || byte >= b' ' && byte != 0x7f
}

enum Line<'a> {
    /// Its text, and its length with CR LF.
    Whole(&'a [u8], usize),
    More,
    Broken,
}

/// The first line; `seen`: bytes of the same section before it.
fn line(bytes: &[u8], seen: usize) -> Line<'_> {
    const MOST: usize = 4096;
    match bytes.iter().position(|byte| *byte == b'\n') {
        Some(feed) if feed == 0 || bytes[feed - 1] != b'\r' || seen + feed >= MOST => Line::Broken,
        Some(feed) => Line::Whole(&bytes[..feed - 1], feed + 1),
        None if seen + bytes.len() >= MOST => Line::Broken,
        None => Line::More,
    }
}

fn plain_size(line: &[u8]) -> Option<u64> {
    let digits: Vec<u8> = line.iter().copied().take_while(u8::is_ascii_hexdigit).collect();
    let behind = &line[digits.len()..];
    let mut extensions = behind.iter().skip_while(|byte| matches!(byte, b' ' | b'\t'));
    let extension = extensions.next().is_none_or(|byte| *byte == b';')
        && behind.iter().all(|byte| is_text(*byte));
    if digits.is_empty() || digits.len() > 16 || !extension {
        return None;
    }
    u64::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()
}
