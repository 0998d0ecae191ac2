//! Translates tools and the choice of them.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::client_tools::{ClientTool, client_tool};
use super::error::TranslateError;
use super::json::{Raw, Text, inside, list, object, word};
use crate::api::numbers::whole;

const NO_SERVER_TOOLS: &str = "`tool_choice` asks for a tool that Anthropic's servers run, which \
     this model's engine does not have; ask for one with an `input_schema`, or for none.";

#[derive(Serialize)]
pub(super) struct Tool<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    function: Function<'a>,
}

#[derive(Serialize)]
struct Function<'a> {
    name: &'a RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<Text<'a>>,
    parameters: &'a RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    strict: Raw<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum ToolChoice<'a> {
    Word(&'static str),
    Named {
        #[serde(rename = "type")]
        kind: &'static str,
        function: NamedFunction<'a>,
    },
}

#[derive(Serialize)]
pub(super) struct NamedFunction<'a> {
    name: &'a RawValue,
}

#[derive(Deserialize)]
struct ToolObject<'a> {
    #[serde(borrow, rename = "type")]
    kind: Raw<'a>,
    #[serde(borrow)]
    name: Raw<'a>,
    #[serde(borrow)]
    description: Raw<'a>,
    #[serde(borrow)]
    input_schema: Raw<'a>,
    #[serde(borrow)]
    strict: Raw<'a>,
    /// Of a computer.
    #[serde(borrow)]
    display_width_px: Raw<'a>,
    #[serde(borrow)]
    display_height_px: Raw<'a>,
}

#[derive(Deserialize)]
struct ChoiceObject<'a> {
    #[serde(borrow, rename = "type")]
    kind: Raw<'a>,
    #[serde(borrow)]
    name: Raw<'a>,
    #[serde(borrow)]
    disable_parallel_tool_use: Raw<'a>,
}

/// The tools of a request.
pub(super) struct Tools<'a> {
    pub(super) tools: Vec<Tool<'a>>,
    pub(super) left_out: LeftOut<'a>,
}

/// The tools that Anthropic's servers run: this model does not have them.
#[derive(Default)]
pub(super) struct LeftOut<'a>(Vec<Raw<'a>>);

impl LeftOut<'_> {
    /// How many there are.
    pub(super) fn count(&self) -> u32 {
        u32::try_from(self.0.len()).unwrap_or(u32::MAX)
    }

    fn has(&self, name: &RawValue) -> bool {
        self.0.iter().flatten().any(|left_out| left_out.get() == name.get())
    }
}

/// Translates `tools`. A schema passes as it was written.
pub(super) fn tools(raw: Raw<'_>) -> Result<Tools<'_>, TranslateError> {
    let mut made = Tools { tools: Vec::new(), left_out: LeftOut::default() };
    let Some(raw) = raw else { return Ok(made) };
    let tools = list(raw).ok_or_else(|| TranslateError::new("`tools` must be a list of tools."))?;
    let mut families = Vec::new();
    for (at, tool) in tools.into_iter().enumerate() {
        let tool: ToolObject<'_> = object(tool).ok_or_else(|| {
            TranslateError::new(format!("`tools[{at}]` must be an object that names a tool."))
        })?;
        let function = match kind(&tool, at)? {
            Kind::Own(schema) => {
                let description = tool.description.filter(|text| inside(text).is_some());
                function(&tool, description.map(Text::Whole), schema, at)?
            }
            Kind::Client(known) => {
                if families.contains(&known.family) {
                    return Err(TranslateError::new(format!(
                        "`tools[{at}]` is a second tool of its kind; send one of each."
                    )));
                }
                families.push(known.family);
                let description = Text::written(&description(&tool, &known));
                function(&tool, Some(description), known.schema, at)?
            }
            // A set of tools has no name.
            Kind::Server => {
                made.left_out.0.push(tool.name);
                continue;
            }
        };
        made.tools.push(Tool { kind: "function", function });
    }
    Ok(made)
}

