//! Finds the fields `model` and `stream` in a multipart/form-data request body while its bytes
//! arrive.
//!
//! The scanner buffers only the header line being read and the beginning of those two fields, so
//! the body may come in any split and be of any size. It accepts the forms that every engine reads
//! alike: a form that two readers take apart differently is a way around the check of the key. It
//! follows RFC 7578 and RFC 2046. Where engines' parsers (python-multipart under vLLM, cpp-httplib
//! under llama.cpp) are known to differ from them or from each other, the form is rejected:
//!
//! * lines end with CR LF; a part has one well-formed `Content-Disposition: form-data` with one
//!   plain `name`;
//! * `model` comes once, as a field: not as a file, not encoded, in one line, and under this name
//!   alone, not as `model[]`;
//! * a preamble is short and does not hold the boundary; nothing but white space follows the
//!   closing delimiter.
//!
//! Accepted as data: a line that only begins with the boundary, a boundary inside a line, a whole
//! form inside a file.

use std::fmt;

use memchr::memmem::Finder;
use memchr::{memchr, memchr2, memrchr};

use super::error::{MultipartError, MultipartErrorKind};
use super::header::{Field, PartHeader, boundary};
use super::limits::{BOUNDARY_MAX, HEADER_BYTES_MAX, PARTS_MAX};
use crate::codec::adapters::Picks;
use crate::codec::json::{MODEL_BYTES_MAX, Model};

/// The length of the line end that the delimiter, `\r\n--boundary`, begins with.
const LINE_END: usize = 2;
const DELIMITER_MAX: usize = LINE_END + 2 + BOUNDARY_MAX;

/// Bytes of the field `stream` that are buffered: more than any word that counts.
const STREAM_BYTES: usize = 8;

/// The scanner; see the module.
pub struct Scanner {
    state: State,
    /// Finds `\r\n--boundary`. A boundary holds no CR, so a match that fails can only begin anew.
    delimiter: Finder<'static>,
    /// Bytes of the delimiter that were read.
    matched: usize,
    /// Bytes of `matched` that are not data of this part: the line end in front of the delimiter
    /// may end the part's header.
    borrowed: usize,
    /// The offset of the present piece in the body.
    base: u64,
    parts: u32,
    /// The header line being read, or the preamble.
    line: Vec<u8>,
    /// Length of the present header section so far.
    header_bytes: usize,
    header: PartHeader,
    /// The start of the present part's header or, once that is read, of its data.
    start: u64,
    /// The data of a field that matters.
    value: Vec<u8>,
    model: Option<Model>,
    stream: bool,
    picks: Picks,
    failed: Option<MultipartError>,
}

impl Scanner {
    /// A scanner for one body. `content_type` is the value of the request's Content-Type. The
    /// error: it is not multipart/form-data, or its boundary is missing, empty, illegal or over 70
    /// characters.
    pub fn new(content_type: &[u8]) -> Result<Self, MultipartError> {
        let boundary = boundary(content_type).map_err(|kind| MultipartError { kind, offset: 0 })?;
        let delimiter = [b"\r\n--", boundary].concat();
        Ok(Self {
            state: State::Preamble,
            delimiter: Finder::new(&delimiter).into_owned(),
            // The body's start is the start of a line.
            matched: LINE_END,
            borrowed: LINE_END,
            base: 0,
            parts: 0,
            line: Vec::new(),
            header_bytes: 0,
            header: PartHeader::default(),
            start: 0,
            value: Vec::new(),
            model: None,
            stream: false,
            picks: Picks::default(),
            failed: None,
        })
    }

