//! `usage`: what is asked of engines, what is read in their responses, what is cut out and put in.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on says where"
)]

#[path = "../../fuzz/checks/sse.rs"]
mod agreement;

use proptest::prelude::*;
use sans_io::api::response_usage::ResponseUsage;
use sans_io::api::usage::{
    EventUsage, STREAM_OPTIONS_MEMBER, StreamUsage, Timings, Usage, ask_for_usage,
};
use sans_io::codec::json::Scanner;
use sans_io::codec::sse::frames;
use serde_json::{Value, json};

/// Frames as vLLM 0.32 sends them.
const FIRST: &str = "data: {\"id\":\"chatcmpl-b3a9\",\"object\":\"chat.completion.chunk\",\"created\":1795360598,\"model\":\"tiny\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"logprobs\":null,\"finish_reason\":null}]}\n\n";
const USAGE: &str = "data: {\"id\":\"chatcmpl-b3a9\",\"object\":\"chat.completion.chunk\",\"created\":1795360598,\"model\":\"tiny\",\"choices\":[],\"usage\":{\"prompt_tokens\":24,\"total_tokens\":30,\"completion_tokens\":6,\"prompt_tokens_details\":{\"cached_tokens\":16,\"created_cache_tokens\":0}},\"system_fingerprint\":\"vllm-0.32.0-d693bc74\"}\n\n";
const CONTINUOUS: &str = "data: {\"id\":\"chatcmpl-bb51\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"\\n\"}}],\"usage\":{\"prompt_tokens\":24,\"total_tokens\":26,\"completion_tokens\":2,\"completion_tokens_details\":null}}\n\n";
const DONE: &str = "data: [DONE]\n\n";

fn counted(input: u64, output: u64, cached: Option<u64>) -> Usage {
    Usage { input: Some(input), output: Some(output), cached }
}

fn now() -> Timings {
    Timings { first_ms: 20.6, elapsed_ms: 145.6 }
}

/// The stream without what was not asked for; as it is when nothing of it is cut.
fn cut(stream: &str) -> String {
    agreement::check(stream.as_bytes());
    pass(&mut StreamUsage::new(true, true), stream)
}

fn timed(stream: &str) -> String {
    agreement::check(stream.as_bytes());
    pass(&mut StreamUsage::new(false, true), stream)
}

fn pass(usage: &mut StreamUsage, frames: &str) -> String {
    let passed = usage.push(frames.as_bytes(), now).unwrap_or_else(|| frames.into());
    String::from_utf8([passed, usage.release()].concat()).unwrap()
}

const LAST: &str = "data: {\"id\":\"chatcmpl-b3a9\",\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n";
/// As llama.cpp b11549 sends it.
const TIMED: &str = "data: {\"choices\":[],\"created\":1,\"id\":\"chatcmpl-b3a9\",\"model\":\"m\",\"system_fingerprint\":\"b11549\",\"object\":\"chat.completion.chunk\",\"usage\":{\"completion_tokens\":2,\"prompt_tokens\":3,\"total_tokens\":5},\"timings\":{\"prompt_n\":3,\"predicted_ms\":1.50}}\n\n";

/// The last choice with more in it.
fn last_with(more: &str) -> String {
    LAST.replace("}]}\n", &format!("}}],{more}}}\n"))
}

#[test]
fn a_client_sees_what_the_engine_would_have_sent_unasked() {
    let fingerprint = last_with("\"system_fingerprint\":\"vllm-0.32.0-d693bc74\"");
    assert_eq!(cut(&[FIRST, LAST, USAGE, DONE].concat()), [FIRST, &fingerprint, DONE].concat());
    let timings = last_with(
        "\"system_fingerprint\":\"b11549\",\"timings\":{\"prompt_n\":3,\"predicted_ms\":1.50}",
    );
    assert_eq!(cut(&[FIRST, LAST, TIMED, DONE].concat()), [FIRST, &timings, DONE].concat());
    // What the last choice says already stays as it is.
    let own = last_with("\"system_fingerprint\":\"own\"");
    assert_eq!(cut(&[FIRST, &own, USAGE, DONE].concat()), [FIRST, &own, DONE].concat());
    // A comment stays where it was.
    assert_eq!(
        cut(&[FIRST, LAST, ": ping\n\n", USAGE, DONE].concat()),
        [FIRST, &fingerprint, ": ping\n\n", DONE].concat()
    );
    assert_eq!(
        cut(&[": a\n\n", FIRST, LAST, ": b\n\n"].concat()),
        [": a\n\n", FIRST, LAST, ": b\n\n"].concat()
    );
}

