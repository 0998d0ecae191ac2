//! Small parts of JSON: keys that matter, numbers, white space, plain text.

use crate::codec::adapters::{NAME_MAX, Pick, holds_fields, is_content, pick};

/// Members that matter: of a request's top level, or on the path to the wanted value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Member {
    Model,
    Stream,
    StreamOptions,
    PreviousResponseId,
    /// It can do something else than `model` says.
    Pick(Pick),
    /// Its value is the wanted one.
    Wanted,
    /// Its value contains the wanted one, or further fields that matter.
    Outer,
    Other,
}

/// A key, unescaped. One that is longer than any key that matters is spoilt: it equals none.
#[derive(Clone, Copy, Default)]
pub(super) struct Key {
    bytes: [u8; NAME_MAX],
    length: u8,
}

impl Key {
    /// A length that no key that matters has.
    const SPOILT: u8 = u8::MAX;

    pub(super) fn push(&mut self, more: &[u8]) {
        let start = usize::from(self.length);
        match self.bytes.get_mut(start..start + more.len()) {
            Some(room) => {
                room.copy_from_slice(more);
                self.length += more.len() as u8;
            }
            None => self.spoil(),
        }
    }

    pub(super) fn spoil(&mut self) {
        self.length = Self::SPOILT;
    }

    /// The member of a request's top level that it names.
    pub(super) fn member(self) -> Member {
        match self.bytes.get(..usize::from(self.length)) {
            Some(b"model") => Member::Model,
            Some(b"stream") => Member::Stream,
            Some(b"stream_options") => Member::StreamOptions,
            Some(b"previous_response_id") => Member::PreviousResponseId,
            _ => self.watched_member(false),
        }
    }

    /// The member that it names where only those matter that do something else than `model` says.
    /// `inside`: of one that holds further fields, where each value may, but for content.
    pub(super) fn watched_member(self, inside: bool) -> Member {
        // One that is spoilt is none that is known.
        let key = self.bytes.get(..usize::from(self.length)).unwrap_or_default();
        match pick(key) {
            Some(pick) => Member::Pick(pick),
            None if holds_fields(key) || inside && !is_content(key) => Member::Outer,
            None => Member::Other,
        }
    }

    pub(super) fn is(self, name: &str) -> bool {
        self.bytes.get(..usize::from(self.length)) == Some(name.as_bytes())
    }
}

/// The last part of a number that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Number {
    Minus,
    Zero,
    Integer,
    Point,
    Fraction,
    Exponent,
    ExponentSign,
    ExponentDigits,
}

impl Number {
    /// The part that `byte` continues with; None when it is not part of the number.
    pub(crate) fn next(self, byte: u8) -> Option<Self> {
        Some(match (self, byte) {
            (Self::Minus, b'0') => Self::Zero,
            (Self::Minus, b'1'..=b'9') | (Self::Integer, b'0'..=b'9') => Self::Integer,
            (Self::Zero | Self::Integer, b'.') => Self::Point,
            (Self::Point | Self::Fraction, b'0'..=b'9') => Self::Fraction,
            (Self::Zero | Self::Integer | Self::Fraction, b'e' | b'E') => Self::Exponent,
            (Self::Exponent, b'+' | b'-') => Self::ExponentSign,
            (Self::Exponent | Self::ExponentSign | Self::ExponentDigits, b'0'..=b'9') => {
                Self::ExponentDigits
            }
            _ => return None,
        })
    }

    /// Whether a number may end here.
    pub(crate) fn may_end(self) -> bool {
        matches!(self, Self::Zero | Self::Integer | Self::Fraction | Self::ExponentDigits)
    }
}

pub(super) fn starts_value(byte: u8) -> bool {
    matches!(byte, b'"' | b'{' | b'[' | b't' | b'f' | b'n' | b'N' | b'I' | b'-' | b'0'..=b'9')
}

pub(super) fn leading_space(bytes: &[u8]) -> usize {
    bytes
        .iter()
        .position(|byte| !matches!(byte, b' ' | b'\n' | b'\r' | b'\t'))
        .unwrap_or(bytes.len())
}

/// The number of bytes from the start that are neither a quote, a backslash nor a control
/// character.
pub(crate) fn plain_text(bytes: &[u8]) -> usize {
    let mut at = 0;
    while let Some(word) = bytes[at..].first_chunk() {
        let special = special_bytes(u64::from_le_bytes(*word));
        if special != 0 {
            return at + special.trailing_zeros() as usize / 8;
        }
        at += 8;
        // Most strings have ended by now; a longer one is worth bigger steps.
        if at == 32 {
            at += plain_blocks(&bytes[at..]);
        }
    }
    at + bytes[at..].iter().position(|&byte| is_special(byte)).unwrap_or(bytes.len() - at)
}

/// The number of bytes from the start in whole blocks of plain text. The compiler vectorises the
/// inner loop.
fn plain_blocks(bytes: &[u8]) -> usize {
    let is_plain =
        |block: &&[u8; 64]| !block.iter().fold(false, |special, &byte| special | is_special(byte));
    bytes.as_chunks().0.iter().take_while(is_plain).count() * 64
}

fn is_special(byte: u8) -> bool {
    matches!(byte, 0..0x20 | b'"' | b'\\')
}

/// A word whose lowest set bit is the top bit of the first special byte of eight; 0 when there is
/// none. Bits above the lowest mean nothing: the subtractions may borrow from a special byte's
/// neighbour.
fn special_bytes(word: u64) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const TOPS: u64 = ONES << 7;
    let quote = word ^ (ONES * 0x22);
    let backslash = word ^ (ONES * 0x5C);
    let below = word.wrapping_sub(ONES * 0x20) & !word;
    let quotes = quote.wrapping_sub(ONES) & !quote;
    let backslashes = backslash.wrapping_sub(ONES) & !backslash;
    (below | quotes | backslashes) & TOPS
}
