//! Finds `model`, `stream` and `stream_options` in a JSON request body while its bytes arrive.
//!
//! The scanner builds no tree, does not recurse, and holds its whole state between pieces, so the
//! body may come in any split. It checks the structure of everything that it passes. Three things
//! beyond RFC 8259 are accepted, for clients that exist:
//!
//! * `NaN`, `Infinity` and `-Infinity` are values (Python writes them);
//! * bytes that are not UTF-8 pass inside strings, except in the value of `model`;
//! * a lone surrogate (`"\ud800"`) passes, except in the value of `model`.
//!
//! All else that a JSON parser rejects is rejected: a body that two readers understand differently
//! is a way around the check of the key (an engine takes the last `model` of two).
//!
//! Keys are compared after unescaping, exactly: `"mod\u0065l"` is `model`; `Model` and a nested
//! `model` are not.

use std::fmt;
use std::ops::Range;

use super::error::{ScanError, ScanErrorKind};
use super::limits::{MODEL_BYTES_MAX, NESTING_MAX, RESPONSE_ID_BYTES_MAX};
use super::token::{Key, Member, Number, leading_space, plain_text, starts_value};
use crate::codec::adapters::Picks;

/// Sentinel for an id that is over-long or no Unicode text; it equals no id.
pub(super) const IMPOSSIBLE_ID: &str = "\0";

/// The top-level `model`, and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Model {
    /// The name after unescaping: neither empty nor blank, at most [`MODEL_BYTES_MAX`] bytes. Any
    /// character can be in it, control characters too.
    pub name: String,
    /// The bytes of the JSON string in the body, both quotes included.
    pub range: Range<u64>,
}

/// The length of `null`.
const NULL: u64 = 4;

/// Where a body that names no model takes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PlaceForModel {
    /// In the place of this value.
    Value(Range<u64>),
    /// As a member, behind the last one.
    NewMember(u64),
}

/// The scanner; see the module. Allocates nothing until `model` is found.
pub struct Scanner {
    state: State,
    pub(super) purpose: Purpose,
    /// The offset of the present piece in the body.
    pub(super) base: u64,
    nesting_limit: u16,
    depth: u16,
    /// The depth at which members matter: 1, or more on the path to the wanted value.
    level: u16,
    /// One bit for each open container: set for an array.
    arrays: [u64; NESTING_MAX as usize / 64],
    /// The purpose of the string being read.
    role: Role,
    key: Key,
    name: Vec<u8>,
    /// The four digits of a `\u` escape so far.
    unit: u16,
    /// A high surrogate that waits for its low one; 0 when none does.
    high: u16,
    /// The member that the present value belongs to, at the level that matters.
    member: Member,
    value_start: u64,
    /// The first byte of that value.
    pub(super) value_first: u8,
    model: Option<Model>,
    /// Whether a request without a model is none of its errors.
    may_lack_model: bool,
    /// The value of a `model` that names none: `null`, or a blank text.
    blank_model: Option<Range<u64>>,
    stream: bool,
    picks: Picks,
    stream_options: Option<Range<u64>>,
    /// The start of the value being read, if its range will be asked for.
    pub(super) open_since: Option<u64>,
    /// The id of a response: the previous one, or the wanted one.
    pub(super) id: Option<String>,
    /// The string being read cannot be an id.
    id_spoilt: bool,
    object_end: Option<u64>,
    /// The range of the wanted value, as it was last seen.
    pub(super) found: Option<Range<u64>>,
    failed: Option<ScanError>,
}

impl Scanner {
    /// A scanner for one body. `nesting_limit` counts open objects and arrays, the body's own
    /// included; it is clamped to 1 and [`NESTING_MAX`].
    pub fn new(nesting_limit: u16) -> Self {
        Self {
            state: State::Start,
            purpose: Purpose::Request { retain_previous_response_id: false },
            base: 0,
            nesting_limit: nesting_limit.clamp(1, NESTING_MAX),
            depth: 0,
            level: 1,
            arrays: [0; NESTING_MAX as usize / 64],
            role: Role::Value,
            key: Key::default(),
            name: Vec::new(),
            unit: 0,
            high: 0,
            member: Member::Other,
            value_start: 0,
            value_first: 0,
            model: None,
            may_lack_model: false,
            blank_model: None,
            stream: false,
            picks: Picks::default(),
            stream_options: None,
            open_since: None,
            id: None,
            id_spoilt: false,
            object_end: None,
            found: None,
            failed: None,
        }
    }

