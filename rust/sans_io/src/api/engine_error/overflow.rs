//! Recognises that a request has more tokens than its model takes, in the words of any engine, and
//! says it in the words that clients act on.
//!
//! Every engine and every version of it words this anew, so no sentence is matched as a whole: one
//! of [`MARKERS`] says that it is this error, and the numbers are read by what stands around them.
//! `tests/overflow.rs` has the sentences, each with its source, and what clients match.

use serde_json::Value;

/// The longest message whose words are read, in bytes.
const READ: usize = 4096;

/// A client that asks again with less takes this many tokens for granted: Claude Code leaves 1,000
/// of the context free, and gives up below 3,000 of output.
const ROOM_FOR_AN_ANSWER: u64 = 4000;

/// Words, in lower case, each of which tells the error by itself.
const MARKERS: [&str; 43] = [
    "maximum context length",
    "max context length",
    "maximum context limit",
    "maximum model length",
    "context length is only",
    "model's context length",
    "exceeds the max_model_len",
    "greater than max_model_len",
    "too long and exceeds limit of",
    "too long to fit into the model",
    "exceeds the available context size",
    "exceed_context_size",
    "larger than the max context size",
    "context size has been exceeded",
    "context shift is disabled",
    "increase the physical batch size",
    "exceeds the maximum allowed length",
    "maximum allowed input length",
    "exceeds maximum input length",
    "exceed max_seq_len",
    "exceed max_num_tokens",
    "splited_prompt_len",
    "`inputs` must have less than",
    "`inputs` tokens + `max_new_tokens`",
    "exceeds the context length",
    "greater than the context length",
    "context the overflows",
    "context length exceeded",
    "contextwindowexceeded",
    "context_length_exceeded",
    "context_window_exceeded",
    "exceeds the context window",
    "context window exceeded",
    "context window exceeds limit",
    "prompt is too long",
    "prompt too long",
    "input is too long",
    "exceed context limit",
    "maximum prompt length is",
    "exceeds the maximum number of tokens",
    "exceeded model token limit",
    "prompt token count of",
    "tokens exceed the configured limit",
];

/// What stands around the most tokens of a request. `#` is the number.
const LIMITS: [&str; 33] = [
    "maximum context length is #",
    "maximum context length of #",
    "maximum context length (#",
    "maximum context length: #",
    "maximum context limit of #",
    "# maximum context length",
    "context length is only #",
    "maximum model length of #",
    "max_model_len=#",
    "max_total_tokens=#",
    "max_model_len #",
    "exceeds limit of #",
    "context length (#",
    "(context length #",
    "context length of only #",
    "context length of #",
    "context size (#",
    "batch size: #",
    "maximum allowed length (#",
    "maximum allowed input length of #",
    "maximum input length (#",
    "maximum input length #",
    "max_seq_len (#",
    "max_num_tokens (#",
    "must have less than #",
    "must be <= #",
    "> # maximum",
    "maximum prompt length is #",
    "tokens allowed (#",
    "token limit: #",
    "exceeds the limit of #",
    "configured limit of #",
    "tokens > #",
];

/// What stands around the tokens of a prompt.
const PROMPTS: [&str; 28] = [
    "# in the messages",
    "# in your prompt",
    "requested # tokens in the messages",
    "request has # input tokens",
    "contains at least # input tokens",
    "contains # input tokens",
    "contains # tokens",
    "passed # input tokens",
    "prompt (length #",
    "(total length #",
    "engine prompt length #",
    "input prompt (# tokens",
    "resulted in # tokens",
    "request (# tokens",
    "input (# tokens",
    "# tokens from the input",
    "prompt length (#",
    "splited_prompt_len (#",
    "input length (#",
    "input length #",
    "token count (#",
    "given: # `inputs`",
    "given: #",
    "too long: #",
    "prompt token count of #",
    "keep the first # tokens",
    "(requested: #",
    "context limit: # +",
];

/// What stands around the tokens of an answer that were asked for.
const OUTPUTS: [&str; 9] = [
    "# in the completion",
    "# for the completion",
    "# in the output",
    "requested # output tokens",
    "is too large: #",
    "# tokens for the completion",
    " max_tokens (#",
    "and # `max_new_tokens`",
    "tokens=#",
];

/// What stands around the tokens of both.
const TOTALS: [&str; 3] =
    ["requested # tokens", "requested about # tokens", "requested a total of # tokens"];

/// A request that has more tokens than its model takes. Numbers are those of the engine; None: it
/// has not said them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Overflow {
    limit: Option<u64>,
    prompt: Option<u64>,
    /// The answer's tokens, as the client asked for them.
    output: Option<u64>,
}

