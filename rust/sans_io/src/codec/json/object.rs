//! Checks how far a tool call's arguments are one JSON object, while they arrive, and ends one that
//! breaks off.

use std::borrow::Cow;

use crate::codec::json::{Number, plain_text};

/// The deepest nesting; deeper arguments count as broken. A body's limit is in the same range.
const DEPTH_MAX: usize = 512;

/// Reads one JSON object in pieces, and accepts exactly what a strict parser accepts, and the
/// numbers that Python writes and JSON does not know: `null` stands in their place.
#[derive(Clone, Debug, Default)]
pub(crate) struct ObjectScan {
    state: State,
    /// The state before the first wrong byte.
    before_break: State,
    /// The open containers; true for an array.
    open: Vec<bool>,
    /// The last piece ended behind the minus of a number, which was not given out: `Infinity` may
    /// follow it.
    owes_minus: bool,
}

/// A piece of an object's text.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Accepted<'t> {
    /// The part that belongs to the object. Left out: white space before the object, whatever
    /// follows it, and everything from the first wrong byte on.
    pub(crate) text: Cow<'t, str>,
    /// The same as it was written.
    pub(crate) written: &'t str,
    /// What comes from the first wrong byte on, with what was withheld before it; empty where there is
    /// none.
    pub(crate) wrong: Cow<'t, str>,
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
    /// Inside a word for a number that is none, of which nothing was given out: the word, and how many
    /// of its bytes came.
    Unreal(&'static str, usize),
    Whole,
    Broken,
}

