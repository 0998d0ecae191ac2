//! What a request can reach of an engine beside the model that it names, and whether its caller may
//! use that.

use bytes::Bytes;
use http_body::Body;

use crate::{
    request::{admission::Caller, dispatch::Job},
    upstream::upload::{Forbidden, Upload, adapter_forbidden, host_forbidden},
};
use sans_io::{
    api::error::ApiError,
    codec::percent,
    table::{Route, Table},
};

/// Rejects (401, 403) a request that reaches, or could reach, what its caller may not use. `route`
/// must be one of `table`. What is still to come of the body is judged when it comes.
pub(crate) fn check<B>(
    caller: &Caller,
    (table, route): (&Table, &Route),
    job: &Job,
    query: Option<&str>,
    upload: &mut Upload<B>,
) -> Result<(), ApiError>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::error::Error + 'static,
{
    if !caller.may_name_hosts() {
        if query.is_some_and(percent::names_host) {
            return Err(host_forbidden());
        }
        upload.forbid(Forbidden { adapters: false, hosts: true })?;
    }
    let model = upload.model().map(|model| &*model.name);
    let unread = match job {
        // What is said inside of a WebSocket may name another model.
        Job::Realtime | Job::Proxy { websocket: true } => true,
        Job::Proxy { websocket: false } => model.is_none(),
        Job::Inference { .. } | Job::StoredResponse { .. } => false,
    };
    if unread {
        return caller.check_whole_engine(table, route);
    }
    let in_query = query.is_some_and(percent::picks_adapter);
    if !in_query && !upload.may_pick_adapter() || caller.check_whole_engine(table, route).is_ok() {
        return Ok(());
    }
    if in_query {
        return Err(adapter_forbidden());
    }
    upload.forbid(Forbidden { adapters: true, hosts: false })
}
