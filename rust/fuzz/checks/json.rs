//! `codec::json` against `serde_json`: the same bodies pass, the same values are found, and splits
//! make no difference.

#[allow(clippy::duplicate_mod, reason = "each check is a module of its own")]
mod pick;

use std::fmt;

use sans_io::api::response_usage::ResponseUsage;
use sans_io::codec::json::{
    Finder, MODEL_BYTES_MAX, Model, RESPONSE_ID_BYTES_MAX, ScanError, ScanErrorKind, Scanner,
};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use pick::{plain_holds_fields, plain_is_content, plain_pick};

const NESTING_LIMIT: u16 = 64;

/// Stands for bytes and escapes that only the scanner accepts, not `serde_json`. A noncharacter
/// that texts do not hold.
const ODD: char = '\u{10FFFE}';

/// Panics when the scanner and the parser disagree about `body`.
pub(crate) fn check(body: &[u8]) {
    let plain = normalised(body);
    if contains_odd(body) {
        return;
    }
    let seen = scan([body]);
    splits_make_no_difference(body, &seen);
    match serde_json::from_str::<Members>(&plain) {
        Err(_) => assert!(seen.end.is_err(), "accepted what serde_json refuses"),
        Ok(members) => {
            judge(body, &seen, &members, depth(&plain));
            usage_is_of_the_top_level(body, &members);
        }
    }
}

/// Compares what was found in a body that is one whole JSON object.
fn judge(body: &[u8], seen: &Seen, members: &Members, depth: usize) {
    let fits = depth <= usize::from(NESTING_LIMIT);
    let errors = model_errors(members);
    match seen.end {
        Err(ScanError { kind: ScanErrorKind::TooDeep, .. }) => {
            assert!(!fits, "refused a depth of {depth}");
        }
        Err(ScanError { kind, .. }) => {
            assert!(errors.contains(&kind), "refused a good body: {kind:?}");
        }
        Ok(()) => {
            assert!(fits, "accepted a depth of {depth}");
            assert_eq!(errors, [], "accepted a bad model");
            values_agree(body, seen, members);
        }
    }
}

fn values_agree(body: &[u8], seen: &Seen, members: &Members) {
    let at =
        |range: &std::ops::Range<u64>| normalised(&body[range.start as usize..range.end as usize]);
    let model = seen.model.as_ref().expect("an accepted body has a model");
    assert_eq!(Some(&model.name), members.text("model").as_ref(), "another name");
    assert_eq!(
        serde_json::from_str::<String>(&at(&model.range)).ok().as_ref(),
        Some(&model.name),
        "another range"
    );
    let mut finder = Finder::string(&["model"]);
    finder.feed(body);
    let range = model.range.start as usize..model.range.end as usize;
    assert_eq!(finder.found(), Some(range.clone()));
    marks_are_passed_over(body, range);
    assert_eq!(seen.stream, members.last("stream") == Some("true"), "another `stream`");
    let options = seen.stream_options.as_ref().map(|range| at(range).trim().to_owned());
    assert_eq!(options.as_deref(), members.last("stream_options"), "another `stream_options`");
    assert_eq!(
        seen.previous_response_id,
        previous_response_id(members),
        "another `previous_response_id`"
    );
    let picks = ["model", "host"].map(|what| picks(members, what, false));
    assert_eq!(seen.picks, picks, "another adapter or host");
    let end = body.iter().rposition(|&byte| byte == b'}').map(|at| at as u64);
    assert_eq!((seen.object_end, seen.open_stream_options), (end, None), "another end");
    objects_are_found(body, members);
    prefixes_are_truncated(body);
}

/// Whether a member, or one anywhere inside of it where it holds further fields, does that. Keys
/// that are no text do nothing.
fn picks(members: &Members, what: &str, inside: bool) -> bool {
    members.0.iter().any(|(key, value)| {
        let (key, value) = (key.as_str(), value.get());
        let nothing = ["null", "false", "\"\"", "[]", "{}"].contains(&value);
        let is_text = !key.contains(ODD);
        if !inside && key == "model" {
            return false;
        }
        let pick = plain_pick(key).filter(|_| is_text);
        if let Some(pick) = pick {
            return pick == what && !nothing;
        }
        let looked_into =
            plain_holds_fields(key) && is_text || inside && !(is_text && plain_is_content(key));
        looked_into && picks_inside(value, what)
    })
}

/// Whether a member inside of this value does that.
fn picks_inside(value: &str, what: &str) -> bool {
    if let Ok(elements) = serde_json::from_str::<Vec<Box<RawValue>>>(value) {
        return elements.iter().any(|element| picks_inside(element.get(), what));
    }
    serde_json::from_str(value).is_ok_and(|inner| picks(&inner, what, true))
}

