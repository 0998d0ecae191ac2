//! The wait for a model of which nothing runs, until something does. As many requests wait as its
//! wake queue has places, and each no longer than it may.

use std::{
    pin::pin,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use http_body::Body;
use tokio::time::Instant;
use tracing::debug;

use crate::{
    client::io::ClientWatch,
    failure::Failure,
    request::{
        admission::Caller, context::RequestContext, dispatch::Dispatch, newer_table, rejections,
        retry::History,
    },
    upstream::upload::Upload,
};
use sans_io::{
    api::error::ApiError,
    seam::Event,
    table::{Choice, Lease, NoLease, Place, Target},
};

/// The time between two looks at engines that run and have no room for another request.
const FULL: Duration = Duration::from_millis(50);
/// Others may fill a queue before the place in it is taken: so often another one is chosen.
const CHOICES: usize = 8;

/// A request's place in the wake queue of a model. Dropping it gives it back.
pub(crate) struct Queued {
    /// What it waits for, as the newest table has it that the request has seen.
    target: Arc<Target>,
    /// Held for as long as the wait lasts.
    _place: Place,
}

/// Whether a request may have to wait: a cheap look, for nearly none has to.
pub(crate) fn may_wait(dispatch: &Dispatch) -> bool {
    dispatch.job.pinned().is_some() || dispatch.route.asleep_target().is_some()
}

/// Takes a place in the wake queue of the model for which a request has to wait. None: it need not,
/// has waited as long as it may, or there is no place. Of the first one that waits the control plane
/// is told.
pub(crate) fn enter<W: ClientWatch>(
    context: &RequestContext<W>,
    dispatch: &Dispatch,
    history: &mut History,
) -> Option<Queued> {
    if history.gave_up_on().is_some() {
        return None;
    }
    let (target, place) = find_place(context, dispatch, history)?;
    if place.is_first {
        let model = target.model.name.to_string();
        context.shared().records.event(Event::ModelWanted { model });
    }
    debug!(model = &*target.model.name, "waiting for the model to wake");
    history.begin_wait();
    Some(Queued { target, _place: place })
}

/// A free place, and what is waited for there.
fn find_place<W: ClientWatch>(
    context: &RequestContext<W>,
    dispatch: &Dispatch,
    history: &History,
) -> Option<(Arc<Target>, Place)> {
    for _ in 0..CHOICES {
        let target = if let Some(id) = dispatch.job.pinned() {
            dispatch.route.asleep_instance(id)?
        } else {
            let mut random = || context.worker().random();
            dispatch.route.asleep(choice(context, history), &mut random)?
        };
        if let Some(place) = target.model.enter_queue() {
            return Some((Arc::clone(target), place));
        }
    }
    None
}

/// The grounds of the next choice.
pub(crate) fn choice<'a, W: ClientWatch>(
    context: &RequestContext<W>,
    history: &'a History,
) -> Choice<'a> {
    let now = context.shared().clock();
    Choice { tried: history.tried(), failed: history.fallback_for(), now }
}

/// The error where a model is asleep, and the request does not wait for it any more, or could not
/// begin to. None: none is. It is counted.
pub(crate) fn refusal(dispatch: &Dispatch, history: &History) -> Option<ApiError> {
    let route = &dispatch.route;
    if let Some(target) = history.gave_up_on() {
        target.model.queue.refused_late.fetch_add(1, Ordering::Relaxed);
        return Some(rejections::not_awake_in_time(&route.name));
    }
    let asleep = match dispatch.job.pinned() {
        Some(id) => route.asleep_instance(id),
        None => route.asleep_target(),
    };
    let target = asleep.filter(|_| history.fallback_for().is_none())?;
    target.model.queue.refused_full.fetch_add(1, Ordering::Relaxed);
    Some(rejections::wake_queue_full(&route.name))
}

impl Queued {
    /// Takes a slot on an instance of what was waited for, but for one that could not be connected to.
    pub(crate) fn lease<W: ClientWatch>(
        &self,
        context: &RequestContext<W>,
        dispatch: &Dispatch,
        history: &History,
    ) -> Result<(Lease, Arc<Target>), NoLease> {
        let (route, idle) = (&dispatch.route, &context.shared().idle_listener);
        let (lease, target) = if let Some(id) = dispatch.job.pinned() {
            route.lease_instance(id, idle)?
        } else {
            let mut random = || context.worker().random();
            route.lease_awaited(&self.target, choice(context, history), &mut random, idle)?
        };
        let was_unreachable = history.was_unreachable(&lease.instance().id);
        if was_unreachable { Err(NoLease::NotRunning) } else { Ok((lease, target)) }
    }

    /// Waits until there is another table, or a moment where what was waited for runs and is full.
    /// None: it is not to be waited for any more, and its place is given back. Fails with a 503 where
    /// the server stops, and as a new request does that may not use what is published then.
    pub(crate) async fn wait<B, W>(
        mut self,
        context: &mut RequestContext<W>,
        caller: &Caller,
        dispatch: &mut Dispatch,
        upload: &mut Upload<B>,
        (why, history): (NoLease, &mut History),
    ) -> Result<Option<Self>, Failure>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: std::error::Error + 'static,
        W: ClientWatch,
    {
        let shared = Arc::clone(&context.worker().shared);
        let mut changed = pin!(shared.waiting_changed.notified());
        // Registered before the table is read, so that no change is missed.
        changed.as_mut().enable();
        let left = history.wait_left(self.target.model.wake.map(|wake| wake.timeout));
        if shared.is_stopping() {
            return Err(rejections::stops_without_engine(&dispatch.route.name).into());
        }
        if left.is_zero() {
            history.give_up(&self.target);
            return Ok(None);
        }
        let began = Instant::now();
        if shared.table.load().version == context.table().version {
            let pause = if why == NoLease::Full { left.min(FULL) } else { left };
            let _ = tokio::time::timeout(pause, changed).await;
            context.accounting.timeline.waited_for_engine(began.elapsed());
        }
        newer_table::follow_or_say_why_not(context, caller, dispatch, upload)?;
        let awaited = match dispatch.job.pinned() {
            Some(id) => dispatch.route.awaited_instance(id),
            None => dispatch.route.awaited(&self.target),
        };
        Ok(awaited.cloned().map(|target| {
            self.target = target;
            self
        }))
    }
}
