//! Translates the conversation: turns with blocks into chat messages.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::error::TranslateError;
use super::json::{Raw, Text, inside, list, literal, object, word};

/// Prefix of a block that coding agents put before their system prompt. It differs in each request,
/// which spoils the engine's prefix cache, and tells the model nothing.
const BILLING_HEADER: &str = "x-anthropic-billing-header";

/// The separator of two system texts; the inside of a JSON string.
const EMPTY_LINE: &str = "\\n\\n";

/// A chat message.
#[derive(Serialize)]
pub(super) struct Message<'a> {
    role: &'static str,
    content: Content<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning: Option<Text<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<ToolCall<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_call_id: Raw<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Content<'a> {
    Null,
    Text(Text<'a>),
    Parts(Vec<Part<'a>>),
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Part<'a> {
    Text { text: Text<'a> },
    ImageUrl { image_url: ImageUrl<'a> },
}

#[derive(Serialize)]
struct ImageUrl<'a> {
    url: Text<'a>,
}

#[derive(Serialize)]
struct ToolCall<'a> {
    id: &'a RawValue,
    #[serde(rename = "type")]
    kind: &'static str,
    function: Function<'a>,
}

#[derive(Serialize)]
struct Function<'a> {
    name: &'a RawValue,
    arguments: Text<'a>,
}

#[derive(Deserialize)]
struct Turn<'a> {
    #[serde(borrow)]
    role: Raw<'a>,
    #[serde(borrow)]
    content: Raw<'a>,
}

/// The members that any kind of block can have, as far as they matter here.
#[derive(Deserialize)]
struct Block<'a> {
    #[serde(borrow, rename = "type")]
    kind: Raw<'a>,
    #[serde(borrow)]
    text: Raw<'a>,
    #[serde(borrow)]
    thinking: Raw<'a>,
    #[serde(borrow)]
    source: Raw<'a>,
    #[serde(borrow)]
    title: Raw<'a>,
    #[serde(borrow)]
    context: Raw<'a>,
    #[serde(borrow)]
    id: Raw<'a>,
    #[serde(borrow)]
    name: Raw<'a>,
    #[serde(borrow)]
    input: Raw<'a>,
    #[serde(borrow)]
    tool_use_id: Raw<'a>,
    #[serde(borrow)]
    content: Raw<'a>,
    #[serde(borrow)]
    is_error: Raw<'a>,
}

/// The source of an image or a document.
#[derive(Deserialize)]
struct Source<'a> {
    #[serde(borrow, rename = "type")]
    kind: Raw<'a>,
    #[serde(borrow)]
    media_type: Raw<'a>,
    #[serde(borrow)]
    data: Raw<'a>,
    #[serde(borrow)]
    url: Raw<'a>,
    #[serde(borrow)]
    content: Raw<'a>,
}

/// `system` and `messages` as chat messages.
pub(super) fn messages<'a>(
    system: Raw<'a>,
    messages: Raw<'a>,
) -> Result<Vec<Message<'a>>, TranslateError> {
    let turns = messages.and_then(list).filter(|turns| !turns.is_empty());
    let turns = turns.ok_or_else(|| {
        TranslateError::new("`messages` must be a list with at least one message.")
    })?;
    let mut conversation = Conversation::default();
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
    Ok(conversation.finish())
}

/// The chat messages so far, and the turn that the next message may still belong to.
#[derive(Default)]
struct Conversation<'a> {
    messages: Vec<Message<'a>>,
    turn: Pending<'a>,
}

#[derive(Default)]
enum Pending<'a> {
    #[default]
    Nothing,
    System(Vec<&'a str>),
    User(UserTurn<'a>),
    Assistant(AssistantTurn<'a>),
}

#[derive(Default)]
struct UserTurn<'a> {
    /// The results of tools: they follow the calls directly, before the user's own words.
    results: Vec<Message<'a>>,
    /// The images of results, which a message of the role `tool` cannot have.
    pictures: Vec<Part<'a>>,
    parts: Vec<Part<'a>>,
}

#[derive(Default)]
struct AssistantTurn<'a> {
    texts: Vec<&'a str>,
    thinking: Vec<&'a str>,
    calls: Vec<ToolCall<'a>>,
}

