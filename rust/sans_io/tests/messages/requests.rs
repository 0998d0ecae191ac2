//! Requests, member by member of the Messages API.

use sans_io::api::messages::{Engine, Request, TranslateError};
use sans_io::api::tool_ids;
use sans_io::seam::{ReasoningNames, SystemMessages};
use serde_json::{Value, json};

/// An engine of which nothing is known.
fn engine(model: &str) -> Engine<'_> {
    Engine { model, system_messages: SystemMessages::First, reasoning_names: ReasoningNames::Both }
}

fn request(body: &[u8], model: &str) -> Result<Vec<u8>, TranslateError> {
    sans_io::api::messages::request(body, &engine(model)).map(|request| request.body)
}

fn count_request(body: &[u8], model: &str) -> Result<Vec<u8>, TranslateError> {
    sans_io::api::messages::count_request(body, &engine(model)).map(|request| request.body)
}

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

/// The chat messages for a model whose template takes these.
fn messages_of(members: &Value, system_messages: SystemMessages) -> Value {
    let mut body = json!({"max_tokens": 5});
    merge(&mut body, members);
    let engine = Engine { system_messages, ..engine("engine") };
    let request = translate(&body, &engine);
    serde_json::from_slice::<Value>(&request.body).unwrap()["messages"].clone()
}

/// The whole of what becomes of a request.
fn translate(body: &Value, engine: &Engine<'_>) -> Request {
    sans_io::api::messages::request(body.to_string().as_bytes(), engine).unwrap()
}

/// How much of a request with these turns is not translated.
fn untranslated(turns: Value) -> u32 {
    translate(&json!({"max_tokens": 5, "messages": turns}), &engine("engine")).untranslated
}

fn call(id: &str) -> Value {
    json!({"type": "tool_use", "id": id, "name": "look", "input": {}})
}

fn result(id: &str) -> Value {
    json!({"type": "tool_result", "tool_use_id": id, "content": format!("r {id}")})
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
            "`max_tokens` must be a whole number that is not negative."
        );
    }
}

