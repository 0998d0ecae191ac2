//! Generated conversations: written as Messages, translated, read back from the chat request by an
//! inverse that is written here, slowly and plainly. They mean the same.

use proptest::prelude::*;
use sans_io::api::messages::{Engine, request};
use sans_io::seam::{ReasoningNames, SystemMessages};
use serde_json::{Value, json};

/// The meaning of a conversation, however it is written.
#[derive(Clone, Debug, PartialEq)]
struct Conversation {
    system: String,
    turns: Vec<Turn>,
    tools: Vec<Tool>,
}

#[derive(Clone, Debug, PartialEq)]
enum Turn {
    User { results: Vec<ToolResult>, shown: Vec<Shown> },
    Assistant { thinking: String, text: String, calls: Vec<Call> },
}

#[derive(Clone, Debug, PartialEq)]
struct ToolResult {
    id: String,
    text: String,
    is_error: bool,
}

#[derive(Clone, Debug, PartialEq)]
enum Shown {
    Text(String),
    Image(String),
}

#[derive(Clone, Debug, PartialEq)]
struct Call {
    id: String,
    name: String,
    /// As it is written.
    input: String,
}

#[derive(Clone, Debug, PartialEq)]
struct Tool {
    name: String,
    description: Option<String>,
    /// As it is written.
    schema: String,
}

fn text() -> impl Strategy<Value = String> {
    "[a-zé\"\\\\/\n\u{1F600}\u{2028} ]{1,12}"
}

/// An object whose text says more than its value: the order of keys, numbers that no double holds,
/// spaces.
fn written_object() -> impl Strategy<Value = String> {
    let value = prop::sample::select(vec![
        "1.10",
        "-0.0",
        "123456789012345678901234567890",
        "1E5",
        "[ ]",
        "{\"z\":1, \"a\":null}",
        "\"\\u00e9\\/\"",
    ]);
    prop::collection::vec(("[a-z]{1,3}", value), 0..4).prop_map(|members| {
        let members =
            members.iter().enumerate().map(|(at, (key, value))| format!("\"{key}{at}\" : {value}"));
        format!("{{{}}}", members.collect::<Vec<_>>().join(","))
    })
}

fn shown() -> impl Strategy<Value = Shown> {
    prop_oneof![
        3 => text().prop_map(Shown::Text),
        1 => "https://[a-z]{1,5}/[a-z%/]{0,5}".prop_map(Shown::Image),
        1 => "[A-Za-z0-9+/]{4,8}".prop_map(|data| Shown::Image(format!("data:image/png;base64,{data}"))),
    ]
}

/// The results of the calls before it, and what the user shows.
type UserWords = (Vec<(Option<String>, bool)>, Vec<Shown>);

fn user() -> impl Strategy<Value = UserWords> {
    let result = (prop::option::of(text()), any::<bool>());
    (prop::collection::vec(result, 4), prop::collection::vec(shown(), 0..4))
}

fn assistant() -> impl Strategy<Value = Turn> {
    let call = ("t[0-9]{1,2}", "[a-z_]{1,8}", written_object())
        .prop_map(|(id, name, input)| Call { id, name, input });
    (prop::option::of(text()), prop::option::of(text()), prop::collection::vec(call, 0..3))
        .prop_filter("says something", |(thinking, text, calls)| {
            thinking.is_some() || text.is_some() || !calls.is_empty()
        })
        .prop_map(|(thinking, text, calls)| Turn::Assistant {
            thinking: thinking.unwrap_or_default(),
            text: text.unwrap_or_default(),
            calls,
        })
}

fn conversation() -> impl Strategy<Value = Conversation> {
    let tool = ("[a-z_]{1,8}", prop::option::of(text()), written_object())
        .prop_map(|(name, description, schema)| Tool { name, description, schema });
    let turns = prop::collection::vec((user(), assistant()), 1..4);
    (prop::option::of(text()), (turns, user()), prop::collection::vec(tool, 0..3)).prop_map(
        |(system, (turns, end), tools)| {
            Conversation {
                system: system.unwrap_or_default(),
                turns: joined_turns(turns, end),
                // Two of one name would be hard to tell apart.
                tools: tools
                    .into_iter()
                    .enumerate()
                    .map(|(at, tool)| Tool { name: format!("{}{at}", tool.name), ..tool })
                    .collect(),
            }
        },
    )
}

