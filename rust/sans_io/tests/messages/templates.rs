//! Conversations at random: what Anthropic's API accepts becomes what the strictest chat template
//! accepts, with all its words; and what it does not accept locks nobody out, either.

use proptest::prelude::*;
use sans_io::api::messages::{Engine, count_request, request};
use sans_io::api::tool_ids;
use sans_io::seam::{ReasoningNames, SystemMessages};
use serde_json::{Value, json};

use crate::agreement::template;

/// A block. Each has a word of its own where it is written.
#[derive(Clone, Debug)]
enum Block {
    Text,
    Empty,
    Image,
    FileImage,
    Document,
    Pdf,
    Unknown,
    ServerCall,
    ServerResult,
    Redacted,
    Thinking,
    Call(u8),
    Result(u8, Vec<Block>),
}

type Message = (&'static str, Vec<Block>);

fn plain() -> impl Strategy<Value = Block> {
    prop::sample::select(vec![
        Block::Text,
        Block::Text,
        Block::Empty,
        Block::Image,
        Block::FileImage,
        Block::Document,
        Block::Pdf,
        Block::Unknown,
        Block::ServerCall,
        Block::ServerResult,
        Block::Redacted,
        Block::Thinking,
    ])
}

fn block() -> impl Strategy<Value = Block> {
    prop_oneof![
        3 => plain(),
        2 => (0_u8..5).prop_map(Block::Call),
        2 => (0_u8..5, prop::collection::vec(plain(), 0..3)).prop_map(|(id, inner)| Block::Result(id, inner)),
    ]
}

/// Messages of any roles, with any blocks.
fn any_messages() -> impl Strategy<Value = Vec<Message>> {
    let role = prop::sample::select(vec!["user", "assistant", "system"]);
    prop::collection::vec((role, prop::collection::vec(block(), 0..4)), 1..9)
}

/// A conversation that Anthropic's API accepts: its messages and the order in which each turn's
/// results come.
fn accepted_messages() -> impl Strategy<Value = Vec<Message>> {
    let of = |blocks: &[Block]| prop::collection::vec(prop::sample::select(blocks.to_vec()), 0..3);
    let user = of(&[Block::Text, Block::Image, Block::FileImage, Block::Document, Block::Pdf]);
    let assistant = of(&[
        Block::Text,
        Block::Thinking,
        Block::Redacted,
        Block::ServerCall,
        Block::ServerResult,
    ]);
    let result = prop::sample::select(vec![Block::Text, Block::Image, Block::Pdf, Block::Document]);
    let results = prop::collection::vec(result, 0..3);
    let turn = (user, assistant, 0_u8..4, any::<u8>(), prop::option::of(0_usize..3), results);
    (prop::collection::vec(turn, 1..5), any::<bool>()).prop_map(|(turns, ends_with_user)| {
        let mut messages = Vec::new();
        let mut open = 0..0;
        for (user, assistant, calls, order, system_at, inner) in turns {
            let mut results: Vec<_> = open.clone().collect();
            let first = usize::from(order) % results.len().max(1);
            results.rotate_left(first);
            let results = results.into_iter().map(|id| Block::Result(id, inner.clone()));
            let mut said: Vec<_> = results.chain(user).collect();
            if said.is_empty() {
                said.push(Block::Text);
            }
            let system =
                |place| (system_at == Some(place)).then_some(("system", vec![Block::Text]));
            messages.extend(system(0));
            // One turn may be two messages.
            let second = said.split_off(usize::from(order / 16) % said.len());
            messages.extend(
                [said, second]
                    .into_iter()
                    .filter(|said| !said.is_empty())
                    .map(|said| ("user", said)),
            );
            messages.extend(system(1));
            open = open.end..open.end + calls;
            let calls = open.clone().map(Block::Call);
            let mut said: Vec<_> = assistant.into_iter().chain(calls).collect();
            if said.is_empty() {
                said.push(Block::Text);
            }
            messages.push(("assistant", said));
            messages.extend(system(2));
        }
        if ends_with_user || !open.is_empty() {
            let mut said: Vec<_> = open.map(|id| Block::Result(id, Vec::new())).collect();
            said.push(Block::Text);
            messages.push(("user", said));
        }
        messages
    })
}

/// Writes messages, each word another.
#[derive(Default)]
struct Writer {
    words: Vec<String>,
}

impl Writer {
    fn word(&mut self) -> String {
        let word = format!("w{};", self.words.len());
        self.words.push(word.clone());
        word
    }

    fn body(&mut self, messages: &[Message]) -> String {
        let messages: Vec<_> = messages
            .iter()
            .map(|(role, blocks)| json!({"role": role, "content": self.blocks(blocks)}))
            .collect();
        json!({"max_tokens": 5, "system": self.word(), "messages": messages}).to_string()
    }

    fn blocks(&mut self, blocks: &[Block]) -> Vec<Value> {
        blocks.iter().map(|block| self.block(block)).collect()
    }

    fn block(&mut self, block: &Block) -> Value {
        // Half of the ids are of those that were made here, each for the same one of the engine.
        let id = |number: u8| match number % 2 {
            0 => format!("call_{number}"),
            _ => tool_ids::encode("call_0", "msg_1", number.into()),
        };
        match block {
            Block::Text => json!({"type": "text", "text": self.word()}),
            Block::Empty => json!({"type": "text", "text": ""}),
            Block::Image => json!({"type": "image", "source": {"type": "url", "url": "u"}}),
            Block::FileImage => {
                json!({"type": "image", "source": {"type": "file", "file_id": "f"}})
            }
            Block::Document => {
                json!({"type": "document", "title": self.word(), "source": {"type": "text", "data": self.word()}})
            }
            Block::Pdf => {
                json!({"type": "document", "title": self.word(), "source": {"type": "base64", "data": "f"}})
            }
            Block::Unknown => {
                json!({"type": "holo_gram", "deep": [{"er": self.word()}, self.word()]})
            }
            Block::ServerCall => {
                json!({"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"query": self.word()}})
            }
            Block::ServerResult => {
                json!({"type": "web_search_tool_result", "tool_use_id": "s", "content": [{"type": "web_search_result", "title": self.word(), "url": self.word()}]})
            }
            Block::Redacted => json!({"type": "redacted_thinking", "data": "x"}),
            Block::Thinking => {
                json!({"type": "thinking", "thinking": self.word(), "signature": "s"})
            }
            Block::Call(number) => {
                json!({"type": "tool_use", "id": id(*number), "name": "n", "input": {"a": self.word()}})
            }
            Block::Result(number, inner) => {
                json!({"type": "tool_result", "tool_use_id": id(*number), "content": self.blocks(inner)})
            }
        }
    }
}

/// Anthropic's rules for the turns of a conversation, one after the other: no turn is empty, each
/// call has its one result in the user's turn behind it, and no result is without its call. System
/// messages may stand anywhere.
fn anthropic_accepts(messages: &[Message]) -> bool {
    let mut turns: Vec<Message> = Vec::new();
    for (role, blocks) in messages.iter().filter(|(role, _)| *role != "system") {
        match turns.last_mut() {
            Some((last, so_far)) if last == role => so_far.extend(blocks.iter().cloned()),
            _ => turns.push((role, blocks.clone())),
        }
    }
    let ids = |turn: Option<&Message>, is_call: bool| {
        let id = |block: &Block| match block {
            Block::Call(id) if is_call => Some(*id),
            Block::Result(id, _) if !is_call => Some(*id),
            _ => None,
        };
        let mut ids: Vec<_> =
            turn.map_or(Vec::new(), |(_, blocks)| blocks.iter().filter_map(id).collect());
        ids.sort_unstable();
        ids
    };
    let begins = turns.first().is_some_and(|(role, _)| *role == "user");
    let is_whole = |(at, turn): (usize, &Message)| {
        let (role, blocks) = turn;
        let before = at.checked_sub(1).and_then(|at| turns.get(at));
        let calls = ids(Some(turn), true);
        let is_known = |block: &Block| match role {
            &"user" => !matches!(
                block,
                Block::Call(_)
                    | Block::Thinking
                    | Block::Redacted
                    | Block::ServerCall
                    | Block::ServerResult
            ),
            _ => !matches!(
                block,
                Block::Result(..) | Block::Image | Block::FileImage | Block::Document | Block::Pdf
            ),
        };
        !blocks.is_empty()
            && blocks
                .iter()
                .all(|block| is_known(block) && !matches!(block, Block::Empty | Block::Unknown))
            && ids(Some(turn), false) == ids(before, true)
            && calls.windows(2).all(|pair| pair[0] != pair[1])
            && (calls.is_empty() || at + 1 < turns.len())
    };
    begins && turns.iter().enumerate().all(is_whole)
}

/// Whether nothing of the user's own that an engine can read is in the last turn, which is the
/// user's, but something that it cannot.
fn hinges(messages: &[Message]) -> bool {
    let last: Vec<_> = messages
        .iter()
        .rev()
        .filter(|(role, _)| *role != "system")
        .take_while(|(role, _)| *role == "user")
        .flat_map(|(_, blocks)| blocks)
        .collect();
    let is_read = |block: &&Block| {
        matches!(block, Block::Text | Block::Image | Block::Document | Block::Result(..))
    };
    !last.iter().any(is_read) && last.iter().any(|block| !matches!(block, Block::Empty))
}

const ALL: [SystemMessages; 3] =
    [SystemMessages::First, SystemMessages::Anywhere, SystemMessages::None];

/// The chat request for these messages, which has all their words and which the template accepts.
/// None: the translation refuses them.
fn accepted_chat(messages: &[Message], system_messages: SystemMessages) -> Option<Value> {
    let mut writer = Writer::default();
    let body = writer.body(messages);
    let engine = Engine { model: "m", system_messages, reasoning_names: ReasoningNames::Both };
    let made = request(body.as_bytes(), &engine);
    let counted = count_request(body.as_bytes(), &engine);
    assert_eq!(made.is_ok(), counted.is_ok());
    let Ok(made) = made else { return None };
    for request in [&made.body, &counted.unwrap().body] {
        template::accept(request, system_messages);
    }
    let chat = String::from_utf8(made.body).unwrap();
    for word in &writer.words {
        assert!(chat.contains(word), "{word} of {body} is not in {chat}");
    }
    Some(serde_json::from_str(&chat).unwrap())
}

proptest! {
    #[test]
    fn what_anthropic_accepts_becomes_what_every_template_accepts(messages in accepted_messages()) {
        prop_assert!(anthropic_accepts(&messages));
        for system_messages in ALL {
            let chat = accepted_chat(&messages, system_messages);
            prop_assert_eq!(chat.is_none(), hinges(&messages));
            if let Some(chat) = chat {
                let text = chat.to_string();
                prop_assert!(!text.contains("there is no result") && !text.contains("that is not here"));
                let last = chat["messages"].as_array().unwrap().last().unwrap();
                prop_assert!(last["role"] != "user" || last["content"] != "");
            }
        }
    }

    #[test]
    fn no_conversation_is_locked_out_but_by_its_last_turn(messages in any_messages()) {
        for system_messages in ALL {
            prop_assert_eq!(accepted_chat(&messages, system_messages).is_none(), hinges(&messages));
        }
    }

    #[test]
    fn what_comes_later_changes_nothing_before_it(messages in accepted_messages()) {
        // Behind a user's turn the assistant speaks, so that nothing can join it any more.
        let speaks = |(role, blocks): &Message| {
            *role == "assistant" && !blocks.iter().all(|block| matches!(block, Block::Redacted))
        };
        let is_end = |cut: &usize| {
            messages[cut - 1].0 == "user"
                && speaks(&messages[*cut])
                && !hinges(&messages[..*cut])
                && !hinges(&messages)
        };
        for cut in (1..messages.len()).filter(is_end) {
            for system_messages in ALL {
                let before = accepted_chat(&messages[..cut], system_messages).unwrap();
                let after = accepted_chat(&messages, system_messages).unwrap();
                // The first has the word of `system`, which is counted last.
                let before = &before["messages"].as_array().unwrap()[1..];
                let after = &after["messages"].as_array().unwrap()[1..];
                prop_assert_eq!(before, &after[..before.len()]);
            }
        }
    }
}
