//! Finds the model that a request names, and the model's route.

use std::{borrow::Cow, sync::Arc};

use bytes::Bytes;
use http::{Method, header};
use http_body::Body;

use crate::{
    client::io::ClientWatch,
    failure::Failure,
    request::{
        admission::{self, Caller},
        context::RequestContext,
        dispatch::{Dispatch, Job},
        reach, rejections,
    },
    shared::Shared,
    upstream::upload::{Reading, Upload},
};
use sans_io::{
    api::{
        endpoints::{BodyKind, Inference, Kind, Operation},
        error::{ApiError, Cause},
    },
    codec::{headers, inflate, percent, websocket},
    table::{Route, Table, has_dot_segment},
};

/// A request with its route, and its body, which was read only as far as the route depends on it.
pub(crate) type Resolved<B> = (Dispatch, Box<Upload<B>>);

/// Finds the route of a request that engines serve. Fails with `Rejected` (no such model, not
/// allowed, malformed), or as [`RequestContext::receive_until`] does.
pub(crate) async fn resolve<B, W>(
    context: &mut RequestContext<W>,
    caller: &Caller,
    body: B,
) -> Result<Resolved<B>, Failure>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::error::Error + 'static,
    W: ClientWatch,
{
    if context.asks_websocket() {
        let headers = &context.parts().headers;
        admission::check_origin(context.settings(), headers, context.peer().host(headers))?;
        websocket::check_opening(headers)
            .map_err(|error| ApiError::new(Cause::BadRequest, error.to_string()))?;
    }
    let (dispatch, mut upload) = match context.endpoint().kind {
        Kind::Inference(inference) => by_body(context, caller, inference, body).await?,
        Kind::StoredResponse => by_response_id(context, caller, body)?,
        Kind::Realtime => by_query(context, caller, body)?,
        Kind::GenericProxy => by_number_or_header_or_body(context, caller, body).await?,
        // `serve` has dealt with both already; neither may ever reach an engine.
        Kind::Local(_) | Kind::Management => {
            let (method, path) = (context.method(), context.parts().uri.path());
            return Err(rejections::no_such_endpoint(method, path, None).into());
        }
    };
    let (table, query) = (context.table(), context.parts().uri.query());
    reach::check(caller, (table, &dispatch.route), &dispatch.job, query, &mut upload)?;
    context.accounting.timeline.routed();
    context.accounting.set_route(&dispatch.route);
    Ok((dispatch, upload))
}

/// `POST` of a body that names the model.
async fn by_body<B, W>(
    context: &mut RequestContext<W>,
    caller: &Caller,
    inference: Inference,
    body: B,
) -> Result<Resolved<B>, Failure>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::error::Error + 'static,
    W: ClientWatch,
{
    let headers = &context.parts().headers;
    let coding = inflate::coding(headers)
        .map_err(|error| ApiError::new(Cause::UnsupportedEncoding, error.to_string()).closing())?;
    // `previous_response_id`, which decides the instance, may stand behind `model`.
    let needs_all = inference.operation == Operation::CreateResponse;
    let reading = match inference.body {
        // Clients of the form endpoints may send JSON instead; engines take both.
        BodyKind::Form if !headers::is_json(headers) => {
            let content_type = headers.get(header::CONTENT_TYPE);
            Reading::Form(content_type.map_or(b"", |kind| kind.as_bytes()))
        }
        _ if needs_all => Reading::JsonOfResponse,
        _ => Reading::Json,
    };
    let json = !matches!(reading, Reading::Form(_));
    let limits = context.body_limits(caller.key().is_some());
    let mut upload = Upload::new(body, reading, coding, &limits)?;
    if context.table().default_route().is_some() {
        upload.allow_no_model();
    }
    context.receive_until(&mut upload, |upload| upload.model().is_some() && !needs_all).await?;
    let route = find_route_or_default(context.table(), caller, model_of(&upload))?;
    let earlier = upload.previous_response_id();
    let instance = earlier.map(|id| owner(context.shared(), caller, id)).transpose()?;
    let dispatch = Dispatch {
        route,
        path: Cow::Borrowed(context.endpoint().path),
        job: Job::Inference { inference, decoded: coding.is_some(), json, instance },
    };
    Ok((dispatch, upload))
}

