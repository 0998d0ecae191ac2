//! Repairs of chat completions whose engines speak them natively.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use proptest::prelude::*;
use sans_io::api::{
    messages::HistoryIds,
    repair::{self, Repairs, UniqueIds},
    tool_ids,
};
use serde_json::{Value, json};

const ALL: Repairs = Repairs { tool_ids: true, system_first: true, result_order: true };
const SYSTEM_FIRST: Repairs = Repairs { tool_ids: false, system_first: true, result_order: false };
const RESULT_ORDER: Repairs = Repairs { tool_ids: false, system_first: false, result_order: true };
const TOOL_IDS: Repairs = Repairs { tool_ids: true, system_first: false, result_order: false };

/// The body as its engine gets it.
fn repaired(body: &str, repairs: Repairs) -> String {
    match repair::repaired(body.as_bytes(), repairs).messages {
        None => body.to_owned(),
        Some(edit) => {
            let (start, end) = (edit.range.start as usize, edit.range.end as usize);
            let text = std::str::from_utf8(&edit.text).unwrap();
            format!("{}{text}{}", &body[..start], &body[end..])
        }
    }
}

fn messages(messages: &Value, repairs: Repairs) -> Value {
    let body = json!({"model": "m", "messages": messages, "x": 1.50}).to_string();
    let repaired: Value = serde_json::from_str(&repaired(&body, repairs)).unwrap();
    assert_eq!((&repaired["model"], &repaired["x"]), (&json!("m"), &json!(1.5)));
    repaired["messages"].clone()
}

fn says(role: &str, content: impl Into<Value>) -> Value {
    json!({"role": role, "content": content.into()})
}

fn calls(ids: &[&str]) -> Value {
    let call = |id: &&str| json!({"id": id, "type": "function", "function": {"name": "f", "arguments": "{}"}});
    json!({"role": "assistant", "content": null, "tool_calls": ids.iter().map(call).collect::<Vec<_>>()})
}

fn result(id: &str) -> Value {
    json!({"role": "tool", "tool_call_id": id, "content": format!("of {id}")})
}

#[test]
fn what_needs_no_repair_passes_as_it_was_written() {
    for body in [
        r#"{"model":"m", "messages" : [ {"role":"system","content":"s"} , {"role":"user","content":"\ud800 \u0041"} ] }"#,
        r#"{"messages":[{"role":"user","content":[{"type":"text","text":"a"}],"name":1e400}]}"#,
        // What the engine must judge.
        r#"{"messages":[{"content":"no role"},{"role":"system","content":"x"}]}"#,
        r#"{"messages":[1,{"role":"system","content":"x"}]}"#,
        r#"{"messages":"x"}"#,
        r#"{"messages":null}"#,
        r#"{"prompt":"x"}"#,
        r#"{"messages":[],"messages":[{"role":"user","content":"a"},{"role":"system","content":"x"}]}"#,
        r#"{"messages":[{"role":"user","content":"a"},{"role":"system","content":"x"}],"x":NaN}"#,
        "[]",
        "",
    ] {
        assert_eq!(repair::repaired(body.as_bytes(), ALL).messages, None, "{body}");
    }
    let strange = json!([says("user", "a"), says("system", "b")]);
    assert_eq!(messages(&strange, Repairs::default()), strange);
    assert_eq!(repair::repaired(b"{\"messages\":[\"\xff\"]}", ALL).messages, None);
}

#[test]
fn later_words_of_the_system_become_the_users() {
    let part = |text: &str| json!({"type": "text", "text": text});
    for (sent, expected) in [
        (
            json!([says("system", "a"), says("developer", "b"), says("user", "c")]),
            json!([says("system", "a\n\nb"), says("user", "c")]),
        ),
        (
            json!([says("user", "a"), says("system", "b"), says("assistant", "c")]),
            json!([says("user", "a\n\nb"), says("assistant", "c")]),
        ),
        (
            json!([
                says("user", "a"),
                says("assistant", "b"),
                says("system", "c"),
                says("user", "d")
            ]),
            json!([says("user", "a"), says("assistant", "b"), says("user", "c\n\nd")]),
        ),
        (
            json!([says("user", "a"), says("assistant", "b"), says("developer", "c")]),
            json!([says("user", "a"), says("assistant", "b"), says("user", "c")]),
        ),
        (
            json!([says("assistant", "a"), says("system", "b"), says("assistant", "c")]),
            json!([says("assistant", "a"), says("user", "b"), says("assistant", "c")]),
        ),
        (
            json!([
                says("user", json!([part("a")])),
                says("system", "b"),
                says("system", json!([part("c")]))
            ]),
            json!([says("user", json!([part("a"), part("b"), part("c")]))]),
        ),
        (
            json!([says("user", ""), says("system", "b"), says("system", "")]),
            json!([says("user", "b")]),
        ),
        (
            json!([calls(&["x"]), says("system", "between"), result("x"), says("user", "u")]),
            json!([calls(&["x"]), result("x"), says("user", "between\n\nu")]),
        ),
        (
            json!([calls(&["x"]), says("system", "a"), result("x"), says("system", "b")]),
            json!([calls(&["x"]), result("x"), says("user", "a\n\nb")]),
        ),
    ] {
        assert_eq!(messages(&sent, SYSTEM_FIRST), expected, "{sent}");
    }
    let named = json!([{"role": "user", "content": "a", "name": "n"}, says("system", "b")]);
    let expected = json!([{"role": "user", "content": "a\n\nb", "name": "n"}]);
    assert_eq!(messages(&named, SYSTEM_FIRST), expected, "its other members stay");
}

