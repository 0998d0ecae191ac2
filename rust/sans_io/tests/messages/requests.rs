//! Requests, member by member of the Messages API.

use sans_io::api::messages::{count_request, request};
use serde_json::{Value, json};

/// The chat request for a Messages request with these members on top of the least.
fn chat(members: &Value) -> Value {
    let mut body = json!({"model": "public", "max_tokens": 5, "messages": [{"role": "user", "content": "Hi"}]});
    merge(&mut body, members);
    serde_json::from_slice(&request(body.to_string().as_bytes(), "engine").unwrap()).unwrap()
}

/// The chat messages for these turns.
fn messages(turns: Value) -> Value {
    chat(&json!({"messages": turns}))["messages"].clone()
}

/// The chat message for a user's blocks.
fn user(blocks: Value) -> Value {
    messages(json!([{"role": "user", "content": blocks}]))
}

/// The sentence that rejects a request with these members.
fn rejection(members: &Value) -> String {
    let mut body = json!({"model": "public", "max_tokens": 5, "messages": [{"role": "user", "content": "Hi"}]});
    merge(&mut body, members);
    request(body.to_string().as_bytes(), "engine").unwrap_err().message
}

fn merge(body: &mut Value, members: &Value) {
    for (key, value) in members.as_object().unwrap() {
        body[key] = value.clone();
    }
}

fn tool() -> Value {
    json!({"name": "look", "description": "Looks.", "input_schema": {"type": "object"}})
}

#[test]
fn the_least_request_keeps_its_words_and_takes_the_engines_name() {
    assert_eq!(
        chat(&json!({})),
        json!({"model": "engine", "max_tokens": 5, "messages": [{"role": "user", "content": "Hi"}]})
    );
}

#[test]
fn max_tokens_is_required_and_may_be_zero() {
    assert_eq!(chat(&json!({"max_tokens": 0}))["max_tokens"], 0);
    let body = br#"{"model": "m", "messages": [{"role": "user", "content": "Hi"}]}"#;
    assert!(request(body, "m").unwrap_err().message.contains("`max_tokens` is missing"));
    for wrong in [json!("5"), json!(1.5), json!(-1), json!([])] {
        assert_eq!(
            rejection(&json!({"max_tokens": wrong})),
            "`max_tokens` must be a whole number."
        );
    }
}

#[test]
fn system_texts_become_the_first_message_without_the_billing_header() {
    let first = |members: &Value| chat(members)["messages"][0].clone();
    assert_eq!(
        first(&json!({"system": "Be brief."})),
        json!({"role": "system", "content": "Be brief."})
    );
    let blocks = json!([
        {"type": "text", "text": "x-anthropic-billing-header: cc_version=1;"},
        {"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}},
        {"type": "text", "text": ""},
        {"type": "text", "text": "Be kind."},
    ]);
    assert_eq!(
        first(&json!({"system": blocks})),
        json!({"role": "system", "content": "Be brief.\n\nBe kind."})
    );
    assert_eq!(first(&json!({"system": ""}))["role"], "user");
}

#[test]
fn system_messages_join_the_system_before_the_first_turn_and_stay_in_place_later() {
    let turns = json!([
        {"role": "system", "content": "Second."},
        {"role": "user", "content": "Hi"},
        {"role": "system", "content": [{"type": "text", "text": "Third."}]},
        {"role": "user", "content": "Go on"},
    ]);
    assert_eq!(
        chat(&json!({"system": "First.", "messages": turns}))["messages"],
        json!([
            {"role": "system", "content": "First.\n\nSecond."},
            {"role": "user", "content": "Hi"},
            {"role": "system", "content": "Third."},
            {"role": "user", "content": "Go on"},
        ])
    );
}

#[test]
fn one_text_block_is_a_plain_string_and_several_are_parts() {
    assert_eq!(user(json!([{"type": "text", "text": "a"}]))[0]["content"], "a");
    assert_eq!(
        user(
            json!([{"type": "text", "text": "a"}, {"type": "text", "text": ""}, {"type": "text", "text": "b"}])
        )[0]["content"],
        json!([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}])
    );
    assert_eq!(user(json!([]))[0], json!({"role": "user", "content": ""}));
}

#[test]
fn images_keep_their_place_between_texts() {
    let blocks = json!([
        {"type": "text", "text": "a"},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}},
        {"type": "image", "source": {"type": "url", "url": "https://x/y.png"}},
        {"type": "text", "text": "b", "citations": []},
    ]);
    assert_eq!(
        user(blocks)[0]["content"],
        json!([
            {"type": "text", "text": "a"},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
            {"type": "image_url", "image_url": {"url": "https://x/y.png"}},
            {"type": "text", "text": "b"},
        ])
    );
}

