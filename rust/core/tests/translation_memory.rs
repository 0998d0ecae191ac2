//! What translations take, counted in the heap of this thread, and what was reckoned for them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on says where"
)]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

use bytes::Bytes;
use proptest::prelude::*;
use sans_io::{
    api::{
        cost,
        endpoints::Operation,
        messages,
        rerank::{self, Engine},
    },
    seam::{ReasoningNames, SystemMessages},
    test_support::{Rewriting, Translating},
};

/// The system's allocator, whose bytes are counted for each thread. Growing is counted as a copy.
struct Counted;

thread_local! {
    static HELD: Cell<usize> = const { Cell::new(0) };
    static MOST: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: each call is handed on as it is, so what the system's allocator promises holds here too.
// Counting does not allocate.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let held = HELD.get().wrapping_add(layout.size());
        HELD.set(held);
        MOST.set(MOST.get().max(held));
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        HELD.set(HELD.get().saturating_sub(layout.size()));
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counted = Counted;

/// The most bytes that were held during this, beyond those before.
fn most<T>(work: impl FnOnce() -> T) -> (usize, T) {
    let before = HELD.get();
    MOST.set(before);
    let made = work();
    (MOST.get() - before, made)
}

/// The body in which this value is written so often, comma between.
fn of_many((before, value, after): (&str, &str, &str), count: usize) -> String {
    format!("{before}{}{after}", vec![value; count].join(","))
}

/// The engine that requests are translated for.
const ENGINE: messages::Engine<'_> = messages::Engine {
    model: "served",
    system_messages: SystemMessages::First,
    reasoning_names: ReasoningNames::Both,
};

const USER: &str = r#"{"max_tokens":1,"messages":[{"role":"user","content":["#;
const ASSISTANT: &str = r#"{"max_tokens":1,"messages":[{"role":"assistant","content":["#;
const TURNS: &str = r#"{"max_tokens":1,"messages":["#;
const STOPS: &str =
    r#"{"max_tokens":1,"messages":[{"role":"user","content":"a"}],"stop_sequences":["#;
const QUESTION: &str = r#"{"max_tokens":1,"messages":[{"role":"user","content":""#;
const SYSTEM: &str = r#"{"max_tokens":1,"system":""#;
const TOOLS: &str = r#"{"max_tokens":1,"messages":[{"role":"user","content":"a"}],"tools":["#;