impl<'a> Conversation<'a> {
    fn system(&mut self, content: &'a RawValue, place: &str) -> Result<(), TranslateError> {
        let mut texts = Vec::new();
        if let Some(text) = inside(content) {
            texts.push(text);
        } else {
            for block in blocks(content, place)? {
                let (block, place) = block?;
                if block.kind.is_none_or(|kind| kind.get() != "\"text\"") {
                    return Err(unknown_block(&block, &place));
                }
                texts.extend(
                    Some(text_of(&block, &place)?).filter(|text| !text.starts_with(BILLING_HEADER)),
                );
            }
        }
        if !matches!(self.turn, Pending::System(_)) {
            self.end_turn();
            self.turn = Pending::System(Vec::new());
        }
        if let Pending::System(so_far) = &mut self.turn {
            so_far.extend(texts.into_iter().filter(|text| !text.is_empty()));
        }
        Ok(())
    }

    fn user(&mut self, content: &'a RawValue, place: &str) -> Result<(), TranslateError> {
        if !matches!(self.turn, Pending::User(_)) {
            self.end_turn();
            self.turn = Pending::User(UserTurn::default());
        }
        let Pending::User(turn) = &mut self.turn else { return Ok(()) };
        if inside(content).is_some() {
            turn.parts.push(Part::Text { text: Text::Whole(content) });
            return Ok(());
        }
        for block in blocks(content, place)? {
            let (block, place) = block?;
            if block.kind.is_some_and(|kind| kind.get() == "\"tool_result\"") {
                turn.result(&block, &place)?;
            } else {
                turn.parts.extend(parts(&block, &place)?);
            }
        }
        Ok(())
    }

    fn assistant(&mut self, content: &'a RawValue, place: &str) -> Result<(), TranslateError> {
        if !matches!(self.turn, Pending::Assistant(_)) {
            self.end_turn();
            self.turn = Pending::Assistant(AssistantTurn::default());
        }
        let Pending::Assistant(turn) = &mut self.turn else { return Ok(()) };
        if let Some(text) = inside(content) {
            turn.texts.push(text);
            return Ok(());
        }
        for block in blocks(content, place)? {
            let (block, place) = block?;
            match block.kind.and_then(word).as_deref() {
                Some("text") => turn.texts.push(text_of(&block, &place)?),
                Some("thinking") => turn.thinking.push(string(block.thinking, &place, "thinking")?),
                Some("redacted_thinking") => {}
                Some("tool_use") => turn.calls.push(tool_call(&block, &place)?),
                _ => return Err(unknown_block(&block, &place)),
            }
        }
        Ok(())
    }

    /// Appends the message of the pending turn.
    fn end_turn(&mut self) {
        match std::mem::take(&mut self.turn) {
            Pending::Nothing => {}
            Pending::System(texts) => {
                if !texts.is_empty() {
                    let text = Content::Text(Text::joined(&texts, EMPTY_LINE));
                    self.messages.push(Message::new("system", text));
                }
            }
            Pending::User(turn) => turn.end(&mut self.messages),
            Pending::Assistant(turn) => self.messages.push(turn.message()),
        }
    }

    fn finish(mut self) -> Vec<Message<'a>> {
        self.end_turn();
        self.messages
    }
}

impl<'a> Message<'a> {
    fn new(role: &'static str, content: Content<'a>) -> Self {
        Self { role, content, reasoning: None, tool_calls: Vec::new(), tool_call_id: None }
    }
}

impl<'a> UserTurn<'a> {
    fn result(&mut self, block: &Block<'a>, place: &str) -> Result<(), TranslateError> {
        string(block.tool_use_id, place, "tool_use_id")?;
        let mut texts = Vec::new();
        match block.content {
            None => {}
            Some(content) if inside(content).is_some() => texts.push(Text::Whole(content)),
            Some(content) => {
                for inner in blocks(content, &format!("{place}.content"))? {
                    let (inner, place) = inner?;
                    for part in parts(&inner, &place)? {
                        match part {
                            Part::Text { text } => texts.push(text),
                            picture @ Part::ImageUrl { .. } => self.pictures.push(picture),
                        }
                    }
                }
            }
        }
        let is_error = block.is_error.is_some_and(|is_error| is_error.get() == "true");
        let insides = texts.iter().map(Text::inside).collect::<Vec<_>>();
        let prefix = if is_error { "Error: " } else { "" };
        let content = Content::Text(Text::prefixed(prefix, &insides, "\\n"));
        self.results
            .push(Message { tool_call_id: block.tool_use_id, ..Message::new("tool", content) });
        Ok(())
    }

