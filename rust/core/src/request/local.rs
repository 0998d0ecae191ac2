//! The local endpoints: models, health and metrics, without an engine and without Python.

use std::{convert::Infallible, rc::Rc};

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header, request::Parts};
use serde_json::json;

use crate::{
    client::io::ClientWatch,
    published::Published,
    request::{admission::Caller, browser, metrics_page, model_list, peer::Peer},
    shared::Shared,
    worker::Worker,
};
use sans_io::{
    api::{
        endpoints::{Endpoint, Local},
        error::{ApiError, Dialect},
    },
    codec::percent::percent_decode,
    table::Table,
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
            list_models(worker, published, &caller, endpoint.dialect, query)?
        }
        Local::ShowModel => {
            let caller = identify(shared, published, endpoint, (parts, connected), watch)?;
            let name = percent_decode(&parts.uri.path()[endpoint.path.len()..]);
            json_page(model_list::show(published, &caller, endpoint.dialect, &name, query)?)
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

/// Ready routes only, as GPUStack lists them; see [`model_list::list`].
fn list_models(
    worker: &Worker,
    table: &Table,
    caller: &Caller,
    dialect: Dialect,
    query: &str,
) -> Result<Response<Bytes>, ApiError> {
    let key = caller.key().map_or("", |key| &*key.id);
    // A key's id has no space. What it may use may change with the keys, which one page outlives by
    // little.
    let about = format!("models {} {dialect:?} {key} {query}", table.version);
    worker.page(&about, || model_list::list(table, caller, dialect, query)).map(json_page)
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
        Ok::<_, Infallible>(metrics_page::page(&shared.metrics, table, held).into())
    };
    let Ok(page) = worker.page("metrics", page);
    let mut response = text(StatusCode::OK, page);
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
fn json_page(document: Bytes) -> Response<Bytes> {
    let mut response = Response::new(document);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
