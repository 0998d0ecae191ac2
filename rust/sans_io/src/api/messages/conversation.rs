//! Puts the turns of a conversation into the order that chat templates take: one system message at
//! the beginning, then users and assistants by turns, the results of tools directly behind their
//! calls and in their order.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::content::{
    Block, Content, EMPTY_LINE, Message, Part, Reasoning, Shown, ToolCall, blocks, engine_id,
    shown, string_value, tool_call, wrong,
};
use super::engine::Engine;
use super::error::TranslateError;
use super::history::{HistoryIds, IdHash};
use super::json::{Raw, Text, inside, list, object, raw, word};
use super::words;
use crate::seam::{ReasoningNames, SystemMessages};

/// Prefix of a block that coding agents put before their system prompt. It differs in each request,
/// which spoils the engine's prefix cache, and tells the model nothing.
const BILLING_HEADER: &str = "x-anthropic-billing-header";

/// What marks a later system message in a user's turn; the insides of strings.
const SYSTEM_BEGIN: &str = "<system-message>\\n";
const SYSTEM_END: &str = "\\n</system-message>";

/// Said in place of a result that never came, so that each call has one. A JSON string.
const NO_RESULT: &str = r#""Error: there is no result of this call.""#;

/// The heading of a result that belongs to no call of the turn before.
const STRAY_RESULT: &str = "Result of a tool call that is not here";

/// Said first where a conversation begins with the assistant, which many templates refuse. A JSON
/// string.
const BEGINNING: &str = r#""(The assistant begins.)""#;

/// What a user says of whom nothing is left.
const NOTHING: &str = r#""""#;

/// A conversation as chat messages.
pub(super) struct Chat<'a> {
    pub(super) messages: Vec<Message<'a>>,
    /// Its blocks that the engine does not get, or in words only.
    pub(super) untranslated: u32,
    /// The ids of its calls.
    pub(super) history: HistoryIds,
}

#[derive(Deserialize)]
struct Turn<'a> {
    #[serde(borrow)]
    role: Raw<'a>,
    #[serde(borrow)]
    content: Raw<'a>,
}

/// `system` and `messages` as chat messages.
pub(super) fn chat<'a>(
    system: Raw<'a>,
    messages: Raw<'a>,
    engine: &Engine<'_>,
) -> Result<Chat<'a>, TranslateError> {
    let turns = messages.and_then(list).filter(|turns| !turns.is_empty());
    let turns = turns.ok_or_else(|| {
        TranslateError::new("`messages` must be a list with at least one message.")
    })?;
    let mut conversation = Conversation::new(engine);
    if let Some(system) = system {
        conversation.system(system, "system")?;
    }
    for (at, raw) in turns.into_iter().enumerate() {
        let place = format!("messages[{at}]");
        let turn: Turn<'_> =
            object(raw).ok_or_else(|| wrong(&place, "an object with `role` and `content`"))?;
        let content = turn
            .content
            .ok_or_else(|| wrong(&format!("{place}.content"), "a string or a list of blocks"))?;
        let place = format!("{place}.content");
        match turn.role.and_then(word).as_deref() {
            Some("user") => conversation.user(content, &place)?,
            Some("assistant") => conversation.assistant(content, &place)?,
            Some("system") => conversation.system(content, &place)?,
            _ => {
                return Err(wrong(
                    &format!("messages[{at}].role"),
                    "`user`, `assistant` or `system`",
                ));
            }
        }
    }
    conversation.finish()
}

/// The chat messages so far, and the turn that the next message may still belong to.
struct Conversation<'a> {
    system_messages: SystemMessages,
    reasoning_names: &'static [&'static str],
    messages: Vec<Message<'a>>,
    phase: Phase,
    /// The system texts before the first turn.
    system: Vec<Text<'a>>,
    user: UserTurn<'a>,
    assistant: AssistantTurn<'a>,
    /// The calls of the assistant's turn, which have no results yet.
    calls: Vec<OpenCall<'a>>,
    last: LastTurn,
    untranslated: u32,
    ids: Vec<IdHash>,
}

