//! Sending an errand to instances until one answers, by the rules of re-sending.

use std::{
    borrow::Cow,
    future::poll_fn,
    rc::Rc,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::{BufMut, Bytes, BytesMut};
use http::{Method, StatusCode};
use http_body::Body;
use tokio::time::Instant;

use crate::{
    client::io::ClientWatch,
    failure::Failure,
    request::{admission::Caller, context::Inbound, rejections, relay::Relay},
    upstream::{
        connection::Connection,
        exchange::{Exchange, RequestHead, closed},
        health,
        slot::Slot,
        upload::{Changes, Upload},
    },
};
use sans_io::{
    api::{
        endpoints::{self, Edit, Inference},
        error::{ApiError, Cause},
        plan::{self, Asker, Plan},
        transform::Shape,
    },
    codec::{
        headers::{self, ForEngine},
        http1::ResponseHead,
        percent,
    },
    table::{Choice, Instance, Lease, Route, Target},
};

/// A larger request is translated on the blocking pool, so that other requests do not wait for it.
const TRANSLATED_HERE: usize = 256 * 1024;

/// What a request wants of an engine.
pub(crate) struct Errand {
    pub(crate) route: Arc<Route>,
    /// The path toward the engine.
    pub(crate) path: Cow<'static, str>,
    /// What may be edited; None: nothing is looked into.
    pub(crate) inference: Option<Inference>,
    /// Whether a request that reached an engine which then died may be sent once more.
    pub(crate) resend: bool,
    /// Only this instance can do it.
    pub(crate) pinned: Option<Arc<str>>,
    pub(crate) for_engine: ForEngine,
    /// The query names the model.
    pub(crate) names_model_in_query: bool,
}

/// What came of it.
pub(crate) enum Outcome<B> {
    /// An answer has begun.
    Answer(Box<Committed<B>>),
    /// The engine speaks another protocol from now on.
    Upgraded(Box<Upgraded>),
}

/// What a client gets once an engine has answered.
pub(crate) struct Committed<B> {
    pub(crate) head: ResponseHead,
    pub(crate) relay: Relay<B>,
    pub(crate) first: Option<Bytes>,
    pub(crate) body_whole: bool,
}

/// An engine's connection behind its 101.
pub(crate) struct Upgraded {
    pub(crate) head: ResponseHead,
    pub(crate) connection: Connection,
    pub(crate) slot: Slot,
}

/// A failed attempt: what happened, and the body for another one.
type Failed<B> = (Failure, Box<Upload<B>>);

/// One attempt's errand; the management API has none.
struct Attempt<'a> {
    lease: Lease,
    /// Use no pooled connection.
    fresh: bool,
    errand: Option<&'a Errand>,
    target: Option<Arc<Target>>,
}

/// What the attempts so far came to.
#[derive(Default)]
struct History {
    tried: Vec<Arc<str>>,
    refused: Vec<Arc<str>>,
    deaths: u32,
    connect_timed_out: bool,
    /// The status with which the targets so far have failed.
    failed: Option<u16>,
}

