//! HTTP/1.1: parses the heads of engines' responses, and in `request` those of clients' requests,
//! and undoes the framing of bodies.
//!
//! Whatever is doubtful is an error, never a guess: a wrong guess about where a response ends hands
//! one caller's bytes to another (RFC 9112 6.3).

pub mod request;
mod size_line;

use std::{fmt, mem::MaybeUninit, time::Duration};

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

pub use size_line::SizeLine;

use crate::codec::{
    headers,
    response_fields::{Fate, Sender, UPSTREAM_REQUEST_ID},
    websocket::{self, HandshakeError},
};

/// The largest head of a response, in bytes.
const MAX_HEAD: usize = 64 * 1024;
/// The most fields in a head.
const MAX_FIELDS: usize = 128;
/// Fields that are added for the client, for which there is room.
const OWN_FIELDS: usize = 5;
/// The longest chunk-size line, extensions included, and the longest trailer section.
const MAX_LINE: usize = 4 * 1024;
/// The most interim responses (1xx) before the final one.
const MAX_INTERIM: u8 = 8;

/// A response that breaks HTTP/1.1. Displayed as a clause that goes on "the response": "its head is
/// not HTTP/1".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WireError {
    /// The head is no HTTP/1 head.
    Head,
    /// A line of the head ends with LF alone, which readers on the way could take in two ways.
    BareLineFeed,
    /// The status is below 100 or above 599 (RFC 9110 15).
    Status,
    /// The head is over 64 KB or 128 fields.
    HeadTooLarge,
    /// `Transfer-Encoding` together with `Content-Length`.
    LengthAndChunked,
    /// `Content-Length` twice, or not a plain number.
    Length,
    /// A transfer coding other than `chunked`.
    TransferCoding,
    /// A 101 (switch of protocols) that was not asked for.
    Upgrade,
    /// A 101 that opens no WebSocket, although one was asked for.
    Handshake(HandshakeError),
    /// More than 8 interim responses (1xx).
    Interim,
    /// A chunk's size line, or the line end behind its data.
    Chunk,
    /// The trailer section.
    Trailer,
}

impl fmt::Display for WireError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Handshake(error) => return error.fmt(formatter),
            Self::Head => "its head is not HTTP/1",
            Self::BareLineFeed => "a line of its head ends with LF alone",
            Self::Status => "its status is none of HTTP (100 to 599)",
            Self::HeadTooLarge => "its head is larger than 64 KB or has more than 128 fields",
            Self::LengthAndChunked => "it has both Content-Length and Transfer-Encoding",
            Self::Length => "its Content-Length is doubled or not a plain number",
            Self::TransferCoding => "its Transfer-Encoding is not chunked",
            Self::Upgrade => "it switches protocols without being asked",
            Self::Interim => "it is preceded by more than 8 interim ones (1xx)",
            Self::Chunk => "a chunk's size or end is malformed",
            Self::Trailer => "its trailer is malformed or larger than 4 KB",
        })
    }
}

impl std::error::Error for WireError {}

/// The head of a final response, with what it says about its body and its connection.
#[derive(Debug)]
pub struct ParsedHead {
    /// The status. 1xx only as a 101 that was asked for.
    pub status: StatusCode,
    /// The fields that may pass on (see [`Sender::fate`]), in their order.
    pub headers: HeaderMap,
    /// Names of fields that do not belong to the response, and were left out.
    pub withheld: Vec<HeaderName>,
    /// The framing of the body.
    pub decoder: Decoder,
    /// `Content-Length` as the engine wrote it, also where there is no body (a response to HEAD).
    pub content_length: Option<u64>,
    /// Whether the connection may carry another request after this response.
    pub keep_alive: bool,
    /// Limits that a `Keep-Alive` field names.
    pub keep_alive_limits: KeepAlive,
}

