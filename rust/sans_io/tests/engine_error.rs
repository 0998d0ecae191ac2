//! `engine_error`: every shape of an engine's error in every dialect, its names hidden, and no
//! other byte changed.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on says where"
)]

use proptest::prelude::*;
use sans_io::api::engine_error::{fix_error_frames, reshape, true_status};
use sans_io::api::error::Dialect;
use serde_json::{Value, json};

fn names(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|&(name, public)| (name.to_owned(), public.to_owned())).collect()
}

/// The document that a client gets; the body itself where it passes.
fn reshaped(status: u16, body: &str, dialect: Dialect) -> Value {
    let made = reshape(status, body.as_bytes(), dialect, "req-1", &[]);
    serde_json::from_slice(&made.unwrap_or_else(|| body.into())).unwrap()
}

fn openai(message: &str, kind: &str, code: &str) -> Value {
    json!({"error": {"message": message, "type": kind, "param": null, "code": code}})
}

/// The frames as a client of Anthropic's API gets them; None: they pass.
fn in_anthropics_words(frames: &[u8]) -> Option<Vec<u8>> {
    fix_error_frames(frames, Dialect::Anthropic, &[])
}

/// The frames without the engine's names, in a dialect that has no words of its own for them.
fn without_names(frames: &[u8], names: &[(String, String)]) -> Option<Vec<u8>> {
    fix_error_frames(frames, Dialect::Management, names)
}

fn anthropic(message: &str, kind: &str) -> Value {
    json!({"type": "error", "error": {"type": kind, "message": message}, "request_id": "req-1"})
}

/// The text as a client sees it in an error's message; None where the body passes as it is.
fn redacted(text: &str, names: &[(String, String)]) -> Option<String> {
    let body = json!({"error": {"message": text, "code": "x"}}).to_string();
    let made = reshape(400, body.as_bytes(), Dialect::OpenAi, "r", names)?;
    let made: Value = serde_json::from_slice(&made).unwrap();
    made["error"]["message"].as_str().map(str::to_owned)
}

#[test]
fn what_an_sdk_can_read_passes_as_it_is() {
    let vllm = r#"{"error":{"message":"The model `nope` does not exist.","type":"NotFoundError","param":"model","code":"model_not_found"}}"#;
    assert_eq!(reshape(404, vllm.as_bytes(), Dialect::OpenAi, "r", &[]), None);
    let message =
        r#"{ "type":"error","error":{"type":"not_found_error","message":"No."},"request_id":"r2"}"#;
    assert_eq!(reshape(404, message.as_bytes(), Dialect::Anthropic, "r", &[]), None);
    for body in [vllm, message, "", "<html>"] {
        assert_eq!(reshape(500, body.as_bytes(), Dialect::Management, "r", &[]), None);
    }
}