impl State {
    /// What was accepted in it and not given out.
    fn withheld(self) -> &'static str {
        match self {
            Self::Unreal(word, came) => word.get(..came).unwrap_or_default(),
            _ => "",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Role {
    Key,
    Value,
}

impl Role {
    /// What ends a string, and behind a key its value.
    fn rest(self) -> &'static str {
        match self {
            Self::Key => "\":null",
            Self::Value => "\"",
        }
    }
}

impl ObjectScan {
    /// Reads the next piece.
    pub(crate) fn feed<'t>(&mut self, piece: &'t str) -> Accepted<'t> {
        let bytes = piece.as_bytes();
        let mut at = 0;
        if self.state == State::Start {
            at = piece.len() - piece.trim_start_matches([' ', '\n', '\r', '\t']).len();
        }
        let (mut text, was_broken) = (Cow::Borrowed(""), self.is_broken());
        if self.owes_minus && !piece.is_empty() {
            self.owes_minus = false;
            if bytes[0] != b'I' {
                text = Cow::Borrowed("-");
            }
        }
        // The begin of what is accepted and not in `text`.
        let (first, mut start) = (at, at);
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
                && (number, byte) != (Number::Minus, b'I')
            {
                // The byte ends the number and is not part of it: it is read once more.
                self.before_break = self.state;
                self.state = if number.may_end() { State::AfterValue } else { State::Broken };
                continue;
            }
            let before = self.state;
            self.state = self.next(byte);
            match (before, self.state) {
                (_, State::Broken) => self.before_break = before,
                (State::Unreal(..), State::Unreal(..)) => at += 1,
                (State::Unreal(..), _) => {
                    at += 1;
                    start = at;
                    text += "null";
                }
                (_, State::Unreal(..)) => {
                    // The minus of `-Infinity` is one of those that are left out.
                    let minus = usize::from(before == State::Number(Number::Minus) && at > 0);
                    text += piece.get(start..at - minus).unwrap_or_default();
                    at += 1;
                }
                _ => at += 1,
            }
        }
        match self.state {
            State::Unreal(..) => {}
            State::Number(Number::Minus) if at > start => {
                self.owes_minus = true;
                text += piece.get(start..at - 1).unwrap_or_default();
            }
            State::Broken if matches!(self.before_break, State::Unreal(..)) => {}
            _ => text += piece.get(start..at).unwrap_or_default(),
        }
        let wrong = match (self.is_broken(), was_broken) {
            (false, _) => Cow::Borrowed(""),
            (true, true) => Cow::Borrowed(piece),
            (true, false) => {
                Cow::Borrowed(self.before_break.withheld()) + piece.get(at..).unwrap_or_default()
            }
        };
        Accepted { text, written: piece.get(first..at).unwrap_or_default(), wrong }
    }

    /// What was accepted and not given out, since what follows decides what it is.
    pub(crate) fn withheld(&self) -> &'static str {
        if self.owes_minus { "-" } else { self.state.withheld() }
    }

    /// What makes an object of the text so far, with this member as its last one, in JSON.
    pub(crate) fn rest(&self, member: &str) -> String {
        let state = if self.is_broken() { self.before_break } else { self.state };
        let mut rest = String::new();
        let value = match state {
            State::Start => return format!("{{{member}}}"),
            State::Text(role) => role.rest(),
            State::Escape(role) => {
                rest.push('\\');
                role.rest()
            }
            State::Hex(role, left) => {
                rest.push_str(&"0".repeat(left.into()));
                role.rest()
            }
            State::Colon => ":null",
            State::Number(Number::Minus) if self.owes_minus => "null",
            State::Number(number) if !number.may_end() => "0",
            State::Word(word) => std::str::from_utf8(word).unwrap_or_default(),
            State::Value | State::Unreal(..) => "null",
            _ => "",
        };
        rest.push_str(value);
        // Behind a comma a member has to come.
        if state == State::NextKey && self.open.len() > 1 {
            rest.push_str("\"\":null");
        }
        let inner = self.open.get(1..).unwrap_or_default();
        rest.extend(inner.iter().rev().map(|is_array| if *is_array { ']' } else { '}' }));
        let needs_comma = !inner.is_empty() || !matches!(state, State::FirstKey | State::NextKey);
        rest + if needs_comma { "," } else { "" } + member + "}"
    }

    fn is_broken(&self) -> bool {
        self.state == State::Broken
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
            (State::Number(Number::Minus), b'I') => State::Unreal("-Infinity", 2),
            (State::Number(number), _) => number.next(byte).map_or(State::Broken, State::Number),
            (State::Word([first]), _) if byte == *first => State::AfterValue,
            (State::Word([first, rest @ ..]), _) if byte == *first => State::Word(rest),
            (State::Unreal(word, came), _) if word.as_bytes().get(came) == Some(&byte) => {
                if came + 1 < word.len() {
                    State::Unreal(word, came + 1)
                } else {
                    State::AfterValue
                }
            }
            (state, b' ' | b'\n' | b'\r' | b'\t')
                if !matches!(state, State::Word(_) | State::Unreal(..)) =>
            {
                state
            }
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
            b'N' => State::Unreal("NaN", 1),
            b'I' => State::Unreal("Infinity", 1),
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
        let kept = pieces.iter().map(|piece| scan.feed(piece).text).collect();
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
            (r#"{"a":NaN}"#, r#"{"a":null}"#, true),
            (
                r#"{"a":[-Infinity, Infinity,NaN ,-1,"NaN"],"NaN":-Infinity}"#,
                r#"{"a":[null, null,null ,-1,"NaN"],"NaN":null}"#,
                true,
            ),
            (r#"{"a":Nan}"#, r#"{"a":"#, false),
            (r#"{"a":--1}"#, r#"{"a":-"#, false),
            (r#"{"a":-infinity}"#, r#"{"a":-"#, false),
            ("{NaN:1}", "{", false),
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

        #[test]
        fn whatever_was_given_out_becomes_an_object_and_nothing_is_lost(
            text in r#"(\{"a":)?([{}\[\],:"\\]|"b"|1|-|0\.|2e|tru|null|NaN|-?Infin|ity|\\u00|x|é){0,8}"#,
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..3),
        ) {
            let mut ends: Vec<_> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
            ends.retain(|end| text.is_char_boundary(*end));
            ends.push(text.len());
            ends.sort_unstable();
            let (mut scan, mut begin) = (ObjectScan::default(), 0);
            let (mut given, mut wrong) = (String::new(), String::new());
            for end in ends {
                let accepted = scan.feed(&text[begin..end]);
                given += &accepted.text;
                wrong += &accepted.wrong;
                begin = end;
            }
            if scan.is_whole() {
                prop_assert!(wrong.is_empty());
                prop_assert!(serde_json::from_str::<&RawValue>(&given).is_ok(), "{}", given);
            } else {
                let made = given.clone() + &scan.rest(r#""X":1"#);
                let value: Result<serde_json::Value, _> = serde_json::from_str(&made);
                prop_assert!(value.is_ok_and(|value| value["X"] == 1), "{} of {}", made, text);
                wrong += scan.withheld();
                prop_assert!(text.ends_with(&wrong));
                let taken = text[..text.len() - wrong.len()].trim_start_matches([' ', '\n', '\r', '\t']);
                prop_assert_eq!(crate::api::messages::finite(taken.as_bytes()).map_or(taken.into(), |taken| String::from_utf8(taken).unwrap()), given, "nothing is lost");
            }
        }
    }
}
