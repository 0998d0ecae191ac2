//! Replaces an engine's own names and paths by public ones.

use serde_json::Value;

/// Members whose values are words of a protocol. An engine's name that is spelt like one of them is
/// not meant there.
const PROTOCOL: [&[u8]; 6] = [b"type", b"code", b"param", b"object", b"loc", b"status"];

/// The text with the public name in place of each whole occurrence of an engine's; None when there
/// is none. An occurrence is whole when it is no part of a longer word, path or segment of one.
pub(super) fn redact(text: &str, names: &[(String, String)]) -> Option<String> {
    let mut redacted = String::new();
    let (mut copied, mut at) = (0, 0);
    while let Some(character) = text[at..].chars().next() {
        let Some((name, public)) = name_at(text, at, names) else {
            at += character.len_utf8();
            continue;
        };
        if name != public {
            redacted.push_str(&text[copied..at]);
            redacted.push_str(public);
            copied = at + name.len();
        }
        at += name.len();
    }
    (copied > 0).then(|| redacted + &text[copied..])
}

/// The longest name that stands whole at `at`, and its replacement. A public name stands for
/// itself, so that an engine's name inside it is left alone.
fn name_at<'a>(text: &str, at: usize, names: &'a [(String, String)]) -> Option<(&'a str, &'a str)> {
    let candidates = names
        .iter()
        .flat_map(|(name, public)| [(name.as_str(), public.as_str()), (public, public)]);
    candidates
        .filter(|(name, _)| {
            !name.is_empty() && text[at..].starts_with(name) && is_whole(text, at, name)
        })
        // Of one name twice the first counts, which is the engine's.
        .reduce(|longest, next| if next.0.len() > longest.0.len() { next } else { longest })
}

fn is_whole(text: &str, at: usize, name: &str) -> bool {
    let mut before = text[..at].chars().rev();
    let mut after = text[at + name.len()..].chars();
    let goes_on_before = match before.next() {
        Some('.') => before.next().is_some_and(is_of_a_word),
        Some(character) => is_of_a_word(character),
        None => false,
    };
    let goes_on_after = match after.next() {
        Some('.' | ':') => after.next().is_some_and(is_of_a_word),
        Some(character) => is_of_a_word(character),
        None => false,
    };
    // Behind a path's last slash something inside it may follow.
    !goes_on_before && (!goes_on_after || name.ends_with('/'))
}

/// Whether the character continues a name. Names are of Latin letters; text of other alphabets may
/// stand beside them without a space.
fn is_of_a_word(character: char) -> bool {
    character.is_ascii_alphanumeric() || matches!(character, '_' | '-')
}

/// [`redact`] in the strings of a JSON text, or of a part of one that begins outside of a string.
/// Keys are left alone, and so are the values of [`PROTOCOL`] members. Strings that change are
/// written anew; no other byte differs. None when nothing does.
pub(super) fn redact_in_json(json: &[u8], names: &[(String, String)]) -> Option<Vec<u8>> {
    let mut redacted = Vec::new();
    let (mut copied, mut at) = (0, 0);
    let mut key: &[u8] = b"";
    while let Some(start) = memchr::memchr(b'"', &json[at..]).map(|quote| at + quote) {
        let end = string_end(json, start);
        at = end;
        if json[end..].trim_ascii_start().starts_with(b":") {
            key = json.get(start + 1..end - 1).unwrap_or_default();
        } else if !PROTOCOL.contains(&key)
            && let Ok(text) = serde_json::from_slice::<String>(&json[start..end])
            && let Some(text) = redact(&text, names)
        {
            redacted.extend_from_slice(&json[copied..start]);
            redacted.extend_from_slice(Value::from(text).to_string().as_bytes());
            copied = end;
        }
    }
    (copied > 0).then(|| {
        redacted.extend_from_slice(&json[copied..]);
        redacted
    })
}

/// The end of the string that begins at `start`, closing quote included; the text's end if that is
/// missing.
fn string_end(json: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while let Some(found) = json.get(at..).and_then(|rest| memchr::memchr2(b'"', b'\\', rest)) {
        at += found + 1;
        if json[at - 1] == b'"' {
            return at;
        }
        at += 1;
    }
    json.len()
}