impl<W: ClientWatch + Clone> Inbound<W> {
    /// Tries instances until one answers: freely while nothing was delivered; once more after an
    /// instance died with the request, where the row allows that; and where there is another target
    /// for the status of an answer, that one.
    pub(crate) async fn try_instances<B>(
        &mut self,
        caller: &Caller,
        mut errand: Errand,
        mut upload: Box<Upload<B>>,
    ) -> Result<Outcome<B>, Failure>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: std::error::Error + 'static,
    {
        let mut history = History::default();
        let mut fresh = false;
        loop {
            // Before a slot is taken: a slow client must not hold one. And for each table anew.
            let needs_whole = |inference| {
                errand.route.targets().any(|target| plan::needs_whole(inference, target))
            };
            if errand.inference.is_some_and(needs_whole) {
                self.receive_whole(&mut upload).await?;
            }
            let Some((lease, target)) = self.lease(&errand, &history)? else {
                if self.follow_table(caller, &mut errand.route)
                    || self.fall_back(&errand, &mut history, 503, &upload)
                {
                    continue;
                }
                return Err(if history.connect_timed_out {
                    Failure::ConnectTimeout
                } else {
                    rejections::unavailable(&errand.route.name).into()
                });
            };
            // A fallback is better than an instance that has failed this very request.
            let again = history.tried.contains(&lease.instance().id);
            if again && self.fall_back(&errand, &mut history, 502, &upload) {
                continue;
            }
            let instance = Arc::clone(lease.instance());
            self.ticket.attempt(&instance.id);
            let attempt = Attempt { lease, fresh, errand: Some(&errand), target: Some(target) };
            let (failure, back) =
                match self.attempt(attempt, upload, history.failed.is_some()).await {
                    Ok(outcome) => return Ok(outcome),
                    Err(failed) => failed,
                };
            upload = back;
            health::note(&failure, &self.worker.shared, &instance);
            let again =
                history.allows_another(&failure, &instance, &errand, upload.is_replayable());
            if !again && !self.fall_back_after(&failure, &errand, &mut history, &upload) {
                return Err(history.last(failure));
            }
            fresh = true;
            self.follow_table(caller, &mut errand.route);
            self.worker.shared.metrics.retries.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits for all of a body and takes it into memory, since its engine gets another in its
    /// place.
    async fn receive_whole<B>(&mut self, upload: &mut Upload<B>) -> Result<(), Failure>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: std::error::Error + 'static,
    {
        self.receive_until(upload, |upload| upload.received() > plan::WHOLE_BODY).await?;
        if upload.received() > plan::WHOLE_BODY {
            return Err(rejections::too_large_to_translate(plan::WHOLE_BODY).into());
        }
        poll_fn(|context| upload.poll_load(context)).await?;
        Ok(())
    }

    fn lease(
        &self,
        errand: &Errand,
        history: &History,
    ) -> Result<Option<(Lease, Arc<Target>)>, ApiError> {
        let shared = &self.worker.shared;
        if let Some(id) = &errand.pinned {
            let leased = errand.route.lease_instance(id, &shared.idle_listener);
            let leased =
                leased.filter(|_| !history.refused.contains(id) && !history.tried.contains(id));
            let gone = || {
                let why =
                    "the engine that made it has ended, cannot be reached, or serves another model";
                ApiError::new(
                    Cause::ResponseNotFound,
                    format!(
                        "The response was not found: {why}. Send the whole conversation as input \
                         instead."
                    ),
                )
            };
            return leased.map(Some).ok_or_else(gone);
        }
        let choice = Choice { tried: &history.tried, failed: history.failed, now: shared.clock() };
        let leased =
            errand.route.lease(choice, &mut || self.worker.random(), &shared.idle_listener);
        Ok(leased.filter(|(lease, _)| !history.refused.contains(&lease.instance().id)))
    }

    /// Goes over to the targets that are there for a status, if there are any and they were not
    /// tried.
    fn fall_back<B>(
        &self,
        errand: &Errand,
        history: &mut History,
        status: u16,
        upload: &Upload<B>,
    ) -> bool
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: std::error::Error + 'static,
    {
        let can = history.failed.is_none()
            && errand.pinned.is_none()
            && upload.is_replayable()
            && errand.route.has_fallback(status);
        if can {
            history.failed = Some(status);
            self.worker.shared.metrics.fallbacks.fetch_add(1, Ordering::Relaxed);
        }
        can
    }

    fn fall_back_after<B>(
        &self,
        failure: &Failure,
        errand: &Errand,
        history: &mut History,
        upload: &Upload<B>,
    ) -> bool
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: std::error::Error + 'static,
    {
        let status = match failure {
            Failure::FallbackStatus(status) => *status,
            // What may have been done already is done again only where that costs nothing but time.
            Failure::ConnectionLost(_)
            | Failure::StaleConnection
            | Failure::FirstFrameTimeout
            | Failure::Protocol(_)
                if errand.resend =>
            {
                502
            }
            _ => return false,
        };
        history.deaths < 2 && self.fall_back(errand, history, status, upload)
    }

    /// Goes over to the table of now, where what the request began with may have been replaced;
    /// true if it is another. A route that its caller may not use any more, or not in this way, is
    /// not followed.
    fn follow_table(&self, caller: &Caller, route: &mut Arc<Route>) -> bool {
        let table = self.worker.shared.table.load();
        let proxied = self.row.endpoint == endpoints::Endpoint::GenericProxy;
        let may = |current: &Route| caller.may_use(current) && (current.generic_proxy || !proxied);
        let newer = table
            .route(&route.name)
            .filter(|current| !Arc::ptr_eq(current, route) && may(current))
            .cloned();
        newer.is_some_and(|newer| {
            *route = newer;
            true
        })
    }

    pub(crate) async fn send_to_control_plane<B>(
        &mut self,
        mut upload: Box<Upload<B>>,
    ) -> Result<Outcome<B>, Failure>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: std::error::Error + 'static,
    {
        let shared = Arc::clone(&self.worker.shared);
        let instance = shared.control_plane.as_ref().ok_or_else(rejections::no_management)?;
        let mut fresh = false;
        loop {
            let lease = Lease::take(instance, &shared.idle_listener)
                .ok_or_else(rejections::no_management)?;
            match self
                .attempt(Attempt { lease, fresh, errand: None, target: None }, upload, false)
                .await
            {
                Ok(outcome) => return Ok(outcome),
                Err((Failure::StaleConnection, back))
                    if back.is_replayable() && self.parts.method.is_safe() && !fresh =>
                {
                    (upload, fresh) = (back, true);
                }
                Err((Failure::Connect(_), _)) => return Err(rejections::no_management().into()),
                Err((failure, _)) => return Err(failure),
            }
        }
    }

    /// Sends the request to one instance and waits for the commit point: the first byte for the
    /// client, which in a stream is the first frame. `last`: no other target will be tried after
    /// this one.
    async fn attempt<B>(
        &mut self,
        attempt: Attempt<'_>,
        mut upload: Box<Upload<B>>,
        last: bool,
    ) -> Result<Outcome<B>, Failed<B>>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: std::error::Error + 'static,
    {
        let Attempt { lease, fresh, errand, target } = attempt;
        let instance = Arc::clone(lease.instance());
        self.moments.attempted = Some(Instant::now());
        let plan = match self.plan(errand, target.as_ref(), &upload).await {
            Ok(plan) => plan,
            Err(error) => return Err((Failure::Rejected(error), upload)),
        };
        // On a connection that was used before, a request can be lost whose engine closes it, and
        // it cannot be told whether the engine has read it. So what must not be sent twice gets a
        // new one.
        let fresh =
            fresh || errand.is_some_and(|errand| !errand.resend && !self.parts.method.is_safe());
        let connection = match self.connect(&instance, fresh, &upload).await {
            Ok(connection) => connection,
            Err(error) => return Err((Failure::Connect(error), upload)),
        };
        self.moments.connected = Some(Instant::now());
        let head = self.compose_head(&instance, errand, target.as_deref(), plan.as_ref());
        let changes = changes(errand, target.as_deref(), plan.as_ref());
        let length = upload.start_attempt(changes);
        let method = &self.parts.method;
        let request = RequestHead {
            head,
            length,
            bodiless: *method != Method::POST && *method != Method::PUT && *method != Method::PATCH,
            to_head_request: *method == Method::HEAD,
            upgrade: errand.is_some_and(|errand| errand.for_engine.upgrade),
        };
        let slot = Slot::new(lease, &self.worker.lingering);
        let mut exchange =
            Exchange::new(connection, slot, upload, request, self.worker.shared.phases);
        let body_whole = &*self.body_whole;
        let head = poll_fn(|context| {
            let head = exchange.poll_head(context);
            body_whole.set(exchange.upload().is_whole());
            head
        })
        .await;
        self.ticket.bytes_in(exchange.upload().received());
        let head = match head {
            Ok(head) => head,
            Err(failure) => return Err((failure, exchange.into_upload())),
        };
        let status = head.status.as_u16();
        let falls_back = errand
            .is_some_and(|errand| errand.pinned.is_none() && errand.route.has_fallback(status));
        if !last && falls_back && exchange.upload().is_replayable() {
            return Err((Failure::FallbackStatus(status), exchange.into_upload_after_answer()));
        }
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            return upgraded(head, exchange);
        }
        self.commit(head, exchange, errand, plan).await
    }

    /// Waits for the first byte for the client.
    async fn commit<B>(
        &mut self,
        head: ResponseHead,
        exchange: Box<Exchange<B>>,
        errand: Option<&Errand>,
        plan: Option<Plan>,
    ) -> Result<Outcome<B>, Failed<B>>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: std::error::Error + 'static,
    {
        let body_whole = exchange.upload().is_whole();
        let shape = self.shape(&head, errand, plan, exchange.upload());
        let mut relay =
            Relay::new(exchange, shape, Rc::clone(&self.worker.pool), self.ticket.began());
        if let Some(errand) = errand {
            let stored =
                errand.inference.is_some_and(|inference| inference.edit == Edit::StoredResponse);
            if stored && head.status.is_success() {
                relay.look_for_response_id();
            }
            let interval = self.worker.shared.telling.sse_keep_alive;
            relay.set_keep_alive((interval > 0).then(|| Duration::from_millis(interval)));
        }
        let first = poll_fn(|context| relay.poll_piece(context)).await.transpose();
        self.moments.first_frame = Some(Instant::now());
        match first {
            Ok(first) => {
                Ok(Outcome::Answer(Box::new(Committed { head, relay, first, body_whole })))
            }
            Err(failure) => Err((failure, relay.into_upload())),
        }
    }

    async fn plan<B>(
        &self,
        errand: Option<&Errand>,
        target: Option<&Arc<Target>>,
        upload: &Upload<B>,
    ) -> Result<Option<Plan>, ApiError>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: std::error::Error + 'static,
    {
        let Some((errand, target)) = errand.zip(target) else { return Ok(None) };
        let Some(inference) = errand.inference else {
            let administrative = self.row.endpoint == endpoints::Endpoint::GenericProxy
                && !target.model.proxy_paths.allow(&errand.path);
            if administrative {
                let message = format!(
                    "The generic proxy does not lead to {} of the engine: it is no inference path.",
                    errand.path
                );
                return Err(ApiError::new(Cause::NotFound, message));
            }
            return Ok(None);
        };
        let translated = if plan::needs_whole(inference, target) {
            let (body, target) = (upload.gather(), Arc::clone(target));
            Some(if body.len() > TRANSLATED_HERE {
                let translated =
                    tokio::task::spawn_blocking(move || plan::translate(inference, &target, &body));
                translated.await.map_err(|_| rejections::translation_failed())??
            } else {
                plan::translate(inference, &target, &body)?
            })
        } else {
            None
        };
        Ok(Some(Plan::new(inference, &errand.route, target, translated)))
    }

    /// A pooled connection, or a new one.
    async fn connect<B>(
        &self,
        instance: &Instance,
        fresh: bool,
        upload: &Upload<B>,
    ) -> std::io::Result<Connection>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: std::error::Error + 'static,
    {
        // A connection that the engine may be closing is nothing for a body that cannot be sent
        // again.
        let may_be_stale = !fresh && upload.will_be_replayable();
        match may_be_stale.then(|| self.worker.pool.take(instance)).flatten() {
            Some(connection) => Ok(connection),
            None => Connection::open(instance, self.worker.shared.phases.connect).await,
        }
    }

    fn shape<B>(
        &self,
        head: &ResponseHead,
        errand: Option<&Errand>,
        plan: Option<Plan>,
        upload: &Upload<B>,
    ) -> Shape
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: std::error::Error + 'static,
    {
        let Some((errand, plan)) = errand.zip(plan) else { return Shape::Plain };
        if plan::is_encoded(head) {
            self.worker.shared.metrics.encoded_answers.fetch_add(1, Ordering::Relaxed);
            return Shape::Plain;
        }
        plan.shape(
            head,
            &Asker {
                route: &errand.route,
                dialect: self.row.dialect,
                request_id: self.ticket.request_id(),
                asked_usage: upload.asks_usage(),
                usage_timings: self.worker.shared.telling.usage_timings,
            },
        )
    }

    /// The request's head toward an instance.
    fn compose_head(
        &self,
        instance: &Instance,
        errand: Option<&Errand>,
        target: Option<&Target>,
        plan: Option<&Plan>,
    ) -> BytesMut {
        let mut head = BytesMut::with_capacity(512);
        put(&mut head, &[self.parts.method.as_str(), " "]);
        match errand {
            Some(errand) => {
                put(&mut head, &[plan.and_then(|plan| plan.path).unwrap_or(&errand.path)]);
                self.put_query(&mut head, errand, target);
            }
            None => put(
                &mut head,
                &[self.parts.uri.path_and_query().map_or("/", |target| target.as_str())],
            ),
        }
        put(&mut head, &[" HTTP/1.1\r\n"]);
        if let Some(errand) = errand {
            put(&mut head, &["host: ", &instance.host, "\r\n"]);
            let translated = plan.is_some_and(|plan| plan.substitute.is_some());
            let with = ForEngine { translated, ..errand.for_engine };
            headers::put_for_engine(&mut head, &self.parts.headers, with);
        } else {
            let scheme = self.worker.shared.scheme(&self.peer);
            headers::put_for_control_plane(&mut head, &self.parts.headers, &self.peer, scheme);
        }
        if let Some(authorization) = &instance.authorization {
            put(&mut head, &["authorization: ", authorization, "\r\n"]);
        }
        // Each attempt has an id of its own, since an engine takes it for the id of its work.
        let number = self.worker.next_attempt();
        let number = itoa::Buffer::new().format(number).to_owned();
        put(&mut head, &["x-request-id: ", self.ticket.request_id(), "-", &number, "\r\n"]);
        head
    }

    fn put_query(&self, head: &mut BytesMut, errand: &Errand, target: Option<&Target>) {
        let Some(query) = self.parts.uri.query() else { return };
        let other =
            target.filter(|target| errand.names_model_in_query && errand.route.renames(target));
        match other {
            Some(target) => {
                put(head, &["?", &percent::with_model_in_query(query, &target.served_name)]);
            }
            None => put(head, &["?", query]),
        }
    }
}

/// What an attempt changes in the body.
fn changes<'a>(
    errand: Option<&Errand>,
    target: Option<&'a Target>,
    plan: Option<&Plan>,
) -> Changes<'a> {
    let Some(errand) = errand else { return Changes::default() };
    Changes {
        rename: target.filter(|target| errand.route.renames(target)),
        ask_usage: plan.is_some_and(|plan| plan.ask_usage),
        substitute: plan.and_then(|plan| plan.substitute.clone()),
    }
}

