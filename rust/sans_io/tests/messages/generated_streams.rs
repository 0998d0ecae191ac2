//! Streams that are cut out of generated responses: any split, any interleaving, and the same
//! message as the response gives in one piece.

use proptest::prelude::*;
use sans_io::api::messages::response;
use serde_json::{Value, json};

use crate::agreement::{End, accumulate, check, origin, translated};

/// A chat completion, and the numbers from which its chunks are cut.
#[derive(Clone, Debug)]
struct Completion {
    reasoning: String,
    content: String,
    calls: Vec<Call>,
    finish_reason: &'static str,
    usage: Option<(u32, u32, Option<u32>)>,
    /// Where texts are cut, and whose turn it is.
    dice: Vec<u8>,
}

#[derive(Clone, Debug)]
struct Call {
    id: Option<String>,
    name: String,
    arguments: String,
}

fn call() -> impl Strategy<Value = Call> {
    let value = prop_oneof![
        "[a-zé \"\\\\\n\u{1F600}]{0,8}".prop_map(|text| json!(text).to_string()),
        Just("1.50".into()),
        Just("[{},null,-2e3]".into())
    ];
    let members = prop::collection::vec(("[a-z]{1,4}", value), 0..4).prop_map(|members| {
        let members =
            members.iter().enumerate().map(|(at, (key, value))| format!("\"{key}{at}\": {value}"));
        format!("{{{}}}", members.collect::<Vec<_>>().join(", "))
    });
    let arguments = prop_oneof![9 => members, 1 => Just(String::new())];
    (prop::option::of("call_[a-z]{3}"), "[a-z_]{1,9}", arguments)
        .prop_map(|(id, name, arguments)| Call { id, name, arguments })
}

prop_compose! {
    fn any_completion()(
        reasoning in "[a-zé\"\\\\\n ]{0,20}",
        content in "[a-zé\"\\\\\n\u{1F600} ]{0,30}",
        calls in prop::collection::vec(call(), 0..4),
        finish_reason in prop::sample::select(vec!["stop", "length", "tool_calls", "content_filter", "odd"]),
        usage in prop::option::of((0u32..99, 0u32..99, prop::option::of(0u32..99))),
        dice in prop::collection::vec(any::<u8>(), 40),
    ) -> Completion {
        Completion { reasoning, content, calls, finish_reason, usage, dice }
    }
}

impl Completion {
    fn usage(&self) -> Value {
        self.usage.map_or(Value::Null, |(prompt, completion, cached)| {
            json!({"prompt_tokens": prompt, "completion_tokens": completion, "prompt_tokens_details": {"cached_tokens": cached}})
        })
    }

    /// The response in one piece.
    fn whole(&self) -> String {
        let calls: Vec<Value> = self.calls.iter().map(|call| {
            json!({"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}})
        }).collect();
        let message = json!({"content": self.content, "reasoning_content": self.reasoning, "tool_calls": calls});
        json!({"id": "chatcmpl-1", "choices": [{"index": 0, "message": message, "finish_reason": self.finish_reason}],
            "usage": self.usage()})
        .to_string()
    }

    /// The response in chunks. The calls' fragments are interleaved, unless only one call is
    /// written at a time.
    fn chunks(&self, interleaved: bool) -> Vec<Value> {
        let mut dice = self.dice.iter().copied().cycle();
        let mut roll = move |sides: usize| dice.next().unwrap() as usize % sides.max(1);
        let mut chunks = vec![delta(json!({"role": "assistant", "content": ""}))];
        for (field, text) in [("reasoning_content", &self.reasoning), ("content", &self.content)] {
            chunks.extend(
                pieces(text, &mut roll).into_iter().map(|piece| delta(json!({field: piece}))),
            );
        }
        let mut fragments: Vec<Vec<Value>> = Vec::new();
        for (index, call) in self.calls.iter().enumerate() {
            let first = json!({"index": index, "id": call.id, "type": "function", "function": {"name": call.name, "arguments": ""}});
            let rest = pieces(&call.arguments, &mut roll);
            let rest = rest
                .into_iter()
                .map(|piece| json!({"index": index, "function": {"arguments": piece}}));
            fragments.push(std::iter::once(first).chain(rest).rev().collect());
        }
        let mut begun = 0;
        loop {
            let mut unfinished: Vec<usize> =
                (0..begun).filter(|&call| !fragments[call].is_empty()).collect();
            if begun < fragments.len() && (unfinished.is_empty() || interleaved && roll(3) == 0) {
                unfinished = vec![begun];
                begun += 1;
            }
            if unfinished.is_empty() {
                break;
            }
            let fragment = fragments[unfinished[roll(unfinished.len())]].pop();
            chunks.push(delta(json!({"tool_calls": [fragment]})));
        }
        chunks.push(
            json!({"choices": [{"index": 0, "delta": {}, "finish_reason": self.finish_reason}]}),
        );
        chunks.push(json!({"choices": [], "usage": self.usage()}));
        chunks
    }
}

fn delta(delta: Value) -> Value {
    json!({"choices": [{"index": 0, "delta": delta, "finish_reason": null}]})
}

/// The text in pieces of one to six characters.
fn pieces(text: &str, roll: &mut impl FnMut(usize) -> usize) -> Vec<String> {
    let mut left: Vec<char> = text.chars().collect();
    let mut pieces = Vec::new();
    while !left.is_empty() {
        pieces.push(left.drain(..(1 + roll(6)).min(left.len())).collect());
    }
    pieces
}

fn stream(chunks: &[Value], end: &str) -> String {
    let frames = chunks.iter().map(|chunk| format!("data: {chunk}{end}{end}"));
    frames.chain([format!("data: [DONE]{end}{end}")]).collect::<Vec<_>>().concat()
}

/// The blocks of a Message, with made ids left out: they count calls, and the order may differ.
fn blocks(content: &[Value]) -> Vec<Value> {
    let mut content = content.to_vec();
    for block in &mut content {
        if block["id"].as_str().is_some_and(|id| id.starts_with("toolu_")) {
            block["id"] = json!("made");
        }
    }
    content
}

/// How an engine tells its calls apart.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Numbering {
    Index,
    /// Index 0 for all, and an id for each.
    Ids,
    /// Index 0 for all, and no ids.
    Nothing,
    /// Index 0 for all, and one id for all.
    OneId,
    /// No index, and an id in each fragment.
    IdsAlone,
    /// All in one list, without indexes.
    Place,
}

/// How an engine writes a call's arguments.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Writing {
    Deltas,
    /// With each fragment all that came before it.
    Snapshots,
    /// A JSON string that holds the object's text.
    EncodedTwice,
    /// The object in place of its text.
    Object,
    /// In one piece, and once more at the end.
    Repeated,
}

