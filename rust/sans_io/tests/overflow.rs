//! A request with more tokens than its model takes: the words of engines and providers, each with
//! its source, and what clients look for in what they are told.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on says where"
)]

use proptest::prelude::*;
use sans_io::api::engine_error::{fix_error_frames, reshape, true_status};
use sans_io::api::error::Dialect;
use sans_io::api::messages::{HistoryIds, MessageStream, Origin};
use serde_json::{Value, json};

/// What Anthropic's servers would say.
#[derive(Clone, Copy, Debug)]
enum Said {
    /// `prompt is too long: N tokens > M maximum`.
    Prompt(u64, u64),
    /// `` input length and `max_tokens` exceed context limit: A + B > C ``.
    Sum(u64, u64, u64),
    /// The first without numbers: the engine has not said them all.
    Unnumbered,
}
use Said::{Prompt, Sum, Unnumbered};

/// The sentences of engines as their sources or users report them, each with whose it is.
const SENTENCES: &[(&str, &str, Said)] = &[
    (
        "vLLM 0.32, measured",
        "This model's maximum context length is 1024 tokens. However, your prompt contains at least 1025 input tokens, which exceeds this limit even without any output tokens. Please reduce the length of the input prompt. (parameter=input_tokens, value=1025)",
        Prompt(1025, 1024),
    ),
    (
        "vLLM 0.32, measured",
        "max_tokens=32000 cannot be greater than max_model_len=16384. Please request fewer output tokens. (parameter=max_tokens, value=32000)",
        Sum(0, 32000, 16384),
    ),
    (
        "vLLM 0.27",
        "max_tokens=140000 cannot be greater than max_model_len=max_total_tokens=131072.",
        Sum(0, 140_000, 131_072),
    ),
    (
        "vLLM 0.25",
        "This model's maximum context length is 40960 tokens. However, you requested 32000 output tokens and your prompt contains at least 8961 input tokens, for a total of at least 40961 tokens. Please reduce the length of the input prompt or the number of requested output tokens. (parameter=input_tokens, value=8961)",
        Sum(8961, 32000, 40960),
    ),
    (
        "vLLM 0.17",
        "You passed 27905 input tokens and requested 4096 output tokens. However, the model's context length is only 32000 tokens, resulting in a maximum input length of 27904 tokens. Please reduce the length of the input prompt. (parameter=input_tokens, value=27905)",
        Sum(27905, 4096, 32000),
    ),
    (
        "vLLM 0.17",
        "You passed 2049 input tokens and requested 0 output tokens. However, the model's context length is only 2048 tokens, resulting in a maximum input length of 2048 tokens.",
        Prompt(2049, 2048),
    ),
    (
        "vLLM 0.17",
        "You passed 99999 input characters and requested 0 output tokens. However, the model's context length is only 2048 tokens, resulting in a maximum input length of 2048 tokens (at most 20480 characters).",
        Unnumbered,
    ),
    (
        "vLLM 0.10",
        "'max_tokens' or 'max_completion_tokens' is too large: 32000. This model's maximum context length is 40960 tokens and your request has 20000 input tokens (32000 > 40960 - 20000). (parameter=max_tokens, value=32000)",
        Sum(20000, 32000, 40960),
    ),
    (
        "vLLM 0.10",
        "This model's maximum context length is 32768 tokens. However, your request has 40000 input tokens. Please reduce the length of the input messages.",
        Prompt(40000, 32768),
    ),
    (
        "vLLM 0.6, DeepSeek",
        "This model's maximum context length is 32768 tokens. However, you requested 45000 tokens (20000 in the messages, 25000 in the completion). Please reduce the length of the messages or completion.",
        Sum(20000, 25000, 32768),
    ),
    (
        "vLLM 0.6",
        "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens in the messages, Please reduce the length of the messages.",
        Prompt(5000, 4096),
    ),
    (
        "vLLM 0.10, engine",
        "The decoder prompt (length 5000) is longer than the maximum model length of 4096. Make sure that `max_model_len` is no smaller than the number of text tokens.",
        Prompt(5000, 4096),
    ),
    (
        "vLLM 0.9, engine",
        "The prompt (total length 5000) is too long to fit into the model (context length 4096). Make sure that `max_model_len` is no smaller than the number of text tokens.",
        Prompt(5000, 4096),
    ),
    (
        "vLLM 0.2, engine",
        "Input prompt (5000 tokens) is too long and exceeds limit of 4096",
        Prompt(5000, 4096),
    ),
    (
        "vLLM, Rust front end",
        "this model's maximum context length is 4096 tokens, but the prompt contains 5000 input tokens",
        Prompt(5000, 4096),
    ),
    (
        "llama.cpp b11549",
        "request (4661 tokens) exceeds the available context size (2048 tokens), try increasing it",
        Prompt(4661, 2048),
    ),
    (
        "llama.cpp 2025",
        "the request exceeds the available context size. try increasing the context size or enable context shift",
        Unnumbered,
    ),
    ("llama.cpp, in mid-answer", "Context size has been exceeded.", Unnumbered),
    ("llama.cpp until 2024, in mid-answer", "context shift is disabled", Unnumbered),
    ("llama.cpp", "input is larger than the max context size. skipping", Unnumbered),
    (
        "llama.cpp, embeddings",
        "input (3926 tokens) is too large to process. increase the physical batch size (current batch size: 2048)",
        Prompt(3926, 2048),
    ),
    (
        "SGLang",
        "The input (10009 tokens) is longer than the model's context length (8192 tokens).",
        Prompt(10009, 8192),
    ),
    (
        "SGLang",
        "Requested token count exceeds the model's maximum context length of 64000 tokens. You requested a total of 71897 tokens: 7897 tokens from the input messages and 64000 tokens for the completion. Please reduce the number of tokens in the input messages or the completion to fit within the limit.",
        Sum(7897, 64000, 64000),
    ),
    (
        "SGLang",
        "Input length (9000 tokens) exceeds the maximum allowed length (8192 tokens). Use a shorter input or enable --allow-auto-truncate.",
        Prompt(9000, 8192),
    ),
    (
        "TensorRT-LLM",
        "The sum of prompt length (4000), query length (0) max_tokens (2048) should not exceed max_seq_len (4096)",
        Sum(4000, 2048, 4096),
    ),
    (
        "TensorRT-LLM",
        "The sum of prompt length (4000.0), query length (0) should not exceed max_num_tokens (2048)",
        Prompt(4000, 2048),
    ),
    (
        "TensorRT-LLM",
        "Encountered an error when fetching new request: Prompt length (5000) exceeds maximum input length (4096). Set log level to info and check TRTLLM logs",
        Prompt(5000, 4096),
    ),
    (
        "TensorRT-LLM",
        "default_max_tokens (-5) should be greater than 0, default_max_tokens (-5) = max_seq_len (4096) - splited_prompt_len (4101) - query_token_len (0)",
        Prompt(4101, 4096),
    ),
    ("TEI, TGI", "`inputs` must have less than 512 tokens. Given: 600", Prompt(600, 512)),
    (
        "TGI, Together",
        "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 4000 `inputs` tokens and 512 `max_new_tokens`",
        Sum(4000, 512, 4096),
    ),
    ("Ollama", "the input length exceeds the context length", Unnumbered),
    ("Ollama", "prompt too long; exceeded max context length by 100918 tokens", Unnumbered),
    (
        "LiteLLM",
        "litellm.ContextWindowExceededError: litellm.BadRequestError: OpenAIException - This model's maximum context length is 65536 tokens. However, you requested 16 output tokens and your prompt contains at least 65521 input tokens, for a total of at least 65537 tokens.",
        Sum(65521, 16, 65536),
    ),
    ("LiteLLM", "ContextWindowExceededError: too much", Unnumbered),
    (
        "OpenAI",
        "This model's maximum context length is 8192 tokens. However, your messages resulted in 10000 tokens. Please reduce the length of the messages.",
        Prompt(10000, 8192),
    ),
    (
        "OpenAI, completions",
        "This model's maximum context length is 8191 tokens, however you requested 10351 tokens (10346 in your prompt; 5 for the completion). Please reduce your prompt; or completion length.",
        Prompt(10346, 8191),
    ),
    (
        "OpenAI, Responses",
        "Your input exceeds the context window of this model. Please adjust your input and try again.",
        Unnumbered,
    ),
    (
        "OpenAI",
        "Input tokens exceed the configured limit of 272000 tokens. Your messages resulted in 509178 tokens. Please reduce the length of the messages.",
        Prompt(509_178, 272_000),
    ),
    (
        "OpenRouter",
        "This endpoint's maximum context length is 131072 tokens. However, you requested about 132000 tokens (100000 of text input, 32000 in the output). Please reduce the length of either one.",
        Sum(100_000, 32000, 131_072),
    ),
    ("Anthropic", "prompt is too long: 213462 tokens > 200000 maximum", Prompt(213_462, 200_000)),
    ("Bedrock", "Input is too long for requested model.", Unnumbered),
    (
        "Gemini",
        "The input token count (1196265) exceeds the maximum number of tokens allowed (1048575).",
        Prompt(1_196_265, 1_048_575),
    ),
    (
        "xAI",
        "This model's maximum prompt length is 131072 but the request contains 537812 tokens.",
        Prompt(537_812, 131_072),
    ),
    (
        "Mistral",
        "Prompt contains 200,000 tokens, too large for model with 131,072 maximum context length",
        Prompt(200_000, 131_072),
    ),
    (
        "Fireworks",
        "The prompt is too long: 40000, model maximum context length: 32768",
        Prompt(40000, 32768),
    ),
    (
        "DeepInfra",
        "Requested input length 39818 exceeds maximum input length 32767",
        Prompt(39818, 32767),
    ),
    (
        "Baseten",
        "Input length (265330) exceeds model's maximum context length (262144).",
        Prompt(265_330, 262_144),
    ),
    (
        "Poolside",
        "Input length 131393 exceeds the maximum allowed input length of 131040 tokens.",
        Prompt(131_393, 131_040),
    ),
    (
        "GitHub Copilot",
        "prompt token count of 200000 exceeds the limit of 128000",
        Prompt(200_000, 128_000),
    ),
    (
        "Kimi",
        "Your request exceeded model token limit: 256000 (requested: 300000)",
        Prompt(300_000, 256_000),
    ),
    ("MiniMax", "invalid params, context window exceeds limit", Unnumbered),
    (
        "LM Studio",
        "Trying to keep the first 4500 tokens when context the overflows. However, the model is loaded with context length of only 4096 tokens, which is not enough.",
        Prompt(4500, 4096),
    ),
];

