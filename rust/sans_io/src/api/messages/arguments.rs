//! Reads a streamed tool call's arguments in each of the styles in which engines write them.
//!
//! Nearly all send an object's text in pieces. Some send a JSON string that holds that text, or with
//! each piece all that came before it, or the whole once more at the end. Where a piece may be read
//! in two ways, none of it is given out until a later one, or the end of the stream, tells them
//! apart.
//!
//! Arguments that are no object, or break off, must not look like some that are: a tool that is run
//! without arguments, or with the first half of one, may do harm. So they get a member
//! [`INVALID_JSON`] with what is wrong in them, as Anthropic's guide to its streams of tool inputs
//! suggests, and the tool's own schema refuses it.

use std::borrow::Cow;

use super::json::{Text, literal};
use crate::codec::json::object::ObjectScan;

/// The member that says that arguments were no object.
const INVALID_JSON: &str = "INVALID_JSON";

/// White space in JSON.
const WHITE: [char; 4] = [' ', '\n', '\r', '\t'];
/// The longest escape in a JSON string: a pair of surrogates.
const ESCAPE_MAX: usize = 12;

/// The arguments of one call.
#[derive(Debug, Default)]
pub(super) struct Arguments {
    scan: ObjectScan,
    /// What was given out, as the engine wrote it.
    given: Digest,
    /// What came from the first wrong byte on.
    wrong: String,
    /// The string that holds the object's text; None: its text comes plain.
    encoded: Option<StringText>,
    doubt: Option<Box<Doubt>>,
}

/// Two ways to read the pieces since the last one that was given out.
#[derive(Debug)]
struct Doubt {
    /// Each goes on where the last one ended.
    deltas: Reading,
    /// Each repeats all that came before it.
    snapshots: Reading,
}

#[derive(Debug)]
struct Reading {
    scan: ObjectScan,
    text: String,
    wrong: String,
    /// All of the object so far, as the engine wrote it.
    given: Digest,
}

impl Arguments {
    /// Reads the next piece, and appends to `out` what is certain of the object's text.
    pub(super) fn feed(&mut self, piece: &str, out: &mut String) {
        let begin = piece.trim_start_matches(WHITE);
        if self.encoded.is_none() && self.scan.is_empty() && begin.starts_with('"') {
            self.encoded = Some(StringText::default());
        }
        let Some(encoded) = &mut self.encoded else { return self.feed_plain(piece, out) };
        // A quote ends the string, unless more follows: then it begins once more.
        if encoded.begins_again(begin) {
            *encoded = StringText::default();
        }
        let mut plain = String::new();
        encoded.feed(piece, &mut plain);
        self.feed_plain(&plain, out);
    }

    fn feed_plain(&mut self, piece: &str, out: &mut String) {
        let begin = piece.trim_start_matches(WHITE);
        if let Some(mut doubt) = self.doubt.take() {
            if begin.is_empty() || doubt.snapshots.given.begins(begin) {
                doubt.feed(piece, begin);
                self.doubt = Some(doubt);
                self.resolve(out);
            } else {
                self.settle(doubt.deltas, out);
                self.accept(piece, out);
            }
        } else if !self.scan.is_empty() && !self.scan.is_finished() && self.given.begins(begin) {
            let reading = || Reading {
                scan: self.scan.clone(),
                text: String::new(),
                wrong: String::new(),
                given: self.given,
            };
            let mut doubt = Doubt { deltas: reading(), snapshots: reading() };
            doubt.feed(piece, begin);
            self.doubt = Some(Box::new(doubt));
            self.resolve(out);
        } else {
            self.accept(piece, out);
        }
    }

    fn accept(&mut self, piece: &str, out: &mut String) {
        let accepted = self.scan.feed(piece);
        self.given.add(accepted.written);
        self.wrong.push_str(&accepted.wrong);
        out.push_str(&accepted.text);
    }

    /// Ends a doubt of which one way has made an object, or turned out to be impossible.
    fn resolve(&mut self, out: &mut String) {
        let Some(doubt) = self.doubt.take() else { return };
        if doubt.deltas.is_broken() {
            self.settle(doubt.snapshots, out);
        } else if doubt.deltas.scan.is_whole() || doubt.snapshots.is_broken() {
            self.settle(doubt.deltas, out);
        } else {
            self.doubt = Some(doubt);
        }
    }

    fn settle(&mut self, reading: Reading, out: &mut String) {
        self.given = reading.given;
        self.wrong.push_str(&reading.wrong);
        self.scan = reading.scan;
        out.push_str(&reading.text);
    }