/// The end-to-end part of a response's head, as it goes to the client.
#[derive(Debug)]
pub struct ResponseHead {
    /// The status.
    pub status: StatusCode,
    /// The fields that may pass on.
    pub headers: HeaderMap,
    /// Names of fields that do not belong to the response, and were left out.
    pub withheld: Vec<HeaderName>,
    /// `Content-Length` as the engine wrote it, for responses to HEAD.
    pub content_length: Option<u64>,
}

/// Takes the head of a final response off the front of `buffer`. Interim responses (100, 102, 103)
/// before it are skipped, and counted in `interim`, which is 0 at the response's first byte. None
/// while the head is not whole. `sender` decides which fields pass.
///
/// With `upgrade` a 101 is final too, and has no body: what follows it in `buffer` is the
/// WebSocket's. Whether it answers the client's handshake is for [`websocket::check`] to say.
pub fn take_response_head(
    buffer: &mut BytesMut,
    to_head_request: bool,
    upgrade: bool,
    sender: Sender<'_>,
    interim: &mut u8,
) -> Result<Option<ParsedHead>, WireError> {
    loop {
        let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
        let mut parsed = httparse::Response::new(&mut []);
        let parser = httparse::ParserConfig::default();
        let length =
            match parser.parse_response_with_uninit_headers(&mut parsed, buffer, &mut fields) {
                Ok(httparse::Status::Complete(length)) => length,
                Ok(httparse::Status::Partial) if buffer.len() > MAX_HEAD => {
                    return Err(WireError::HeadTooLarge);
                }
                Ok(httparse::Status::Partial) => return Ok(None),
                Err(httparse::Error::TooManyHeaders) => return Err(WireError::HeadTooLarge),
                Err(_) => return Err(WireError::Head),
            };
        if has_bare_line_feed(&buffer[..length], parsed.headers) {
            return Err(WireError::BareLineFeed);
        }
        let code = parsed.code.filter(|code| (100..=599).contains(code));
        let status =
            code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or(WireError::Status)?;
        let switches = status == StatusCode::SWITCHING_PROTOCOLS;
        if switches && !upgrade {
            return Err(WireError::Upgrade);
        }
        if status.is_informational() && !switches {
            buffer.advance(length);
            *interim += 1;
            if *interim > MAX_INTERIM {
                return Err(WireError::Interim);
            }
            continue;
        }
        let framing = Framing::read(parsed.headers)?;
        let decoder = framing.decoder(status, to_head_request, parsed.headers)?;
        let (headers, withheld) = end_to_end(parsed.headers, framing.names_others, sender)?;
        let keep_alive = parsed.version == Some(1)
            && !framing.close
            && !matches!(decoder, Decoder::CloseDelimited);
        buffer.advance(length);
        return Ok(Some(ParsedHead {
            status,
            headers,
            withheld,
            decoder,
            content_length: framing.length,
            keep_alive,
            keep_alive_limits: framing.keep_alive_limits,
        }));
    }
}

/// Fields of a head that concern its body and its connection.
#[derive(Default)]
struct Framing {
    length: Option<u64>,
    chunked: bool,
    close: bool,
    /// `Connection` names fields other than its own words.
    names_others: bool,
    keep_alive_limits: KeepAlive,
}

/// Limits of a `Keep-Alive: timeout=N, max=M` field; None where it names none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeepAlive {
    /// The time after which the engine closes an idle connection.
    pub timeout: Option<Duration>,
    /// The number of requests on one connection. Some engines count it down, others repeat the
    /// total. To stop at that many is right for both.
    pub max: Option<u64>,
}

