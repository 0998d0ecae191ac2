//! Translates the blocks of turns into what chat messages consist of.

use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;

use super::error::TranslateError;
use super::json::{Raw, Text, decoded, inside, list, literal, object, raw, word};
use super::words;
use crate::api::tool_ids;

/// The separator of two texts that stand for themselves; the inside of a JSON string.
pub(super) const EMPTY_LINE: &str = "\\n\\n";

/// A chat message.
pub(super) struct Message<'a> {
    pub(super) role: &'static str,
    pub(super) content: Content<'a>,
    pub(super) reasoning: Option<Reasoning<'a>>,
    pub(super) tool_calls: Vec<ToolCall<'a>>,
    pub(super) tool_call_id: Option<Text<'a>>,
}

/// What an assistant thought.
pub(super) struct Reasoning<'a> {
    pub(super) text: Text<'a>,
    /// The names under which the engine is told.
    pub(super) names: &'static [&'static str],
}

#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum Content<'a> {
    Null,
    Text(Text<'a>),
    Parts(Vec<Part<'a>>),
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Part<'a> {
    Text { text: Text<'a> },
    ImageUrl { image_url: ImageUrl<'a> },
}

#[derive(Serialize)]
pub(super) struct ImageUrl<'a> {
    url: Text<'a>,
}

#[derive(Serialize)]
pub(super) struct ToolCall<'a> {
    id: Text<'a>,
    #[serde(rename = "type")]
    kind: &'static str,
    function: Function<'a>,
}

#[derive(Serialize)]
struct Function<'a> {
    name: &'a RawValue,
    arguments: Text<'a>,
}

/// What becomes of a block, or of a part of it.
pub(super) enum Shown<'a> {
    /// The same, in a chat.
    Part(Part<'a>),
    /// Words in place of what no chat engine can read.
    Words(Text<'a>),
    /// Nothing: it was for Anthropic's servers alone.
    Nothing,
}

/// The members that any kind of block can have, as far as they matter here.
#[derive(Deserialize)]
pub(super) struct Block<'a> {
    /// All of it.
    #[serde(skip, default = "nothing")]
    pub(super) whole: &'a RawValue,
    #[serde(borrow, rename = "type")]
    pub(super) kind: &'a RawValue,
    #[serde(borrow)]
    pub(super) text: Raw<'a>,
    #[serde(borrow)]
    pub(super) thinking: Raw<'a>,
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
    pub(super) tool_use_id: Raw<'a>,
    #[serde(borrow)]
    pub(super) content: Raw<'a>,
    #[serde(borrow)]
    pub(super) is_error: Raw<'a>,
}

/// In place of a block that has not been set yet.
fn nothing<'a>() -> &'a RawValue {
    RawValue::NULL
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

impl<'a> Message<'a> {
    pub(super) fn new(role: &'static str, content: Content<'a>) -> Self {
        Self { role, content, reasoning: None, tool_calls: Vec::new(), tool_call_id: None }
    }
}

impl Serialize for Message<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut members = serializer.serialize_map(None)?;
        members.serialize_entry("role", self.role)?;
        members.serialize_entry("content", &self.content)?;
        if let Some(Reasoning { text, names }) = &self.reasoning {
            for name in *names {
                members.serialize_entry(name, text)?;
            }
        }
        if !self.tool_calls.is_empty() {
            members.serialize_entry("tool_calls", &self.tool_calls)?;
        }
        if let Some(id) = &self.tool_call_id {
            members.serialize_entry("tool_call_id", id)?;
        }
        members.end()
    }
}

impl Block<'_> {
    /// The name of its type; None for what is none.
    pub(super) fn kind(&self) -> Option<String> {
        word(self.kind)
    }
}

/// The call of a `tool_use` block, and its id as the client knows it.
pub(super) fn tool_call<'a>(
    block: &Block<'a>,
    place: &str,
) -> Result<(ToolCall<'a>, &'a RawValue), TranslateError> {
    let id = string_value(block.id, place, "id")?;
    let name = string_value(block.name, place, "name")?;
    let arguments =
        arguments(block.input).ok_or_else(|| wrong(&format!("{place}.input"), "an object"))?;
    let function = Function { name, arguments };
    Ok((ToolCall { id: engine_id(id), kind: "function", function }, id))
}

/// The id by which the engine knows a call.
pub(super) fn engine_id(id: &RawValue) -> Text<'_> {
    let own = inside(id).and_then(tool_ids::decode);
    own.map_or(Text::Whole(id), |own| Text::written(&own))
}

