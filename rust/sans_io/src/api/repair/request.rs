//! The repair of a request's messages.

use std::{borrow::Cow, collections::HashMap};

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::repairs::Repairs;
use crate::{
    api::{
        messages::{HistoryIds, list, object_in},
        tool_ids,
    },
    codec::splice::{Splice, place_in},
};

/// The separator of two texts in one message; the inside of a JSON string.
const EMPTY_LINE: &str = "\\n\\n";

/// A request as far as it is repaired.
#[derive(Debug, Default)]
pub struct Repaired {
    /// The edit that puts repaired messages in the place of the client's; None: those stay.
    pub messages: Option<Splice>,
    /// The ids of the conversation's calls, where the response's must differ from them.
    pub history: HistoryIds,
}

/// Repairs a request. One that this cannot read stays as it is, and its engine judges it. Of a
/// message that is repaired only what has to change changes; the others stay as they were written.
pub fn repaired(body: &[u8], repairs: Repairs) -> Repaired {
    read_and_repaired(body, repairs).unwrap_or_default()
}

fn read_and_repaired(body: &[u8], repairs: Repairs) -> Option<Repaired> {
    let text = std::str::from_utf8(body).ok()?;
    let request: Request<'_> = serde_json::from_str(text).ok()?;
    let written = request.messages?.get();
    let list = list(request.messages?)?;
    let mut messages: Vec<Message<'_>> =
        list.iter().map(|raw| Message::read(raw.get())).collect::<Option<_>>()?;
    let mut history = HistoryIds::default();
    if repairs.tool_ids {
        history = HistoryIds::of(messages.iter().flat_map(|message| message.calls.iter().copied()));
    }
    if repairs.system_first {
        messages = with_system_first(messages);
    }
    // Behind that, since words of the system may stand between results.
    if repairs.result_order {
        order_results(&mut messages);
    }
    // Behind that, since two ids may have been made of one of the engine's.
    if repairs.tool_ids {
        messages.iter_mut().for_each(Message::give_back_ids);
    }
    let changed = messages.len() != list.len()
        || messages.iter().zip(&list).any(|(message, raw)| *message.text != *raw.get());
    let texts: Vec<_> = messages.iter().map(|message| &*message.text).collect();
    let range = place_in(text, written);
    let messages = changed.then(|| Splice {
        range: range.start as u64..range.end as u64,
        text: Bytes::from(format!("[{}]", texts.join(","))),
    });
    Some(Repaired { messages, history })
}

/// A member of the request, as it was written. A duplicate is an error, since engines would read
/// another one.
#[derive(Deserialize)]
struct Request<'a> {
    #[serde(borrow)]
    messages: Option<&'a RawValue>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    System,
    User,
    Assistant,
    Tool,
    Other,
}

/// One message: its text, and what of it matters here.
struct Message<'a> {
    text: Cow<'a, str>,
    role: Role,
    /// The ids of an assistant's calls, in their order.
    calls: Vec<&'a RawValue>,
    /// The id of the call whose result it is.
    result_of: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Members<'a> {
    #[serde(borrow)]
    role: Option<&'a RawValue>,
    #[serde(borrow)]
    content: Option<&'a RawValue>,
    #[serde(borrow)]
    tool_calls: Option<&'a RawValue>,
    #[serde(borrow)]
    tool_call_id: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Call<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
}

impl<'a> Message<'a> {
    /// None: it is no message.
    fn read(text: &'a str) -> Option<Self> {
        let members = members(text)?;
        let role = match members.role?.get() {
            "\"system\"" | "\"developer\"" => Role::System,
            "\"user\"" => Role::User,
            "\"assistant\"" => Role::Assistant,
            "\"tool\"" => Role::Tool,
            _ => Role::Other,
        };
        let calls = members.tool_calls.map(RawValue::get).map_or(Some(Vec::new()), call_ids)?;
        let result_of = members.tool_call_id;
        Some(Self { text: Cow::Borrowed(text), role, calls, result_of })
    }

    /// Puts the engine's own ids in the place of those that were made here.
    fn give_back_ids(&mut self) {
        if self.calls.is_empty() && self.result_of.is_none() {
            return;
        }
        let edits: Vec<_> = members(&self.text)
            .into_iter()
            .flat_map(|members| {
                let calls = members.tool_calls.and_then(|calls| call_ids(calls.get()));
                calls.unwrap_or_default().into_iter().chain(members.tool_call_id)
            })
            .filter_map(|id| {
                let own = tool_ids::decode(&serde_json::from_str::<String>(id.get()).ok()?)?;
                Some((place_in(&*self.text, id.get()), serde_json::to_string(&own).ok()?))
            })
            .collect();
        for (range, own) in edits.into_iter().rev() {
            self.text.to_mut().replace_range(range, &own);
        }
    }
}

