//! Reads whole chat completions and chunks of them leniently: a field of another type counts as
//! missing.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::arguments::decoded_twice;
use super::json::{Raw, decoded, inside, list, object, word};
use crate::api::{cost::CALLS_MAX, numbers::whole};

/// The tokens of a request as a chat completion counts them: those of the prompt include the cached
/// ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// All tokens of the prompt.
    pub prompt_tokens: u64,
    /// Generated tokens, reasoning included.
    pub completion_tokens: u64,
    /// Tokens of the prompt that came from the cache; None where the engine does not say.
    pub cached_tokens: Option<u64>,
    /// Tokens of the prompt that were put into the cache; vLLM alone reports them.
    pub created_cache_tokens: Option<u64>,
}

impl Usage {
    /// Reads a chat completion's `usage`; None if it is no object.
    pub(super) fn read(raw: &RawValue) -> Option<Self> {
        let usage: UsageObject<'_> = object(raw)?;
        let details: Details<'_> = usage.prompt_tokens_details.and_then(object).unwrap_or_default();
        Some(Self {
            prompt_tokens: usage.prompt_tokens.and_then(whole).unwrap_or(0),
            completion_tokens: usage.completion_tokens.and_then(whole).unwrap_or(0),
            cached_tokens: details.cached_tokens.and_then(whole),
            created_cache_tokens: details.created_cache_tokens.and_then(whole),
        })
    }

    /// A Message's `usage`. Anthropic's `input_tokens` excludes cached tokens, OpenAI's
    /// `prompt_tokens` includes them. Counts of the cache that the engine does not report are left
    /// out.
    pub(super) fn message_json(self) -> String {
        let cache =
            self.cached_tokens.unwrap_or(0).saturating_add(self.created_cache_tokens.unwrap_or(0));
        let member = |key: &str, count: Option<u64>| {
            count.map_or(String::new(), |count| format!(",\"{key}\":{count}"))
        };
        format!(
            "{{\"input_tokens\":{},\"output_tokens\":{}{}{}}}",
            self.prompt_tokens.saturating_sub(cache),
            self.completion_tokens,
            member("cache_creation_input_tokens", self.created_cache_tokens),
            member("cache_read_input_tokens", self.cached_tokens),
        )
    }
}

#[derive(Deserialize)]
struct UsageObject<'a> {
    #[serde(borrow)]
    prompt_tokens: Raw<'a>,
    #[serde(borrow)]
    completion_tokens: Raw<'a>,
    #[serde(borrow)]
    prompt_tokens_details: Raw<'a>,
}

#[derive(Default, Deserialize)]
struct Details<'a> {
    #[serde(borrow)]
    cached_tokens: Raw<'a>,
    #[serde(borrow)]
    created_cache_tokens: Raw<'a>,
}

/// A whole completion, or one chunk of a streamed one.
#[derive(Deserialize)]
pub(super) struct Completion<'a> {
    #[serde(borrow)]
    pub(super) object: Raw<'a>,
    #[serde(borrow)]
    pub(super) choices: Raw<'a>,
    #[serde(borrow)]
    pub(super) usage: Raw<'a>,
    #[serde(borrow)]
    pub(super) error: Raw<'a>,
    #[serde(borrow)]
    pub(super) message: Raw<'a>,
}

impl<'a> Completion<'a> {
    /// The choice with the index 0. A Message has no room for others.
    pub(super) fn choice(&self) -> Option<Choice<'a>> {
        let choices = list(self.choices?)?;
        choices
            .into_iter()
            .filter_map(object::<Choice<'_>>)
            .find(|choice| choice.index.is_none_or(|at| at.get() == "0"))
    }

    /// The message of an error in place of a completion: in OpenAI's shape, as a bare string
    /// (vLLM), or flat (TensorRT-LLM). None: there is no error. `Some(None)`: an error without a
    /// message.
    pub(super) fn error_message(&self) -> Option<Raw<'a>> {
        let is_error = |raw: &&RawValue| !matches!(raw.get(), "false" | "0" | "\"\"" | "{}" | "[]");
        let error = match self.error.filter(is_error) {
            Some(error) => error,
            None if self.object.is_some_and(|object| object.get() == "\"error\"") => {
                return Some(self.message.filter(|words| inside(words).is_some()));
            }
            None => return None,
        };
        if inside(error).is_some() {
            return Some(Some(error));
        }
        let fields: Option<ErrorObject<'_>> = object(error);
        Some(fields.and_then(|fields| fields.message).filter(|words| inside(words).is_some()))
    }
}

