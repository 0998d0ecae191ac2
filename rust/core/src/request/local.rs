//! The local endpoints: models, health and metrics, without an engine and without Python.

use std::{rc::Rc, sync::Arc};

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header, request::Parts};
use serde_json::json;

use crate::{
    client::io::ClientWatch,
    published::Published,
    request::{admission::Caller, browser, metrics_page, peer::Peer, rejections},
    shared::Shared,
    worker::Worker,
};
use sans_io::{
    api::{
        endpoints::{Endpoint, Local},
        error::ApiError,
    },
    codec::percent::percent_decode,
    table::{Route, Table},
};

/// The response of a local endpoint. `connected`: as [`Peer::of`] takes it. Fails with 401, 403, 404
/// for a model, or as [`browser::check`] does.
pub(crate) fn respond(
    worker: &Worker,
    published: &Published,
    local: Local,
    endpoint: &Endpoint,
    (parts, connected): (&Parts, &Rc<str>),
    watch: &impl ClientWatch,
) -> Result<Response<Bytes>, ApiError> {
    let shared = &*worker.shared;
    let query = parts.uri.query().unwrap_or_default();
    Ok(match local {
        Local::ListModels => {
            let caller = identify(shared, published, endpoint, (parts, connected), watch)?;
            list_models(worker, published, &caller, query)
        }
        Local::ShowModel => {
            let caller = identify(shared, published, endpoint, (parts, connected), watch)?;
            let name = percent_decode(&parts.uri.path()[endpoint.path.len()..]);
            show_model(published, &caller, &name, query)?
        }
        Local::About => about(),
        Local::Healthz => text(StatusCode::OK, "ok"),
        Local::Readyz => readyz(shared, published),
        Local::Metrics => {
            let peer = Peer::of(shared, Rc::clone(connected), &parts.headers);
            let host = peer.host(&parts.headers);
            browser::check_unless_keyed(shared, &published.settings, endpoint, parts, host)?;
            metrics(worker, published)
        }
    })
}

/// The caller of a list of models, of whom less is asked than of one that uses them.
fn identify(
    shared: &Shared,
    published: &Published,
    endpoint: &Endpoint,
    (parts, connected): (&Parts, &Rc<str>),
    watch: &impl ClientWatch,
) -> Result<Caller, ApiError> {
    let caller = Caller::identify(shared, published, &parts.headers)?;
    if caller.key().is_some() {
        watch.set_trusted();
    } else {
        let peer = Peer::of(shared, Rc::clone(connected), &parts.headers);
        let host = peer.host(&parts.headers);
        browser::check(shared, &published.settings, endpoint, parts, host)?;
    }
    Ok(caller)
}

/// One model, if it is ready and the caller may use it; else it does not exist for the caller.
fn show_model(
    table: &Table,
    caller: &Caller,
    name: &str,
    query: &str,
) -> Result<Response<Bytes>, ApiError> {
    let visible = |route: &Arc<Route>| route.is_ready() && caller.may_use(route);
    let route = table.route(name).filter(|route| visible(route));
    let route = route.ok_or_else(|| rejections::model_not_found(name))?;
    Ok(json(&describe(route, asks_meta(query))))
}

/// Ready routes only, as GPUStack lists them, of the categories that are asked for, and only those
/// that the caller may use.
fn list_models(worker: &Worker, table: &Table, caller: &Caller, query: &str) -> Response<Bytes> {
    let key = caller.key().map_or("", |key| &*key.id);
    // A key's id has no space. What it may use may change with the keys, which one page outlives by
    // little.
    let about = format!("models {} {key} {query}", table.version);
    json_page(worker.page(&about, || model_list(table, caller, query).to_string().into()))
}

/// The document of [`list_models`].
fn model_list(table: &Table, caller: &Caller, query: &str) -> serde_json::Value {
    let categories: Vec<_> = values(query, "categories").collect();
    let wanted = |route: &Route| {
        categories.is_empty()
            || route.categories.iter().any(|category| categories.contains(category))
    };
    let visible = table
        .routes
        .iter()
        .filter(|route| route.is_ready() && caller.may_use(route) && wanted(route));
    let with_meta = asks_meta(query);
    json!({"object": "list", "data": visible.map(|route| describe(route, with_meta)).collect::<Vec<_>>()})
}

/// A model in OpenAI's shape.
fn describe(route: &Route, with_meta: bool) -> serde_json::Value {
    let mut model = json!({"id": &*route.name, "object": "model", "created": route.created, "owned_by": "gpustack"});
    if with_meta {
        model["meta"] = route.meta.clone().unwrap_or_default();
    }
    model
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

/// What this is, for whoever opens the address or tries whether somebody is there.
fn about() -> Response<Bytes> {
    let about = json!({
        "name": "gpustack-fast",
        "version": env!("CARGO_PKG_VERSION"),
        "message": "This is an inference server. Base URL of OpenAI clients: this address with \
            /v1. Base URL of Anthropic clients: this address.",
        "models": "/v1/models",
        "health": "/healthz",
    });
    json_page(about.to_string().into())
}

/// 200 if inference requests can be served; else 503 with the reason.
fn readyz(shared: &Shared, table: &Table) -> Response<Bytes> {
    match shared.not_ready(table) {
        None => text(StatusCode::OK, "ok"),
        Some(why) => text(StatusCode::SERVICE_UNAVAILABLE, why),
    }
}

fn metrics(worker: &Worker, table: &Table) -> Response<Bytes> {
    let shared = &worker.shared;
    let page = || {
        let held = [("memory", shared.memory.0.used()), ("spool", shared.spool.0.used())];
        metrics_page::page(&shared.metrics, table, held).into()
    };
    let mut response = text(StatusCode::OK, worker.page("metrics", page));
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

fn text(status: StatusCode, text: impl Into<Bytes>) -> Response<Bytes> {
    let mut response = Response::new(text.into());
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// A document that depends on the key, so that no cache may keep it.
fn json(document: &serde_json::Value) -> Response<Bytes> {
    json_page(document.to_string().into())
}

fn json_page(document: Bytes) -> Response<Bytes> {
    let mut response = Response::new(document);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
