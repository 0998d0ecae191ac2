//! Orders a streamed Message's content blocks: one is open at a time, and what comes for others
//! meanwhile waits in order.
//!
//! A chat stream may interleave what a Message must not: fragments of several tool calls, text
//! between them. Text and thinking can end at any moment; a tool call ends when its arguments are a
//! whole object, or with the stream. So only what comes behind an unfinished tool call ever waits.

use std::collections::VecDeque;

use super::chat::{CallPart, LastCall};
use super::events::{self, Delta, SIGNATURE, made_tool_id};
use super::json::{Text, literal};
use crate::api::cost::CALLS_MAX;
use crate::codec::json::object::ObjectScan;

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
    /// Accepted arguments that were not sent; decoded.
    arguments: String,
    scan: ObjectScan,
    started: bool,
    ended: bool,
}

impl Blocks {
    /// Adds thinking; `inside` is the inside of a JSON string.
    pub(super) fn think(&mut self, inside: &str) {
        self.held += inside.len();
        match self.waiting.back_mut() {
            Some(Block::Thinking(pending)) => pending.push_str(inside),
            _ => self.waiting.push_back(Block::Thinking(inside.to_owned())),
        }
    }

    /// Adds text; `inside` is the inside of a JSON string.
    pub(super) fn write(&mut self, inside: &str) {
        self.held += inside.len();
        match self.waiting.back_mut() {
            Some(Block::Text(pending)) => pending.push_str(inside),
            _ => self.waiting.push_back(Block::Text(inside.to_owned())),
        }
    }

    /// Adds a fragment of a tool call.
    pub(super) fn call(&mut self, part: CallPart) {
        let index = part.index.unwrap_or(0);
        let known = self.calls.iter().rposition(|call| call.index == index);
        let known = known.filter(|&position| !self.calls[position].is_followed_by(&part));
        let position = known.unwrap_or_else(|| {
            self.waiting.push_back(Block::Call(self.calls.len()));
            self.calls.push(Call { index, ..Call::default() });
            self.calls.len() - 1
        });
        if let Some(call) = self.calls.get_mut(position).filter(|call| !call.ended) {
            self.held += call.add(part);
        }
    }

    /// The memory for what waits, in bytes.
    pub(super) fn held(&self) -> usize {
        // A text that grows is doubled.
        2 * self.held + (self.calls.capacity() + self.waiting.capacity()) * size_of::<Call>()
    }

    /// Whether more waits than is allowed.
    pub(super) fn is_too_much(&self) -> bool {
        self.held > WAITING_MAX || self.calls.len() > CALLS_MAX
    }

    /// The state of the last tool call.
    pub(super) fn last_call(&self) -> LastCall {
        match self.calls.last() {
            None => LastCall::None,
            Some(call) if call.scan.is_whole() || call.scan.is_empty() => LastCall::Whole,
            Some(_) => LastCall::Cut,
        }
    }

    /// Sends all that may be sent. `message_id` distinguishes ids made here from those of other
    /// messages.
    pub(super) fn send(&mut self, message_id: &str, out: &mut Vec<u8>) {
        while self.send_first(false, message_id, out) {}
    }

    /// Sends everything and ends the last block. A Message has at least one, since programs read
    /// the first one unasked.
    pub(super) fn finish(&mut self, message_id: &str, out: &mut Vec<u8>) {
        while self.send_first(true, message_id, out) {}
        if self.ended == 0 {
            self.waiting.push_back(Block::Text(String::new()));
            self.send_first(true, message_id, out);
        }
    }

    /// Sends what there is of the first block. Returns whether it has ended, so that the next one
    /// is the first.
    fn send_first(&mut self, ending: bool, message_id: &str, out: &mut Vec<u8>) -> bool {
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
                let position = *position;
                let Some(call) = self.calls.get_mut(position) else { return false };
                if !ending && !self.open && !call.may_start() {
                    return false;
                }
                if !self.open {
                    events::block_start(out, index, &call.start(message_id, position));
                }
                self.held = self.held.saturating_sub(call.arguments.len());
                let mut arguments =
                    Text::written(&std::mem::take(&mut call.arguments)).inside().to_owned();
                send_pending(out, index, Delta::InputJson, &mut arguments);
                call.ended = ending || call.scan.is_finished();
                call.ended
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
    /// calls 0. Others repeat id and name in every fragment, or make up a new id for each.
    fn is_followed_by(&self, part: &CallPart) -> bool {
        let Some(name) = &part.name else { return false };
        let may_be_finished = self.scan.is_finished() || self.scan.is_empty();
        may_be_finished
            && !self.name.is_empty()
            && match (&self.id, &part.id) {
                (Some(id), Some(other)) => id != other,
                (None, None) => self.scan.is_finished() && *name != self.name,
                _ => false,
            }
    }

    /// Adds a fragment. Returns the bytes that wait by it.
    fn add(&mut self, part: CallPart) -> usize {
        if self.id.is_none() {
            self.id = part.id;
        }
        // A name comes whole, in pieces, or whole in every fragment.
        if let Some(name) = part.name.filter(|name| *name != self.name && !self.started) {
            self.name.push_str(&name);
        }
        let accepted = self.scan.feed(&part.arguments);
        self.arguments.push_str(accepted);
        accepted.len()
    }

    /// Whether the name is complete, which is known once the arguments have begun.
    fn may_start(&self) -> bool {
        !self.name.is_empty() && !self.scan.is_empty()
    }

    /// The JSON of the block as it begins.
    fn start(&mut self, message_id: &str, position: usize) -> String {
        self.started = true;
        let made = || made_tool_id(message_id, position);
        let id = literal(&self.id.clone().unwrap_or_else(made));
        let name = literal(&self.name);
        format!("{{\"type\":\"tool_use\",\"id\":{id},\"name\":{name},\"input\":{{}}}}")
    }
}
