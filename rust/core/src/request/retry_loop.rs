//! Retries and fallbacks: one request over instances, until one of them responds.

use std::{
    future::poll_fn,
    sync::{Arc, atomic::Ordering},
};

use bytes::Bytes;
use http_body::Body;
use tracing::debug;

use crate::{
    client::io::ClientWatch,
    failure::Failure,
    request::{
        admission::Caller,
        attempt::{self, Attempt, Outcome},
        context::RequestContext,
        dispatch::Dispatch,
        newer_table, rejections,
        retry::History,
        wake,
    },
    upstream::{health, upload::Upload},
};
use sans_io::{
    api::{error::ApiError, plan},
    table::{Instance, Lease, NoLease, Target},
};

/// Tries instances until one responds, by the rules of `retry`. Fails
///
/// * as the last attempt did, or with `LostTooOften` in its place;
/// * with `MachineExhausted`, `ConnectTimeout` or a 503 where no instance is left, with a 404 where
///   the only one that keeps the named response is gone;
/// * as [`wake::Queued::wait`] does;
/// * as [`receive`] does.
pub(crate) async fn send<B, W>(
    context: &mut RequestContext<W>,
    caller: &Caller,
    mut dispatch: Dispatch,
    mut upload: Box<Upload<B>>,
) -> Result<Outcome<B>, Failure>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::error::Error + 'static,
    W: ClientWatch,
{
    let mut history = History::default();
    let mut fresh = false;
    let mut queued = None;
    loop {
        // Before the body, so that the model wakes while that comes.
        if queued.is_none() && wake::may_wait(&dispatch) {
            queued = wake::enter(context, &dispatch, &mut history);
        }
        // In every round, since a newer table may bring an engine that needs a translation.
        receive(context, &dispatch, &mut upload).await?;
        context.note_stream(&upload);
        let leased = match queued.take() {
            None => lease(context, &dispatch, &history)?,
            Some(place) => match place.lease(context, &dispatch, &history) {
                Ok(leased) => Ok(leased),
                Err(why) => {
                    let waiting = (why, &mut history);
                    let wait = place.wait(context, caller, &mut dispatch, &mut upload, waiting);
                    // Boxed: other requests need no room for it.
                    queued = Box::pin(wait).await?;
                    continue;
                }
            },
        };
        let (lease, target) = match leased {
            Ok(leased) => leased,
            // A table that was published meanwhile may have other instances.
            Err(_) if newer_table::follow(context, caller, &mut dispatch, &mut upload) => continue,
            // Late: until here another instance may have a connection that idles.
            Err(_) if history.make_room(&context.worker().pool) => continue,
            Err(_) if fall_back(context, &mut history, &dispatch, (503, None), &upload) => continue,
            Err(why) => return Err(no_instance(context, why, &history, &dispatch)),
        };
        // A fallback target is better than an instance that has failed this very request.
        if history.has_tried(lease.instance())
            && fall_back(context, &mut history, &dispatch, (502, Some(&target)), &upload)
        {
            continue;
        }
        if fresh {
            context.shared().metrics.retries.fetch_add(1, Ordering::Relaxed);
        }
        let (instance, tried) = (Arc::clone(lease.instance()), Arc::clone(&target));
        let attempt = Attempt { lease, target, fresh, dispatch: &dispatch, history: &history };
        let (failure, body) = match attempt::send(context, attempt, upload).await {
            Ok(outcome) => {
                note_status(context, outcome.status(), &dispatch, (&tried, &instance));
                return Ok(outcome);
            }
            Err(failed) => failed,
        };
        upload = body;
        debug!(instance = &*instance.id, reason = %failure, "attempt failed");
        note_failure(context, &failure, &dispatch, (&tried, &instance));
        let goes_on = history.allows_retry(&failure, &instance, &dispatch, upload.is_replayable())
            || history.fallback_status(&failure, &dispatch).is_some_and(|status| {
                fall_back(context, &mut history, &dispatch, (status, Some(&tried)), &upload)
            });
        if !goes_on {
            return Err(history.last(failure));
        }
        // Pooled connections to an engine that has ended or restarted are all stale.
        fresh |= !matches!(failure, Failure::MachineExhausted(_));
        let followed = newer_table::follow(context, caller, &mut dispatch, &mut upload);
        debug!(followed_table = followed, "another instance is looked for");
    }
}

/// Notes what a failure says of the instance of the target.
fn note_failure<W: ClientWatch>(
    context: &RequestContext<W>,
    failure: &Failure,
    dispatch: &Dispatch,
    (target, instance): (&Target, &Instance),
) {
    match failure {
        Failure::FallbackStatus(status) => {
            note_status(context, *status, dispatch, (target, instance));
        }
        _ => health::note(failure, context.shared(), instance),
    }
}

