//! One request, from its head to the first byte of its answer.

use std::{
    cell::Cell,
    future::{Future, poll_fn},
    pin::pin,
    rc::Rc,
    sync::{Arc, atomic::Ordering},
    task::Poll,
};

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header, request::Parts};
use http_body::Body;
use tokio::time::Instant;

use crate::{
    auth::Key,
    body::{AnswerBody, BrokenOff, Relay, RelayedBody, Shape},
    client_io::ClientWatch,
    documents::End,
    error::{ApiError, Cause, Dialect},
    exchange::{AnswerHead, Exchange, Fault, RequestHead, Slot},
    headers, local,
    paths::{self, Endpoint, Found, Inference, Row},
    table::{Choice, Instance, Lease, Route, Target},
    ticket::Ticket,
    timer::PhaseTimer,
    upload::{Upload, UploadError},
    upstream::Connection,
    worker::Worker,
};

/// What a 503 says in `Retry-After`, in seconds.
const RETRY_AFTER: u32 = 2;
/// The path under which requests for the management API are recorded.
const CONTROL_PLANE: &str = "control_plane";

type Answer<B, W> = Result<Response<AnswerBody<B, W>>, BrokenOff>;

/// Why a request gets no answer of an engine's.
enum Refusal {
    /// The client left: nobody reads an answer.
    Gone,
    /// We answer.
    Error(ApiError, End),
}

impl From<ApiError> for Refusal {
    fn from(error: ApiError) -> Self {
        Self::Error(error, End::Refused)
    }
}

impl From<UploadError> for Refusal {
    fn from(error: UploadError) -> Self {
        match error {
            UploadError::Gone => Self::Gone,
            UploadError::Refused(error) => error.into(),
        }
    }
}

/// Answers one request. It is polled inside the client's connection, whatever that speaks: it assumes neither one
/// request per connection nor a thread that it may move to.
pub(crate) async fn answer<B, W>(worker: Rc<Worker>, peer: Rc<str>, request: Request<B>, watch: W) -> Answer<B, W>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::error::Error + 'static,
    W: ClientWatch + Clone,
{
    let (parts, body) = request.into_parts();
    watch.leave_unread(!body.is_end_stream());
    let request_id = headers::request_id(&parts.headers).map_or_else(|| worker.new_request_id(), Arc::from);
    let refuse = |error: ApiError, dialect, path| {
        let ticket = Ticket::new(&worker.shared, Arc::clone(&request_id), path);
        Ok(refusal(ticket, dialect, &error, End::Refused, &watch))
    };
    if parts.method == Method::CONNECT || parts.method == Method::TRACE {
        let mut error = ApiError::new(
            Cause::MethodNotAllowed,
            "This server is no forward proxy: it takes no CONNECT and no TRACE.",
        );
        error.allow = Some("GET, HEAD, POST");
        return refuse(error, Dialect::Management, CONTROL_PLANE);
    }
    if parts.headers.get_all(header::HOST).iter().nth(1).is_some() {
        let error = ApiError::new(Cause::BadRequest, "The request has two Host fields. Send one.").closing();
        return refuse(error, Dialect::Management, "unknown");
    }
    match paths::find(&parts.method, parts.uri.path()) {
        Found::Row(row) => {
            let ticket = Ticket::new(&worker.shared, request_id, row.path);
            if let Endpoint::Inference(inference) = row.endpoint {
                return Inbound::new(worker, parts, peer, row, ticket, watch).infer(inference, body).await;
            }
            Ok(match local::answer(&worker.shared, row, &parts) {
                Ok(response) => finish_local(ticket, response),
                Err(error) => refusal(ticket, row.dialect, &error, End::Refused, &watch),
            })
        }
        Found::WrongMethod(row) => refuse(wrong_method(row), row.dialect, row.path),
        Found::NoSuchEndpoint(dialect) => {
            let (method, path) = (&parts.method, parts.uri.path());
            let message = format!("There is no endpoint {method} {path} in this version of gpustack-fast.");
            refuse(ApiError::new(Cause::NotFound, message), dialect, "unknown")
        }
        Found::ControlPlane => {
            let ticket = Ticket::new(&worker.shared, request_id, CONTROL_PLANE);
            Inbound::new(worker, parts, peer, &CONTROL_ROW, ticket, watch).pass_to_control_plane(body).await
        }
    }
}