#[test]
fn the_last_choice_waits_for_one_frame_and_no_longer() {
    let mut usage = StreamUsage::new(true, false);
    let mut push = |frames: &str| {
        let passed = usage.push(frames.as_bytes(), now).unwrap_or_else(|| frames.into());
        String::from_utf8(passed).unwrap()
    };
    assert_eq!(push(FIRST), FIRST);
    assert_eq!(push(LAST), "");
    // Another choice, of several, ends later.
    assert_eq!(push(&[FIRST, LAST].concat()), [LAST, FIRST].concat());
    assert_eq!(push(USAGE), last_with("\"system_fingerprint\":\"vllm-0.32.0-d693bc74\""));
    assert_eq!(push(LAST), "");
    assert_eq!(push(DONE), [LAST, DONE].concat());
    assert_eq!(push(&[LAST, DONE].concat()), [LAST, DONE].concat());
    assert_eq!(usage.held(), 0, "nothing waits behind the end");
}

#[test]
fn a_frame_that_says_more_loses_its_usage_alone() {
    let without = |frame: &str, usage: &str| assert_eq!(cut(frame), frame.replacen(usage, "", 1));
    without(
        CONTINUOUS,
        ",\"usage\":{\"prompt_tokens\":24,\"total_tokens\":26,\"completion_tokens\":2,\"completion_tokens_details\":null}",
    );
    // No choice is there to take it.
    without(TIMED, "\"usage\":{\"completion_tokens\":2,\"prompt_tokens\":3,\"total_tokens\":5},");
    without(&last_with("\"usage\" : {\"x\":\"}\"}"), ",\"usage\" : {\"x\":\"}\"}");
    without("data: { \"usage\":{} , \"choices\":[{}] }\r\n\r\n", "\"usage\":{} ,");
    without("data: {\"choices\":{},\"usage\":{}}\n\n", ",\"usage\":{}");
    let escaped = "data: {\"choices\":[[]],\"us\\u0061ge\":{},\"a\":\"usage\"}\n\n";
    without(escaped, ",\"us\\u0061ge\":{}");
    let error = "data: {\"error\":{\"message\":\"x\"},\"choices\":[],\"usage\":{}}\n\n";
    assert_eq!(cut(&[LAST, error].concat()), [LAST, &error.replace(",\"usage\":{}", "")].concat());
    assert_eq!(
        cut(": a\ndata: {\"choices\":[{}],\ndata: \"usage\":{}}\n\n"),
        ": a\ndata: {\"choices\":[{}]}\n\n"
    );
}

#[test]
fn a_frame_of_usage_alone_is_cut() {
    for choices in ["\"choices\":[],", "\"choices\":null,", ""] {
        let frame = format!(
            "data: {{\"id\":\"c\",\"service_tier\":null,{choices}\"usage\":{{\"prompt_tokens\":1}}}}\n\n"
        );
        assert_eq!(cut(&[FIRST, LAST, &frame, DONE].concat()), [FIRST, LAST, DONE].concat());
        assert_eq!(
            cut(&[": ping\n\n", &frame, ": pong\r\n\r\n", &frame].concat()),
            ": ping\n\n: pong\r\n\r\n"
        );
    }
}

