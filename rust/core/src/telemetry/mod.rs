//! The log: events of `tracing`, as lines on standard error.
//!
//! A line goes through a bounded queue to one thread that writes, so that a reader that stops
//! blocks nobody. A line that finds no room is lost and counted. There is one log for the process,
//! whatever the number of data planes in it. Only this crate's events are written: those of the
//! libraries below show frames and fields.
//!
//! Levels, and the events that belong to each:
//!
//! * `error`: somebody must act. A certificate that cannot be used, a worker that panicked.
//! * `warn`: a request or a client suffered, or may have. An instance that failed and is ejected,
//!   requests that a drain has cut, records that were lost, a listener that cannot accept.
//! * `info`: a state has changed. Listening, table published, keys changed, drain begun and ended,
//!   certificate renewed.
//!   What a stranger can cause with each request is written once in a while, by [`seldom`], and at
//!   `debug` in between.
//! * `debug`: the course of one request. Each attempt (instance, attempt number), each decision of
//!   the pool (reused, opened, kept, or discarded and why), the commit (status), retry and fallback
//!   with their reason, the end.
//! * `trace`: below that, such as single pieces of a body by their length.
//!
//! Never in a line, at no level: a key or its digest, a body or a piece of one, a prompt, a
//! header's value, a query. Fields name ids, addresses, counts, statuses and reasons; no structure
//! that holds more than that is written with `?`.
//!
//! A request has a [`request_span`] that carries its id into every line of its. It is there at
//! `debug` only, so where a line of another level belongs to one request, the line names
//! `request_id` itself:
//!
//! ```ignore
//! let span = telemetry::request_span(&request_id);
//! // A future as a whole (`tracing::Instrument`) ...
//! middleware::respond(request).instrument(span.clone()).await;
//! // ... or one poll, in what the server polls after the handler has returned (the response's body).
//! let _entered = self.span.enter();
//! tracing::debug!(instance = %instance.id, attempt, "attempt begins");
//! tracing::warn!(request_id = %id, instance = %instance.id, %reason, "response broken off");
//! ```
//!
//! A disabled event costs the load of one atomic and a branch; a span that was not made costs two
//! branches each time that it is entered.

mod layer;
mod line;
pub(crate) mod seldom;
mod writer;

use std::{
    io::{self, Write},
    os::fd::AsFd,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, SystemTime},
};

use rustix::event::{PollFd, PollFlags};
use tracing::{Level, Span, Subscriber, level_filters::LevelFilter};
use tracing_subscriber::{Registry, layer::SubscriberExt, reload};

use self::{
    layer::Lines,
    line::{Line, Value},
    seldom::Seldom,
    writer::Queue,
};
pub use sans_io::seam::{LogFormat, LogLevel};

/// Bytes of lines that may wait for the writer. As many again may be in a write.
const QUEUE: usize = 512 * 1024;
/// The name of a worker's thread, without its number.
pub(crate) const WORKER_THREAD: &str = "gpustack-fast-";

/// Sets the level of a subscriber.
type LevelHandle = reload::Handle<LevelFilter, Registry>;

/// The process's log.
struct Log {
    queue: Arc<Queue>,
    level: LevelHandle,
    json: Arc<AtomicBool>,
}

/// None: nothing was logged yet.
static LOG: OnceLock<Log> = OnceLock::new();
/// Panics of workers so far.
static PANICS: AtomicU64 = AtomicU64::new(0);
/// The turns of the lines about panics, by their places in the source.
static PANICS_TOLD: [Seldom; 16] = [const { Seldom::new() }; 16];

/// Sets the level and the format of the log; for several data planes the last call counts.
pub(crate) fn set(level: LogLevel, format: LogFormat) {
    let log = process_log();
    log.json.store(format == LogFormat::Json, Ordering::Relaxed);
    // It fails only without a subscriber, which lives as long as the process.
    let _ = log.level.reload(filter(level));
}

/// The span of one request, which gives its lines the id; none unless `debug` is enabled.
pub(crate) fn request_span(request_id: &str) -> Span {
    tracing::debug_span!("request", request_id)
}

/// Lines that were lost so far.
pub(crate) fn lost() -> u64 {
    LOG.get().map_or(0, |log| log.queue.lost())
}

/// Panics of workers so far.
pub(crate) fn panics() -> u64 {
    PANICS.load(Ordering::Relaxed)
}

