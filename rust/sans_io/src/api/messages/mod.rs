//! Translates Anthropic's Messages API to OpenAI chat completions and back, for engines that speak
//! only the latter.
//!
//! [`request`] and [`count_request`] translate a request, [`response`] and [`count_response`] a
//! whole response, [`MessageStream`] a stream, event by event. Where an engine sends the other form
//! than was asked for, [`MessageStream::whole`] makes events of a document, and [`Assembly`] a
//! document of events. The rules are those of both APIs'
//! references; compare vLLM's `vllm/entrypoints/anthropic/serving.py`. Where they leave a choice,
//! it is made for TensorRT-LLM, which rejects keys that it does not know:
//!
//! * Texts are never decoded: a JSON string goes from one document into the other as it was
//!   written, so lone surrogates, escapes and megabytes of base64 pass unharmed. Numbers, tools'
//!   schemas and tools' inputs likewise.
//! * What changes the meaning and has no counterpart is rejected with a sentence (PDFs, server
//!   tools). Hints are mapped where every engine takes them, else dropped: `thinking` becomes
//!   `chat_template_kwargs.enable_thinking`, its budget is dropped; an effort above `high` becomes
//!   `high`.
//! * An assistant's thinking goes back to the engine in the message field `reasoning`; redacted
//!   thinking is dropped.
//! * `system`, and messages of that role before the first turn, become one first message; later
//!   ones stay in place.
//! * Consecutive turns of one role are merged. A last turn of the assistant is sent as it is: the
//!   engine starts a fresh turn, since `continue_final_message` is vLLM's alone.
//! * In a stream no fragment is lost: what comes while a tool call is unfinished (another call's
//!   fragments, text) waits for its end. Arguments that are no JSON object never reach the client:
//!   everything from the first wrong byte on is cut away.
//! * Engines that tell their calls apart by nothing, repeat what they said, or write an object's text
//!   as a string's are understood ([`arguments`]), and each call's id is made the only one of its
//!   conversation ([`tool_ids`](crate::api::tool_ids)).

mod arguments;
mod assembly;
mod blocks;
mod chat;
mod content;
mod error;
mod events;
mod finite;
mod history;
mod json;
mod origin;
mod request;
mod response;
mod stream;
mod tools;

pub use assembly::Assembly;
pub use chat::Usage;
pub use error::TranslateError;
pub use finite::finite;
pub use history::HistoryIds;
pub use origin::Origin;
pub use request::{count_request, request};
pub use response::{count_response, response, streamed_count};
pub use stream::MessageStream;