#[test]
fn whole_numbers_are_whole_however_they_are_written() {
    let of = |number: &str| {
        let body = format!(
            r#"{{"max_tokens":{number},"top_k":{number},"messages":[{{"role":"user","content":"Hi"}}]}}"#
        );
        request(body.as_bytes(), "m").map(|chat| serde_json::from_slice::<Value>(&chat).unwrap())
    };
    for number in ["50", "50.0", "5e1", "5.0E+1", "500e-1"] {
        let chat = of(number).unwrap();
        assert_eq!((&chat["max_tokens"], &chat["top_k"]), (&json!(50), &json!(50)), "{number}");
    }
    for number in ["50.5", "5e-1", "-50"] {
        assert_eq!(
            of(number).unwrap_err().message,
            "`max_tokens` must be a whole number that is not negative."
        );
    }
    assert_eq!(chat(&json!({"top_k": -1}))["top_k"], -1);
    assert_eq!(rejection(&json!({"top_k": 1.5})), "`top_k` must be a whole number.");
    assert_eq!(rejection(&json!({"top_k": "1"})), "`top_k` must be a whole number.");
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
fn system_messages_go_where_the_models_template_takes_them() {
    let turns = json!([
        {"role": "system", "content": "Second."},
        {"role": "user", "content": "Hi"},
        {"role": "system", "content": [{"type": "text", "text": "Third."}, {"type": "text", "text": "Fourth."}]},
        {"role": "user", "content": "Go on"},
    ]);
    let members = json!({"system": "First.", "messages": turns});
    let first = "First.\n\nSecond.";
    let marked = "<system-message>\nThird.\n\nFourth.\n</system-message>";
    let parts = |texts: &[&str]| {
        let part = |text: &&str| json!({"type": "text", "text": text});
        json!({"role": "user", "content": texts.iter().map(part).collect::<Vec<_>>()})
    };
    assert_eq!(
        messages_of(&members, SystemMessages::First),
        json!([{"role": "system", "content": first}, parts(&["Hi", marked, "Go on"])])
    );
    assert_eq!(
        messages_of(&members, SystemMessages::None),
        json!([parts(&[first, "Hi", marked, "Go on"])])
    );
    assert_eq!(
        messages_of(&members, SystemMessages::Anywhere),
        json!([
            {"role": "system", "content": first},
            {"role": "user", "content": "Hi"},
            {"role": "system", "content": "Third.\n\nFourth."},
            {"role": "user", "content": "Go on"},
        ])
    );
}

#[test]
fn no_system_message_comes_between_calls_and_results() {
    let members = json!({"messages": [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": [call("a"), call("b")]},
        {"role": "system", "content": "S"},
        {"role": "user", "content": [result("a")]},
        {"role": "system", "content": "T"},
        {"role": "user", "content": [result("b"), {"type": "text", "text": "And?"}]},
        {"role": "system", "content": "U"},
    ]});
    let roles = |system_messages| {
        let messages = messages_of(&members, system_messages);
        let shown = |message: &Value| {
            let content = message["content"].as_str().map(str::to_owned);
            format!("{} {}", message["role"].as_str().unwrap(), content.unwrap_or_default())
        };
        messages.as_array().unwrap().iter().map(shown).collect::<Vec<_>>()
    };
    let results = ["user Hi", "assistant ", "tool r a", "tool r b"];
    assert_eq!(roles(SystemMessages::First), [&results[..], &["user "]].concat());
    assert_eq!(roles(SystemMessages::None), [&results[..], &["user "]].concat());
    assert_eq!(
        roles(SystemMessages::Anywhere),
        [&results[..], &["system S", "system T", "user And?", "system U"]].concat()
    );
    let marked = |text: &str| json!({"type": "text", "text": format!("<system-message>\n{text}\n</system-message>")});
    assert_eq!(
        messages_of(&members, SystemMessages::First)[4]["content"],
        json!([marked("S"), marked("T"), {"type": "text", "text": "And?"}, marked("U")])
    );
}

#[test]
fn a_later_system_message_changes_nothing_before_it() {
    let turns = json!([
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": "Go on"},
        {"role": "assistant", "content": "Well."},
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "And?"},
    ]);
    for system_messages in [SystemMessages::First, SystemMessages::Anywhere, SystemMessages::None] {
        let of = |count: usize| {
            let turns = &turns.as_array().unwrap()[..count];
            messages_of(&json!({"system": "S", "messages": turns}), system_messages)
        };
        let (before, after) = (of(3), of(6));
        let (before, after) = (before.as_array().unwrap(), after.as_array().unwrap());
        assert_eq!(before[..], after[..before.len()]);
    }
}

