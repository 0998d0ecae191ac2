//! One request, from its head to the errand that an engine is sent on.

use std::{borrow::Cow, rc::Rc, sync::Arc};

use bytes::Bytes;
use http::{Method, Request, Version, header, request::Parts};
use http_body::Body;
use tokio::time::Instant;

use crate::{
    client::io::ClientWatch,
    failure::Failure,
    request::{
        accounting::Ticket,
        admission::Caller,
        attempts::{Errand, Outcome},
        context::{Answer, CONTROL_PLANE, Inbound, unless_gone},
        local, rejections,
        respond::{finish_local, refuse},
    },
    upstream::upload::{Reading, Upload},
    worker::Worker,
};
use sans_io::{
    api::{
        endpoints::{self, BodyKind, Edit, Endpoint, Found, Inference, Methods, ModelPlace, Row},
        error::{ApiError, Cause, Dialect},
    },
    codec::{headers, inflate, percent},
    table::{Route, proxy_paths},
};

/// The row of requests that are not inference; it is matched by nothing.
static CONTROL_ROW: Row = Row {
    path: CONTROL_PLANE,
    methods: Methods::Any,
    dialect: Dialect::Management,
    legacy: false,
    endpoint: Endpoint::Healthz,
};

/// Answers one request. It is polled inside the client's connection, whatever that speaks: it
/// assumes neither one request per connection nor a thread that it may move to.
pub(crate) async fn answer<B, W>(
    worker: Rc<Worker>,
    peer: Rc<str>,
    request: Request<B>,
    watch: W,
) -> Answer<B, W>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::error::Error + 'static,
    W: ClientWatch + Clone,
{
    let (parts, body) = request.into_parts();
    watch.leave_unread(!body.is_end_stream());
    let request_id =
        headers::request_id(&parts.headers).map_or_else(|| worker.new_request_id(), Arc::from);
    let shared = Arc::clone(&worker.shared);
    let ticket = |path| Ticket::new(&shared, Arc::clone(&request_id), path);
    let found = endpoints::find(&parts.method, parts.uri.path());
    if let Err(error) = check_head(&parts) {
        return Ok(refuse(ticket("unknown"), found.dialect(), &error, &watch));
    }
    match found {
        Found::Row(row) => {
            let ticket = ticket(row.path);
            let wish = match row.endpoint {
                Endpoint::Inference(inference) => Wish::Inference(inference),
                Endpoint::StoredResponse => Wish::StoredResponse,
                Endpoint::Realtime => Wish::Realtime,
                Endpoint::GenericProxy => Wish::GenericProxy,
                _ => {
                    return Ok(match local::answer(&worker.shared, row, &parts) {
                        Ok(response) => finish_local(ticket, response),
                        Err(error) => refuse(ticket, row.dialect, &error, &watch),
                    });
                }
            };
            Inbound::new(worker, parts, peer, row, ticket, watch).serve(wish, body).await
        }
        Found::WrongMethod(row) => {
            Ok(refuse(ticket(row.path), row.dialect, &rejections::wrong_method(row), &watch))
        }
        Found::NoSuchEndpoint(dialect) => {
            let error = no_such_endpoint(&parts.method, parts.uri.path());
            Ok(refuse(ticket("unknown"), dialect, &error, &watch))
        }
        Found::ControlPlane => {
            let ticket = ticket(CONTROL_PLANE);
            Inbound::new(worker, parts, peer, &CONTROL_ROW, ticket, watch)
                .serve(Wish::ControlPlane, body)
                .await
        }
    }
}

fn check_head(parts: &Parts) -> Result<(), ApiError> {
    if parts.method == Method::CONNECT || parts.method == Method::TRACE {
        let message = "This server is no forward proxy: it takes no CONNECT and no TRACE.";
        let mut error = ApiError::new(Cause::MethodNotAllowed, message);
        error.allow = Some("GET, HEAD, POST");
        return Err(error);
    }
    let hosts = parts.headers.get_all(header::HOST).iter().count();
    if hosts > 1 {
        return Err(ApiError::new(Cause::BadRequest, "The request has two Host fields. Send one.")
            .closing());
    }
    if parts.headers.get_all(header::CONTENT_TYPE).iter().nth(1).is_some() {
        return Err(ApiError::new(
            Cause::BadRequest,
            "The request has two Content-Type fields. Send one.",
        )
        .closing());
    }
    if hosts == 0 && parts.version == Version::HTTP_11 && parts.uri.authority().is_none() {
        return Err(
            ApiError::new(Cause::BadRequest, "The request has no Host field. Send one.").closing()
        );
    }
    Ok(())
}

fn no_such_endpoint(method: &Method, path: &str) -> ApiError {
    ApiError::new(
        Cause::NotFound,
        format!("There is no endpoint {method} {path} in this version of gpustack-fast."),
    )
}

/// What a request is about.
#[derive(Clone, Copy)]
enum Wish {
    Inference(Inference),
    StoredResponse,
    Realtime,
    GenericProxy,
    ControlPlane,
}

