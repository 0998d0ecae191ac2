//! Checks how far a tool call's arguments are one JSON object, while they arrive.

use crate::codec::json::{Number, plain_text};

/// The deepest nesting; deeper arguments count as broken. A body's limit is in the same range.
const DEPTH_MAX: usize = 512;

/// Reads one JSON object in pieces, and accepts exactly what a strict parser accepts.
#[derive(Clone, Debug, Default)]
pub(crate) struct ObjectScan {
    state: State,
    /// The open containers; true for an array.
    open: Vec<bool>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum State {
    #[default]
    Start,
    FirstKey,
    NextKey,
    Colon,
    FirstValue,
    Value,
    AfterValue,
    Text(Role),
    Escape(Role),
    Hex(Role, u8),
    Number(Number),
    Word(&'static [u8]),
    Whole,
    Broken,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Role {
    Key,
    Value,
}

impl ObjectScan {
    /// The part of the next piece that belongs to the object. Left out: white space before the
    /// object, whatever follows it, and everything from the first wrong byte on.
    pub(crate) fn feed<'t>(&mut self, piece: &'t str) -> &'t str {
        let bytes = piece.as_bytes();
        let mut at = 0;
        if self.state == State::Start {
            at = piece.len() - piece.trim_start_matches([' ', '\n', '\r', '\t']).len();
        }
        let start = at;
        while let Some(&byte) = bytes.get(at)
            && !self.is_finished()
        {
            if let State::Text(_) = self.state
                && let plain @ 1.. = plain_text(&bytes[at..])
            {
                at += plain;
                continue;
            }
            if let State::Number(number) = self.state
                && number.next(byte).is_none()
            {
                // The byte ends the number and is not part of it: it is read once more.
                self.state = if number.may_end() { State::AfterValue } else { State::Broken };
                continue;
            }
            self.state = self.next(byte);
            at += usize::from(self.state != State::Broken);
        }
        piece.get(start..at).unwrap_or_default()
    }

    /// Whether the object is closed.
    pub(crate) fn is_whole(&self) -> bool {
        self.state == State::Whole
    }

    /// Whether nothing can follow: the object is closed, or broken.
    pub(crate) fn is_finished(&self) -> bool {
        matches!(self.state, State::Whole | State::Broken)
    }

    /// Whether nothing of an object was seen yet.
    pub(crate) fn is_empty(&self) -> bool {
        self.state == State::Start
    }

    fn next(&mut self, byte: u8) -> State {
        let in_array = self.open.last() == Some(&true);
        match (self.state, byte) {
            (State::Text(_) | State::Escape(_) | State::Hex(..), _) => self.in_text(byte),
            (State::Number(number), _) => number.next(byte).map_or(State::Broken, State::Number),
            (State::Word([first]), _) if byte == *first => State::AfterValue,
            (State::Word([first, rest @ ..]), _) if byte == *first => State::Word(rest),
            (state, b' ' | b'\n' | b'\r' | b'\t') if !matches!(state, State::Word(_)) => state,
            (State::Start, b'{') => self.enter(false),
            (State::FirstKey | State::NextKey, b'"') => State::Text(Role::Key),
            (State::Colon, b':') => State::Value,
            (State::AfterValue, b',') => {
                if in_array {
                    State::Value
                } else {
                    State::NextKey
                }
            }
            (State::AfterValue | State::FirstValue, b']') if in_array => self.leave(),
            (State::AfterValue | State::FirstKey, b'}') if !in_array => self.leave(),
            (State::Value | State::FirstValue, _) => self.value(byte),
            _ => State::Broken,
        }
    }

    fn value(&mut self, byte: u8) -> State {
        match byte {
            b'"' => State::Text(Role::Value),
            b'{' => self.enter(false),
            b'[' => self.enter(true),
            b't' => State::Word(b"rue"),
            b'f' => State::Word(b"alse"),
            b'n' => State::Word(b"ull"),
            b'-' => State::Number(Number::Minus),
            b'0' => State::Number(Number::Zero),
            b'1'..=b'9' => State::Number(Number::Integer),
            _ => State::Broken,
        }
    }

    fn in_text(&self, byte: u8) -> State {
        match (self.state, byte) {
            (State::Text(Role::Key), b'"') => State::Colon,
            (State::Text(Role::Value), b'"') => State::AfterValue,
            (State::Text(role), b'\\') => State::Escape(role),
            (State::Escape(role), b'u') => State::Hex(role, 4),
            (State::Escape(role), b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {
                State::Text(role)
            }
            (State::Hex(role, 1), _) if byte.is_ascii_hexdigit() => State::Text(role),
            (State::Hex(role, left), _) if byte.is_ascii_hexdigit() => State::Hex(role, left - 1),
            _ => State::Broken,
        }
    }

    fn enter(&mut self, array: bool) -> State {
        if self.open.len() == DEPTH_MAX {
            return State::Broken;
        }
        self.open.push(array);
        if array { State::FirstValue } else { State::FirstKey }
    }

    fn leave(&mut self) -> State {
        self.open.pop();
        if self.open.is_empty() { State::Whole } else { State::AfterValue }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::value::RawValue;

    use super::ObjectScan;

    /// The accepted part of a text that comes in pieces, and whether it is a whole object.
    fn accepted(pieces: &[&str]) -> (String, bool) {
        let mut scan = ObjectScan::default();
        let kept = pieces.iter().map(|piece| scan.feed(piece)).collect();
        (kept, scan.is_whole())
    }

    #[test]
    fn an_object_is_kept_and_what_is_around_it_is_cut_away() {
        for (text, kept, whole) in [
            ("", "", false),
            (" \n", "", false),
            (" {} x", "{}", true),
            (
                r#"{"a":{"b":[1,-0.5e+7,"\u00e9\n",[],{}]},"c":null} }"#,
                r#"{"a":{"b":[1,-0.5e+7,"\u00e9\n",[],{}]},"c":null}"#,
                true,
            ),
            ("[1]", "", false),
            ("null", "", false),
            ("hello", "", false),
            (r#"{"a":NaN}"#, r#"{"a":"#, false),
            (r#"{"a":01}"#, r#"{"a":0"#, false),
            (r#"{"a":1.}"#, r#"{"a":1."#, false),
            (r#"{"a" 1}"#, r#"{"a" "#, false),
            (r#"{"a":1,}"#, r#"{"a":1,"#, false),
            (r#"{"a":[1}"#, r#"{"a":[1"#, false),
            (r#"{"a":"é"#, r#"{"a":"é"#, false),
            ("{é", "{", false),
        ] {
            assert_eq!(accepted(&[text]), (kept.to_owned(), whole), "{text:?}");
        }
    }

    #[test]
    fn arguments_deeper_than_the_limit_are_broken() {
        let deep = format!("{{\"a\":{}", "[".repeat(100_000));
        assert!(accepted(&[&deep]).0.len() < 1000);
    }

    proptest! {
        #[test]
        fn a_strict_parser_agrees_and_the_split_does_not_matter(
            text in r#"[ {}\[\]",:0-9eE.+\-truefalsn\\ué]{0,24}|\{"a":[ {}\[\]",:0-9eE.+\-truefalsn\\ué]{0,16}\}"#,
            cut in 0usize..40,
        ) {
            let (kept, whole) = accepted(&[&text]);
            let parsed = serde_json::from_str::<&RawValue>(&text).is_ok();
            let object = parsed && text.trim_start_matches([' ', '\n', '\r', '\t']).starts_with('{');
            // A whole object may be followed by what no parser takes.
            prop_assert_eq!(whole && kept == text.trim_matches(' '), object, "{:?}", text);
            if whole {
                prop_assert!(serde_json::from_str::<&RawValue>(&kept).is_ok());
            }
            let cut = (cut..text.len()).find(|&at| text.is_char_boundary(at)).unwrap_or(text.len());
            prop_assert_eq!(accepted(&[&text[..cut], &text[cut..]]), (kept, whole));
        }
    }
}
