//! Whole responses: blocks, stop reasons, usage, and errors.

use sans_io::api::{
    messages::{count_response, response},
    tool_ids,
};
use serde_json::{Value, json};

use crate::agreement::origin;

/// The Message for a chat completion with this choice and usage.
fn message(choice: &Value, usage: &Value) -> Value {
    let body = json!({"id": "chatcmpl-9a", "object": "chat.completion", "model": "engine", "choices": [choice], "usage": usage});
    serde_json::from_slice(&response(body.to_string().as_bytes(), &origin()).unwrap()).unwrap()
}

fn spoken(message: Value) -> Value {
    self::message(&json!({"index": 0, "message": message, "finish_reason": "stop"}), &json!({}))["content"].clone()
}

#[test]
fn a_recorded_response_of_vllm_becomes_a_message() {
    let body = r#"{"id":"chatcmpl-a1067a2d19dae1f1","object":"chat.completion","created":1795360598,"model":"tiny","choices":[{"index":0,"message":{"role":"assistant","content":"\n\n\n\n\n\n","refusal":null,"annotations":null,"audio":null,"function_call":null,"reasoning":null},"logprobs":null,"finish_reason":"length","stop_reason":null,"token_ids":null,"routed_experts":null}],"service_tier":null,"system_fingerprint":"vllm-0.32.0-d693bc74","usage":{"prompt_tokens":24,"total_tokens":30,"completion_tokens":6,"prompt_tokens_details":{"cached_tokens":0,"created_cache_tokens":0,"multimodal_tokens":null},"completion_tokens_details":null},"prompt_logprobs":null,"prompt_token_ids":null,"prompt_text":null,"kv_transfer_params":null,"ec_transfer_params":null,"metrics":null}"#;
    let message: Value =
        serde_json::from_slice(&response(body.as_bytes(), &origin()).unwrap()).unwrap();
    assert_eq!(
        message,
        json!({
            "id": "msg_1", "type": "message", "role": "assistant", "model": "public",
            "content": [{"type": "text", "text": "\n\n\n\n\n\n"}], "stop_reason": "max_tokens", "stop_sequence": null,
            "usage": {"input_tokens": 24, "output_tokens": 6, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0},
        })
    );
}

#[test]
fn thinking_comes_before_text_and_calls_from_either_field() {
    for field in ["reasoning", "reasoning_content"] {
        let mut message = json!({"content": "T", "tool_calls": [{"id": "t", "function": {"name": "n", "arguments": "{\"a\": 1}"}}]});
        message[field] = json!("R");
        assert_eq!(
            spoken(message),
            json!([
                {"type": "thinking", "thinking": "R", "signature": "unsigned"},
                {"type": "text", "text": "T"},
                {"type": "tool_use", "id": "t", "name": "n", "input": {"a": 1}},
            ])
        );
    }
    let both = spoken(json!({"content": null, "reasoning": "R", "reasoning_content": "R"}));
    assert_eq!(both.as_array().unwrap().len(), 1, "engines with both fields say the same in both");
}

#[test]
fn a_response_without_content_has_one_empty_text() {
    for message in [
        json!({}),
        json!({"content": null}),
        json!({"content": "", "tool_calls": [], "reasoning": ""}),
    ] {
        assert_eq!(spoken(message), json!([{"type": "text", "text": ""}]));
    }
}