impl<W: ClientWatch + Clone> Inbound<W> {
    async fn serve<B>(mut self: Box<Self>, wish: Wish, body: B) -> Answer<B, W>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: std::error::Error + 'static,
    {
        let (watch, body_whole) = (self.watch.clone(), Rc::clone(&self.body_whole));
        let outcome = unless_gone(&watch, &body_whole, self.run(wish, body)).await;
        self.respond(outcome)
    }

    async fn run<B>(&mut self, wish: Wish, body: B) -> Result<Outcome<B>, Failure>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: std::error::Error + 'static,
    {
        if let Wish::ControlPlane = wish {
            let upload = Upload::new(body, Reading::Carry, None, &self.worker.body_limits)?;
            return self.send_to_control_plane(upload).await;
        }
        if self.worker.shared.table.load().version == 0 {
            return Err(rejections::starting().into());
        }
        let caller = Caller::identify(&self.worker.shared, &self.parts.headers)?;
        self.moments.authenticated = Some(Instant::now());
        if let Some(key) = caller.key() {
            self.ticket.key(&key.id);
        }
        let (errand, upload) = match wish {
            Wish::Inference(inference) => self.receive_inference(&caller, inference, body).await?,
            Wish::StoredResponse => self.find_stored_response(&caller, body)?,
            Wish::Realtime => self.open_realtime(&caller, body)?,
            Wish::GenericProxy | Wish::ControlPlane => self.receive_proxied(&caller, body).await?,
        };
        self.moments.routed = Some(Instant::now());
        self.ticket.route(&errand.route.name, &errand.route.metrics);
        self.try_instances(&caller, errand, upload).await
    }

    /// `POST` with the model in the body.
    async fn receive_inference<B>(
        &mut self,
        caller: &Caller,
        inference: Inference,
        body: B,
    ) -> Result<(Errand, Box<Upload<B>>), Failure>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: std::error::Error + 'static,
    {
        let coding = inflate::coding(&self.parts.headers).map_err(|error| {
            ApiError::new(Cause::UnsupportedEncoding, error.to_string()).closing()
        })?;
        let stored = inference.edit == Edit::StoredResponse;
        let reading = match inference.body {
            BodyKind::Form if !headers::is_json(&self.parts.headers) => Reading::Form(
                self.parts.headers.get(header::CONTENT_TYPE).map_or(b"", |kind| kind.as_bytes()),
            ),
            _ if stored => Reading::JsonOfResponse,
            _ => Reading::Json,
        };
        let is_json = !matches!(reading, Reading::Form(_));
        let mut upload = Upload::new(body, reading, coding, &self.worker.body_limits)?;
        self.receive_until(&mut upload, |upload| upload.model().is_some() && !stored).await?;
        let route = self.find_route(caller, upload.model().map(|model| &*model.name))?;
        let pinned =
            upload.previous_response_id().map(|id| self.made_where(caller, id)).transpose()?;
        let errand = Errand {
            route,
            path: Cow::Borrowed(self.row.path),
            inference: Some(inference),
            resend: inference.resend,
            pinned,
            for_engine: headers::ForEngine {
                decoded: coding.is_some(),
                json: is_json,
                ..Default::default()
            },
            names_model_in_query: false,
        };
        Ok((errand, upload))
    }

    /// What the Responses API has below `/v1/responses/`.
    fn find_stored_response<B>(
        &self,
        caller: &Caller,
        body: B,
    ) -> Result<(Errand, Box<Upload<B>>), Failure>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: std::error::Error + 'static,
    {
        let (path, method) = (self.parts.uri.path(), &self.parts.method);
        let rest = &path[self.row.path.len()..];
        let (id, below) = rest.split_once('/').unwrap_or((rest, ""));
        let known = match below {
            "" => method != Method::POST,
            "cancel" => method == Method::POST,
            "input_items" => method == Method::GET || method == Method::HEAD,
            _ => false,
        };
        if !known || id.is_empty() || proxy_paths::has_dot_segment(path) {
            return Err(no_such_endpoint(method, path).into());
        }
        let id = percent::percent_decode(id);
        let pinned = self.made_where(caller, &id)?;
        let key = caller.key().map(|key| &*key.id);
        let made = self.worker.shared.responses.find(key, &id);
        let route =
            made.and_then(|made| self.worker.shared.table.load().route(&made.route).cloned());
        let route = route
            .ok_or_else(|| rejections::response_not_found(&id, "its model is no longer served"))?;
        caller.check(&route)?;
        let inference = Inference {
            body: BodyKind::Json,
            resend: true,
            model_in_answer: ModelPlace::Response,
            edit: Edit::None,
        };
        let errand = Errand {
            route,
            path: Cow::Owned(path.to_owned()),
            inference: Some(inference),
            resend: method != Method::POST,
            pinned: Some(pinned),
            for_engine: headers::ForEngine::default(),
            names_model_in_query: false,
        };
        Ok((errand, Upload::new(body, Reading::Carry, None, &self.worker.body_limits)?))
    }

