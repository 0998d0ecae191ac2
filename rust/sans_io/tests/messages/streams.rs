//! Streams: the order of events that Anthropic's SDKs rely on, and streams that were recorded from
//! a real vLLM 0.32.

use sans_io::api::{
    messages::{MessageStream, Usage},
    tool_ids,
};
use serde_json::{Value, json};

use crate::agreement::{
    End::{self, Error},
    Message, accumulate, check, origin, translated,
};

/// A stream of these chunks and `[DONE]`.
fn done(chunks: &[Value]) -> String {
    format!("{}data: [DONE]\n\n", frames(chunks))
}

fn frames(chunks: &[Value]) -> String {
    chunks.iter().map(|chunk| format!("data: {chunk}\n\n")).collect::<Vec<_>>().concat()
}

fn delta(delta: Value) -> Value {
    json!({"id": "c", "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": delta, "finish_reason": null}]})
}

fn call(index: u64, id: Value, name: Value, arguments: Value) -> Value {
    delta(
        json!({"tool_calls": [{"index": index, "id": id, "function": {"name": name, "arguments": arguments}}]}),
    )
}

fn finish(reason: &str) -> Value {
    json!({"choices": [{"index": 0, "delta": {}, "finish_reason": reason, "stop_reason": null}]})
}

/// The message that a client has of the stream.
fn message(stream: &str) -> Message {
    check(stream.as_bytes());
    accumulate(&translated(&[stream.as_bytes()]).0)
}

/// The names of the events that the frames cause, for the blocks with what begins or goes on.
fn names(stream: &str) -> Vec<String> {
    let events = String::from_utf8(translated(&[stream.as_bytes()]).0).unwrap();
    let data = events.lines().filter_map(|line| line.strip_prefix("data: "));
    data.map(|data| {
        let data: Value = serde_json::from_str(data).unwrap();
        let of = data["content_block"]["type"]
            .as_str()
            .or(data["delta"]["type"].as_str())
            .unwrap_or_default();
        format!("{} {of}", data["type"].as_str().unwrap()).trim_end().to_owned()
    })
    .collect()
}

#[test]
fn a_recorded_stream_of_vllm_becomes_a_message() {
    let stream = concat!(
        r#"data: {"id":"chatcmpl-b3a997953606305c","object":"chat.completion.chunk","created":1795360598,"model":"tiny","choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}],"prompt_token_ids":null,"prompt_text":null}"#,
        "\n\n",
        r#"data: {"id":"chatcmpl-b3a997953606305c","object":"chat.completion.chunk","created":1795360598,"model":"tiny","choices":[{"index":0,"delta":{"content":"\n"},"logprobs":null,"finish_reason":null,"token_ids":null}]}"#,
        "\n\n",
        r#"data: {"id":"chatcmpl-b3a997953606305c","object":"chat.completion.chunk","created":1795360598,"model":"tiny","choices":[{"index":0,"delta":{"content":"\n"},"logprobs":null,"finish_reason":"length","stop_reason":null,"token_ids":null}]}"#,
        "\n\n",
        r#"data: {"id":"chatcmpl-b3a997953606305c","object":"chat.completion.chunk","created":1795360598,"model":"tiny","choices":[],"usage":{"prompt_tokens":24,"total_tokens":30,"completion_tokens":6,"prompt_tokens_details":{"cached_tokens":0,"created_cache_tokens":0}},"system_fingerprint":"vllm-0.32.0-d693bc74"}"#,
        "\n\n",
        "data: [DONE]\n\n",
    );
    let message = message(stream);
    assert_eq!(
        (&message.start["model"], &message.start["id"]),
        (&json!("public"), &json!("msg_1"))
    );
    assert_eq!(message.content, [json!({"type": "text", "text": "\n\n"})]);
    assert_eq!(message.stop_reason, "max_tokens");
    assert_eq!(
        message.usage,
        json!({"input_tokens": 24, "output_tokens": 6, "cache_read_input_tokens": 0, "cache_creation_input_tokens": 0})
    );
    assert_eq!(message.end, End::Stopped);
}