#[derive(Deserialize)]
struct ErrorObject<'a> {
    #[serde(borrow)]
    message: Raw<'a>,
}

#[derive(Deserialize)]
pub(super) struct Choice<'a> {
    #[serde(borrow)]
    index: Raw<'a>,
    /// In a whole completion.
    #[serde(borrow)]
    pub(super) message: Raw<'a>,
    /// In a chunk.
    #[serde(borrow)]
    pub(super) delta: Raw<'a>,
    #[serde(borrow)]
    pub(super) finish_reason: Raw<'a>,
    /// vLLM and TensorRT-LLM: the stop string that matched, or a token's number.
    #[serde(borrow)]
    pub(super) stop_reason: Raw<'a>,
}

/// A `message` or a `delta`.
#[derive(Deserialize)]
pub(super) struct Words<'a> {
    #[serde(borrow)]
    pub(super) content: Raw<'a>,
    /// vLLM and `OpenRouter`; some servers give it members.
    #[serde(borrow)]
    reasoning: Raw<'a>,
    /// `DeepSeek`, `SGLang`, llama.cpp.
    #[serde(borrow)]
    reasoning_content: Raw<'a>,
    /// Ollama.
    #[serde(borrow)]
    thinking: Raw<'a>,
    /// `OpenRouter`: a list, with the words under `text` or `summary`.
    #[serde(borrow)]
    reasoning_details: Raw<'a>,
    /// `LiteLLM`: a list of Anthropic's blocks.
    #[serde(borrow)]
    thinking_blocks: Raw<'a>,
    #[serde(borrow)]
    refusal: Raw<'a>,
    #[serde(borrow)]
    tool_calls: Raw<'a>,
    #[serde(borrow)]
    function_call: Raw<'a>,
}

/// What an engine says, as the inside of a JSON string that is not empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spoken<'a> {
    Thinking(&'a str),
    Text(&'a str),
    Refusal(&'a str),
}

impl<'a> Spoken<'a> {
    pub(super) fn inside(&self) -> &'a str {
        match self {
            Self::Thinking(inside) | Self::Text(inside) | Self::Refusal(inside) => inside,
        }
    }

    pub(super) fn is_thinking(&self) -> bool {
        matches!(self, Self::Thinking(_))
    }
}

/// A part of a `content` that is a list (Mistral), or of what is in one.
#[derive(Deserialize)]
struct Part<'a> {
    #[serde(borrow, rename = "type")]
    kind: Raw<'a>,
    #[serde(borrow)]
    text: Raw<'a>,
    #[serde(borrow)]
    thinking: Raw<'a>,
    #[serde(borrow)]
    reasoning: Raw<'a>,
    #[serde(borrow)]
    summary: Raw<'a>,
    #[serde(borrow)]
    refusal: Raw<'a>,
    #[serde(borrow)]
    content: Raw<'a>,
}

/// How deep parts may lie in parts.
const PARTS_DEPTH: usize = 4;

