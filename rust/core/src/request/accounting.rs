//! The counters and the record of one request, written exactly once, however it ends.

use std::{
    rc::Rc,
    sync::{Arc, atomic::Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tracing::{Span, debug};

use crate::{
    published::Published,
    request::{early_head::EarlyHead, timeline::Timeline},
    shared::Shared,
    telemetry,
};
use sans_io::{
    api::usage::Usage,
    seam::{End, Record, ResponseExtras},
    table::{Route, RouteMetrics},
};

/// One request from its head to its end. Dropping it counts and records the request. Unless `end`
/// or `reject` was called before, it ends as `ClientGone` (`Drained` where the drain's deadline
/// passed).
pub(crate) struct Accounting {
    shared: Arc<Shared>,
    /// The additions to the response, as they were published when the request began.
    extras: ResponseExtras,
    /// Carries the request's id into log lines.
    span: Span,
    /// The request's phases.
    pub(crate) timeline: Timeline,
    /// It has no key, and counts as one of those that run.
    is_keyless: bool,
    /// From the head to the commit point; None: no response has begun.
    first_frame: Option<Duration>,
    /// What is known of a head that goes before the engine's; None: none may go.
    early_head: Option<Rc<EarlyHead>>,
    /// None: the request has reached no route.
    route: Option<Arc<RouteMetrics>>,
    /// The model that the client has asked for, once it has reached a route.
    asked: Option<Arc<str>>,
    /// The record so far; its status is 499 until a response begins.
    record: Record,
}

impl Accounting {
    /// The accounting of a request that begins now. `path`: its endpoint's, or a word for none. In
    /// a box: it is passed from stage to stage, and would be copied each time.
    pub(crate) fn new(
        shared: &Arc<Shared>,
        published: &Published,
        request_id: Arc<str>,
        path: &'static str,
    ) -> Box<Self> {
        shared.metrics.in_flight.fetch_add(1, Ordering::Relaxed);
        let started =
            SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64());
        Box::new(Self {
            shared: Arc::clone(shared),
            extras: published.settings.response_extras,
            span: telemetry::request_span(&request_id),
            timeline: Timeline::begin(),
            is_keyless: false,
            first_frame: None,
            early_head: None,
            route: None,
            asked: None,
            record: Record {
                started,
                request_id,
                key: None,
                route: None,
                instance: None,
                path,
                status: 499,
                attempts: 0,
                first_frame_ms: 0.0,
                duration_ms: 0.0,
                bytes_in: 0,
                bytes_out: 0,
                input_tokens: None,
                cached_tokens: None,
                output_tokens: None,
                stream: false,
                end: End::ClientGone,
            },
        })
    }

    /// Sets what is known of a head that may go before the engine's.
    pub(crate) fn set_early_head(&mut self, head: &Rc<EarlyHead>) {
        self.early_head = Some(Rc::clone(head));
    }

    /// What is known of a head that may go before the engine's; None: none may go.
    pub(crate) fn early_head(&self) -> Option<&EarlyHead> {
        self.early_head.as_deref()
    }

    /// The state of all workers.
    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// The additions to the response.
    pub(crate) fn extras(&self) -> ResponseExtras {
        self.extras
    }

    /// The span that carries the request's id into log lines.
    pub(crate) fn span(&self) -> &Span {
        &self.span
    }

    /// The request's id, the client's or ours.
    pub(crate) fn request_id(&self) -> &Arc<str> {
        &self.record.request_id
    }

    /// Sets the id of the caller's key.
    pub(crate) fn set_key(&mut self, id: &Arc<str>) {
        self.record.key = Some(Arc::clone(id));
    }

    /// Counts the request as one without a key until it ends. Gives their number, this one included.
    pub(crate) fn enter_keyless(&mut self) -> usize {
        self.is_keyless = true;
        self.shared.keyless.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Sets the route, by which the request is counted from now on.
    pub(crate) fn set_route(&mut self, route: &Route) {
        self.record.route = Some(Arc::clone(&route.listed));
        self.asked = Some(Arc::clone(&route.name));
        self.route = Some(Arc::clone(&route.metrics));
    }

    /// Counts an attempt at the instance of this id, which becomes the record's.
    pub(crate) fn attempt(&mut self, instance: &Arc<str>) {
        self.timeline.attempted();
        self.record.attempts = self.record.attempts.saturating_add(1);
        self.record.instance = Some(Arc::clone(instance));
        debug!(instance = &**instance, attempt = self.record.attempts, "attempt begins");
    }

    /// Sets the bytes of the request's body that were received so far, decoded.
    pub(crate) fn set_bytes_in(&mut self, bytes: u64) {
        self.record.bytes_in = bytes;
    }

    /// Notes that a response begins, an engine's or a successful local one.
    pub(crate) fn respond(&mut self, status: u16, stream: bool) {
        self.record.status = status;
        self.record.stream = stream;
        let committed = self.timeline.committed();
        self.first_frame = Some(committed - self.timeline.began());
    }

    /// Remembers a stored response with its key, route and instance, for requests that name it.
    pub(crate) fn remember_response(&self, id: String) {
        if let (Some(route), Some(instance)) = (&self.asked, &self.record.instance) {
            self.shared.responses.remember(self.record.key.as_deref(), id, route, instance);
        }
    }

    /// Adds bytes of the response's body that are sent to the client.
    pub(crate) fn add_bytes_out(&mut self, bytes: usize) {
        self.record.bytes_out += bytes as u64;
    }

    /// Sets the tokens that the engine counted.
    pub(crate) fn set_tokens(&mut self, usage: Usage) {
        self.record.input_tokens = usage.input;
        self.record.cached_tokens = usage.cached;
        self.record.output_tokens = usage.output;
    }

    /// Ends the request with a local response that is no success.
    pub(crate) fn reject(mut self: Box<Self>, status: u16, end: End) {
        self.record.status = status;
        self.record.end = end;
    }

    /// Sets the end that is recorded when this is dropped.
    pub(crate) fn end(&mut self, end: End) {
        self.record.end = end;
    }
}

impl Drop for Accounting {
    fn drop(&mut self) {
        let metrics = &self.shared.metrics;
        metrics.in_flight.fetch_sub(1, Ordering::Relaxed);
        if self.is_keyless {
            self.shared.keyless.fetch_sub(1, Ordering::Relaxed);
        }
        let mut end = self.record.end;
        if end == End::ClientGone && self.shared.is_cutting() {
            end = End::Drained;
        }
        let duration = self.timeline.began().elapsed();
        // That is what the client has seen, whatever came behind it.
        if let Some(head) = self.early_head.take()
            && let Some(time) = head.gone()
        {
            self.record.status = 200;
            self.record.stream = true;
            self.record.bytes_out += head.bytes_out();
            self.first_frame = Some(time);
        }
        self.span.in_scope(|| {
            let (path, status) = (self.record.path, self.record.status);
            let duration_ms = duration.as_secs_f64() * 1e3;
            // The field's expression is evaluated only where the line is written.
            let word = || serde_json::to_string(&end).unwrap_or_default();
            debug!(path, status, end = word().trim_matches('"'), duration_ms, "request ended");
        });
        let route = self.route.as_deref().unwrap_or(&metrics.unrouted);
        route.count(self.record.status, duration, self.first_frame);
        let [input, cached, output] =
            [self.record.input_tokens, self.record.cached_tokens, self.record.output_tokens]
                .map(Option::unwrap_or_default);
        route.tokens.add(input, cached, output);
        let record = Record {
            request_id: Arc::clone(&self.record.request_id),
            key: self.record.key.take(),
            route: self.record.route.take(),
            instance: self.record.instance.take(),
            duration_ms: duration.as_secs_f64() * 1e3,
            first_frame_ms: self.first_frame.map_or(0.0, |time| time.as_secs_f64() * 1e3),
            end,
            ..self.record
        };
        if !self.shared.records.push(record) {
            metrics.records_dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}