#[test]
fn a_recorded_death_of_vllms_core_is_an_error_event_and_no_end() {
    let stream = concat!(
        r#"data: {"id":"chatcmpl-9fe6f216c56771dc","object":"chat.completion.chunk","created":1795363360,"model":"tiny","choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}],"prompt_token_ids":null,"prompt_text":null}"#,
        "\n\n",
        r#"data: {"error": {"message": "EngineCore encountered an issue. See stack trace (above) for the root cause.", "type": "InternalServerError", "param": null, "code": 500}}"#,
        "\n\n",
        "data: [DONE]\n\n",
    );
    let words = "EngineCore encountered an issue. See stack trace (above) for the root cause.";
    assert_eq!(message(stream).end, End::Error(json!(words)));
}

#[test]
fn a_recorded_stream_of_two_choices_counts_the_first() {
    let stream = concat!(
        r#"data: {"id":"chatcmpl-aca0873157c7badb","object":"chat.completion.chunk","created":1795360599,"model":"tiny","choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}],"prompt_token_ids":null,"prompt_text":null}"#,
        "\n\n",
        r#"data: {"id":"chatcmpl-aca0873157c7badb","object":"chat.completion.chunk","created":1795360599,"model":"tiny","choices":[{"index":1,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}],"prompt_token_ids":null,"prompt_text":null}"#,
        "\n\n",
        r#"data: {"id":"chatcmpl-aca0873157c7badb","object":"chat.completion.chunk","created":1795360599,"model":"tiny","choices":[{"index":0,"delta":{"content":"\u0013"},"logprobs":{"content":[{"token":"\u0013","logprob":-5.277908802032471,"bytes":[19],"top_logprobs":[{"token":"\u0013","logprob":-5.277908802032471,"bytes":[19]}]}]},"finish_reason":null,"token_ids":null}]}"#,
        "\n\n",
        r#"data: {"id":"chatcmpl-aca0873157c7badb","object":"chat.completion.chunk","created":1795360599,"model":"tiny","choices":[{"index":1,"delta":{"content":"x"},"logprobs":null,"finish_reason":"stop","token_ids":null}]}"#,
        "\n\n",
        r#"data: {"id":"chatcmpl-aca0873157c7badb","object":"chat.completion.chunk","created":1795360599,"model":"tiny","choices":[{"index":0,"delta":{"content":""},"logprobs":null,"finish_reason":"length","stop_reason":null,"token_ids":null}],"system_fingerprint":"vllm-0.32.0-d693bc74"}"#,
        "\n\n",
        "data: [DONE]\n\n",
    );
    let message = message(stream);
    assert_eq!(
        (&message.content[0]["text"], &message.stop_reason),
        (&json!("\u{13}"), &json!("max_tokens"))
    );
}

#[test]
fn the_first_chunk_of_any_kind_starts_the_message_at_once() {
    for chunk in [
        delta(json!({"role": "assistant", "content": ""})),
        json!({"choices": []}),
        json!({}),
        delta(json!({})),
    ] {
        assert_eq!(names(&frames(&[chunk])), ["message_start"]);
    }
    let usage = json!({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 0}});
    assert_eq!(message(&frames(&[usage])).start["usage"]["input_tokens"], 7);
}

#[test]
fn text_flows_chunk_by_chunk_in_one_block() {
    let chunks = [
        delta(json!({"content": "a"})),
        delta(json!({"content": null})),
        delta(json!({"content": "b"})),
        finish("stop"),
    ];
    assert_eq!(
        names(&done(&chunks)),
        [
            "message_start",
            "content_block_start text",
            "content_block_delta text_delta",
            "content_block_delta text_delta",
            "content_block_stop",
            "message_delta",
            "message_stop",
        ]
    );
}

#[test]
fn thinking_is_signed_and_ends_before_the_text() {
    for field in ["reasoning", "reasoning_content"] {
        let chunks =
            [delta(json!({field: "R"})), delta(json!({field: "", "content": "T"})), finish("stop")];
        assert_eq!(
            names(&done(&chunks))[1..6],
            [
                "content_block_start thinking",
                "content_block_delta thinking_delta",
                "content_block_delta signature_delta",
                "content_block_stop",
                "content_block_start text",
            ]
        );
    }
}