impl Framing {
    fn read(fields: &[httparse::Header<'_>]) -> Result<Self, WireError> {
        let mut framing = Self::default();
        for field in fields {
            let named = |name: &str| field.name.eq_ignore_ascii_case(name);
            match field.name.len() {
                14 if named("content-length") => {
                    let length = plain_number(field.value).ok_or(WireError::Length)?;
                    if framing.length.replace(length).is_some() {
                        return Err(WireError::Length);
                    }
                }
                17 if named("transfer-encoding") => {
                    if framing.chunked || !field.value.trim_ascii().eq_ignore_ascii_case(b"chunked")
                    {
                        return Err(WireError::TransferCoding);
                    }
                    framing.chunked = true;
                }
                10 if named("connection") => {
                    for token in headers::tokens(field.value) {
                        framing.close |= token.eq_ignore_ascii_case(b"close");
                        framing.names_others |= !token.eq_ignore_ascii_case(b"close")
                            && !token.eq_ignore_ascii_case(b"keep-alive");
                    }
                }
                10 if named("keep-alive") => {
                    framing.keep_alive_limits = KeepAlive::read(field.value);
                }
                _ => {}
            }
        }
        if framing.chunked && framing.length.is_some() {
            return Err(WireError::LengthAndChunked);
        }
        Ok(framing)
    }

    /// Checks that a 101 switches to a WebSocket, and has no body.
    fn check_switch(&self, fields: &[httparse::Header<'_>]) -> Result<(), HandshakeError> {
        if self.chunked || self.length.is_some() {
            return Err(HandshakeError::Body);
        }
        websocket::check_switch(fields.iter().map(|field| (field.name, field.value)))
    }

    /// How the body is read. `fields`: those of the head. Fails for a 101 that opens no WebSocket.
    fn decoder(
        &self,
        status: StatusCode,
        to_head_request: bool,
        fields: &[httparse::Header<'_>],
    ) -> Result<Decoder, WireError> {
        let switches = status == StatusCode::SWITCHING_PROTOCOLS;
        if switches {
            self.check_switch(fields).map_err(WireError::Handshake)?;
        }
        let is_bodiless =
            to_head_request || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        Ok(match self.length {
            _ if switches || is_bodiless => Decoder::Length(0),
            _ if self.chunked => Decoder::Chunked(Chunk::Size),
            Some(length) => Decoder::Length(length),
            None => Decoder::CloseDelimited,
        })
    }
}

/// The fields that may pass to the client, and the names of those that were withheld.
/// `names_others`: `Connection` names further fields of the connection, which are looked for only
/// then.
fn end_to_end(
    fields: &[httparse::Header<'_>],
    names_others: bool,
    sender: Sender<'_>,
) -> Result<(HeaderMap, Vec<HeaderName>), WireError> {
    let mut kept = HeaderMap::with_capacity(fields.len() + OWN_FIELDS);
    let mut withheld = Vec::new();
    let named = |name: &HeaderName| {
        let connection =
            fields.iter().filter(|field| field.name.eq_ignore_ascii_case("connection"));
        connection
            .flat_map(|field| headers::tokens(field.value))
            .any(|token| token.eq_ignore_ascii_case(name.as_str().as_bytes()))
    };
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| WireError::Head)?;
        let value = || HeaderValue::from_bytes(field.value).map_err(|_| WireError::Head);
        match sender.fate(&name, field.value) {
            Fate::Replaced => {}
            _ if names_others && named(&name) => {}
            Fate::Passes => {
                kept.append(name, value()?);
            }
            Fate::RequestId => {
                kept.entry(UPSTREAM_REQUEST_ID).or_insert(value()?);
            }
            Fate::Withheld => withheld.push(name),
        }
    }
    Ok((kept, withheld))
}

impl KeepAlive {
    fn read(value: &[u8]) -> Self {
        let number = |name: &[u8]| {
            headers::tokens(value).find_map(|token| plain_number(token.strip_prefix(name)?))
        };
        Self { timeout: number(b"timeout=").map(Duration::from_secs), max: number(b"max=") }
    }
}

/// Undoes the framing of a body, piece by piece.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decoder {
    /// This many bytes are still to come.
    Length(u64),
    /// Chunked.
    Chunked(Chunk),
    /// Close-delimited (RFC 9112 6.3, case 8): everything until the connection closes.
    CloseDelimited,
}

/// The position inside a chunked body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chunk {
    /// Before a chunk-size line.
    Size,
    /// Inside a chunk, with this many bytes of data to come.
    Data(u64),
    /// Behind a chunk's data: CR LF.
    DataEnd,
    /// Behind the last chunk: trailer fields until an empty line; this many bytes of them were
    /// seen.
    Trailer(usize),
    /// At the end.
    Done,
}