fn members(text: &str) -> Option<Members<'_>> {
    object_in(text)
}

/// The ids of calls, in their order. One without an id is passed over.
fn call_ids(calls: &str) -> Option<Vec<&RawValue>> {
    if calls == "null" {
        return Some(Vec::new());
    }
    let calls: Vec<Call<'_>> = serde_json::from_str(calls).ok()?;
    Some(calls.into_iter().filter_map(|call| call.id).collect())
}

/// Sorts the results behind each assistant's calls by the calls. What answers none of them stands
/// behind those that do.
fn order_results(messages: &mut [Message<'_>]) {
    let mut at = 0;
    while at < messages.len() {
        let (before, behind) = messages.split_at_mut(at + 1);
        let results = behind.iter().take_while(|message| message.role == Role::Tool).count();
        // The first of equal ids, as in the order of the calls.
        let calls = before[at].calls.iter().enumerate().rev();
        let places: HashMap<&str, usize> = calls.map(|(at, call)| (call.get(), at)).collect();
        behind[..results].sort_by_key(|result| {
            let place = result.result_of.and_then(|id| places.get(id.get()));
            place.copied().unwrap_or(usize::MAX)
        });
        at += results + 1;
    }
}

/// Makes one message of the leading ones of the system, and parts of the user's turns of later ones:
/// behind the turn of the user that they follow, else in front of the next one, and never between
/// an assistant's calls and their results.
fn with_system_first(messages: Vec<Message<'_>>) -> Vec<Message<'_>> {
    let mut turns: Vec<Message<'_>> = Vec::with_capacity(messages.len());
    let mut waiting: Option<Message<'_>> = None;
    for mut message in messages {
        let only_system = turns.iter().all(|turn| turn.role == Role::System);
        match (message.role, waiting.take()) {
            (Role::System, None) if only_system => match turns.last_mut() {
                Some(first) => first.append(&message),
                None => turns.push(message),
            },
            (Role::System, before) => {
                message.become_users();
                match (before, turns.last_mut()) {
                    (Some(mut before), _) => {
                        before.append(&message);
                        waiting = Some(before);
                    }
                    (None, Some(last)) if last.role == Role::User => last.append(&message),
                    (None, _) => waiting = Some(message),
                }
            }
            (Role::Tool, before) => {
                waiting = before;
                turns.push(message);
            }
            (Role::User, Some(mut before)) => {
                before.append(&message);
                message.take_content_of(&before);
                turns.push(message);
            }
            (_, before) => {
                turns.extend(before);
                turns.push(message);
            }
        }
    }
    turns.extend(waiting);
    turns
}

impl Message<'_> {
    fn become_users(&mut self) {
        let role = members(&self.text).and_then(|members| members.role).map(RawValue::get);
        if let Some(range) = role.map(|role| place_in(&*self.text, role)) {
            self.text.to_mut().replace_range(range, "\"user\"");
        }
        self.role = Role::User;
    }

    /// Appends the other's content.
    fn append(&mut self, other: &Message<'_>) {
        let Some(added) = content(&other.text).filter(|added| has_words(added)) else { return };
        if let Some(own) = content(&self.text) {
            let joined = joined(own, added);
            let range = place_in(&*self.text, own);
            self.text.to_mut().replace_range(range, &joined);
        } else {
            let member = format!(",\"content\":{added}");
            let end = self.text.len() - 1;
            self.text.to_mut().insert_str(end, &member);
        }
    }

    /// Puts the other's content in the place of its own.
    fn take_content_of(&mut self, other: &Message<'_>) {
        let own = content(&self.text).map(|own| place_in(&*self.text, own));
        if let (Some(range), Some(others)) = (own, content(&other.text)) {
            self.text.to_mut().replace_range(range, others);
        }
    }
}

fn content(message: &str) -> Option<&str> {
    Some(members(message)?.content?.get())
}

fn has_words(content: &str) -> bool {
    !matches!(content, "null" | "\"\"" | "[]")
}

/// Two contents as one: of two strings a string, else a list of parts.
fn joined(first: &str, second: &str) -> String {
    if !has_words(first) {
        return second.to_owned();
    }
    let inside = |text: &str| Some(text.strip_prefix('"')?.strip_suffix('"')?.to_owned());
    if let (Some(first), Some(second)) = (inside(first), inside(second)) {
        return format!("\"{first}{EMPTY_LINE}{second}\"");
    }
    let parts = |content: &str| match content.strip_prefix('[').and_then(|c| c.strip_suffix(']')) {
        Some(parts) => parts.to_owned(),
        None => format!("{{\"type\":\"text\",\"text\":{content}}}"),
    };
    format!("[{},{}]", parts(first), parts(second))
}