/// Errors that have words of these, and are others.
const OTHERS: &[(u16, &str)] = &[
    (400, "temperature must be non-negative, got -1"),
    (400, "max_tokens must be at least 1, got 0."),
    (404, "The model `maximum context length` does not exist."),
    (429, "Rate limit reached: this model's maximum context length is 4096 tokens per minute."),
    (401, "prompt is too long"),
    (500, "CUDA out of memory"),
    (400, "Too many tokens of this kind, choose another tool"),
];

impl Said {
    fn sentence(self) -> String {
        match self {
            Prompt(prompt, limit) => {
                format!("prompt is too long: {prompt} tokens > {limit} maximum")
            }
            Sum(prompt, output, limit) => format!(
                "input length and `max_tokens` exceed context limit: {prompt} + {output} > {limit}, \
                 decrease input length or `max_tokens` and try again"
            ),
            Unnumbered => "prompt is too long".to_owned(),
        }
    }
}

/// Claude Code 2.1 makes its conversation shorter at the first and asks for a shorter answer at the
/// second (tried); `LangChain`'s and Cline's checks of Anthropic's errors look for the same words.
fn anthropics_clients_know(error: &Value, said: Said) {
    assert_eq!(error["type"], "invalid_request_error", "{error}");
    let message = error["message"].as_str().unwrap();
    if matches!(said, Unnumbered) {
        assert!(message.to_lowercase().starts_with("prompt is too long"), "{message}");
        // Claude Code would take numbers beside the sign for how much to leave out.
        assert!(!message.contains('>'), "{message}");
    } else {
        assert_eq!(message, said.sentence());
    }
}