/// The turns one after the other, each call with an id of its own and a result behind it.
fn joined_turns(turns: Vec<(UserWords, Turn)>, end: UserWords) -> Vec<Turn> {
    let mut joined = Vec::new();
    let mut open = Vec::new();
    let mut ids = 0..;
    let ends = turns.into_iter().map(|(user, assistant)| (user, Some(assistant)));
    for ((results, mut shown), assistant) in ends.chain([(end, None)]) {
        if open.is_empty() && shown.is_empty() {
            shown.push(Shown::Text("Go on.".to_owned()));
        }
        let result = |(id, (text, is_error)): (String, (Option<String>, bool))| ToolResult {
            id,
            text: text.unwrap_or_default(),
            is_error,
        };
        let results = std::mem::take(&mut open).into_iter().zip(results).map(result).collect();
        joined.push(Turn::User { results, shown });
        if let Some(Turn::Assistant { thinking, text, mut calls }) = assistant {
            for (call, number) in calls.iter_mut().zip(&mut ids) {
                call.id = format!("{}_{number}", call.id);
            }
            open = calls.iter().map(|call| call.id.clone()).collect();
            joined.push(Turn::Assistant { thinking, text, calls });
        }
    }
    joined
}

/// Writes conversations as Messages requests, each choice of words by the next of the numbers.
struct Writer<'a> {
    dice: std::iter::Cycle<std::slice::Iter<'a, u8>>,
}

impl Writer<'_> {
    fn chance(&mut self) -> bool {
        self.dice.next().is_some_and(|number| number % 2 == 0)
    }

    fn body(&mut self, conversation: &Conversation) -> String {
        let mut messages = Vec::new();
        for turn in &conversation.turns {
            let (role, blocks) = match turn {
                Turn::User { results, shown } => ("user", self.user(results, shown)),
                Turn::Assistant { thinking, text, calls } => {
                    ("assistant", self.assistant(thinking, text, calls))
                }
            };
            // The same turn in one message or in two.
            let second = if self.chance() { blocks.len() } else { blocks.len() / 2 };
            for blocks in [&blocks[..second], &blocks[second..]] {
                if !blocks.is_empty() || blocks.len() == second {
                    messages.push(self.message(role, blocks));
                }
            }
        }
        let tools = conversation.tools.iter().map(|tool| {
            let description = tool
                .description
                .as_ref()
                .map_or(String::new(), |text| format!("\"description\":{},", json!(text)));
            format!(
                "{{\"name\":{},{description}\"input_schema\":{}}}",
                json!(tool.name),
                tool.schema
            )
        });
        let tools = tools.collect::<Vec<_>>().join(",");
        let system = if self.chance() {
            json!(conversation.system)
        } else {
            json!([{"type": "text", "text": conversation.system}])
        };
        format!(
            "{{\"max_tokens\":9,\"system\":{system},\"tools\":[{tools}],\"messages\":[{}]}}",
            messages.join(",")
        )
    }

    fn message(&mut self, role: &str, blocks: &[String]) -> String {
        let only_text = match blocks {
            [block] => {
                serde_json::from_str::<Value>(block).ok().filter(|block| block["type"] == "text")
            }
            _ => None,
        };
        match only_text {
            Some(block) if self.chance() => {
                format!("{{\"role\":\"{role}\",\"content\":{}}}", block["text"])
            }
            _ => format!("{{\"content\":[{}],\"role\":\"{role}\"}}", blocks.join(",")),
        }
    }

    fn user(&mut self, results: &[ToolResult], shown: &[Shown]) -> Vec<String> {
        let results = results.iter().map(|result| {
            let content = match (self.chance(), result.text.split_once('\n')) {
                (true, Some((one, two))) if !one.is_empty() && !two.is_empty() => {
                    json!([{"type": "text", "text": one}, {"type": "text", "text": two}])
                }
                (true, _) => json!([{"type": "text", "text": result.text}]),
                (false, _) => json!(result.text),
            };
            json!({"type": "tool_result", "tool_use_id": result.id, "content": content, "is_error": result.is_error})
                .to_string()
        });
        let mut results: Vec<String> = results.collect();
        if self.chance() {
            results.reverse();
        }
        let shown = shown.iter().map(|shown| {
            let block = match shown {
                Shown::Text(text) => json!({"type": "text", "text": text, "cache_control": {"type": "ephemeral"}}),
                Shown::Image(url) => match url.strip_prefix("data:image/png;base64,") {
                    Some(data) => {
                        json!({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}})
                    }
                    None => json!({"type": "image", "source": {"type": "url", "url": url}}),
                },
            };
            block.to_string()
        });
        results.into_iter().chain(shown).collect()
    }

    fn assistant(&mut self, thinking: &str, text: &str, calls: &[Call]) -> Vec<String> {
        let mut blocks = Vec::new();
        if !thinking.is_empty() {
            blocks.push(
                json!({"type": "thinking", "thinking": thinking, "signature": "s"}).to_string(),
            );
        }
        let middle =
            if self.chance() { text.char_indices().nth(3).map_or(0, |(at, _)| at) } else { 0 };
        for part in [&text[..middle], &text[middle..]] {
            if !part.is_empty() {
                blocks.push(json!({"type": "text", "text": part}).to_string());
            }
        }
        blocks.extend(calls.iter().map(|call| {
            format!(
                "{{\"input\":{},\"type\":\"tool_use\",\"id\":{},\"name\":{}}}",
                call.input,
                json!(call.id),
                json!(call.name)
            )
        }));
        blocks
    }
}

