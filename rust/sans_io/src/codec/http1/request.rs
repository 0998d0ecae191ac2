//! HTTP/1 requests of clients: parses a head, and decides the framing of its body.
//!
//! As strict as the engine side: what two readers could take for two different requests is an
//! error, never a guess (RFC 9112 6.3, 11.2).

use std::{fmt, mem::MaybeUninit, sync::LazyLock};

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, Version};
use memchr::memmem;

use super::{Chunk, Decoder, has_bare_line_feed, plain_number};
use crate::codec::headers;

/// The largest head of a request, in bytes.
pub const MAX_HEAD: usize = 64 * 1024;
/// The most fields in a head.
pub const MAX_FIELDS: usize = 100;

/// The end of a head. Made once: making it costs as much as searching an ordinary head.
static HEAD_END: LazyLock<memmem::Finder<'static>> =
    LazyLock::new(|| memmem::Finder::new(b"\r\n\r\n"));

/// A request whose head cannot be read, or whose body cannot be framed. Displayed as a sentence
/// with what to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadError {
    /// The head is no HTTP/1 head.
    Malformed,
    /// A line of the head ends with LF alone.
    BareLineFeed,
    /// The target of the request is no path and no URL of HTTP.
    Target,
    /// A version other than 1.0 and 1.1.
    Version,
    /// The target fills the whole room of a head.
    TargetTooLong,
    /// The head is over [`MAX_HEAD`] or [`MAX_FIELDS`].
    TooLarge,
    /// `Content-Length` twice, or not a plain number.
    Length,
    /// A `Content-Length` of 2^64 or more.
    LengthTooLarge,
    /// `Transfer-Encoding` together with `Content-Length`, or in HTTP/1.0.
    LengthAndChunked,
    /// A transfer coding other than `chunked`.
    TransferCoding,
}

impl fmt::Display for HeadError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Malformed => {
                "The request's head is no HTTP/1.1: a line is malformed. Send `METHOD PATH \
                 HTTP/1.1`, then one `Name: value` for each line."
            }
            Self::BareLineFeed => {
                "A line of the request's head ends with LF alone. End each with CR LF."
            }
            Self::Target => {
                "The request's target is no valid path or URL. Send a path that begins with `/`, \
                 with other characters percent-encoded, or an http URL."
            }
            Self::Version => "This server speaks HTTP/1.1, HTTP/1.0 and HTTP/2. Send one of them.",
            Self::TargetTooLong => "The request's path is longer than 64 KB. Send a shorter one.",
            Self::TooLarge => {
                "The request's head is larger than 64 KB or has more than 100 fields. Send fewer \
                 or shorter fields."
            }
            Self::Length => {
                "The request's Content-Length is doubled or not a plain number. Send the body's \
                 length in bytes, once."
            }
            Self::LengthTooLarge => {
                "The request's Content-Length is larger than any body can be. Send the body's \
                 length in bytes."
            }
            Self::LengthAndChunked => {
                "The request has a Transfer-Encoding together with a Content-Length, or in \
                 HTTP/1.0. Send a Content-Length, or in HTTP/1.1 `Transfer-Encoding: chunked`."
            }
            Self::TransferCoding => {
                "This server takes no Transfer-Encoding other than `chunked`, once. Send \
                 `chunked`, or a Content-Length."
            }
        })
    }
}

impl std::error::Error for HeadError {}

/// The head of a request, with what it says about its body and its connection.
#[derive(Debug)]
pub struct RequestHead {
    /// The method.
    pub method: Method,
    /// The target, as it was sent.
    pub uri: Uri,
    /// 1.0 or 1.1.
    pub version: Version,
    /// All fields, in their order.
    pub headers: HeaderMap,
    /// The framing of the body; never close-delimited.
    pub decoder: Decoder,
    /// Whether the client lets the connection carry another request.
    pub keep_alive: bool,
    /// Whether the client waits for a 100 before it sends its body (RFC 9110 10.1.1).
    pub expects_continue: bool,
}

/// A head that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// The reason.
    pub error: HeadError,
    /// The bytes of the head so far.
    pub head: Bytes,
}

impl Unreadable {
    /// The target of the request line without its query, where there is one: what the error's
    /// dialect is chosen by.
    pub fn path(&self) -> Option<&str> {
        let line = self.head.split(|byte| matches!(byte, b'\r' | b'\n')).next()?;
        let target = line.split(|byte| *byte == b' ').nth(1)?;
        let path = target.split(|byte| *byte == b'?').next()?;
        std::str::from_utf8(path).ok()
    }
}