/// A path of the Responses API below `/v1/responses/`.
fn by_response_id<B, W>(
    context: &RequestContext<W>,
    caller: &Caller,
    body: B,
) -> Result<Resolved<B>, Failure>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::error::Error + 'static,
    W: ClientWatch,
{
    let (path, method) = (context.parts().uri.path(), context.method());
    let rest = &path[context.endpoint().path.len()..];
    let (id, below) = rest.split_once('/').unwrap_or((rest, ""));
    let known = match below {
        "" => method != Method::POST,
        "cancel" => method == Method::POST,
        "input_items" => method == Method::GET || method == Method::HEAD,
        _ => false,
    };
    if !known || id.is_empty() || has_dot_segment(path) {
        return Err(rejections::no_such_endpoint(method, path, None).into());
    }
    let id = percent::percent_decode(id);
    let instance = owner(context.shared(), caller, &id)?;
    let key = caller.key().map(|key| &*key.id);
    let made = context.shared().responses.find(key, &id);
    let route = made.and_then(|made| context.table().serving_route(&made.route));
    let route = route
        .ok_or_else(|| rejections::response_not_found(&id, "its model is no longer served"))?;
    caller.check(&route)?;
    let dispatch = Dispatch {
        route,
        path: Cow::Owned(path.to_owned()),
        job: Job::StoredResponse { instance, cancel: method == Method::POST },
    };
    Ok((dispatch, upload(context, caller, body, Reading::Carry)?))
}

/// `GET /v1/realtime?model=`
fn by_query<B, W>(
    context: &RequestContext<W>,
    caller: &Caller,
    body: B,
) -> Result<Resolved<B>, Failure>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::error::Error + 'static,
    W: ClientWatch,
{
    let name = percent::model_in_query(context.parts().uri.query().unwrap_or_default());
    let name = name.map_err(|percent::TwoModels| {
        let message = "The query names `model` twice, or with brackets, dots or white space. Name one \
            model of GET /v1/models in it, as model=NAME.";
        ApiError::new(Cause::BadRequest, message)
    })?;
    let route = find_route(context.table(), caller, name.as_deref())?;
    if !context.asks_websocket() {
        let message = "This endpoint is a WebSocket: open it with Connection: Upgrade and \
            Upgrade: websocket, over HTTP/1.1.";
        return Err(ApiError::new(Cause::BadRequest, message).into());
    }
    let path = Cow::Borrowed(context.endpoint().path);
    Ok((
        Dispatch { route, path, job: Job::Realtime },
        upload(context, caller, body, Reading::Carry)?,
    ))
}

/// `/model/proxy/...`: by the route's number, by header, or by the model in a JSON body.
async fn by_number_or_header_or_body<B, W>(
    context: &mut RequestContext<W>,
    caller: &Caller,
    body: B,
) -> Result<Resolved<B>, Failure>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::error::Error + 'static,
    W: ClientWatch,
{
    let path = context.parts().uri.path()[context.endpoint().path.len() - 1..].to_owned();
    if has_dot_segment(&path) {
        let message = "The path has a segment of dots. Send the path that is meant.";
        return Err(ApiError::new(Cause::BadRequest, message).into());
    }
    let (route, path, upload) =
        if let Some((route, below)) = by_number(context.table(), caller, &path) {
            (route, below, upload(context, caller, body, proxied(context, caller)?)?)
        } else if let Some(name) = context.parts().headers.get("x-gpustack-model") {
            let name = std::str::from_utf8(name.as_bytes()).ok().map(str::trim);
            (
                find_route(context.table(), caller, name)?,
                path,
                upload(context, caller, body, proxied(context, caller)?)?,
            )
        } else {
            let upload = receive_model(context, caller, &path, body).await?;
            (find_route(context.table(), caller, model_of(&upload))?, path, upload)
        };
    caller.check(&route)?;
    admission::check_proxy(&route, &path)?;
    let job = Job::Proxy { websocket: context.asks_websocket() };
    Ok((Dispatch { route, path: Cow::Owned(path), job }, upload))
}

/// `/NUMBER/...`: the route of that number, and the path below it. The number of a route that the
/// caller may not use says as little as one that no route has.
fn by_number(table: &Table, caller: &Caller, path: &str) -> Option<(Arc<Route>, String)> {
    let (number, below) = leading_number(path)?;
    let route = Arc::clone(table.route_by_number(number)?);
    caller.may_use(&route).then(|| (route, below.to_owned()))
}

/// The number that a path begins with, and the path below it; None: it begins with none.
fn leading_number(path: &str) -> Option<(u64, &str)> {
    let rest = &path[1..];
    let (first, below) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
    // `parse` alone would take a sign.
    let number = first.bytes().all(|byte| byte.is_ascii_digit()).then(|| first.parse().ok())??;
    Some((number, below))
}