/// The row of requests that are not inference; it is matched by nothing.
static CONTROL_ROW: Row =
    Row { path: CONTROL_PLANE, method: Method::GET, dialect: Dialect::Management, endpoint: Endpoint::Healthz };

fn wrong_method(row: &Row) -> ApiError {
    let mut error = ApiError::new(Cause::MethodNotAllowed, format!("{} takes {} requests only.", row.path, row.method));
    error.allow = Some(if row.method == Method::POST { "POST" } else { "GET, HEAD" });
    error
}

/// One request that goes on to an engine or to the management API.
struct Inbound<W> {
    worker: Rc<Worker>,
    parts: Parts,
    /// The client's address.
    peer: Rc<str>,
    row: &'static Row,
    ticket: Ticket,
    watch: W,
    /// The client has sent its whole body: from now on what it sends says whether it is still there.
    body_whole: Rc<Cell<bool>>,
}

/// What one attempt needs to know of its instance.
struct Attempt {
    lease: Lease,
    /// None: the management API.
    target: Option<Arc<Target>>,
    /// Use no pooled connection.
    fresh: bool,
}

/// What a client gets once an engine has answered.
struct Committed<B> {
    head: AnswerHead,
    relay: Relay<B>,
    first: Option<Bytes>,
    body_whole: bool,
}

/// A failed attempt: what happened, and the body for another one.
type Failed<B> = (Fault, Box<Upload<B>>);

impl<W: ClientWatch + Clone> Inbound<W> {
    /// In a box: it is handed from stage to stage, and would be copied at each.
    fn new(worker: Rc<Worker>, parts: Parts, peer: Rc<str>, row: &'static Row, ticket: Ticket, watch: W) -> Box<Self> {
        Box::new(Self { worker, parts, peer, row, ticket, watch, body_whole: Rc::default() })
    }

    async fn infer<B>(mut self: Box<Self>, inference: Inference, body: B) -> Answer<B, W>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: std::error::Error + 'static,
    {
        let (watch, body_whole) = (self.watch.clone(), Rc::clone(&self.body_whole));
        let committed = unless_gone(&watch, &body_whole, self.route_and_send(inference, body)).await;
        self.respond(committed)
    }

    async fn pass_to_control_plane<B>(mut self: Box<Self>, body: B) -> Answer<B, W>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: std::error::Error + 'static,
    {
        let (watch, body_whole) = (self.watch.clone(), Rc::clone(&self.body_whole));
        let committed = unless_gone(&watch, &body_whole, self.send_to_control_plane(body)).await;
        self.respond(committed)
    }

    /// Checks the key, finds the model, and tries instances until one answers.
    async fn route_and_send<B>(&mut self, inference: Inference, body: B) -> Result<Committed<B>, Refusal>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: std::error::Error + 'static,
    {
        if self.worker.shared.table.load().version == 0 {
            let message = "This server is starting: it does not know its models yet. Try again in a few seconds.";
            return Err(ApiError::new(Cause::Unavailable, message).retry_after(RETRY_AFTER).into());
        }
        let key = self.worker.shared.keys.load().authenticate(&self.parts.headers)?;
        self.ticket.key(&key.id);
        let mut upload = Upload::new(body, true, self.worker.shared.body_limits)?;
        self.receive_model(&mut upload).await?;
        let route = self.find_route(&key, upload.model().map(|model| &*model.name))?;
        self.ticket.route(&route.name, &route.metrics);
        self.try_instances(route, inference, upload).await
    }