/// Reads the heads of one connection. It remembers how far it has looked, so that a head that comes
/// byte by byte costs no more than twice its length.
#[derive(Clone, Copy, Debug, Default)]
pub struct HeadReader {
    /// Bytes in which no end of a head is.
    searched: usize,
    /// The length of the part that was last checked for mistakes.
    checked: usize,
    /// Bytes of empty lines that were dropped before the head.
    dropped: usize,
}

impl HeadReader {
    /// Takes a whole head off the front of `buffer`, which keeps what lies behind it. None while
    /// the head is not whole. Empty lines before it are dropped (RFC 9112 2.2), up to [`MAX_HEAD`]
    /// bytes. The error is final: where the next request begins is unknown.
    pub fn take(&mut self, buffer: &mut BytesMut) -> Result<Option<RequestHead>, Unreadable> {
        while buffer.starts_with(b"\r\n") {
            buffer.advance(2);
            *self = Self { dropped: self.dropped + 2, ..Self::default() };
        }
        if self.dropped > MAX_HEAD {
            return Err(Unreadable { error: HeadError::TooLarge, head: buffer.split().freeze() });
        }
        let window = &buffer[..buffer.len().min(MAX_HEAD)];
        let from = self.searched.saturating_sub(3).min(window.len());
        let Some(end) = HEAD_END.find(&window[from..]) else {
            self.searched = window.len();
            self.check_partial(window)
                .map_err(|error| Unreadable { error, head: buffer.split().freeze() })?;
            return Ok(None);
        };
        *self = Self::default();
        let head = buffer.split_to(from + end + 4).freeze();
        match parse(&head) {
            Ok(parsed) => Ok(Some(parsed)),
            Err(error) => Err(Unreadable { error, head }),
        }
    }

    /// Looks for mistakes in a head that is not whole, each time it has doubled.
    fn check_partial(&mut self, partial: &[u8]) -> Result<(), HeadError> {
        if partial.len() >= MAX_HEAD {
            let in_target = memchr::memchr(b'\n', partial).is_none();
            return Err(if in_target { HeadError::TargetTooLong } else { HeadError::TooLarge });
        }
        if partial.len() < 2 * self.checked || partial == b"\r" || partial.is_empty() {
            return Ok(());
        }
        self.checked = partial.len();
        let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
        let mut parsed = httparse::Request::new(&mut []);
        match parsed.parse_with_uninit_headers(partial, &mut fields) {
            Ok(httparse::Status::Partial) => Ok(()),
            // Only lines without CR can end it here.
            Ok(httparse::Status::Complete(_)) => Err(HeadError::BareLineFeed),
            // What stands in the version's place is known at the end of its line.
            Err(httparse::Error::Version) if memchr::memchr(b'\n', partial).is_none() => Ok(()),
            Err(error) => Err(parse_error(error, partial)),
        }
    }
}

/// Whether these bytes begin a head. An empty line does not, nor does half of one.
pub fn begins_head(buffer: &[u8]) -> bool {
    !matches!(buffer, [] | [b'\r'])
}

/// Parses a head that ends with its first empty line.
fn parse(head: &Bytes) -> Result<RequestHead, HeadError> {
    let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut parsed = httparse::Request::new(&mut []);
    match parsed.parse_with_uninit_headers(head, &mut fields) {
        Ok(httparse::Status::Complete(length)) if length == head.len() => {}
        Ok(_) => return Err(HeadError::BareLineFeed),
        Err(error) => return Err(parse_error(error, head)),
    }
    if has_bare_line_feed(head, parsed.headers) {
        return Err(HeadError::BareLineFeed);
    }
    let method = parsed.method.unwrap_or_default();
    let method = Method::from_bytes(method.as_bytes()).map_err(|_| HeadError::Malformed)?;
    let target = head.slice_ref(parsed.path.unwrap_or_default().as_bytes());
    // `Uri` would drop a fragment, which is no part of a target (RFC 9112 3.2).
    if memchr::memchr(b'#', &target).is_some() || !has_form(&method, &target) {
        return Err(HeadError::Target);
    }
    let version = if parsed.version == Some(1) { Version::HTTP_11 } else { Version::HTTP_10 };
    let framing = Framing::read(parsed.headers, version)?;
    Ok(RequestHead {
        method,
        uri: Uri::from_maybe_shared(target).map_err(|_| HeadError::Target)?,
        version,
        headers: header_map(head, parsed.headers)?,
        decoder: framing.decoder(),
        keep_alive: framing.keep_alive(version),
        expects_continue: framing.expects_continue && version == Version::HTTP_11,
    })
}