    fn end(self, messages: &mut Vec<Message<'a>>) {
        let only_results =
            !self.results.is_empty() && self.pictures.is_empty() && self.parts.is_empty();
        messages.extend(self.results);
        if only_results {
            return;
        }
        let mut parts: Vec<_> = self.pictures.into_iter().chain(self.parts).collect();
        // A plain string is what every chat template can take.
        let content = match parts.pop() {
            None => Content::Text(Text::written("")),
            Some(Part::Text { text }) if parts.is_empty() => Content::Text(text),
            Some(last) => {
                parts.push(last);
                Content::Parts(parts)
            }
        };
        messages.push(Message::new("user", content));
    }
}

impl<'a> AssistantTurn<'a> {
    fn message(self) -> Message<'a> {
        let is_silent = self.texts.iter().all(|text| text.is_empty());
        let content = if is_silent && !self.calls.is_empty() {
            Content::Null
        } else {
            Content::Text(Text::joined(&self.texts, ""))
        };
        let reasoning = (!self.thinking.is_empty()).then(|| Text::joined(&self.thinking, "\\n"));
        Message { reasoning, tool_calls: self.calls, ..Message::new("assistant", content) }
    }
}

fn tool_call<'a>(block: &Block<'a>, place: &str) -> Result<ToolCall<'a>, TranslateError> {
    let (id, name) = (block.id, block.name);
    string(id, place, "id")?;
    string(name, place, "name")?;
    let (Some(id), Some(name)) = (id, name) else { return Err(wrong(place, "a tool call")) };
    let input = block.input.map_or("{}", RawValue::get);
    if !input.starts_with('{') {
        return Err(wrong(&format!("{place}.input"), "an object"));
    }
    Ok(ToolCall {
        id,
        kind: "function",
        function: Function { name, arguments: Text::Made(literal(input)) },
    })
}

/// The texts and images of a block of a user's turn or of a tool's result.
fn parts<'a>(block: &Block<'a>, place: &str) -> Result<Vec<Part<'a>>, TranslateError> {
    match block.kind.and_then(word).as_deref() {
        Some("document") => document(block, place),
        Some("search_result") => {
            let mut lines = vec![string(block.source, place, "source")?];
            let content = block
                .content
                .ok_or_else(|| wrong(&format!("{place}.content"), "a list of text blocks"))?;
            for inner in blocks(content, &format!("{place}.content"))? {
                let (inner, place) = inner?;
                lines.push(text_of(&inner, &place)?);
            }
            Ok(vec![Part::Text { text: titled(block.title, &lines) }])
        }
        _ => Ok(text_or_image(block, place)?.into_iter().collect()),
    }
}

/// A text or an image; None for an empty text, on which some templates fail.
fn text_or_image<'a>(block: &Block<'a>, place: &str) -> Result<Option<Part<'a>>, TranslateError> {
    match block.kind.and_then(word).as_deref() {
        Some("text") => {
            let is_empty = text_of(block, place)?.is_empty();
            Ok(block.text.filter(|_| !is_empty).map(|text| Part::Text { text: Text::Whole(text) }))
        }
        Some("image") => {
            Ok(Some(Part::ImageUrl { image_url: ImageUrl { url: image_url(block, place)? } }))
        }
        _ => Err(unknown_block(block, place)),
    }
}

fn image_url<'a>(block: &Block<'a>, place: &str) -> Result<Text<'a>, TranslateError> {
    let (source, place) = source(block, place)?;
    match source.kind.and_then(word).as_deref() {
        Some("base64") => {
            let media_type = string(source.media_type, &place, "media_type")?;
            let data = string(source.data, &place, "data")?;
            Ok(Text::joined(&["data:", media_type, ";base64,", data], ""))
        }
        Some("url") => Ok(Text::joined(&[string(source.url, &place, "url")?], "")),
        _ => Err(wrong(
            &format!("{place}.type"),
            "`base64` or `url`; this model's engine has no files",
        )),
    }
}