impl<'a> Words<'a> {
    /// Gives out what is said, in order: thinking, content, refusal.
    pub(super) fn spoken(&self, mut take: impl FnMut(Spoken<'a>)) {
        // Engines with several names for thinking write the same under each.
        let names = [
            self.reasoning,
            self.reasoning_content,
            self.thinking,
            self.reasoning_details,
            self.thinking_blocks,
        ];
        for field in names.into_iter().flatten() {
            let mut is_some = false;
            let mut think = |spoken| {
                is_some = true;
                take(spoken);
            };
            speak(field, Spoken::Thinking, PARTS_DEPTH, &mut think);
            if is_some {
                break;
            }
        }
        if let Some(content) = self.content {
            speak(content, Spoken::Text, PARTS_DEPTH, &mut take);
        }
        if let Some(refusal) = self.refusal {
            speak(refusal, Spoken::Refusal, PARTS_DEPTH, &mut take);
        }
    }

    /// The tool calls, or their fragments; None where there are more than one response may have.
    pub(super) fn calls(&self) -> Option<Vec<CallPart>> {
        // Some servers leave out the list around a single one.
        let list = |raw| list(raw).or_else(|| raw.get().starts_with('{').then(|| vec![raw]));
        Some(match (self.tool_calls.and_then(list), self.function_call) {
            (Some(calls), _) if calls.len() > CALLS_MAX => return None,
            (Some(calls), _) if !calls.is_empty() => {
                calls.into_iter().filter_map(CallPart::read).collect()
            }
            (_, Some(function)) => CallPart::of_function(function).into_iter().collect(),
            _ => Vec::new(),
        })
    }
}

/// Gives out the words in a string, a part, or a list of parts. `kind`: what words are that do not
/// say it themselves.
fn speak<'a>(
    raw: &'a RawValue,
    kind: fn(&'a str) -> Spoken<'a>,
    depth: usize,
    take: &mut dyn FnMut(Spoken<'a>),
) {
    if let Some(words) = inside(raw) {
        if !words.is_empty() {
            take(kind(words));
        }
    } else if depth == 0 {
    } else if raw.get().starts_with('[') {
        for part in list(raw).into_iter().flatten() {
            speak(part, kind, depth - 1, take);
        }
    } else if let Some(part) = object::<Part<'_>>(raw) {
        let own = part.kind.and_then(word);
        let is_thinking = own
            .as_deref()
            .is_some_and(|own| own.starts_with("thinking") || own.starts_with("reasoning"));
        let kind = if is_thinking { Spoken::Thinking } else { kind };
        let fields = [
            (part.text, kind),
            (part.refusal, Spoken::Refusal as fn(&'a str) -> Spoken<'a>),
            (part.thinking, Spoken::Thinking),
            (part.reasoning, Spoken::Thinking),
            (part.summary, kind),
            (part.content, kind),
        ];
        if let Some((words, kind)) =
            fields.iter().find_map(|(raw, kind)| raw.map(|raw| (raw, *kind)))
        {
            speak(words, kind, depth - 1, take);
        }
    }
}

/// A tool call or a fragment of one. Empty fields count as missing.
#[derive(Debug, Default)]
pub(super) struct CallPart {
    pub(super) index: Option<u64>,
    pub(super) id: Option<String>,
    pub(super) name: Option<String>,
    pub(super) arguments: String,
}

#[derive(Deserialize)]
struct CallObject<'a> {
    #[serde(borrow)]
    index: Raw<'a>,
    #[serde(borrow)]
    id: Raw<'a>,
    #[serde(borrow)]
    function: Raw<'a>,
}

#[derive(Deserialize)]
struct FunctionObject<'a> {
    #[serde(borrow)]
    name: Raw<'a>,
    #[serde(borrow)]
    arguments: Raw<'a>,
}

impl CallPart {
    fn read(raw: &RawValue) -> Option<Self> {
        let call: CallObject<'_> = object(raw)?;
        Some(Self {
            index: call.index.and_then(whole),
            id: call.id.and_then(decoded).filter(|id| !id.is_empty()),
            ..call.function.and_then(Self::of_function).unwrap_or_default()
        })
    }

    fn of_function(raw: &RawValue) -> Option<Self> {
        let function: FunctionObject<'_> = object(raw)?;
        Some(Self {
            name: function.name.and_then(decoded).filter(|name| !name.is_empty()),
            // Some engines put the value itself in place of its text.
            arguments: match function.arguments {
                Some(arguments) if inside(arguments).is_none() => arguments.get().to_owned(),
                // Half of a surrogate pair stays an escape.
                Some(arguments) => decoded(arguments)
                    .or_else(|| decoded_twice(arguments.get()))
                    .unwrap_or_default(),
                None => String::new(),
            },
            ..Self::default()
        })
    }
}

/// Anthropic's `stop_reason` for OpenAI's `finish_reason`. `matched`: the engine's `stop_reason` is
/// a string, the stop sequence that it met (vLLM, TensorRT-LLM). `refused`: the engine said a
/// refusal. Engines also say `stop` behind that and behind a tool call, or nothing.
pub(super) fn stop_reason(
    finish_reason: Option<&str>,
    matched: bool,
    refused: bool,
    has_call: bool,
) -> &'static str {
    match finish_reason {
        Some("length") => "max_tokens",
        _ if refused => "refusal",
        Some("content_filter") => "refusal",
        _ if has_call => "tool_use",
        Some("stop") if matched => "stop_sequence",
        _ => "end_turn",
    }
}