    /// Reads the next bytes of the body. The result does not depend on how the body is split. An
    /// error is final: every later call repeats it.
    pub fn feed(&mut self, piece: &[u8]) -> Result<(), MultipartError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let mut at = 0;
        while at < piece.len() {
            at = self.step(piece, at).inspect_err(|&error| self.failed = Some(error))?;
        }
        self.base += piece.len() as u64;
        Ok(())
    }

    /// The field `model`, as soon as the delimiter behind it was read; `range` is the field's data.
    /// It does not prove a good body: a second one may follow, and is an error then.
    pub fn model(&self) -> Option<&Model> {
        self.model.as_ref()
    }

    /// Whether the last field `stream` read so far says `true` or `1`.
    pub fn stream(&self) -> bool {
        self.stream
    }

    /// Whether a field that was read so far picks an adapter, or another model than `model` (see
    /// `codec::adapters`). An empty one picks nothing.
    pub fn picks_adapter(&self) -> bool {
        self.picks.model
    }

    /// Whether such a field names a host to which an engine connects.
    pub fn names_host(&self) -> bool {
        self.picks.host
    }

    /// Whether the closing delimiter was read: only white space may follow.
    pub fn is_finished(&self) -> bool {
        self.state == State::Epilogue && self.failed.is_none()
    }

    /// Checks the body as a whole when no more bytes come. The error is an earlier one of `feed`,
    /// or that the form is missing, not whole, or without a `model`.
    pub fn end(&self) -> Result<(), MultipartError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let kind = match self.state {
            State::Epilogue if self.model.is_some() => return Ok(()),
            State::Epilogue => MultipartErrorKind::ModelMissing,
            _ if self.base == 0 => MultipartErrorKind::Empty,
            _ if self.parts == 0 => MultipartErrorKind::NoDelimiter,
            _ => MultipartErrorKind::Truncated,
        };
        Err(MultipartError { kind, offset: self.base })
    }

    /// Reads on in the present state as far as it goes. Returns where to read on.
    fn step(&mut self, piece: &[u8], at: usize) -> Result<usize, MultipartError> {
        match self.state {
            State::Preamble | State::Data if self.matched > 0 => self.match_on(piece, at),
            State::Preamble | State::Data => self.search(piece, at),
            State::Line(line) => self.delimiter_line(piece[at], line, at),
            State::Header => self.header_line(piece, at),
            State::Epilogue => {
                match piece[at..]
                    .iter()
                    .position(|byte| !matches!(byte, b' ' | b'\t' | b'\r' | b'\n'))
                {
                    Some(data) => Err(self.error_at(MultipartErrorKind::TrailingData, at + data)),
                    None => Ok(piece.len()),
                }
            }
        }
    }

    /// Skips data up to the next delimiter, or to what may be the beginning of one at the piece's
    /// end.
    fn search(&mut self, piece: &[u8], at: usize) -> Result<usize, MultipartError> {
        let rest = &piece[at..];
        let length = self.delimiter.needle().len();
        if let Some(found) = self.delimiter.find(rest) {
            self.buffer(&rest[..found])?;
            self.matched = length;
            self.state = State::Line(Line::Start);
            return Ok(at + found + length);
        }
        let tail = rest.len().saturating_sub(length - 1);
        let begun = memrchr(b'\r', &rest[tail..]).map(|found| tail + found);
        let end = begun
            .filter(|&begun| self.delimiter.needle().starts_with(&rest[begun..]))
            .unwrap_or(rest.len());
        self.buffer(&rest[..end])?;
        self.matched = rest.len() - end;
        Ok(piece.len())
    }

    /// Goes on with a delimiter that has begun.
    fn match_on(&mut self, piece: &[u8], at: usize) -> Result<usize, MultipartError> {
        let wanted = &self.delimiter.needle()[self.matched..];
        let same =
            wanted.iter().zip(&piece[at..]).take_while(|(wanted, byte)| wanted == byte).count();
        let whole = same == wanted.len();
        self.matched += same;
        if whole {
            self.state = State::Line(Line::Start);
        } else if at + same < piece.len() {
            self.buffer_matched()?;
        }
        Ok(at + same)
    }

    /// Buffers as data what was compared with the delimiter and differs from it after all.
    fn buffer_matched(&mut self) -> Result<(), MultipartError> {
        let mut data = [0; DELIMITER_MAX];
        let data = &mut data[..self.matched - self.borrowed];
        data.copy_from_slice(&self.delimiter.needle()[self.borrowed..self.matched]);
        self.matched = 0;
        self.borrowed = 0;
        self.buffer(data)
    }

    /// Reads one byte of the line that begins with the boundary.
    fn delimiter_line(&mut self, byte: u8, line: Line, at: usize) -> Result<usize, MultipartError> {
        match (line, byte) {
            (Line::Start, b'-') => self.state = State::Line(Line::Dash),
            (Line::Dash, b'-') => self.close_form(at)?,
            (Line::Start | Line::Space, b'\r') => self.state = State::Line(Line::Return),
            (Line::Start, b' ' | b'\t') if self.parts == 0 => {
                return Err(self.error_at(MultipartErrorKind::PaddedFirstLine, at));
            }
            (Line::Start | Line::Space, b' ' | b'\t') => self.state = State::Line(Line::Space),
            (Line::Start | Line::Space, b'\n') => {
                return Err(self.error_at(MultipartErrorKind::BareLineFeed, at));
            }
            (Line::Return, b'\n') => self.open_part(at)?,
            _ => return self.not_a_delimiter(at),
        }
        Ok(at + 1)
    }

    /// A line that began with the boundary goes on with the byte at `at`, as no delimiter does.
    fn not_a_delimiter(&mut self, at: usize) -> Result<usize, MultipartError> {
        if self.parts == 0 {
            return Err(self.error_at(MultipartErrorKind::BoundaryInPreamble, at));
        }
        match self.header.field {
            Field::Model => return Err(self.start_error(MultipartErrorKind::ModelNotOneLine)),
            Field::Stream => self.buffer_word(b"\r\n"),
            Field::Pick(picks) => self.picks.add(picks),
            Field::ModelOtherwise | Field::Other => {}
        }
        self.matched = 0;
        self.borrowed = 0;
        self.state = State::Data;
        Ok(at)
    }

    /// A delimiter line ends with the byte at `at`.
    fn open_part(&mut self, at: usize) -> Result<(), MultipartError> {
        self.close_part(at)?;
        if self.parts == PARTS_MAX {
            return Err(self.error_at(MultipartErrorKind::TooManyParts, at));
        }
        self.parts += 1;
        self.header = PartHeader::default();
        self.header_bytes = 0;
        self.line.clear();
        self.start = self.offset(at + 1);
        self.state = State::Header;
        Ok(())
    }

    /// The second dash of the closing delimiter is at `at`.
    fn close_form(&mut self, at: usize) -> Result<(), MultipartError> {
        self.close_part(at)?;
        self.state = State::Epilogue;
        Ok(())
    }

    /// A delimiter was read up to `at`: the preamble or the part in front of it is whole.
    fn close_part(&mut self, at: usize) -> Result<(), MultipartError> {
        if self.parts == 0 {
            let boundary = &self.delimiter.needle()[LINE_END..];
            return match Finder::new(boundary).find(&self.line) {
                Some(_) => Err(self.error_at(MultipartErrorKind::BoundaryInPreamble, at)),
                None => Ok(()),
            };
        }
        if self.borrowed > 0 {
            return Err(self.start_error(MultipartErrorKind::DataMissing));
        }
        match self.header.field {
            Field::Model => self.take_model()?,
            Field::Stream => {
                self.stream = self.value.eq_ignore_ascii_case(b"true") || self.value == b"1";
            }
            Field::ModelOtherwise | Field::Pick(_) | Field::Other => {}
        }
        Ok(())
    }

    fn take_model(&mut self) -> Result<(), MultipartError> {
        let range = self.start..self.start + self.value.len() as u64;
        let name = String::from_utf8(std::mem::take(&mut self.value))
            .map_err(|_| self.start_error(MultipartErrorKind::ModelNotUnicode))?;
        if name.trim().is_empty() {
            return Err(self.start_error(MultipartErrorKind::ModelEmpty));
        }
        self.model = Some(Model { name, range });
        Ok(())
    }

    /// Buffers data that may matter: of a field, or of the preamble.
    fn buffer(&mut self, data: &[u8]) -> Result<(), MultipartError> {
        if self.state == State::Preamble {
            if self.line.len() + data.len() > HEADER_BYTES_MAX {
                return Err(self.start_error(MultipartErrorKind::PreambleTooLong));
            }
            self.line.extend_from_slice(data);
            return Ok(());
        }
        match self.header.field {
            Field::Model => return self.buffer_name(data),
            Field::Stream => self.buffer_word(data),
            Field::Pick(picks) if !data.is_empty() => self.picks.add(picks),
            Field::ModelOtherwise | Field::Pick(_) | Field::Other => {}
        }
        Ok(())
    }

    /// Buffers the beginning of the value of `stream`.
    fn buffer_word(&mut self, data: &[u8]) {
        let room = STREAM_BYTES.saturating_sub(self.value.len());
        self.value.extend_from_slice(&data[..data.len().min(room)]);
    }

    fn buffer_name(&mut self, data: &[u8]) -> Result<(), MultipartError> {
        let room = MODEL_BYTES_MAX - self.value.len();
        // The error that comes first in the body wins, so that the split does not matter.
        match memchr2(b'\r', b'\n', data) {
            Some(end) if end <= room => Err(self.start_error(MultipartErrorKind::ModelNotOneLine)),
            _ if data.len() > room => Err(self.start_error(MultipartErrorKind::ModelTooLong)),
            _ => {
                self.value.extend_from_slice(data);
                Ok(())
            }
        }
    }

    /// Reads a line of a part's header, or the part of it that is in the piece.
    fn header_line(&mut self, piece: &[u8], at: usize) -> Result<usize, MultipartError> {
        let rest = &piece[at..];
        let feed = memchr(b'\n', rest);
        let read = feed.map_or(rest.len(), |feed| feed + 1);
        self.header_bytes += read;
        if self.header_bytes > HEADER_BYTES_MAX {
            return Err(self.start_error(MultipartErrorKind::HeaderTooLong));
        }
        self.line.extend_from_slice(&rest[..read]);
        if feed.is_some() {
            self.close_header_line(at + read)?;
        }
        Ok(at + read)
    }

    /// Ends the header line in `line`; behind it the body goes on at `end`.
    fn close_header_line(&mut self, end: usize) -> Result<(), MultipartError> {
        let Some(line) = self.line.strip_suffix(b"\r\n") else {
            return Err(self.error_at(MultipartErrorKind::BareLineFeed, end - 1));
        };
        if !line.is_empty() {
            self.header.read(line).map_err(|kind| self.start_error(kind))?;
            self.line.clear();
            return Ok(());
        }
        self.header.check(self.model.is_some()).map_err(|kind| self.start_error(kind))?;
        self.start = self.offset(end);
        self.value.clear();
        // By RFC 2046 the empty line may already be the line end in front of a delimiter.
        self.matched = LINE_END;
        self.borrowed = LINE_END;
        self.state = State::Data;
        Ok(())
    }

    fn offset(&self, at: usize) -> u64 {
        self.base + at as u64
    }

    fn error_at(&self, kind: MultipartErrorKind, at: usize) -> MultipartError {
        MultipartError { kind, offset: self.offset(at) }
    }

    /// An error of a part's header or of a field, where that begins.
    fn start_error(&self, kind: MultipartErrorKind) -> MultipartError {
        MultipartError { kind, offset: self.start }
    }
}

impl fmt::Debug for Scanner {
    /// Shows where the scan stands, and nothing of the body.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scanner")
            .field("state", &self.state)
            .field("parts", &self.parts)
            .finish_non_exhaustive()
    }
}

/// The part of the form that is being read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// In front of the first delimiter.
    Preamble,
    /// Behind the boundary at the start of a line.
    Line(Line),
    /// A part's header.
    Header,
    /// A part's data.
    Data,
    /// Behind the closing delimiter.
    Epilogue,
}

/// Progress through a line that begins with the boundary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    Start,
    /// Behind white space.
    Space,
    /// Behind a CR.
    Return,
    /// Behind a dash.
    Dash,
}