    /// No piece follows: a doubt ends with the way that makes an object of them.
    pub(super) fn end(&mut self, out: &mut String) {
        if let Some(doubt) = self.doubt.take() {
            let is_whole = doubt.snapshots.scan.is_whole();
            self.settle(if is_whole { doubt.snapshots } else { doubt.deltas }, out);
        }
    }

    /// Makes an object of arguments that are none. `unsent`: what was given out of them and not
    /// sent, `is_all` of it or the end of it.
    pub(super) fn mend(&self, is_all: bool, unsent: &mut String) {
        if self.is_whole() || self.is_empty() {
            return;
        }
        let wrong = format!("{}{}", self.scan.withheld(), self.wrong);
        if is_all {
            let text = std::mem::take(unsent) + &wrong;
            *unsent = object_of(&text).into_owned();
        } else {
            let member = format!("\"{INVALID_JSON}\":{}", literal(&wrong));
            unsent.push_str(&self.scan.rest(&member));
        }
    }

    /// Whether nothing of an object was seen yet.
    pub(super) fn is_empty(&self) -> bool {
        self.scan.is_empty()
    }

    /// Whether they are an object, or will be where nothing follows.
    pub(super) fn is_whole(&self) -> bool {
        let doubt = self.doubt.as_ref();
        self.scan.is_whole() || doubt.is_some_and(|doubt| doubt.snapshots.scan.is_whole())
    }

    /// Whether nothing that follows changes them. Those of a doubt may be whole, and change yet.
    pub(super) fn is_finished(&self) -> bool {
        self.scan.is_finished()
    }

    /// Whether this piece begins another object behind the whole one. One that says the same once
    /// more does not.
    pub(super) fn is_followed_by(&self, piece: &str) -> bool {
        let begin = piece.trim_start_matches(WHITE);
        let is_quote = begin.starts_with('"');
        // A quote may end the string of this object.
        let open = self.encoded.as_ref().filter(|encoded| !encoded.has_ended);
        let begins =
            is_quote && open.is_none_or(|open| open.begins_again(begin)) || begin.starts_with('{');
        if !self.is_whole() || !begins {
            return false;
        }
        let plain = decoded_twice(begin);
        let text = plain.as_deref().unwrap_or(begin).trim_end_matches(WHITE);
        let whole = self.doubt.as_ref().map_or(self.given, |doubt| doubt.snapshots.given);
        text.len() != whole.length || !whole.begins(text)
    }

    /// The bytes that wait.
    pub(super) fn held(&self) -> usize {
        let texts = |one: &Reading| one.text.len() + one.wrong.len();
        let doubt = self.doubt.as_deref();
        self.wrong.len() + doubt.map_or(0, |doubt| texts(&doubt.deltas) + texts(&doubt.snapshots))
    }
}

impl Doubt {
    /// `begin`: the piece without the white space before it.
    fn feed(&mut self, piece: &str, begin: &str) {
        self.deltas.feed(piece);
        self.snapshots.feed(begin.get(self.snapshots.given.length..).unwrap_or_default());
    }
}

impl Reading {
    fn feed(&mut self, piece: &str) {
        let accepted = self.scan.feed(piece);
        self.text.push_str(&accepted.text);
        self.wrong.push_str(&accepted.wrong);
        self.given.add(accepted.written);
    }

    fn is_broken(&self) -> bool {
        self.scan.is_finished() && !self.scan.is_whole()
    }
}

/// Whole arguments as an object: an empty one where there are none.
pub(super) fn object_of(arguments: &str) -> Cow<'_, str> {
    let arguments = arguments.trim_start_matches(WHITE);
    if matches!(arguments.trim_end_matches(WHITE), "" | "null") {
        return Cow::Borrowed("{}");
    }
    let mut scan = ObjectScan::default();
    let accepted = scan.feed(arguments);
    if scan.is_whole() {
        return accepted.text;
    }
    // Piece by piece: it may be long, and its memory is reckoned.
    let mut made = format!("{{\"{INVALID_JSON}\":\"");
    for piece in [&*accepted.text, scan.withheld(), &accepted.wrong] {
        made.push_str(Text::written(piece).inside());
    }
    made.push_str("\"}");
    Cow::Owned(made)
}

/// The text in a JSON string that holds the arguments; None: they are plain.
pub(super) fn decoded_twice(arguments: &str) -> Option<String> {
    arguments.trim_start_matches(WHITE).starts_with('"').then(|| {
        let mut plain = String::new();
        StringText::default().feed(arguments, &mut plain);
        plain
    })
}