/// A piece of a body that [`Decoder::decode`] took off a buffer.
#[derive(Debug, PartialEq, Eq)]
pub struct Decoded {
    /// Bytes of the body; may be empty.
    pub data: Bytes,
    /// Whether the body ends with this piece.
    pub done: bool,
}

impl Decoder {
    /// The exact number of bytes to come; None for chunked and close-delimited bodies.
    pub fn remaining(&self) -> Option<u64> {
        match self {
            Self::Length(rest) => Some(*rest),
            _ => None,
        }
    }

    /// Whether the body is complete. Never true of a close-delimited one: its end is the
    /// connection's.
    pub fn is_done(&self) -> bool {
        matches!(self, Self::Length(0) | Self::Chunked(Chunk::Done))
    }

    /// Takes bytes of the body off the front of `buffer`, as one piece. Bytes behind the body's end
    /// stay. The error is final: the position inside the body is lost.
    pub fn decode(&mut self, buffer: &mut BytesMut) -> Result<Decoded, WireError> {
        let data = match self {
            Self::CloseDelimited => buffer.split().freeze(),
            Self::Length(rest) => {
                let here = usize::try_from(*rest).unwrap_or(usize::MAX).min(buffer.len());
                *rest -= here as u64;
                buffer.split_to(here).freeze()
            }
            Self::Chunked(state) => decode_chunks(state, buffer)?,
        };
        Ok(Decoded { data, done: self.is_done() })
    }
}

/// Whether a line of a parsed head ends with LF alone, which httparse takes for an end. The lines are
/// the first one, one for each field, and the empty one at the end; empty ones may stand before them.
/// Only their ends are looked at: no other byte of a parsed head is a line feed.
fn has_bare_line_feed(mut head: &[u8], fields: &[httparse::Header<'_>]) -> bool {
    let ends_with_crlf = |field: &httparse::Header<'_>| {
        let begin = field.name.as_ptr().addr() - head.as_ptr().addr();
        head[..begin].ends_with(b"\r\n")
    };
    let lines_end_well = fields.iter().all(ends_with_crlf) && head.ends_with(b"\r\n\r\n");
    while let Some(rest) = head.strip_prefix(b"\r\n") {
        head = rest;
    }
    !lines_end_well || head.starts_with(b"\n")
}

/// A number of digits only: no sign, no blank, no underscore, no overflow.
fn plain_number(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0_u64, |number, byte| {
        let digit = byte.wrapping_sub(b'0');
        (digit < 10).then(|| number.checked_mul(10)?.checked_add(digit.into()))?
    })
}

/// Takes whole and partial chunks off `buffer`. The data of several chunks is moved together inside
/// the buffer, so that what one read brought leaves as one piece; the data of a single chunk is not
/// moved at all.
fn decode_chunks(state: &mut Chunk, buffer: &mut BytesMut) -> Result<Bytes, WireError> {
    let mut at = 0;
    let (mut first, mut end) = (0, 0);
    loop {
        match *state {
            Chunk::Size => match size_line(&buffer[at..])? {
                Some((size, line)) => {
                    at += line;
                    *state = if size == 0 { Chunk::Trailer(0) } else { Chunk::Data(size) };
                }
                None => break,
            },
            Chunk::Data(rest) => {
                let here = usize::try_from(rest).unwrap_or(usize::MAX).min(buffer.len() - at);
                if here == 0 {
                    break;
                }
                if end == 0 {
                    (first, end) = (at, at);
                }
                if end != at {
                    buffer.copy_within(at..at + here, end);
                }
                end += here;
                at += here;
                let rest = rest - here as u64;
                *state = if rest == 0 { Chunk::DataEnd } else { Chunk::Data(rest) };
            }
            Chunk::DataEnd => match &buffer[at..] {
                [] | [b'\r'] => break,
                [b'\r', b'\n', ..] => {
                    at += 2;
                    *state = Chunk::Size;
                }
                _ => return Err(WireError::Chunk),
            },
            Chunk::Trailer(seen) => match trailer_line(&buffer[at..], seen)? {
                Some(line) => {
                    at += line;
                    *state = if line == 2 { Chunk::Done } else { Chunk::Trailer(seen + line) };
                }
                None => break,
            },
            Chunk::Done => break,
        }
    }
    if end == 0 {
        buffer.advance(at);
        return Ok(Bytes::new());
    }
    buffer.advance(first);
    let data = buffer.split_to(end - first).freeze();
    buffer.advance(at - end);
    Ok(data)
}