/// Who defines a tool, and who runs it.
enum Kind<'a> {
    /// The client both, with this schema.
    Own(&'a RawValue),
    /// Anthropic and the client.
    Client(ClientTool),
    /// Anthropic both.
    Server,
}

fn kind<'a>(tool: &ToolObject<'a>, at: usize) -> Result<Kind<'a>, TranslateError> {
    if let Some(schema) = tool.input_schema.filter(|schema| schema.get().starts_with('{')) {
        return Ok(Kind::Own(schema));
    }
    match tool.kind.filter(|kind| kind.get() != "\"custom\"") {
        Some(kind) => {
            Ok(word(kind).as_deref().and_then(client_tool).map_or(Kind::Server, Kind::Client))
        }
        None => Err(TranslateError::new(format!(
            "`tools[{at}].input_schema` must be an object, the JSON schema of the tool's input."
        ))),
    }
}

fn function<'a>(
    tool: &ToolObject<'a>,
    description: Option<Text<'a>>,
    parameters: &'a RawValue,
    at: usize,
) -> Result<Function<'a>, TranslateError> {
    let name = tool.name.filter(|name| inside(name).is_some_and(|name| !name.is_empty()));
    let name = name.ok_or_else(|| {
        TranslateError::new(format!("`tools[{at}].name` must be a string with a name."))
    })?;
    let strict = tool.strict.filter(|strict| strict.get() == "true");
    Ok(Function { name, description, parameters, strict })
}

/// What a model is told of a client's tool. A place on a screen means nothing without its size.
fn description(tool: &ToolObject<'_>, known: &ClientTool) -> String {
    let size = [tool.display_width_px, tool.display_height_px].map(|size| size.and_then(whole));
    match size {
        [Some(width), Some(height)] => {
            format!("{} The screen has {width} x {height} pixels.", known.description)
        }
        _ => known.description.to_owned(),
    }
}

/// Translates `tool_choice` into `tool_choice` and `parallel_tool_calls`.
pub(super) fn tool_choice<'a>(
    raw: Raw<'a>,
    tools: &[Tool<'_>],
    left_out: &LeftOut<'_>,
) -> Result<(Option<ToolChoice<'a>>, Option<bool>), TranslateError> {
    let has_tools = !tools.is_empty();
    let Some(raw) = raw else {
        return Ok((has_tools.then_some(ToolChoice::Word("auto")), None));
    };
    let choice: ChoiceObject<'_> = object(raw)
        .ok_or_else(|| TranslateError::new("`tool_choice` must be an object with a `type`."))?;
    let kind = choice.kind.and_then(word).unwrap_or_default();
    let translated = match kind.as_str() {
        "auto" | "none" | "any" | "tool" if !has_tools => {
            if matches!(kind.as_str(), "any" | "tool") {
                return Err(TranslateError::new(if left_out.0.is_empty() {
                    "`tool_choice` asks for a tool, but `tools` is empty; send the tools."
                } else {
                    NO_SERVER_TOOLS
                }));
            }
            // Engines reject a choice among no tools.
            return Ok((None, None));
        }
        "auto" => ToolChoice::Word("auto"),
        "none" => ToolChoice::Word("none"),
        "any" => ToolChoice::Word("required"),
        "tool" => {
            let name = choice.name.filter(|name| inside(name).is_some_and(|name| !name.is_empty()));
            let name = name.ok_or_else(|| {
                TranslateError::new("`tool_choice.name` must name a tool of `tools`.")
            })?;
            if left_out.has(name) {
                return Err(TranslateError::new(NO_SERVER_TOOLS));
            }
            ToolChoice::Named { kind: "function", function: NamedFunction { name } }
        }
        _ => {
            return Err(TranslateError::new(
                "`tool_choice.type` must be one of auto, any, tool and none.",
            ));
        }
    };
    let one_at_a_time =
        choice.disable_parallel_tool_use.is_some_and(|disable| disable.get() == "true");
    Ok((Some(translated), one_at_a_time.then_some(false)))
}