    /// Looks only for what does something else than `model` says: a `model`, or none, is no error.
    pub fn watch(&mut self) {
        self.purpose = Purpose::Watch;
    }

    /// Retains the top-level `previous_response_id` too, from here on.
    pub fn retain_previous_response_id(&mut self) {
        self.purpose = Purpose::Request { retain_previous_response_id: true };
    }

    /// Takes an object without a `model` from here on, or with one that is `null` or blank: another
    /// has to be put in.
    pub fn allow_no_model(&mut self) {
        self.may_lack_model = true;
    }

    /// Reads the next bytes of the body. The result does not depend on how the body is split. An
    /// error is final: every later call repeats it.
    pub fn feed(&mut self, piece: &[u8]) -> Result<(), ScanError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        self.read(piece, false)?;
        self.base += piece.len() as u64;
        Ok(())
    }

    /// The top-level `model`, as soon as its closing quote was read. It does not prove a good body:
    /// a second one may follow, and is an error then.
    pub fn model(&self) -> Option<&Model> {
        self.model.as_ref()
    }

    /// Where a body that was read whole and names no model takes one: the value in whose place it
    /// goes, or where its member does, behind all others. None: it names one.
    pub fn place_for_model(&self) -> Option<PlaceForModel> {
        if self.model.is_some() {
            return None;
        }
        let blank = self.blank_model.clone().map(PlaceForModel::Value);
        blank.or_else(|| self.object_end.map(PlaceForModel::NewMember))
    }

    /// Whether the last top-level `stream` read so far is the literal `true`. No other value
    /// streams.
    pub fn stream(&self) -> bool {
        self.stream
    }

    /// Whether a member that was read so far picks an adapter, or another model than `model` (see
    /// `codec::adapters`): at the top level, or anywhere in one there that holds further fields. One
    /// that is `null`, `false` or empty (`""`, `[]`, `{}`) picks nothing in any engine, and clients
    /// send it so.
    pub fn picks_adapter(&self) -> bool {
        self.picks.model
    }

    /// Whether such a member names a host to which an engine connects.
    pub fn names_host(&self) -> bool {
        self.picks.host
    }

    /// The range of the last top-level `stream_options` read so far: its whole value, of any type.
    pub fn stream_options(&self) -> Option<Range<u64>> {
        self.stream_options.clone()
    }

    /// The start of the value of a top-level `stream_options` whose end was not read; None without
    /// one.
    pub fn open_stream_options(&self) -> Option<u64> {
        self.open_since
    }

    /// The last top-level `previous_response_id` read so far, if it is a string and is retained.
    /// One that is longer than [`RESPONSE_ID_BYTES_MAX`] or no Unicode text is `"\0"`, which equals
    /// no response's id.
    pub fn previous_response_id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// The offset of the `}` that closes the body's object, once it was read.
    pub fn object_end(&self) -> Option<u64> {
        self.object_end
    }

    /// Whether the body's object is closed: only white space may follow.
    pub fn is_finished(&self) -> bool {
        self.state == State::Done && self.failed.is_none()
    }

    /// Checks the body as a whole when no more bytes come. The error is an earlier one of `feed`,
    /// or that the object is missing, not whole, or without a `model`.
    pub fn end(&self) -> Result<(), ScanError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let kind = match self.state {
            State::Start => ScanErrorKind::Empty,
            State::Done if self.model.is_some() => return Ok(()),
            // Behind the members of an object that has any.
            State::Done if self.may_lack_model && self.value_start > 0 => return Ok(()),
            State::Done => ScanErrorKind::ModelMissing,
            _ => ScanErrorKind::Truncated,
        };
        Err(ScanError { kind, offset: self.base })
    }

    /// Reads token after token, to the end of the piece or, with `until_found`, of the wanted value.
    /// Remembers its error.
    pub(super) fn read(&mut self, piece: &[u8], until_found: bool) -> Result<(), ScanError> {
        let mut at = 0;
        // The one loop over tokens, so that the step is a part of it.
        while at < piece.len() && !(until_found && self.found.is_some()) {
            at = self.step(piece, at).inspect_err(|&error| self.failed = Some(error))?;
        }
        Ok(())
    }

    /// Reads one token, or the part of it that is in the piece. Returns where to read on.
    fn step(&mut self, piece: &[u8], at: usize) -> Result<usize, ScanError> {
        match self.state {
            State::Text => self.text(piece, at),
            State::Escape => self.escape(piece[at], at),
            State::Hex(left) => self.hex(piece[at], left, at),
            State::Number(part) => self.number(piece, part, at),
            State::Word(rest) => self.word(piece, rest, at),
            _ => {
                let at = at + leading_space(&piece[at..]);
                match piece.get(at) {
                    Some(&byte) => self.punctuation(byte, at).map(|()| at + 1),
                    None => Ok(at),
                }
            }
        }
    }

    /// Reads one byte between tokens, or the first byte of one.
    fn punctuation(&mut self, byte: u8, at: usize) -> Result<(), ScanError> {
        match (self.state, byte) {
            (State::AfterValue, b',') if self.in_array() => self.state = State::Value,
            (State::AfterValue, b',') => self.state = State::NextKey,
            (State::FirstValue, b']') => self.close(at),
            (State::AfterValue, b']') if self.in_array() => self.close(at),
            (State::AfterValue | State::FirstKey, b'}') if !self.in_array() => self.close(at),
            (State::FirstKey | State::NextKey, b'"') => self.open_key(),
            (State::Colon, b':') => self.state = State::Value,
            (State::Value | State::FirstValue, _) => return self.open_value(byte, at),
            (State::Start, b'{') => return self.open(State::FirstKey, false, at),
            (State::FirstKey, 0) if self.offset(at) == 1 => {
                return Err(self.error_at(ScanErrorKind::NotUtf8, at));
            }
            _ => return Err(self.error_at(self.unexpected(byte, at), at)),
        }
        Ok(())
    }

    /// The error for a byte that the state has no use for.
    fn unexpected(&self, byte: u8, at: usize) -> ScanErrorKind {
        match self.state {
            State::Start if byte == 0 => ScanErrorKind::NotUtf8,
            State::Start if matches!(byte, 0xEF | 0xFE | 0xFF) && self.offset(at) == 0 => {
                ScanErrorKind::ByteOrderMark
            }
            State::Start => ScanErrorKind::NotAnObject,
            State::Done => ScanErrorKind::TrailingData,
            State::FirstKey => ScanErrorKind::Syntax("a key in double quotes or `}`"),
            State::NextKey => ScanErrorKind::Syntax("a key in double quotes"),
            State::Colon => ScanErrorKind::Syntax("`:` after the key"),
            _ if self.in_array() => ScanErrorKind::Syntax("`,` or `]` after the value"),
            _ => ScanErrorKind::Syntax("`,` or `}` after the value"),
        }
    }

    fn open_key(&mut self) {
        self.role = if self.depth == self.level { Role::Key } else { Role::OtherKey };
        self.key = Key::default();
        self.state = State::Text;
    }

    fn open_value(&mut self, byte: u8, at: usize) -> Result<(), ScanError> {
        if self.depth == self.level {
            self.begin_member(byte, at)?;
        }
        match byte {
            b'"' => {
                self.role =
                    if self.depth == self.level { self.role_of_string() } else { Role::Value };
                self.state = State::Text;
            }
            b'{' => return self.open(State::FirstKey, false, at),
            b'[' => return self.open(State::FirstValue, true, at),
            b't' => self.state = State::Word(b"rue"),
            b'f' => self.state = State::Word(b"alse"),
            b'n' => self.state = State::Word(b"ull"),
            b'N' => self.state = State::Word(b"aN"),
            b'I' => self.state = State::Word(b"nfinity"),
            b'-' => self.state = State::Number(Number::Minus),
            b'0' => self.state = State::Number(Number::Zero),
            b'1'..=b'9' => self.state = State::Number(Number::Integer),
            _ => return Err(self.error_at(ScanErrorKind::Syntax("a value"), at)),
        }
        Ok(())
    }

    /// Begins the value of a member at the level that matters. Kept out of the loop over all other
    /// values.
    #[inline(never)]
    fn begin_member(&mut self, byte: u8, at: usize) -> Result<(), ScanError> {
        self.value_start = self.offset(at);
        self.value_first = byte;
        match self.member {
            Member::Model if byte == b'n' && self.may_lack_model => {
                self.blank_model = Some(self.value_start..self.value_start + NULL);
            }
            Member::Model if byte != b'"' && starts_value(byte) => {
                return Err(self.error_at(ScanErrorKind::ModelNotAString, at));
            }
            Member::StreamOptions | Member::Wanted => self.open_since = Some(self.value_start),
            Member::PreviousResponseId => {
                self.id = None;
                self.id_spoilt = false;
                self.name.clear();
            }
            Member::Outer if byte == b'{' || byte == b'[' && self.is_watching() => self.level += 1,
            _ => {}
        }
        Ok(())
    }

    /// Whether it looks for what does something else than `model` says.
    fn is_watching(&self) -> bool {
        !matches!(self.purpose, Purpose::Find { .. })
    }

    fn role_of_string(&self) -> Role {
        match (self.member, self.purpose) {
            (Member::Model, _) => Role::Name,
            (
                Member::PreviousResponseId,
                Purpose::Request { retain_previous_response_id: true },
            )
            | (Member::Wanted, Purpose::Find { retain_text: true, .. }) => Role::Id,
            _ => Role::Value,
        }
    }

    /// Opens an object or an array.
    fn open(&mut self, state: State, array: bool, at: usize) -> Result<(), ScanError> {
        if self.depth >= self.nesting_limit {
            return Err(self.error_at(ScanErrorKind::TooDeep, at));
        }
        let (word, bit) = (usize::from(self.depth / 64), self.depth % 64);
        self.arrays[word] = self.arrays[word] & !(1 << bit) | u64::from(array) << bit;
        self.depth += 1;
        self.state = state;
        Ok(())
    }

    fn in_array(&self) -> bool {
        let Some(top) = self.depth.checked_sub(1) else {
            return false;
        };
        self.arrays[usize::from(top / 64)] >> (top % 64) & 1 == 1
    }

    /// Closes the innermost object or array; `at` is its bracket.
    fn close(&mut self, at: usize) {
        if self.depth == self.level && self.level > 1 {
            self.level -= 1;
            // Behind the value that the path leads into; whatever it held was dealt with.
            self.member = Member::Other;
        }
        self.depth -= 1;
        if self.depth == self.level && self.in_array() {
            // The next element of a list that is looked into.
            self.member = Member::Outer;
        }
        if self.depth == 0 {
            self.state = State::Done;
            self.object_end = Some(self.offset(at));
        } else {
            self.close_value(at + 1);
        }
    }

    /// Ends a value that is neither the model's name nor an id; `end` is just behind it.
    fn close_value(&mut self, end: usize) {
        self.state = State::AfterValue;
        if self.depth == self.level {
            self.close_member(end);
        }
    }

    #[inline(never)]
    fn close_member(&mut self, end: usize) {
        match self.member {
            Member::Stream => self.stream = self.value_first == b't',
            Member::Pick(pick) => {
                let empty = matches!(self.value_first, b'"' | b'[' | b'{')
                    && self.offset(end) == self.value_start + 2;
                if !empty && !matches!(self.value_first, b'n' | b'f') {
                    self.picks.note(pick);
                }
            }
            Member::StreamOptions => {
                self.stream_options = self.open_since.take().map(|start| start..self.offset(end));
            }
            Member::Wanted => {
                self.found = self.open_since.take().map(|start| start..self.offset(end));
            }
            _ => {}
        }
    }

    /// Reads the inside of a string.
    fn text(&mut self, piece: &[u8], at: usize) -> Result<usize, ScanError> {
        let end = at + plain_text(&piece[at..]);
        if end > at {
            self.buffer(&piece[at..end])?;
        }
        match piece.get(end) {
            None => return Ok(end),
            Some(b'"') => self.close_text(end)?,
            Some(b'\\') => self.state = State::Escape,
            Some(_) => {
                return Err(self.error_at(
                    ScanErrorKind::Syntax("an escape in place of a control character"),
                    end,
                ));
            }
        }
        Ok(end + 1)
    }

    /// Ends a string; its closing quote is at `at`.
    fn close_text(&mut self, at: usize) -> Result<(), ScanError> {
        match self.role {
            Role::OtherKey => self.state = State::Colon,
            Role::Key => {
                self.lone_surrogate()?;
                self.member = self.member();
                let has_one = self.model.is_some() || self.blank_model.is_some();
                if self.member == Member::Model && has_one {
                    return Err(self.error_at(ScanErrorKind::ModelTwice, at));
                }
                self.state = State::Colon;
            }
            Role::Value => self.close_value(at + 1),
            Role::Name | Role::Id => self.close_buffered(at)?,
        }
        Ok(())
    }

    /// Ends the string of the model's name or of an id; its closing quote is at `at`.
    #[inline(never)]
    fn close_buffered(&mut self, at: usize) -> Result<(), ScanError> {
        self.lone_surrogate()?;
        let text = String::from_utf8(std::mem::take(&mut self.name));
        if self.role == Role::Id {
            let id = text.ok().filter(|_| !self.id_spoilt);
            self.id = Some(id.unwrap_or_else(|| IMPOSSIBLE_ID.to_owned()));
            self.close_value(at + 1);
            return Ok(());
        }
        let name = text.map_err(|_| self.name_error(ScanErrorKind::ModelNotUnicode))?;
        if name.trim().is_empty() && self.may_lack_model {
            self.blank_model = Some(self.value_start..self.offset(at + 1));
            self.state = State::AfterValue;
            return Ok(());
        }
        if name.trim().is_empty() {
            return Err(self.name_error(ScanErrorKind::ModelEmpty));
        }
        self.model = Some(Model { name, range: self.value_start..self.offset(at + 1) });
        self.state = State::AfterValue;
        Ok(())
    }

    /// The member that the key names which was just read.
    fn member(&self) -> Member {
        let path = match self.purpose {
            Purpose::Find { path, .. } => path,
            Purpose::Request { .. } if self.level == 1 => return self.key.member(),
            Purpose::Request { .. } | Purpose::Watch => {
                return self.key.watched_member(self.level > 1);
            }
        };
        match path.get(usize::from(self.level - 1)) {
            Some(key) if !self.key.is(key) => Member::Other,
            Some(_) if path.len() > usize::from(self.level) => Member::Outer,
            Some(_) => Member::Wanted,
            None => Member::Other,
        }
    }

    /// Reads the byte behind a backslash.
    fn escape(&mut self, byte: u8, at: usize) -> Result<usize, ScanError> {
        let character = match byte {
            b'"' | b'\\' | b'/' => byte,
            b'b' => 0x08,
            b'f' => 0x0C,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'u' => {
                self.unit = 0;
                self.state = State::Hex(4);
                return Ok(at + 1);
            }
            _ => {
                return Err(
                    self.error_at(ScanErrorKind::Syntax("one of the JSON escapes after `\\`"), at)
                );
            }
        };
        self.buffer(&[character])?;
        self.state = State::Text;
        Ok(at + 1)
    }

    /// Reads one digit of a `\u` escape; `left` of them are to come, this one included.
    fn hex(&mut self, byte: u8, left: u8, at: usize) -> Result<usize, ScanError> {
        let Some(digit) = char::from(byte).to_digit(16) else {
            return Err(
                self.error_at(ScanErrorKind::Syntax("four hexadecimal digits after `\\u`"), at)
            );
        };
        self.unit = self.unit << 4 | digit as u16;
        if left > 1 {
            self.state = State::Hex(left - 1);
        } else {
            self.state = State::Text;
            self.buffer_unit(self.unit)?;
        }
        Ok(at + 1)
    }

    /// Adds a UTF-16 code unit of an escape to the string; a pair makes one character.
    fn buffer_unit(&mut self, unit: u16) -> Result<(), ScanError> {
        if !self.role.is_buffered() {
            return Ok(());
        }
        let scalar = match (self.high, unit) {
            (0, 0xD800..=0xDBFF) => {
                self.high = unit;
                return Ok(());
            }
            (0, _) => u32::from(unit),
            (high, 0xDC00..=0xDFFF) => {
                self.high = 0;
                0x1_0000 + (u32::from(high - 0xD800) << 10 | u32::from(unit - 0xDC00))
            }
            // The first of two high ones is alone; so `high` is left as it is for `lone_surrogate`
            // to see.
            _ => return self.lone_surrogate_then(unit),
        };
        match char::from_u32(scalar) {
            Some(character) => self.buffer(character.encode_utf8(&mut [0; 4]).as_bytes()),
            None => self.not_a_character(),
        }
    }

    /// A high surrogate was followed by `unit`, which is no low one.
    fn lone_surrogate_then(&mut self, unit: u16) -> Result<(), ScanError> {
        self.lone_surrogate()?;
        self.buffer_unit(unit)
    }

    /// Settles a high surrogate that got no low one, if there is one.
    fn lone_surrogate(&mut self) -> Result<(), ScanError> {
        if self.high == 0 {
            return Ok(());
        }
        self.high = 0;
        self.not_a_character()
    }

    fn not_a_character(&mut self) -> Result<(), ScanError> {
        match self.role {
            Role::Name => return Err(self.name_error(ScanErrorKind::ModelLoneSurrogate)),
            Role::Id => self.id_spoilt = true,
            _ => self.key.spoil(),
        }
        Ok(())
    }

    /// Buffers a part of the string, if it is one that is needed; most are not.
    #[inline]
    fn buffer(&mut self, bytes: &[u8]) -> Result<(), ScanError> {
        if self.role.is_buffered() { self.buffer_part(bytes) } else { Ok(()) }
    }

    #[inline(never)]
    fn buffer_part(&mut self, bytes: &[u8]) -> Result<(), ScanError> {
        self.lone_surrogate()?;
        if self.role == Role::Key {
            self.key.push(bytes);
        } else if self.role == Role::Id {
            self.buffer_id(bytes);
        } else if self.name.len() + bytes.len() > MODEL_BYTES_MAX {
            return Err(self.name_error(ScanErrorKind::ModelTooLong));
        } else {
            self.name.extend_from_slice(bytes);
        }
        Ok(())
    }

    fn buffer_id(&mut self, bytes: &[u8]) {
        if self.name.len() + bytes.len() > RESPONSE_ID_BYTES_MAX {
            self.id_spoilt = true;
        } else {
            self.name.extend_from_slice(bytes);
        }
    }

    /// Reads the rest of a number, up to the first byte that is not its own.
    fn number(&mut self, piece: &[u8], part: Number, at: usize) -> Result<usize, ScanError> {
        let mut part = part;
        for (at, &byte) in piece.iter().enumerate().skip(at) {
            part = match part.next(byte) {
                Some(next) => next,
                None if part.may_end() => {
                    self.close_value(at);
                    return Ok(at);
                }
                None if part == Number::Minus && byte == b'I' => {
                    self.state = State::Word(b"nfinity");
                    return Ok(at + 1);
                }
                None => return Err(self.error_at(ScanErrorKind::Syntax("a digit of a number"), at)),
            };
        }
        self.state = State::Number(part);
        Ok(piece.len())
    }

    /// Reads the rest of `true`, `false`, `null`, `NaN` or `Infinity`.
    fn word(&mut self, piece: &[u8], rest: &'static [u8], at: usize) -> Result<usize, ScanError> {
        let mut rest = rest;
        for (at, &byte) in piece.iter().enumerate().skip(at) {
            match rest.split_first() {
                Some((&first, more)) if first == byte => rest = more,
                _ => {
                    return Err(self.error_at(
                        ScanErrorKind::Syntax("`true`, `false`, `null` or a number"),
                        at,
                    ));
                }
            }
            if rest.is_empty() {
                self.close_value(at + 1);
                return Ok(at + 1);
            }
        }
        self.state = State::Word(rest);
        Ok(piece.len())
    }

    fn offset(&self, at: usize) -> u64 {
        self.base + at as u64
    }

    fn error_at(&self, kind: ScanErrorKind, at: usize) -> ScanError {
        ScanError { kind, offset: self.offset(at) }
    }

    /// An error of the model's name, at its opening quote.
    fn name_error(&self, kind: ScanErrorKind) -> ScanError {
        ScanError { kind, offset: self.value_start }
    }
}