/// The id that an engine would read; "\0" stands for one that nothing can have.
fn previous_response_id(members: &Members) -> Option<String> {
    let id = members.text("previous_response_id")?;
    Some(if id.contains(ODD) || id.len() > RESPONSE_ID_BYTES_MAX { "\0".to_owned() } else { id })
}

/// The same bytes as an engine's response, behind a byte order mark in any split. A part of one is
/// no begin of JSON.
fn marks_are_passed_over(body: &[u8], model: std::ops::Range<usize>) {
    let mark = "\u{feff}".as_bytes();
    let marked = [mark, body].concat();
    for size in [1, 2, 7, marked.len()] {
        let find = |text: &[u8]| {
            let mut finder = Finder::string(&["model"]).of_document();
            text.chunks(size).for_each(|piece| finder.feed(piece));
            finder.found()
        };
        assert_eq!(find(body), Some(model.clone()));
        assert_eq!(find(&marked), Some(model.start + mark.len()..model.end + mark.len()));
        assert_eq!([find(&marked[1..]), find(&marked[2..])], [None, None]);
        assert_eq!(find(&[&mark[..2], body].concat()), None);
        assert_eq!(find(&[mark, &marked].concat()), None);
    }
}

/// The first `stream_options` is found whole where it is an object, in any split.
fn objects_are_found(body: &[u8], members: &Members) {
    let value =
        members.0.iter().find(|(key, _)| key == "stream_options").map(|(_, value)| value.get());
    for size in [1, 7, body.len()] {
        let mut finder = Finder::object(&["stream_options"]);
        body.chunks(size).for_each(|piece| finder.feed(piece));
        let found = finder.found().map(|range| normalised(&body[range]));
        assert_eq!(
            found.as_deref(),
            value.filter(|value| value.starts_with('{')),
            "another object"
        );
    }
}

/// The same bytes as an engine's response: its usage is an object of its own, in any split.
fn usage_is_of_the_top_level(body: &[u8], members: &Members) {
    let read = |size| {
        let mut usage = ResponseUsage::new();
        body.chunks(size).for_each(|piece| usage.feed(piece));
        usage.usage()
    };
    let usage = read(body.len());
    assert_eq!([read(1), read(7)], [usage, usage], "splits make a difference");
    let is_there =
        |(key, value): &(String, Box<RawValue>)| key == "usage" && value.get().starts_with('{');
    assert!(usage.is_none() || members.0.iter().any(is_there), "another usage");
}

/// The errors that the model of a whole body may give; none when it is good.
fn model_errors(members: &Members) -> Vec<ScanErrorKind> {
    let mut values = members.0.iter().filter(|(key, _)| key == "model").map(|(_, value)| value);
    let Some(first) = values.next() else {
        return vec![ScanErrorKind::ModelMissing];
    };
    let Ok(name) = serde_json::from_str::<String>(first.get()) else {
        return vec![ScanErrorKind::ModelNotAString];
    };
    if name.contains(ODD) {
        return vec![
            ScanErrorKind::ModelLoneSurrogate,
            ScanErrorKind::ModelNotUnicode,
            ScanErrorKind::ModelTooLong,
        ];
    }
    if name.len() > MODEL_BYTES_MAX {
        vec![ScanErrorKind::ModelTooLong]
    } else if name.trim().is_empty() {
        vec![ScanErrorKind::ModelEmpty]
    } else if values.next().is_some() {
        vec![ScanErrorKind::ModelTwice]
    } else {
        vec![]
    }
}

/// All that a scanner tells after the last byte.
#[derive(Debug, PartialEq)]
struct Seen {
    end: Result<(), ScanError>,
    finished: bool,
    model: Option<Model>,
    stream: bool,
    stream_options: Option<std::ops::Range<u64>>,
    open_stream_options: Option<u64>,
    previous_response_id: Option<String>,
    /// Whether it picks an adapter, and whether it names a host.
    picks: [bool; 2],
    object_end: Option<u64>,
}

fn scan<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Seen {
    let mut scanner = Scanner::new(NESTING_LIMIT);
    scanner.retain_previous_response_id();
    let mut fed = Ok(());
    for piece in pieces {
        let now = scanner.feed(piece);
        assert!(fed.is_ok() || fed == now, "an error is not final");
        fed = now;
    }
    assert!(fed.is_ok() || fed == scanner.end(), "the end forgets the error");
    Seen {
        end: scanner.end(),
        finished: scanner.is_finished(),
        model: scanner.model().cloned(),
        stream: scanner.stream(),
        stream_options: scanner.stream_options(),
        open_stream_options: scanner.open_stream_options(),
        previous_response_id: scanner.previous_response_id().map(str::to_owned),
        picks: [scanner.picks_adapter(), scanner.names_host()],
        object_end: scanner.object_end(),
    }
}