impl Overflow {
    /// Reads an error object of an engine, or a whole flat error, and its message; None: it is
    /// another error.
    pub(super) fn read(error: &Value, message: &str) -> Option<Self> {
        let word = |member: &str| error[member].as_str().unwrap_or_default();
        let said = [message, word("code"), word("type"), word("error_type")].join("\n");
        let said = &said.as_bytes()[..said.len().min(READ)];
        let said = String::from_utf8_lossy(said).to_ascii_lowercase();
        MARKERS.iter().any(|marker| said.contains(marker)).then(|| {
            let number = |phrases: &[&str]| phrases.iter().find_map(|phrase| find(&said, phrase));
            let output = number(&OUTPUTS);
            let of_both = || number(&TOTALS)?.checked_sub(output.unwrap_or(0));
            // llama.cpp tells both beside its words, too.
            let prompt = error["n_prompt_tokens"].as_u64().or_else(|| number(&PROMPTS));
            Self {
                limit: error["n_ctx"].as_u64().or_else(|| number(&LIMITS)),
                prompt: prompt.or_else(of_both),
                output,
            }
        })
    }

    /// One of the two sentences of Anthropic's own servers. Claude Code asks again for a shorter
    /// answer at the one, and makes its conversation shorter at the other.
    pub(super) fn in_anthropics_words(self, message: &str) -> String {
        let said = message.to_ascii_lowercase();
        match self {
            _ if said.contains("exceed context limit") => message.to_owned(),
            Self { limit: Some(limit), prompt, output: Some(output) }
                if prompt.map_or(output > limit, |prompt| prompt < limit)
                    && !self.leaves_no_answer() =>
            {
                // An engine that refuses the answer's length has often not counted the prompt: the
                // sum is over the limit without it.
                format!(
                    "input length and `max_tokens` exceed context limit: {} + {output} > {limit}, \
                     decrease input length or `max_tokens` and try again",
                    prompt.unwrap_or(0)
                )
            }
            Self { limit: Some(limit), prompt: Some(prompt), .. }
                if prompt >= limit || self.leaves_no_answer() =>
            {
                // The most that leaves room for an answer, where the prompt alone would fit.
                let most = if self.leaves_no_answer() && prompt <= limit {
                    limit - ROOM_FOR_AN_ANSWER
                } else {
                    limit.min(prompt.saturating_sub(1))
                };
                format!("prompt is too long: {prompt} tokens > {most} maximum")
            }
            _ if said.contains("prompt is too long") => message.to_owned(),
            _ => format!("prompt is too long: {message}"),
        }
    }

    /// Whether a prompt fits so narrowly that no client would ask for an answer that does, too.
    fn leaves_no_answer(self) -> bool {
        let (Some(limit), Some(prompt), Some(output)) = (self.limit, self.prompt, self.output)
        else {
            return false;
        };
        let room = limit.saturating_sub(prompt);
        output >= ROOM_FOR_AN_ANSWER && room < ROOM_FOR_AN_ANSWER && limit >= 2 * ROOM_FOR_AN_ANSWER
    }

    /// The engine's words, with those of OpenAI's servers behind them if they have none that
    /// clients look for.
    pub(super) fn in_openais_words(self, message: &str) -> String {
        if message.to_ascii_lowercase().contains("maximum context length is") {
            return message.to_owned();
        }
        let message = message.trim_end();
        let stop = if message.ends_with(['.', '!', '?']) { "" } else { "." };
        let length = self.limit.map_or("exceeded".to_owned(), |limit| format!("{limit} tokens"));
        format!("{message}{stop} This model's maximum context length is {length}.")
    }

    /// The member of the request that OpenAI's servers name; None where the words do not tell.
    pub(super) fn param(message: &str) -> Option<&'static str> {
        message.contains("messages").then_some("messages")
    }
}

/// The first number in the text with the words of the phrase around it.
fn find(text: &str, phrase: &str) -> Option<u64> {
    let (before, after) = phrase.split_once('#')?;
    if before.is_empty() {
        return text.match_indices(after).find_map(|(at, _)| {
            let start = text[..at].trim_end_matches(is_of_a_number).len();
            number(&text[start..at])
        });
    }
    text.match_indices(before).find_map(|(at, _)| {
        let rest = &text[at + before.len()..];
        let digits = rest.len() - rest.trim_start_matches(is_of_a_number).len();
        let found = number(rest[..digits].trim_end_matches(','))?;
        rest[digits..].starts_with(after).then_some(found)
    })
}

fn is_of_a_number(character: char) -> bool {
    character.is_ascii_digit() || character == ','
}

/// A number, perhaps with commas between its thousands.
fn number(digits: &str) -> Option<u64> {
    digits.replace(',', "").parse().ok()
}