    /// Reads the body until its model is known.
    async fn receive_model<B>(&mut self, upload: &mut Upload<B>) -> Result<(), Refusal>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: std::error::Error + 'static,
    {
        let limit = self.worker.shared.phases.body;
        let mut timer = PhaseTimer::default();
        while upload.model().is_none() && !upload.is_whole() {
            let mut since = None;
            poll_fn(|context| match upload.poll_receive(context) {
                Poll::Ready(received) => Poll::Ready(received.map_err(Refusal::from)),
                Poll::Pending => {
                    let since = *since.get_or_insert_with(Instant::now);
                    timer.poll(context, since, limit).map(|()| Err(body_timeout()))
                }
            })
            .await?;
            self.ticket.bytes_in(upload.received());
        }
        self.body_whole.set(upload.is_whole());
        Ok(())
    }

    fn find_route(&self, key: &Key, name: Option<&str>) -> Result<Arc<Route>, ApiError> {
        let missing =
            || ApiError::new(Cause::BadRequest, "Missing 'model' field: name a model of GET /v1/models in it.");
        let name = name.ok_or_else(missing)?;
        let route = local::find_route(&self.worker.shared, name)?;
        if !key.allows(&route.name) {
            let message = format!("Not allowed to access model {name}. Use a key whose allowed models include it.");
            return Err(ApiError::new(Cause::Forbidden, message));
        }
        Ok(route)
    }