#[test]
fn every_other_shape_becomes_the_dialects() {
    let long = "x".repeat(600);
    for (status, body, message) in [
        (401, r#"{"error":"Unauthorized"}"#, "Unauthorized"),
        (404, r#"{"detail":"Not Found"}"#, "Not Found"),
        (
            422,
            r#"{"detail":[{"type":"missing","loc":["body","messages",0],"msg":"Field required"},{"msg":"Bad"}]}"#,
            "body.messages.0: Field required; Bad",
        ),
        (
            400,
            r#"{"object":"error","message":"Too hot","type":"BadRequestError","param":null,"code":400}"#,
            "Too hot",
        ),
        (400, "\"said\"", "said"),
        (500, "Internal Server Error\n", "Internal Server Error"),
        (502, long.as_str(), &long[..500]),
        (
            502,
            "<html><body>secret</body></html>",
            "The engine responded with status 502 and a page of HTML. Send the request again, or \
             look into the engine's log.",
        ),
        (
            500,
            " ",
            "The engine responded with status 500 without a word. Send the request again, or look \
             into the engine's log.",
        ),
        (400, r#"{"odd":1}"#, r#"{"odd":1}"#),
        (400, r#"{"error":null}"#, r#"{"error":null}"#),
    ] {
        let (ours, code, theirs) = match status {
            401 => ("invalid_request_error", "invalid_api_key", "authentication_error"),
            404 => ("invalid_request_error", "not_found", "not_found_error"),
            500 | 502 => ("server_error", "engine_error", "api_error"),
            _ => ("invalid_request_error", "invalid_request", "invalid_request_error"),
        };
        // A number that the engine has said stays one, as a string.
        let code = if body.contains(r#""code":400"#) { "400" } else { code };
        assert_eq!(reshaped(status, body, Dialect::OpenAi), openai(message, ours, code), "{body}");
        assert_eq!(
            reshaped(status, body, Dialect::Anthropic),
            anthropic(message, theirs),
            "{body}"
        );
    }
}

#[test]
fn a_text_that_is_no_unicode_is_told_all_the_same() {
    let made = reshape(500, b"bad \xff byte", Dialect::OpenAi, "r", &[]).unwrap();
    let made: Value = serde_json::from_slice(&made).unwrap();
    assert_eq!(made["error"]["message"], "bad \u{fffd} byte");
}

#[test]
fn a_flat_error_keeps_its_parameter_and_its_word() {
    let body = r#"{"object":"error","message":"Too long","type":"x","param":"max_tokens","code":"context_length_exceeded"}"#;
    let error = reshaped(400, body, Dialect::OpenAi)["error"].take();
    assert_eq!(
        (&error["param"], &error["code"]),
        (&json!("max_tokens"), &json!("context_length_exceeded"))
    );
}

#[test]
fn a_model_that_the_engine_lacks_has_the_code_that_clients_look_for() {
    for body in [
        r#"{"error":{"message":"The model `m` does not exist.","type":"NotFoundError","param":"model","code":404}}"#,
        r#"{"object":"error","message":"The model 'm' does not exist.","type":"NotFoundError","code":404}"#,
        r#"{"error":{"code":404,"message":"model 'm' not found","type":"not_found_error"}}"#,
        r#"{"detail":"Model m not found"}"#,
        r#"{"error":"model not found"}"#,
    ] {
        assert_eq!(
            reshaped(404, body, Dialect::OpenAi)["error"]["code"],
            "model_not_found",
            "{body}"
        );
    }
    for (status, body, code) in [
        (404, r#"{"error":{"message":"Not Found","code":404}}"#, "404"),
        (404, r#"{"detail":"Not Found"}"#, "not_found"),
        (400, r#"{"error":{"message":"The model does not exist.","code":400}}"#, "400"),
        (404, r#"{"error":{"message":"The model does not exist.","code":"own"}}"#, "own"),
    ] {
        assert_eq!(reshaped(status, body, Dialect::OpenAi)["error"]["code"], code, "{body}");
    }
}

#[test]
fn each_dialect_is_told_the_others_error_in_its_own_shape() {
    let vllm = r#"{"type":"error","error":{"type":"Service Unavailable","message":"Busy."}}"#;
    assert_eq!(
        reshaped(503, vllm, Dialect::OpenAi),
        openai("Busy.", "server_error", "engine_overloaded")
    );
    assert_eq!(reshaped(503, vllm, Dialect::Anthropic), anthropic("Busy.", "overloaded_error"));
    let bad_json = r#"{"error":{"message":"1 validation error","type":"Bad Request","param":"body.31","code":400}}"#;
    assert_eq!(
        reshaped(400, bad_json, Dialect::Anthropic),
        anthropic("1 validation error", "invalid_request_error")
    );
    let newer = r#"{"type":"error","error":{"type":"rate_limit_error","message":"Slow down."}}"#;
    assert_eq!(
        reshaped(503, newer, Dialect::Anthropic),
        anthropic("Slow down.", "rate_limit_error")
    );
}

#[test]
fn an_engines_name_is_hidden_where_it_is_whole() {
    let names =
        names(&[("tiny", "public/tiny"), ("/data/models/tiny", "public/tiny"), ("/srv/x/", "y")]);
    let hide = |text: &str| redacted(text, &names);
    for (text, hidden) in [
        ("The model `tiny` does not exist.", "The model `public/tiny` does not exist."),
        ("tiny", "public/tiny"),
        ("tiny.", "public/tiny."),
        ("(tiny): tiny, tiny", "(public/tiny): public/tiny, public/tiny"),
        ("model tiny: gone", "model public/tiny: gone"),
        ("模型tiny不存在", "模型public/tiny不存在"),
        ("'/data/models/tiny/config.json'", "'public/tiny/config.json'"),
        ("at file:///data/models/tiny.", "at file://public/tiny."),
        ("/srv/x/config.json", "yconfig.json"),
        ("public/tiny is not tiny", "public/tiny is not public/tiny"),
    ] {
        assert_eq!(hide(text).as_deref(), Some(hidden));
    }
    for text in [
        "",
        "tinyx",
        "xtiny",
        "tiny-alias",
        "tiny_2",
        "tiny.gguf",
        "v.tiny",
        "tiny:lora",
        "public/tiny",
        "/more/data/models/tinyx",
    ] {
        assert_eq!(hide(text), None, "{text}");
    }
}

#[test]
fn names_are_hidden_in_the_words_of_a_body_alone() {
    let names = names(&[("model", "gpt"), ("a\"é", "x\"y"), ("/m/q", "qwen")]);
    let body = r#"{"error":{"message":"No model \"model\" at \/m\/q, nor a\"\u00e9.","param":"model","type":"model","model": 1.10 , "loc":["body","model"], "code":"404"}}"#;
    let expected = r#"{"error":{"message":"No gpt \"gpt\" at qwen, nor x\"y.","param":"model","type":"model","model": 1.10 , "loc":["body","model"], "code":"404"}}"#;
    let made = reshape(404, body.as_bytes(), Dialect::OpenAi, "r", &names).unwrap();
    assert_eq!(String::from_utf8(made).unwrap(), expected);
    let made = reshape(404, br#"{"detail":"No model"}"#, Dialect::Anthropic, "r", &names).unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&made).unwrap()["error"]["message"], "No gpt");
}

#[test]
fn names_are_hidden_in_the_errors_of_a_stream_alone() {
    let names = names(&[("tiny", "public")]);
    let stream = concat!(
        "data: {\"choices\":[{\"delta\":{\"content\":\"tiny \
         \\\"error\\\"\"}}],\"x\":\"error\"}\n\n",
        "data: {\"error\": {\"message\": \"tiny died\", \"code\": 500}}\r\n\r\n",
        "event: response.failed\ndata: \
         {\"response\":{\"output\":\"tiny\",\"error\":{\"message\":\"tiny died\"}}}\n\n",
        "event: error\ndata: {\"type\":\"error\",\"message\":\"tiny died\",\"code\":\"error\"}\n\n",
        "event: response.created\ndata: {\"response\":{\"output\":\"tiny\",\"error\":null}}\n\n",
        "data: [DONE]\n\n",
    );
    let hidden = without_names(stream.as_bytes(), &names).unwrap();
    assert_eq!(String::from_utf8(hidden).unwrap(), stream.replace("tiny died", "public died"));
    assert_eq!(
        without_names(b"data: {\"error\":{\"message\":\"x\"}}\n\ndata: tiny\n\n", &names),
        None
    );
}

#[test]
fn an_error_event_speaks_anthropics_words() {
    let stream = concat!(
        "event: content_block_delta\ndata: \
         {\"type\":\"content_block_delta\",\"delta\":{\"text\":\"\\\"error\\\"\"},\"index\":0}\n\n",
        "event: error\ndata: \
         {\"type\":\"error\",\"error\":{\"type\":\"internal_error\",\"message\":\"2 validation \
         errors for ",
        "ChatCompletionStreamResponse\\nmodel\\n  Field required [type=missing]\"}}\n\n",
    );
    let expected = concat!(
        "event: content_block_delta\ndata: \
         {\"type\":\"content_block_delta\",\"delta\":{\"text\":\"\\\"error\\\"\"},\"index\":0}\n\n",
        "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"api_error\",\"message\":\"2 \
         validation errors for ",
        "ChatCompletionStreamResponse\"}}\n\n",
    );
    let fixed = in_anthropics_words(stream.as_bytes()).unwrap();
    assert_eq!(String::from_utf8(fixed).unwrap(), expected);
    assert_eq!(in_anthropics_words(expected.as_bytes()), None, "not settled by one change");
}

#[test]
fn an_error_events_words_are_mapped_and_its_message_kept_short() {
    let fixed = |kind: &str, message: &str| {
        let frame = format!(
            "event: error\r\ndata: {}\r\n\r\n",
            json!({"error": {"message": message, "type": kind}})
        );
        let fixed = in_anthropics_words(frame.as_bytes()).unwrap_or_else(|| frame.clone().into());
        let fixed = String::from_utf8(fixed).unwrap();
        let json =
            fixed.strip_prefix("event: error\r\ndata: ").unwrap().strip_suffix("\r\n\r\n").unwrap();
        serde_json::from_str::<Value>(json).unwrap()["error"].take()
    };
    for (kind, word) in [
        ("BadRequestError", "invalid_request_error"),
        ("Not Found", "not_found_error"),
        ("Service Unavailable", "overloaded_error"),
        ("InternalServerError", "api_error"),
        ("overloaded_error", "overloaded_error"),
        ("", "api_error"),
    ] {
        assert_eq!(fixed(kind, "a\nb"), json!({"type": word, "message": "a\nb"}), "{kind}");
    }
    assert_eq!(fixed("api_error", &"ä".repeat(501))["message"], "ä".repeat(500));
    let traceback = "Traceback (most recent call last):\n  File \"x\"\nValueError: no\n";
    assert_eq!(fixed("api_error", traceback)["message"], "ValueError: no");
}

#[test]
fn frames_that_are_no_errors_stay() {
    for frame in [
        "event: error\n\n",
        "event: error\ndata: [DONE]\n\n",
        "event: error\ndata: {\"message\":\"it breaks off\"}\n",
        "event: ping\ndata: {\"error\":{\"type\":\"internal_error\"}}\n\n",
        "data: {\"choices\":[{\"delta\":{\"content\":\"an error: {}\"}}],\"error\":null}\n\n",
    ] {
        for dialect in [Dialect::OpenAi, Dialect::Responses, Dialect::Anthropic] {
            let fixed = fix_error_frames(frame.as_bytes(), dialect, &[]);
            let may_mend_code = frame.contains("ping") && dialect != Dialect::Anthropic;
            assert!(fixed.is_none() || may_mend_code, "{frame:?}");
        }
    }
}

/// Errors in a stream that SDKs pass over in silence, all of them `boom` with status 429.
const PASSED_OVER: [&str; 4] = [
    "event: error\ndata: {\"message\":\"boom\",\"code\":429}\n\n",
    "error: {\"code\":429,\"message\":\"boom\",\"type\":\"server_error\"}\n\n",
    "event:error\r\ndata:{\"code\":429,\r\ndata:\"error\":\"boom\"}\r\n\r\n",
    "event: error\ndata: {\"object\":\"error\",\"message\":\"boom\",\"code\":\"429\"}\n\n",
];

#[test]
fn an_error_that_sdks_would_pass_over_becomes_an_event_of_the_dialect() {
    let between = |frame: &str| format!("data: {{\"a\":1}}\n\n{frame}data: [DONE]\n\n");
    let told = |frame: &str, dialect| {
        let text = between(frame);
        let fixed = fix_error_frames(text.as_bytes(), dialect, &[]).expect(frame);
        let fixed = String::from_utf8(fixed).unwrap();
        let rest = fixed.strip_prefix("data: {\"a\":1}\n\n").unwrap();
        rest.strip_suffix("data: [DONE]\n\n").unwrap().to_owned()
    };
    let data = |event: &str| serde_json::from_str::<Value>(event).unwrap();
    for frame in PASSED_OVER {
        let openai = told(frame, Dialect::OpenAi);
        let error = data(openai.strip_prefix("data: ").expect(frame));
        assert_eq!(error["error"]["message"], "boom", "{frame}");
        assert_eq!(error["error"]["code"], "429", "{frame}");
        let bare = "data: {\"error\":{\"message\":\"boom\",\"code\":429}}\n\n";
        for frame in [frame, bare] {
            let anthropic = told(frame, Dialect::Anthropic);
            let error = data(anthropic.strip_prefix("event: error\ndata: ").expect(frame));
            assert_eq!(error["type"], "error", "{frame}");
            let expected = json!({"type": "rate_limit_error", "message": "boom"});
            assert_eq!(error["error"], expected, "{frame}");
            let responses = told(frame, Dialect::Responses);
            let (error, failed) =
                responses.split_once("event: response.failed\ndata: ").expect(frame);
            let error = data(error.strip_prefix("event: error\ndata: ").expect(frame));
            assert_eq!(
                (&error["type"], &error["message"], &error["code"], &error["error"]["message"]),
                (&json!("error"), &json!("boom"), &json!("429"), &json!("boom"))
            );
            let failed = data(failed);
            assert_eq!(failed["response"]["error"], json!({"code": "429", "message": "boom"}));
        }
    }
}

#[test]
fn an_overflow_in_a_stream_has_the_words_that_clients_act_on_in_every_form() {
    let overflow =
        "This model's maximum context length is 8 tokens. However, your messages have 9.";
    for frame in [
        format!("event: error\ndata: {{\"message\":\"{overflow}\"}}\n\n"),
        format!("error: {{\"message\":\"{overflow}\"}}\n\n"),
        format!("data: {{\"error\":{{\"message\":\"{overflow}\",\"code\":400}}}}\n\n"),
    ] {
        let told = |dialect| {
            let fixed = fix_error_frames(frame.as_bytes(), dialect, &[]).unwrap();
            String::from_utf8(fixed).unwrap()
        };
        assert!(told(Dialect::Anthropic).contains("\"prompt is too long: "), "{frame}");
        assert!(told(Dialect::OpenAi).contains("context_length_exceeded"), "{frame}");
        let responses = told(Dialect::Responses);
        assert_eq!(responses.matches("\"code\":\"context_length_exceeded\"").count(), 3, "{frame}");
    }
}

/// A name is replaced wherever it stands between others' characters; the slow way splits at blanks.
fn words() -> impl Strategy<Value = Vec<String>> {
    let word = prop::sample::select(vec![
        "tiny", "tinyx", "public", "/m/tiny", "a", "é", "tiny-2", "\"", "\n",
    ]);
    prop::collection::vec(word.prop_map(str::to_owned), 0..12)
}

/// The body or frame as a client of OpenAI's API gets it.
fn in_openais_words(text: &str) -> String {
    let made = if text.starts_with('{') {
        reshape(400, text.as_bytes(), Dialect::OpenAi, "r", &[])
    } else {
        fix_error_frames(text.as_bytes(), Dialect::OpenAi, &[])
    };
    made.map_or_else(|| text.to_owned(), |made| String::from_utf8(made).unwrap())
}

#[test]
fn a_code_is_always_a_string_and_no_other_byte_changes() {
    for (said, told) in [
        (
            r#"{ "message":"Bad","code":400 , "x": 1.10}"#,
            r#"{ "message":"Bad","code":"400" , "x": 1.10}"#,
        ),
        (r#"{"message":"Bad","code":null}"#, r#"{"message":"Bad","code":"invalid_request"}"#),
        (r#"{ "message":"Bad"}"#, r#"{"code":"invalid_request", "message":"Bad"}"#),
        (r#"{"message":"Bad","code":["a"]}"#, r#"{"message":"Bad","code":"invalid_request"}"#),
        (r#"{"message":"Bad","code":"own"}"#, r#"{"message":"Bad","code":"own"}"#),
        (r#"{"message":"Bad","code":""}"#, r#"{"message":"Bad","code":""}"#),
        ("{}", r#"{"code":"invalid_request"}"#),
        ("{ }", r#"{"code":"invalid_request" }"#),
    ] {
        let body = |error: &str| format!("{{\"a\":[1] ,\"error\": {error}}} \n");
        assert_eq!(in_openais_words(&body(said)), body(told));
        let told = told.replace("invalid_request", "engine_error");
        for place in [
            "{\"error\": E,\"b\":2}",
            "{\"type\":\"response.failed\",\"response\":{\"id\":\"r\",\"error\":E}}",
        ] {
            let frame = |error: &str| {
                format!(
                    "data: {{\"choices\":[]}}\n\nevent: x\r\ndata: {}\r\n\r\n: c\n\n",
                    place.replace('E', error)
                )
            };
            assert_eq!(in_openais_words(&frame(said)), frame(&told));
        }
    }
}

#[test]
fn a_code_follows_the_status_or_in_a_stream_the_type() {
    let frame = "data: {\"error\":{\"message\":\"Bad\",\"type\":\"NotFoundError\"}}\n\n";
    assert_eq!(in_openais_words(frame), frame.replace("{\"m", "{\"code\":\"not_found\",\"m"));
    let error = reshaped(503, r#"{"error":{"type":"NotFoundError"}}"#, Dialect::OpenAi);
    assert_eq!(error["error"]["code"], "engine_overloaded");
}

#[test]
fn an_error_inside_a_stream_keeps_its_kind() {
    for (error, kind) in [
        (json!({"code": 429}), "rate_limit_error"),
        (json!({"code": "429", "type": "x"}), "rate_limit_error"),
        (json!({"status": 503, "type": "api_error"}), "overloaded_error"),
        (json!({"status_code": 529}), "overloaded_error"),
        (json!({"code": 400, "type": "BadRequestError"}), "invalid_request_error"),
        (json!({"code": 422}), "invalid_request_error"),
        (json!({"code": 401}), "authentication_error"),
        (json!({"code": 402}), "billing_error"),
        (json!({"code": 403}), "permission_error"),
        (json!({"code": 404}), "not_found_error"),
        (json!({"code": 409}), "conflict_error"),
        (json!({"code": 413}), "request_too_large"),
        (json!({"code": 500, "type": "Too Many Requests"}), "rate_limit_error"),
        (json!({"code": 504}), "timeout_error"),
        (json!({"code": 500, "type": "InternalServerError"}), "api_error"),
        (json!({"type": "overloaded_error"}), "overloaded_error"),
        (json!({"code": "rate_limit_exceeded"}), "rate_limit_error"),
        (json!({"status": "RESOURCE_EXHAUSTED", "code": "x"}), "rate_limit_error"),
        (json!({"code": 200, "type": "server_error"}), "api_error"),
        (json!({"code": 99_999_999}), "api_error"),
        (json!({"code": -1, "type": 7}), "api_error"),
        (json!({}), "api_error"),
    ] {
        let mut error = error;
        error["message"] = json!("No.");
        if error["type"].is_null() {
            error["type"] = json!("");
        }
        let frame = format!("event: error\ndata: {}\n\n", json!({"type": "error", "error": error}));
        let fixed = in_anthropics_words(frame.as_bytes()).unwrap_or_else(|| frame.clone().into());
        let fixed = String::from_utf8(fixed).unwrap();
        let data: Value =
            serde_json::from_str(fixed.strip_prefix("event: error\ndata: ").unwrap()).unwrap();
        let expected = if error["type"].is_number() { json!(7) } else { json!(kind) };
        assert_eq!(data["error"]["type"], expected, "{frame}");
        assert_eq!(data["error"]["message"], "No.", "{frame}");
    }
}

#[test]
fn an_error_in_a_good_response_has_a_status_of_its_own() {
    let status = |body: &str| true_status(200, body.as_bytes());
    for (body, told) in [
        (r#"{"error":{"message":"Slow","code":429}}"#, 429),
        (r#"{"error":{"message":"Slow","type":"rate_limit_error"},"choices":[]}"#, 429),
        (r#"{"type":"error","error":{"type":"overloaded_error","message":"Busy"}}"#, 503),
        (r#"{"object":"error","message":"Bad","type":"BadRequestError","code":400}"#, 400),
        (r#"{"error":"Something broke"}"#, 502),
        (r#"{"error":{"message":"?"}}"#, 502),
        // The gateway's own key: nothing that the client can mend.
        (r#"{"error":{"message":"No key","code":401}}"#, 502),
        (
            r#"{"error":{"message":"the request exceeds the available context size","code":500}}"#,
            400,
        ),
    ] {
        assert_eq!(status(body), Some(told), "{body}");
    }
    for body in [
        r#"{"choices":[{"message":{"content":"an \"error\""}}],"error":null}"#,
        r#"{"choices":[],"error":{}}"#,
        r#"{"choices":[],"error":""}"#,
        r#"{"choices":[],"error":false}"#,
        r#"{"choices":[{"error":{"message":"x"}}]}"#,
        r#"[{"error":"x"}]"#,
        r#"{"error":{"message""#,
        "error",
        "",
    ] {
        assert_eq!(status(body), None, "{body}");
    }
    let overflow = br#"{"error":"`inputs` must have less than 512 tokens. Given: 600"}"#;
    assert_eq!(true_status(413, overflow), Some(400));
    assert_eq!(true_status(400, overflow), None);
    assert_eq!(true_status(500, b"Context size has been exceeded."), Some(400));
    assert_eq!(true_status(429, overflow), None);
    assert_eq!(true_status(500, b"broken"), None);
}

proptest! {
    #[test]
    fn words_are_replaced_one_by_one(words in words()) {
        let names = names(&[("tiny", "public"), ("/m/tiny", "public")]);
        let text = words.join(" ");
        let replace = |word: &String| if word == "tiny" || word == "/m/tiny" { "public".to_owned() } else { word.clone() };
        let expected = words.iter().map(replace).collect::<Vec<_>>().join(" ");
        prop_assert_eq!(redacted(&text, &names).unwrap_or_else(|| text.clone()), expected.clone());
        // The same inside a frame, byte for byte around the string.
        let frame = |message: &str| format!(": tiny\ndata: \
            {{\"x\":\"tiny\",\"error\":{{\"message\":{}}}}}\n\n", Value::from(message));
        let frame_hidden = without_names(frame(&text).as_bytes(), &names).unwrap_or_else(|| frame(&text).into());
        prop_assert_eq!(String::from_utf8(frame_hidden).unwrap(), frame(&expected));
    }

    #[test]
    fn any_body_becomes_a_document_of_the_dialect(status in 400..600_u16, body in prop::collection::vec(any::<u8>(), 0..80)) {
        for dialect in [Dialect::OpenAi, Dialect::Anthropic] {
            let made = reshape(status, &body, dialect, "r", &names(&[("tiny", "public")])).unwrap_or_else(|| body.clone());
            let made: Value = serde_json::from_slice(&made).unwrap();
            prop_assert!(made["error"].is_object());
        }
    }

    #[test]
    fn any_frames_are_read_without_a_fault(frames in "(event: error\n|data: \
        |\\{|\\}|\"error\":|\"message\":|\"tiny\"|\"|,|\n\n|\\\\|[a-z ]){0,24}") {
        let names = names(&[("tiny", "public")]);
        let hidden = without_names(frames.as_bytes(), &names).unwrap_or_else(|| frames.clone().into());
        prop_assert_eq!(without_names(&hidden, &names), None);
        let fixed = in_anthropics_words(&hidden).unwrap_or(hidden);
        prop_assert_eq!(in_anthropics_words(&fixed), None);
    }
}