/// The meaning of a chat request. Nothing in it may be left over.
fn read_back(chat: &[u8]) -> Conversation {
    let text = std::str::from_utf8(chat).unwrap();
    let chat: Value = serde_json::from_slice(chat).unwrap();
    let mut conversation =
        Conversation { system: String::new(), turns: Vec::new(), tools: Vec::new() };
    for message in chat["messages"].as_array().unwrap() {
        let content = &message["content"];
        match message["role"].as_str().unwrap() {
            "system" => {
                assert!(conversation.turns.is_empty() && conversation.system.is_empty());
                conversation.system.push_str(content.as_str().unwrap());
            }
            "assistant" => conversation.turns.push(read_assistant(message)),
            "tool" => {
                let text = content.as_str().unwrap();
                let result = ToolResult {
                    id: message["tool_call_id"].as_str().unwrap().to_owned(),
                    text: text.strip_prefix("Error: ").unwrap_or(text).to_owned(),
                    is_error: text.starts_with("Error: "),
                };
                match conversation.turns.last_mut() {
                    Some(Turn::User { results, shown }) if shown.is_empty() => results.push(result),
                    Some(Turn::User { .. }) => panic!("results come before the user's words"),
                    _ => conversation
                        .turns
                        .push(Turn::User { results: vec![result], shown: Vec::new() }),
                }
            }
            "user" => match conversation.turns.last_mut() {
                Some(Turn::User { shown, .. }) => {
                    assert!(shown.is_empty(), "turns of one role are merged");
                    *shown = read_shown(content);
                }
                _ => conversation
                    .turns
                    .push(Turn::User { results: Vec::new(), shown: read_shown(content) }),
            },
            role => panic!("{role}"),
        }
    }
    for tool in chat["tools"].as_array().into_iter().flatten() {
        conversation.tools.push(read_tool(tool, text));
    }
    conversation
}

fn read_shown(content: &Value) -> Vec<Shown> {
    let part = |part: &Value| match part["type"].as_str() {
        Some("text") => Shown::Text(part["text"].as_str().unwrap().to_owned()),
        Some("image_url") => Shown::Image(part["image_url"]["url"].as_str().unwrap().to_owned()),
        _ => panic!("{part}"),
    };
    match content.as_str() {
        Some(text) => vec![Shown::Text(text.to_owned())],
        None => content.as_array().unwrap().iter().map(part).collect(),
    }
}

fn read_assistant(message: &Value) -> Turn {
    let calls: Vec<Call> = message["tool_calls"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|call| {
            assert_eq!(call["type"], "function");
            Call {
                id: call["id"].as_str().unwrap().to_owned(),
                name: call["function"]["name"].as_str().unwrap().to_owned(),
                input: call["function"]["arguments"].as_str().unwrap().to_owned(),
            }
        })
        .collect();
    let silent = if calls.is_empty() { json!("") } else { Value::Null };
    assert!(
        message["content"] == silent
            || message["content"].as_str().is_some_and(|text| !text.is_empty()),
        "{message}"
    );
    assert_eq!(message["reasoning"], message["reasoning_content"]);
    Turn::Assistant {
        thinking: message["reasoning"].as_str().unwrap_or_default().to_owned(),
        text: message["content"].as_str().unwrap_or_default().to_owned(),
        calls,
    }
}

/// The schema's own text is somewhere in the request; as a value it would have lost its numbers.
fn read_tool(tool: &Value, request: &str) -> Tool {
    let function = &tool["function"];
    let name = function["name"].as_str().unwrap().to_owned();
    let description = function["description"].as_str().map(str::to_owned);
    let before = match &description {
        Some(_) => format!(
            "{{\"name\":{},\"description\":{},\"parameters\":",
            json!(name),
            function["description"]
        ),
        None => format!("{{\"name\":{},\"parameters\":", json!(name)),
    };
    let at = request.find(&before).expect("a function") + before.len();
    let mut values = serde_json::Deserializer::from_str(&request[at..])
        .into_iter::<&serde_json::value::RawValue>();
    Tool { name, description, schema: values.next().unwrap().unwrap().get().to_owned() }
}

proptest! {
    #[test]
    fn a_conversation_means_the_same_as_a_chat(
        conversation in conversation(),
        dice in prop::collection::vec(any::<u8>(), 1..30),
    ) {
        let body = Writer { dice: dice.iter().cycle() }.body(&conversation);
        let engine = Engine { model: "engine", system_messages: SystemMessages::First, reasoning_names: ReasoningNames::Both };
        let chat = request(body.as_bytes(), &engine).unwrap().body;
        prop_assert_eq!(read_back(&chat), conversation, "{}", body);
    }
}
