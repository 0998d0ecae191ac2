//! Graceful shutdown of one connection.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    task::{Context, Poll},
    time::Duration,
};

use crate::shared::Shared;

/// The time in which a drain waits for what is no request yet: the rest of a head, or a client's
/// word that it has seen the end of its connection. (What is a request may take until the drain's
/// limit.)
pub(crate) const UNBEGUN: Duration = Duration::from_secs(5);

/// Polls a connection to its end. `poll` also returns whether the connection should end after its
/// present work. Its second argument is true once: when it has returned that, or when the drain has
/// begun.
pub(crate) async fn until_served<R>(
    shared: &Shared,
    mut poll: impl FnMut(&mut Context<'_>, bool) -> (Poll<R>, bool),
) -> R {
    let mut ending = pin!(shared.drain_changed.notified());
    let (mut registered, mut was_told) = (false, false);
    poll_fn(|context| {
        // Registered once, the task is woken when the drain begins. From then on the drain's phase
        // is read at each poll.
        if !registered {
            registered = true;
            let _ = ending.as_mut().poll(context);
        }
        let (served, should_end) = poll(context, false);
        if served.is_ready() || was_told || !(should_end || shared.is_draining()) {
            return served;
        }
        was_told = true;
        poll(context, true).0
    })
    .await
}