#[test]
fn documents_of_text_and_search_results_become_texts_with_their_titles() {
    let text = json!({"type": "text", "media_type": "text/plain", "data": "Words."});
    assert_eq!(
        user(json!([{"type": "document", "title": "T", "context": "C", "source": text}]))[0]["content"],
        "# T\n\nC\n\nWords."
    );
    assert_eq!(user(json!([{"type": "document", "source": text}]))[0]["content"], "Words.");
    assert_eq!(
        user(json!([{"type": "document", "source": {"type": "content", "content": "Words."}}]))[0]
            ["content"],
        "Words."
    );
    let parts = json!([
        {"type": "text", "text": "p"},
        {"type": "image", "source": {"type": "url", "url": "u"}},
    ]);
    assert_eq!(
        user(
            json!([{"type": "document", "title": "T", "source": {"type": "content", "content": parts}}])
        )[0]["content"],
        json!([
            {"type": "text", "text": "# T"},
            {"type": "text", "text": "p"},
            {"type": "image_url", "image_url": {"url": "u"}},
        ])
    );
    let found = json!({"type": "search_result", "source": "https://x", "title": "T", "content": [{"type": "text", "text": "w"}]});
    assert_eq!(
        user(json!([found]))[0]["content"],
        "# T\n\n\"s\"\n\nw".replace("\"s\"", "https://x")
    );
}

#[test]
fn a_pdf_is_refused_with_what_to_send_instead() {
    for source in [
        json!({"type": "base64", "media_type": "application/pdf", "data": "AAAA"}),
        json!({"type": "url", "url": "https://x/y.pdf"}),
        json!({"type": "file", "file_id": "f"}),
    ] {
        let words = rejection(
            &json!({"messages": [{"role": "user", "content": [{"type": "document", "source": source}]}]}),
        );
        assert!(
            words.starts_with("`messages[0].content[0].source` is a PDF") && words.contains("text"),
            "{words}"
        );
    }
}

#[test]
fn an_assistants_turn_has_text_reasoning_and_calls() {
    let turns = json!([
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "Hm.", "signature": "s"},
            {"type": "redacted_thinking", "data": "x"},
            {"type": "text", "text": "I look."},
            {"type": "tool_use", "id": "t1", "name": "look", "input": {}},
            {"type": "tool_use", "id": "t2", "name": "look", "input": {"at": "x"}},
        ]},
    ]);
    assert_eq!(
        messages(turns)[1],
        json!({"role": "assistant", "content": "I look.", "reasoning": "Hm.", "tool_calls": [
            {"id": "t1", "type": "function", "function": {"name": "look", "arguments": "{}"}},
            {"id": "t2", "type": "function", "function": {"name": "look", "arguments": "{\"at\":\"x\"}"}},
        ]})
    );
}