    /// The instance that made a response of this caller's.
    fn made_where(&self, caller: &Caller, id: &str) -> Result<Arc<str>, ApiError> {
        let key = caller.key().map(|key| &*key.id);
        let made = self.worker.shared.responses.find(key, id);
        made.map(|made| made.instance).ok_or_else(|| {
            let why = "it was not made with this API key by an engine that still runs, or it is \
                too long ago";
            rejections::response_not_found(&shown(id), why)
        })
    }

    /// `GET /v1/realtime?model=`
    fn open_realtime<B>(
        &self,
        caller: &Caller,
        body: B,
    ) -> Result<(Errand, Box<Upload<B>>), Failure>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: std::error::Error + 'static,
    {
        let name = self.parts.uri.query().and_then(percent::model_in_query);
        let route = self.find_route(caller, name.as_deref())?;
        // What is said inside the WebSocket is not read, and may name another model.
        caller.check_all_names(&self.worker.shared.table.load(), &route)?;
        if !self.asks_websocket() {
            let message = "This endpoint is a WebSocket: open it with Connection: Upgrade and \
                Upgrade: websocket, over HTTP/1.1.";
            return Err(ApiError::new(Cause::BadRequest, message).into());
        }
        let errand = Errand {
            route,
            path: Cow::Borrowed(self.row.path),
            inference: None,
            resend: false,
            pinned: None,
            for_engine: headers::ForEngine {
                encoded_response: true,
                upgrade: true,
                ..Default::default()
            },
            names_model_in_query: true,
        };
        Ok((errand, Upload::new(body, Reading::Carry, None, &self.worker.body_limits)?))
    }

    /// `/model/proxy/...`: by the route's number, by header, or by the model in a JSON body.
    async fn receive_proxied<B>(
        &mut self,
        caller: &Caller,
        body: B,
    ) -> Result<(Errand, Box<Upload<B>>), Failure>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: std::error::Error + 'static,
    {
        let rest = &self.parts.uri.path()[self.row.path.len() - 1..];
        if proxy_paths::has_dot_segment(rest) {
            let message = "The path has a segment of dots. Send the path that is meant.";
            return Err(ApiError::new(Cause::BadRequest, message).into());
        }
        let table = self.worker.shared.table.load();
        let (first, below) =
            rest[1..].find('/').map_or((&rest[1..], "/"), |at| rest[1..].split_at(at));
        let digits = first.bytes().all(|byte| byte.is_ascii_digit());
        let number = first.parse().ok().filter(|_| digits);
        let numbered = number.and_then(|number| table.route_by_number(number).cloned());
        let header = self.parts.headers.get("x-gpustack-model");
        let limits = self.worker.body_limits.clone();
        let path = if numbered.is_some() { below } else { rest }.to_owned();
        let (route, upload) = if let Some(route) = numbered {
            (route, Upload::new(body, Reading::Carry, None, &limits)?)
        } else if let Some(name) = header {
            let name = std::str::from_utf8(name.as_bytes()).ok().map(str::trim);
            (self.find_route(caller, name)?, Upload::new(body, Reading::Carry, None, &limits)?)
        } else {
            let readable = headers::is_json(&self.parts.headers)
                && inflate::coding(&self.parts.headers) == Ok(None);
            if !readable {
                let message = "Missing 'model' field: name the model in the header \
                    X-GPUStack-Model, or send a JSON body with it.";
                return Err(ApiError::new(Cause::BadRequest, message).into());
            }
            let mut upload = Upload::new(body, Reading::Json, None, &limits)?;
            self.receive_until(&mut upload, |upload| upload.model().is_some()).await?;
            (self.find_route(caller, upload.model().map(|model| &*model.name))?, upload)
        };
        caller.check(&route)?;
        if !route.generic_proxy {
            let message = format!(
                "The generic proxy is not enabled for model {}. The operator enables it with \
                 generic_proxy = true on the route.",
                route.name
            );
            return Err(ApiError::new(Cause::NotFound, message).into());
        }
        let upgrade = self.asks_websocket();
        if upgrade || upload.model().is_none() {
            caller.check_all_names(&self.worker.shared.table.load(), &route)?;
        }
        let errand = Errand {
            route,
            path: Cow::Owned(path),
            inference: None,
            resend: false,
            pinned: None,
            for_engine: headers::ForEngine {
                encoded_response: true,
                upgrade,
                ..Default::default()
            },
            names_model_in_query: false,
        };
        Ok((errand, upload))
    }

    /// Whether the client asks for a WebSocket, over a protocol that has them here.
    fn asks_websocket(&self) -> bool {
        self.parts.version == Version::HTTP_11
            && self.parts.method == Method::GET
            && headers::asks_websocket(&self.parts.headers)
    }

    /// The route of a public name, if the caller may use it.
    fn find_route(&self, caller: &Caller, name: Option<&str>) -> Result<Arc<Route>, ApiError> {
        let Some(name) = name else {
            let message = "Missing 'model' field: name a model of GET /v1/models in it.";
            return Err(ApiError::new(Cause::BadRequest, message));
        };
        let route = local::find_route(&self.worker.shared, name)?;
        caller.check(&route)?;
        Ok(route)
    }
}

/// An id as it may stand in an error.
fn shown(id: &str) -> String {
    id.chars().take(100).collect()
}