#[test]
fn the_usage_frame_is_cut_whatever_its_lines() {
    for frame in [
        "data: {\"choices\":[],\"usage\":{}}\r\n\r\n",
        "data:{\"usage\" : { } , \"choices\" : [ ] }\r\r",
        ": ping\nevent: x\nid: 1\ndata: {\"choices\":[],\"usage\":{\"prompt_tokens\":1}}\nretry: \
         3\n\n",
        "data: {\"choices\":[],\ndata: \"usage\":{\ndata: \"prompt_tokens\":1}}\n\n",
    ] {
        assert_eq!(cut(&[FIRST, frame, DONE].concat()), [FIRST, DONE].concat(), "{frame:?}");
    }
}

#[test]
fn a_usage_frame_that_the_stream_breaks_off_behind_is_cut_too() {
    let mut usage = StreamUsage::new(true, false);
    let alone = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":24}}";
    assert_eq!(pass(&mut usage, alone), "");
    assert_eq!(pass(&mut usage, &alone[..30]), &alone[..30]);
}

#[test]
fn frames_that_say_something_else_stay() {
    for frame in [
        "data: {\"choices\":[{\"index\":0}],\"usage\":null}\n\n",
        "data: {\"choices\":[],\"usage\":null}\n\n",
        "data: {\"choices\":[],\"usage\":[]}\n\n",
        "data: {\"choices\":[]}\n\n",
        "data: [{\"prompt_tokens\":1,\"usage\":1},[],null,null]\n\n",
        "data: {\"choices\":[],\"a\":{\"usage\":{}}}\n\n",
        "data: {\"choices\":[],\"usage\":{}\n\n",
        "data: {\"choices\":[],\"delta\":\"\\\"usage\\\":{}\"}\n\n",
        ": {\"choices\":[],\"usage\":{}}\n\n",
        "data: \"usage\"\n\n",
        "event: response.completed\ndata: {\"response\":{\"usage\":{\"input_tokens\":1}}}\n\n",
    ] {
        assert_eq!(cut(frame), frame);
        assert_eq!(timed(frame), frame);
    }
}

#[test]
fn timings_stand_last_in_the_usage() {
    let expected = USAGE.replace(
        "\"created_cache_tokens\":0}}",
        "\"created_cache_tokens\":0},\"time_to_first_token_ms\":21,\"time_per_output_token_ms\":25.00,\"tokens_per_second\":40.00}",
    );
    assert_eq!(timed(&[FIRST, USAGE, DONE].concat()), [FIRST, &expected, DONE].concat());
}

#[test]
fn timings_are_left_out_where_they_would_not_fit() {
    for frame in [
        "data: {\"choices\":[],\"usage\":{}}\n\n",
        "data: {\"choices\":[],\"usage\":{\"input_tokens\":1}}\n\n",
        "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":1,\"tokens_per_second\":2.5}}\n\n",
        // Places in joined lines are not places in the frame.
        "data: {\"choices\":[],\ndata: \"usage\":{\"prompt_tokens\":1}}\n\n",
    ] {
        assert_eq!(pass(&mut StreamUsage::new(false, true), frame), frame);
    }
}

#[test]
fn timings_that_cannot_be_computed_are_left_out() {
    let frame = |output: u64| {
        format!(
            "data: {{\"choices\":[],\"usage\":{{\"prompt_tokens\":1,\"completion_tokens\":{output}}}}}\n\n"
        )
    };
    let timed = |output, first_ms, elapsed_ms| {
        let passed = StreamUsage::new(false, true)
            .push(frame(output).as_bytes(), || Timings { first_ms, elapsed_ms });
        let passed = String::from_utf8(passed.unwrap()).unwrap();
        let usage = serde_json::from_str::<Value>(passed.strip_prefix("data: ").unwrap()).unwrap()
            ["usage"]
            .take();
        let of = |name: &str| usage.get(name).and_then(Value::as_f64);
        [of("time_to_first_token_ms"), of("time_per_output_token_ms"), of("tokens_per_second")]
    };
    assert_eq!(timed(0, 5.0, 9.0), [Some(5.0), None, None]);
    assert_eq!(timed(1, 5.0, 9.0), [Some(5.0), Some(4.0), Some(250.0)]);
    assert_eq!(timed(2, 5.0, 5.0), [Some(5.0), Some(0.0), None]);
    assert_eq!(timed(2, 0.0, f64::NAN), [Some(0.0), None, None]);
    assert_eq!(timed(4, 0.4, 10.4), [Some(0.0), Some(3.33), Some(300.0)]);
}