/// Codex and `LangChain` compare `code`; `LiteLLM` searches the text for "this model's maximum
/// context length is" (and seven other engines' words); Cline wants the status 400 and "context length";
/// opencode and pi "maximum context length is N tokens" or the code.
fn openais_clients_know(error: &Value, engines: &str) {
    assert_eq!(error["code"], "context_length_exceeded", "{error}");
    assert_eq!(error["type"], "invalid_request_error", "{error}");
    let message = error["message"].as_str().unwrap();
    assert!(message.starts_with(engines), "the engine's words stay: {message}");
    let message = message.to_lowercase();
    assert!(message.contains("maximum context length is"), "{message}");
    let litellms = ["this model's maximum context length is", "this endpoint's maximum context"];
    assert!(litellms.iter().any(|words| message.contains(words)), "{message}");
}

/// The error in the body that a client gets.
fn told(status: u16, body: &str, dialect: Dialect) -> Value {
    let made = reshape(status, body.as_bytes(), dialect, "req-1", &[]);
    let made = made.unwrap_or_else(|| body.into());
    serde_json::from_slice::<Value>(&made).unwrap()["error"].take()
}

/// Every shape in which engines put a message.
fn bodies(message: &str) -> Vec<String> {
    vec![
        json!({"error": {"message": message, "type": "BadRequestError", "param": null, "code": 400}}).to_string(),
        json!({"error": {"code": "400", "message": message, "x": [1.5]}}).to_string(),
        json!({"object": "error", "message": message, "type": "BadRequestError", "code": 400}).to_string(),
        json!({"type": "error", "error": {"type": "invalid_request_error", "message": message}}).to_string(),
        json!({"type": "error", "error": {"type": "api_error", "message": message}, "request_id": "r"}).to_string(),
        json!({"error": message, "error_type": "Validation"}).to_string(),
        json!({"detail": message}).to_string(),
        json!([{"error": {"message": message, "status": "INVALID_ARGUMENT"}}]).to_string(),
        message.to_owned(),
    ]
}