/// The turn that has begun. A turn of which nothing is left does not begin, so that its neighbours
/// are one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Beginning,
    User,
    Assistant,
}

/// The role of the last message that was no system message.
enum LastTurn {
    None,
    Assistant,
    /// `says`: the engine gets something of it. `lost`: the error of its first block that the
    /// engine does not get.
    User {
        says: bool,
        lost: Option<TranslateError>,
    },
}

#[derive(Default)]
struct UserTurn<'a> {
    results: Vec<ToolResult<'a>>,
    pieces: Vec<Piece<'a>>,
}

/// A piece of what is said to the assistant.
enum Piece<'a> {
    Part(Part<'a>),
    /// A message of its own.
    System(Text<'a>),
}

struct ToolResult<'a> {
    id: IdHash,
    /// The place of its call among those of the turn before, as far as it is known.
    call: usize,
    text: Text<'a>,
    /// A message of the role `tool` cannot have them.
    images: Vec<Part<'a>>,
}

#[derive(Default)]
struct AssistantTurn<'a> {
    texts: Vec<Said<'a>>,
    thinking: Vec<Text<'a>>,
    calls: Vec<ToolCall<'a>>,
}

/// A piece of what the assistant said.
enum Said<'a> {
    Text(&'a RawValue),
    /// In place of a block of another kind.
    Words(Text<'a>),
}

struct OpenCall<'a> {
    /// As its client knows it.
    id: &'a RawValue,
    hash: IdHash,
}

impl<'a> Conversation<'a> {
    fn new(engine: &Engine<'_>) -> Self {
        Self {
            system_messages: engine.system_messages,
            reasoning_names: match engine.reasoning_names {
                ReasoningNames::Reasoning => &["reasoning"],
                ReasoningNames::Both => &["reasoning", "reasoning_content"],
            },
            messages: Vec::new(),
            phase: Phase::Beginning,
            system: Vec::new(),
            user: UserTurn::default(),
            assistant: AssistantTurn::default(),
            calls: Vec::new(),
            last: LastTurn::None,
            untranslated: 0,
            ids: Vec::new(),
        }
    }

    fn system(&mut self, content: &'a RawValue, place: &str) -> Result<(), TranslateError> {
        let (mut texts, images) = self.texts_and_images(content, place)?;
        for _ in images {
            self.untranslated += 1;
            texts.push(words::lost_image());
        }
        texts
            .retain(|text| !text.inside().is_empty() && !text.inside().starts_with(BILLING_HEADER));
        if self.phase == Phase::Beginning {
            self.system.extend(texts);
        } else if !texts.is_empty() {
            let piece = if self.system_messages == SystemMessages::Anywhere {
                Piece::System(joined(texts, EMPTY_LINE))
            } else {
                let insides: Vec<_> = texts.iter().map(Text::inside).collect();
                let text = Text::enclosed(SYSTEM_BEGIN, &insides, EMPTY_LINE, SYSTEM_END);
                Piece::Part(Part::Text { text })
            };
            self.user_turn().pieces.push(piece);
        }
        Ok(())
    }

    fn user(&mut self, content: &'a RawValue, place: &str) -> Result<(), TranslateError> {
        if !matches!(self.last, LastTurn::User { .. }) {
            self.last = LastTurn::User { says: false, lost: None };
        }
        if let Some(text) = inside(content) {
            if !text.is_empty() {
                self.user_says()
                    .pieces
                    .push(Piece::Part(Part::Text { text: Text::Whole(content) }));
            }
            return Ok(());
        }
        for block in blocks(content, place)? {
            let (block, place) = block?;
            if block.kind.get() == "\"tool_result\"" {
                let result = self.result(&block, &place)?;
                self.user_says().results.push(result);
                continue;
            }
            for shown in shown(&block, &place)? {
                match shown {
                    Shown::Part(part) => self.user_says().pieces.push(Piece::Part(part)),
                    Shown::Words(text) => {
                        self.user_loses(&block, &place);
                        self.user_turn().pieces.push(Piece::Part(Part::Text { text }));
                    }
                    Shown::Nothing => self.user_loses(&block, &place),
                }
            }
        }
        Ok(())
    }

