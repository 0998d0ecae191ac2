//! The rules by which a failed attempt is followed by another, or by none.

use std::sync::Arc;

use crate::{failure::Failure, request::dispatch::Dispatch};
use sans_io::table::Instance;

/// So many engines may end while they work on a request; no further one gets it.
const LOST_MAX: u32 = 2;

/// What the attempts of one request have come to so far.
#[derive(Default)]
pub(crate) struct History {
    /// Instances that had the request: taken again only when there are no others.
    tried: Vec<Arc<str>>,
    /// Instances that refused the connection: not taken again.
    refused: Vec<Arc<str>>,
    /// How many engines ended while they worked on it.
    lost: u32,
    connect_timed_out: bool,
    /// The status with which the targets so far have failed, if the request has gone over to those
    /// that are there for it.
    fallback_for: Option<u16>,
}

impl History {
    pub(crate) fn tried(&self) -> &[Arc<str>] {
        &self.tried
    }

    pub(crate) fn has_tried(&self, instance: &Instance) -> bool {
        self.tried.contains(&instance.id)
    }

    pub(crate) fn was_refused_by(&self, id: &Arc<str>) -> bool {
        self.refused.contains(id)
    }

    pub(crate) fn connect_timed_out(&self) -> bool {
        self.connect_timed_out
    }

    pub(crate) fn fallback_for(&self) -> Option<u16> {
        self.fallback_for
    }

    /// Whether a response of this status may be dropped for a fallback target's: at most once, and
    /// only for a request that any instance can do and whose body can be sent again.
    pub(crate) fn may_fall_back(&self, dispatch: &Dispatch, status: u16, replayable: bool) -> bool {
        self.fallback_for.is_none()
            && dispatch.job.pinned().is_none()
            && replayable
            && dispatch.route.has_fallback(status)
    }

    /// Goes over to the targets that are there for this status, where that may be; else false.
    pub(crate) fn fall_back(&mut self, dispatch: &Dispatch, status: u16, replayable: bool) -> bool {
        let may = self.may_fall_back(dispatch, status, replayable);
        if may {
            self.fallback_for = Some(status);
        }
        may
    }

    /// Whether another instance of the same targets may be tried after this failure of `instance`,
    /// which is remembered: freely while nothing was delivered; once more after an engine ended
    /// with the request, where its job allows that.
    pub(crate) fn allows_retry(
        &mut self,
        failure: &Failure,
        instance: &Instance,
        dispatch: &Dispatch,
        replayable: bool,
    ) -> bool {
        let allowed = match failure {
            Failure::Connect(error) => {
                self.refused.push(Arc::clone(&instance.id));
                self.connect_timed_out = error.kind() == std::io::ErrorKind::TimedOut;
                true
            }
            Failure::StaleConnection => {
                // Most likely it was never read, so the instance may be tried again. But an engine
                // that dies of the request looks the same, and two are enough.
                self.lost += 1;
                return replayable;
            }
            Failure::ConnectionLost(_) => {
                self.lost += 1;
                let job = &dispatch.job;
                job.is_retryable() && job.pinned().is_none() && self.lost < LOST_MAX && replayable
            }
            _ => false,
        };
        self.tried.push(Arc::clone(&instance.id));
        allowed
    }

    /// The status for which a fallback target may be tried after this failure. What an engine may
    /// have done already is done again only where that costs nothing but time.
    pub(crate) fn fallback_status(&self, failure: &Failure, dispatch: &Dispatch) -> Option<u16> {
        let status = match failure {
            Failure::FallbackStatus(status) => *status,
            Failure::ConnectionLost(_)
            | Failure::StaleConnection
            | Failure::FirstFrameTimeout
            | Failure::Protocol(_)
                if dispatch.job.is_retryable() =>
            {
                502
            }
            _ => return None,
        };
        (self.lost < LOST_MAX).then_some(status)
    }

    /// The failure that ends the request.
    pub(crate) fn last(&self, failure: Failure) -> Failure {
        match failure {
            Failure::Connect(_)
            | Failure::StaleConnection
            | Failure::ConnectionLost(_)
            | Failure::FallbackStatus(_)
                if self.lost >= LOST_MAX =>
            {
                Failure::LostTwice
            }
            failure => failure,
        }
    }
}