/// Whether a target has a form that its method may have (RFC 9112 3.2): a path, a URL of HTTP, the
/// host that CONNECT is for, or `*`, which OPTIONS asks about.
fn has_form(method: &Method, target: &[u8]) -> bool {
    let is_url = |scheme: &str| {
        let start = target.get(..scheme.len());
        start.is_some_and(|start| start.eq_ignore_ascii_case(scheme.as_bytes()))
    };
    match target {
        [b'/', ..] => true,
        b"*" => *method == Method::OPTIONS,
        _ => is_url("http://") || is_url("https://") || *method == Method::CONNECT,
    }
}

fn parse_error(error: httparse::Error, head: &[u8]) -> HeadError {
    match error {
        httparse::Error::TooManyHeaders => HeadError::TooLarge,
        httparse::Error::Version if names_version(head) => HeadError::Version,
        _ => HeadError::Malformed,
    }
}

/// Whether the request line is in order but for its version, which is one of HTTP: `HTTP/3.0`.
fn names_version(head: &[u8]) -> bool {
    let line = head.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let version = line.split(|byte| *byte == b' ').nth(2).unwrap_or_default();
    let words = line.split(|byte| *byte == b' ').count();
    matches!(version, [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
        if words == 3 && major.is_ascii_digit() && minor.is_ascii_digit())
}

/// The fields, whose values share the head's bytes.
fn header_map(head: &Bytes, fields: &[httparse::Header<'_>]) -> Result<HeaderMap, HeadError> {
    let mut map = HeaderMap::with_capacity(fields.len());
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes());
        let value = HeaderValue::from_maybe_shared(head.slice_ref(field.value));
        match (name, value) {
            (Ok(name), Ok(value)) => map.append(name, value),
            _ => return Err(HeadError::Malformed),
        };
    }
    Ok(map)
}

/// Fields of a head that concern its body and its connection.
#[derive(Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
struct Framing {
    length: Option<u64>,
    chunked: bool,
    close: bool,
    keep_alive: bool,
    expects_continue: bool,
}

impl Framing {
    fn read(fields: &[httparse::Header<'_>], version: Version) -> Result<Self, HeadError> {
        let mut framing = Self::default();
        for field in fields {
            let named = |name: &str| field.name.eq_ignore_ascii_case(name);
            match field.name.len() {
                14 if named("content-length") => {
                    let length = plain_number(field.value).ok_or_else(|| not_a_length(field))?;
                    if framing.length.replace(length).is_some() {
                        return Err(HeadError::Length);
                    }
                }
                17 if named("transfer-encoding") => {
                    // Twice is `chunked, chunked`.
                    if framing.chunked || !field.value.eq_ignore_ascii_case(b"chunked") {
                        return Err(HeadError::TransferCoding);
                    }
                    framing.chunked = true;
                }
                10 if named("connection") => {
                    for token in headers::tokens(field.value) {
                        framing.close |= token.eq_ignore_ascii_case(b"close");
                        framing.keep_alive |= token.eq_ignore_ascii_case(b"keep-alive");
                    }
                }
                6 if named("expect") => {
                    framing.expects_continue |=
                        headers::tokens(field.value).any(headers::is_continue);
                }
                _ => {}
            }
        }
        if framing.chunked && (framing.length.is_some() || version == Version::HTTP_10) {
            return Err(HeadError::LengthAndChunked);
        }
        Ok(framing)
    }

    fn decoder(&self) -> Decoder {
        if self.chunked {
            Decoder::Chunked(Chunk::Size)
        } else {
            Decoder::Length(self.length.unwrap_or(0))
        }
    }

    fn keep_alive(&self, version: Version) -> bool {
        !self.close && (version == Version::HTTP_11 || self.keep_alive)
    }
}

/// The error of a `Content-Length` that is none.
fn not_a_length(field: &httparse::Header<'_>) -> HeadError {
    let is_number = !field.value.is_empty() && field.value.iter().all(u8::is_ascii_digit);
    if is_number { HeadError::LengthTooLarge } else { HeadError::Length }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(head: &str) -> Result<Option<RequestHead>, HeadError> {
        HeadReader::default()
            .take(&mut BytesMut::from(head.as_bytes()))
            .map_err(|unreadable| unreadable.error)
    }

    fn framed(fields: &str) -> Result<Decoder, HeadError> {
        Ok(read(&format!("POST / HTTP/1.1\r\n{fields}\r\n"))?.expect("a whole head").decoder)
    }

    #[test]
    fn a_head_is_taken_and_what_lies_behind_it_stays() {
        let mut buffer = BytesMut::from(
            "\r\n\r\nPOST /v1/x?y=1 HTTP/1.1\r\nHost: h\r\nA:  b c \r\nContent-Length: 3\r\n\r\nabcGET",
        );
        let head = HeadReader::default().take(&mut buffer).unwrap().unwrap();
        assert_eq!((head.method, head.version), (Method::POST, Version::HTTP_11));
        assert_eq!(head.uri, "/v1/x?y=1");
        assert_eq!(head.headers["a"], "b c");
        assert_eq!(head.decoder, Decoder::Length(3));
        assert!(head.keep_alive && !head.expects_continue);
        assert_eq!(buffer, "abcGET");
    }

    #[test]
    fn a_head_in_single_bytes_is_parsed_a_few_times_only() {
        let whole = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(MAX_FIELDS));
        let (mut reader, mut buffer) = (HeadReader::default(), BytesMut::new());
        let mut checks = 0;
        for (at, byte) in whole.bytes().enumerate() {
            buffer.extend_from_slice(&[byte]);
            let before = reader.checked;
            let taken = reader.take(&mut buffer).unwrap();
            checks += usize::from(reader.checked != before);
            assert_eq!(taken.is_some(), at + 1 == whole.len());
        }
        assert!(checks <= 12, "{checks}");
    }

