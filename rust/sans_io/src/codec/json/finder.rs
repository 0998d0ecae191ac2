//! Finds one value in a JSON object of an engine while its bytes arrive.

use std::ops::Range;

use super::limits::NESTING_MAX;
use super::scanner::{IMPOSSIBLE_ID, Purpose, Scanner};
use crate::codec::mark::MARK;

/// Looks for the value under a path of keys (`["response", "model"]`: the member `model` of the
/// member `response`), and stops at the first value of the wanted kind. Keys are compared after
/// unescaping, and are at most 31 bytes long. Allocates nothing but the text that it retains.
///
/// A value of another kind, or an object that is broken before the value, ends the search: then
/// nothing is found.
pub struct Finder {
    scanner: Scanner,
    /// The first byte of a value of the wanted kind.
    first: u8,
    /// The value was found, or cannot be found any more.
    finished: bool,
    /// Whether a byte order mark may stand before the object.
    may_be_marked: bool,
}

impl Finder {
    /// Finds a string; its range has both quotes.
    pub fn string(path: &'static [&'static str]) -> Self {
        Self::new(path, b'"')
    }

    /// Finds an object; its range has both braces.
    pub fn object(path: &'static [&'static str]) -> Self {
        Self::new(path, b'{')
    }

    /// Finds a string and retains its text of at most [`super::RESPONSE_ID_BYTES_MAX`] bytes, for
    /// [`Self::text`].
    pub fn text_of(path: &'static [&'static str]) -> Self {
        let mut finder = Self::string(path);
        finder.scanner.purpose = Purpose::Find { path, retain_text: true };
        finder
    }

    fn new(path: &'static [&'static str], first: u8) -> Self {
        Self { scanner: scanner(path), first, finished: false, may_be_marked: false }
    }

    /// Passes over a byte order mark before the object, as in a whole response.
    #[must_use]
    pub fn of_document(self) -> Self {
        Self { may_be_marked: true, ..self }
    }

    /// Reads on until the value is found, the JSON is broken or the piece ends.
    pub fn feed(&mut self, mut piece: &[u8]) {
        if self.may_be_marked {
            piece = self.behind_mark(piece);
        }
        if !self.finished {
            let read = self.scanner.read(piece, true);
            self.finished = read.is_err() || self.scanner.found.is_some();
        }
        self.scanner.base += piece.len() as u64;
    }

    /// What of the piece stands behind the mark, which may come in pieces itself.
    fn behind_mark<'p>(&mut self, piece: &'p [u8]) -> &'p [u8] {
        let seen = self.seen();
        let rest = MARK.get(seen..).unwrap_or_default();
        let marked = rest.iter().zip(piece).take_while(|(mark, byte)| mark == byte).count();
        self.scanner.base += marked as u64;
        if marked < piece.len() {
            self.may_be_marked = false;
            // A part of a mark is no begin of JSON.
            self.finished |= (1..MARK.len()).contains(&(seen + marked));
        }
        &piece[marked..]
    }

    /// The range of the value, counted finished all pieces; None while it was not found.
    pub fn found(&self) -> Option<Range<usize>> {
        let range =
            self.scanner.found.as_ref().filter(|_| self.scanner.value_first == self.first)?;
        Some(range.start as usize..range.end as usize)
    }

    /// The text of the string that was found, unescaped. None while it was not found, and when it
    /// is finished-long or no Unicode text.
    pub fn text(&self) -> Option<&str> {
        self.found().and(self.scanner.id.as_deref()).filter(|&text| text != IMPOSSIBLE_ID)
    }

    /// Whether no later byte can change what was found.
    pub fn is_finished(&self) -> bool {
        self.finished || self.scanner.is_finished()
    }

    /// Bytes fed so far, finished all pieces.
    pub fn seen(&self) -> usize {
        self.scanner.base as usize
    }
}

impl std::fmt::Debug for Finder {
    /// Shows nothing of the text.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Finder").field("found", &self.found()).finish_non_exhaustive()
    }
}

/// The range of the last value, of any kind, under a path of keys: of equal keys Python's reader
/// takes the last one too. None without one, or when the text is no JSON object.
pub(crate) fn find_last(json: &[u8], path: &'static [&'static str]) -> Option<Range<usize>> {
    let mut scanner = scanner(path);
    scanner.feed(json).ok()?;
    let range = scanner.found.clone().filter(|_| scanner.is_finished())?;
    Some(range.start as usize..range.end as usize)
}

fn scanner(path: &'static [&'static str]) -> Scanner {
    let mut scanner = Scanner::new(NESTING_MAX);
    scanner.purpose = Purpose::Find { path, retain_text: false };
    scanner
}