#[test]
fn empty_text_before_a_call_opens_no_block() {
    let chunks = [
        delta(json!({"role": "assistant", "content": ""})),
        call(0, json!("t"), json!("n"), json!("")),
        call(0, Value::Null, Value::Null, json!("{\"a\"")),
        call(0, Value::Null, Value::Null, json!(":1}")),
        finish("tool_calls"),
    ];
    assert_eq!(
        names(&done(&chunks)),
        [
            "message_start",
            "content_block_start tool_use",
            "content_block_delta input_json_delta",
            "content_block_delta input_json_delta",
            "content_block_stop",
            "message_delta",
            "message_stop",
        ]
    );
    let message = message(&done(&chunks));
    assert_eq!(
        message.content,
        [json!({"type": "tool_use", "id": "t", "name": "n", "input": {"a": 1}})]
    );
    assert_eq!(message.stop_reason, "tool_use");
}

#[test]
fn fragments_of_another_call_wait_for_the_open_one() {
    let chunks = [
        call(0, json!("t-a"), json!("a"), json!("{\"x\":")),
        call(1, json!("t1"), json!("b"), json!("{\"y\":")),
        call(2, json!("t2"), json!("c"), json!("{}")),
        call(0, Value::Null, Value::Null, json!("0}")),
        call(1, Value::Null, Value::Null, json!("1}")),
        finish("tool_calls"),
    ];
    let inputs: Vec<Value> =
        message(&done(&chunks)).content.iter().map(|block| block["input"].clone()).collect();
    assert_eq!(inputs, [json!({"x": 0}), json!({"y": 1}), json!({})]);
}

#[test]
fn a_call_ends_for_the_client_as_soon_as_its_arguments_are_whole() {
    let chunks = [call(0, json!("t"), json!("a"), json!("{\"x\":1}"))];
    assert_eq!(names(&frames(&chunks)).last().unwrap(), "content_block_stop");
}

#[test]
fn text_behind_an_unfinished_call_waits_and_breaks_nothing() {
    let chunks = [
        call(0, json!("t"), json!("a"), json!("{\"x\":")),
        delta(json!({"content": "then"})),
        call(0, Value::Null, Value::Null, json!("1}")),
        finish("stop"),
    ];
    let message = message(&done(&chunks));
    assert_eq!(
        (&message.content[0]["input"], &message.content[1]["text"]),
        (&json!({"x": 1}), &json!("then"))
    );
}

#[test]
fn names_may_come_late_in_pieces_or_again_and_again() {
    let late = [
        call(0, json!("t"), Value::Null, json!("{}")),
        call(0, Value::Null, json!("look"), json!("")),
    ];
    let pieces = [
        call(0, json!("t"), json!("lo"), json!("")),
        call(0, Value::Null, json!("ok"), json!("{}")),
    ];
    // TensorRT-LLM, when a call is forced: the name in every chunk, no id.
    let repeated = [
        call(0, Value::Null, json!("look"), json!("")),
        call(0, Value::Null, json!("look"), json!("{")),
        call(0, Value::Null, json!("look"), json!("}")),
        call(0, Value::Null, json!("look"), json!("")),
    ];
    for chunks in [&late[..], &pieces, &repeated] {
        let message = message(&done(&[chunks, &[finish("stop")]].concat()));
        assert_eq!(message.content.len(), 1);
        assert_eq!(
            (&message.content[0]["name"], &message.content[0]["input"]),
            (&json!("look"), &json!({}))
        );
        assert_eq!(message.stop_reason, "tool_use", "engines end a forced call with `stop`");
    }
}

#[test]
fn missing_ids_are_made_and_differ() {
    let chunks = [
        call(0, json!(""), json!("a"), json!("{}")),
        call(1, Value::Null, json!("b"), json!("{}")),
        call(2, json!("own"), json!("c"), json!("{}")),
        finish("tool_calls"),
    ];
    let ids: Vec<Value> =
        message(&done(&chunks)).content.iter().map(|block| block["id"].clone()).collect();
    assert_eq!(ids[2], "own");
    assert!(
        ids[..2].iter().all(|id| id.as_str().unwrap().starts_with("toolu_")) && ids[0] != ids[1]
    );
}

#[test]
fn an_engine_that_numbers_all_calls_zero_is_understood() {
    let chunks = [
        call(0, json!("t-a"), json!("a"), json!("{\"x\":1}")),
        call(0, json!("t-b"), json!("a"), json!("{\"x\":2}")),
        finish("tool_calls"),
    ];
    let message = message(&done(&chunks));
    assert_eq!(message.content.len(), 2);
    assert_eq!(
        (&message.content[1]["id"], &message.content[1]["input"]),
        (&json!("t-b"), &json!({"x": 2}))
    );
}

