//! The limits of a request's phases and of its body.

use std::time::Duration;

use crate::documents::{Limits, Timeouts};

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
        let limit = |milliseconds: u64| (milliseconds > 0).then(|| Duration::from_millis(milliseconds));
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
#[derive(Clone, Copy, Debug)]
pub(crate) struct BodyLimits {
    /// Its bytes.
    pub(crate) body: u64,
    /// Its bytes, for it to be kept for a second instance.
    pub(crate) replay: u64,
    /// The nesting of its JSON.
    pub(crate) nesting: u16,
}

impl From<&Limits> for BodyLimits {
    fn from(limits: &Limits) -> Self {
        Self { body: limits.body, replay: limits.replay, nesting: limits.nesting }
    }
}