/// What engines repeat in each of a call's fragments.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Repeating {
    Nothing,
    Name,
    NameAndId,
}

/// A set of calls, and how an engine writes them.
#[derive(Clone, Debug)]
struct CallSet {
    /// A name, and an object's text that no other call has.
    calls: Vec<(String, String)>,
    numbering: Numbering,
    writing: Writing,
    repeating: Repeating,
    dice: Vec<u8>,
}

prop_compose! {
    fn any_calls()(
        mut calls in prop::collection::vec(("look|find", call()), 1..4),
        numbering in prop::sample::select(vec![
            Numbering::Index, Numbering::Ids, Numbering::Nothing, Numbering::OneId, Numbering::IdsAlone, Numbering::Place,
        ]),
        writing in prop::sample::select(vec![
            Writing::Deltas, Writing::Snapshots, Writing::EncodedTwice, Writing::Object, Writing::Repeated,
        ]),
        repeating in prop::sample::select(vec![Repeating::Nothing, Repeating::Name, Repeating::NameAndId]),
        dice in prop::collection::vec(any::<u8>(), 40),
    ) -> CallSet {
        let calls = calls.drain(..).enumerate().map(|(at, (name, call))| {
            let members = call.arguments.trim_start_matches('{').trim_end_matches('}').to_owned();
            let comma = if members.is_empty() { "" } else { ", " };
            (name, format!("{{\"at\": {at}{comma}{members}}}"))
        });
        CallSet { calls: calls.collect(), numbering, writing, repeating, dice }
    }
}

impl CallSet {
    fn id(&self, at: usize) -> Value {
        match self.numbering {
            Numbering::Ids | Numbering::IdsAlone => {
                json!(format!("call_{}", ["xyz", "abc", "uvw"][at]))
            }
            Numbering::OneId => json!("call_same"),
            Numbering::Index | Numbering::Nothing | Numbering::Place => Value::Null,
        }
    }

    /// The message with all calls in one piece.
    fn whole(&self) -> Value {
        let calls: Vec<Value> = self.calls.iter().enumerate().map(|(at, (name, arguments))| {
            let arguments = self.pieces(arguments).pop().unwrap();
            json!({"id": self.id(at), "index": 0, "function": {"name": name, "arguments": arguments}})
        }).collect();
        json!({"choices": [{"index": 0, "message": {"tool_calls": calls}, "finish_reason": "tool_calls"}]})
    }

    /// The values of `arguments` in a call's fragments.
    fn pieces(&self, arguments: &str) -> Vec<Value> {
        match self.writing {
            Writing::Object => vec![serde_json::from_str(arguments).unwrap()],
            Writing::EncodedTwice => vec![json!(json!(arguments).to_string())],
            _ => vec![json!(arguments)],
        }
    }