#[test]
fn the_newest_usage_is_kept() {
    let mut usage = StreamUsage::new(true, true);
    assert_eq!(usage.usage(), None);
    pass(&mut usage, FIRST);
    assert_eq!(usage.usage(), None);
    pass(&mut usage, CONTINUOUS);
    assert_eq!(usage.usage(), Some(counted(24, 2, None)));
    pass(&mut usage, &[USAGE, DONE].concat());
    assert_eq!(usage.usage(), Some(counted(24, 6, Some(16))));
}

#[test]
fn the_usage_of_a_response_is_read_and_left_alone() {
    let stream = concat!(
        "event: response.created\ndata: \
         {\"response\":{\"id\":\"resp_1\",\"usage\":null},\"type\":\"response.created\"}\n\n",
        "event: response.completed\ndata: \
         {\"response\":{\"id\":\"resp_1\",\"usage\":{\"input_tokens\":24,",
        "\"input_tokens_details\":{\"cached_tokens\":3},\"output_tokens\":6,\"total_tokens\":30}},\"type\":\"response.completed\"}\n\n",
    );
    let mut usage = StreamUsage::new(true, true);
    assert_eq!(pass(&mut usage, stream), stream);
    assert_eq!(usage.usage(), Some(counted(24, 6, Some(3))));
}

#[test]
fn the_usage_of_messages_is_put_together_from_its_events() {
    let stream = concat!(
        "event: message_start\ndata: \
         {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":24,",
        "\"cache_read_input_tokens\":100,\"cache_creation_input_tokens\":10,\"output_tokens\":0}}}\n\n",
        "event: message_delta\ndata: \
         {\"type\":\"message_delta\",\"delta\":{},\"usage\":{\"output_tokens\":6}}\n\n",
    );
    let mut usage = StreamUsage::new(false, true);
    assert_eq!(pass(&mut usage, stream), stream);
    assert_eq!(usage.usage(), Some(counted(134, 6, Some(100))));
    let mut events = EventUsage::default();
    frames(stream.as_bytes()).for_each(|frame| events.read(frame));
    assert_eq!(events.usage(), usage.usage());
}