#[test]
fn arguments_that_are_no_object_reach_the_client_as_one_that_says_so() {
    let invalid = |text: &str| json!({"INVALID_JSON": text});
    for (arguments, input) in [
        (json!(["hel", "lo"]), invalid("hello")),
        (json!(["[1]"]), invalid("[1]")),
        (json!(["5"]), invalid("5")),
        (json!([""]), json!({})),
        (json!(["{\"q\":"]), json!({"q": null, "INVALID_JSON": ""})),
        (json!(["{\"q\":", "oh", " no\"}"]), json!({"q": null, "INVALID_JSON": "oh no\"}"})),
        (json!(["{\"q\":\"a", "b"]), json!({"q": "ab", "INVALID_JSON": ""})),
        (json!(["{\"q\":NaN,\"z\":1}"]), json!({"q": null, "z": 1})),
        (
            json!(["{\"q\":", "Na", "N", ",\"r\":[-", "Infinity", ",-", "1]}"]),
            json!({"q": null, "r": [null, -1]}),
        ),
        (json!([" ", "{\"a\":1}", " trailing", "}"]), json!({"a": 1})),
    ] {
        let fragments = arguments.as_array().unwrap().iter();
        let mut chunks: Vec<_> =
            fragments.map(|piece| call(0, json!("t"), json!("n"), piece.clone())).collect();
        chunks.push(finish("tool_calls"));
        assert_eq!(message(&done(&chunks)).content[0]["input"], input, "{arguments}");
    }
}

#[test]
fn arguments_cut_by_the_limit_stay_the_beginning_of_an_object() {
    let chunks = [call(0, json!("t"), json!("n"), json!("{\"a\": [1, \"x")), finish("length")];
    let message = message(&done(&chunks));
    assert_eq!(
        (&message.content[0]["input"], &message.stop_reason),
        (&json!("{\"a\": [1, \"x"), &json!("max_tokens"))
    );
}

#[test]
fn a_stop_string_is_named() {
    let mut chunk = finish("stop");
    chunk["choices"][0]["stop_reason"] = json!("E\"ND");
    let message = message(&done(&[delta(json!({"content": "a"})), chunk]));
    assert_eq!(
        (message.stop_reason, message.stop_sequence),
        (json!("stop_sequence"), json!("E\"ND"))
    );
}

#[test]
fn usage_may_come_with_any_chunk_and_the_newest_counts() {
    let usage = |tokens: u64| json!({"prompt_tokens": 9, "completion_tokens": tokens, "prompt_tokens_details": {"cached_tokens": 4}});
    let mut first = delta(json!({"content": "a"}));
    first["usage"] = usage(1);
    let chunks = [first, finish("stop"), json!({"choices": [], "usage": usage(2)})];
    let stream = done(&chunks);
    assert_eq!(
        message(&stream).usage,
        json!({"input_tokens": 5, "output_tokens": 2, "cache_read_input_tokens": 4})
    );
    let mut translated = MessageStream::new(origin());
    assert_eq!(translated.usage(), None);
    translated.feed(stream.as_bytes(), &mut Vec::new());
    let newest = Usage {
        prompt_tokens: 9,
        completion_tokens: 2,
        cached_tokens: Some(4),
        created_cache_tokens: None,
    };
    assert_eq!(translated.usage(), Some(newest));
}

#[test]
fn a_stream_without_content_has_one_empty_text() {
    assert_eq!(message(&done(&[finish("stop")])).content, [json!({"type": "text", "text": ""})]);
}

#[test]
fn a_stream_without_any_choice_is_an_error_and_no_answer() {
    let usage = json!({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 0}});
    for chunks in
        [&[][..], &[json!({"choices": []})], &[json!({"choices": [], "error": null}), usage]]
    {
        let end = message(&done(chunks)).end;
        let Error(words) = end else { panic!("{end:?} of {chunks:?}") };
        assert!(words.as_str().unwrap().contains("without an answer"), "{words}");
    }
}