    #[test]
    fn a_body_is_framed_in_one_way_or_not_at_all() {
        assert_eq!(framed(""), Ok(Decoder::Length(0)));
        assert_eq!(
            framed("Content-Length: 18446744073709551615\r\n"),
            Ok(Decoder::Length(u64::MAX))
        );
        assert_eq!(framed("transfer-encoding: CHUNKED\r\n"), Ok(Decoder::Chunked(Chunk::Size)));
        for (fields, error) in [
            ("Content-Length: 18446744073709551616\r\n", HeadError::LengthTooLarge),
            ("Content-Length: +3\r\n", HeadError::Length),
            ("Content-Length: 3, 3\r\n", HeadError::Length),
            ("Content-Length:\r\n", HeadError::Length),
            ("Content-Length: 3\r\nContent-Length: 3\r\n", HeadError::Length),
            ("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n", HeadError::LengthAndChunked),
            ("Transfer-Encoding: gzip, chunked\r\n", HeadError::TransferCoding),
            ("Transfer-Encoding: identity\r\n", HeadError::TransferCoding),
            ("Transfer-Encoding: chunked, chunked\r\n", HeadError::TransferCoding),
            ("Transfer-Encoding: \"chunked\"\r\n", HeadError::TransferCoding),
            (
                "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
                HeadError::TransferCoding,
            ),
            ("Transfer-Encoding:\r\n", HeadError::TransferCoding),
        ] {
            assert_eq!(framed(fields), Err(error), "{fields:?}");
        }
        let old = read("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n");
        assert_eq!(old.unwrap_err(), HeadError::LengthAndChunked);
    }

