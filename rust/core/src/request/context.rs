//! What the stages of one request share.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    rc::Rc,
    task::Poll,
};

use bytes::Bytes;
use http::{Method, Version, request::Parts};
use http_body::Body;
use tokio::time::Instant;
use tracing::Span;

use crate::{
    client::io::ClientWatch, failure::Failure, request::accounting::Accounting, shared::Shared,
    timer::PhaseTimer, upstream::upload::Upload, worker::Worker,
};
use sans_io::{
    api::endpoints::{Endpoint, Kind},
    codec::headers,
};

/// One request that goes on to an engine or to the management API.
pub(crate) struct RequestContext<W> {
    worker: Rc<Worker>,
    parts: Parts,
    /// The client's address.
    peer: Rc<str>,
    endpoint: &'static Endpoint,
    pub(crate) accounting: Box<Accounting>,
    watch: W,
}

impl<W: ClientWatch> RequestContext<W> {
    /// In a box: it is handed from stage to stage, and would be copied at each.
    pub(crate) fn new(
        worker: Rc<Worker>,
        parts: Parts,
        peer: Rc<str>,
        endpoint: &'static Endpoint,
        accounting: Box<Accounting>,
        watch: W,
    ) -> Box<Self> {
        Box::new(Self { worker, parts, peer, endpoint, accounting, watch })
    }

    pub(crate) fn worker(&self) -> &Worker {
        &self.worker
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.worker.shared
    }

    pub(crate) fn parts(&self) -> &Parts {
        &self.parts
    }

    pub(crate) fn method(&self) -> &Method {
        &self.parts.method
    }

    pub(crate) fn peer(&self) -> &str {
        &self.peer
    }

    pub(crate) fn endpoint(&self) -> &'static Endpoint {
        self.endpoint
    }

    pub(crate) fn is_management(&self) -> bool {
        self.endpoint.kind == Kind::Management
    }

    pub(crate) fn watch(&self) -> &W {
        &self.watch
    }

    /// Leaves of it what a response needs.
    #[expect(clippy::boxed_local, reason = "it is in a box already, and would be copied out of it")]
    pub(crate) fn into_accounting(self: Box<Self>) -> (Box<Accounting>, W) {
        (self.accounting, self.watch)
    }

    /// Whether the client asks for a WebSocket, over a protocol that has them here.
    pub(crate) fn asks_websocket(&self) -> bool {
        self.parts.version == Version::HTTP_11
            && self.parts.method == Method::GET
            && headers::asks_websocket(&self.parts.headers)
    }

    /// Reads the body until `enough`, or all of it. Fails when the client leaves, stops sending, or
    /// sends what is out of order.
    pub(crate) async fn receive_until<B>(
        &mut self,
        upload: &mut Upload<B>,
        enough: impl Fn(&Upload<B>) -> bool,
    ) -> Result<(), Failure>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: std::error::Error + 'static,
    {
        let limit = self.worker.shared.config.timeouts.body;
        let mut timer = PhaseTimer::default();
        while !enough(upload) && !upload.is_whole() {
            let mut since = None;
            poll_fn(|context| match upload.poll_receive(context) {
                Poll::Ready(received) => Poll::Ready(received),
                Poll::Pending => {
                    let since = *since.get_or_insert_with(Instant::now);
                    timer.poll(context, since, limit).map(|()| Err(Failure::BodyTimeout))
                }
            })
            .await?;
            if let Some(since) = since {
                self.accounting.timeline.waited_for_client(since.elapsed());
            }
            self.note_received(upload);
        }
        Ok(())
    }

    /// Notes how much of the body has come, and whether it is whole.
    pub(crate) fn note_received<B>(&mut self, upload: &Upload<B>)
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: std::error::Error + 'static,
    {
        self.watch.set_body_read(upload.is_whole());
        self.accounting.set_bytes_in(upload.received());
    }
}

/// Drives a request until it is committed, or its client has left.
pub(crate) async fn unless_client_left<T>(
    watch: &impl ClientWatch,
    span: &Span,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let mut work = pin!(work);
    poll_fn(|context| {
        let _entered = span.enter();
        let done = work.as_mut().poll(context);
        if done.is_pending() && watch.poll_left(context).is_ready() {
            return Poll::Ready(Err(Failure::ClientLeft));
        }
        done
    })
    .await
}