impl fmt::Debug for Scanner {
    /// Shows where the scan stands, and nothing of the body.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scanner")
            .field("state", &self.state)
            .field("depth", &self.depth)
            .finish_non_exhaustive()
    }
}

/// The token that is expected next, or that is being read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The `{` of the body.
    Start,
    /// Behind a `{`.
    FirstKey,
    /// Behind a `,` in an object.
    NextKey,
    /// Behind a key.
    Colon,
    /// Behind a `[`.
    FirstValue,
    /// Behind a `:`, or a `,` in an array.
    Value,
    AfterValue,
    /// Inside a string.
    Text,
    /// Behind a backslash.
    Escape,
    /// Behind `\u`, with this many digits to come.
    Hex(u8),
    Number(Number),
    /// Inside a word that these bytes complete.
    Word(&'static [u8]),
    /// Behind the `}` of the body.
    Done,
}

/// The purpose of a scan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The members of a request's top level.
    Request { retain_previous_response_id: bool },
    /// Those of them that do something else than `model` says.
    Watch,
    /// The value under these keys, each inside the one before; `retain_text`: its text too.
    Find { path: &'static [&'static str], retain_text: bool },
}

/// The purpose of a string.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// A key at the level that matters.
    Key,
    OtherKey,
    /// The model's name.
    Name,
    /// The id of a response.
    Id,
    Value,
}

impl Role {
    fn is_buffered(self) -> bool {
        matches!(self, Self::Key | Self::Name | Self::Id)
    }
}