fn document<'a>(block: &Block<'a>, place: &str) -> Result<Vec<Part<'a>>, TranslateError> {
    let (source, place) = source(block, place)?;
    let heading: Vec<_> = block.context.and_then(inside).into_iter().collect();
    match source.kind.and_then(word).as_deref() {
        Some("text") => {
            let data = string(source.data, &place, "data")?;
            Ok(vec![Part::Text { text: titled(block.title, &[heading, vec![data]].concat()) }])
        }
        Some("content") => {
            let content = source
                .content
                .ok_or_else(|| wrong(&format!("{place}.content"), "a string or blocks"))?;
            if let Some(text) = inside(content) {
                return Ok(vec![Part::Text {
                    text: titled(block.title, &[heading, vec![text]].concat()),
                }]);
            }
            let has_heading = block.title.is_some() || !heading.is_empty();
            let mut shown = Vec::from_iter(
                has_heading.then(|| Part::Text { text: titled(block.title, &heading) }),
            );
            for inner in blocks(content, &format!("{place}.content"))? {
                let (inner, place) = inner?;
                shown.extend(text_or_image(&inner, &place)?);
            }
            Ok(shown)
        }
        _ => Err(TranslateError::new(format!(
            "`{place}` is a PDF or another file, which this model's engine cannot read; send the document's text, or images \
             of its pages."
        ))),
    }
}

/// A title as a heading, and paragraphs below it.
fn titled<'a>(title: Raw<'a>, paragraphs: &[&'a str]) -> Text<'a> {
    let title = title.and_then(inside).filter(|title| !title.is_empty());
    let Some(title) = title else { return Text::joined(paragraphs, EMPTY_LINE) };
    let paragraphs: Vec<_> = [title].into_iter().chain(paragraphs.iter().copied()).collect();
    Text::prefixed("# ", &paragraphs, EMPTY_LINE)
}

fn source<'a>(block: &Block<'a>, place: &str) -> Result<(Source<'a>, String), TranslateError> {
    let place = format!("{place}.source");
    let source = block.source.and_then(object).ok_or_else(|| wrong(&place, "an object"))?;
    Ok((source, place))
}

/// A content's blocks, each with its place in the request, for errors. They are read one by one:
/// a list of them would be many times as long as the content.
fn blocks<'a>(
    content: &'a RawValue,
    place: &str,
) -> Result<impl Iterator<Item = Result<(Block<'a>, String), TranslateError>>, TranslateError> {
    let blocks = list(content).ok_or_else(|| wrong(place, "a string or a list of blocks"))?;
    let block = move |(at, raw): (usize, &'a RawValue)| {
        let place = format!("{place}[{at}]");
        let block = object(raw)
            .ok_or_else(|| wrong(&place, "a block, which is an object with a `type`"))?;
        Ok((block, place))
    };
    Ok(blocks.into_iter().enumerate().map(block))
}

fn text_of<'a>(block: &Block<'a>, place: &str) -> Result<&'a str, TranslateError> {
    string(block.text, place, "text")
}

/// The inside of a member that must be a string.
fn string<'a>(raw: Raw<'a>, place: &str, key: &str) -> Result<&'a str, TranslateError> {
    raw.and_then(inside).ok_or_else(|| wrong(&format!("{place}.{key}"), "a string"))
}

fn wrong(place: &str, expected: &str) -> TranslateError {
    TranslateError::new(format!("`{place}` must be {expected}."))
}

fn unknown_block(block: &Block<'_>, place: &str) -> TranslateError {
    let kind = block.kind.map_or("no type".to_owned(), |kind| format!("the type {}", named(kind)));
    TranslateError::new(format!(
        "`{place}` has {kind}, which cannot stand there for this model's engine: it speaks chat completions, not the \
         Messages API. Leave the block out."
    ))
}

/// A type's name for a sentence; other values are not repeated.
pub(super) fn named(kind: &RawValue) -> String {
    let is_name = |name: &&str| {
        name.len() <= 64 && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    inside(kind).filter(is_name).map_or("(not a name)".to_owned(), |name| format!("`{name}`"))
}
