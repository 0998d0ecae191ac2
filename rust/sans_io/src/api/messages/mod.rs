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
//! * No conversation is locked out by what lies in its past. What only Anthropic's servers can read
//!   or need (redacted thinking, uploads into a container, `cache_control`) is dropped. What means
//!   something and has no counterpart is said in a text (PDFs, files by an id, calls and results of
//!   Anthropic's own tools, blocks of unknown types), with the texts that it has. Blocks of both
//!   kinds are counted. Where nothing else is in the user's last turn, the request is rejected.
//! * Hints are mapped where every engine takes them, else dropped: `thinking` becomes
//!   `chat_template_kwargs.enable_thinking`, its budget is dropped; an effort above `high` becomes
//!   `high`.
//! * An assistant's thinking goes back to the engine as `reasoning`, and as `reasoning_content`,
//!   which other engines read, where unknown members are no reason to reject it.
//! * Tools with a schema become functions, and so do those that Anthropic defines and the client
//!   runs (`bash`, the text editor, `memory`, `computer`), with the schema that Anthropic
//!   documents. Those that Anthropic's servers run are left out and counted; a choice of one is
//!   rejected.
//! * Numbers that must be whole are so however they are written.
//!
//! The messages are put into an order that no chat template refuses:
//!
//! * `system`, and messages of that role before the first turn, become one first message. Later
//!   ones become a text in a user's turn, marked as `<system-message>`, at their place, but behind
//!   the results of the assistant's calls: nothing before them changes, so prefix caches hold. A
//!   model's `system_messages` says that its template takes them `anywhere`, or `none` at all: then
//!   the first goes in front of the first user's words, as Gemma's own template has it.
//! * Users and assistants take turns. Consecutive turns of one role are merged; one of which
//!   nothing is left does not count. Before an assistant that speaks first a user says so. A last
//!   turn of the assistant is sent as it is: the engine starts a fresh turn, since
//!   `continue_final_message` is vLLM's alone.
//! * The results of calls follow them directly and in their order, each one once. Anthropic's API
//!   rejects a call without a result, a second result, and one without its call in the turn before;
//!   here a history may be cut anywhere: a missing result is said to be missing, a second one is
//!   joined to the first, and one without a call is said in the user's turn.
//! * `content` is null only beside calls, where some templates (`DeepSeek`'s) tell calls by it, and
//!   empty only beside thoughts, of a result, and where a whole request says nothing.
//! * Ids of calls that were made here become the engine's own again. Calls and results are matched
//!   by the ids that the client knows, for two may be of one engine's.
//! * In a stream no fragment is lost: what comes while a tool call is unfinished (another call's
//!   fragments, text) waits for its end. Arguments that are no JSON object never reach the client:
//!   everything from the first wrong byte on is cut away.
//! * Engines that tell their calls apart by nothing, repeat what they said, or write an object's text
//!   as a string's are understood ([`arguments`]), and each call's id is made the only one of its
//!   conversation ([`tool_ids`](crate::api::tool_ids)).

mod arguments;
mod assembly;
mod blocks;
mod call_ids;
mod chat;
mod client_tools;
mod content;
mod conversation;
mod engine;
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
mod words;

pub use assembly::Assembly;
pub(crate) use call_ids::CallIds;
pub use chat::Usage;
pub use engine::Engine;
pub use error::TranslateError;
pub use finite::finite;
pub use history::HistoryIds;
pub(crate) use json::{list, object_in};
pub use origin::Origin;
pub use request::{Request, count_request, request};
pub use response::{count_response, response, streamed_count};
pub use stream::MessageStream;
