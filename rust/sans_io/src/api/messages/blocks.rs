//! Orders a streamed Message's content blocks: one is open at a time, and what comes for others
//! meanwhile waits in order.
//!
//! A chat stream may interleave what a Message must not: fragments of several tool calls, text
//! between them. Text and thinking can end at any moment; a tool call ends when its arguments are a
//! whole object, or with the stream. So only what comes behind an unfinished tool call ever waits.

use std::collections::VecDeque;

use super::arguments::Arguments;
use super::call_ids::CallIds;
use super::chat::{CallPart, Spoken};
use super::events::{self, Delta, SIGNATURE};
use super::json::{Text, literal};
use super::origin::Origin;
use crate::api::cost::CALLS_MAX;

/// The most bytes that may wait. A response with more behind an unfinished call is not worth the
/// memory.
const WAITING_MAX: usize = 16 << 20;

/// The blocks of one Message.
#[derive(Debug, Default)]
pub(super) struct Blocks {
    /// Blocks that were not ended, in order; the first is the present one.
    waiting: VecDeque<Block>,
    /// Whether the first block's start was sent.
    open: bool,
    /// Blocks that have ended.
    ended: usize,
    /// Bytes that wait, over all blocks.
    held: usize,
    calls: Vec<Call>,
    ids: CallIds,
}

#[derive(Debug)]
enum Block {
    /// Pending text: the inside of a JSON string.
    Thinking(String),
    Text(String),
    /// The position in `calls`.
    Call(usize),
}

#[derive(Debug, Default)]
struct Call {
    /// The engine's number of the call.
    index: u64,
    id: Option<String>,
    name: String,
    arguments: Arguments,
    /// Arguments that are certain and were not sent; decoded.
    unsent: String,
    /// Its name came again behind its arguments: another object is another call.
    is_named_again: bool,
    started: bool,
    /// Some of its arguments was sent.
    has_sent: bool,
}

/// How an engine's answer has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// As the model wanted it.
    Whole,
    /// In the middle: it was as long as it may be. The client expects a call that is cut off.
    Cut,
}

impl Blocks {
    /// Adds what the engine says.
    pub(super) fn speak(&mut self, spoken: Spoken<'_>) {
        let inside = spoken.inside();
        self.held += inside.len();
        match self.waiting.back_mut() {
            Some(Block::Thinking(pending)) if spoken.is_thinking() => pending.push_str(inside),
            Some(Block::Text(pending)) if !spoken.is_thinking() => pending.push_str(inside),
            _ if spoken.is_thinking() => {
                self.waiting.push_back(Block::Thinking(inside.to_owned()));
            }
            _ => self.waiting.push_back(Block::Text(inside.to_owned())),
        }
    }

    /// Adds a fragment of a tool call. `at`: its place in its list, which counts where the engine
    /// does not number calls.
    pub(super) fn call(&mut self, part: CallPart, at: usize) {
        let index = part.index.unwrap_or(at as u64);
        let by_id = part.id.as_ref().filter(|_| part.index.is_none());
        let has_id = |call: &Call| by_id.is_some() && call.id.as_ref() == by_id;
        let known = self.calls.iter().rposition(has_id);
        let known = known.or_else(|| self.calls.iter().rposition(|call| call.index == index));
        match known {
            Some(position) if !self.calls[position].is_followed_by(&part) => {
                self.add(position, part);
            }
            before => {
                let before = before.and_then(|position| self.calls.get_mut(position));
                let name = before.map(|call| {
                    self.held = self.held.saturating_sub(call.held());
                    call.arguments.end(&mut call.unsent);
                    self.held += call.held();
                    call.name.clone()
                });
                let name = part.name.clone().or(name).unwrap_or_default();
                self.whole_call(CallPart { index: Some(index), name: Some(name), ..part });
            }
        }
    }

    /// Adds a call, or the first fragment of one.
    pub(super) fn whole_call(&mut self, part: CallPart) {
        self.waiting.push_back(Block::Call(self.calls.len()));
        self.calls.push(Call { index: part.index.unwrap_or_default(), ..Call::default() });
        self.add(self.calls.len() - 1, part);
    }

    fn add(&mut self, position: usize, part: CallPart) {
        if let Some(call) = self.calls.get_mut(position) {
            self.held = self.held.saturating_sub(call.held());
            call.add(part);
            self.held += call.held();
        }
    }

    /// The memory for what waits, in bytes.
    pub(super) fn held(&self) -> usize {
        // A text that grows is doubled.
        2 * self.held
            + (self.calls.capacity() + self.waiting.capacity()) * size_of::<Call>()
            + self.ids.held()
    }

    /// Whether more waits than is allowed.
    pub(super) fn is_too_much(&self) -> bool {
        self.held > WAITING_MAX || self.calls.len() > CALLS_MAX
    }