    /// The user's turn, which has something of the user's own.
    fn user_says(&mut self) -> &mut UserTurn<'a> {
        if let LastTurn::User { says, .. } = &mut self.last {
            *says = true;
        }
        self.user_turn()
    }

    fn user_loses(&mut self, block: &Block<'_>, place: &str) {
        self.untranslated += 1;
        if let LastTurn::User { lost: lost @ None, .. } = &mut self.last {
            *lost = Some(words::rejection(block.kind, place));
        }
    }

    fn result(&mut self, block: &Block<'a>, place: &str) -> Result<ToolResult<'a>, TranslateError> {
        let id = IdHash::of_json(string_value(block.tool_use_id, place, "tool_use_id")?);
        let (texts, images) = match block.content {
            None => (Vec::new(), Vec::new()),
            Some(content) => self.texts_and_images(content, &format!("{place}.content"))?,
        };
        let is_error = block.is_error.is_some_and(|is_error| is_error.get() == "true");
        let text = if is_error {
            let insides: Vec<_> = texts.iter().map(Text::inside).collect();
            Text::prefixed("Error: ", &insides, "\\n")
        } else {
            joined(texts, "\\n")
        };
        Ok(ToolResult { id, call: usize::MAX, text, images })
    }

    /// The texts and images of a content where blocks of other kinds have no place of their own.
    fn texts_and_images(
        &mut self,
        content: &'a RawValue,
        place: &str,
    ) -> Result<(Vec<Text<'a>>, Vec<Part<'a>>), TranslateError> {
        if inside(content).is_some() {
            return Ok((vec![Text::Whole(content)], Vec::new()));
        }
        let (mut texts, mut images) = (Vec::new(), Vec::new());
        for block in blocks(content, place)? {
            let (block, place) = block?;
            for shown in shown(&block, &place)? {
                match shown {
                    Shown::Part(Part::Text { text }) => texts.push(text),
                    Shown::Part(image) => images.push(image),
                    Shown::Words(text) => {
                        self.untranslated += 1;
                        texts.push(text);
                    }
                    Shown::Nothing => self.untranslated += 1,
                }
            }
        }
        Ok((texts, images))
    }

    fn assistant(&mut self, content: &'a RawValue, place: &str) -> Result<(), TranslateError> {
        self.last = LastTurn::Assistant;
        if let Some(text) = inside(content) {
            if !text.is_empty() {
                self.assistant_turn().texts.push(Said::Text(content));
            }
            return Ok(());
        }
        for block in blocks(content, place)? {
            let (block, place) = block?;
            match block.kind().as_deref() {
                Some("text") => {
                    let text = string_value(block.text, &place, "text")?;
                    if !is_empty(text) {
                        self.assistant_turn().texts.push(Said::Text(text));
                    }
                }
                Some("thinking") => {
                    let thinking = string_value(block.thinking, &place, "thinking")?;
                    if !is_empty(thinking) {
                        self.assistant_turn().thinking.push(Text::Whole(thinking));
                    }
                }
                Some("tool_use") => {
                    let (call, id) = tool_call(&block, &place)?;
                    let turn = self.assistant_turn();
                    turn.calls.push(call);
                    let hash = IdHash::of_json(id);
                    self.calls.push(OpenCall { id, hash });
                    self.ids.push(hash);
                }
                _ => self.assistant_words(&block, &place)?,
            }
        }
        Ok(())
    }

    /// Says what stands in an assistant's turn and what no chat message of its can have.
    fn assistant_words(&mut self, block: &Block<'a>, place: &str) -> Result<(), TranslateError> {
        for shown in shown(block, place)? {
            self.untranslated += 1;
            let words = match shown {
                Shown::Part(Part::Text { text }) | Shown::Words(text) => text,
                Shown::Part(Part::ImageUrl { .. }) => words::lost_image(),
                Shown::Nothing => continue,
            };
            self.assistant_turn().texts.push(Said::Words(words));
        }
        Ok(())
    }

    fn user_turn(&mut self) -> &mut UserTurn<'a> {
        if self.phase != Phase::User {
            self.end_turn();
            self.phase = Phase::User;
        }
        &mut self.user
    }

    fn assistant_turn(&mut self) -> &mut AssistantTurn<'a> {
        if self.phase != Phase::Assistant {
            let begins = self.phase == Phase::Beginning;
            self.end_turn();
            if begins {
                self.end_user(BEGINNING);
            }
            self.phase = Phase::Assistant;
        }
        &mut self.assistant
    }

    /// Appends the messages of the pending turn.
    fn end_turn(&mut self) {
        match self.phase {
            Phase::Beginning => self.end_beginning(),
            Phase::User => self.end_user(""),
            Phase::Assistant => {
                let turn = std::mem::take(&mut self.assistant);
                self.messages.push(turn.message(self.reasoning_names));
            }
        }
    }

    fn end_beginning(&mut self) {
        let texts = std::mem::take(&mut self.system);
        if texts.is_empty() {
            return;
        }
        let text = joined(texts, EMPTY_LINE);
        if self.system_messages == SystemMessages::None {
            self.user.pieces.push(Piece::Part(Part::Text { text }));
        } else {
            self.messages.push(Message::new("system", Content::Text(text)));
        }
    }

    /// Appends the results of the open calls and what is said to the assistant. `otherwise`: what
    /// is said where nothing is, a JSON string; empty: no message then.
    fn end_user(&mut self, otherwise: &'static str) {
        let UserTurn { results, mut pieces } = std::mem::take(&mut self.user);
        if pieces.is_empty()
            && let Some(text) = raw(otherwise)
        {
            pieces.push(Piece::Part(Part::Text { text: Text::Whole(text) }));
        }
        let mut parts = self.end_calls(results);
        for piece in pieces {
            match piece {
                Piece::Part(part) => parts.push(part),
                Piece::System(text) => {
                    self.push_user(std::mem::take(&mut parts));
                    self.messages.push(Message::new("system", Content::Text(text)));
                }
            }
        }
        self.push_user(parts);
    }

    /// Appends a result for each of the open calls, in their order. Returns what else was in the
    /// results: images, and those of other calls.
    fn end_calls(&mut self, mut results: Vec<ToolResult<'a>>) -> Vec<Part<'a>> {
        let calls = std::mem::take(&mut self.calls);
        match_calls(&calls, &mut results);
        let mut parts = Vec::new();
        let mut results = results.into_iter().peekable();
        self.messages.reserve(calls.len());
        for (at, call) in calls.iter().enumerate() {
            let mut texts = Vec::new();
            while let Some(result) = results.next_if(|result| result.call == at) {
                texts.push(result.text);
                parts.extend(result.images);
            }
            if texts.is_empty() {
                texts.extend(raw(NO_RESULT).map(Text::Whole));
            }
            let content = Content::Text(joined(texts, "\\n"));
            let tool_call_id = Some(engine_id(call.id));
            self.messages.push(Message { tool_call_id, ..Message::new("tool", content) });
        }
        for stray in results {
            let lines = [stray.text.inside()];
            let lines = if lines == [""] { &[][..] } else { &lines };
            parts.push(Part::Text { text: words::lost(STRAY_RESULT, lines) });
            parts.extend(stray.images);
        }
        parts
    }

    fn push_user(&mut self, mut parts: Vec<Part<'a>>) {
        // A plain string is what every chat template can take.
        let content = match parts.pop() {
            None => return,
            Some(Part::Text { text }) if parts.is_empty() => Content::Text(text),
            Some(last) => {
                parts.push(last);
                Content::Parts(parts)
            }
        };
        self.messages.push(Message::new("user", content));
    }

    /// Fails where nothing of the last user's turn is left that the assistant could respond to.
    fn finish(mut self) -> Result<Chat<'a>, TranslateError> {
        let is_users = match self.last {
            LastTurn::User { says: false, lost: Some(lost) } => return Err(lost),
            LastTurn::User { .. } => true,
            LastTurn::None | LastTurn::Assistant => false,
        };
        let says_nothing = match self.phase {
            Phase::Beginning => true,
            Phase::User => false,
            Phase::Assistant => is_users,
        };
        self.end_turn();
        self.end_user(if says_nothing { NOTHING } else { "" });
        Ok(Chat {
            messages: self.messages,
            untranslated: self.untranslated,
            history: HistoryIds::new(self.ids),
        })
    }
}