/// Parses a chunk-size line: the size, and the length of the line with its end. At most 16
/// hexadecimal digits; extensions are skipped (RFC 9112 7.1.1). None while the line is not whole.
fn size_line(buffer: &[u8]) -> Result<Option<(u64, usize)>, WireError> {
    let window = &buffer[..buffer.len().min(MAX_LINE)];
    let Some(feed) = memchr::memchr(b'\n', window) else {
        // It can become no line any more: too long, or too many digits already.
        let is_malformed = window.len() == MAX_LINE
            || window.iter().take(17).filter(|byte| byte.is_ascii_hexdigit()).count() > 16;
        return if is_malformed { Err(WireError::Chunk) } else { Ok(None) };
    };
    let line = window[..feed].strip_suffix(b"\r").ok_or(WireError::Chunk)?;
    let digits = line.iter().position(|byte| !byte.is_ascii_hexdigit()).unwrap_or(line.len());
    let behind = &line[digits..];
    if digits == 0
        || digits > 16
        || behind.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t')
        || !matches!(behind.trim_ascii_start(), [] | [b';', ..])
    {
        return Err(WireError::Chunk);
    }
    let size =
        line[..digits].iter().fold(0_u64, |size, digit| size << 4 | u64::from(hex_value(*digit)));
    Ok(Some((size, feed + 1)))
}

fn hex_value(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit | 0x20) - b'a' + 10,
    }
}

/// Length of the next line of the trailer section, end included; 2 is the empty line that ends the
/// section. `seen`: bytes of the section before it. None while the line is not whole. The fields
/// are dropped, but what is none could be the begin of something else to another reader.
fn trailer_line(buffer: &[u8], seen: usize) -> Result<Option<usize>, WireError> {
    let Some(feed) = memchr::memchr(b'\n', buffer) else {
        return if seen + buffer.len() > MAX_LINE { Err(WireError::Trailer) } else { Ok(None) };
    };
    if feed == 0 || buffer[feed - 1] != b'\r' || seen + feed > MAX_LINE {
        return Err(WireError::Trailer);
    }
    let line = &buffer[..feed - 1];
    if line.is_empty() || is_field(line) { Ok(Some(feed + 1)) } else { Err(WireError::Trailer) }
}