/// A text's length and hash (FNV-1a), in place of the text.
#[derive(Clone, Copy, Debug)]
struct Digest {
    length: usize,
    hash: u64,
}

impl Default for Digest {
    fn default() -> Self {
        Self { length: 0, hash: 0xcbf2_9ce4_8422_2325 }
    }
}

impl Digest {
    fn add(&mut self, text: &str) {
        self.length += text.len();
        self.hash = text.bytes().fold(self.hash, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
    }

    /// Whether the text begins with the one that this is of.
    fn begins(&self, text: &str) -> bool {
        let mut begin = Self::default();
        text.starts_with('{')
            && text.get(..self.length).is_some_and(|text| {
                begin.add(text);
                begin.hash == self.hash
            })
    }
}

/// Decodes a JSON string that comes in pieces. An escape that has no character, half of a surrogate
/// pair, stays an escape: in the JSON that the string holds it may be one, too.
#[derive(Debug, Default)]
struct StringText {
    has_begun: bool,
    has_ended: bool,
    /// The begin of an escape.
    cut: String,
}

impl StringText {
    /// Whether a piece begins the string once more.
    fn begins_again(&self, piece: &str) -> bool {
        self.has_begun
            && self.cut.is_empty()
            && piece.starts_with('"')
            && piece.trim_end_matches(WHITE).len() > 1
    }