fn upgraded<B>(head: ResponseHead, exchange: Box<Exchange<B>>) -> Result<Outcome<B>, Failed<B>>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::error::Error + 'static,
{
    match exchange.into_upgraded() {
        Ok((connection, slot)) => {
            Ok(Outcome::Upgraded(Box::new(Upgraded { head, connection, slot })))
        }
        Err(upload) => Err((
            Failure::ConnectionLost(closed("it closed the connection behind its 101")),
            upload,
        )),
    }
}

impl History {
    /// The failure that ends it all.
    fn last(&self, failure: Failure) -> Failure {
        match failure {
            Failure::Connect(_)
            | Failure::StaleConnection
            | Failure::ConnectionLost(_)
            | Failure::FallbackStatus(_)
                if self.deaths > 1 =>
            {
                Failure::LostTwice
            }
            failure => failure,
        }
    }

    /// Whether another instance may be tried after this fault, which is remembered.
    fn allows_another(
        &mut self,
        failure: &Failure,
        instance: &Instance,
        errand: &Errand,
        replayable: bool,
    ) -> bool {
        let again = match failure {
            Failure::Connect(error) => {
                self.refused.push(Arc::clone(&instance.id));
                self.connect_timed_out = error.kind() == std::io::ErrorKind::TimedOut;
                true
            }
            Failure::StaleConnection => {
                // Most likely it was never read. But an engine that dies of it looks the same, and
                // two are enough.
                self.deaths += 1;
                return replayable;
            }
            Failure::ConnectionLost(_) => {
                self.deaths += 1;
                errand.resend && errand.pinned.is_none() && self.deaths < 2 && replayable
            }
            _ => false,
        };
        self.tried.push(Arc::clone(&instance.id));
        again
    }
}

fn put(head: &mut BytesMut, texts: &[&str]) {
    for text in texts {
        head.put_slice(text.as_bytes());
    }
}