#[test]
fn an_assistant_without_text_has_null_beside_calls_and_an_empty_text_else() {
    let assistant = |blocks: Value| {
        messages(
            json!([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": blocks}]),
        )
    };
    assert_eq!(
        assistant(json!([{"type": "tool_use", "id": "t", "name": "n", "input": {}}]))[1]["content"],
        Value::Null
    );
    assert_eq!(
        assistant(json!([{"type": "thinking", "thinking": "Hm.", "signature": ""}]))[1],
        json!({"role": "assistant", "content": "", "reasoning": "Hm."})
    );
    assert_eq!(assistant(json!([]))[1], json!({"role": "assistant", "content": ""}));
}

#[test]
fn results_of_tools_come_first_one_each_and_their_images_follow() {
    let picture = json!({"type": "image", "source": {"type": "url", "url": "u"}});
    let blocks = json!([
        {"type": "text", "text": "And now?"},
        {"type": "tool_result", "tool_use_id": "t1", "content": [
            {"type": "text", "text": "one"}, picture, {"type": "text", "text": "two"},
        ]},
        {"type": "tool_result", "tool_use_id": "t2", "content": "no", "is_error": true},
        {"type": "tool_result", "tool_use_id": "t3"},
    ]);
    assert_eq!(
        user(blocks),
        json!([
            {"role": "tool", "content": "one\ntwo", "tool_call_id": "t1"},
            {"role": "tool", "content": "Error: no", "tool_call_id": "t2"},
            {"role": "tool", "content": "", "tool_call_id": "t3"},
            {"role": "user", "content": [
                {"type": "image_url", "image_url": {"url": "u"}},
                {"type": "text", "text": "And now?"},
            ]},
        ])
    );
    assert_eq!(
        user(json!([{"type": "tool_result", "tool_use_id": "t", "content": "x"}]))
            .as_array()
            .unwrap()
            .len(),
        1
    );
}

#[test]
fn tools_become_functions_and_keep_their_schemas() {
    let strict = json!({"type": "custom", "name": "b", "input_schema": {}, "strict": true, "cache_control": {}, "defer_loading": true});
    let request = chat(&json!({"tools": [tool(), strict]}));
    assert_eq!(
        request["tools"],
        json!([
            {"type": "function", "function": {"name": "look", "description": "Looks.", "parameters": {"type": "object"}}},
            {"type": "function", "function": {"name": "b", "parameters": {}, "strict": true}},
        ])
    );
    assert_eq!(request["tool_choice"], "auto");
    assert_eq!(chat(&json!({"tools": []})).get("tools"), None);
}

#[test]
fn tools_that_anthropics_servers_run_are_refused_by_name() {
    let words = rejection(
        &json!({"tools": [tool(), {"type": "web_search_20260209", "name": "web_search"}]}),
    );
    assert!(words.contains("`tools[1]` has the type `web_search_20260209`"), "{words}");
    assert!(
        rejection(&json!({"tools": [{"name": "x"}]}))
            .contains("`tools[0].input_schema` must be an object")
    );
    assert!(
        rejection(&json!({"tools": [{"name": "", "input_schema": {}}]}))
            .contains("`tools[0].name`")
    );
}

#[test]
fn blocks_that_have_no_counterpart_are_refused_by_type() {
    for (role, kind) in [
        ("assistant", "server_tool_use"),
        ("assistant", "image"),
        ("user", "tool_use"),
        ("user", "thinking"),
    ] {
        let turns =
            json!([{"role": "user", "content": "Hi"}, {"role": role, "content": [{"type": kind}]}]);
        let words = rejection(&json!({"messages": turns}));
        assert!(
            words.starts_with(&format!("`messages[1].content[0]` has the type `{kind}`")),
            "{words}"
        );
    }
}

#[test]
fn the_choice_of_tools_has_its_four_words() {
    let choice = |choice: Value| {
        let request = chat(&json!({"tools": [tool()], "tool_choice": choice}));
        (request["tool_choice"].clone(), request["parallel_tool_calls"].clone())
    };
    assert_eq!(choice(json!({"type": "auto"})), (json!("auto"), Value::Null));
    assert_eq!(choice(json!({"type": "any"})), (json!("required"), Value::Null));
    assert_eq!(choice(json!({"type": "none"})), (json!("none"), Value::Null));
    assert_eq!(
        choice(json!({"type": "tool", "name": "look"})),
        (json!({"type": "function", "function": {"name": "look"}}), Value::Null)
    );
    assert_eq!(
        choice(json!({"type": "auto", "disable_parallel_tool_use": true})),
        (json!("auto"), json!(false))
    );
    assert_eq!(
        choice(json!({"type": "auto", "disable_parallel_tool_use": false})),
        (json!("auto"), Value::Null)
    );
    assert!(
        rejection(&json!({"tools": [tool()], "tool_choice": {"type": "x"}}))
            .contains("`tool_choice.type`")
    );
    assert!(
        rejection(&json!({"tools": [tool()], "tool_choice": {"type": "tool"}}))
            .contains("`tool_choice.name`")
    );
}

#[test]
fn a_choice_among_no_tools_is_dropped_or_refused() {
    assert_eq!(chat(&json!({"tool_choice": {"type": "auto"}})).get("tool_choice"), None);
    assert!(rejection(&json!({"tool_choice": {"type": "any"}})).contains("`tools` is empty"));
}

#[test]
fn sampling_stops_and_the_user_pass_under_their_chat_names() {
    let request = chat(
        &json!({"temperature": 0.5, "top_p": 1, "top_k": 3, "stop_sequences": ["a", "b"], "metadata": {"user_id": "u"}}),
    );
    assert_eq!(
        (&request["temperature"], &request["top_p"], &request["top_k"]),
        (&json!(0.5), &json!(1), &json!(3))
    );
    assert_eq!((&request["stop"], &request["user"]), (&json!(["a", "b"]), &json!("u")));
    let nothing = chat(&json!({"temperature": null, "stop_sequences": [], "metadata": {}}));
    assert_eq!(nothing, chat(&json!({})));
    assert_eq!(rejection(&json!({"top_p": "1"})), "`top_p` must be a number.");
    assert_eq!(
        rejection(&json!({"stop_sequences": ["a", 1]})),
        "`stop_sequences` must be a list of strings."
    );
}

#[test]
fn a_stream_is_asked_for_with_its_usage() {
    let body =
        json!({"max_tokens": 5, "messages": [{"role": "user", "content": "Hi"}], "stream": true})
            .to_string();
    let request = request(body.as_bytes(), "engine").unwrap();
    let chat: Value = serde_json::from_slice(&request).unwrap();
    assert_eq!(
        (&chat["stream"], &chat["stream_options"]),
        (&json!(true), &json!({"include_usage": true}))
    );
    assert_eq!(self::chat(&json!({"stream": false})).get("stream"), None);
}

#[test]
fn thinking_is_a_hint_that_never_refuses() {
    let hint = |thinking: Value| {
        chat(&json!({"thinking": thinking}))["chat_template_kwargs"]["enable_thinking"].clone()
    };
    assert_eq!(hint(json!({"type": "enabled", "budget_tokens": 1024})), json!(true));
    assert_eq!(hint(json!({"type": "disabled"})), json!(false));
    for other in [json!({"type": "adaptive"}), json!({"type": "x"}), json!(5), Value::Null] {
        assert_eq!(hint(other), Value::Null);
    }
}

#[test]
fn the_output_config_becomes_an_effort_and_a_schema() {
    let effort =
        |word: &str| chat(&json!({"output_config": {"effort": word}}))["reasoning_effort"].clone();
    assert_eq!(
        [effort("low"), effort("medium"), effort("high"), effort("max")],
        ["low", "medium", "high", "high"]
    );
    assert_eq!(effort("x"), Value::Null);
    let format = json!({"type": "json_schema", "schema": {"type": "object"}});
    let wanted = json!({"type": "json_schema", "json_schema": {"name": "answer", "schema": {"type": "object"}}});
    assert_eq!(chat(&json!({"output_config": {"format": format}}))["response_format"], wanted);
    assert_eq!(chat(&json!({"output_format": format}))["response_format"], wanted);
    assert!(
        rejection(&json!({"output_config": {"format": {"type": "grammar"}}}))
            .contains("`json_schema`")
    );
}

#[test]
fn what_a_chat_engine_does_not_know_is_dropped() {
    let members = json!({
        "cache_control": {"type": "ephemeral"}, "service_tier": "auto", "speed": "fast", "container": "c", "inference_geo": "eu",
        "context_management": {}, "diagnostics": {}, "mcp_servers": [], "whatever": 1,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Hi", "cache_control": {}}], "x": 1}],
    });
    assert_eq!(chat(&members), chat(&json!({})));
}

#[test]
fn turns_of_one_role_are_merged() {
    let turns = json!([
        {"role": "user", "content": "a"},
        {"role": "user", "content": [{"type": "text", "text": "b"}]},
        {"role": "assistant", "content": "c"},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "n", "input": {}}]},
    ]);
    let messages = messages(turns);
    assert_eq!(
        messages[0]["content"],
        json!([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}])
    );
    assert_eq!(
        (&messages[1]["content"], &messages[1]["tool_calls"][0]["id"]),
        (&json!("c"), &json!("t"))
    );
    assert_eq!(messages.as_array().unwrap().len(), 2);
}