/// The shapes that cost most for their length: what is before, repeated, behind.
fn messages_shapes() -> Vec<(&'static str, String, &'static str)> {
    let tool = |input: &str| format!(r#"{{"type":"tool_use","id":"","name":""{input}}}"#);
    let turn = |role: &str, content: &str| format!(r#"{{"role":"{role}","content":{content}}}"#);
    let text = |text: &str| format!(r#"{{"type":"text","text":"{text}"}}"#);
    let result = |content: &str| {
        format!(r#"{{"type":"tool_result","tool_use_id":"","is_error":true,"content":{content}}}"#)
    };
    let document = |inner: &str| {
        format!(
            r#"{{"type":"document","title":"t","source":{{"type":"content","content":{inner}}}}}"#
        )
    };
    let turns = format!(
        "{},{}",
        turn("user", &format!("[{0},{0}]", text("a"))),
        turn("assistant", &format!("[{}]", tool("")))
    );
    let stray = |content: &str| format!("{},{}", text("a"), result(content));
    let server = |kind: &str, content: &str| {
        format!(r#"{{"type":"{kind}","tool_use_id":"","content":{content}}}"#)
    };
    let found = r#"{"type":"web_search_result","url":"u","title":"t"}"#;
    let called = r#"{"type":"server_tool_use","id":"","name":"n","input":{"":""}}"#;
    vec![
        (USER, stray(r#""""#), "]}]}"),
        (USER, r#"{"type":"a","text":"b"}"#.to_owned(), r#",{"type":"text","text":"a"}]}]}"#),
        (USER, r#"{"type":"a"}"#.to_owned(), r#",{"type":"text","text":"a"}]}]}"#),
        (
            USER,
            r#"{"type":"document","source":{}}"#.to_owned(),
            r#",{"type":"text","text":"a"}]}]}"#,
        ),
        (USER, result(r#"[{"type":"a"}]"#), "]}]}"),
        (USER, result(r#"[{"type":"document","source":{}}]"#), "]}]}"),
        (ASSISTANT, server("web_search_tool_result", &format!("[{found},{found}]")), "]}]}"),
        (ASSISTANT, server("a", r#"["","a",{"a":"a"},[]]"#), "]}]}"),
        (ASSISTANT, r#"{"type":"a"}"#.to_owned(), "]}]}"),
        (ASSISTANT, called.to_owned(), "]}]}"),
        (ASSISTANT, format!("{called},{}", text("a")), "]}]}"),
        (ASSISTANT, r#"{"type":"server_tool_use","input":[["\n\""]]}"#.to_owned(), "]}]}"),
        (
            ASSISTANT,
            r#"{"type":"thinking","thinking":"aaaaaaaaaaaaaaaaaaaaaaaaa"}"#.to_owned(),
            "]}]}",
        ),
        (
            r#"{"max_tokens":1,"messages":[{"role":"assistant","content":[{"type":"thinking","thinking":""#,
            "a".repeat(500),
            r#""}]}]}"#,
        ),
        (
            TURNS,
            format!("{},{}", turn("user", r#""a""#), turn("assistant", &format!("[{}]", tool("")))),
            "]}",
        ),
        (
            TURNS,
            format!(
                "{},{}",
                turn("assistant", &format!("[{}]", tool(""))),
                turn("user", &format!("[{}]", result(r#""""#)))
            ),
            "]}",
        ),
        (
            TURNS,
            format!("{},{}", turn("user", r#""a""#), turn("system", r#"[{"type":"a"}]"#)),
            "]}",
        ),
        (TURNS, turn("system", r#""a""#), "]}"),
        (TOOLS, r#"{"type":"a"}"#.to_owned(), "]}"),
        (USER, text(""), "]}]}"),
        (USER, text("a"), "]}]}"),
        (USER, r#"{"type":"tool_result","tool_use_id":""}"#.to_owned(), "]}]}"),
        (USER, result(r#""""#), "]}]}"),
        (USER, result(&format!("[{0},{0}]", text("a"))), "]}]}"),
        (USER, result(&format!("[{}]", document(&format!("[{}]", text("a"))))), "]}]}"),
        (USER, document(&format!("[{0},{0}]", text("a"))), "]}]}"),
        (USER, r#"{"type":"search_result","source":"","content":[]}"#.to_owned(), "]}]}"),
        (USER, r#"{"type":"image","source":{"type":"url","url":""}}"#.to_owned(), "]}]}"),
        (ASSISTANT, text(""), "]}]}"),
        (ASSISTANT, r#"{"type":"thinking","thinking":""}"#.to_owned(), "]}]}"),
        (ASSISTANT, tool(""), "]}]}"),
        (ASSISTANT, tool(r#","input":{"a":["","\\n\\\""]}"#), "]}]}"),
        (TURNS, format!("{},{}", turn("user", r#""""#), turn("assistant", r#""""#)), "]}"),
        (TURNS, format!("{},{}", turn("user", r#""""#), turn("system", r#""a""#)), "]}"),
        (TURNS, turns, "]}"),
        (STOPS, r#""""#.to_owned(), "]}"),
        (TOOLS, r#"{"name":"a","input_schema":{}}"#.to_owned(), "]}"),
        (QUESTION, r#"\n\""#.repeat(500), r#""}]}"#),
        (SYSTEM, "a".repeat(500), r#"","messages":[{"role":"user","content":"a"}]}"#),
        (r#"{""#, r"\u0041".repeat(500), r#"":1}"#),
        (r#"{"max_tokens":1,"messages":[{"role":""#, r"\u0041".repeat(500), r#""}]}"#),
    ]
}

#[test]
fn a_translated_message_takes_no_more_than_was_reckoned() {
    for (before, value, after) in messages_shapes() {
        // A list is as large as it gets for its length where it has just grown.
        for count in [1, 2, 33, 1_025, 16_385] {
            let body = of_many((before, &value, after), count);
            let reckoned = cost::of_request(Operation::Messages, body.as_bytes());
            let (taken, made) = most(|| messages::request(body.as_bytes(), &ENGINE));
            let is_wrong = value.starts_with(r"\u0041");
            assert_eq!(made.is_err(), is_wrong, "{value}: {:?}", made.err());
            assert!(taken as u64 <= reckoned, "{count} {value}: {taken} of {reckoned}");
        }
    }
}

#[test]
fn a_request_for_a_ranking_takes_no_more_than_was_reckoned() {
    let long = format!(r#""{}""#, r"a\n".repeat(1_000));
    let key = format!(r#"{{"text":"","{}":1}}"#, r"\u0041".repeat(1_000));
    let documents =
        [r#""""#, r#""a""#, r#"{"text":""}"#, "{}", "1", "[]", r#"{"":{"":{}}}"#, &long, &key];
    for (document, count) in
        documents.iter().flat_map(|document| [1, 33, 1_025, 40_000].map(|count| (document, count)))
    {
        let count = count.min(40_000_000 / document.len() / 10 + 1);
        for (begin, end) in [
            (r#"{"query":"a","documents":["#, "]}"),
            (r#"{"query":"a","documents":["a"],"raw_scores":["#, "]}"),
        ] {
            let body = of_many((begin, document, end), count);
            let reckoned = cost::of_request(Operation::Rerank, body.as_bytes());
            for engine in [Engine::Jina, Engine::Tei] {
                let (taken, _) = most(|| rerank::request(body.as_bytes(), engine, "served"));
                assert!(
                    taken as u64 <= reckoned,
                    "{count} {}: {taken} of {reckoned}",
                    &document[..9.min(document.len())]
                );
            }
        }
    }
}

#[test]
fn a_completion_that_becomes_a_message_takes_no_more_than_was_reckoned() {
    // Each call that has no id gets one with the whole of the response's in it.
    let nameless =
        format!(r#"{{"id":"{}","choices":[{{"message":{{"tool_calls":["#, "a".repeat(64));
    let answers = [
        (r#"{"choices":[{"message":{"content":"a","tool_calls":["#, "{}", "]}}]}"),
        (&*nameless, "{}", "]}}]}"),
        (&*nameless, r#"{"function":{"arguments":"{}"}}"#, "]}}]}"),
        (r#"{"choices":["#, "{}", "]}"),
        (r#"{"choices":["#, "1", "]}"),
        (r#"{"choices":[{"message":{"content":""#, r#"a\n\"b"#, r#""}}]}"#),
        (r#"{"choices":[{"message":{"reasoning":""#, "a", r#""}}]}"#),
        (
            concat!(
                r#"{"choices":[{"message":{"tool_calls":[{"id":"i","#,
                r#""function":{"name":"n","arguments":"{\"a\":[0"#
            ),
            ",0",
            r#"]}"}}]}}]}"#,
        ),
        (
            concat!(
                r#"{"usage":{"prompt_tokens":1},"choices":[{"message":{"tool_calls":["#,
                r#"{"function":{"name":"n","arguments":{"a":["#
            ),
            "0",
            "]}}}]}}]}",
        ),
    ];
    for ((before, value, after), count) in
        answers.iter().flat_map(|shape| [1, 34, 513, 1_025, 131_073].map(|count| (*shape, count)))
    {
        let answer = of_many((before, value, after), count);
        for of in [Rewriting::message, Rewriting::events] {
            let mut rewriting = of(answer.as_bytes());
            let reckoned = rewriting.held().saturating_sub(answer.len());
            let (taken, _) = most(|| rewriting.end());
            assert!(taken <= reckoned, "{count} {value}: {taken} of {reckoned}");
        }
    }
}

#[test]
fn a_ranking_that_becomes_another_takes_no_more_than_was_reckoned() {
    let request = of_many((r#"{"query":"a","documents":["#, r#""abc""#, "]}"), 90_000);
    let prepared = |top_n: usize| {
        let request = request.replace("\"query\"", &format!("\"top_n\":{top_n},\"query\""));
        rerank::request(request.as_bytes(), Engine::Tei, "served").unwrap()
    };
    let check = |answer: &str, prepared| {
        let mut rewriting = Rewriting::ranking(prepared, answer.as_bytes());
        let reckoned = rewriting.held() - answer.len();
        let (taken, _) = most(|| rewriting.end());
        let shown = &answer[..answer.len().min(60)];
        assert!(taken <= reckoned, "{} {shown}: {taken} of {reckoned}", answer.len());
    };
    let rankings = [
        ("[", r#"{"index":0,"score":1}"#, "]"),
        ("[", "[0,1,null]", "]"),
        (r#"{"results":["#, r#"{"index":7,"relevance_score":1,"document":{"":""}}"#, "]}"),
        (r#"{"results":[],"usage":{"a":["#, r#"{"":0}"#, "]}}"),
    ];
    for count in [1, 33, 1_025, 90_000] {
        for shape in rankings {
            check(&of_many(shape, count), prepared(1));
        }
        let ranked: Vec<_> =
            (0..count).rev().map(|at| format!(r#"{{"index":{at},"score":1}}"#)).collect();
        check(&format!("[{}]", ranked.join(",")), prepared(count));
    }
}

#[test]
fn a_frame_that_is_translated_takes_no_more_than_was_reckoned() {
    let delta = r#"{"choices":[{"index":0,"delta":{"#;
    let shapes = [
        (r#"{"choices":["#, "1", "]}"),
        (r#"{"choices":["#, "{}", "]}"),
        (r#"{"choices":[1],"usage":["#, "1", "]}"),
        (delta, r#""tool_calls":[1"#, ""),
        (delta, r#""tool_calls":[{}"#, ""),
        (delta, r#""content":"a\n\"b"#, r#""}}]}"#),
        (delta, r#""reasoning":"a"#, r#""}}]}"#),
    ];
    for ((before, value, after), count) in shapes
        .iter()
        .flat_map(|shape| [5_000, 20_000, 131_073, 524_289].map(|count| (*shape, count)))
    {
        let json = match value.split_once(":[") {
            Some((field, value)) => {
                format!("{before}{field}:[{}]}}}}]}}", vec![value; count].join(","))
            }
            None if value.starts_with('"') => format!("{before}{}{after}", grown(value, count)),
            None => of_many((before, value, after), count),
        };
        check_frame(&format!("data: {json}\n\n"), value);
        // A string of another field's, or of a comment, hides nothing.
        check_frame(&format!(": \"\nevent: \"\ndata: {json}\n\n"), value);
    }
    let calls = |count, call: &str| {
        format!("data: {delta}\"tool_calls\":[{}]}}}}]}}\n\n", vec![call; count].join(","))
    };
    for call in [
        r#"{"id":"","function":{"name":"a","arguments":"{}"}}"#,
        r#"{"id":"a","function":{"name":"a","arguments":{}}}"#,
        r#"{"id":"b","function":{"name":"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\n"}}"#,
    ] {
        check_frame(&calls(1_000, call), call);
    }
    for count in [3_000, 30_000, 300_000] {
        let text = r#"a\\\"\\n"#.repeat(count);
        let texts = [format!(r#""{{\"a\":\"{text}\"}}""#), format!(r#"{{"a":"{text}"}}"#)];
        for arguments in texts {
            let function = format!(r#"{{"name":"a","arguments":{arguments}}}"#);
            check_frame(&calls(1, &format!(r#"{{"id":"a","function":{function}}}"#)), "arguments");
            let old = format!("data: {delta}\"function_call\":{function}}}}}]}}\n\n");
            check_frame(&old, "a function's arguments");
        }
        check_frame(
            &format!("data: {delta}\"content\":\n{}\n", "data: 1,\n".repeat(count)),
            "lines",
        );
    }
}

/// A field whose text is so many times the one of `field`.
fn grown(field: &str, count: usize) -> String {
    let (name, text) = field.split_once(":\"").unwrap();
    format!("{name}:\"{}", text.repeat(count))
}

/// Translates a frame all but whose end has come before.
fn check_frame(frame: &str, what: &str) {
    // A short one is not reckoned, and a longer one not translated.
    if !(20_000..4_000_000).contains(&frame.len()) {
        return;
    }
    let mut stream = Translating::default();
    stream.push(Bytes::from_static(b"data: {\"choices\":[]}\n\n")).unwrap();
    let (most_of_it, end) = frame.split_at(frame.len() - 1);
    for piece in most_of_it.as_bytes().chunks(60_000) {
        let _ = stream.push(Bytes::copy_from_slice(piece)).unwrap();
    }
    let reckoned = stream.held() - frame.len();
    let end = Bytes::copy_from_slice(end.as_bytes());
    let (taken, made) = most(|| stream.push(end));
    assert!(made.is_ok());
    assert!(taken <= reckoned, "{} {what}: {taken} of {reckoned}", frame.len());
}

/// The shapes of blocks that a user's turn may have.
fn user_blocks() -> Vec<String> {
    let is_block = |before: &str| before == USER;
    messages_shapes().into_iter().filter(|shape| is_block(shape.0)).map(|shape| shape.1).collect()
}

proptest! {
    #[test]
    fn mixed_requests_take_no_more_than_was_reckoned(
        blocks in prop::collection::vec((prop::sample::select(user_blocks()), 1_usize..40), 1..12),
    ) {
        let blocks: Vec<_> =
            blocks.iter().flat_map(|(block, count)| vec![block.as_str(); *count]).collect();
        // Something must be the user's own.
        let end = r#",{"type":"text","text":"a"}]}]}"#;
        let body = of_many((USER, &blocks.join(","), end), 1);
        let reckoned = cost::of_request(Operation::Messages, body.as_bytes());
        let (taken, made) = most(|| messages::request(body.as_bytes(), &ENGINE));
        prop_assert!(made.is_ok(), "{:?}", made.err());
        prop_assert!(taken as u64 <= reckoned, "{taken} of {reckoned}");
    }
}

#[test]
fn a_few_long_texts_may_be_as_long_as_any_translation() {
    let text = r"A line of words, and more of them.\n".repeat(60_000_000 / 36);
    let body = format!(r#"{{"query":"a","documents":["{text}"]}}"#);
    let message = format!(r#"{TURNS}{{"role":"user","content":"{text}"}}]}}"#);
    for (operation, body) in [(Operation::Rerank, body), (Operation::Messages, message)] {
        let cost = cost::of_request(operation, body.as_bytes());
        assert!(body.len() as u64 + cost <= cost::TRANSLATION_MAX, "{cost}");
    }
}
