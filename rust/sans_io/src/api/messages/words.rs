//! What is said in place of blocks that no chat engine can read.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::error::TranslateError;
use super::json::{Raw, Text, inside, list, literal, object, word};

/// Said of an image that is not in the request itself.
const IMAGE: &str = "An image was here; this model cannot see it";
const PDF: &str = "A PDF document was here; this model cannot read it";
const DOCUMENT: &str = "A document was here; this model cannot read it";

/// Values inside one another in which texts are looked for. Those of the blocks that are known lie
/// at most six deep; each level is read once more for the one above it.
const DEPTH: usize = 8;

/// The words for an image that the engine cannot get.
pub(super) fn lost_image() -> Text<'static> {
    lost::<&str>(IMAGE, &[])
}

/// What is said of a document with a source of this type.
pub(super) fn lost_document(source: Option<&str>) -> &'static str {
    // Those of other types are no blocks of their own, or are files of any kind.
    if matches!(source, Some("base64" | "url")) { PDF } else { DOCUMENT }
}

/// The words for a block of which an engine would know nothing: a heading and the texts that it
/// has. None for one that only Anthropic's servers can read, or keep for themselves.
pub(super) fn of_block(block: &RawValue, kind: &RawValue) -> Option<Text<'static>> {
    let mut lines = Vec::new();
    collect(block, DEPTH, &mut lines);
    let known = word(kind);
    Some(match known.as_deref() {
        Some("redacted_thinking" | "container_upload") => return None,
        Some("compaction") if lines.is_empty() => return None,
        known => match known.and_then(heading) {
            Some(heading) => lost(heading, &lines),
            None => lost(&format!("A block of the type {}", named(kind)), &lines),
        },
    })
}

/// Why a request is rejected in which nothing but this block is said to the assistant.
pub(super) fn rejection(kind: &RawValue, place: &str) -> TranslateError {
    let what = match word(kind).as_deref() {
        Some("document") => {
            "is a PDF or another file, which this model's engine cannot read; send the document's \
             text, or images of its pages"
        }
        Some("image") => {
            "is a file of another server, which this model's engine cannot see; send the image \
             itself as `base64`, or its `url`"
        }
        _ => "cannot be read by this model's engine; say in a text what the assistant shall do",
    };
    TranslateError::new(format!(
        "`{place}` has the type {} and {what}. Nothing else is in the last turn of the user.",
        named(kind)
    ))
}

/// A type's name for a sentence; other values are not repeated.
fn named(kind: &RawValue) -> String {
    let is_name = |name: &&str| {
        name.len() <= 64 && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    inside(kind).filter(is_name).map_or("(not a name)".to_owned(), |name| format!("`{name}`"))
}

/// The heading and the lines below it, in brackets.
pub(super) fn lost<T: AsRef<str>>(heading: &str, lines: &[T]) -> Text<'static> {
    let end = if lines.is_empty() { ".]" } else { "]" };
    let colon = if lines.is_empty() { "" } else { ":\\n" };
    Text::enclosed(&format!("[{heading}{colon}"), lines, "\\n", end)
}

/// The headings of the blocks in Anthropic's reference of the Messages API.
fn heading(kind: &str) -> Option<&'static str> {
    Some(match kind {
        "server_tool_use" | "mcp_tool_use" | "tool_use" => "A tool was called",
        "web_search_tool_result" => "Results of a web search",
        "web_fetch_tool_result" => "A page of the web",
        "code_execution_tool_result" | "bash_code_execution_tool_result" => "Output of code",
        "text_editor_code_execution_tool_result" => "Result of work on a file",
        "tool_search_tool_result" | "tool_reference" => "Tools that were found",
        "mcp_tool_result" | "tool_result" => "Result of a tool",
        "advisor_tool_result" => "Advice",
        "compaction" => "Summary of what came before",
        "thinking" => "Thoughts",
        "document" => DOCUMENT,
        "image" => IMAGE,
        "search_result" => "A search's result",
        _ => return None,
    })
}

#[derive(Deserialize)]
struct Typed<'a> {
    #[serde(borrow, rename = "type")]
    kind: Raw<'a>,
    #[serde(borrow)]
    source: Raw<'a>,
}

impl Typed<'_> {
    fn of(raw: &RawValue) -> (Option<String>, Option<String>) {
        let typed: Option<Typed<'_>> = object(raw);
        let source = typed.as_ref().and_then(|typed| object::<Typed<'_>>(typed.source?)?.kind);
        (typed.and_then(|typed| word(typed.kind?)), source.and_then(word))
    }
}

/// Appends the texts in a value, the insides of strings. They are those that a person could read:
/// no ids, types, signatures and base64.
fn collect<'a>(raw: &'a RawValue, depth: usize, lines: &mut Vec<Cow<'a, str>>) {
    if let Some(text) = inside(raw) {
        if !text.is_empty() {
            lines.push(Cow::Borrowed(text));
        }
        return;
    }
    let Some(depth) = depth.checked_sub(1) else { return };
    if let Some(values) = list(raw) {
        for value in values {
            collect(value, depth, lines);
        }
    } else if raw.get().starts_with('{') {
        let (kind, source) = Typed::of(raw);
        match (kind.as_deref(), source.as_deref()) {
            // The block itself has its heading.
            _ if depth + 1 == DEPTH => {}
            (Some("document"), source) if !matches!(source, Some("text" | "content")) => {
                lines.push(Cow::Borrowed(lost_document(source)));
            }
            (Some("image"), _) => lines.push(Cow::Borrowed(IMAGE)),
            _ => {}
        }
        let is_text = kind.as_deref() == Some("text");
        let members = Members { is_text, depth, lines };
        // What is no object ends it early; it is not valid then, and nobody has read it before.
        let _ = serde_json::Deserializer::from_str(raw.get()).deserialize_map(members);
    }
}

/// Collects the texts of an object's members.
struct Members<'l, 'a> {
    /// Whether the object is a source of plain text.
    is_text: bool,
    depth: usize,
    lines: &'l mut Vec<Cow<'a, str>>,
}

impl<'a> Visitor<'a> for Members<'_, 'a> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut members: A) -> Result<(), A::Error> {
        while let Some((key, value)) = members.next_entry::<&RawValue, &RawValue>()? {
            match inside(key).unwrap_or_default() {
                "data" if !self.is_text => {}
                key if is_for_programs(key) => {}
                "input" if !matches!(value.get(), "{}" | "null") => {
                    let mut escaped = literal(value.get());
                    escaped.pop();
                    escaped.remove(0);
                    self.lines.push(Cow::Owned(escaped));
                }
                _ => collect(value, self.depth, self.lines),
            }
        }
        Ok(())
    }
}

/// Whether a member is nothing that a person could read.
fn is_for_programs(key: &str) -> bool {
    matches!(
        key,
        "type"
            | "id"
            | "signature"
            | "media_type"
            | "file_type"
            | "cache_control"
            | "citations"
            | "caller"
    ) || key.ends_with("_id")
        || key.starts_with("encrypted_")
}
