//! The usage in a whole response, or in one event, however long it is and wherever it stands.
//!
//! Most engines write `usage` last. llama.cpp's embeddings and every reranker have it before the
//! data; vLLM writes log probabilities, prompts and messages behind it, which may be megabytes.

use memchr::memmem::rfind_iter;
use serde_json::value::RawValue;

use crate::{
    api::usage::{Counts, Usage},
    codec::json::{Skim, is_rest_of_top_level},
};

/// The longest response whose usage is searched from its end on, in bytes. A longer one is skimmed.
const SEARCHED_MAX: usize = 64 * 1024;

const USAGE: &str = "usage";

/// Reads the usage of a whole response of any JSON endpoint as it passes, at the top level alone:
/// what a client sent and the engine repeats in it counts nothing. Of several the last counts.
/// Retains at most 16 KiB.
#[derive(Debug)]
pub struct ResponseUsage {
    skim: Skim,
    counts: Counts,
}

impl ResponseUsage {
    /// A reader before the first byte of a response.
    pub fn new() -> Self {
        Self { skim: Skim::new(USAGE, &[]), counts: Counts::default() }
    }

    /// A reader before the first byte of an event, which may have its usage one level deeper.
    pub(crate) fn of_event() -> Self {
        Self { skim: Skim::new(USAGE, &["response", "message"]), counts: Counts::default() }
    }

    /// Reads the next bytes of the response.
    pub fn feed(&mut self, piece: &[u8]) {
        let counts = &mut self.counts;
        self.skim.feed(piece, |usage| {
            if let Some(found) = counts_of(usage) {
                *counts = found;
            }
        });
    }

    /// The usage, once it was read to its end; None before, and without one.
    pub fn usage(&self) -> Option<Usage> {
        self.counts.usage()
    }

    /// The counts of the usage so far.
    pub(crate) fn counts(&self) -> &Counts {
        &self.counts
    }
}

impl Default for ResponseUsage {
    fn default() -> Self {
        Self::new()
    }
}

/// The counts of a `usage`; None where it counts nothing.
fn counts_of(usage: &[u8]) -> Option<Counts> {
    Counts::of(std::str::from_utf8(usage).ok()?).filter(|counts| counts.usage().is_some())
}

/// The usage of a whole response that is in memory.
pub(crate) fn usage_of_response(response: &[u8]) -> Option<Usage> {
    if response.len() <= SEARCHED_MAX {
        return usage_from_the_end(response);
    }
    let mut usage = ResponseUsage::new();
    usage.feed(response);
    usage.usage()
}