    #[test]
    fn what_two_readers_could_read_in_two_ways_is_an_error() {
        for (head, error) in [
            ("GET / HTTP/1.1\nHost: h\n\n", HeadError::BareLineFeed),
            ("GET / HTTP/1.1\r\nHost: h\nX: y\r\n\r\n", HeadError::BareLineFeed),
            ("GET / HTTP/1.1\r\nHost: h\n\r\nX: y\r\n\r\n", HeadError::BareLineFeed),
            ("\nGET / HTTP/1.1\r\nHost: h\r\n\r\n", HeadError::BareLineFeed),
            ("GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n", HeadError::Malformed),
            ("GET / HTTP/1.1\r\n A: b\r\n\r\n", HeadError::Malformed),
            ("GET / HTTP/1.1\r\nA : b\r\n\r\n", HeadError::Malformed),
            ("GET / HTTP/1.1\r\nA: b\rc\r\n\r\n", HeadError::Malformed),
            ("GET / HTTP/1.1\r\nA: b\0\r\n\r\n", HeadError::Malformed),
            ("GET / HTTP/1.1\r\nno colon\r\n\r\n", HeadError::Malformed),
            ("GET  / HTTP/1.1\r\n\r\n", HeadError::Malformed),
            ("GET /\r\n\r\n", HeadError::Malformed),
            ("GET /a b HTTP/1.1\r\n\r\n", HeadError::Malformed),
            ("GET / HTTP/1.1 \r\n\r\n", HeadError::Malformed),
            ("GET / HTTP/1.10\r\n\r\n", HeadError::Malformed),
            ("GET / HTTP/11\r\n\r\n", HeadError::Malformed),
            ("GET / HTTP/2\r\n\r\n", HeadError::Malformed),
            ("GET / http/1.1\r\n\r\n", HeadError::Malformed),
            ("GET / FTP/1.1\r\n\r\n", HeadError::Malformed),
            ("GET / HTTP/2.0\r\n\r\n", HeadError::Version),
            ("GET / HTTP/1.2\r\nA: b\r\n\r\n", HeadError::Version),
            ("GET a:b:c HTTP/1.1\r\n\r\n", HeadError::Target),
            ("GET /a#b HTTP/1.1\r\n\r\n", HeadError::Target),
            ("GET a HTTP/1.1\r\n\r\n", HeadError::Target),
            ("GET h:80 HTTP/1.1\r\n\r\n", HeadError::Target),
            ("GET * HTTP/1.1\r\n\r\n", HeadError::Target),
            ("OPTIONS ** HTTP/1.1\r\n\r\n", HeadError::Target),
            ("GET ftp://h/ HTTP/1.1\r\n\r\n", HeadError::Target),
            ("GET http:/h HTTP/1.1\r\n\r\n", HeadError::Target),
            ("GET http:///h HTTP/1.1\r\n\r\n", HeadError::Target),
        ] {
            assert_eq!(read(head).err(), Some(error), "{head:?}");
        }
    }

    #[test]
    fn a_head_has_a_largest_size_whatever_it_is_full_of() {
        let many = "a: b\r\n".repeat(MAX_FIELDS + 1);
        assert_eq!(framed(&many), Err(HeadError::TooLarge));
        let long = format!("GET / HTTP/1.1\r\nA: {}", "b".repeat(MAX_HEAD));
        assert_eq!(read(&long).err(), Some(HeadError::TooLarge));
        let target = format!("GET /{}", "b".repeat(MAX_HEAD));
        assert_eq!(read(&target).err(), Some(HeadError::TargetTooLong));
    }

    #[test]
    fn a_target_has_the_form_of_its_method() {
        for line in ["GET /", "GET HTTP://h/x", "GET https://h", "OPTIONS *", "CONNECT h:80"] {
            assert!(read(&format!("{line} HTTP/1.1\r\n\r\n")).is_ok(), "{line}");
        }
    }

    #[test]
    fn empty_lines_before_a_head_have_an_end() {
        let mut reader = HeadReader::default();
        for _ in 0..MAX_HEAD / 2 {
            let taken = reader.take(&mut BytesMut::from("\r\n"));
            assert!(taken.unwrap().is_none());
        }
        let mut buffer = BytesMut::from("\r\nGET / HTTP/1.1\r\n\r\n");
        assert_eq!(reader.take(&mut buffer).unwrap_err().error, HeadError::TooLarge);
    }

    #[test]
    fn a_connection_is_kept_as_its_version_says() {
        for (version, connection, kept) in [
            ("1.1", "", true),
            ("1.1", "Connection: x, Close\r\n", false),
            ("1.0", "", false),
            ("1.0", "Connection: Keep-Alive\r\n", true),
            ("1.0", "Connection: keep-alive, close\r\n", false),
        ] {
            let head = read(&format!("GET / HTTP/{version}\r\n{connection}\r\n")).unwrap();
            assert_eq!(head.unwrap().keep_alive, kept, "{version} {connection}");
        }
    }

    #[test]
    fn an_error_knows_the_path_that_was_asked_for() {
        let mut buffer = BytesMut::from("POST /v1/messages?x HTTP/1.1\r\nbad\r\n\r\n");
        let unreadable = HeadReader::default().take(&mut buffer).unwrap_err();
        assert_eq!(unreadable.path(), Some("/v1/messages"));
    }
}
