//! The layer that makes lines of `tracing` events.

use std::{
    error::Error,
    fmt::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::SystemTime,
};

use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id},
    subscriber::Interest,
};
use tracing_subscriber::{
    layer::{Context, Layer},
    registry::LookupSpan,
};

use super::{
    line::{Line, Value},
    writer::Queue,
};

/// This crate, in the targets of its events.
const CRATE: &str = env!("CARGO_CRATE_NAME");
/// The field of spans and events that names a request.
const REQUEST_ID: &str = "request_id";

/// Turns events into lines.
pub(super) struct Lines {
    pub(super) queue: Arc<Queue>,
    pub(super) json: Arc<AtomicBool>,
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Lines {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if is_ours(metadata) { Interest::always() } else { Interest::never() }
    }

    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        is_ours(metadata)
    }

    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut found = FindRequestId(None);
        attributes.record(&mut found);
        if let (Some(request_id), Some(span)) = (found.0, context.span(id)) {
            span.extensions_mut().insert(RequestId(request_id));
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let metadata = event.metadata();
        let subject = subject(metadata.target());
        let mut line = Line::new(SystemTime::now(), *metadata.level(), subject);
        event.record(&mut Fields(&mut line));
        if !line.names_request() {
            for span in context.event_scope(event).into_iter().flatten() {
                if let Some(RequestId(id)) = span.extensions().get() {
                    line.set_request_id(id);
                }
            }
        }
        self.queue.push(line.render(self.json.load(Ordering::Relaxed)).as_bytes());
    }
}

/// Whether the event is this crate's.
fn is_ours(metadata: &Metadata<'_>) -> bool {
    let path = metadata.target().strip_prefix(CRATE);
    path.is_some_and(|path| path.is_empty() || path.starts_with("::"))
}

/// The module within the crate, as Python writes modules.
fn subject(target: &str) -> String {
    let path = target.strip_prefix(CRATE).and_then(|path| path.strip_prefix("::"));
    path.unwrap_or(target).replace("::", ".")
}

/// The id of a span's request.
struct RequestId(String);

/// Finds the id among the fields of a new span.
struct FindRequestId(Option<String>);

impl Visit for FindRequestId {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == REQUEST_ID {
            self.0 = Some(value.to_owned());
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == REQUEST_ID {
            self.0 = Some(format!("{value:?}"));
        }
    }
}

/// Writes an event's fields into a line.
struct Fields<'a>(&'a mut Line);

impl Visit for Fields<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.0.set_message(value),
            REQUEST_ID => self.0.set_request_id(value),
            name => self.0.add(name, Value::text(value)),
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }

    /// An error with its sources.
    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        let mut text = value.to_string();
        let mut cause = value.source();
        while let Some(error) = cause {
            let _ = write!(text, ": {error}");
            cause = error.source();
        }
        self.record_str(field, &text);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.add(field.name(), Value::Signed(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.add(field.name(), Value::Unsigned(value));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.0.add(field.name(), Value::Float(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.0.add(field.name(), Value::Bool(value));
    }
}