#[test]
fn a_system_text_alone_and_one_before_an_assistant_are_taken_too() {
    let only = json!({"messages": [{"role": "system", "content": "S"}]});
    assert_eq!(
        messages_of(&only, SystemMessages::First),
        json!([{"role": "system", "content": "S"}, {"role": "user", "content": ""}])
    );
    assert_eq!(messages_of(&only, SystemMessages::None), json!([{"role": "user", "content": "S"}]));
    let begins = json!({"system": "S", "messages": [{"role": "assistant", "content": "A"}]});
    assert_eq!(
        messages_of(&begins, SystemMessages::None),
        json!([{"role": "user", "content": "S"}, {"role": "assistant", "content": "A"}])
    );
    assert_eq!(
        messages_of(&begins, SystemMessages::First)[1],
        json!({"role": "user", "content": "(The assistant begins.)"})
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
fn what_the_last_turn_of_the_user_hinges_on_is_refused_with_what_to_send_instead() {
    let pdf = json!({"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "AAAA"}});
    for (block, words) in [
        (pdf.clone(), "has the type `document` and is a PDF or another file"),
        (
            json!({"type": "document", "source": {"type": "url", "url": "https://x/y.pdf"}}),
            "is a PDF",
        ),
        (json!({"type": "document", "source": {"type": "file", "file_id": "f"}}), "another file"),
        (json!({"type": "image", "source": {"type": "file", "file_id": "f"}}), "`base64`"),
        (json!({"type": "container_upload", "file_id": "f"}), "the type `container_upload`"),
        (json!({"type": "holo_gram", "text": "x"}), "the type `holo_gram`"),
    ] {
        let last = |before: Value, blocks: Value| {
            let mut turns = before;
            turns.as_array_mut().unwrap().push(json!({"role": "user", "content": blocks}));
            json!({"messages": turns})
        };
        let refused = rejection(&last(json!([]), json!([block])));
        assert!(refused.starts_with("`messages[0].content[0]` has the type"), "{refused}");
        assert!(refused.contains(words), "{refused}");
        let before =
            json!([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}]);
        let empty = json!({"type": "text", "text": ""});
        assert!(
            rejection(&last(before.clone(), json!([empty, block])))
                .contains("messages[2].content[1]")
        );
        let then_system =
            json!([{"role": "user", "content": [block]}, {"role": "system", "content": "S"}]);
        assert!(rejection(&json!({"messages": then_system})).contains("messages[0].content[0]"));
        // Beside anything of the user's own it is no reason to refuse, nor in an earlier turn.
        for own in [json!({"type": "text", "text": "Read it."}), result("t")] {
            chat(&last(before.clone(), json!([block, own])));
            chat(&last(before.clone(), json!([own, block])));
        }
        chat(&json!({"messages": [
            {"role": "user", "content": [block]}, {"role": "assistant", "content": "No."}, {"role": "user", "content": "Hi"},
        ]}));
        chat(
            &json!({"messages": [{"role": "user", "content": "Hi"}, {"role": "user", "content": [block]}]}),
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
            {"type": "thinking", "thinking": "Well.", "signature": "s"},
            {"type": "text", "text": "I look."},
            {"type": "tool_use", "id": "t1", "name": "look", "input": {}},
            {"type": "tool_use", "id": "t2", "name": "look", "input": {"at": "x"}},
        ]},
        {"role": "user", "content": [result("t1"), result("t2")]},
    ]);
    let calls = json!([
        {"id": "t1", "type": "function", "function": {"name": "look", "arguments": "{}"}},
        {"id": "t2", "type": "function", "function": {"name": "look", "arguments": "{\"at\":\"x\"}"}},
    ]);
    assert_eq!(
        messages(turns.clone())[1],
        json!({
            "role": "assistant", "content": "I look.", "tool_calls": calls,
            "reasoning": "Hm.\nWell.", "reasoning_content": "Hm.\nWell.",
        })
    );
    // An engine that rejects what it does not know is told under its own name alone.
    let engine = Engine { reasoning_names: ReasoningNames::Reasoning, ..engine("engine") };
    let request = translate(&json!({"max_tokens": 5, "messages": turns}), &engine);
    let chat: Value = serde_json::from_slice(&request.body).unwrap();
    assert_eq!(
        chat["messages"][1],
        json!({"role": "assistant", "content": "I look.", "tool_calls": calls, "reasoning": "Hm.\nWell."})
    );
}

#[test]
fn an_input_that_is_the_text_of_an_object_is_that_object() {
    let input = |input: Value| {
        let call = json!({"type": "tool_use", "id": "t", "name": "n", "input": input});
        json!({"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": [call]}]})
    };
    let arguments = |value: Value| {
        chat(&input(value))["messages"][1]["tool_calls"][0]["function"]["arguments"].clone()
    };
    assert_eq!(arguments(json!({"a": 1})), "{\"a\":1}");
    assert_eq!(arguments(json!("{\"a\": 1}")), "{\"a\": 1}");
    assert_eq!(arguments(Value::Null), "{}");
    for wrong in [json!("{\"a\""), json!("[1]"), json!("a"), json!(5), json!([1])] {
        assert!(
            rejection(&input(wrong)).contains("`messages[1].content[0].input` must be an object")
        );
    }
}