#[test]
fn each_dialects_clients_know_it_in_every_shape() {
    for &(_, message, said) in SENTENCES {
        for body in bodies(message) {
            for status in [400, 413, 422, 500, 503] {
                anthropics_clients_know(&told(status, &body, Dialect::Anthropic), said);
                openais_clients_know(&told(status, &body, Dialect::OpenAi), message);
                let other = (status != 400).then_some(400);
                assert_eq!(true_status(status, body.as_bytes()), other);
            }
        }
    }
}

#[test]
fn each_dialects_clients_know_it_in_streams() {
    for &(_, message, said) in SENTENCES {
        let error =
            json!({"message": message, "type": "BadRequestError", "param": null, "code": 400});
        let frame = format!("data: {}\n\ndata: [DONE]\n\n", json!({"error": error}));
        let data = |frames: &[u8], event: &str| -> Value {
            let text = std::str::from_utf8(frames).unwrap();
            let data = text.split(event).nth(1).unwrap().split('\n').next().unwrap();
            serde_json::from_str(data).unwrap()
        };
        let fixed = fix_error_frames(frame.as_bytes(), Dialect::OpenAi, &[]).unwrap();
        openais_clients_know(&data(&fixed, "data: ")["error"], message);
        assert_eq!(fix_error_frames(&fixed, Dialect::OpenAi, &[]), None, "settled at once");
        let mut translated = Vec::new();
        MessageStream::new(Origin {
            model: "m".into(),
            message_id: "msg_1".to_owned(),
            history: HistoryIds::default(),
        })
        .feed(frame.as_bytes(), &mut translated);
        anthropics_clients_know(&data(&translated, "event: error\ndata: ")["error"], said);
        assert_eq!(fix_error_frames(&translated, Dialect::Anthropic, &[]), None, "settled");
        let event = format!("event: error\ndata: {}\n\n", json!({"type": "error", "error": error}));
        let fixed = fix_error_frames(event.as_bytes(), Dialect::Anthropic, &[]).unwrap();
        anthropics_clients_know(&data(&fixed, "event: error\ndata: ")["error"], said);
        assert_eq!(fix_error_frames(&fixed, Dialect::Anthropic, &[]), None, "settled");
        // Codex reads it in the response that failed.
        let failed = json!({"type": "response.failed", "response": {"id": "r", "status": "failed",
            "error": {"code": "server_error", "message": message}}});
        let failed = format!("event: response.failed\ndata: {failed}\n\n");
        let fixed = fix_error_frames(failed.as_bytes(), Dialect::OpenAi, &[]).unwrap();
        let error = data(&fixed, "data: ")["response"]["error"].take();
        assert_eq!(error["code"], "context_length_exceeded");
        assert_eq!(error.as_object().unwrap().len(), 2, "no member more: {error}");
    }
}

#[test]
fn other_errors_stay_what_they_are() {
    for &(status, message) in OTHERS {
        for body in bodies(message) {
            assert_ne!(told(status, &body, Dialect::OpenAi)["code"], "context_length_exceeded");
            let error = told(status, &body, Dialect::Anthropic);
            assert_eq!(error["message"], message);
            assert_eq!(true_status(status, body.as_bytes()), None);
        }
    }
}