/// Reads an uncompressed JSON body until its model is known. `path`: the one at the engine.
async fn receive_model<B, W>(
    context: &mut RequestContext<W>,
    caller: &Caller,
    path: &str,
    body: B,
) -> Result<Box<Upload<B>>, Failure>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::error::Error + 'static,
    W: ClientWatch,
{
    let headers = &context.parts().headers;
    if !headers::is_json(headers) || inflate::coding(headers) != Ok(None) {
        return Err(no_model_named(caller, path).into());
    }
    let mut upload = upload(context, caller, body, Reading::Json)?;
    context.receive_until(&mut upload, |upload| upload.model().is_some()).await?;
    Ok(upload)
}

/// The error for a request of the generic proxy that names no model. A number that none of the
/// caller's routes has is a part of the path, as in `GPUStack`, but most likely a mistake here.
/// Without a key that is not told, since it would tell which numbers routes have.
fn no_model_named(caller: &Caller, path: &str) -> ApiError {
    if let Some((number, _)) = leading_number(path).filter(|_| caller.key().is_some()) {
        let message = format!(
            "No route that this API key may use has the number {number}: GET /v2/model-routes \
             lists all numbers, for a key that may manage. Where the number is a part of the \
             engine's path, name the model in the header X-GPUStack-Model."
        );
        return ApiError::new(Cause::NotFound, message);
    }
    let message = "Missing 'model' field: name the model in the header X-GPUStack-Model, or send a \
        JSON body with it.";
    ApiError::new(Cause::BadRequest, message)
}

/// How a body of the generic proxy is read that is passed through as it is: only callers who may
/// manage can name hosts in it. Fails (415) where an encoding could hide one.
fn proxied<W: ClientWatch>(
    context: &RequestContext<W>,
    caller: &Caller,
) -> Result<Reading<'static>, ApiError> {
    if caller.may_name_hosts() {
        return Ok(Reading::Carry);
    }
    let headers = &context.parts().headers;
    if inflate::coding(headers) != Ok(None) {
        let message = "The generic proxy passes a body with a Content-Encoding on for API keys with \
            the scope management alone, since it is not read here. Send it without one.";
        return Err(ApiError::new(Cause::UnsupportedEncoding, message).closing());
    }
    let json = headers::is_json(headers) || !headers.contains_key(header::CONTENT_TYPE);
    Ok(Reading::Watch { json })
}

/// A body that is read in this way, within the limits of its caller.
fn upload<B, W>(
    context: &RequestContext<W>,
    caller: &Caller,
    body: B,
    reading: Reading<'_>,
) -> Result<Box<Upload<B>>, ApiError>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::error::Error + 'static,
    W: ClientWatch,
{
    Upload::new(body, reading, None, &context.body_limits(caller.key().is_some()))
}

fn model_of<B>(upload: &Upload<B>) -> Option<&str>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::error::Error + 'static,
{
    upload.model().map(|model| &*model.name)
}

/// As [`find_route`]; a name that is missing stands for the default route.
fn find_route_or_default(
    table: &Table,
    caller: &Caller,
    name: Option<&str>,
) -> Result<Arc<Route>, ApiError> {
    let default = || table.default_route().map(|route| &*route.name);
    find_route(table, caller, name.or_else(default))
}

/// The route of a public name, if the caller may use it; None stands for a name that is missing.
fn find_route(table: &Table, caller: &Caller, name: Option<&str>) -> Result<Arc<Route>, ApiError> {
    let Some(name) = name else {
        let message = "Missing 'model' field: name a model of GET /v1/models in it.";
        return Err(ApiError::new(Cause::BadRequest, message));
    };
    let route = table.serving_route(name).ok_or_else(|| caller.no_such_model(name))?;
    caller.check(&route)?;
    Ok(route)
}

/// The id of the instance that keeps a response of this caller's.
fn owner(shared: &Shared, caller: &Caller, id: &str) -> Result<Arc<str>, ApiError> {
    let key = caller.key().map(|key| &*key.id);
    shared.responses.find(key, id).map(|made| made.instance).ok_or_else(|| {
        let why = "it was not made with this API key by an engine that still runs, or it is too \
            long ago";
        // An id may be as long as a client likes.
        let shown: String = id.chars().take(100).collect();
        rejections::response_not_found(&shown, why)
    })
}
