//! Serving a connection until it ends, or is told to.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    task::{Context, Poll},
};

use crate::shared::Shared;

/// Polls a connection to its end. `poll` tells, too, whether the connection should end after what
/// it does now; it is told so itself (its second argument), once, when it does or when the drain
/// begins.
pub(crate) async fn until_served<R>(
    shared: &Shared,
    mut poll: impl FnMut(&mut Context<'_>, bool) -> (Poll<R>, bool),
) -> R {
    let mut ending = pin!(shared.ending.notified());
    let (mut registered, mut told) = (false, false);
    poll_fn(|context| {
        // Registered once, the task is woken when the drain begins; the phase is what counts from
        // then on.
        if !registered {
            registered = true;
            let _ = ending.as_mut().poll(context);
        }
        let (served, should_end) = poll(context, false);
        if served.is_ready() || told || !(should_end || shared.is_draining()) {
            return served;
        }
        told = true;
        poll(context, true).0
    })
    .await
}
