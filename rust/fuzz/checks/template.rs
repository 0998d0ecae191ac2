//! The strictest chat template: slow, plain, and with all rules at once that templates and engines
//! have of a conversation. What it accepts, no template refuses.

use sans_io::seam::SystemMessages;
use serde::Deserialize;
use serde_json::value::RawValue;

#[derive(Deserialize)]
struct Chat<'a> {
    #[serde(borrow)]
    messages: Vec<Message<'a>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Message<'a> {
    role: &'a str,
    #[serde(borrow)]
    content: &'a RawValue,
    #[serde(borrow)]
    reasoning: Option<&'a RawValue>,
    #[serde(borrow)]
    reasoning_content: Option<&'a RawValue>,
    #[serde(borrow, default)]
    tool_calls: Vec<Call<'a>>,
    #[serde(borrow)]
    tool_call_id: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Call<'a> {
    #[serde(borrow)]
    id: &'a RawValue,
    #[serde(borrow)]
    function: Function<'a>,
}

#[derive(Deserialize)]
struct Function<'a> {
    #[serde(borrow)]
    name: &'a RawValue,
    #[serde(borrow)]
    arguments: &'a RawValue,
}

#[derive(Deserialize)]
struct Part<'a> {
    r#type: &'a str,
    #[serde(borrow)]
    text: Option<&'a RawValue>,
    #[serde(borrow)]
    image_url: Option<&'a RawValue>,
}

/// What may come next.
enum Next<'a> {
    User,
    Assistant,
    /// The results of these calls, in this order.
    Results(Vec<&'a str>),
    /// Behind results the user may speak, or the assistant go on.
    Either,
}

/// Panics where the template would refuse the request.
pub(crate) fn accept(request: &[u8], system_messages: SystemMessages) {
    let chat: Chat<'_> = serde_json::from_slice(request).expect("a chat of known members");
    let mut next = Next::User;
    let last = chat.messages.len().checked_sub(1).expect("a message");
    for (at, message) in chat.messages.iter().enumerate() {
        check_members(message);
        let content = message.content.get();
        match message.role {
            "system" => {
                let is_allowed = match system_messages {
                    SystemMessages::First => at == 0,
                    SystemMessages::Anywhere => !matches!(next, Next::Results(_)),
                    SystemMessages::None => false,
                };
                assert!(is_allowed && is_text(content), "a system message at {at}");
                // Between turns it is a turn itself, behind which both may go on.
                if at > 0 {
                    next = Next::Either;
                }
            }
            "user" => {
                assert!(matches!(next, Next::User | Next::Either), "a user at {at}");
                let is_empty_end = at == last && content == "\"\"";
                assert!(is_text(content) || is_empty_end || are_parts(content), "{at}: {content}");
                next = Next::Assistant;
            }
            "assistant" => {
                assert!(matches!(next, Next::Assistant | Next::Either), "an assistant at {at}");
                let is_silent = match message.tool_calls.len() {
                    0 => content == "\"\"" && message.reasoning.is_some(),
                    _ => content == "null",
                };
                assert!(is_text(content) || is_silent, "{at}: {content}");
                let ids: Vec<_> = message.tool_calls.iter().map(|call| call.id.get()).collect();
                next = if ids.is_empty() { Next::User } else { Next::Results(ids) };
            }
            "tool" => {
                let Next::Results(ids) = &mut next else { panic!("a result at {at}") };
                let id = message.tool_call_id.expect("its call").get();
                assert_eq!(id, ids.remove(0), "results in the order of their calls");
                assert!(content.starts_with('"'), "{at}: {content}");
                if ids.is_empty() {
                    next = Next::Either;
                }
            }
            role => panic!("{role}"),
        }
    }
    assert!(!matches!(next, Next::Results(_)), "a call without a result");
}

/// Each role has the members that are its own.
fn check_members(message: &Message<'_>) {
    let is_assistant = message.role == "assistant";
    assert!(is_assistant || message.tool_calls.is_empty() && message.reasoning.is_none());
    assert_eq!(message.role == "tool", message.tool_call_id.is_some());
    let names = [message.reasoning, message.reasoning_content].map(|text| text.map(RawValue::get));
    assert!(names[0] == names[1] && names[0].is_none_or(is_text), "{names:?}");
    for call in &message.tool_calls {
        assert!(call.id.get().starts_with('"') && call.function.name.get().starts_with('"'));
        let arguments = call.function.arguments.get();
        // An input may have halves of surrogate pairs, which are no text.
        if let Ok(text) = serde_json::from_str::<String>(arguments) {
            let input: &RawValue = serde_json::from_str(&text).expect("arguments are JSON");
            assert!(input.get().starts_with('{'), "{text}");
        }
    }
}

/// A string that says something.
fn is_text(content: &str) -> bool {
    content.starts_with('"') && content != "\"\""
}

fn are_parts(content: &str) -> bool {
    let Ok(parts) = serde_json::from_str::<Vec<Part<'_>>>(content) else { return false };
    let is_whole = |part: &Part<'_>| match part.r#type {
        "text" => part.text.is_some_and(|text| is_text(text.get())),
        "image_url" => part.image_url.is_some(),
        _ => false,
    };
    !parts.is_empty() && parts.iter().all(is_whole)
}
