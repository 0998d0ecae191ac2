//! What one request leaves behind: its counters and its record, exactly once, however it ends.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{SystemTime, UNIX_EPOCH},
};

use tokio::time::Instant;

use crate::shared::Shared;
use sans_io::{
    api::usage::Usage,
    seam::documents::{End, Record},
    table::metrics::RouteMetrics,
};

/// One request between its head and its end. Dropping it tells the end; unless it was told before,
/// the client left (or, at the end of a drain, was cut).
pub(crate) struct Ticket {
    shared: Arc<Shared>,
    started: Instant,
    first: Option<Instant>,
    route: Option<Arc<RouteMetrics>>,
    record: Record,
}

impl Ticket {
    pub(crate) fn new(shared: &Arc<Shared>, request_id: Arc<str>, path: &'static str) -> Self {
        shared.metrics.in_flight.fetch_add(1, Ordering::Relaxed);
        let started =
            SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64());
        Self {
            shared: Arc::clone(shared),
            started: Instant::now(),
            first: None,
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
                first_frame: 0.0,
                duration: 0.0,
                bytes_in: 0,
                bytes_out: 0,
                input_tokens: 0,
                cached_tokens: 0,
                output_tokens: 0,
                stream: false,
                end: End::ClientGone,
            },
        }
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    pub(crate) fn request_id(&self) -> &Arc<str> {
        &self.record.request_id
    }

    pub(crate) fn key(&mut self, id: &Arc<str>) {
        self.record.key = Some(Arc::clone(id));
    }

    pub(crate) fn route(&mut self, name: &Arc<str>, metrics: &Arc<RouteMetrics>) {
        self.record.route = Some(Arc::clone(name));
        self.route = Some(Arc::clone(metrics));
    }

    pub(crate) fn attempt(&mut self, instance: &Arc<str>) {
        self.record.attempts = self.record.attempts.saturating_add(1);
        self.record.instance = Some(Arc::clone(instance));
    }

    /// When the request began.
    pub(crate) fn began(&self) -> Instant {
        self.started
    }

    /// The engine has made a response that requests of the same key may name from now on.
    pub(crate) fn made_response(&self, id: String) {
        if let (Some(route), Some(instance)) = (&self.record.route, &self.record.instance) {
            self.shared.responses.remember(self.record.key.as_deref(), id, route, instance);
        }
    }

    /// What the engine counted.
    pub(crate) fn tokens(&mut self, usage: Usage) {
        self.record.input_tokens = usage.input;
        self.record.cached_tokens = usage.cached;
        self.record.output_tokens = usage.output;
    }

    pub(crate) fn bytes_in(&mut self, bytes: u64) {
        self.record.bytes_in = bytes;
    }

    /// An engine's answer begins.
    pub(crate) fn answered(&mut self, status: u16, stream: bool) {
        self.record.status = status;
        self.record.stream = stream;
        self.first = Some(Instant::now());
    }

    /// An answer of ours: told and over.
    pub(crate) fn refused(mut self, status: u16, end: End) {
        self.record.status = status;
        self.record.end = end;
    }

    pub(crate) fn bytes_out(&mut self, bytes: usize) {
        self.record.bytes_out += bytes as u64;
    }

    /// How it ends, when it is dropped.
    pub(crate) fn end(&mut self, end: End) {
        self.record.end = end;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let metrics = &self.shared.metrics;
        metrics.in_flight.fetch_sub(1, Ordering::Relaxed);
        let mut end = self.record.end;
        if end == End::ClientGone && self.shared.is_cutting() {
            end = End::Drained;
        }
        let duration = self.started.elapsed();
        let first_frame = self.first.map(|first| first - self.started);
        self.route.as_deref().unwrap_or(&metrics.unrouted).count(
            self.record.status,
            duration,
            first_frame,
        );
        let record = Record {
            request_id: Arc::clone(&self.record.request_id),
            key: self.record.key.take(),
            route: self.record.route.take(),
            instance: self.record.instance.take(),
            duration: duration.as_secs_f64() * 1e3,
            first_frame: first_frame.map_or(0.0, |time| time.as_secs_f64() * 1e3),
            end,
            ..self.record
        };
        if !self.shared.records.push(record) {
            metrics.records_dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}
