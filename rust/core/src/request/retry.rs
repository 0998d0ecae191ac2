//! The rules of retries and fallbacks: whether a failed attempt is followed by another one.

use std::{io, sync::Arc, time::Duration};

use rustix::io::Errno;
use tokio::time::Instant;

use crate::{failure::Failure, request::dispatch::Dispatch, upstream::pool::Pool};
use sans_io::table::{FallbackFor, Instance, Target};

/// Engines that may be lost to one request, those of its fallback targets included: a request that
/// kills its engine must not kill them all.
const LOST_MAX: u32 = 2;

/// The attempts of one request so far.
#[derive(Default)]
pub(crate) struct History {
    /// Ids of the instances that failed the request: taken again only when there are no others.
    tried: Vec<Arc<str>>,
    /// Ids of the instances that could not be connected to: not taken again.
    unreachable: Vec<Arc<str>>,
    /// Connections that ended while an engine may have been working on the request.
    lost: u32,
    /// The last failure to connect was a timeout.
    connect_timed_out: bool,
    /// What this machine lacked for a connection, the last time.
    no_room: Option<Errno>,
    /// Ids of the instances that were not connected to for that reason.
    without_room: Vec<Arc<str>>,
    /// Another connection was closed to make room.
    made_room: bool,
    /// The failure for which the request has switched to the fallback targets; None: it has not.
    fallback_for: Option<Switched>,
    /// Since when it waits for models to wake, with all that lies between; None: it never has.
    waits_since: Option<Instant>,
    /// What it has waited for as long as it may; None: it has not.
    gave_up_on: Option<Arc<Target>>,
}

/// The failure for which a request has switched to the fallback targets.
struct Switched {
    status: u16,
    /// None: no target was there.
    target: Option<Arc<Target>>,
}

impl History {
    /// The ids of the instances that failed the request.
    pub(crate) fn tried(&self) -> &[Arc<str>] {
        &self.tried
    }

    /// Whether this instance has failed the request.
    pub(crate) fn has_tried(&self, instance: &Instance) -> bool {
        self.tried.contains(&instance.id)
    }

    /// Whether the instance of this id could not be connected to.
    pub(crate) fn was_unreachable(&self, id: &Arc<str>) -> bool {
        self.unreachable.contains(id)
    }

    /// Whether the last failure to connect was a timeout.
    pub(crate) fn connect_timed_out(&self) -> bool {
        self.connect_timed_out
    }

    /// The want of this machine for which an instance was not connected to; None: there was none.
    pub(crate) fn no_room(&self) -> Option<Failure> {
        self.no_room.map(|lacking| Failure::MachineExhausted(lacking.into()))
    }

    /// Notes that this instance was not connected to for want of what the error says.
    pub(crate) fn lack_room(&mut self, instance: &Instance, error: &io::Error) {
        self.without_room.push(Arc::clone(&instance.id));
        self.no_room = Errno::from_io_error(error);
    }

    /// Closes a connection that idles, once, where instances were not connected to for want of a
    /// descriptor. True: they may be tried anew.
    pub(crate) fn make_room(&mut self, pool: &Pool) -> bool {
        if self.made_room || self.without_room.is_empty() || !pool.close_oldest() {
            return false;
        }
        self.made_room = true;
        self.no_room = None;
        let without = std::mem::take(&mut self.without_room);
        let is_another = |id: &Arc<str>| !without.contains(id);
        self.tried.retain(is_another);
        self.unreachable.retain(is_another);
        true
    }

    /// Notes that the request begins to wait for a model to wake. It may do so more than once, but has
    /// one limit for all.
    pub(crate) fn begin_wait(&mut self) {
        self.waits_since.get_or_insert_with(Instant::now);
    }

    /// How much longer it may wait, where a wait may last for `limit`; None: none may any more.
    pub(crate) fn wait_left(&self, limit: Option<Duration>) -> Duration {
        let waited = self.waits_since.map_or(Duration::ZERO, |since| since.elapsed());
        limit.unwrap_or_default().saturating_sub(waited)
    }