#[test]
fn the_usage_of_whole_responses_is_read_in_every_dialect() {
    for (response, usage) in [
        (
            r#"{"usage":{"prompt_tokens":3,"completion_tokens":4,"prompt_tokens_details":{"cached_tokens":2}},"x":1}"#,
            (Some(3), Some(4), Some(2)),
        ),
        (r#"{"data":[0.5],"usage":{"prompt_tokens":3,"total_tokens":3}}"#, (Some(3), None, None)),
        (
            r#"{"a":{"usage":{"prompt_tokens":9}},"usage":{"input_tokens":3,"output_tokens":4}}"#,
            (Some(3), Some(4), None),
        ),
        (
            r#"{"usage":{"input_tokens":3,"output_tokens":4,"cache_read_input_tokens":5}}"#,
            (Some(8), Some(4), Some(5)),
        ),
        (
            r#"{"usage":{"prompt_tokens":8,"completion_tokens":4,"cache_read_input_tokens":5}}"#,
            (Some(8), Some(4), None),
        ),
        (
            r#"{"usage":{"prompt_tokens":1.5,"completion_tokens":-4,"total_tokens":"x","output_tokens":7}}"#,
            (None, None, None),
        ),
    ] {
        let (input, output, cached) = usage;
        let expected = (usage != (None, None, None)).then_some(Usage { input, output, cached });
        assert_eq!(usage_of_response(response.as_bytes()), expected, "{response}");
        for size in 1..response.len() {
            let mut pieces = ResponseUsage::new();
            response.as_bytes().chunks(size).for_each(|piece| pieces.feed(piece));
            assert_eq!(pieces.usage(), expected, "{response} in pieces of {size}");
        }
    }
}

fn usage_of_response(json: &[u8]) -> Option<Usage> {
    let mut usage = ResponseUsage::new();
    usage.feed(json);
    usage.usage()
}

#[test]
fn a_response_without_a_usage_says_nothing() {
    for response in [
        "",
        "RIFF",
        "{}",
        r#"{"usage":null}"#,
        r#"{"usage":3}"#,
        r#"{"usage":{}}"#,
        r#"{"usage":{"prompt_tokens":3"#,
    ] {
        assert_eq!(usage_of_response(response.as_bytes()), None, "{response}");
    }
    let endless = format!(r#"{{"usage":{{"prompt_tokens":3,"x":"{}"}}}}"#, "x".repeat(1 << 20));
    let mut pieces = ResponseUsage::new();
    endless.as_bytes().chunks(1000).for_each(|piece| pieces.feed(piece));
    assert_eq!(pieces.usage(), None);
}

/// The options after the edit, as bytes.
fn asked(options: &str) -> String {
    let Some(edit) = ask_for_usage(options.as_bytes()) else { return options.to_owned() };
    let text = std::str::from_utf8(&edit.text).unwrap();
    [&options[..edit.range.start], text, &options[edit.range.end..]].concat()
}

#[test]
fn the_clients_own_options_are_edited() {
    for (options, edited) in [
        (r#"{"include_usage":true}"#, r#"{"include_usage":true}"#),
        (r#"{ "include_usage" : false , "x":1.10}"#, r#"{ "include_usage" : true , "x":1.10}"#),
        (r#"{"include_usage":null}"#, r#"{"include_usage":true}"#),
        (r#"{"include_usage":{"include_usage":true}}"#, r#"{"include_usage":true}"#),
        ("{}", r#"{"include_usage":true}"#),
        ("{ \n}", "{\"include_usage\":true \n}"),
        (
            r#"{"continuous_usage_stats":true}"#,
            r#"{"include_usage":true,"continuous_usage_stats":false}"#,
        ),
        (
            r#"{"include_usage":false, "continuous_usage_stats":true,"x":1}"#,
            r#"{"include_usage":true, "continuous_usage_stats":false,"x":1}"#,
        ),
        (
            r#"{ "continuous_usage_stats":1,"include_usage":null}"#,
            r#"{ "continuous_usage_stats":false,"include_usage":true}"#,
        ),
        (
            r#"{"continuous_usage_stats":true,"include_usage":true}"#,
            r#"{"continuous_usage_stats":true,"include_usage":true}"#,
        ),
        (r#"{"x":{"include_usage":true}}"#, r#"{"include_usage":true,"x":{"include_usage":true}}"#),
        (
            r#"{"include_usage":true,"include_usage":0}"#,
            r#"{"include_usage":true,"include_usage":true}"#,
        ),
        (
            r#"{"include_usage":0,"include_usage":true}"#,
            r#"{"include_usage":0,"include_usage":true}"#,
        ),
        (r#"{"include\u005fusage":false,"x":NaN}"#, r#"{"include\u005fusage":true,"x":NaN}"#),
        (
            r#"{"Include_usage":true,"a":"\ud800"}"#,
            r#"{"include_usage":true,"Include_usage":true,"a":"\ud800"}"#,
        ),
        ("null", r#"{"include_usage":true}"#),
        // The engine refuses these.
        ("true", "true"),
        (r#""x""#, r#""x""#),
        (r#"[{"include_usage":true}]"#, r#"[{"include_usage":true}]"#),
    ] {
        assert_eq!(asked(options), edited);
        assert_eq!(ask_for_usage(options.as_bytes()).is_none(), options == edited, "{options}");
        assert!(ask_for_usage(edited.as_bytes()).is_none());
    }
}

#[test]
fn a_body_without_options_gets_a_member() {
    let body = r#"{"model":"m","stream":true } "#;
    let mut scanner = Scanner::new(64);
    scanner.feed(body.as_bytes()).unwrap();
    let end = scanner.object_end().unwrap() as usize;
    let asked = [&body.as_bytes()[..end], STREAM_OPTIONS_MEMBER, &body.as_bytes()[end..]].concat();
    let expected = json!({"model": "m", "stream": true, "stream_options": {"include_usage": true}});
    assert_eq!(serde_json::from_slice::<Value>(&asked).unwrap(), expected);
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
        Just(Value::Null),
    ];
    let key = || {
        prop::sample::select(vec![
            "include_usage",
            "usage",
            "choices",
            "a\"b",
            "prompt_tokens",
            "x",
        ])
    };
    leaf.prop_recursive(3, 16, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(key().prop_map(str::to_owned), inner, 0..4)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

fn frame() -> impl Strategy<Value = String> {
    let end = prop::sample::select(vec!["\n", "\r\n", "\r"]);
    let data = prop_oneof![
        4 => value().prop_map(|value| value.to_string()),
        1 => (value(), value()).prop_map(|(choices, usage)| json!({"choices": choices, "usage": usage}).to_string()),
        3 => value().prop_map(|x| json!({"choices": [], "usage": {"prompt_tokens": 1, "x": x}}).to_string()),
        1 => Just("[DONE]".to_owned()),
        2 => Just(json!({"id": "c", "choices": [{"index": 0, "finish_reason": "stop"}]}).to_string()),
        1 => value().prop_map(|x| json!({"choices": [], "usage": {"prompt_tokens": 1}, "timings": x}).to_string()),
    ];
    let before = prop::sample::select(vec!["", ": ping", "event: x", ": \"usage\""]);
    (before, data, end, any::<bool>()).prop_map(|(before, data, end, space)| {
        let before = if before.is_empty() { String::new() } else { format!("{before}{end}") };
        format!("{before}data:{}{data}{end}{end}", if space { " " } else { "" })
    })
}

proptest! {
    #[test]
    fn options_ask_for_usage_afterwards_and_say_else_what_they_said(options in value()) {
        let text = options.to_string();
        let edited: Value = serde_json::from_str(&asked(&text)).unwrap();
        if !options.is_object() && !options.is_null() {
            prop_assert_eq!(edited, options);
            return Ok(());
        }
        let mut expected = if options.is_object() { options } else { json!({}) };
        if expected["include_usage"] != true && !expected["continuous_usage_stats"].is_null() {
            expected["continuous_usage_stats"] = Value::Bool(false);
        }
        if let Some(options) = expected.as_object_mut() {
            options.retain(|key, value| key != "continuous_usage_stats" || !value.is_null());
        }
        expected["include_usage"] = Value::Bool(true);
        prop_assert_eq!(edited, expected);
        prop_assert_eq!(ask_for_usage(asked(&text).as_bytes()), None);
    }

    #[test]
    fn streams_lose_their_usage_frames_and_no_other_byte(frames in prop::collection::vec(frame(), 0..12)) {
        agreement::check(frames.concat().as_bytes());
    }

    #[test]
    fn reads_of_any_size_lose_the_same(frames in prop::collection::vec(frame(), 0..8), cuts in any::<u64>()) {
        let stream = frames.concat();
        let whole = pass(&mut StreamUsage::new(true, true), &stream);
        let mut usage = StreamUsage::new(true, true);
        let mut passed = String::new();
        let mut write = String::new();
        for (at, frame) in frames.iter().enumerate() {
            write.push_str(frame);
            if cuts >> at & 1 == 1 {
                let piece = std::mem::take(&mut write);
                let shown = usage.push(piece.as_bytes(), now).unwrap_or_else(|| piece.into());
                passed.push_str(&String::from_utf8(shown).unwrap());
            }
        }
        passed.push_str(&pass(&mut usage, &write));
        prop_assert_eq!(passed, whole);
    }
}