#[test]
fn a_chunk_in_the_form_of_a_whole_completion_is_read_unless_it_repeats_what_came() {
    let call = json!({"id": "t", "function": {"name": "n", "arguments": "{\"a\":1}"}});
    let whole = json!({"choices": [{"message": {"content": "hi", "tool_calls": [call]}, "finish_reason": "tool_calls"}]});
    let alone = message(&done(std::slice::from_ref(&whole)));
    assert_eq!(alone.content.len(), 2);
    assert_eq!(
        (&alone.content[0]["text"], &alone.content[1]["input"]),
        (&json!("hi"), &json!({"a": 1}))
    );
    assert_eq!(alone.stop_reason, "tool_use");
    let behind = message(&done(&[delta(json!({"content": "hi"})), whole.clone()]));
    assert_eq!(behind.content.len(), 2, "the words once, and the call that was not said before");
    assert_eq!(behind.content[1]["input"], json!({"a": 1}));
    let called = self::call(0, json!("t"), json!("n"), json!("{\"a\":1}"));
    let twice = message(&done(&[delta(json!({"content": "hi"})), called, whole.clone()]));
    assert_eq!(twice.content.len(), 2);
    let mut beside = whole;
    beside["choices"][0]["delta"] = json!({});
    assert_eq!(message(&done(&[beside])).content.len(), 2, "an empty delta beside it says nothing");
}

#[test]
fn a_name_in_pieces_or_snapshots_is_the_name_and_a_single_call_needs_no_list() {
    for names in [["get_", "weather"], ["get_", "get_weather"], ["get_weather", "get_weather"]] {
        let mut chunks: Vec<_> =
            names.iter().map(|name| call(0, json!("t"), json!(name), json!(""))).collect();
        chunks.push(call(0, json!("t"), Value::Null, json!("{}")));
        chunks.push(finish("tool_calls"));
        assert_eq!(message(&done(&chunks)).content[0]["name"], "get_weather", "{names:?}");
    }
    let single = json!({"tool_calls": {"id": "t", "function": {"name": "n", "arguments": "{}"}}});
    assert_eq!(message(&done(&[delta(single), finish("stop")])).stop_reason, "tool_use");
}

#[test]
fn a_call_that_names_no_tool_is_an_error_unless_it_was_cut_off_before_its_name() {
    let text = delta(json!({"content": "a"}));
    let nameless = call(0, json!("t"), Value::Null, json!("{}"));
    let chunks = [text, nameless];
    let Error(words) = message(&done(&[&chunks[..], &[finish("tool_calls")]].concat())).end else {
        panic!("no error")
    };
    assert!(words.as_str().unwrap().contains("names no tool"), "{words}");
    let cut = message(&done(&[&chunks[..], &[finish("length")]].concat()));
    assert_eq!((cut.content.len(), cut.stop_reason), (1, json!("max_tokens")));
}

#[test]
fn an_error_is_one_by_the_name_of_its_event_or_its_field_whatever_is_in_it() {
    let begin = frames(&[delta(json!({"content": "a"}))]);
    for (error, words) in [
        ("event: error\ndata: {\"message\":\"boom\"}\n\n", "boom"),
        ("event: error\ndata: boom\n\n", "boom"),
        ("event:error\ndata: {\"error\":{\"message\":\"boom\"}}\n\n", "boom"),
        ("error: {\"code\":500,\"message\":\"boom\",\"type\":\"server_error\"}\n\n", "boom"),
        (
            "event: error\ndata:\n\n",
            "The engine reported an error without words; send the request again.",
        ),
    ] {
        let stream = format!("{begin}{error}{}", done(&[finish("stop")]));
        assert_eq!(message(&stream).end, End::Error(json!(words)), "{error}");
    }
    let overflow = "error: {\"code\":400,\"message\":\"This model's maximum context length is 8 tokens.\"}\n\n";
    let Error(words) = message(&format!("{begin}{overflow}")).end else { panic!("no error") };
    assert!(words.as_str().unwrap().starts_with("prompt is too long"), "{words}");
    let named =
        format!("event: message\n{}event: error\ndata: [DONE]\n\n", done(&[finish("stop")]));
    assert_eq!(message(&named).end, End::Stopped, "an end mark is none");
}

#[test]
fn all_is_said_with_the_finish_reason_so_that_a_break_behind_it_costs_nothing() {
    let mut stream = MessageStream::new(origin());
    let mut events = Vec::new();
    stream.feed(frames(&[delta(json!({"content": "a"}))]).as_bytes(), &mut events);
    assert!(!stream.has_said_all());
    stream.feed(frames(&[finish("stop")]).as_bytes(), &mut events);
    assert!(stream.has_said_all() && !stream.is_finished());
}

