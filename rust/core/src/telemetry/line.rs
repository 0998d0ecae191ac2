//! One line of the log: text for people, JSON for machines.

use std::{fmt::Write, time::SystemTime};

use serde::{Serialize, Serializer};
use tracing::Level;

/// The longest text in a line, in bytes; a longer one is cut.
const LONGEST: usize = 8 * 1024;

/// One line, before it is formatted.
#[derive(Debug, Serialize)]
pub(super) struct Line {
    time: String,
    level: &'static str,
    /// The module that logs, such as `upstream.pool`.
    subject: String,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty", serialize_with = "as_object")]
    fields: Vec<(&'static str, Value)>,
}

/// A field's value.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(super) enum Value {
    Text(String),
    Signed(i64),
    Unsigned(u64),
    Float(f64),
    Bool(bool),
}

impl Value {
    /// A text, cut if it is too long.
    pub(super) fn text(text: &str) -> Self {
        Self::Text(cut(text))
    }
}

impl Line {
    /// A line without a message.
    pub(super) fn new(time: SystemTime, level: Level, subject: String) -> Self {
        Self {
            // A clock before 1970 has no such form.
            time: humantime::format_rfc3339_millis(time.max(SystemTime::UNIX_EPOCH)).to_string(),
            level: level.as_str(),
            subject,
            message: String::new(),
            request_id: None,
            fields: Vec::new(),
        }
    }

    /// Sets the message, cut if it is too long.
    pub(super) fn set_message(&mut self, message: &str) {
        self.message = cut(message);
    }

    /// Sets the id of the line's request, unless it is set already.
    pub(super) fn set_request_id(&mut self, id: &str) {
        self.request_id.get_or_insert_with(|| cut(id));
    }

    /// Adds a field.
    pub(super) fn add(&mut self, name: &'static str, value: Value) {
        self.fields.push((name, value));
    }

    /// Whether the id of the line's request is set.
    pub(super) fn names_request(&self) -> bool {
        self.request_id.is_some()
    }

    /// The formatted line, with its line feed.
    pub(super) fn render(&self, json: bool) -> String {
        let mut line = if json {
            // Numbers, texts and a map of them always serialise.
            serde_json::to_string(self).unwrap_or_default()
        } else {
            self.text()
        };
        line.push('\n');
        line
    }

    fn text(&self) -> String {
        let mut line = format!("{} {:<5} ", self.time, self.level);
        push_escaped(&mut line, &self.subject);
        line.push(' ');
        push_escaped(&mut line, &self.message);
        for (name, value) in &self.fields {
            let _ = write!(line, " {name}=");
            match value {
                Value::Text(text) => push_value(&mut line, text),
                Value::Signed(number) => drop(write!(line, "{number}")),
                Value::Unsigned(number) => drop(write!(line, "{number}")),
                Value::Float(number) => drop(write!(line, "{number}")),
                Value::Bool(truth) => drop(write!(line, "{truth}")),
            }
        }
        if let Some(id) = &self.request_id {
            line.push_str(" request_id=");
            push_value(&mut line, id);
        }
        line
    }
}

/// The first bytes of a text, with an ellipsis where there are more.
fn cut(text: &str) -> String {
    if text.len() <= LONGEST {
        return text.to_owned();
    }
    let end = (0..=LONGEST).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    format!("{}…", &text[..end])
}

/// Whether a terminal or a reader of lines could take it for a command or an end of the line.
fn is_control(character: char) -> bool {
    // Beside the control characters: line and paragraph separator, and what turns the direction
    // of writing.
    character.is_control()
        || matches!(character, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Appends a text, with its control characters escaped.
fn push_escaped(line: &mut String, text: &str) {
    for character in text.chars() {
        if is_control(character) {
            line.extend(character.escape_default());
        } else {
            line.push(character);
        }
    }
}

/// Appends a value: as it is if it is one word, else in quotes.
fn push_value(line: &mut String, text: &str) {
    let is_odd = |character: char| {
        character.is_whitespace() || is_control(character) || matches!(character, '"' | '\\' | '=')
    };
    if !text.is_empty() && !text.contains(is_odd) {
        return line.push_str(text);
    }
    line.push('"');
    for character in text.chars() {
        if is_control(character) || matches!(character, '"' | '\\') {
            line.extend(character.escape_default());
        } else {
            line.push(character);
        }
    }
    line.push('"');
}

fn as_object<S: Serializer>(
    fields: &[(&'static str, Value)],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_map(fields.iter().map(|(name, value)| (name, value)))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn line() -> Line {
        let time = SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_972_831_123);
        let mut line = Line::new(time, Level::INFO, "upstream.pool".to_owned());
        line.set_message("connection kept");
        line
    }

    #[test]
    fn a_text_line_has_time_level_subject_message_and_fields() {
        let mut line = line();
        line.add("instance", Value::text("m-0"));
        line.add("age_ms", Value::Unsigned(7));
        line.add("reason", Value::text("the engine said so"));
        line.set_request_id("abc");
        assert_eq!(
            line.render(false),
            "2026-11-29T17:20:31.123Z INFO  upstream.pool connection kept instance=m-0 age_ms=7 \
             reason=\"the engine said so\" request_id=abc\n"
        );
    }

    #[test]
    fn a_json_line_is_one_object() {
        let mut line = line();
        line.add("reason", Value::text("a \"quoted\"\nword"));
        line.add("kept", Value::Bool(true));
        line.set_request_id("abc");
        let text = line.render(true);
        assert_eq!(text.matches('\n').count(), 1);
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&text).unwrap(),
            serde_json::json!({
                "time": "2026-11-29T17:20:31.123Z",
                "level": "INFO",
                "subject": "upstream.pool",
                "message": "connection kept",
                "request_id": "abc",
                "fields": {"reason": "a \"quoted\"\nword", "kept": true},
            })
        );
    }

    #[test]
    fn nothing_in_a_text_line_ends_it_or_steers_a_terminal() {
        let mut line = line();
        line.set_message("one\ntwo\u{1b}[31m\u{2028}\u{202e}\u{85}é");
        line.add("reason", Value::text("x\r\n2026 ERROR forged \"\\"));
        line.set_request_id("a\tb");
        let text = line.render(false);
        assert!(!text.trim_end_matches('\n').contains(is_control), "{text:?}");
        assert!(text.contains(r"one\ntwo\u{1b}[31m\u{2028}\u{202e}\u{85}é"), "{text:?}");
        assert!(text.contains(r#"reason="x\r\n2026 ERROR forged \"\\" request_id="a\tb""#));
    }

    #[test]
    fn a_long_text_is_cut_between_two_characters() {
        let mut line = line();
        line.set_message(&"é".repeat(LONGEST));
        let text = line.render(false);
        assert!(text.len() < LONGEST + 100 && text.ends_with("é…\n"));
    }

    #[test]
    fn the_id_that_a_line_names_itself_stands() {
        let mut line = line();
        line.set_request_id("own");
        line.set_request_id("of the span");
        assert!(line.render(false).ends_with(" request_id=own\n"));
    }
}