#[test]
fn results_stand_in_the_order_of_their_calls() {
    let sent = json!([
        calls(&["a", "b", "c"]),
        result("c"),
        result("?"),
        result("a"),
        result("b"),
        calls(&["b", "a"]),
        result("a"),
        result("b"),
        says("user", "u"),
        result("b"),
    ]);
    let expected = json!([
        calls(&["a", "b", "c"]),
        result("a"),
        result("b"),
        result("c"),
        result("?"),
        calls(&["b", "a"]),
        result("b"),
        result("a"),
        says("user", "u"),
        result("b"),
    ]);
    assert_eq!(messages(&sent, RESULT_ORDER), expected);
}

#[test]
fn an_id_that_was_made_here_becomes_the_engines_own_again() {
    let made = tool_ids::encode("look:0", "msg_1", 0);
    let sent = json!([calls(&[&made, "own"]), result(&made), result("own")]);
    let mut expected = json!([calls(&["look:0", "own"]), result("look:0"), result("own")]);
    for at in 1..3 {
        expected[at]["content"] = sent[at]["content"].clone();
    }
    assert_eq!(messages(&sent, TOOL_IDS), expected);
}

/// A conversation of users, assistants with calls and their results, in which words of the system
/// stand anywhere and results in any order.
fn conversations() -> impl Strategy<Value = Vec<Value>> {
    let turn = (0_usize..4, any::<bool>(), any::<u64>());
    prop::collection::vec(turn, 0..8).prop_map(|turns| {
        let mut made = Vec::new();
        let mut number = 0;
        let mut next = || {
            number += 1;
            format!("t{number}")
        };
        for (count, listed, seed) in turns {
            let text = next();
            let content =
                if listed { json!([{"type": "text", "text": text}]) } else { json!(text) };
            made.push(says("user", content));
            let ids: Vec<_> = (0..count).map(|_| next()).collect();
            let ids: Vec<_> = ids.iter().map(String::as_str).collect();
            made.push(if ids.is_empty() { says("assistant", next()) } else { calls(&ids) });
            let mut results: Vec<_> = ids.iter().map(|id| result(id)).collect();
            results.rotate_left(if count == 0 { 0 } else { seed as usize % count });
            made.extend(results);
            if count > 0 {
                made.push(says("assistant", next()));
            }
        }
        made
    })
}

fn with_system(mut conversation: Vec<Value>, places: &[prop::sample::Index]) -> Vec<Value> {
    for (number, place) in places.iter().enumerate() {
        let at = place.index(conversation.len() + 1);
        conversation.insert(at, says("system", format!("s{number}.")));
    }
    conversation
}

/// What a template that takes nothing out of order would say against it.
fn refused(messages: &[Value]) -> Option<String> {
    let mut expected_results: Vec<Value> = Vec::new();
    let mut before = "";
    for (at, message) in messages.iter().enumerate() {
        let role = message["role"].as_str().unwrap();
        if role == "tool" {
            if expected_results.is_empty() || expected_results.remove(0) != message["tool_call_id"]
            {
                return Some(format!("the result at {at} answers no call, or not the next one"));
            }
        } else if !expected_results.is_empty() {
            return Some(format!("a result is missing before {at}"));
        } else if role == "system" && at > 0 {
            return Some(format!("a system message at {at}"));
        } else if role == "user" && before == "user" {
            return Some(format!("two turns of the user at {at}"));
        }
        if let Some(calls) = message["tool_calls"].as_array() {
            expected_results = calls.iter().map(|call| call["id"].clone()).collect();
        }
        before = role;
    }
    None
}