#[test]
fn the_end_is_done_or_a_clean_end_after_a_finish_reason() {
    let text = delta(json!({"content": "a"}));
    assert_eq!(message(&frames(&[text.clone(), finish("stop")])).end, End::Stopped);
    assert_eq!(
        message(&format!("{}data: [DONE]", frames(std::slice::from_ref(&text)))).end,
        End::Stopped,
        "without its empty line"
    );
    let cut = frames(&[text]);
    assert!(!translated(&[cut.as_bytes()]).1, "the client must be told of the death");
    assert_eq!(message(&cut).end, End::Open);
    assert_eq!(message("").end, End::Open);
}

#[test]
fn nothing_is_finished_before_the_usage_had_its_chance() {
    assert_eq!(names(&frames(&[delta(json!({"content": "a"}))])).len(), 3);
    let mut stream = MessageStream::new(origin());
    let mut events = Vec::new();
    stream.feed(frames(&[delta(json!({"content": "a"})), finish("stop")]).as_bytes(), &mut events);
    assert!(!stream.is_finished() && !String::from_utf8(events).unwrap().contains("message_delta"));
}

#[test]
fn errors_in_every_shape_end_the_stream() {
    for (error, words) in [
        (json!({"error": {"message": "Boom", "code": 500}}), "Boom"),
        (json!({"error": "Boom"}), "Boom"),
        (json!({"object": "error", "message": "Boom", "code": 400}), "Boom"),
        (
            json!({"error": {"code": 1}}),
            "The engine reported an error without words; send the request again.",
        ),
        (
            json!({"error": true}),
            "The engine reported an error without words; send the request again.",
        ),
    ] {
        let stream = format!(
            "{}{}",
            frames(&[delta(json!({"content": "a"})), error]),
            done(&[finish("stop")])
        );
        assert_eq!(message(&stream).end, End::Error(json!(words)));
    }
    let nothing = json!({"choices": [], "error": null});
    assert_eq!(message(&done(&[nothing, finish("stop")])).end, End::Stopped);
}

#[test]
fn an_engine_that_gives_up_in_its_finish_reason_did_not_end_well() {
    for reason in ["abort", "cancelled", "timeout", "error"] {
        let stream = done(&[delta(json!({"content": "a"})), finish(reason)]);
        assert!(matches!(message(&stream).end, End::Error(_)), "{reason}");
        let stream = frames(&[finish(reason)]);
        assert!(matches!(message(&stream).end, End::Error(_)), "{reason} and the end of the body");
    }
}

#[test]
fn an_event_that_is_no_chunk_is_an_error_and_not_silence() {
    for data in ["hello", "[1]", "5", "{\"choices\":"] {
        assert!(matches!(message(&format!("data: {data}\n\n")).end, End::Error(_)), "{data}");
    }
}

#[test]
fn comments_stay_comments_and_frames_without_data_say_nothing() {
    let stream =
        format!(": keep-alive\n\nevent: x\n\n\n\nid: 1\n\n{}: late\n\n", done(&[finish("stop")]));
    let (events, _) = translated(&[stream.as_bytes()]);
    let message = accumulate(&events);
    assert_eq!((message.comments, message.end), (1, End::Stopped));
    assert!(events.starts_with(b": keep-alive\n\nevent: message_start\n"));
}

#[test]
fn line_ends_of_any_kind_and_data_of_several_lines_are_read() {
    let stream = done(&[delta(json!({"content": "a"})), finish("stop")]);
    let expected = translated(&[stream.as_bytes()]);
    for end in ["\r\n", "\r"] {
        assert_eq!(translated(&[stream.replace('\n', end).as_bytes()]), expected);
    }
    // TensorRT-LLM ends its data with a space; OpenAI's data may span lines.
    assert_eq!(translated(&[stream.replace("\n\n", " \n\n").as_bytes()]), expected);
    assert_eq!(translated(&[stream.replace("data: {\"", "data:{\ndata:\"").as_bytes()]), expected);
}

#[test]
fn texts_pass_as_they_were_written() {
    let stream = "data: {\"choices\":[{\"delta\":{\"content\":\"\\ud800\\/é\u{2028}\"}}]}\n\n";
    let events = String::from_utf8(translated(&[stream.as_bytes()]).0).unwrap();
    assert!(events.contains("\"text\":\"\\ud800\\/é\u{2028}\""), "{events}");
    check(stream.as_bytes());
}