/// One line of the control plane's.
#[derive(Clone, Copy, Debug)]
pub struct ControlPlaneLine<'a> {
    /// The line's level.
    pub level: LogLevel,
    /// The log's format.
    pub format: LogFormat,
    /// The module that speaks.
    pub subject: &'a str,
    /// The sentence.
    pub message: &'a str,
    /// The id of the request that it belongs to.
    pub request_id: Option<&'a str>,
    /// The traceback of an exception.
    pub exception: Option<&'a str>,
}

/// Writes a line of the control plane's, which has filtered it by level already.
pub fn log(written: &ControlPlaneLine<'_>) {
    let level = match written.level {
        LogLevel::Off => return,
        LogLevel::Error => Level::ERROR,
        LogLevel::Warn => Level::WARN,
        LogLevel::Info => Level::INFO,
        LogLevel::Debug => Level::DEBUG,
        LogLevel::Trace => Level::TRACE,
    };
    let mut line = Line::new(SystemTime::now(), level, written.subject.to_owned());
    line.set_message(written.message);
    if let Some(exception) = written.exception {
        line.add("exception", Value::text(exception));
    }
    if let Some(id) = written.request_id {
        line.set_request_id(id);
    }
    process_log().queue.push(line.render(written.format == LogFormat::Json).as_bytes());
}

/// Writes a text as it is, for the person at the terminal, behind the lines so far.
pub fn show(text: &str) {
    process_log().queue.push(format!("{text}\n").as_bytes());
}

/// Waits until all lines are written, at most for `limit`; false if some are not.
pub fn flush_log(limit: Duration) -> bool {
    LOG.get().is_none_or(|log| log.queue.flush(limit))
}

/// The process's log; the first call starts it.
fn process_log() -> &'static Log {
    LOG.get_or_init(|| {
        let queue = Arc::new(Queue::new(QUEUE));
        let json = Arc::new(AtomicBool::new(false));
        let (waiting, as_json) = (Arc::clone(&queue), Arc::clone(&json));
        let write = move || {
            waiting
                .write_to(StandardError, |lost| loss_line(lost, as_json.load(Ordering::Relaxed)));
        };
        // Where no thread can be started no worker can be either, and that is reported.
        let _ = thread::Builder::new().name("gpustack-fast-log".to_owned()).spawn(write);
        let (subscriber, level) =
            subscriber(Lines { queue: Arc::clone(&queue), json: Arc::clone(&json) });
        // A program around this crate that has a subscriber of its own keeps it.
        let _ = tracing::subscriber::set_global_default(subscriber);
        report_panics();
        Log { queue, level, json }
    })
}

/// A subscriber that makes lines of events, and the handle on its level, which is `off` at first.
fn subscriber(lines: Lines) -> (impl Subscriber + Send + Sync, LevelHandle) {
    let (filter, level) = reload::Layer::new(LevelFilter::OFF);
    (Registry::default().with(filter).with(lines), level)
}

fn filter(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Off => LevelFilter::OFF,
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}

fn loss_line(lost: u64, json: bool) -> String {
    let mut line = Line::new(SystemTime::now(), Level::WARN, "telemetry".to_owned());
    line.set_message(
        "log lines lost: they could not be written, or came faster than they were read",
    );
    line.add("lines", Value::Unsigned(lost));
    line.render(json)
}

/// Logs panics of workers. The standard library's own message would wait for the reader, and may
/// hold a piece of a body: that of a string cut within a character does.
fn report_panics() {
    let previous = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let is_worker =
            thread::current().name().is_some_and(|name| name.starts_with(WORKER_THREAD));
        PANICS.fetch_add(u64::from(is_worker), Ordering::Relaxed);
        if !is_worker || !tracing::enabled!(Level::ERROR) {
            return previous(panic);
        }
        let place = panic.location().map_or(0, |location| location.line() as usize);
        let Some(since_last_line) = PANICS_TOLD[place % PANICS_TOLD.len()].turn() else { return };
        let location = panic.location().map(ToString::to_string).unwrap_or_default();
        // A message that was formatted may hold anything; a literal is ours.
        let reason = panic.payload().downcast_ref::<&'static str>().copied();
        tracing::error!(
            location,
            reason,
            since_last_line,
            "a worker panicked; this is a mistake in the program"
        );
    }));
}

/// Standard error without the standard library's lock, which would be held for as long as a reader
/// takes.
struct StandardError;

impl Write for StandardError {
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        let stderr = io::stderr();
        loop {
            match rustix::io::write(stderr.as_fd(), lines) {
                // Others that have the same descriptor may have set it so.
                Err(rustix::io::Errno::AGAIN) => {
                    rustix::event::poll(&mut [PollFd::new(&stderr, PollFlags::OUT)], None)?;
                }
                written => return Ok(written?),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
