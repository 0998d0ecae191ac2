//! Skims JSON of an engine for one object in it, while its bytes arrive: megabytes of numbers and
//! texts are passed over at the speed of a search, and nothing is judged.

use std::fmt;

use memchr::{memchr2, memchr3};

use super::token::Key;

/// The longest object that is kept, in bytes; a longer one is not found.
const KEPT_MAX: usize = 16 * 1024;

/// Finds the objects under a key at the top level of a JSON object, or one level below it in a
/// member of chosen keys. Whatever stands before the first `{` is passed over, but for a `[`, behind
/// which nothing is found. A key that is written with escapes is not found. Retains at most 16 KiB
/// of a found object.
pub(crate) struct Skim {
    key: &'static str,
    /// Keys of the top level in whose objects the key is looked for, too.
    parents: &'static [&'static str],
    /// Open braces. Brackets are not counted: a key is no element of an array.
    depth: usize,
    /// Whether the object at depth 2 is a parent's.
    in_parent: bool,
    /// Nothing more is looked for: the document has ended, or is none.
    finished: bool,
    state: State,
    /// The last string at a depth that matters, so far.
    word: Key,
    /// What follows that string, up to an opening brace.
    behind: Behind,
    /// The object under the key, while it is open: the depth inside it.
    open: Option<usize>,
    /// What was read of it in earlier pieces.
    kept: Vec<u8>,
    /// It is longer than what may be kept.
    too_long: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Between strings.
    Between,
    /// In a string.
    Text,
    /// Behind a backslash.
    Escape,
}

/// What was read behind a string.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Behind {
    /// White space at most.
    Nothing,
    /// A colon: the string is a key.
    Colon,
    /// The begin of a value, or a comma.
    More,
}

impl Behind {
    fn read(self, bytes: &[u8]) -> Self {
        bytes.iter().fold(self, |behind, byte| match (behind, byte) {
            (_, b' ' | b'\t' | b'\r' | b'\n') => behind,
            (Self::Nothing, b':') => Self::Colon,
            _ => Self::More,
        })
    }
}

impl Skim {
    /// A skim before the first byte.
    pub(crate) fn new(key: &'static str, parents: &'static [&'static str]) -> Self {
        Self {
            key,
            parents,
            depth: 0,
            in_parent: false,
            finished: false,
            state: State::Between,
            word: Key::default(),
            behind: Behind::More,
            open: None,
            kept: Vec::new(),
            too_long: false,
        }
    }

    /// Reads the next bytes, and calls `found` with each object that ends in them.
    pub(crate) fn feed(&mut self, piece: &[u8], mut found: impl FnMut(&[u8])) {
        // The begin of the open object in this piece.
        let mut from = 0;
        let mut at = 0;
        while at < piece.len() && !self.finished {
            at = match self.state {
                State::Text => self.text(piece, at),
                State::Escape => {
                    self.word.spoil();
                    self.state = State::Text;
                    at + 1
                }
                State::Between => {
                    let was_open = self.open;
                    let next = self.between(piece, at);
                    match (was_open, self.open) {
                        (None, Some(_)) => from = next - 1,
                        (Some(_), None) => self.close(&piece[from..next], &mut found),
                        _ => {}
                    }
                    next
                }
            };
        }
        if self.open.is_some() {
            self.keep(&piece[from..]);
        }
    }

    /// Reads on in a string. Returns where to go on.
    fn text(&mut self, piece: &[u8], at: usize) -> usize {
        let end = memchr2(b'"', b'\\', &piece[at..]).map_or(piece.len(), |found| at + found);
        if self.matters() {
            self.word.push(&piece[at..end]);
        }
        if let Some(&byte) = piece.get(end) {
            self.state = if byte == b'"' { State::Between } else { State::Escape };
            self.behind = Behind::Nothing;
        }
        end + 1
    }

    /// Reads on between strings, up to the next quote or brace. Returns where to go on.
    fn between(&mut self, piece: &[u8], at: usize) -> usize {
        let end = memchr3(b'"', b'{', b'}', &piece[at..]).map_or(piece.len(), |found| at + found);
        let passed = &piece[at..end];
        if self.depth == 0 && passed.contains(&b'[') {
            self.finished = true;
            return piece.len();
        }
        if self.matters() && self.behind != Behind::More {
            self.behind = self.behind.read(passed);
        }
        match piece.get(end) {
            Some(b'"') => {
                self.state = State::Text;
                self.word = Key::default();
            }
            Some(b'{') => self.enter(),
            Some(_) => self.leave(),
            None => {}
        }
        end + 1
    }

    fn enter(&mut self) {
        if self.matters() && self.behind == Behind::Colon {
            if self.open.is_none() && self.word.is(self.key) {
                self.open = Some(self.depth + 1);
            }
            self.in_parent |= self.depth == 1 && self.parents.iter().any(|key| self.word.is(key));
        }
        self.depth += 1;
        self.behind = Behind::More;
    }

    fn leave(&mut self) {
        if self.open == Some(self.depth) {
            self.open = None;
        }
        self.depth = self.depth.saturating_sub(1);
        self.in_parent &= self.depth > 1;
        self.finished = self.depth == 0;
        self.behind = Behind::More;
    }

    /// Whether a string at this depth could be the wanted key, or a parent's.
    fn matters(&self) -> bool {
        self.depth == 1 || self.depth == 2 && self.in_parent
    }

    fn keep(&mut self, part: &[u8]) {
        self.too_long |= self.kept.len() + part.len() > KEPT_MAX;
        if !self.too_long {
            self.kept.extend_from_slice(part);
        }
    }

    /// Passes on the object that ends with this part.
    fn close(&mut self, part: &[u8], found: &mut impl FnMut(&[u8])) {
        if self.kept.is_empty() && !self.too_long && part.len() <= KEPT_MAX {
            found(part);
        } else {
            self.keep(part);
            if !self.too_long {
                found(&self.kept);
            }
        }
        self.kept.clear();
        self.too_long = false;
    }
}

impl fmt::Debug for Skim {
    /// Shows where the skim stands, and nothing of the document.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Skim").field("depth", &self.depth).finish_non_exhaustive()
    }
}

/// Whether nothing follows but the rest of a JSON object's top level, and its end. `rest` begins
/// behind a value in it.
pub(crate) fn is_rest_of_top_level(rest: &[u8]) -> bool {
    let (mut depth, mut at) = (1_usize, 0);
    while let Some(found) = memchr3(b'"', b'{', b'}', &rest[at..]) {
        at += found + 1;
        match rest[at - 1] {
            b'{' => depth += 1,
            b'}' => depth -= 1,
            _ => {
                let Some(length) = length_of_text(&rest[at..]) else { return false };
                at += length + 1;
            }
        }
        if depth == 0 {
            return rest[at..].trim_ascii().is_empty();
        }
    }
    false
}

/// The length of a string whose opening quote stands before; None without a closing one.
fn length_of_text(text: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        at += memchr2(b'"', b'\\', text.get(at..)?)?;
        if text[at] == b'"' {
            return Some(at);
        }
        at += 2;
    }
}
