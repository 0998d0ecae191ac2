//! Translates a Messages request into a chat completions request.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::content::Message;
use super::conversation::{Chat, chat};
use super::engine::Engine;
use super::error::TranslateError;
use super::history::HistoryIds;
use super::json::{Raw, document, inside, list, object, word};
use super::tools::{Tool, ToolChoice, Tools, tool_choice, tools};
use crate::api::numbers::whole;

/// A translated request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The body of the chat completions request.
    pub body: Vec<u8>,
    /// How many of its blocks, tools and servers the engine does not get, or in words only.
    pub untranslated: u32,
    /// The ids of the tool calls in it.
    pub history: HistoryIds,
}

/// Translates a Messages request into a chat completions request. A stream is asked for as the
/// client did, together with its usage.
///
/// The error names the place in the request and what must stand there; it belongs into a 400.
pub fn request(body: &[u8], engine: &Engine<'_>) -> Result<Request, TranslateError> {
    let request = read(body)?;
    let max_tokens = request.max_tokens.ok_or_else(|| {
        TranslateError::new(
            "`max_tokens` is missing; say how many tokens the response may have at most.",
        )
    })?;
    let max_tokens = whole(max_tokens).ok_or_else(|| {
        TranslateError::new("`max_tokens` must be a whole number that is not negative.")
    })?;
    let Tools { tools, left_out } = tools(request.tools)?;
    let (tool_choice, parallel_tool_calls) = tool_choice(request.tool_choice, &tools, &left_out)?;
    let stream = request.stream.is_some_and(|stream| stream.get() == "true");
    let config: OutputConfig<'_> = request.output_config.and_then(object).unwrap_or_default();
    let Chat { messages, untranslated, history } = chat(request.system, request.messages, engine)?;
    let chat = ChatRequest {
        messages,
        tool_choice,
        parallel_tool_calls,
        temperature: number(request.temperature, "temperature")?,
        top_p: number(request.top_p, "top_p")?,
        top_k: request.top_k.map(top_k).transpose()?,
        stop: stop(request.stop_sequences)?,
        user: request
            .metadata
            .and_then(object)
            .and_then(|metadata: Metadata<'_>| metadata.user_id)
            .filter(is_string),
        reasoning_effort: config.effort.and_then(effort),
        response_format: response_format(config.format.or(request.output_format))?,
        chat_template_kwargs: request.thinking.and_then(thinking),
        stream: stream.then_some(true),
        stream_options: stream.then_some(StreamOptions { include_usage: true }),
        ..ChatRequest::new(engine.model, max_tokens, tools)
    };
    let left_out = left_out.count().saturating_add(request.elsewhere());
    let untranslated = untranslated.saturating_add(left_out);
    Ok(Request { body: chat.json(body.len())?, untranslated, history })
}

/// Translates a request for a count of tokens, or a Messages request, into the body of a chat
/// completions request with the same prompt: its response's `usage.prompt_tokens` is the count.
/// The engine generates one token for it.
pub fn count_request(body: &[u8], engine: &Engine<'_>) -> Result<Request, TranslateError> {
    let request = read(body)?;
    let Tools { tools, left_out } = tools(request.tools)?;
    // Which tools may be called is part of some prompts; that one must be called would only cost a
    // grammar.
    let tool_choice = match tool_choice(request.tool_choice, &tools, &left_out)?.0 {
        Some(ToolChoice::Named { .. } | ToolChoice::Word("required")) => {
            Some(ToolChoice::Word("auto"))
        }
        other => other,
    };
    let config: OutputConfig<'_> = request.output_config.and_then(object).unwrap_or_default();
    let Chat { messages, untranslated, history } = chat(request.system, request.messages, engine)?;
    let chat = ChatRequest {
        messages,
        tool_choice,
        reasoning_effort: config.effort.and_then(effort),
        chat_template_kwargs: request.thinking.and_then(thinking),
        ..ChatRequest::new(engine.model, 1, tools)
    };
    let left_out = left_out.count().saturating_add(request.elsewhere());
    let untranslated = untranslated.saturating_add(left_out);
    Ok(Request { body: chat.json(body.len())?, untranslated, history })
}

/// Members that mean something to a chat engine; all others are dropped.
#[derive(Deserialize)]
struct MessagesRequest<'a> {
    #[serde(borrow)]
    max_tokens: Raw<'a>,
    #[serde(borrow)]
    system: Raw<'a>,
    #[serde(borrow)]
    messages: Raw<'a>,
    #[serde(borrow)]
    tools: Raw<'a>,
    #[serde(borrow)]
    tool_choice: Raw<'a>,
    #[serde(borrow)]
    temperature: Raw<'a>,
    #[serde(borrow)]
    top_p: Raw<'a>,
    #[serde(borrow)]
    top_k: Raw<'a>,
    #[serde(borrow)]
    stop_sequences: Raw<'a>,
    #[serde(borrow)]
    metadata: Raw<'a>,
    #[serde(borrow)]
    stream: Raw<'a>,
    #[serde(borrow)]
    thinking: Raw<'a>,
    #[serde(borrow)]
    output_config: Raw<'a>,
    /// The older place of `output_config.format`.
    #[serde(borrow)]
    output_format: Raw<'a>,
    /// Servers with tools, to which Anthropic's servers connect.
    #[serde(borrow)]
    mcp_servers: Raw<'a>,
    /// A machine of Anthropic's, with its files and skills.
    #[serde(borrow)]
    container: Raw<'a>,
}

impl MessagesRequest<'_> {
    /// How many things it asks for that only Anthropic's servers have, beside tools.
    fn elsewhere(&self) -> u32 {
        let servers = self.mcp_servers.and_then(list).map_or(0, |servers| servers.len());
        let all = servers + usize::from(self.container.is_some());
        u32::try_from(all).unwrap_or(u32::MAX)
    }
}

