//! How a request that has its route already goes over to a newer table.

use bytes::Bytes;
use http_body::Body;

use crate::{
    client::io::ClientWatch,
    request::{
        admission::{self, Caller},
        context::RequestContext,
        dispatch::Dispatch,
        reach,
    },
    upstream::upload::Upload,
};
use sans_io::{
    api::error::ApiError,
    table::{Route, Table},
};

/// Goes over to what is published now, the settings with the route; true if the route was replaced
/// there. A new version that the caller may not use any more, or not in this way, is not taken.
pub(crate) fn follow<B, W>(
    context: &mut RequestContext<W>,
    caller: &Caller,
    dispatch: &mut Dispatch,
    upload: &mut Upload<B>,
) -> bool
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::error::Error + 'static,
    W: ClientWatch,
{
    follow_or_say_why_not(context, caller, dispatch, upload).unwrap_or(false)
}

/// The same; the error is that of a new request where the caller may not use the new version, or
/// there is none.
pub(crate) fn follow_or_say_why_not<B, W>(
    context: &mut RequestContext<W>,
    caller: &Caller,
    dispatch: &mut Dispatch,
    upload: &mut Upload<B>,
) -> Result<bool, ApiError>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::error::Error + 'static,
    W: ClientWatch,
{
    let newest = context.shared().table.load_full();
    let name = &dispatch.route.name;
    if newest.version == context.table().version {
        return Ok(false);
    }
    let current = newest.serving_route(name).ok_or_else(|| caller.no_such_model(name))?;
    check(context, caller, (&newest, &current), dispatch, upload)?;
    dispatch.route = current;
    context.follow(newest);
    Ok(true)
}

fn check<B, W>(
    context: &RequestContext<W>,
    caller: &Caller,
    (table, route): (&Table, &Route),
    dispatch: &Dispatch,
    upload: &mut Upload<B>,
) -> Result<(), ApiError>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::error::Error + 'static,
    W: ClientWatch,
{
    caller.check(route)?;
    if dispatch.job.is_proxy() {
        admission::check_proxy(route, &dispatch.path)?;
    }
    let query = context.parts().uri.query();
    reach::check(caller, (table, route), &dispatch.job, query, upload)
}
