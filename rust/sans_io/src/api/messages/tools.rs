//! Translates tools and the choice of them.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::content::named;
use super::error::TranslateError;
use super::json::{Raw, inside, list, object, word};

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
    description: Raw<'a>,
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

/// Translates `tools`. A schema passes as it was written.
pub(super) fn tools(raw: Raw<'_>) -> Result<Vec<Tool<'_>>, TranslateError> {
    let Some(raw) = raw else { return Ok(Vec::new()) };
    let tools = list(raw).ok_or_else(|| TranslateError::new("`tools` must be a list of tools."))?;
    tools.into_iter().enumerate().map(|(at, tool)| one(tool, at)).collect()
}

fn one(raw: &RawValue, at: usize) -> Result<Tool<'_>, TranslateError> {
    let tool: ToolObject<'_> = object(raw).ok_or_else(|| {
        TranslateError::new(format!("`tools[{at}]` must be an object that names a tool."))
    })?;
    if let Some(kind) = tool.kind
        && kind.get() != "\"custom\""
    {
        return Err(TranslateError::new(format!(
            "`tools[{at}]` has the type {}, a tool that Anthropic's servers run; this model's engine knows only tools with \
             an `input_schema`. Leave it out, or define it as a tool of your own.",
            named(kind)
        )));
    }
    let name = tool.name.filter(|name| inside(name).is_some_and(|name| !name.is_empty()));
    let name = name.ok_or_else(|| {
        TranslateError::new(format!("`tools[{at}].name` must be a string with a name."))
    })?;
    let schema =
        tool.input_schema.filter(|schema| schema.get().starts_with('{')).ok_or_else(|| {
            TranslateError::new(format!(
                "`tools[{at}].input_schema` must be an object, the JSON schema of the tool's input."
            ))
        })?;
    let function = Function {
        name,
        description: tool.description.filter(|text| inside(text).is_some()),
        parameters: schema,
        strict: tool.strict.filter(|strict| strict.get() == "true"),
    };
    Ok(Tool { kind: "function", function })
}

/// Translates `tool_choice` into `tool_choice` and `parallel_tool_calls`.
pub(super) fn tool_choice(
    raw: Raw<'_>,
    has_tools: bool,
) -> Result<(Option<ToolChoice<'_>>, Option<bool>), TranslateError> {
    let Some(raw) = raw else {
        return Ok((has_tools.then_some(ToolChoice::Word("auto")), None));
    };
    let choice: ChoiceObject<'_> = object(raw)
        .ok_or_else(|| TranslateError::new("`tool_choice` must be an object with a `type`."))?;
    let kind = choice.kind.and_then(word).unwrap_or_default();
    let translated = match kind.as_str() {
        "auto" | "none" | "any" | "tool" if !has_tools => {
            if matches!(kind.as_str(), "any" | "tool") {
                return Err(TranslateError::new(
                    "`tool_choice` asks for a tool, but `tools` is empty; send the tools.",
                ));
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