#[test]
fn a_response_that_cannot_be_put_in_order_ends_with_an_error() {
    let open = call(0, json!("t"), json!("a"), json!("{"));
    let more = delta(json!({"content": "x".repeat(1 << 20)}));
    let chunks: Vec<_> = std::iter::once(open).chain(std::iter::repeat_n(more, 17)).collect();
    assert!(matches!(accumulate(&translated(&[frames(&chunks).as_bytes()]).0).end, End::Error(_)));
    let chunks: Vec<_> =
        (0..2000).map(|index| call(index, Value::Null, json!("a"), json!("{}"))).collect();
    assert!(matches!(accumulate(&translated(&[frames(&chunks).as_bytes()]).0).end, End::Error(_)));
}

/// The names and inputs of a message's calls.
fn calls_of(chunks: &[Value]) -> Vec<(Value, Value)> {
    let message = message(&done(&[chunks, &[finish("tool_calls")]].concat()));
    let calls = message.content.iter().map(|block| (block["name"].clone(), block["input"].clone()));
    calls.collect()
}

#[test]
fn another_object_under_one_number_is_another_call() {
    let (rome, oslo) = (r#"{"city":"Rome"}"#, r#"{"city":"Oslo"}"#);
    let both = [(json!("look"), json!({"city": "Rome"})), (json!("look"), json!({"city": "Oslo"}))];
    let nothing = || json!("");
    for chunks in [
        vec![
            call(0, nothing(), json!("look"), json!(rome)),
            call(0, nothing(), json!("look"), json!(oslo)),
        ],
        // The same id.
        vec![
            call(0, json!("x"), json!("look"), json!(rome)),
            call(0, json!("x"), json!("look"), json!(oslo)),
        ],
        // The name before its object.
        vec![
            call(0, nothing(), json!("look"), json!(rome)),
            call(0, nothing(), json!("look"), nothing()),
            call(0, nothing(), Value::Null, json!(r#"{"city":"#)),
            call(0, nothing(), Value::Null, json!(r#""Oslo"}"#)),
        ],
        // The first once more.
        vec![
            call(0, nothing(), json!("look"), json!(rome)),
            call(0, nothing(), json!("look"), json!(rome)),
            call(0, nothing(), json!("look"), json!(oslo)),
            call(0, nothing(), json!("look"), json!(oslo)),
        ],
        // Fragments of two calls that only ids tell apart.
        vec![
            call(0, json!("x"), json!("look"), json!(r#"{"city":"#)),
            call(1, json!("y"), json!("look"), json!(r#"{"city":"#)),
            call(1, json!("y"), Value::Null, json!(r#""Oslo"}"#)),
            call(0, json!("x"), Value::Null, json!(r#""Rome"}"#)),
        ],
    ] {
        assert_eq!(calls_of(&chunks), both, "{chunks:?}");
    }
}

#[test]
fn ids_that_come_again_are_replaced() {
    let ids = |first: Value, second: Value| {
        let chunks = [
            call(0, first, json!("a"), json!("{}")),
            call(1, second, json!("b"), json!("{}")),
            finish("tool_calls"),
        ];
        let content = message(&done(&chunks)).content;
        [
            content[0]["id"].as_str().unwrap().to_owned(),
            content[1]["id"].as_str().unwrap().to_owned(),
        ]
    };
    assert_eq!(ids(json!("a"), json!("b")), ["a", "b"]);
    let [first, second] = ids(json!("a"), json!("a"));
    assert_eq!(first, "a");
    assert_eq!(tool_ids::decode(&second).as_deref(), Some("a"));
    for counted in ["call_0", "functions.look:3", "1", "ä b"] {
        let [first, second] = ids(json!(counted), json!(counted));
        assert_ne!(first, second);
        for id in [first, second] {
            assert_eq!(tool_ids::decode(&id).as_deref(), Some(counted));
        }
    }
}

#[test]
fn parts_of_a_content_are_thinking_and_text() {
    let thinking = json!({"type": "thinking", "thinking": [{"type": "text", "text": "hm"}, {"type": "text", "text": "m"}]});
    let chunks = [
        delta(json!({"content": [thinking]})),
        delta(
            json!({"content": [{"type": "thinking", "thinking": "!"}, {"type": "text", "text": "a"}]}),
        ),
        delta(json!({"content": "b", "annotations": [{"type": "url_citation"}]})),
        delta(
            json!({"content": [{"type": "reference", "reference_ids": [1]}, {"type": "new", "text": "c"}, "d"]}),
        ),
        delta(json!({"content": {"type": "text", "text": "e"}})),
        finish("stop"),
    ];
    assert_eq!(
        message(&done(&chunks)).content,
        [
            json!({"type": "thinking", "thinking": "hmm!", "signature": "unsigned"}),
            json!({"type": "text", "text": "abcde"}),
        ]
    );
}

#[test]
fn thinking_is_found_under_each_of_its_names() {
    for field in [
        json!({"reasoning": "R"}),
        json!({"reasoning_content": "R"}),
        json!({"reasoning_content": "R", "reasoning": ""}),
        json!({"reasoning": {"content": "R"}}),
        json!({"thinking": "R"}),
        json!({"thinking_blocks": [{"type": "thinking", "thinking": "R", "signature": "s"}]}),
        json!({"reasoning_details": [{"type": "reasoning.text", "text": "R", "index": 0}]}),
        json!({"reasoning_details": [{"type": "reasoning.summary", "summary": "R"}, {"type": "reasoning.encrypted", "data": "x"}]}),
        json!({"reasoning": "R", "reasoning_details": [{"type": "reasoning.text", "text": "R"}]}),
    ] {
        let content = message(&done(&[delta(field.clone()), finish("stop")])).content;
        assert_eq!(
            content,
            [json!({"type": "thinking", "thinking": "R", "signature": "unsigned"})],
            "{field}"
        );
    }
}

#[test]
fn a_refusal_is_text_and_the_reason_to_stop() {
    for (last, reason) in [("stop", "refusal"), ("length", "max_tokens")] {
        let chunks = [
            delta(json!({"content": null, "refusal": ""})),
            delta(json!({"refusal": "I can"})),
            delta(json!({"refusal": "not."})),
            finish(last),
        ];
        let message = message(&done(&chunks));
        assert_eq!(message.content, [json!({"type": "text", "text": "I cannot."})]);
        assert_eq!(message.stop_reason, reason);
    }
    let part = delta(json!({"content": [{"type": "refusal", "refusal": "No."}]}));
    assert_eq!(message(&done(&[part, finish("stop")])).stop_reason, "refusal");
}

#[test]
fn numbers_that_are_none_do_not_end_a_stream() {
    let chunk = r#"{"choices":[{"index":0,"delta":{"content":"NaN"},"logprobs":{"content":[{"logprob":-Infinity},{"logprob":NaN}]}}]}"#;
    let stream = format!("data: {chunk}\n\n{}", done(&[finish("stop")]));
    assert_eq!(message(&stream).content, [json!({"type": "text", "text": "NaN"})]);
}

#[test]
fn a_whole_call_is_run_though_the_engine_does_not_say_why_it_stopped() {
    for reason in [Value::Null, json!("eos")] {
        let mut end = finish("");
        end["choices"][0]["finish_reason"] = reason;
        let chunks = [call(0, json!("t"), json!("a"), json!("{}")), end];
        assert_eq!(message(&done(&chunks)).stop_reason, "tool_use");
    }
}

#[test]
fn usage_behind_the_end_mark_is_counted_and_nothing_else_is() {
    let usage = json!({"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 2}});
    let late =
        format!("{}{}", done(&[delta(json!({"content": "a"})), finish("stop")]), frames(&[usage]));
    assert_eq!(message(&late).usage, json!({"input_tokens": 9, "output_tokens": 2}));
    let mut stream = MessageStream::new(origin());
    let mut events = Vec::new();
    let text =
        done(&[delta(json!({"content": "a"})), finish("stop"), delta(json!({"content": "b"}))]);
    stream.feed(text.as_bytes(), &mut events);
    assert!(stream.has_said_all() && !stream.is_finished());
    stream.feed(frames(&[delta(json!({"content": "c"}))]).as_bytes(), &mut events);
    assert!(stream.end(&mut events));
    let message = accumulate(&events);
    assert_eq!((&message.content[0]["text"], message.end), (&json!("ab"), End::Stopped));
}