#[derive(Deserialize)]
struct Metadata<'a> {
    #[serde(borrow)]
    user_id: Raw<'a>,
}

#[derive(Default, Deserialize)]
struct OutputConfig<'a> {
    #[serde(borrow)]
    effort: Raw<'a>,
    #[serde(borrow)]
    format: Raw<'a>,
}

#[derive(Deserialize)]
struct OutputFormat<'a> {
    #[serde(borrow, rename = "type")]
    kind: Raw<'a>,
    #[serde(borrow)]
    schema: Raw<'a>,
}

#[derive(Deserialize)]
struct Thinking<'a> {
    #[serde(borrow, rename = "type")]
    kind: Raw<'a>,
}

#[derive(Serialize)]
struct ChatRequest<'a> {
    model: &'a str,
    messages: Vec<Message<'a>>,
    max_tokens: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tools: Vec<Tool<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_choice: Option<ToolChoice<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parallel_tool_calls: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Raw<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_p: Raw<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_k: Option<TopK<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stop: Raw<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Raw<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_effort: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_format: Option<ResponseFormat<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    chat_template_kwargs: Option<TemplateArguments>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream_options: Option<StreamOptions>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum TopK<'a> {
    Whole(u64),
    /// `-1`, which is no limit to engines.
    Written(&'a RawValue),
}

#[derive(Serialize)]
struct StreamOptions {
    include_usage: bool,
}

#[derive(Serialize)]
struct TemplateArguments {
    enable_thinking: bool,
}

#[derive(Serialize)]
struct ResponseFormat<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    json_schema: NamedSchema<'a>,
}

#[derive(Serialize)]
struct NamedSchema<'a> {
    name: &'static str,
    schema: &'a RawValue,
}

impl<'a> ChatRequest<'a> {
    fn new(model: &'a str, max_tokens: u64, tools: Vec<Tool<'a>>) -> Self {
        Self {
            model,
            messages: Vec::new(),
            max_tokens,
            tools,
            tool_choice: None,
            parallel_tool_calls: None,
            temperature: None,
            top_p: None,
            top_k: None,
            stop: None,
            user: None,
            reasoning_effort: None,
            response_format: None,
            chat_template_kwargs: None,
            stream: None,
            stream_options: None,
        }
    }

    /// `source`: the bytes of the request that it was made of.
    fn json(&self, source: usize) -> Result<Vec<u8>, TranslateError> {
        document(self, source).ok_or_else(|| {
            TranslateError::new("The request cannot be written for this model's engine.")
        })
    }
}

fn read(body: &[u8]) -> Result<MessagesRequest<'_>, TranslateError> {
    let body: &RawValue = serde_json::from_slice(body).map_err(|error| {
        TranslateError::new(format!(
            "The request body is not valid JSON at line {}, column {}.",
            error.line(),
            error.column()
        ))
    })?;
    object(body).ok_or_else(|| {
        TranslateError::new(
            "The request body must be a JSON object in which no member of the Messages API stands \
             twice.",
        )
    })
}

/// A number, as it was written.
fn number<'a>(raw: Raw<'a>, key: &str) -> Result<Raw<'a>, TranslateError> {
    match raw {
        Some(raw)
            if !raw.get().starts_with(|first: char| first == '-' || first.is_ascii_digit()) =>
        {
            Err(TranslateError::new(format!("`{key}` must be a number.")))
        }
        other => Ok(other),
    }
}

fn top_k(raw: &RawValue) -> Result<TopK<'_>, TranslateError> {
    if raw.get() == "-1" {
        return Ok(TopK::Written(raw));
    }
    whole(raw)
        .map(TopK::Whole)
        .ok_or_else(|| TranslateError::new("`top_k` must be a whole number."))
}

fn stop(raw: Raw<'_>) -> Result<Raw<'_>, TranslateError> {
    let Some(raw) = raw else { return Ok(None) };
    match list(raw) {
        Some(texts) if texts.iter().all(is_string) => Ok((!texts.is_empty()).then_some(raw)),
        _ => Err(TranslateError::new("`stop_sequences` must be a list of strings.")),
    }
}

fn is_string(raw: &&RawValue) -> bool {
    inside(raw).is_some()
}

/// The three efforts that all engines know; None for another word, which is no reason to reject a
/// request.
fn effort(raw: &RawValue) -> Option<&'static str> {
    Some(match word(raw)?.as_str() {
        "minimal" | "low" => "low",
        "medium" => "medium",
        "high" | "xhigh" | "max" => "high",
        _ => return None,
    })
}

fn response_format(raw: Raw<'_>) -> Result<Option<ResponseFormat<'_>>, TranslateError> {
    let Some(raw) = raw else { return Ok(None) };
    let format: Option<OutputFormat<'_>> = object(raw);
    match format.and_then(|format| Some((format.kind?, format.schema?))) {
        Some((kind, schema))
            if kind.get() == "\"json_schema\"" && schema.get().starts_with('{') =>
        {
            Ok(Some(ResponseFormat {
                kind: "json_schema",
                json_schema: NamedSchema { name: "answer", schema },
            }))
        }
        _ => Err(TranslateError::new(
            "`output_config.format` must have the type `json_schema` and an object `schema`.",
        )),
    }
}

/// The hint to the chat template; None for `adaptive`, which leaves the choice to the model.
fn thinking(raw: &RawValue) -> Option<TemplateArguments> {
    let thinking: Thinking<'_> = object(raw)?;
    match word(thinking.kind?)?.as_str() {
        "enabled" => Some(TemplateArguments { enable_thinking: true }),
        "disabled" => Some(TemplateArguments { enable_thinking: false }),
        _ => None,
    }
}