fn words(messages: &[Value]) -> Vec<String> {
    let text = Value::from(messages.to_vec()).to_string().replace("\\n", " ");
    let mut words: Vec<String> = text
        .split(|c: char| !c.is_ascii_alphanumeric())
        .filter(|word| word.len() > 1 && word[1..].bytes().all(|b| b.is_ascii_digit()))
        .map(str::to_owned)
        .collect();
    words.sort();
    words
}

proptest! {
    #[test]
    fn what_is_repaired_is_taken_by_a_strict_template_and_loses_no_word(
        conversation in conversations(),
        places in prop::collection::vec(any::<prop::sample::Index>(), 0..5),
    ) {
        let sent = with_system(conversation, &places);
        let made = messages(&Value::from(sent.clone()), ALL);
        let made = made.as_array().unwrap();
        prop_assert_eq!(refused(made), None, "{:?}", made);
        prop_assert_eq!(words(made), words(&sent));
        let again = messages(&Value::from(made.clone()), ALL);
        prop_assert_eq!(again.as_array().unwrap(), made, "a repair changes nothing more");
    }

    #[test]
    fn a_longer_conversation_begins_as_the_shorter_one_did(
        conversation in conversations(),
        places in prop::collection::vec(any::<prop::sample::Index>(), 0..5),
        cut in any::<prop::sample::Index>(),
    ) {
        // Prefix caches live by it: all but the last turn, which may go on, stays as it was.
        let sent = with_system(conversation, &places);
        let made = |sent: &[Value]| messages(&Value::from(sent.to_vec()), SYSTEM_FIRST);
        let (shorter, longer) = (made(&sent[..cut.index(sent.len() + 1)]), made(&sent));
        let (shorter, longer) = (shorter.as_array().unwrap(), longer.as_array().unwrap());
        let kept = shorter.len().saturating_sub(1);
        prop_assert_eq!(&shorter[..kept], &longer[..kept]);
    }
}

/// The ids that a client sees of an engine's stream, which comes in pieces of whole frames.
fn streamed(ids: &mut UniqueIds, frames: &[Value], together: usize) -> Vec<Value> {
    let frames: Vec<String> = frames.iter().map(|frame| format!("data: {frame}\n\n")).collect();
    let mut seen = Vec::new();
    for piece in frames.chunks(together) {
        let piece = piece.concat();
        let made = ids.in_frames(piece.as_bytes()).unwrap_or_else(|| piece.clone().into());
        let text = String::from_utf8(made).unwrap();
        seen.extend(
            text.split("\n\n")
                .filter_map(|frame| frame.strip_prefix("data: "))
                .map(|data| serde_json::from_str::<Value>(data).unwrap()),
        );
    }
    seen
}

fn fragment(choice: u64, index: u64, id: &Value, arguments: &str) -> Value {
    json!({"id": "chatcmpl-1", "choices": [{"index": choice, "delta": {"tool_calls": [
        {"index": index, "id": id, "function": {"arguments": arguments}}]}, "finish_reason": null}]})
}

fn id_of(frame: &Value) -> &str {
    frame["choices"][0]["delta"]["tool_calls"][0]["id"].as_str().unwrap()
}

#[test]
fn a_calls_id_is_the_same_in_all_its_fragments_and_no_other_calls() {
    let frames = [
        json!({"choices": [{"index": 0, "delta": {"content": "\"tool_calls\""}}]}),
        fragment(0, 0, &json!("call_0"), ""),
        fragment(0, 0, &json!(null), "{"),
        fragment(0, 0, &json!("call_0"), "}"),
        fragment(0, 1, &json!("call_0"), "{}"),
        fragment(1, 0, &json!("call_0"), "{}"),
        fragment(0, 2, &json!("call_7f3a9c2d1e004512"), "{}"),
        json!({"choices": [], "usage": {"prompt_tokens": 1}}),
    ];
    for together in 1..=frames.len() {
        let mut ids = UniqueIds::new("msg_1", HistoryIds::default());
        let seen = streamed(&mut ids, &frames, together);
        let made: Vec<_> = [1, 3, 4, 5].map(|at| id_of(&seen[at]).to_owned()).into();
        assert_eq!(made[0], made[1]);
        assert!(made[1] != made[2] && made[2] != made[3] && made[1] != made[3]);
        assert!(made.iter().all(|id| tool_ids::decode(id).as_deref() == Some("call_0")));
        for unchanged in [0, 2, 6, 7] {
            assert_eq!(seen[unchanged], frames[unchanged]);
        }
    }
}