fn splits_make_no_difference(body: &[u8], whole: &Seen) {
    if body.len() < 4096 {
        assert_eq!(&scan(body.chunks(1)), whole, "one byte at a time");
    }
    // The cut depends on the body only, so that a failure repeats.
    let first = body
        .iter()
        .fold(7, |sum: usize, &byte| sum.wrapping_mul(31).wrapping_add(usize::from(byte)));
    let (head, tail) = body.split_at(first % (body.len() + 1));
    assert_eq!(&scan([head, b"", tail]), whole, "cut at {}", head.len());
    assert_eq!(&scan(body.chunks(2 + first % 13)), whole, "pieces of {}", 2 + first % 13);
}

/// A part of a good body is never a good body, and never called finished.
fn prefixes_are_truncated(body: &[u8]) {
    let close = body.iter().rposition(|&byte| byte == b'}').expect("an object has an end");
    for end in [close, close / 2, close * 7 / 8] {
        let part = scan([&body[..end]]);
        let kinds = [ScanErrorKind::Truncated, ScanErrorKind::Empty];
        assert!(
            part.end.is_err_and(|error| kinds.contains(&error.kind)) && !part.finished,
            "whole after {end} bytes"
        );
    }
}

/// The members of an object in order, with repeats.
struct Members(Vec<(String, Box<RawValue>)>);

impl Members {
    fn last(&self, key: &str) -> Option<&str> {
        self.0.iter().rev().find(|(name, _)| name == key).map(|(_, value)| value.get())
    }

    fn text(&self, key: &str) -> Option<String> {
        serde_json::from_str(self.last(key)?).ok()
    }
}

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Members;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

/// Whether the body itself holds the stand-in, literally or escaped: then nothing can be compared.
fn contains_odd(body: &[u8]) -> bool {
    let literal = ODD.to_string();
    body.windows(literal.len()).any(|window| window == literal.as_bytes())
        || body.windows(12).any(|window| window.eq_ignore_ascii_case(br"\udbff\udffe"))
}

/// The body as `serde_json` can take it: the scanner's leniencies are replaced by something that
/// has their effect.
fn normalised(body: &[u8]) -> String {
    let mut text = String::new();
    for chunk in body.utf8_chunks() {
        text.push_str(chunk.valid());
        if !chunk.invalid().is_empty() {
            text.push(ODD);
        }
    }
    let (mut plain, mut rest, mut in_string) = (String::new(), text.as_str(), false);
    while let Some(first) = rest.chars().next() {
        let mut taken = first.len_utf8();
        if in_string && first == '\\' {
            taken = escape(rest, &mut plain);
        } else if let Some(word) =
            ["NaN", "-Infinity", "Infinity"].iter().find(|word| rest.starts_with(**word))
            && !in_string
        {
            plain.push_str(" null ");
            taken = word.len();
        } else {
            in_string ^= first == '"';
            plain.push(first);
        }
        rest = &rest[taken..];
    }
    plain
}

/// Copies the escape that `rest` begins with, a lone surrogate replaced; returns its length.
fn escape(rest: &str, plain: &mut String) -> usize {
    let unit = |at: usize| {
        let digits = rest.get(at..at + 6)?.strip_prefix("\\u")?;
        let hex = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        hex.then(|| u16::from_str_radix(digits, 16).ok())?
    };
    let length = match (unit(0), unit(6)) {
        (Some(0xD800..=0xDBFF), Some(0xDC00..=0xDFFF)) => 12,
        (Some(0xD800..=0xDFFF), _) => {
            plain.push(ODD);
            return 6;
        }
        _ => rest.chars().take(2).map(char::len_utf8).sum(),
    };
    plain.push_str(&rest[..length]);
    length
}

/// How many objects and arrays of a valid JSON text are open at once, at most.
fn depth(json: &str) -> usize {
    let (mut open, mut most, mut in_string) = (0_usize, 0, false);
    let mut bytes = json.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => in_string = !in_string,
            b'\\' => _ = bytes.next(),
            b'{' | b'[' if !in_string => open += 1,
            b'}' | b']' if !in_string => open -= 1,
            _ => {}
        }
        most = most.max(open);
    }
    most
}