#[test]
fn a_last_turn_of_the_assistant_is_sent_as_it_is() {
    let turns = json!([{"role": "user", "content": "a"}, {"role": "assistant", "content": "The answer is"}]);
    assert_eq!(messages(turns.clone()), turns);
}

#[test]
fn texts_numbers_schemas_and_inputs_pass_as_they_were_written() {
    let (text, schema, input) = (
        r#""a\/\ud800\u00e9 é \n""#,
        r#"{"z":1.10,"a":{"b":123456789012345678901234567890}}"#,
        r#"{"n":-0.0, "a":1e400}"#,
    );
    let body = format!(
        r#"{{"max_tokens":5,"temperature":0.70,"top_k":1E1,"tools":[{{"name":"n","input_schema":{schema}}}],"messages":[
        {{"role":"user","content":{text}}},
        {{"role":"assistant","content":[{{"type":"tool_use","id":"t","name":"n","input":{input}}}]}}]}}"#
    );
    let request = String::from_utf8(request(body.as_bytes(), "e").unwrap()).unwrap();
    let arguments = Value::from(input).to_string();
    for part in [text, schema, &arguments, r#""temperature":0.70,"#, r#""top_k":1E1"#] {
        assert!(request.contains(part), "{part} in {request}");
    }
}

#[test]
fn an_image_of_megabytes_passes() {
    let data = "A".repeat(5 << 20);
    let body = format!(
        r#"{{"max_tokens":5,"messages":[{{"role":"user","content":[{{"type":"image","source":{{"type":"base64","media_type":"image/png","data":"{data}"}}}}]}}]}}"#
    );
    let request = String::from_utf8(request(body.as_bytes(), "e").unwrap()).unwrap();
    assert!(request.contains(&format!("\"data:image/png;base64,{data}\"")));
}