#[test]
fn llama_cpps_own_members_count_before_its_words() {
    let body =
        json!({"error": {"code": 400, "message": "the request exceeds the available context size",
        "type": "exceed_context_size_error", "n_prompt_tokens": 4661, "n_ctx": 2048}})
        .to_string();
    let error = told(400, &body, Dialect::Anthropic);
    assert_eq!(error["message"], "prompt is too long: 4661 tokens > 2048 maximum");
    let error = told(400, &body, Dialect::OpenAi);
    assert_eq!(
        error["message"],
        "the request exceeds the available context size. This model's maximum context length is 2048 tokens."
    );
    assert_eq!((&error["n_prompt_tokens"], &error["n_ctx"]), (&json!(4661), &json!(2048)));
}

#[test]
fn what_anthropics_servers_say_passes_byte_for_byte() {
    for message in [
        "prompt is too long: 213462 tokens > 200000 maximum",
        "input length and `max_tokens` exceed context limit: 188240 + 21333 > 200000, decrease input length or `max_tokens` and try again",
    ] {
        let body = json!({"type": "error", "error": {"type": "invalid_request_error", "message": message}, "request_id": "r"}).to_string();
        assert_eq!(reshape(400, body.as_bytes(), Dialect::Anthropic, "r2", &[]), None);
    }
}

/// Claude Code asks again for C - A - 1,000 tokens, and gives up below 3,000: there only a shorter
/// conversation helps.
#[test]
fn where_no_answer_would_fit_the_prompt_is_what_is_too_long() {
    let words = |prompt: u64, output: u64| {
        let body = json!({"error": {"message": format!("'max_tokens' is too large: {output}. This \
            model's maximum context length is 40960 tokens and your request has {prompt} input \
            tokens.")}});
        told(400, &body.to_string(), Dialect::Anthropic)["message"].as_str().unwrap().to_owned()
    };
    assert_eq!(words(36960, 32000), Sum(36960, 32000, 40960).sentence());
    assert_eq!(words(36961, 32000), Prompt(36961, 36960).sentence());
    assert_eq!(words(40960, 32000), Prompt(40960, 36960).sentence());
    assert_eq!(words(40961, 32000), Prompt(40961, 40960).sentence());
    // The context is full, and an answer has a token at least.
    assert_eq!(words(40960, 1), Prompt(40960, 40959).sentence());
    // Who asks for so little may ask for less.
    assert_eq!(words(40000, 2000), Sum(40000, 2000, 40960).sentence());
}

#[test]
fn the_messages_are_named_where_the_engine_speaks_of_them() {
    let param = |message: &str, param: Value| {
        let body = json!({"error": {"message": message, "param": param}});
        told(400, &body.to_string(), Dialect::OpenAi)["param"].take()
    };
    let chat = "maximum context length is 4096 tokens, reduce the length of the messages";
    assert_eq!(param(chat, Value::Null), "messages");
    assert_eq!(param(chat, json!("max_tokens")), "max_tokens");
    assert_eq!(param("the input length exceeds the context length", Value::Null), Value::Null);
}

proptest! {
    /// Numbers are told as the engine said them, wherever its words stand in longer ones.
    #[test]
    fn numbers_are_the_engines_own(
        prompt in 1..10_000_000_u64, output in 1..10_000_000_u64, limit in 1..10_000_000_u64,
        before in "[a-zA-Z0-9 .:'-]{0,30}", after in "[a-zA-Z0-9 .:'-]{0,30}",
    ) {
        let message = format!("{before} This model's maximum context length is {limit} tokens. \
            However, you requested {} tokens ({prompt} in the messages, {output} in the \
            completion). {after}", prompt + output);
        let error = told(400, &json!({"error": {"message": message}}).to_string(), Dialect::Anthropic);
        let told = error["message"].as_str().unwrap();
        let most = told.split("> ").nth(1).unwrap();
        let most: u64 = most.split([' ', ',']).next().unwrap().parse().unwrap();
        if told.contains("exceed context limit") {
            prop_assert_eq!(told, Sum(prompt, output, limit).sentence());
            prop_assert!(prompt < limit);
        } else {
            prop_assert_eq!(told, Prompt(prompt, most).sentence());
            let rest = limit - most;
            prop_assert!(prompt > most && (prompt >= limit || rest == 4000), "{}", told);
            prop_assert!(rest == 0 || rest == 4000 || rest == 1 && prompt == limit, "{}", told);
        }
    }
}
