//! The limits of a request's phases and of its body.

use std::{path::Path, rc::Rc, time::Duration};

use sans_io::seam::documents::{Limits, Timeouts};

/// How long each phase may stand still; None: for ever.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PhaseLimits {
    /// A client's request head.
    pub(crate) head: Option<Duration>,
    /// A client's request body, between two pieces.
    pub(crate) body: Option<Duration>,
    /// Connecting to an instance.
    pub(crate) connect: Option<Duration>,
    /// From a request's delivery to the first frame of its answer.
    pub(crate) first_frame: Option<Duration>,
    /// Between two pieces of an answer.
    pub(crate) idle: Option<Duration>,
}

impl From<&Timeouts> for PhaseLimits {
    fn from(timeouts: &Timeouts) -> Self {
        let limit =
            |milliseconds: u64| (milliseconds > 0).then(|| Duration::from_millis(milliseconds));
        Self {
            head: limit(timeouts.head),
            body: limit(timeouts.body),
            connect: limit(timeouts.connect),
            first_frame: limit(timeouts.first_frame),
            idle: limit(timeouts.idle),
        }
    }
}

/// What a request's body may hold.
#[derive(Clone, Debug)]
pub(crate) struct BodyLimits {
    /// Its bytes.
    pub(crate) body: u64,
    /// Its bytes, for it to be kept for a second instance.
    pub(crate) replay: u64,
    /// Its bytes in memory before it can go on to an engine.
    pub(crate) memory: u64,
    /// Decoded bytes for each byte of a compressed one.
    pub(crate) ratio: u32,
    /// The nesting of its JSON.
    pub(crate) nesting: u16,
    /// Where what is too much for memory waits.
    pub(crate) spool_folder: Rc<Path>,
}

impl BodyLimits {
    /// One worker's own.
    pub(crate) fn new(limits: &Limits, spool_folder: &Path) -> Self {
        let Limits { body, replay, memory, ratio, nesting } = *limits;
        // What can be replayed is in memory.
        Self {
            body,
            replay,
            memory: memory.max(replay),
            ratio,
            nesting,
            spool_folder: spool_folder.into(),
        }
    }
}