/// Whether a line is `NAME: VALUE`, as a field of a head is (RFC 9112 5).
fn is_field(line: &[u8]) -> bool {
    memchr::memchr(b':', line).is_some_and(|colon| {
        HeaderName::from_bytes(&line[..colon]).is_ok()
            && HeaderValue::from_bytes(&line[colon + 1..]).is_ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(text: &str) -> Result<Option<ParsedHead>, WireError> {
        take_response_head(&mut BytesMut::from(text), false, false, Sender::Proxied, &mut 0)
    }

    fn error(text: &str) -> WireError {
        head(text).unwrap_err()
    }

    #[test]
    fn a_plain_number_is_one_that_fits_and_has_digits_only() {
        let texts = ["", "0", "007", "65536", "18446744073709551615", "18446744073709551616"];
        for text in texts.into_iter().chain(["99999999999999999999", "+1", "-0", "1 ", "1_0", "1/"])
        {
            let is_plain = text.bytes().all(|byte| byte.is_ascii_digit());
            let expected = text.parse().ok().filter(|_| is_plain);
            assert_eq!(plain_number(text.as_bytes()), expected, "{text:?}");
        }
        for byte in 0..=u8::MAX {
            assert_eq!(plain_number(&[byte]).is_some(), byte.is_ascii_digit(), "{byte}");
        }
    }

    #[test]
    fn interim_responses_are_bounded_in_one_read_and_over_many() {
        let interim = "HTTP/1.1 102 Processing\r\n\r\n";
        let response = |count| interim.repeat(count) + "HTTP/1.1 204 No Content\r\n\r\n";
        assert_eq!(head(&response(8)).unwrap().unwrap().status, 204);
        assert_eq!(error(&response(9)), WireError::Interim);
        let mut count = 0;
        for _ in 0..8 {
            let mut buffer = BytesMut::from(interim);
            assert!(
                take_response_head(&mut buffer, false, false, Sender::Proxied, &mut count)
                    .unwrap()
                    .is_none()
            );
        }
        let ninth = take_response_head(
            &mut BytesMut::from(interim),
            false,
            false,
            Sender::Proxied,
            &mut count,
        );
        assert_eq!(ninth.unwrap_err(), WireError::Interim);
    }

    #[test]
    fn interim_responses_are_skipped_and_the_body_stays_in_the_buffer() {
        let mut buffer = BytesMut::from(
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 200 \
             OK\r\nContent-Length: 2\r\n\r\nok!",
        );
        let head = take_response_head(&mut buffer, false, false, Sender::Proxied, &mut 0)
            .unwrap()
            .unwrap();
        assert_eq!(
            (head.status.as_u16(), head.decoder, head.keep_alive),
            (200, Decoder::Length(2), true)
        );
        assert!(head.headers.is_empty(), "nothing of the hints, nothing of the framing");
        assert_eq!(&buffer[..], b"ok!");
    }

    #[test]
    fn a_head_that_is_not_whole_is_waited_for() {
        let text = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n";
        for cut in 0..text.len() {
            assert!(head(&text[..cut]).unwrap().is_none(), "cut at {cut}");
        }
    }

    #[test]
    fn doubtful_framing_is_an_error() {
        assert_eq!(
            error("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n"),
            WireError::LengthAndChunked
        );
        assert_eq!(
            error("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\n"),
            WireError::Length
        );
        for length in ["+2", "-2", "2,2", "0x2", "2 2", "", "18446744073709551616", "1_0"] {
            assert_eq!(
                error(&format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n")),
                WireError::Length,
                "{length}"
            );
        }
        for coding in [
            "gzip, chunked",
            "chunked, chunked",
            "identity",
            "chunked\r\nTransfer-Encoding: chunked",
        ] {
            let text = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: {coding}\r\n\r\n");
            assert_eq!(error(&text), WireError::TransferCoding, "{coding}");
        }
        assert_eq!(error("SSH-2.0-OpenSSH\r\n\r\n"), WireError::Head);
        for status in ["099", "000", "600", "999"] {
            assert_eq!(error(&format!("HTTP/1.1 {status} X\r\n\r\n")), WireError::Status);
        }
        for status in ["1000", "20", "2x0", "-200", "+200"] {
            assert_eq!(error(&format!("HTTP/1.1 {status} X\r\n\r\n")), WireError::Head);
        }
        for text in [
            "HTTP/1.1 200 OK\nA: b\n\n",
            "HTTP/1.1 200 OK\nA: b\r\n\r\n",
            "HTTP/1.1 200 OK\r\nA: b\n\r\n",
            "HTTP/1.1 200 OK\r\nA: b\r\n\n",
            "\nHTTP/1.1 200 OK\r\n\r\n",
            "HTTP/1.1 103 Early Hints\n\nHTTP/1.1 200 OK\r\n\r\n",
        ] {
            assert_eq!(error(text), WireError::BareLineFeed, "{text:?}");
        }
        assert_eq!(
            error(&format!("HTTP/1.1 200 OK\r\nA: {}", "a".repeat(MAX_HEAD))),
            WireError::HeadTooLarge
        );
    }

    #[test]
    fn a_101_opens_a_websocket_where_one_was_asked_for_and_nothing_else() {
        let switching = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\n\
            Upgrade: websocket\r\n\r\nrest";
        assert_eq!(error(switching), WireError::Upgrade);
        for (from, to, wrong) in [
            ("Connection", "X", HandshakeError::Switch),
            ("websocket", "h2c", HandshakeError::Switch),
            ("\r\n\r\n", "\r\nContent-Length: 0\r\n\r\n", HandshakeError::Body),
            ("\r\n\r\n", "\r\nTransfer-Encoding: chunked\r\n\r\n", HandshakeError::Body),
        ] {
            let mut buffer = BytesMut::from(&*switching.replace(from, to));
            let head = take_response_head(&mut buffer, false, true, Sender::Proxied, &mut 0);
            assert_eq!(head.err(), Some(WireError::Handshake(wrong)), "{to}");
        }
        let mut buffer = BytesMut::from(switching);
        let head =
            take_response_head(&mut buffer, false, true, Sender::Proxied, &mut 0).unwrap().unwrap();
        assert!(head.status.as_u16() == 101 && head.decoder.is_done() && buffer == "rest");
    }

    #[test]
    fn fields_of_the_connection_do_not_pass_and_repeats_do() {
        let text = "HTTP/1.1 200 OK\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\nServer: uvicorn\r\n\
            Date: x\r\nLink: a\r\nlink: b\r\nContent-Length: 3\r\n\r\n";
        let head = head(text).unwrap().unwrap();
        assert_eq!(head.headers.len(), 2);
        assert_eq!(head.headers.get_all("link").iter().count(), 2);
        assert_eq!(head.content_length, Some(3));
        assert!(head.withheld.is_empty());
    }

    #[test]
    fn what_is_withheld_is_named_and_the_engines_id_has_another_name() {
        let text = "HTTP/1.1 200 OK\r\nSet-Cookie: a\r\nX-Request-Id: 1\r\nRequest-Id: 2\r\n\
            Content-Type: text/plain\r\nX-Mine: 3\r\nContent-Length: 0\r\n\r\n";
        for (added, passing, withheld) in [
            (vec![], 2, vec!["set-cookie", "x-mine"]),
            (vec!["x-mine".to_owned(), "set-cookie".to_owned()], 3, vec!["set-cookie"]),
        ] {
            let sender = Sender::Engine(&added);
            let mut buffer = BytesMut::from(text);
            let head =
                take_response_head(&mut buffer, false, false, sender, &mut 0).unwrap().unwrap();
            assert_eq!(head.withheld, withheld);
            assert_eq!(
                (head.headers.len(), &head.headers["x-upstream-request-id"]),
                (passing, &HeaderValue::from_static("1"))
            );
        }
    }

    #[test]
    fn responses_without_a_body_have_none_whatever_they_say() {
        for status in ["204 No Content", "304 Not Modified"] {
            let head =
                head(&format!("HTTP/1.1 {status}\r\nContent-Length: 10\r\n\r\n")).unwrap().unwrap();
            assert!(head.decoder.is_done());
        }
        let text = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n";
        let head =
            take_response_head(&mut BytesMut::from(text), true, false, Sender::Proxied, &mut 0)
                .unwrap()
                .unwrap();
        assert!(head.decoder.is_done());
    }

    #[test]
    fn a_connection_is_kept_only_when_nothing_speaks_against_it() {
        let kept = |text: &str| head(text).unwrap().unwrap().keep_alive;
        assert!(kept("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"));
        assert!(!kept("HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n"));
        assert!(!kept("HTTP/1.1 200 OK\r\nConnection: foo, Close\r\nContent-Length: 0\r\n\r\n"));
        assert!(!kept("HTTP/1.1 200 OK\r\n\r\n"), "a body that ends with the connection");
        let head =
            head("HTTP/1.1 200 OK\r\nKeep-Alive: timeout=5, max=100\r\nContent-Length: 0\r\n\r\n")
                .unwrap()
                .unwrap();
        assert_eq!(
            head.keep_alive_limits,
            KeepAlive { timeout: Some(Duration::from_secs(5)), max: Some(100) }
        );
    }

    /// Feeds a chunked body in pieces of `step` bytes; the data, and what was left behind the end.
    fn dechunk(text: &[u8], step: usize) -> Result<(Vec<u8>, bool, Vec<u8>), WireError> {
        let mut decoder = Decoder::Chunked(Chunk::Size);
        let (mut buffer, mut data) = (BytesMut::new(), Vec::new());
        for piece in text.chunks(step) {
            buffer.extend_from_slice(piece);
            data.extend_from_slice(&decoder.decode(&mut buffer)?.data);
        }
        Ok((data, decoder.is_done(), buffer.to_vec()))
    }

    #[test]
    fn chunks_are_joined_whatever_the_reads() {
        let text = b"4\r\nWiki\r\n6;ext=\"x\"\r\npedia \r\nE \r\nin \r\n\r\nchunks.\r\n0\r\n\
            Trailer: x\r\n\r\nNEXT";
        for step in 1..=text.len() {
            let (data, done, rest) = dechunk(text, step).unwrap();
            assert_eq!(data, b"Wikipedia in \r\n\r\nchunks.", "step {step}");
            assert!(done);
            assert_eq!(rest, b"NEXT");
        }
    }

    #[test]
    fn malformed_chunks_are_errors_at_any_split() {
        for text in [
            &b"00000000000000001\r\nx\r\n"[..],
            b"4\nWiki\r\n",
            b"4\r\nWikiX\r\n",
            b"4\r\nWiki\n",
            b"-4\r\nWiki\r\n",
            b"+4\r\nWiki\r\n",
            b"0x4\r\nWiki\r\n",
            b"\r\nWiki",
            b" 4\r\nWiki\r\n",
            b"4 x\r\nWiki\r\n",
            b"4;a\rb\r\nWiki\r\n",
            b"4;a\0b\r\nWiki\r\n",
            b"4\x0b\r\nWiki\r\n",
            b"0\r\nTrailer: x\n\r\n",
            b"0\r\nno colon\r\n\r\n",
            b"0\r\n: x\r\n\r\n",
            b"0\r\nA : x\r\n\r\n",
            b"0\r\n A: x\r\n\r\n",
            b"0\r\nA: x\r\n y\r\n\r\n",
            b"0\r\nA\xe9: x\r\n\r\n",
            b"0\r\nA: x\ry\r\n\r\n",
            b"0\r\nA: \0\r\n\r\n",
            b"0\r\nA: x\x7f\r\n\r\n",
            b"0\r\n\r\r\n\r\n",
            b"0\r\n\n",
        ] {
            for step in [1, 2, text.len()] {
                assert!(
                    dechunk(text, step).is_err(),
                    "{:?} step {step}",
                    String::from_utf8_lossy(text)
                );
            }
        }
        let endless = [&b"1;"[..], &vec![b'x'; MAX_LINE]].concat();
        assert_eq!(dechunk(&endless, 512).unwrap_err(), WireError::Chunk);
        let long = format!("0\r\nA: {}\r\n\r\n", "x".repeat(MAX_LINE));
        let many = format!("0\r\n{}\r\n", "A: x\r\n".repeat(MAX_LINE / 6 + 1));
        for text in [long, many] {
            assert_eq!(dechunk(text.as_bytes(), 512).unwrap_err(), WireError::Trailer);
        }
        let (data, done, _) = dechunk(b"0\r\nA:\r\nb-1: \t\xe9 y\r\n\r\n", 1).unwrap();
        assert!(data.is_empty() && done);
    }

    #[test]
    fn a_length_leaves_what_is_behind_it() {
        let mut decoder = Decoder::Length(3);
        let mut buffer = BytesMut::from("abcd");
        assert_eq!(
            decoder.decode(&mut buffer).unwrap(),
            Decoded { data: Bytes::from("abc"), done: true }
        );
        assert_eq!(&buffer[..], b"d");
    }
}