/// The same, without reading all of it. A quoted key cannot stand inside a string, where its quotes
/// would be escaped; but it can stand deeper than the top level, which its rest tells.
fn usage_from_the_end(response: &[u8]) -> Option<Usage> {
    rfind_iter(response, br#""usage""#).find_map(|at| {
        let value = response[at + USAGE.len() + 2..].trim_ascii_start().strip_prefix(b":")?;
        let mut values = serde_json::Deserializer::from_slice(value).into_iter::<&RawValue>();
        let usage = values.next()?.ok().filter(|usage| usage.get().starts_with('{'))?;
        let counts = counts_of(usage.get().as_bytes())?;
        counts.usage().filter(|_| is_rest_of_top_level(&value[values.byte_offset()..]))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    /// The usage, read in every way.
    fn read(response: &str) -> Option<Usage> {
        let found = usage_from_the_end(response.as_bytes());
        for size in 1..=response.len() {
            let mut pieces = ResponseUsage::new();
            response.as_bytes().chunks(size).for_each(|piece| pieces.feed(piece));
            assert_eq!(pieces.usage(), found, "{response} in pieces of {size}");
        }
        found
    }

    /// What `COUNTED` says.
    const THREE_AND_FOUR: Option<Usage> =
        Some(Usage { input: Some(3), output: Some(4), cached: None });

    const COUNTED: &str = r#""usage": {"prompt_tokens": 3, "completion_tokens": 4}"#;

    #[test]
    fn the_usage_is_found_wherever_it_stands_at_the_top_level() {
        for response in [
            format!("{{{COUNTED}}}"),
            format!("{{{COUNTED},\"data\":[1,2]}} \n"),
            format!("{{\"data\":[{{\"usage\":{{\"prompt_tokens\":9}}}}],{COUNTED}}}"),
            format!("{{{COUNTED},\"input_messages\":[{{\"usage\":{{\"prompt_tokens\":9}}}}]}}"),
            format!("{{\"tools\":{{\"usage\":{{\"prompt_tokens\":9}}}},{COUNTED},\"a\":{{}}}}"),
            format!("{{{COUNTED},\"x\":\"usage\",\"y\":{{\"prompt_tokens\":9}}}}"),
            format!(
                "{{{COUNTED},\"text\":\"say \\\"usage\\\":{{\\\"prompt_tokens\\\":9}}}}\\\\\"}}"
            ),
        ] {
            assert_eq!(read(&response), THREE_AND_FOUR, "{response}");
        }
    }

    #[test]
    fn what_is_deeper_or_no_usage_counts_nothing() {
        for response in [
            r#"{"choices":[]}"#,
            r#"{"usage":null}"#,
            r#"{"usage":[{"prompt_tokens":9}]}"#,
            r#"{"a":{"usage":{"prompt_tokens":9}}}"#,
            r#"{"response":{"usage":{"prompt_tokens":9}}}"#,
            r#"[{"usage":{"prompt_tokens":9}}]"#,
            r#"{"usage":{"type":"object","properties":{}}}"#,
            r#"{"usage":{"prompt_tokens":9"#,
            r#"{"a":["usage",{"prompt_tokens":9}]}"#,
        ] {
            assert_eq!(read(response), None, "{response}");
        }
    }

    #[test]
    fn an_explicit_zero_is_kept_and_unknown_is_none() {
        let zero = usage_of_response(br#"{"usage":{"prompt_tokens":0,"total_tokens":0}}"#).unwrap();
        assert_eq!((zero.input, zero.output, zero.cached), (Some(0), None, None));
        let total = usage_of_response(br#"{"usage":{"total_tokens":15}}"#).unwrap();
        assert_eq!((total.input, total.output), (Some(15), None));
        let none = br#"{"usage":{"completion_tokens":0,"total_tokens":15}}"#;
        assert_eq!(usage_of_response(none).unwrap().input, None);
    }

    #[test]
    fn megabytes_before_or_behind_the_usage_do_not_hide_it() {
        let numbers = "0.0123456,".repeat(200_000);
        let text = "\\\"usage\\\":{}\\\\".repeat(100_000);
        for response in [
            format!("{{\"data\":[{numbers}1],{COUNTED}}}"),
            format!("{{{COUNTED},\"data\":[{numbers}1]}}"),
            format!("{{\"data\":[{numbers}1],{COUNTED},\"prompt_logprobs\":[{numbers}1]}}"),
            format!("{{\"choices\":[{{\"text\":\"{text}\"}}],{COUNTED},\"prompt\":\"{text}\"}}"),
        ] {
            assert_eq!(usage_of_response(response.as_bytes()), THREE_AND_FOUR);
            let mut pieces = ResponseUsage::new();
            response.as_bytes().chunks(16 * 1024).for_each(|piece| pieces.feed(piece));
            assert_eq!(pieces.usage(), THREE_AND_FOUR);
        }
    }

    #[test]
    fn an_event_has_its_usage_at_its_top_level_or_in_its_response() {
        for (event, found) in [
            (format!("event: x\ndata: {{{COUNTED}}}\n\n"), THREE_AND_FOUR),
            (
                format!("data: {{\"a\":{{\"b\":1}},\"response\":{{\"a\":{{}},{COUNTED}}}}}"),
                THREE_AND_FOUR,
            ),
            (format!("data: {{\"message\":{{{COUNTED},\"a\":{{}}}}}}"), THREE_AND_FOUR),
            (format!("data: {{\"other\":{{{COUNTED}}}}}"), None),
            (format!("data: {{\"response\":{{\"tools\":{{{COUNTED}}}}}}}"), None),
        ] {
            for size in 1..=event.len() {
                let mut pieces = ResponseUsage::of_event();
                event.as_bytes().chunks(size).for_each(|piece| pieces.feed(piece));
                assert_eq!(pieces.usage(), found, "{event} in pieces of {size}");
            }
        }
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            (0..100_u64).prop_map(Value::from),
            r#"[{}\[\]":,\\ a]{0,6}"#.prop_map(Value::from),
            Just(json!("usage")),
            Just(Value::Null),
        ];
        let key = prop::sample::select(vec!["usage", "prompt_tokens", "a\"b", "response", "x"]);
        leaf.prop_recursive(4, 32, 4, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec((key.clone().prop_map(str::to_owned), inner), 0..4)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn a_parser_of_the_whole_agrees_in_pieces_of_any_size(
            response in value(), size in 1..40_usize, spaces in any::<bool>(),
        ) {
            let text = if spaces {
                serde_json::to_string_pretty(&response).unwrap()
            } else {
                response.to_string()
            };
            let expected = response["usage"]["prompt_tokens"].as_u64();
            let mut pieces = ResponseUsage::new();
            text.as_bytes().chunks(size).for_each(|piece| pieces.feed(piece));
            prop_assert_eq!(pieces.usage().and_then(|usage| usage.input), expected, "{}", text);
            let found = usage_from_the_end(text.as_bytes());
            prop_assert_eq!(found.and_then(|usage| usage.input), expected, "{}", text);
        }
    }
}