    fn fragments(&self, arguments: &str, roll: &mut impl FnMut(usize) -> usize) -> Vec<Value> {
        let whole = self.pieces(arguments).pop().unwrap();
        let cut = whole.as_str().map(|text| pieces(text, roll)).unwrap_or_default();
        match self.writing {
            Writing::Deltas | Writing::EncodedTwice => cut.into_iter().map(Value::from).collect(),
            Writing::Snapshots => {
                let ends = 1..=cut.len();
                ends.map(|end| json!(cut[..end].concat())).collect()
            }
            Writing::Object => vec![whole],
            Writing::Repeated => vec![whole.clone(), whole],
        }
    }

    fn chunks(&self) -> Vec<Value> {
        let mut dice = self.dice.iter().copied().cycle();
        let mut roll = move |sides: usize| dice.next().unwrap() as usize % sides.max(1);
        if self.numbering == Numbering::Place {
            let calls = self.calls.iter().map(|(name, arguments)| {
                json!({"function": {"name": name, "arguments": self.pieces(arguments).pop()}})
            });
            return vec![delta(json!({"tool_calls": calls.collect::<Vec<_>>()}))];
        }
        let mut chunks = Vec::new();
        for (at, (name, arguments)) in self.calls.iter().enumerate() {
            for (number, piece) in self.fragments(arguments, &mut roll).into_iter().enumerate() {
                let mut call = json!({"function": {"arguments": piece}});
                if number == 0 || self.repeating != Repeating::Nothing {
                    call["function"]["name"] = json!(name);
                }
                let has_id =
                    self.repeating == Repeating::NameAndId || self.numbering == Numbering::IdsAlone;
                if number == 0 || has_id {
                    call["id"] = self.id(at);
                }
                match self.numbering {
                    Numbering::Index => call["index"] = json!(at),
                    Numbering::IdsAlone | Numbering::Place => {}
                    Numbering::Ids | Numbering::Nothing | Numbering::OneId => {
                        call["index"] = json!(0);
                    }
                }
                chunks.push(delta(json!({"tool_calls": [call]})));
            }
        }
        chunks
    }
}

proptest! {
    #[test]
    fn calls_are_the_same_in_each_style_and_in_one_piece(calls in any_calls()) {
        let whole = calls.whole().to_string();
        let expected: Value = serde_json::from_slice(&response(whole.as_bytes(), &origin()).unwrap()).unwrap();
        let finish = json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]});
        let stream = stream(&[&calls.chunks()[..], &[finish]].concat(), "\n");
        check(whole.as_bytes());
        check(stream.as_bytes());
        let message = accumulate(&translated(&[stream.as_bytes()]).0);
        prop_assert_eq!(&message.content, expected["content"].as_array().unwrap(), "{}", stream);
        prop_assert_eq!(message.content.len(), calls.calls.len());
        for (block, (name, arguments)) in message.content.iter().zip(&calls.calls) {
            let arguments: Value = serde_json::from_str(arguments).unwrap();
            prop_assert_eq!((&block["name"], &block["input"]), (&json!(name), &arguments));
        }
        prop_assert_eq!(&message.stop_reason, "tool_use");
    }

    #[test]
    fn a_stream_adds_up_to_what_the_response_in_one_piece_says(completion in any_completion(), interleaved in any::<bool>()) {
        let expected: Value = serde_json::from_slice(&response(completion.whole().as_bytes(), &origin()).unwrap()).unwrap();
        let stream = stream(&completion.chunks(interleaved), "\n");
        check(stream.as_bytes());
        let message = accumulate(&translated(&[stream.as_bytes()]).0);
        prop_assert_eq!(message.end, End::Stopped);
        prop_assert_eq!(blocks(&message.content), blocks(expected["content"].as_array().unwrap()));
        prop_assert_eq!(&message.stop_reason, &expected["stop_reason"]);
        prop_assert_eq!(&message.usage, &expected["usage"]);
        prop_assert_eq!(&message.start["model"], &expected["model"]);
    }

    #[test]
    fn the_events_do_not_depend_on_how_many_frames_come_at_once(
        completion in any_completion(),
        end in prop::sample::select(vec!["\n", "\r\n", "\r"]),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let stream = stream(&completion.chunks(true), end);
        let frames: Vec<&[u8]> = sans_io::codec::sse::frames(stream.as_bytes()).collect();
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(frames.len() + 1)).collect();
        cuts.extend([0, frames.len()]);
        cuts.sort_unstable();
        let feeds: Vec<Vec<u8>> = cuts.windows(2).map(|cut| frames[cut[0]..cut[1]].concat()).collect();
        let feeds: Vec<&[u8]> = feeds.iter().map(Vec::as_slice).collect();
        prop_assert_eq!(translated(&feeds), translated(&[stream.as_bytes()]));
    }

    #[test]
    fn a_stream_that_is_cut_anywhere_is_a_good_stream_so_far(completion in any_completion(), cut in any::<prop::sample::Index>()) {
        let stream = stream(&completion.chunks(true), "\n");
        check(&stream.as_bytes()[..cut.index(stream.len() + 1)]);
    }
}