/// A call's input as the text that chat engines take. Some clients send the text itself.
fn arguments(input: Raw<'_>) -> Option<Text<'_>> {
    let Some(input) = input else { return Some(Text::Made(literal("{}"))) };
    if input.get().starts_with('{') {
        return Some(Text::Made(literal(input.get())));
    }
    let text = decoded(input)?;
    raw(&text).filter(|input| input.get().starts_with('{')).map(|_| Text::Whole(input))
}

/// What becomes of a block of a user's turn, of a tool's result or of a system message.
pub(super) fn shown<'a>(block: &Block<'a>, place: &str) -> Result<Vec<Shown<'a>>, TranslateError> {
    match block.kind().as_deref() {
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
            Ok(vec![Shown::Part(Part::Text { text: titled(block.title, &lines) })])
        }
        _ => Ok(text_or_image(block, place)?.into_iter().collect()),
    }
}

/// What becomes of a text, of an image, or of what no chat engine reads; None for an empty text, on
/// which some templates fail.
fn text_or_image<'a>(block: &Block<'a>, place: &str) -> Result<Option<Shown<'a>>, TranslateError> {
    match block.kind().as_deref() {
        Some("text") => {
            let is_empty = text_of(block, place)?.is_empty();
            let text = block.text.filter(|_| !is_empty);
            Ok(text.map(|text| Shown::Part(Part::Text { text: Text::Whole(text) })))
        }
        Some("image") => image(block, place).map(Some),
        _ => {
            Ok(Some(words::of_block(block.whole, block.kind).map_or(Shown::Nothing, Shown::Words)))
        }
    }
}

fn image<'a>(block: &Block<'a>, place: &str) -> Result<Shown<'a>, TranslateError> {
    let (source, place) = source(block, place)?;
    let url = match source.kind.and_then(word).as_deref() {
        Some("base64") => {
            let media_type = string(source.media_type, &place, "media_type")?;
            let data = string(source.data, &place, "data")?;
            Text::joined(&["data:", media_type, ";base64,", data], "")
        }
        Some("url") => Text::joined(&[string(source.url, &place, "url")?], ""),
        _ => return Ok(Shown::Words(words::lost_image())),
    };
    Ok(Shown::Part(Part::ImageUrl { image_url: ImageUrl { url } }))
}

fn document<'a>(block: &Block<'a>, place: &str) -> Result<Vec<Shown<'a>>, TranslateError> {
    let (source, place) = source(block, place)?;
    let heading: Vec<_> = block.context.and_then(inside).into_iter().collect();
    let text = |text| {
        let text = titled(block.title, &[&*heading, &[text]].concat());
        Ok(vec![Shown::Part(Part::Text { text })])
    };
    match source.kind.and_then(word).as_deref() {
        Some("text") => text(string(source.data, &place, "data")?),
        Some("content") => {
            let content = source
                .content
                .ok_or_else(|| wrong(&format!("{place}.content"), "a string or blocks"))?;
            if let Some(inside) = inside(content) {
                return text(inside);
            }
            let has_heading = block.title.is_some() || !heading.is_empty();
            let mut parts = Vec::from_iter(
                has_heading
                    .then(|| Shown::Part(Part::Text { text: titled(block.title, &heading) })),
            );
            for inner in blocks(content, &format!("{place}.content"))? {
                let (inner, place) = inner?;
                parts.extend(text_or_image(&inner, &place)?);
            }
            Ok(parts)
        }
        kind => {
            let known = [block.title, block.context, source.url];
            let known: Vec<_> = known
                .into_iter()
                .flatten()
                .filter_map(inside)
                .filter(|text| !text.is_empty())
                .collect();
            Ok(vec![Shown::Words(words::lost(words::lost_document(kind), &known))])
        }
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
pub(super) fn blocks<'a>(
    content: &'a RawValue,
    place: &str,
) -> Result<impl Iterator<Item = Result<(Block<'a>, String), TranslateError>>, TranslateError> {
    let blocks = list(content).ok_or_else(|| wrong(place, "a string or a list of blocks"))?;
    let block = move |(at, raw): (usize, &'a RawValue)| {
        let place = format!("{place}[{at}]");
        let block: Block<'_> = object(raw)
            .ok_or_else(|| wrong(&place, "a block, which is an object with a `type`"))?;
        Ok((Block { whole: raw, ..block }, place))
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

/// A member that must be a string.
pub(super) fn string_value<'a>(
    raw: Raw<'a>,
    place: &str,
    key: &str,
) -> Result<&'a RawValue, TranslateError> {
    raw.filter(|raw| inside(raw).is_some())
        .ok_or_else(|| wrong(&format!("{place}.{key}"), "a string"))
}

pub(super) fn wrong(place: &str, expected: &str) -> TranslateError {
    TranslateError::new(format!("`{place}` must be {expected}."))
}