#[test]
fn ids_that_were_made_here_become_the_engines_own_again() {
    let made = [1, 2].map(|at| tool_ids::encode("call_0", "msg_1", at));
    let turns = json!([
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": [call(&made[0]), call(&made[1]), call("call_7")]},
        {"role": "user", "content": [result("call_7"), result(&made[1]), result(&made[0])]},
    ]);
    let request = translate(&json!({"max_tokens": 5, "messages": turns}), &engine("engine"));
    let chat: Value = serde_json::from_slice(&request.body).unwrap();
    let of = |path: &str| chat.pointer(path).unwrap().clone();
    for (at, id) in ["call_0", "call_0", "call_7"].into_iter().enumerate() {
        assert_eq!(of(&format!("/messages/1/tool_calls/{at}/id")), id);
        assert_eq!(of(&format!("/messages/{}/tool_call_id", at + 2)), id);
    }
    // They are told apart by what the client calls them.
    assert_eq!(of("/messages/2/content"), format!("r {}", made[0]));
    assert_eq!(of("/messages/3/content"), format!("r {}", made[1]));
    for id in [&*made[0], &*made[1], "call_7"] {
        assert!(request.history.contains(id));
    }
    assert!(!request.history.contains("call_0") && !request.history.contains("r"));
}

#[test]
fn an_assistant_without_text_has_null_beside_calls_and_an_empty_text_beside_thinking() {
    let assistant = |blocks: Value| {
        messages(
            json!([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": blocks}, {"role": "user", "content": "And?"}]),
        )
    };
    assert_eq!(
        assistant(json!([{"type": "tool_use", "id": "t", "name": "n", "input": {}}]))[1]["content"],
        Value::Null
    );
    assert_eq!(
        assistant(json!([{"type": "thinking", "thinking": "Hm.", "signature": ""}]))[1],
        json!({"role": "assistant", "content": "", "reasoning": "Hm.", "reasoning_content": "Hm."})
    );
}

#[test]
fn turns_of_which_nothing_is_left_are_left_out() {
    let parts = |texts: [&str; 2]| json!(texts.map(|text| json!({"type": "text", "text": text})));
    for nothing in [
        json!(""),
        json!([]),
        json!([{"type": "text", "text": ""}]),
        json!([{"type": "redacted_thinking", "data": "x"}]),
        json!([{"type": "thinking", "thinking": "", "signature": "s"}]),
    ] {
        let turns = json!([{"role": "user", "content": "a"}, {"role": "assistant", "content": nothing}, {"role": "user", "content": "b"}]);
        assert_eq!(messages(turns), json!([{"role": "user", "content": parts(["a", "b"])}]));
    }
    for nothing in [json!(""), json!([]), json!([{"type": "text", "text": ""}])] {
        let turns = json!([
            {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},
            {"role": "user", "content": nothing}, {"role": "assistant", "content": "c"},
        ]);
        assert_eq!(
            messages(turns),
            json!([{"role": "user", "content": "a"}, {"role": "assistant", "content": "bc"}])
        );
        // A last one keeps its place: the engine must respond to something.
        let turns = json!([
            {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": nothing},
        ]);
        assert_eq!(messages(turns)[2], json!({"role": "user", "content": ""}));
    }
}

#[test]
fn results_of_tools_come_first_in_the_order_of_their_calls_and_their_images_follow() {
    let picture = |url: &str| json!({"type": "image", "source": {"type": "url", "url": url}});
    let turns = json!([
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": [call("t1"), call("t2"), call("t3")]},
        {"role": "user", "content": [
            {"type": "text", "text": "And now?"},
            {"type": "tool_result", "tool_use_id": "t3", "content": [picture("v")]},
            {"type": "tool_result", "tool_use_id": "t1", "content": [
                {"type": "text", "text": "one"}, picture("u"), {"type": "text", "text": "two"},
            ]},
        ]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t2", "content": "no", "is_error": true}]},
    ]);
    assert_eq!(
        messages(turns).as_array().unwrap()[2..],
        [
            json!({"role": "tool", "content": "one\ntwo", "tool_call_id": "t1"}),
            json!({"role": "tool", "content": "Error: no", "tool_call_id": "t2"}),
            json!({"role": "tool", "content": "", "tool_call_id": "t3"}),
            json!({"role": "user", "content": [
                {"type": "image_url", "image_url": {"url": "u"}},
                {"type": "image_url", "image_url": {"url": "v"}},
                {"type": "text", "text": "And now?"},
            ]}),
        ]
    );
    let only = messages(json!([
        {"role": "assistant", "content": [call("t")]}, {"role": "user", "content": [result("t")]},
    ]));
    assert_eq!(only.as_array().unwrap().len(), 3);
}

#[test]
fn each_call_has_one_result_and_each_result_is_told() {
    let of = |blocks: Value| {
        let turns = json!([
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": [call("a"), call("b"), call("b")]},
            {"role": "user", "content": blocks},
        ]);
        let messages = messages(turns);
        messages.as_array().unwrap()[2..]
            .iter()
            .map(|message| {
                (
                    message["tool_call_id"].as_str().unwrap_or("-").to_owned(),
                    message["content"].clone(),
                )
            })
            .collect::<Vec<_>>()
    };
    let b = |text: &str| json!({"type": "tool_result", "tool_use_id": "b", "content": text});
    let missing = "Error: there is no result of this call.";
    let expected = |texts: [&str; 3]| {
        ["a", "b", "b"]
            .into_iter()
            .map(str::to_owned)
            .zip(texts.map(|text| json!(text)))
            .collect::<Vec<_>>()
    };
    assert_eq!(of(json!([b("1"), b("2"), result("a")])), expected(["r a", "1", "2"]));
    assert_eq!(of(json!([b("1"), b("2"), b("3")])), expected([missing, "1", "2\n3"]));
    assert_eq!(of(json!([b("1")])), expected([missing, "1", missing]));
    let stray = ("-".to_owned(), json!("[Result of a tool call that is not here:\nr x]"));
    assert_eq!(of(json!([result("x")])), [expected([missing; 3]), vec![stray]].concat());
    // A call of an earlier turn has its result by then.
    let late = json!([
        {"role": "user", "content": "Hi"}, {"role": "assistant", "content": [call("a")]},
        {"role": "user", "content": "Wait."}, {"role": "assistant", "content": "Yes."}, {"role": "user", "content": [result("a")]},
    ]);
    assert_eq!(messages(late)[5]["content"], "[Result of a tool call that is not here:\nr a]");
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
fn tools_that_the_client_runs_become_functions_with_the_members_that_anthropic_documents() {
    let tools = json!([
        {"type": "bash_20250124", "name": "bash"},
        {"type": "text_editor_20250728", "name": "str_replace_based_edit_tool", "max_characters": 10},
        {"type": "memory_20250818", "name": "memory"},
        {"type": "computer_20250124", "name": "computer", "display_width_px": 1024.0, "display_height_px": 768},
        {"type": "a_type_of_tomorrow", "name": "own", "input_schema": {"type": "object"}},
    ]);
    let members =
        json!({"max_tokens": 5, "messages": [{"role": "user", "content": "Hi"}], "tools": tools});
    let request = translate(&members, &engine("engine"));
    assert_eq!(request.untranslated, 0);
    let chat: Value = serde_json::from_slice(&request.body).unwrap();
    let functions: Vec<_> =
        chat["tools"].as_array().unwrap().iter().map(|tool| &tool["function"]).collect();
    let names = ["bash", "str_replace_based_edit_tool", "memory", "computer", "own"];
    assert_eq!(
        functions.iter().map(|function| function["name"].as_str().unwrap()).collect::<Vec<_>>(),
        names
    );
    for (function, member) in functions.iter().zip(["command", "insert_text", "old_path", "action"])
    {
        let schema = &function["parameters"];
        assert_eq!(schema["type"], "object");
        assert!(schema["properties"][member].is_object(), "{function}");
        assert!(function["description"].as_str().unwrap().ends_with('.'));
    }
    assert!(functions[3]["description"].as_str().unwrap().contains("1024 x 768"));
    let old = self::chat(
        &json!({"tools": [{"type": "text_editor_20250124", "name": "str_replace_editor"}]}),
    );
    let old = &old["tools"][0]["function"]["parameters"]["properties"];
    assert!(old["insert_text"].is_null() && old["command"].to_string().contains("undo_edit"));
}

#[test]
fn a_second_client_tool_of_its_kind_is_refused() {
    let bash = |version: &str| json!({"type": format!("bash_{version}"), "name": "bash"});
    let words = rejection(&json!({"tools": [bash("20250124"), tool(), bash("20241022")]}));
    assert!(words.starts_with("`tools[2]` is a second tool of its kind"), "{words}");
}

#[test]
fn tools_that_anthropics_servers_run_are_left_out_and_counted() {
    let servers = json!([
        {"type": "web_search_20260209", "name": "web_search", "max_uses": 5},
        {"type": "web_fetch_20250910", "name": "web_fetch"},
        {"type": "code_execution_20250825", "name": "code_execution"},
        {"type": "tool_search_tool_regex_20251119", "name": "tool_search_tool_regex"},
        {"type": "mcp_toolset", "mcp_server_name": "x"},
        {"type": "bash_", "name": "bash"},
        {"type": "a_type_of_tomorrow", "name": "x"},
    ]);
    let members = |tools: Value| json!({"max_tokens": 5, "messages": [{"role": "user", "content": "Hi"}], "tools": tools});
    let request = translate(&members(servers.clone()), &engine("engine"));
    assert_eq!(request.untranslated, 7);
    let mut elsewhere = members(json!([]));
    elsewhere["mcp_servers"] =
        json!([{"type": "url", "url": "https://a.example", "name": "a"}, {"name": "b"}]);
    elsewhere["container"] = json!({"skills": []});
    assert_eq!(translate(&elsewhere, &engine("engine")).untranslated, 3);
    elsewhere["mcp_servers"] = json!([]);
    elsewhere["container"] = Value::Null;
    assert_eq!(translate(&elsewhere, &engine("engine")).untranslated, 0);
    assert_eq!(serde_json::from_slice::<Value>(&request.body).unwrap(), chat(&json!({})));

    let mut mixed = servers.clone();
    mixed.as_array_mut().unwrap().push(tool());
    assert_eq!(chat(&json!({"tools": mixed}))["tools"], chat(&json!({"tools": [tool()]}))["tools"]);
    for (tools, choice) in [
        (&servers, json!({"type": "any"})),
        (&servers, json!({"type": "tool", "name": "web_search"})),
        (&mixed, json!({"type": "tool", "name": "web_fetch"})),
    ] {
        let words = rejection(&json!({"tools": tools, "tool_choice": choice}));
        assert!(words.contains("Anthropic's servers run"), "{words}");
    }
    chat(&json!({"tools": mixed, "tool_choice": {"type": "tool", "name": "look"}}));
    chat(&json!({"tools": servers, "tool_choice": {"type": "auto"}}));
}

#[test]
fn a_tool_without_a_name_or_a_schema_is_refused() {
    assert!(
        rejection(&json!({"tools": [{"name": "x"}]}))
            .contains("`tools[0].input_schema` must be an object")
    );
    assert!(
        rejection(&json!({"tools": [{"name": "", "input_schema": {}}]}))
            .contains("`tools[0].name`")
    );
    assert!(rejection(&json!({"tools": [{"type": "bash_20250124"}]})).contains("`tools[0].name`"));
}

/// Blocks of Anthropic's reference that no chat engine reads, and what is said of them.
fn unreadable() -> Vec<(Value, &'static str)> {
    let pdf = json!({"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "SECRET"}});
    vec![
        (pdf.clone(), "[A PDF document was here; this model cannot read it.]"),
        (
            json!({"type": "document", "title": "T \"q\"", "context": "C", "source": {"type": "url", "url": "https://x"}}),
            "[A PDF document was here; this model cannot read it:\nT \"q\"\nC\nhttps://x]",
        ),
        (
            json!({"type": "document", "source": {"type": "file", "file_id": "SECRET"}}),
            "[A document was here; this model cannot read it.]",
        ),
        (
            json!({"type": "image", "source": {"type": "file", "file_id": "SECRET"}}),
            "[An image was here; this model cannot see it.]",
        ),
        (
            json!({"type": "server_tool_use", "id": "SECRET", "name": "web_search", "input": {"query": "a \"b\""}}),
            "[A tool was called:\n{\"query\":\"a \\\"b\\\"\"}\nweb_search]",
        ),
        (
            json!({"type": "mcp_tool_use", "id": "SECRET", "name": "n", "server_name": "s", "input": {}}),
            "[A tool was called:\nn\ns]",
        ),
        (
            json!({"type": "web_search_tool_result", "tool_use_id": "SECRET", "content": [
                {"type": "web_search_result", "url": "https://a", "title": "A", "encrypted_content": "SECRET", "page_age": null},
                {"type": "web_search_result", "url": "https://b", "title": "B", "encrypted_content": "SECRET", "page_age": "1 day"},
            ]}),
            "[Results of a web search:\nA\nhttps://a\n1 day\nB\nhttps://b]",
        ),
        (
            json!({"type": "web_search_tool_result", "tool_use_id": "SECRET", "content":
                {"type": "web_search_tool_result_error", "error_code": "max_uses_exceeded"}}),
            "[Results of a web search:\nmax_uses_exceeded]",
        ),
        (
            json!({"type": "web_fetch_tool_result", "tool_use_id": "SECRET", "content": {
                "type": "web_fetch_result", "url": "https://a", "content": {
                    "type": "document", "title": "T", "source": {"type": "text", "media_type": "text/plain", "data": "Words."}}}}),
            "[A page of the web:\nWords.\nT\nhttps://a]",
        ),
        (
            json!({"type": "web_fetch_tool_result", "tool_use_id": "SECRET", "content": {
                "type": "web_fetch_result", "url": "https://a", "content": pdf}}),
            "[A page of the web:\nA PDF document was here; this model cannot read it\nhttps://a]",
        ),
        (
            json!({"type": "code_execution_tool_result", "tool_use_id": "SECRET", "content": {
                "type": "code_execution_result", "stdout": "o", "stderr": "e", "return_code": 0,
                "content": [{"type": "code_execution_output", "file_id": "SECRET"}]}}),
            "[Output of code:\ne\no]",
        ),
        (
            json!({"type": "bash_code_execution_tool_result", "tool_use_id": "SECRET", "content": {
                "type": "bash_code_execution_result", "stdout": "o", "stderr": "", "return_code": 0, "content": []}}),
            "[Output of code:\no]",
        ),
        (
            json!({"type": "text_editor_code_execution_tool_result", "tool_use_id": "SECRET", "content": {
                "type": "text_editor_code_execution_str_replace_result", "lines": ["-a", "+b"]}}),
            "[Result of work on a file:\n-a\n+b]",
        ),
        (
            json!({"type": "tool_search_tool_result", "tool_use_id": "SECRET", "content": {
                "type": "tool_search_tool_search_result", "tool_references": [{"type": "tool_reference", "tool_name": "look"}]}}),
            "[Tools that were found:\nlook]",
        ),
        (json!({"type": "tool_reference", "tool_name": "look"}), "[Tools that were found:\nlook]"),
        (
            json!({"type": "mcp_tool_result", "tool_use_id": "SECRET", "is_error": false, "content": [{"type": "text", "text": "a"}]}),
            "[Result of a tool:\na]",
        ),
        (
            json!({"type": "advisor_tool_result", "tool_use_id": "SECRET", "content": {"type": "advisor_result", "text": "a"}}),
            "[Advice:\na]",
        ),
        (
            json!({"type": "compaction", "content": "Long ago."}),
            "[Summary of what came before:\nLong ago.]",
        ),
        (
            json!({"type": "holo_gram", "id": "SECRET", "signature": "SECRET", "deep": {"er": [{"text": "a"}, 1, null, true, "b"]}}),
            "[A block of the type `holo_gram`:\na\nb]",
        ),
        (json!({"type": "holo_gram"}), "[A block of the type `holo_gram`.]"),
        (json!({"type": "No name!"}), "[A block of the type (not a name).]"),
    ]
}

#[test]
fn what_no_chat_engine_reads_is_said_in_a_text_wherever_it_stands() {
    for (block, words) in unreadable() {
        let text = |text: &str| json!({"type": "text", "text": text});
        let turns = json!([
            {"role": "system", "content": [block, text("s")]},
            {"role": "user", "content": [block, text("u")]},
            {"role": "assistant", "content": [text("a"), text("b"), block, text("c"), call("t")]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": [text("r"), block]}]},
        ]);
        assert_eq!(
            messages(turns.clone()),
            json!([
                {"role": "system", "content": format!("{words}\n\ns")},
                {"role": "user", "content": [text(words), text("u")]},
                {"role": "assistant", "content": format!("ab\n\n{words}\n\nc"), "tool_calls": [
                    {"id": "t", "type": "function", "function": {"name": "look", "arguments": "{}"}}]},
                {"role": "tool", "tool_call_id": "t", "content": format!("r\n{words}")},
            ]),
            "{block}"
        );
        assert_eq!(untranslated(turns), 4, "{block}");
    }
}

#[test]
fn bookkeeping_is_dropped_and_counted() {
    for block in [
        json!({"type": "redacted_thinking", "data": "x"}),
        json!({"type": "container_upload", "file_id": "f"}),
        json!({"type": "compaction", "content": null}),
    ] {
        let text = json!({"type": "text", "text": "a"});
        let turns = |blocks: Value| {
            json!([
                {"role": "user", "content": blocks}, {"role": "assistant", "content": blocks}, {"role": "user", "content": "b"},
            ])
        };
        assert_eq!(messages(turns(json!([text, block]))), messages(turns(json!([text]))));
        assert_eq!(
            (untranslated(turns(json!([text, block]))), untranslated(turns(json!([text])))),
            (2, 0)
        );
    }
}

#[test]
fn blocks_in_the_other_partys_turn_are_said_in_a_text() {
    let of = |role: &str, block: Value| {
        let text = json!({"type": "text", "text": "a"});
        let turns =
            json!([{"role": "user", "content": "Hi"}, {"role": role, "content": [text, block]}]);
        messages(turns).to_string()
    };
    let image = json!({"type": "image", "source": {"type": "url", "url": "u"}});
    assert!(of("assistant", image).contains("An image was here"));
    let document = json!({"type": "document", "source": {"type": "text", "data": "Words."}});
    assert!(of("assistant", document).contains("Words."));
    assert!(of("assistant", result("t")).contains("[Result of a tool:\\nr t]"));
    assert!(of("user", call("t")).contains("[A tool was called:\\nlook]"));
    assert!(
        of("user", json!({"type": "thinking", "thinking": "Hm."})).contains("[Thoughts:\\nHm.]")
    );
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
        {"role": "assistant", "content": [call("t")]},
        {"role": "user", "content": [result("t")]},
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
    assert_eq!(messages.as_array().unwrap().len(), 3);
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
    for part in [text, schema, &arguments, r#""temperature":0.70,"#, r#""top_k":10}"#] {
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
        (json!({"system": [{"type": "image", "text": "secret"}]}), "`system[0].source`"),
        (json!({"system": [{"text": "secret"}]}), "`system[0]`"),
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