    /// Tries instances until one answers, by the rules of re-sending: freely while nothing was delivered; once more
    /// after an instance died with the request, where the row allows that.
    async fn try_instances<B>(
        &mut self,
        mut route: Arc<Route>,
        inference: Inference,
        mut upload: Box<Upload<B>>,
    ) -> Result<Committed<B>, Refusal>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: std::error::Error + 'static,
    {
        let (mut tried, mut refused): (Vec<Arc<str>>, Vec<Arc<str>>) = (Vec::new(), Vec::new());
        let (mut fresh, mut deaths, mut connect_timed_out) = (false, 0, false);
        loop {
            let worker = Rc::clone(&self.worker);
            let now = worker.shared.clock();
            let choice = Choice { tried: &tried, failed: None, now };
            let leased = route.lease(choice, &mut || worker.random(), &worker.shared.idle_listener);
            let Some((lease, target)) = leased.filter(|(lease, _)| !refused.contains(&lease.instance().id)) else {
                if self.follow_table(&mut route) {
                    continue;
                }
                return Err(if connect_timed_out { connect_timeout() } else { unavailable(&route.name).into() });
            };
            let instance = Arc::clone(lease.instance());
            self.ticket.attempt(&instance.id);
            let attempt = Attempt { lease, target: Some(target), fresh };
            let (fault, back) = match self.attempt(attempt, Some(&*route), upload).await {
                Ok(committed) => return Ok(committed),
                Err(failed) => failed,
            };
            upload = back;
            fault.note(&worker.shared, &instance);
            let again = match &fault {
                Fault::Connect(error) => {
                    refused.push(Arc::clone(&instance.id));
                    connect_timed_out = error.kind() == std::io::ErrorKind::TimedOut;
                    true
                }
                Fault::Stale => {
                    // Most likely it was never read. But an engine that dies of it looks the same, and two are enough.
                    deaths += 1;
                    upload.is_replayable()
                }
                Fault::Died(_) => {
                    deaths += 1;
                    inference.resend && deaths < 2 && upload.is_replayable()
                }
                _ => false,
            };
            if !again {
                return Err(fault_refusal(fault, deaths));
            }
            if !matches!(fault, Fault::Stale) {
                tried.push(Arc::clone(&instance.id));
            }
            fresh = true;
            self.follow_table(&mut route);
            worker.shared.metrics.retries.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Goes over to the table of now, where what the request began with may have been replaced; true if it is another.
    fn follow_table(&self, route: &mut Arc<Route>) -> bool {
        let table = self.worker.shared.table.load();
        let newer = table.route(&route.name).filter(|current| !Arc::ptr_eq(current, route)).cloned();
        newer.is_some_and(|newer| {
            *route = newer;
            true
        })
    }

    async fn send_to_control_plane<B>(&mut self, body: B) -> Result<Committed<B>, Refusal>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: std::error::Error + 'static,
    {
        let worker = Rc::clone(&self.worker);
        let unavailable = || {
            ApiError::new(Cause::Unavailable, "The management API does not answer yet. Try again in a few seconds.")
                .retry_after(RETRY_AFTER)
        };
        let instance = worker.shared.control_plane.as_ref().ok_or_else(unavailable)?;
        let mut upload = Upload::new(body, false, worker.shared.body_limits)?;
        let mut fresh = false;
        loop {
            let lease = Lease::take(instance, &worker.shared.idle_listener).ok_or_else(unavailable)?;
            match self.attempt(Attempt { lease, target: None, fresh }, None, upload).await {
                Ok(committed) => return Ok(committed),
                Err((Fault::Stale, back)) if back.is_replayable() && !fresh => (upload, fresh) = (back, true),
                Err((Fault::Connect(_), _)) => return Err(unavailable().into()),
                Err((fault, _)) => return Err(fault_refusal(fault, 0)),
            }
        }
    }

    /// Sends the request to one instance and waits for the commit point: the first byte for the client, which in a
    /// stream is the first frame.
    async fn attempt<B>(
        &mut self,
        attempt: Attempt,
        route: Option<&Route>,
        mut upload: Box<Upload<B>>,
    ) -> Result<Committed<B>, Failed<B>>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: std::error::Error + 'static,
    {
        let Attempt { lease, target, fresh } = attempt;
        let instance = Arc::clone(lease.instance());
        // A connection that the engine may be closing is nothing for a body that cannot be sent again.
        let may_be_stale = !fresh && upload.will_be_replayable();
        let pooled = if may_be_stale { self.worker.pool.take(&instance) } else { None };
        let connection = match pooled {
            Some(connection) => connection,
            None => match Connection::open(&instance, self.worker.shared.phases.connect).await {
                Ok(connection) => connection,
                Err(error) => return Err((Fault::Connect(error), upload)),
            },
        };
        // A route knows its model by the route's name; the engine by its own.
        let names = route.zip(target.as_deref()).filter(|(route, target)| route.name != target.served_name);
        let length = upload.start_attempt(names.map(|(_, target)| target.served_json.clone()));
        let to_head_request = self.parts.method == Method::HEAD;
        let request = RequestHead { head: self.compose_head(&instance, route.is_some()), length, to_head_request };
        let slot = Slot::new(lease, &self.worker.lingering);
        let mut exchange = Exchange::new(connection, slot, upload, request, self.worker.shared.phases);
        let body_whole = &*self.body_whole;
        let head = poll_fn(|context| {
            let head = exchange.poll_head(context);
            body_whole.set(exchange.upload.is_whole());
            head
        })
        .await;
        self.ticket.bytes_in(exchange.upload.received());
        let head = match head {
            Ok(head) => head,
            Err(fault) => return Err((fault, exchange.into_upload())),
        };
        let shape = shape(&head, route.is_some(), names.map(|(route, _)| route.name_json.clone()));
        let body_whole = exchange.upload.is_whole();
        let mut relay = Relay::new(exchange, shape, Rc::clone(&self.worker.pool));
        match poll_fn(|context| relay.poll_piece(context)).await.transpose() {
            Ok(first) => Ok(Committed { head, relay, first, body_whole }),
            Err(fault) => Err((fault, relay.into_upload())),
        }
    }

    /// The request's head toward an instance.
    fn compose_head(&self, instance: &Instance, to_engine: bool) -> BytesMut {
        let target = self.parts.uri.path_and_query().map_or("/", |target| target.as_str());
        let mut head = BytesMut::with_capacity(512);
        for text in [self.parts.method.as_str(), " ", target, " HTTP/1.1\r\n"] {
            head.put_slice(text.as_bytes());
        }
        if to_engine {
            put_lines(&mut head, &["host: ", &instance.host, "\r\n"]);
            headers::put_for_engine(&mut head, &self.parts.headers);
        } else {
            headers::put_for_control_plane(&mut head, &self.parts.headers, &self.peer);
        }
        if let Some(authorization) = &instance.authorization {
            put_lines(&mut head, &["authorization: ", authorization, "\r\n"]);
        }
        // Each attempt has an id of its own, since an engine takes it for the id of its work.
        let number = self.worker.next_attempt();
        put_lines(
            &mut head,
            &["x-request-id: ", self.ticket.request_id(), "-", itoa::Buffer::new().format(number), "\r\n"],
        );
        head
    }

    #[expect(clippy::boxed_local, reason = "it is in a box already, and would be copied out of it")]
    fn respond<B>(mut self: Box<Self>, committed: Result<Committed<B>, Refusal>) -> Answer<B, W>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: std::error::Error + 'static,
    {
        let dialect = self.row.dialect;
        self.watch.leave_unread(!self.body_whole.get());
        let committed = match committed {
            Ok(committed) => committed,
            Err(Refusal::Gone) => return Err(BrokenOff),
            Err(Refusal::Error(error, end)) => return Ok(refusal(self.ticket, dialect, &error, end, &self.watch)),
        };
        let Committed { head, relay, first, body_whole } = committed;
        if let Some(error) = credential_fault(&head, self.row) {
            return Ok(refusal(self.ticket, dialect, &error, End::EngineError, &self.watch));
        }
        let mut headers = head.headers;
        headers::put_request_id(&mut headers, self.ticket.request_id());
        if let Some(length) = head.content_length.filter(|_| self.parts.method == Method::HEAD) {
            headers.insert(header::CONTENT_LENGTH, length.into());
        }
        let stream = headers::is_event_stream(&headers);
        if stream {
            headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-cache"));
            headers.entry("x-accel-buffering").or_insert(HeaderValue::from_static("no"));
        }
        self.ticket.answered(head.status.as_u16(), stream);
        let is_error = head.status.is_client_error() || head.status.is_server_error();
        if is_error && first.is_none() && self.parts.method != Method::HEAD && self.row.path != CONTROL_PLANE {
            return Ok(fill_error(self.ticket, dialect, head.status, headers));
        }
        let body = RelayedBody::new(relay, first, self.ticket, (self.watch, body_whole), dialect);
        let mut response = Response::new(AnswerBody::Relayed(Box::new(body)));
        *response.status_mut() = head.status;
        *response.headers_mut() = headers;
        Ok(response)
    }
}

/// An engine's error without a word gets ours: no client gets an empty body.
fn fill_error<B, W>(
    mut ticket: Ticket,
    dialect: Dialect,
    status: StatusCode,
    mut headers: HeaderMap,
) -> Response<AnswerBody<B, W>> {
    let cause = if status.is_server_error() { Cause::BadGateway } else { Cause::BadRequest };
    let error =
        ApiError::new(cause, format!("The engine answered with status {} and no explanation.", status.as_u16()));
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    ticket.end(End::Done);
    let mut response = Response::new(AnswerBody::Full(error.body(dialect, ticket.request_id())));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

/// Drives a request until it is committed, or its client has left.
async fn unless_gone<T>(
    watch: &impl ClientWatch,
    body_whole: &Cell<bool>,
    work: impl Future<Output = Result<T, Refusal>>,
) -> Result<T, Refusal> {
    let mut work = pin!(work);
    poll_fn(|context| {
        let done = work.as_mut().poll(context);
        if done.is_pending() && watch.poll_left(context, body_whole.get()).is_ready() {
            return Poll::Ready(Err(Refusal::Gone));
        }
        done
    })
    .await
}

fn put_lines(head: &mut BytesMut, texts: &[&str]) {
    for text in texts {
        head.extend_from_slice(text.as_bytes());
    }
}

/// How an answer is treated: frames of a stream are kept whole, and the engine's name for the model becomes `rename`.
fn shape(head: &AnswerHead, from_engine: bool, rename: Option<Bytes>) -> Shape {
    // An answer that the engine compressed all the same cannot be read.
    let encoded = head.headers.get(header::CONTENT_ENCODING).is_some_and(|coding| coding != "identity");
    match rename {
        _ if encoded || !from_engine => Shape::Plain,
        rename if headers::is_event_stream(&head.headers) => Shape::events(rename),
        Some(name) if headers::is_json(&head.headers) => Shape::renamed(name),
        _ => Shape::Plain,
    }
}

/// An engine that refuses our credential is our fault, not the client's, whose key is fine (spec/wire.md 10).
fn credential_fault(head: &AnswerHead, row: &Row) -> Option<ApiError> {
    let refused = matches!(head.status.as_u16(), 401 | 403) && matches!(row.endpoint, Endpoint::Inference(_));
    refused.then(|| {
        let message = format!(
            "The engine refused this server's own credential (status {}). The operator must give this server the engine's key.",
            head.status.as_u16()
        );
        ApiError::new(Cause::BadGateway, message)
    })
}

fn unavailable(route: &str) -> ApiError {
    let message = format!(
        "No running instances available for model {route}: its engines are starting, have failed, or cannot be reached. Try again in a few seconds; GET /v2/models tells the reason."
    );
    ApiError::new(Cause::Unavailable, message).retry_after(RETRY_AFTER)
}

fn connect_timeout() -> Refusal {
    let message = "No engine could be connected to in time (the connect timeout is over). Try again in a few seconds.";
    Refusal::Error(ApiError::new(Cause::GatewayTimeout, message).retry_after(RETRY_AFTER), End::Timeout)
}

fn body_timeout() -> Refusal {
    let message = "The request body stopped arriving (the body timeout is over). Send the request again.";
    Refusal::Error(ApiError::new(Cause::RequestTimeout, message).closing(), End::Timeout)
}

/// What the client is told when no instance is left to try.
fn fault_refusal(fault: Fault, deaths: u32) -> Refusal {
    let (error, end) = match fault {
        Fault::Gone => return Refusal::Gone,
        Fault::Refused(error) => return error.into(),
        Fault::Body => return body_timeout(),
        Fault::FirstFrame | Fault::Idle => {
            let message = "The engine sent no first frame in time (the first-frame timeout is over). Try again later or raise the timeout.";
            (ApiError::new(Cause::GatewayTimeout, message), End::Timeout)
        }
        Fault::Wire(error) => {
            let message = format!("The engine's answer breaks HTTP: {error}.");
            (ApiError::new(Cause::BadGateway, message), End::EngineError)
        }
        Fault::Connect(_) | Fault::Stale | Fault::Died(_) => {
            let message = if deaths > 1 {
                "Two engines ended while they worked on this request, so it is not sent to a third. Check the engines' logs before you send it again."
            } else {
                "The engine ended before it answered this request. Send the request again."
            };
            let mut error = ApiError::new(Cause::BadGateway, message);
            error.do_not_retry = deaths > 1;
            (error, End::EngineDied)
        }
    };
    Refusal::Error(error, end)
}

/// An answer of ours that is no success.
fn refusal<B, W: ClientWatch>(
    ticket: Ticket,
    dialect: Dialect,
    error: &ApiError,
    end: End,
    watch: &W,
) -> Response<AnswerBody<B, W>> {
    let id = Arc::clone(ticket.request_id());
    let mut response = Response::new(AnswerBody::Full(error.body(dialect, &id)));
    *response.status_mut() = http::StatusCode::from_u16(error.cause.status()).unwrap_or(http::StatusCode::BAD_GATEWAY);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers::put_request_id(headers, &id);
    if error.cause == Cause::Unauthorized {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    if let Some(seconds) = error.retry_after {
        headers.insert(header::RETRY_AFTER, seconds.into());
    }
    if error.do_not_retry {
        headers.insert("x-should-retry", HeaderValue::from_static("false"));
    }
    if let Some(allow) = error.allow {
        headers.insert(header::ALLOW, HeaderValue::from_static(allow));
    }
    if error.close {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        watch.close_after_answer();
    }
    ticket.refused(error.cause.status(), end);
    response
}

fn finish_local<B, W>(mut ticket: Ticket, local: Response<Bytes>) -> Response<AnswerBody<B, W>> {
    let (mut parts, body) = local.into_parts();
    headers::put_request_id(&mut parts.headers, ticket.request_id());
    ticket.answered(parts.status.as_u16(), false);
    ticket.bytes_out(body.len());
    ticket.end(End::Done);
    Response::from_parts(parts, AnswerBody::Full(body))
}