    /// Whether nothing was said.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.ended == 0
    }

    /// Whether there is a call that names no tool.
    pub(super) fn has_nameless_call(&self) -> bool {
        self.calls.iter().any(|call| call.name.is_empty())
    }

    /// Whether there is a tool call.
    pub(super) fn has_call(&self) -> bool {
        !self.calls.is_empty()
    }

    /// Sends all that may be sent.
    pub(super) fn send(&mut self, origin: &Origin, out: &mut Vec<u8>) {
        while self.send_first(None, origin, out) {}
    }

    /// Sends everything and ends the last block. A Message has at least one, since programs read
    /// the first one unasked.
    pub(super) fn finish(&mut self, end: Ending, origin: &Origin, out: &mut Vec<u8>) {
        while self.send_first(Some(end), origin, out) {}
        if self.ended == 0 {
            self.waiting.push_back(Block::Text(String::new()));
            self.send_first(Some(end), origin, out);
        }
    }

    /// Sends what there is of the first block. Returns whether it has ended, so that the next one
    /// is the first. `end`: how the stream has ended; None: it goes on.
    fn send_first(&mut self, end: Option<Ending>, origin: &Origin, out: &mut Vec<u8>) -> bool {
        let ending = end.is_some();
        let may_end = ending || self.waiting.len() > 1;
        let index = self.ended;
        let Some(block) = self.waiting.front_mut() else { return false };
        let is_finished = match block {
            Block::Thinking(pending) => {
                if !self.open {
                    events::block_start(
                        out,
                        index,
                        r#"{"type":"thinking","thinking":"","signature":""}"#,
                    );
                }
                self.held = self.held.saturating_sub(pending.len());
                send_pending(out, index, Delta::Thinking, pending);
                if may_end {
                    events::block_delta(out, index, Delta::Signature, SIGNATURE);
                }
                may_end
            }
            Block::Text(pending) => {
                if !self.open {
                    events::block_start(out, index, r#"{"type":"text","text":""}"#);
                }
                self.held = self.held.saturating_sub(pending.len());
                send_pending(out, index, Delta::Text, pending);
                may_end
            }
            Block::Call(position) => {
                let Some(call) = self.calls.get_mut(*position) else { return false };
                // It was cut off in its name.
                if ending && call.name.is_empty() {
                    self.held = self.held.saturating_sub(call.held());
                    self.waiting.pop_front();
                    return true;
                }
                if !ending && !self.open && !call.may_start() {
                    return false;
                }
                let is_unsent = !call.has_sent;
                if !self.open {
                    events::block_start(out, index, &call.start(&mut self.ids, origin));
                }
                self.held = self.held.saturating_sub(call.held());
                if ending {
                    call.arguments.end(&mut call.unsent);
                }
                if end == Some(Ending::Whole) {
                    call.arguments.mend(is_unsent, &mut call.unsent);
                }
                call.has_sent |= !call.unsent.is_empty();
                let unsent = std::mem::take(&mut call.unsent);
                let mut unsent = Text::written(&unsent).inside().to_owned();
                send_pending(out, index, Delta::InputJson, &mut unsent);
                self.held += call.held();
                // What follows the first wrong byte belongs to it, too.
                ending || call.arguments.is_whole() && call.arguments.is_finished()
            }
        };
        self.open = !is_finished;
        if is_finished {
            events::block_stop(out, index);
            self.waiting.pop_front();
            self.ended += 1;
        }
        is_finished
    }
}

fn send_pending(out: &mut Vec<u8>, index: usize, delta: Delta, pending: &mut String) {
    if !pending.is_empty() {
        events::block_delta(out, index, delta, pending);
        pending.clear();
    }
}

impl Call {
    /// Whether a fragment under the same number begins another call: engines exist that number all
    /// calls 0. Others repeat id and name in every fragment, make up a new id for each, or send the
    /// whole object once more.
    fn is_followed_by(&self, part: &CallPart) -> bool {
        let is_finished = self.arguments.is_whole() || self.arguments.is_finished();
        match (&self.id, &part.id, &part.name) {
            (_, _, _) if self.name.is_empty() => false,
            (Some(id), Some(other), Some(_)) if id != other => {
                is_finished || self.arguments.is_empty()
            }
            (None, None, Some(name)) if is_finished && *name != self.name => true,
            (_, _, name) if name.is_some() || self.is_named_again => {
                self.arguments.is_followed_by(&part.arguments)
            }
            _ => false,
        }
    }

    fn add(&mut self, part: CallPart) {
        if self.id.is_none() {
            self.id = part.id;
        }
        // A name comes whole, in pieces, as snapshots, or whole in every fragment.
        match part.name {
            Some(name) if name == self.name => {
                let is_behind = self.arguments.is_whole() && part.arguments.is_empty();
                self.is_named_again |= is_behind;
            }
            Some(name) if !self.started && name.starts_with(&self.name) => self.name = name,
            Some(name) if !self.started => self.name.push_str(&name),
            _ => {}
        }
        self.arguments.feed(&part.arguments, &mut self.unsent);
    }

    /// The bytes that wait.
    fn held(&self) -> usize {
        self.unsent.len() + self.arguments.held()
    }

    /// Whether the name is complete, which is known once the arguments have begun.
    fn may_start(&self) -> bool {
        !self.name.is_empty() && !self.arguments.is_empty()
    }

    /// The JSON of the block as it begins.
    fn start(&mut self, ids: &mut CallIds, origin: &Origin) -> String {
        self.started = true;
        let id = literal(&ids.next(self.id.as_deref(), &origin.message_id, &origin.history));
        let name = literal(&self.name);
        format!("{{\"type\":\"tool_use\",\"id\":{id},\"name\":{name},\"input\":{{}}}}")
    }
}