    /// Appends the next piece's text to `out`. What follows the string is left out.
    fn feed(&mut self, piece: &str, out: &mut String) {
        let joined = (!self.cut.is_empty()).then(|| std::mem::take(&mut self.cut) + piece);
        let mut rest = joined.as_deref().unwrap_or(piece);
        if !self.has_begun {
            let Some(begin) = rest.trim_start_matches(WHITE).strip_prefix('"') else { return };
            (self.has_begun, rest) = (true, begin);
        }
        while !self.has_ended {
            let (plain, special) = rest.split_at(rest.find(['"', '\\']).unwrap_or(rest.len()));
            out.push_str(plain);
            if special.is_empty() {
                return;
            }
            self.has_ended = special.starts_with('"');
            if !self.has_ended {
                let Some(length) = escape_length(special) else {
                    special.clone_into(&mut self.cut);
                    return;
                };
                let (escape, behind) = special.split_at(length);
                match serde_json::from_str::<String>(&format!("\"{escape}\"")) {
                    Ok(text) => out.push_str(&text),
                    Err(_) => out.push_str(escape),
                }
                rest = behind;
            }
        }
    }
}

/// The length of the escape at the begin of a text; None: it is cut off.
fn escape_length(text: &str) -> Option<usize> {
    let unit = |at: usize| {
        let digits = text.get(at..at + 6)?.strip_prefix("\\u")?;
        u16::from_str_radix(digits, 16).ok()
    };
    let kind = text.chars().nth(1)?;
    if kind != 'u' {
        return Some(1 + kind.len_utf8());
    }
    match unit(0) {
        Some(0xd800..=0xdbff) if matches!(unit(6), Some(0xdc00..=0xdfff)) => Some(ESCAPE_MAX),
        Some(0xd800..=0xdbff) if text.len() < ESCAPE_MAX && may_be_unit(&text[6..]) => None,
        Some(_) => Some(6),
        None if text.len() < 6 && may_be_unit(text) => None,
        None => Some(2),
    }
}

/// Whether the text may be the begin of `\uXXXX`.
fn may_be_unit(text: &str) -> bool {
    let (begin, digits) = text.split_at(text.len().min(2));
    "\\u".starts_with(begin) && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What is given out of arguments in these pieces, and whether it is an object.
    fn read(pieces: &[&str]) -> (String, bool) {
        let (mut arguments, mut out) = (Arguments::default(), String::new());
        for piece in pieces {
            arguments.feed(piece, &mut out);
        }
        arguments.end(&mut out);
        assert_eq!(arguments.held(), arguments.wrong.len());
        (out, arguments.is_whole())
    }

    /// The same, collected first and decided then: an object in pieces, or else snapshots.
    fn read_slowly(pieces: &[&str]) -> String {
        let of = |text: &str| {
            let mut scan = ObjectScan::default();
            (scan.feed(text).text.into_owned(), scan.is_whole())
        };
        let (joined, is_whole) = of(&pieces.concat());
        let grows = pieces.windows(2).all(|pair| pair[1].starts_with(pair[0]));
        let last = pieces.last().map(|last| of(last)).filter(|(_, is_whole)| *is_whole);
        match last {
            Some((last, _)) if !is_whole && grows => last,
            _ => joined,
        }
    }

    /// Prefixes of the text, the whole at last.
    fn snapshots<'t>(text: &'t str, cuts: &[prop::sample::Index]) -> Vec<&'t str> {
        let mut ends: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len())).collect();
        ends.retain(|&end| end > 0 && text.is_char_boundary(end));
        ends.push(text.len());
        ends.sort_unstable();
        ends.iter().map(|&end| &text[..end]).collect()
    }

    fn deltas<'t>(snapshots: &[&'t str]) -> Vec<&'t str> {
        let begins = std::iter::once(0).chain(snapshots.iter().map(|text| text.len()));
        begins.zip(snapshots).map(|(begin, text)| &text[begin..]).collect()
    }

    fn object() -> impl Strategy<Value = String> {
        let value = r#"[ab1]{0,2}|[é\\"\n]{0,3}"#.prop_map(|text| serde_json::json!(text));
        let value = value.prop_recursive(3, 8, 3, |inner| {
            prop::collection::hash_map("[ab]", inner, 0..3)
                .prop_map(|members| serde_json::json!(members))
        });
        prop::collection::hash_map("[ab]", value, 0..3)
            .prop_map(|members| serde_json::json!(members).to_string())
    }

    #[test]
    fn each_style_gives_the_object() {
        let rome = r#"{"city":"Rome"}"#;
        for pieces in [
            &[rome][..],
            &[r#"{"city":"#, r#""Rome"}"#],
            &[r#"{"city":"#, rome],
            &["{", r#"{"city"#, r#"{"city":"R"#, rome, rome],
            &[" ", "\n{", r#" {"city":"#, rome],
            &[r#""{\"city\":\"Rome\"}""#],
            &["\"", r"{\", r#""city\":\"R"#, r"\u006", r#"fme\"}"#, "\""],
            &[r#""{\"city\":"#, r#""{\"city\":\"Rome\"}""#],
            &[r#""{\"city\":\"Rome\"}""#, r#""{\"city\":\"Rome\"}""#],
        ] {
            assert_eq!(read(pieces), (rome.to_owned(), true), "{pieces:?}");
        }
    }

    #[test]
    fn what_was_no_snapshot_in_the_end_is_kept() {
        for pieces in [
            &[r#"{"a":"#, r#"{"a":1}"#, "}"][..],
            &[r#"{"a":"#, r#"{"a":{"a":1}"#, "}", "}"],
            &[r#"{"a":"#, r#"{"a":"#, r#"{"a":1}"#, "}}"],
            &[r#"{"a":["#, r#"{"a":["#, "]}]}"],
        ] {
            assert_eq!(read(pieces), (pieces.concat(), true));
        }
    }

    #[test]
    fn a_string_is_decoded_wherever_it_is_cut() {
        let text = r#""a\"\\\n\u00e9\ud83d\ude00\ud800\ud800\u0041\ud800x\x\u12" rest"#;
        let expected = "a\"\\\n\u{e9}\u{1F600}\\ud800\\ud800A\\ud800x\\x\\u12";
        for (at, _) in text.char_indices() {
            for (to, _) in text.char_indices().skip(at) {
                let (mut string, mut out) = (StringText::default(), String::new());
                for piece in [&text[..at], &text[at..to.max(at)], &text[to.max(at)..]] {
                    string.feed(piece, &mut out);
                }
                assert_eq!(out, expected, "{at} {to}");
            }
        }
    }

    proptest! {
        #[test]
        fn an_object_survives_each_style(
            object in object(),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        ) {
            let expected = (object.clone(), true);
            let shown = snapshots(&object, &cuts);
            prop_assert_eq!(&read(&deltas(&shown)), &expected, "deltas");
            prop_assert_eq!(&read(&shown), &expected, "snapshots");
            let encoded = serde_json::json!(object).to_string();
            let shown = snapshots(&encoded, &cuts);
            prop_assert_eq!(&read(&deltas(&shown)), &expected, "encoded twice");
        }

        #[test]
        fn the_slow_way_decides_the_same(
            pieces in prop::collection::vec(prop::sample::select(vec![
                "{", "}", r#"{"a":"#, r#"{"a":1}"#, r#"{"a":{"a":1}"#, r#"{"a":{"a":1}}"#, "1", r#""a""#, ":",
            ]), 0..5),
        ) {
            let (read, is_whole) = read(&pieces);
            let slowly = read_slowly(&pieces);
            // Both find the object where there is one.
            let mut scan = ObjectScan::default();
            scan.feed(&slowly);
            if scan.is_whole() {
                prop_assert_eq!((read, is_whole), (slowly, true), "{:?}", pieces);
            }
        }
    }
}
