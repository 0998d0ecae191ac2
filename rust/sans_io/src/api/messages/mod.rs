//! Anthropic's Messages API to and from OpenAI chat completions, for engines that speak only the
//! latter.
//!
//! Pure: bytes in, bytes out. [`request`] and [`count_request`] turn a Messages request into a chat
//! request, [`response`] and [`count_response`] turn the chat answer back, [`MessageStream`] does it
//! for a stream, event by event. The rules are those of spec/wire.md 6; what follows is where they
//! leave a choice, made for TensorRT-LLM, which refuses keys that it does not know.
//!
//! * Texts are never decoded: a JSON string goes from one document into the other as it was
//!   written, so lone surrogates, escapes and megabytes of base64 pass unharmed. The same holds for
//!   numbers, tools' schemas and tools' inputs.
//! * What changes the meaning and has no counterpart is refused with a sentence (PDFs, server
//!   tools); hints are mapped where every engine takes them, else dropped: `thinking` becomes
//!   `chat_template_kwargs.enable_thinking`, its budget is dropped; an effort above `high` becomes
//!   `high`.
//! * An assistant's thinking goes back to the engine in the message field `reasoning`; redacted
//!   thinking is dropped.
//! * `system`, and messages of that role before the first turn, become one first message; later
//!   ones stay in place.
//! * Consecutive turns of one role are merged. A last turn of the assistant is sent as it is: the
//!   engine answers with a fresh turn, since `continue_final_message` is vLLM's alone.
//! * In a stream no fragment is lost: what comes while a tool call is unfinished (another call's
//!   fragments, text) waits for its end. Arguments that are no JSON object never reach the client:
//!   what is wrong with them is cut away.

mod blocks;
mod chat;
mod content;
mod error;
mod events;
mod json;
mod request;
mod response;
mod stream;
mod tools;

pub use chat::Usage;
pub use error::TranslateError;
pub use request::{count_request, request};
pub use response::{count_response, response};
pub use stream::MessageStream;
