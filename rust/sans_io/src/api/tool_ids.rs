//! Ids of tool calls that are unique in their conversation, whatever the engine sends.
//!
//! Anthropic's ids are, and programs rely on it: Claude Code drops a second call of the same id and
//! its result from the conversation, so that the model asks for the same again, without an end.
//! Engines exist that number their calls anew in each answer (`call_0`, `look:0`), or that use one
//! id always. Such an id is replaced by one that is made here, and since no state is kept for it,
//! the made one carries the engine's own, which it becomes again on the way back.
//!
//! A made id is `toolu_gf`, a letter for its kind, 16 hexadecimal digits of its message, `_`, the
//! call's position in the message, `_`, and the engine's id: as it is (`s`) where Anthropic's pattern
//! `^[a-zA-Z0-9_-]+$` allows, else in hexadecimal digits (`h`); none (`n`) where there is none.

use std::fmt::Write as _;

/// The begin of an id that was made here.
const MADE: &str = "toolu_gf";
/// The hexadecimal digits that tell its message.
const MESSAGE_DIGITS: usize = 16;
/// The longest id of an engine's that a made one carries, in bytes. A longer one is not given back.
const CARRIED_MAX: usize = 256;
/// The longest number that a counter of calls may have reached, in digits.
const COUNTER_DIGITS: usize = 5;
/// From this length on letters and digits in a row are not a word of an id, but made by chance.
const RANDOM_RUN: usize = 8;

/// The client's id for a call: the engine's where that can be told to be the only one of its kind,
/// else a made one. `engine_id`: None or empty where the engine gave none. `message_id` and
/// `position`: the answer's own id, and the call's number in it. `is_known`: whether the conversation
/// so far has an id, or a call before this one in the answer.
pub fn public_id(
    engine_id: Option<&str>,
    message_id: &str,
    position: usize,
    is_known: impl FnOnce(&str) -> bool,
) -> String {
    match engine_id {
        Some(id) if fits(id) && !is_counted(id) && !is_known(id) => id.to_owned(),
        other => encode(other.unwrap_or_default(), message_id, position),
    }
}

/// The made id for an engine's.
pub fn encode(engine_id: &str, message_id: &str, position: usize) -> String {
    let kind = match engine_id.len() {
        1..=CARRIED_MAX if fits(engine_id) => 's',
        1..=CARRIED_MAX => 'h',
        _ => 'n',
    };
    let message = hash(message_id.as_bytes());
    let mut made = format!("{MADE}{kind}{message:0MESSAGE_DIGITS$x}_{position}_");
    match kind {
        's' => made.push_str(engine_id),
        'h' => engine_id.bytes().for_each(|byte| {
            // Writing into memory does not fail.
            let _ = write!(made, "{byte:02x}");
        }),
        _ => {}
    }
    made
}

/// The engine's own id in one that was made here; None: it was not, or there is none.
pub fn decode(public_id: &str) -> Option<String> {
    let rest = public_id.strip_prefix(MADE)?;
    let kind = rest.chars().next()?;
    let (message, rest) = rest.get(kind.len_utf8()..)?.split_once('_')?;
    let (position, carried) = rest.split_once('_')?;
    let is_made = message.len() == MESSAGE_DIGITS
        && message.bytes().all(is_hex_digit)
        && !position.is_empty()
        && position.bytes().all(|byte| byte.is_ascii_digit())
        && !carried.is_empty();
    match kind {
        's' if is_made && carried.len() <= CARRIED_MAX && fits(carried) => Some(carried.to_owned()),
        'h' if is_made && carried.len() <= 2 * CARRIED_MAX => from_hex(carried),
        _ => None,
    }
}

/// Whether Anthropic's pattern allows it.
fn fits(id: &str) -> bool {
    !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
}

/// Whether a counter may have made it: it ends in a small number, and nothing before that was made
/// by chance.
fn is_counted(id: &str) -> bool {
    let before = id.trim_end_matches(|last: char| last.is_ascii_digit());
    let digits = id.len() - before.len();
    let is_random =
        |run: &str| run.len() >= RANDOM_RUN && run.bytes().any(|byte| byte.is_ascii_digit());
    (1..=COUNTER_DIGITS).contains(&digits)
        && !before.split(|c: char| !c.is_ascii_alphanumeric()).any(is_random)
        // The number may be the end of what was made by chance.
        && !id.rsplit(|c: char| !c.is_ascii_alphanumeric()).take(1).any(is_random)
}

