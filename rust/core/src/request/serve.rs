//! One request, from its head to its record, as a table of contents.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::Request;
use http_body::Body;
use tracing::Span;

use crate::{
    client::io::ClientWatch,
    failure::Failure,
    key_watch::KeyWatch,
    published::Published,
    request::{
        accounting::Accounting,
        admission,
        attempt::Outcome,
        body::ResponseResult,
        browser,
        context::RequestContext,
        early_response::{self, Begun},
        find_endpoint, head, local, management, resolve, respond, retry_loop,
    },
    worker::Worker,
};
use sans_io::{api::endpoints::Kind, codec::headers};

/// Serves one request, over HTTP/1.1 or HTTP/2. The future runs inside the task of its connection
/// or stream and stays on its thread. `published`: the newest state of it. The
/// error ends the connection, or resets the stream.
pub(crate) async fn serve<B, W>(
    worker: Rc<Worker>,
    published: Arc<Published>,
    peer: Rc<str>,
    request: Request<B>,
    watch: W,
) -> ResponseResult<B, W>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: std::error::Error + 'static,
    W: ClientWatch + Clone + 'static,
{
    let (mut parts, body) = request.into_parts();
    let request_id =
        headers::request_id(&parts.headers).map_or_else(|| worker.new_request_id(), Arc::from);
    let endpoint = match find_endpoint::find_endpoint(&mut parts) {
        Ok(endpoint) => endpoint,
        Err(unidentified) => {
            let path = unidentified.path;
            let accounting = Accounting::new(&worker.shared, &published, request_id, path);
            let (dialect, error) = (unidentified.dialect, &unidentified.error);
            return Ok(respond::rejected(accounting, dialect, error, &watch));
        }
    };
    head::put_host(&mut parts);
    let accounting = Accounting::new(&worker.shared, &published, request_id, endpoint.path);
    if let Kind::Local(local) = endpoint.kind {
        return Ok(
            match local::respond(&worker, &published, local, endpoint, (&parts, &peer), &watch) {
                Ok(response) => respond::local(accounting, response),
                Err(error) => respond::rejected(accounting, endpoint.dialect, &error, &watch),
            },
        );
    }
    let span = accounting.span().clone();
    let watched = watch.clone();
    let mut context =
        RequestContext::new(worker, published, parts, peer, endpoint, accounting, watched);
    let (context, outcome) = if let Some(early) = early_response::prepare(&mut context) {
        // In a box: it may outlive this future.
        let work = Box::pin(async move {
            let outcome = {
                let mut work = pin!(run::<_, _, true>(&mut context, body));
                let work = |polled: &mut Context<'_>| {
                    poll_unless_client_left(polled, &watch, &span, work.as_mut())
                };
                poll_fn(work).await
            };
            early_response::finish(context, outcome).await
        });
        match early_response::begin(work, early).await {
            Begun::InTime(context, outcome) => (context, outcome),
            Begun::Early(response) => return Ok(response),
        }
    } else {
        // Pinned where it is made: it is large, and each move would copy it.
        let outcome = {
            let mut work = pin!(run::<_, _, false>(&mut context, body));
            poll_fn(|polled| poll_unless_client_left(polled, &watch, &span, work.as_mut())).await
        };
        (context, outcome)
    };
    respond::respond(context, outcome)
}

/// Forwards a request to the management API. Of any other it admits the caller, finds the model and
/// its route, and tries instances until one responds. Either ends at the commit point: the rest of
/// the response is relayed by `body`, which records the request.
///
/// `MAY_GO_EARLY`: whether it is for a response that may begin before. It makes two functions of one,
/// each with one caller, of which it then becomes a part.
async fn run<B, W, const MAY_GO_EARLY: bool>(
    context: &mut RequestContext<W>,
    body: B,
) -> Result<Outcome<B>, Failure>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::error::Error + 'static,
    W: ClientWatch,
{
    if context.is_management() {
        let (shared, settings) = (context.shared(), context.settings());
        let parts = context.parts();
        let host = context.peer().host(&parts.headers);
        browser::check_unless_keyed(shared, settings, context.endpoint(), parts, host)?;
        // The management API checks keys itself. Here they make the connection worth more.
        let has_key = browser::shows_good_key(shared, &parts.headers);
        if has_key {
            context.watch().set_trusted();
        }
        context.hold_head(has_key).await?;
        return management::forward(context, body).await;
    }
    let caller = admission::admit(context)?;
    let mut watch = context.key_watch();
    let mut work = pin!(async {
        context.hold_head(caller.key().is_some()).await?;
        let (dispatch, upload) = resolve::resolve(context, &caller, body).await?;
        retry_loop::send(context, &caller, dispatch, upload).await
    });
    poll_fn(|polled| poll_unless_ended_early(polled, &mut watch, work.as_mut())).await
}

/// Polls `work`, unless its key was revoked (`KeyRevoked`) or a drain cuts it (`Drained`).
fn poll_unless_ended_early<T>(
    context: &mut Context<'_>,
    watch: &mut KeyWatch,
    work: Pin<&mut impl Future<Output = Result<T, Failure>>>,
) -> Poll<Result<T, Failure>> {
    if let Some(ended) = watch.ended_early() {
        return Poll::Ready(Err(ended.into()));
    }
    let done = work.poll(context);
    if done.is_pending() {
        watch.wait(context);
    }
    done
}

/// Polls `work`. Where it waits and the client has left, it fails (`ClientLeft`); who drops it then
/// closes the engine's connection, which is how an engine is told to stop.
fn poll_unless_client_left<T>(
    context: &mut Context<'_>,
    watch: &impl ClientWatch,
    span: &Span,
    work: Pin<&mut impl Future<Output = Result<T, Failure>>>,
) -> Poll<Result<T, Failure>> {
    let _entered = span.enter();
    let done = work.poll(context);
    if done.is_pending() && watch.poll_left(context).is_ready() {
        return Poll::Ready(Err(Failure::ClientLeft));
    }
    done
}