/// Sorts the results of a turn by the calls that they belong to, as far as there are such calls.
fn match_calls(calls: &[OpenCall<'_>], results: &mut [ToolResult<'_>]) {
    struct Place {
        id: IdHash,
        call: usize,
        /// Of the first place of this id: how many of them have a result.
        taken: usize,
    }
    let place = |(call, open): (usize, &OpenCall<'_>)| Place { id: open.hash, call, taken: 0 };
    let mut places: Vec<_> = calls.iter().enumerate().map(place).collect();
    places.sort_unstable_by_key(|place| (place.id, place.call));
    for result in results.iter_mut() {
        let first = places.partition_point(|place| place.id < result.id);
        let Some(taken) = places.get(first).filter(|place| place.id == result.id) else { continue };
        let next = first + taken.taken;
        // What is said twice of one call is said of the last of its id.
        if places.get(next).is_some_and(|place| place.id == result.id) {
            result.call = places[next].call;
            places[first].taken += 1;
        } else {
            result.call = places[next - 1].call;
        }
    }
    results.sort_by_key(|result| result.call);
}

impl<'a> AssistantTurn<'a> {
    fn message(self, reasoning_names: &'static [&'static str]) -> Message<'a> {
        // Templates tell a call from an answer by it; elsewhere they fail on it.
        let content = if self.texts.is_empty() && !self.calls.is_empty() {
            Content::Null
        } else {
            Content::Text(said(&self.texts))
        };
        let reasoning = (!self.thinking.is_empty())
            .then(|| Reasoning { text: joined(self.thinking, "\\n"), names: reasoning_names });
        Message { reasoning, tool_calls: self.calls, ..Message::new("assistant", content) }
    }
}

/// What the assistant said, as one text: its own texts follow one another as they are, for
/// citations cut them anywhere.
fn said<'a>(texts: &[Said<'a>]) -> Text<'a> {
    if let [Said::Text(text)] = texts {
        return Text::Whole(text);
    }
    let mut insides = Vec::with_capacity(2 * texts.len());
    let mut was_words = false;
    for said in texts {
        let (text, is_words) = match said {
            Said::Text(text) => (inside(text).unwrap_or_default(), false),
            Said::Words(words) => (words.inside(), true),
        };
        if !insides.is_empty() && (is_words || was_words) {
            insides.push(EMPTY_LINE);
        }
        insides.push(text);
        was_words = is_words;
    }
    Text::joined(&insides, "")
}

/// The texts as one.
fn joined<'a>(mut texts: Vec<Text<'a>>, separator: &str) -> Text<'a> {
    if texts.len() == 1
        && let Some(text) = texts.pop()
    {
        return text;
    }
    let insides: Vec<_> = texts.iter().map(Text::inside).collect();
    Text::joined(&insides, separator)
}

fn is_empty(text: &RawValue) -> bool {
    text.get() == "\"\""
}