    /// Notes that it has waited for this as long as it may.
    pub(crate) fn give_up(&mut self, target: &Arc<Target>) {
        self.gave_up_on = Some(Arc::clone(target));
    }

    /// What it has waited for as long as it may; None: it has not.
    pub(crate) fn gave_up_on(&self) -> Option<&Arc<Target>> {
        self.gave_up_on.as_ref()
    }

    /// The failure for which the request has switched to the fallback targets; None: it has not.
    pub(crate) fn fallback_for(&self) -> Option<FallbackFor<'_>> {
        let Switched { status, target } = self.fallback_for.as_ref()?;
        Some(FallbackFor { status: *status, target: target.as_deref() })
    }

    /// Whether the request may switch to the targets for this failure. It may at most once, if such
    /// a target runs with an instance that was not tried, the job is not pinned to an instance, and
    /// the body is replayable.
    pub(crate) fn may_fall_back(
        &self,
        dispatch: &Dispatch,
        failed: FallbackFor<'_>,
        replayable: bool,
    ) -> bool {
        self.fallback_for.is_none()
            && dispatch.job.pinned().is_none()
            && replayable
            && dispatch.route.has_fallback(failed, &self.tried)
    }

    /// Switches to the targets for this status of `target` (None: no target was there), where
    /// `may_fall_back`; else false.
    pub(crate) fn fall_back(
        &mut self,
        dispatch: &Dispatch,
        (status, target): (u16, Option<&Arc<Target>>),
        replayable: bool,
    ) -> bool {
        let failed = FallbackFor { status, target: target.map(|target| &**target) };
        let may = self.may_fall_back(dispatch, failed, replayable);
        if may {
            self.fallback_for = Some(Switched { status, target: target.cloned() });
        }
        may
    }

    /// Notes this failure of `instance`, and says whether the same targets may be tried again.
    /// They may
    ///
    /// * freely, if no connection could be opened: nothing was delivered, and to another instance
    ///   there may be one that idles;
    /// * after a stale connection, if the body is replayable, whatever `is_retryable` says: most
    ///   likely nothing was delivered;
    /// * after a lost connection, fewer than `LOST_MAX` times, if the job is retryable and not
    ///   pinned to an instance, and the body is replayable;
    /// * else never.
    pub(crate) fn allows_retry(
        &mut self,
        failure: &Failure,
        instance: &Instance,
        dispatch: &Dispatch,
        replayable: bool,
    ) -> bool {
        let allowed = match failure {
            Failure::Connect(error) => {
                self.unreachable.push(Arc::clone(&instance.id));
                self.connect_timed_out = error.kind() == io::ErrorKind::TimedOut;
                true
            }
            Failure::MachineExhausted(error) => {
                self.unreachable.push(Arc::clone(&instance.id));
                self.lack_room(instance, error);
                true
            }
            Failure::StaleConnection => {
                // Most likely the request was never read, so the instance counts as untried. But
                // an engine that dies of the request at once looks the same, so it counts as lost.
                self.lost += 1;
                return replayable;
            }
            Failure::ConnectionLost(_) => {
                self.lost += 1;
                let job = &dispatch.job;
                job.is_retryable() && job.pinned().is_none() && self.lost < LOST_MAX && replayable
            }
            // It has responded, so that another target may well be tried on it: an adapter, say.
            Failure::FallbackStatus(_) => return false,
            // The client's own failure, or a slow or broken engine: a second one of the same model
            // would most likely be so, too.
            _ => false,
        };
        self.tried.push(Arc::clone(&instance.id));
        allowed
    }

    /// The status for which a fallback target may be tried after this failure; None: none may. Work
    /// that an engine may have done is done again only if the job is retryable, and nothing after
    /// `LOST_MAX` engines were lost.
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

    /// The failure that the client learns of: this last one, or `LostTooOften` in its place.
    pub(crate) fn last(&self, failure: Failure) -> Failure {
        match failure {
            Failure::Connect(_)
            | Failure::StaleConnection
            | Failure::ConnectionLost(_)
            | Failure::FallbackStatus(_)
                if self.lost >= LOST_MAX =>
            {
                Failure::LostTooOften
            }
            failure => failure,
        }
    }
}