#[test]
fn a_refusal_names_the_place_and_repeats_nothing_else() {
    for (members, place) in [
        (json!({"messages": "secret"}), "`messages`"),
        (json!({"messages": []}), "`messages`"),
        (json!({"messages": ["secret"]}), "`messages[0]`"),
        (json!({"messages": [{"role": "secret", "content": ""}]}), "`messages[0].role`"),
        (json!({"messages": [{"role": "user"}]}), "`messages[0].content`"),
        (
            json!({"messages": [{"role": "user", "content": {"secret": 1}}]}),
            "`messages[0].content`",
        ),
        (
            json!({"messages": [{"role": "user", "content": ["secret"]}]}),
            "`messages[0].content[0]`",
        ),
        (
            json!({"messages": [{"role": "user", "content": [{"type": "text", "text": 5}]}]}),
            "`messages[0].content[0].text`",
        ),
        (
            json!({"messages": [{"role": "user", "content": [{"type": "secret secret"}]}]}),
            "`messages[0].content[0]`",
        ),
        (
            json!({"messages": [{"role": "user", "content": [{"type": "image", "source": "secret"}]}]}),
            "`messages[0].content[0].source`",
        ),
        (
            json!({"messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text"}]}]}]}),
            "`messages[0].content[0].content[0].text`",
        ),
        (
            json!({"messages": [{"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "n", "input": "secret"}]}]}),
            "`messages[0].content[0].input`",
        ),
        (json!({"system": [{"type": "image", "text": "secret"}]}), "`system[0]`"),
        (json!({"system": 5}), "`system`"),
        (json!({"tools": "secret"}), "`tools`"),
        (json!({"tool_choice": "secret"}), "`tool_choice`"),
    ] {
        let words = rejection(&members);
        assert!(
            words.contains(place) && words.ends_with('.') && !words.contains("secret"),
            "{words}"
        );
    }
}

#[test]
fn a_body_that_is_no_json_object_is_refused() {
    for body in [&b"[]"[..], b"{", b"", b"{\"max_tokens\":1,\"max_tokens\":2}", b"\xff"] {
        assert!(request(body, "m").unwrap_err().message.starts_with("The request body"));
    }
}

#[test]
fn nesting_without_end_harms_nobody() {
    let deep = "[".repeat(200_000);
    let body = format!(r#"{{"max_tokens":5,"messages":[{{"role":"user","content":{deep}}}]}}"#);
    assert!(request(body.as_bytes(), "m").is_err());
    let deep = format!("{}{}", "[".repeat(200_000), "]".repeat(200_000));
    let body = format!(r#"{{"max_tokens":5,"messages":[{{"role":"user","content":{deep}}}]}}"#);
    assert!(request(body.as_bytes(), "m").is_err());
}

#[test]
fn a_count_asks_for_one_token_after_the_same_prompt() {
    let body = json!({
        "model": "public", "system": "S", "messages": [{"role": "user", "content": "Hi"}], "tools": [tool()],
        "tool_choice": {"type": "any"}, "thinking": {"type": "disabled"}, "stream": true,
    });
    let request = count_request(body.to_string().as_bytes(), "engine").unwrap();
    assert_eq!(
        serde_json::from_slice::<Value>(&request).unwrap(),
        json!({
            "model": "engine", "max_tokens": 1, "tool_choice": "auto", "chat_template_kwargs": {"enable_thinking": false},
            "messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "Hi"}],
            "tools": [{"type": "function", "function": {"name": "look", "description": "Looks.", "parameters": {"type": "object"}}}],
        })
    );
}
