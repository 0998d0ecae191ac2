//! Requests to the management API, forwarded to its Unix socket.

use std::sync::Arc;

use bytes::Bytes;
use http_body::Body;

use crate::{
    client::io::ClientWatch,
    failure::Failure,
    request::{
        attempt::{self, Failed, Outcome, Outgoing, StartedResponse},
        context::RequestContext,
        outbound_head, rejections,
        relay::Relay,
        retry::History,
    },
    upstream::{
        slot::Slot,
        upload::{Changes, Reading, Upload},
    },
};
use sans_io::{
    api::plan,
    codec::{headers, response_fields::Sender},
    table::Lease,
};

/// Forwards a request unread, up to the commit point of its response. Fails with a 503 where the
/// management API is not reachable, with a 413 for a `Content-Length` over the limit, or as
/// [`attempt::response_head`] and [`attempt::commit`] do.
pub(crate) async fn forward<B, W>(
    context: &mut RequestContext<W>,
    body: B,
) -> Result<Outcome<B>, Failure>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::error::Error + 'static,
    W: ClientWatch,
{
    // Whether the caller has a good key is not known here.
    let mut upload = Upload::new(body, Reading::Carry, None, &context.body_limits(false))?;
    let mut history = History::default();
    let mut fresh = false;
    loop {
        let shared = context.shared();
        let instance = shared.control_plane.as_ref().ok_or_else(rejections::no_management)?;
        let lease = Lease::take(instance, 0, &shared.idle_listener);
        let lease = lease.map_err(|_| rejections::no_management())?;
        let instance = Arc::clone(lease.instance());
        match send(context, lease, fresh, upload).await {
            Ok(outcome) => return Ok(outcome),
            // Once more on a new connection, if the request changes nothing: a stale one may have
            // delivered it.
            Err((Failure::StaleConnection, body))
                if body.is_replayable() && context.method().is_safe() && !fresh =>
            {
                (upload, fresh) = (body, true);
            }
            Err((Failure::MachineExhausted(error), body)) => {
                history.lack_room(&instance, &error);
                if !history.make_room(&context.worker().pool) {
                    return Err(Failure::MachineExhausted(error));
                }
                upload = body;
            }
            Err((Failure::Connect(_), _)) => return Err(rejections::no_management().into()),
            Err((failure, _)) => return Err(failure),
        }
    }
}

/// One attempt, up to the commit point.
async fn send<B, W>(
    context: &mut RequestContext<W>,
    lease: Lease,
    fresh: bool,
    upload: Box<Upload<B>>,
) -> Result<Outcome<B>, Failed<B>>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::error::Error + 'static,
    W: ClientWatch,
{
    context.accounting.timeline.attempted();
    let limits = context.settings().timeouts;
    let opened = attempt::connect(context, lease.instance(), fresh, &upload, &limits).await;
    let connection = match opened {
        Ok(connection) => connection,
        Err(failure) => return Err((failure, upload)),
    };
    let request = Outgoing {
        head: outbound_head::for_management(context, lease.instance()),
        changes: Changes::default(),
        upgrade: false,
        limits,
    };
    let slot = Slot::new(lease, &context.worker().lingering);
    let mut exchange = attempt::begin(context, connection, slot, request, upload);
    let head = match attempt::response_head(context, &mut exchange, Sender::Ourselves).await {
        Ok(head) => head,
        Err(failure) => return Err((failure, exchange.into_upload())),
    };
    let is_event_stream = headers::is_event_stream(&head.headers);
    let relay =
        Relay::new(exchange, plan::unread(&head, is_event_stream), context.worker().pool.clone());
    let mut committed = Box::new(StartedResponse { head, is_event_stream, relay, first: None });
    match attempt::commit(context, &mut committed).await {
        Ok(()) => Ok(Outcome::Response(committed)),
        Err(failure) => Err((failure, committed.relay.into_upload())),
    }
}
