//! What a JSON text consists of, as far as it decides how much memory its values take.

use memchr::memchr2;

/// Counts values and strings of a text as it comes. Of a text that is no JSON it counts what comes
/// before the first wrong byte as well as of any other.
#[derive(Clone, Debug, Default)]
pub(crate) struct Census {
    values: usize,
    expansion: usize,
    longest_escaped_key: usize,
    longest_escaped: usize,
    /// Inside a string, and behind a backslash in it.
    in_string: bool,
    behind_backslash: bool,
    /// The bytes of the present string, or of the last one, and whether it has an escape.
    length: usize,
    escaped: bool,
}

impl Census {
    /// The census of a whole text.
    pub(crate) fn of(text: &[u8]) -> Self {
        let mut census = Self::default();
        census.feed(text);
        census
    }

    /// Counts the next bytes.
    pub(crate) fn feed(&mut self, mut piece: &[u8]) {
        while let Some((&first, rest)) = piece.split_first() {
            if self.in_string {
                piece = self.string(piece);
                continue;
            }
            piece = rest;
            match first {
                b'"' => self.begin_string(),
                b',' | b'[' | b'{' => self.values += 1,
                b':' if self.escaped => {
                    self.longest_escaped_key = self.longest_escaped_key.max(self.length);
                }
                b'\x00'..=b' ' => self.expansion += 1,
                _ => {}
            }
        }
    }

    /// Ends a line of a text in which no string lies across two.
    pub(crate) fn end_line(&mut self) {
        (self.in_string, self.behind_backslash) = (false, false);
        self.expansion += 1;
    }

    fn begin_string(&mut self) {
        (self.in_string, self.escaped, self.length) = (true, false, 0);
        self.expansion += 2;
    }

    /// Reads on in a string; returns what is behind its end, or behind its next escape's begin.
    fn string<'a>(&mut self, mut piece: &'a [u8]) -> &'a [u8] {
        if std::mem::take(&mut self.behind_backslash) {
            self.length += 1;
            piece = &piece[1..];
        }
        let Some(at) = memchr2(b'"', b'\\', piece) else {
            self.length += piece.len();
            return &[];
        };
        self.length += at;
        if piece[at] == b'\\' {
            (self.behind_backslash, self.escaped) = (true, true);
            self.length += 1;
            self.expansion += 2;
        } else {
            self.in_string = false;
            if self.escaped {
                self.longest_escaped = self.longest_escaped.max(self.length);
            }
        }
        &piece[at + 1..]
    }

    /// The most values that it has, members' values among them.
    pub(crate) fn values(&self) -> usize {
        self.values + 1
    }

    /// The most bytes by which it grows when a part of it becomes a string.
    pub(crate) fn expansion(&self) -> usize {
        self.expansion
    }

    /// The longest name of a member with an escape, in bytes. Reading it takes a buffer.
    pub(crate) fn longest_escaped_key(&self) -> usize {
        self.longest_escaped_key
    }

    /// The longest string with an escape, in bytes. Decoding it takes a buffer.
    pub(crate) fn longest_escaped(&self) -> usize {
        self.longest_escaped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_and_strings_are_counted_however_the_text_comes() {
        let text = br#"{"a,[{":[1,"x\"y\\", {"k\u0041":null}],"b":""}"#;
        for cut in 0..text.len() {
            let mut census = Census::default();
            census.feed(&text[..cut]);
            census.feed(&text[cut..]);
            // The root, two members, the list's three elements and the member of the last one, and
            // one more for each begin of a list or an object.
            assert_eq!(census.values(), 7, "{cut}");
            assert_eq!((census.longest_escaped_key(), census.longest_escaped()), (7, 7));
            assert_eq!(census.expansion(), 2 * 5 + 2 * 3 + 1);
        }
    }
}
