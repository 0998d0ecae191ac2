//! The list of models, and one model of it, in the shape of the client's API. Those of OpenAI's and
//! of Anthropic's stand in one object, since no member of one means something else in the other.

use std::{
    fmt::Display,
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use bytes::Bytes;
use serde::{Serialize, Serializer};

use crate::request::{admission::Caller, rejections};
use sans_io::{
    api::error::{ApiError, Cause, Dialect},
    codec::percent::percent_decode,
    table::{Route, Table},
};

/// The most models of a page that Anthropic's API lets a client ask for.
const LIMIT_MAX: usize = 1000;
/// The last second that RFC 3339 can write.
const LAST_SECOND: u64 = 253_402_300_799;

/// The list: ready routes only, as GPUStack lists them, of the categories that are asked for, and
/// only those that the caller may use. No patterns, which are no names of models. Clients of Anthropic's API get the page that they ask for,
/// else all. Fails (400) for a page that cannot be.
pub(super) fn list(
    table: &Table,
    caller: &Caller,
    dialect: Dialect,
    query: &str,
) -> Result<Bytes, ApiError> {
    let categories: Vec<_> = values(query, "categories").collect();
    let wanted = |route: &Route| {
        categories.is_empty()
            || route.categories.iter().any(|category| categories.contains(category))
    };
    let visible: Vec<_> = table
        .routes
        .iter()
        .filter(|route| {
            !route.is_pattern() && route.is_ready() && caller.may_use(route) && wanted(route)
        })
        .collect();
    let anthropic = dialect == Dialect::Anthropic;
    let (page, has_more) = if anthropic { page(&visible, query)? } else { (&*visible, false) };
    let with_meta = asks_meta(query);
    Ok(encoded(&List {
        object: "list",
        data: page.iter().map(|route| Card::new(route, anthropic, with_meta)).collect(),
        place: anthropic.then(|| Place {
            has_more,
            first_id: page.first().map(|route| &*route.name),
            last_id: page.last().map(|route| &*route.name),
        }),
    }))
}

/// One model, if it is ready and the caller may use it; else it does not exist for the caller (404).
/// One that only a pattern serves is there, too, though no list has it.
pub(super) fn show(
    table: &Table,
    caller: &Caller,
    dialect: Dialect,
    name: &str,
    query: &str,
) -> Result<Bytes, ApiError> {
    let visible = |route: &Arc<Route>| route.is_ready() && caller.may_use(route);
    let route = table.serving_route(name).filter(visible);
    let route = route.ok_or_else(|| rejections::model_not_found(name))?;
    Ok(encoded(&Card::new(&route, dialect == Dialect::Anthropic, asks_meta(query))))
}

/// The page that `limit`, `after_id` and `before_id` ask for, and whether there is more in its
/// direction.
fn page<'a, 'b>(
    routes: &'b [&'a Arc<Route>],
    query: &str,
) -> Result<(&'b [&'a Arc<Route>], bool), ApiError> {
    let bad = |message: String| ApiError::new(Cause::BadRequest, message);
    let limit = match values(query, "limit").last() {
        None => routes.len(),
        Some(text) => match text.parse() {
            Ok(limit @ 1..=LIMIT_MAX) => limit,
            _ => return Err(bad(format!("`limit` must be a number from 1 to {LIMIT_MAX}."))),
        },
    };
    let place = |name: &str| {
        let Some(id) = values(query, name).last() else { return Ok(None) };
        let place = routes.iter().position(|route| *route.name == *id);
        place.map(Some).ok_or_else(|| {
            bad(format!("`{name}` is the id of no model in this list. Begin again without it."))
        })
    };
    Ok(match (place("after_id")?, place("before_id")?) {
        (Some(_), Some(_)) => {
            return Err(bad("Send `after_id` or `before_id`, not both.".to_owned()));
        }
        (None, Some(before)) => {
            let first = before.saturating_sub(limit);
            (&routes[first..before], first > 0)
        }
        (after, None) => {
            let rest = &routes[after.map_or(0, |after| after + 1)..];
            let count = limit.min(rest.len());
            (&rest[..count], count < rest.len())
        }
    })
}

/// The whole list.
#[derive(Serialize)]
struct List<'a> {
    object: &'static str,
    data: Vec<Card<'a>>,
    #[serde(flatten)]
    place: Option<Place<'a>>,
}

/// Where a page is in the whole list, in Anthropic's API.
#[derive(Serialize)]
struct Place<'a> {
    has_more: bool,
    first_id: Option<&'a str>,
    last_id: Option<&'a str>,
}

/// A model.
#[derive(Serialize)]
struct Card<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    owned_by: &'static str,
    /// The name that vLLM has for it,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_model_len: Option<u64>,
    /// and that of most providers.
    #[serde(skip_serializing_if = "Option::is_none")]
    context_length: Option<u64>,
    #[serde(flatten)]
    anthropic: Option<AnthropicCard<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    meta: Option<&'a serde_json::Value>,
}

/// A model's members in Anthropic's API.
#[derive(Serialize)]
struct AnthropicCard<'a> {
    r#type: &'static str,
    display_name: &'a str,
    #[serde(serialize_with = "written")]
    created_at: humantime::Rfc3339Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_input_tokens: Option<u64>,
}

impl<'a> Card<'a> {
    fn new(route: &'a Route, anthropic: bool, with_meta: bool) -> Self {
        let context_length = route.context_length();
        let created = Duration::from_secs(route.created.min(LAST_SECOND));
        Self {
            id: &route.name,
            object: "model",
            created: route.created,
            owned_by: "gpustack",
            max_model_len: context_length,
            context_length,
            anthropic: anthropic.then(|| AnthropicCard {
                r#type: "model",
                display_name: &route.name,
                created_at: humantime::format_rfc3339_seconds(UNIX_EPOCH + created),
                max_input_tokens: context_length,
            }),
            meta: with_meta.then(|| route.meta.as_deref().unwrap_or(&serde_json::Value::Null)),
        }
    }
}

fn written<S: Serializer>(value: &impl Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

fn encoded(document: &impl Serialize) -> Bytes {
    // Its maps have texts for keys, so that it can be written.
    serde_json::to_vec(document).unwrap_or_default().into()
}

fn asks_meta(query: &str) -> bool {
    values(query, "with_meta").any(|value| matches!(value.as_str(), "true" | "True" | "1"))
}

/// Every value of a name in a query.
fn values<'a>(query: &'a str, name: &'a str) -> impl Iterator<Item = String> + 'a {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs
        .filter(move |(key, _)| *key == name)
        .map(|(_, value)| percent_decode(&value.replace('+', " ")))
}