/// Notes what the status of a response says of the instance of the target. An error says nothing of
/// it behind the generic proxy, where it may be all that its path is for, nor where no other
/// instance could have had the request: nobody can know whether they do better, and whoever sends
/// such requests could eject those that he picks.
fn note_status<W: ClientWatch>(
    context: &RequestContext<W>,
    status: u16,
    dispatch: &Dispatch,
    (target, instance): (&Target, &Instance),
) {
    if !health::is_failure(status) && !rejections::is_credential(status, context.endpoint()) {
        health::responded(instance);
    } else if !dispatch.job.is_proxy() && dispatch.job.pinned().is_none() {
        health::failed_by_status(status, context.shared(), &target.model, instance);
    }
}

/// The failure where no instance is left.
fn no_instance<W: ClientWatch>(
    context: &RequestContext<W>,
    why: NoLease,
    history: &History,
    dispatch: &Dispatch,
) -> Failure {
    if let Some(failure) = history.no_room() {
        return failure;
    }
    if why == NoLease::Full {
        context.shared().metrics.overloaded.fetch_add(1, Ordering::Relaxed);
        return rejections::overloaded(&dispatch.route.name).into();
    }
    if history.connect_timed_out() {
        return Failure::ConnectTimeout;
    }
    let refusal = wake::refusal(dispatch, history);
    refusal.unwrap_or_else(|| rejections::unavailable(&dispatch.route.name)).into()
}

/// Reads so much of a body before a slot is taken that a slow client holds none. Fails as
/// [`receive_whole`] does, where the body is translated, else as
/// [`RequestContext::receive_until`].
async fn receive<B, W>(
    context: &mut RequestContext<W>,
    dispatch: &Dispatch,
    upload: &mut Upload<B>,
) -> Result<(), Failure>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::error::Error + 'static,
    W: ClientWatch,
{
    if needs_whole_body(dispatch) {
        receive_whole(context, upload).await
    } else {
        context.receive_until(upload, Upload::has_head_start).await
    }
}

/// Whether an engine of the route needs a body that is translated or repaired as a whole.
fn needs_whole_body(dispatch: &Dispatch) -> bool {
    dispatch.job.inference().is_some_and(|inference| {
        dispatch.route.targets().any(|target| plan::needs_whole_body(inference, target))
    })
}

/// Reads all of a body into memory, to be translated. Fails with a 413 beyond
/// [`plan::TRANSLATED_MAX`], with `Spool`, or as [`RequestContext::receive_until`] does.
async fn receive_whole<B, W>(
    context: &mut RequestContext<W>,
    upload: &mut Upload<B>,
) -> Result<(), Failure>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::error::Error + 'static,
    W: ClientWatch,
{
    let limit = plan::TRANSLATED_MAX;
    context.receive_until(upload, |upload| upload.received() > limit).await?;
    if upload.received() > limit {
        return Err(rejections::too_large_to_translate(limit).into());
    }
    poll_fn(|polled| upload.poll_load(polled)).await
}

/// Takes a slot on an instance, or says why there is none. Fails with a 404 where the only instance
/// that keeps the named response is gone.
fn lease<W: ClientWatch>(
    context: &RequestContext<W>,
    dispatch: &Dispatch,
    history: &History,
) -> Result<Result<(Lease, Arc<Target>), NoLease>, ApiError> {
    let shared = context.shared();
    if let Some(id) = dispatch.job.pinned() {
        return match dispatch.route.lease_instance(id, &shared.idle_listener) {
            Ok((lease, target))
                if !history.was_unreachable(id) && !history.has_tried(lease.instance()) =>
            {
                Ok(Ok((lease, target)))
            }
            Err(NoLease::Full) => Ok(Err(NoLease::Full)),
            // It may well be there.
            _ if history.no_room().is_some() => Ok(Err(NoLease::NotRunning)),
            // It sleeps, and there was no place to wait for it, or not for so long.
            Err(NoLease::NotRunning) if dispatch.route.asleep_instance(id).is_some() => {
                Ok(Err(NoLease::NotRunning))
            }
            Ok(_) | Err(NoLease::NotRunning) => Err(rejections::response_lost()),
        };
    }
    let mut random = || context.worker().random();
    let choice = wake::choice(context, history);
    let leased = dispatch.route.lease(choice, &mut random, &shared.idle_listener);
    // The choice takes an instance that was tried only when there is no other. One that could not
    // even be connected to is not worth another try.
    Ok(leased.and_then(|(lease, target)| {
        let was_unreachable = history.was_unreachable(&lease.instance().id);
        if was_unreachable { Err(NoLease::NotRunning) } else { Ok((lease, target)) }
    }))
}

/// Switches to the targets for a failure, where `History::may_fall_back`; else false. `failed`: its
/// status, and its target (None: no target was there).
fn fall_back<B, W>(
    context: &RequestContext<W>,
    history: &mut History,
    dispatch: &Dispatch,
    failed: (u16, Option<&Arc<Target>>),
    upload: &Upload<B>,
) -> bool
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::error::Error + 'static,
    W: ClientWatch,
{
    let falls_back = history.fall_back(dispatch, failed, upload.is_replayable());
    if falls_back {
        debug!(status = failed.0, "switching to the fallback targets");
        context.shared().metrics.fallbacks.fetch_add(1, Ordering::Relaxed);
    }
    falls_back
}