fn is_hex_digit(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

fn from_hex(digits: &str) -> Option<String> {
    if !digits.len().is_multiple_of(2) || !digits.bytes().all(is_hex_digit) {
        return None;
    }
    let byte = |at| u8::from_str_radix(digits.get(at..at + 2)?, 16).ok();
    let bytes: Vec<u8> = (0..digits.len()).step_by(2).map(byte).collect::<Option<_>>()?;
    String::from_utf8(bytes).ok()
}

/// FNV-1a: the same in every process, since a conversation may go on at another router.
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_id_stays_where_it_can_be_the_only_one() {
        for id in [
            "a",
            "call_abc",
            "chatcmpl-tool-0a1b2c3d4e5f60718293a4b5c6d7e8f9",
            "call_7f3a9c2d1e004512",
            "toolu_01A09q90qw90lq917835lq9",
            "call_12345678",
            "Zt9xKq0Pw",
            "chatcmpl-tool-0a1b2c3d4e5f6071_0",
        ] {
            assert_eq!(public_id(Some(id), "msg_1", 0, |_| false), id);
        }
    }

    #[test]
    fn an_id_that_comes_again_is_replaced() {
        let known = |id: &str| id == "a";
        for id in [
            None,
            Some(""),
            Some("a"),
            Some("0"),
            Some("call_0"),
            Some("call_12"),
            Some("look:0"),
            Some("functions.look:3"),
            Some("functions.search2:3"),
            Some("call-look-1"),
            Some("tool 1"),
            Some("ä"),
        ] {
            let one = public_id(id, "msg_1", 0, known);
            assert!(fits(&one) && one.starts_with("toolu_"), "{one}");
            assert_ne!(one, public_id(id, "msg_2", 0, known), "another answer");
            assert_ne!(one, public_id(id, "msg_1", 1, known), "another call");
            assert_eq!(decode(&one).as_deref(), id.filter(|id| !id.is_empty()));
        }
    }

    #[test]
    fn what_was_not_made_here_is_not_decoded() {
        for id in [
            "",
            "toolu_01A09q90qw90lq917835lq9",
            "toolu_gf",
            "toolu_gfs",
            "toolu_gfä0123456789abcdef_0_a",
            "toolu_gfs0123456789abcdef_0_",
            "toolu_gfs0123456789abcdef__a",
            "toolu_gfs0123456789abcdef_x_a",
            "toolu_gfs0123456789abcde_0_a",
            "toolu_gfs0123456789abcdeG_0_a",
            "toolu_gfs0123456789abcdef_0_a b",
            "toolu_gfh0123456789abcdef_0_0",
            "toolu_gfh0123456789abcdef_0_zz",
            "toolu_gfh0123456789abcdef_0_ff",
            "toolu_gfn0123456789abcdef_0_",
            "toolu_gfx0123456789abcdef_0_a",
        ] {
            assert_eq!(decode(id), None, "{id}");
        }
        let long = "x".repeat(CARRIED_MAX + 1);
        assert_eq!(decode(&encode(&long, "msg_1", 0)), None);
    }

    proptest! {
        #[test]
        fn a_made_id_carries_the_engines_own(
            id in "\\PC{1,64}",
            message in "msg_[0-9a-f]{32}",
            position in 0_usize..2000,
        ) {
            let made = encode(&id, &message, position);
            prop_assert!(fits(&made));
            prop_assert_eq!(decode(&made), Some(id));
        }

        #[test]
        fn what_a_stranger_sends_as_an_id_does_no_harm(id in "(toolu_gf[shnx]?)?[0-9a-f]{0,17}_?[0-9]{0,3}_?\\PC*") {
            if let Some(own) = decode(&id) {
                prop_assert!(!own.is_empty() && own.len() <= CARRIED_MAX);
            }
        }
    }
}