#[test]
fn an_id_of_the_conversation_is_not_given_again() {
    let body = json!({"messages": [says("user", "u"), calls(&["x"]), result("x")]}).to_string();
    let history = || repair::repaired(body.as_bytes(), TOOL_IDS).history;
    let mut ids = UniqueIds::new("msg_1", history());
    let seen = streamed(&mut ids, &[fragment(0, 0, &json!("x"), "{}")], 1);
    assert_eq!(tool_ids::decode(id_of(&seen[0])).as_deref(), Some("x"));
    let whole = json!({"choices": [{"index": 0, "message": {"role": "assistant", "tool_calls": [
        {"id": "x", "type": "function"}, {"id": "y", "type": "function"}, {"id": "y", "type": "function"}]}}]});
    let text = serde_json::to_string_pretty(&whole).unwrap();
    let made = UniqueIds::new("msg_1", history()).in_document(text.as_bytes()).unwrap();
    let made: Value = serde_json::from_slice(&made).unwrap();
    let ids = |at: usize| made["choices"][0]["message"]["tool_calls"][at]["id"].as_str().unwrap();
    assert_eq!((tool_ids::decode(ids(0)).as_deref(), ids(1)), (Some("x"), "y"));
    assert_eq!(tool_ids::decode(ids(2)).as_deref(), Some("y"), "the second call of that id");
}

#[test]
fn two_turns_get_two_ids_though_their_client_names_them_the_same() {
    let turn = |history| {
        let mut ids = UniqueIds::new("msg_1", history);
        let seen = streamed(&mut ids, &[fragment(0, 0, &json!("call_0"), "{}")], 1);
        id_of(&seen[0]).to_owned()
    };
    let first = turn(HistoryIds::default());
    let body = json!({"messages": [says("user", "u"), calls(&[&first]), result(&first)]});
    let second = turn(repair::repaired(body.to_string().as_bytes(), TOOL_IDS).history);
    assert_ne!(first, second);
    assert_eq!(tool_ids::decode(&second).as_deref(), Some("call_0"));
}

#[test]
fn what_has_no_id_of_a_call_passes_as_it_is() {
    for text in [
        "data: {\"choices\":[{\"delta\":{\"content\":\"x\"}}]}\n\n",
        "data: {\"tool_calls\":[{\"id\":\"call_0\"}]}\n\n",
        "data: {\"choices\":[{\"delta\":{\"tool_calls\":[{\"id\":7},{\"id\":null},{},1]}}]}\n\n",
        "data: {\"choices\":[{\"delta\":{\"tool_calls\":[{\"id\":\"call_0\"\n\n",
        "data: {\"choices\":[[0,{\"tool_calls\":[{\"id\":\"call_0\"}]}]]}\n\n",
        ": \"tool_calls\"\n\n",
        "data: [DONE]\n\n",
    ] {
        let mut ids = UniqueIds::new("msg_1", HistoryIds::default());
        assert_eq!(ids.in_frames(text.as_bytes()), None, "{text}");
    }
}

proptest! {
    #[test]
    fn a_stream_and_a_whole_response_get_the_same_ids(
        given in prop::collection::vec(prop::sample::select(vec!["", "a", "b", "call_0", "call_1", "ä"]), 0..6),
        together in 1_usize..7,
    ) {
        let frames: Vec<_> = given.iter().enumerate().map(|(at, id)| fragment(0, at as u64, &json!(id), "{}")).collect();
        let mut ids = UniqueIds::new("msg_1", HistoryIds::default());
        let seen = streamed(&mut ids, &frames, together);
        let seen: Vec<_> = seen.iter().map(id_of).collect();
        let calls: Vec<_> = given.iter().map(|id| json!({"id": id})).collect();
        let whole = json!({"choices": [{"message": {"tool_calls": calls}}]}).to_string();
        let mut ids = UniqueIds::new("msg_1", HistoryIds::default());
        let made = ids.in_document(whole.as_bytes()).unwrap_or_else(|| whole.clone().into());
        let made: Value = serde_json::from_slice(&made).unwrap();
        for (at, id) in seen.iter().enumerate() {
            prop_assert_eq!(&made["choices"][0]["message"]["tool_calls"][at]["id"], id);
            prop_assert_eq!(seen.iter().filter(|other| *other == id).count(), 1);
            let own = tool_ids::decode(id);
            prop_assert!(own.as_deref() == Some(given[at]) || *id == given[at] || given[at].is_empty());
        }
    }
}