#[test]
fn arguments_that_are_no_object_are_said_to_be_none() {
    let invalid = |text: &str| json!({"INVALID_JSON": text});
    for (arguments, input) in [
        (json!(""), json!({})),
        (json!(" null\n"), json!({})),
        (Value::Null, json!({})),
        (json!("[1]"), invalid("[1]")),
        (json!([1]), invalid("[1]")),
        (json!(5), invalid("5")),
        (json!("5"), invalid("5")),
        (json!("hello"), invalid("hello")),
        (json!("{\"a\":"), invalid("{\"a\":")),
        (json!("{\"a\":1}{"), json!({"a": 1})),
        (json!("{\"a\":NaN,\"b\":[-Infinity,2]}"), json!({"a": null, "b": [null, 2]})),
    ] {
        let call = json!({"id": "t", "function": {"name": "n", "arguments": arguments}});
        assert_eq!(spoken(json!({"tool_calls": [call]}))[0]["input"], input, "{arguments}");
    }
    let half = r#"{"choices":[{"message":{"tool_calls":[{"function":{"name":"n","arguments":"{\"a\":\"\ud800\"}"}}]}}]}"#;
    let message = String::from_utf8(response(half.as_bytes(), &origin()).unwrap()).unwrap();
    assert!(message.contains(r#""input":{"a":"\ud800"}"#), "half of a pair: {message}");
    let call = json!({"id": "t", "function": {"name": "n", "arguments": {"a": 1}}});
    assert_eq!(
        spoken(json!({"tool_calls": [call]}))[0]["input"],
        json!({"a": 1}),
        "an object in place of its text"
    );
}

#[test]
fn missing_ids_are_made_and_differ() {
    let call = json!({"id": "", "function": {"name": "n", "arguments": "{}"}});
    let blocks = spoken(json!({"tool_calls": [call, call]}));
    let ids = [&blocks[0]["id"], &blocks[1]["id"]];
    assert!(ids.iter().all(|id| id.as_str().unwrap().starts_with("toolu_")) && ids[0] != ids[1]);
    let legacy = spoken(json!({"function_call": {"name": "n", "arguments": "{}"}}));
    assert_eq!(legacy, json!([{"type": "tool_use", "id": ids[0], "name": "n", "input": {}}]));
}

#[test]
fn texts_and_inputs_pass_as_they_were_written() {
    let arguments =
        Value::from(r#"{"z":1.10,"a":123456789012345678901234567890,"s":"\ud800"}"#).to_string();
    let body = format!(
        r#"{{"choices":[{{"message":{{"content":"\ud800\/é","tool_calls":[{{"id":"t","function":{{"name":"n","arguments":{arguments}}}}}]}}}}]}}"#
    );
    let message = String::from_utf8(response(body.as_bytes(), &origin()).unwrap()).unwrap();
    assert!(message.contains(r#""text":"\ud800\/é""#), "{message}");
    assert!(
        message.contains(r#""input":{"z":1.10,"a":123456789012345678901234567890,"s":"\ud800"}"#),
        "{message}"
    );
}

#[test]
fn every_finish_reason_has_its_stop_reason() {
    let call = json!([{"id": "t", "function": {"name": "n", "arguments": "{}"}}]);
    let cut = json!([{"id": "t", "function": {"name": "n", "arguments": "{\"a\":"}}]);
    for (finish, matched, calls, reason, sequence) in [
        (json!("length"), json!("x"), &call, "max_tokens", Value::Null),
        (json!("tool_calls"), Value::Null, &call, "tool_use", Value::Null),
        (json!("function_call"), Value::Null, &call, "tool_use", Value::Null),
        (json!("stop"), Value::Null, &call, "tool_use", Value::Null),
        (json!("stop"), json!("x"), &cut, "tool_use", Value::Null),
        (json!("tool_calls"), Value::Null, &Value::Null, "end_turn", Value::Null),
        (json!("stop"), json!("x"), &Value::Null, "stop_sequence", json!("x")),
        (json!("stop"), json!(151_645), &Value::Null, "end_turn", Value::Null),
        (json!("stop"), Value::Null, &Value::Null, "end_turn", Value::Null),
        (json!("content_filter"), Value::Null, &Value::Null, "refusal", Value::Null),
        (Value::Null, Value::Null, &Value::Null, "end_turn", Value::Null),
    ] {
        let choice = json!({"message": {"content": "", "tool_calls": calls}, "finish_reason": finish, "stop_reason": matched});
        let message = message(&choice, &json!({}));
        assert_eq!(
            (&message["stop_reason"], &message["stop_sequence"]),
            (&json!(reason), &sequence),
            "{choice}"
        );
    }
    for reason in ["abort", "cancelled", "timeout", "error"] {
        let body = json!({"choices": [{"message": {"content": "a"}, "finish_reason": reason}]});
        let error = response(body.to_string().as_bytes(), &origin()).unwrap_err();
        assert!(error.message.contains("gave up"), "{reason}: as in streams");
    }
}

#[test]
fn a_call_that_names_no_tool_is_an_error() {
    for function in [json!({"arguments": "{}"}), json!({"name": null}), json!({"name": ""})] {
        let message = json!({"tool_calls": [{"id": "t", "function": function}]});
        let body = json!({"choices": [{"message": message, "finish_reason": "tool_calls"}]});
        let error = response(body.to_string().as_bytes(), &origin()).unwrap_err();
        assert!(error.message.contains("names no tool"), "{function}");
        let cut = json!({"message": message, "finish_reason": "length"});
        let cut = self::message(&cut, &json!({}));
        assert_eq!(cut["content"], json!([{"type": "text", "text": ""}]), "{function}");
        assert_eq!(cut["stop_reason"], "max_tokens");
    }
}

#[test]
fn a_single_call_without_its_list_is_a_call() {
    let call = json!({"id": "t", "function": {"name": "n", "arguments": "{\"a\":1}"}});
    assert_eq!(spoken(json!({"tool_calls": call}))[0]["input"], json!({"a": 1}));
}

#[test]
fn input_tokens_are_those_that_the_cache_has_nothing_to_do_with() {
    let usage = |usage: Value| message(&json!({"message": {}}), &usage)["usage"].clone();
    assert_eq!(
        usage(
            json!({"prompt_tokens": 10, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 4, "created_cache_tokens": 1}})
        ),
        json!({"input_tokens": 5, "output_tokens": 3, "cache_read_input_tokens": 4, "cache_creation_input_tokens": 1})
    );
    assert_eq!(
        usage(
            json!({"prompt_tokens": 1, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 4}})
        ),
        json!({"input_tokens": 0, "output_tokens": 3, "cache_read_input_tokens": 4})
    );
    for nothing in [
        Value::Null,
        json!({}),
        json!({"prompt_tokens": null, "prompt_tokens_details": null}),
        json!({"prompt_tokens": -1}),
    ] {
        assert_eq!(usage(nothing), json!({"input_tokens": 0, "output_tokens": 0}));
    }
}

#[test]
fn only_the_choice_zero_counts() {
    let body =
        json!({"choices": [{"index": 1, "message": {"content": "b"}}, {"index": 0, "message": {"content": "a"}}]})
            .to_string();
    let message: Value =
        serde_json::from_slice(&response(body.as_bytes(), &origin()).unwrap()).unwrap();
    assert_eq!(message["content"][0]["text"], "a");
}

#[test]
fn what_is_no_chat_completion_is_an_error_without_its_words() {
    for body in [
        "",
        "secret",
        "[]",
        "{}",
        r#"{"choices":[]}"#,
        r#"{"choices":[{"index":0}]}"#,
        r#"{"error":"secret"}"#,
        r#"{"choices":[{"message":{"content":5}}]}"#,
    ] {
        let words = response(body.as_bytes(), &origin()).unwrap_err().message;
        assert!(
            words.starts_with("The engine's response is no chat completion")
                && !words.contains("secret"),
            "{body}"
        );
    }
}

#[test]
fn a_count_is_the_engines_own() {
    let body =
        json!({"choices": [{"message": {}}], "usage": {"prompt_tokens": 24, "completion_tokens": 1}}).to_string();
    assert_eq!(count_response(body.as_bytes()).unwrap(), br#"{"input_tokens":24}"#);
    let float = r#"{"usage":{"prompt_tokens":42.0}}"#;
    assert_eq!(count_response(float.as_bytes()).unwrap(), br#"{"input_tokens":42}"#);
    for body in
        ["{}", r#"{"usage":null}"#, r#"{"usage":{}}"#, r#"{"usage":{"prompt_tokens":"24"}}"#]
    {
        let error = count_response(body.as_bytes()).unwrap_err();
        assert!(error.message.contains("no `usage`"), "no count is no zero: {error:?}");
    }
}

#[test]
fn parts_refusals_and_other_names_are_read_as_in_a_stream() {
    let thinking = json!([{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "a"}, {"type": "text", "text": "b"}]);
    assert_eq!(
        spoken(json!({"content": thinking})),
        json!([
            {"type": "thinking", "thinking": "hm", "signature": "unsigned"},
            {"type": "text", "text": "ab"},
        ])
    );
    let choice = json!({"message": {"content": null, "refusal": "No."}, "finish_reason": "stop"});
    let refused = message(&choice, &json!({}));
    assert_eq!(
        (&refused["content"][0]["text"], &refused["stop_reason"]),
        (&json!("No."), &json!("refusal"))
    );
    let details = json!([{"type": "reasoning.text", "text": "R"}]);
    assert_eq!(spoken(json!({"reasoning_details": details}))[0]["thinking"], "R");
}

#[test]
fn arguments_encoded_twice_are_an_object() {
    let arguments = json!(r#"{"a": "é\"\n"}"#).to_string();
    let call = json!({"id": "t", "function": {"name": "n", "arguments": arguments}});
    assert_eq!(spoken(json!({"tool_calls": [call]}))[0]["input"], json!({"a": "é\"\n"}));
}

#[test]
fn ids_of_the_conversation_are_not_used_again() {
    let call = |id: &str| json!({"id": id, "function": {"name": "n", "arguments": "{}"}});
    let blocks =
        spoken(json!({"tool_calls": [call("call_0"), call("a"), call("a"), call("call_0")]}));
    let ids: Vec<&str> =
        blocks.as_array().unwrap().iter().map(|block| block["id"].as_str().unwrap()).collect();
    assert_eq!(ids[1], "a");
    for (id, own) in [(ids[0], "call_0"), (ids[2], "a"), (ids[3], "call_0")] {
        assert_eq!(tool_ids::decode(id).as_deref(), Some(own));
    }
    assert!(ids[0] != ids[3]);
}
