//! The counters and the record of one request, exactly once, however it ends.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tracing::{Span, debug};

use crate::{request::timeline::Timeline, shared::Shared, telemetry};
use sans_io::{
    api::usage::Usage,
    seam::{End, Record},
    table::RouteMetrics,
};

/// One request from its head to its end. Dropping it counts and records the end; unless `end` said
/// otherwise before, the client left (or, at the end of a drain, was cut).
pub(crate) struct Accounting {
    shared: Arc<Shared>,
    /// The request's id, for log lines.
    span: Span,
    /// When the request reached each phase.
    pub(crate) timeline: Timeline,
    /// From the request's begin to the first frame of its response.
    first_frame: Option<Duration>,
    route: Option<Arc<RouteMetrics>>,
    record: Record,
}

impl Accounting {
    /// A request begins. `path`: that of its endpoint, or a word for what has none. In a box: it is
    /// handed from stage to stage, and would be copied at each.
    pub(crate) fn new(shared: &Arc<Shared>, request_id: Arc<str>, path: &'static str) -> Box<Self> {
        shared.metrics.in_flight.fetch_add(1, Ordering::Relaxed);
        let started =
            SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64());
        Box::new(Self {
            shared: Arc::clone(shared),
            span: telemetry::request_span(&request_id),
            timeline: Timeline::begin(),
            first_frame: None,
            route: None,
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
                input_tokens: 0,
                cached_tokens: 0,
                output_tokens: 0,
                stream: false,
                end: End::ClientGone,
            },
        })
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    pub(crate) fn span(&self) -> &Span {
        &self.span
    }

    pub(crate) fn request_id(&self) -> &Arc<str> {
        &self.record.request_id
    }

    pub(crate) fn set_key(&mut self, id: &Arc<str>) {
        self.record.key = Some(Arc::clone(id));
    }

    pub(crate) fn set_route(&mut self, name: &Arc<str>, metrics: &Arc<RouteMetrics>) {
        self.record.route = Some(Arc::clone(name));
        self.route = Some(Arc::clone(metrics));
    }

    /// An attempt at this instance begins.
    pub(crate) fn attempt(&mut self, instance: &Arc<str>) {
        self.timeline.attempted();
        self.record.attempts = self.record.attempts.saturating_add(1);
        self.record.instance = Some(Arc::clone(instance));
        debug!(instance = &**instance, attempt = self.record.attempts, "attempt begins");
    }

    /// Bytes of the request's body that have come so far, decoded.
    pub(crate) fn set_bytes_in(&mut self, bytes: u64) {
        self.record.bytes_in = bytes;
    }

    /// A response begins, an engine's or our own good one.
    pub(crate) fn respond(&mut self, status: u16, stream: bool) {
        self.record.status = status;
        self.record.stream = stream;
        let committed = self.timeline.committed();
        self.first_frame = Some(committed - self.timeline.began());
    }

    /// The engine has made a response that requests of the same key may name from now on.
    pub(crate) fn made_response(&self, id: String) {
        if let (Some(route), Some(instance)) = (&self.record.route, &self.record.instance) {
            self.shared.responses.remember(self.record.key.as_deref(), id, route, instance);
        }
    }

    /// Bytes of the response's body that went to the client, beside those before.
    pub(crate) fn add_bytes_out(&mut self, bytes: usize) {
        self.record.bytes_out += bytes as u64;
    }

    /// The tokens that the engine counted.
    pub(crate) fn set_tokens(&mut self, usage: Usage) {
        self.record.input_tokens = usage.input;
        self.record.cached_tokens = usage.cached;
        self.record.output_tokens = usage.output;
    }

    /// A response of our own that is no success: the request is over with it.
    pub(crate) fn reject(mut self: Box<Self>, status: u16, end: End) {
        self.record.status = status;
        self.record.end = end;
    }

    /// How the request ends, when this is dropped.
    pub(crate) fn end(&mut self, end: End) {
        self.record.end = end;
    }
}

impl Drop for Accounting {
    fn drop(&mut self) {
        let metrics = &self.shared.metrics;
        metrics.in_flight.fetch_sub(1, Ordering::Relaxed);
        let mut end = self.record.end;
        if end == End::ClientGone && self.shared.is_cutting() {
            end = End::Drained;
        }
        let duration = self.timeline.began().elapsed();
        self.span.in_scope(|| {
            let (path, status) = (self.record.path, self.record.status);
            debug!(path, status, ?end, ?duration, "request ended");
        });
        let route = self.route.as_deref().unwrap_or(&metrics.unrouted);
        route.count(self.record.status, duration, self.first_frame);
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
