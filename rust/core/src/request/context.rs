//! A request while it is served: what its stages share.

use std::{
    cell::Cell,
    future::{Future, poll_fn},
    pin::pin,
    rc::Rc,
    task::Poll,
};

use bytes::Bytes;
use http::request::Parts;
use http_body::Body;
use tokio::time::Instant;

use crate::{
    client::io::ClientWatch,
    failure::Failure,
    request::{
        accounting::Ticket,
        relay::{AnswerBody, BrokenOff},
        server_timing::Moments,
    },
    timer::PhaseTimer,
    upstream::upload::Upload,
    worker::Worker,
};
use sans_io::api::endpoints::Row;

/// The path under which requests for the management API are recorded.
pub(crate) const CONTROL_PLANE: &str = "control_plane";

pub(crate) type Answer<B, W> = Result<http::Response<AnswerBody<B, W>>, BrokenOff>;

/// One request that goes on to an engine or to the management API.
pub(crate) struct Inbound<W> {
    pub(crate) worker: Rc<Worker>,
    pub(crate) parts: Parts,
    /// The client's address.
    pub(crate) peer: Rc<str>,
    pub(crate) row: &'static Row,
    pub(crate) ticket: Ticket,
    pub(crate) moments: Moments,
    pub(crate) watch: W,
    /// The client has sent its whole body: from now on what it sends says whether it is still
    /// there.
    pub(crate) body_whole: Rc<Cell<bool>>,
}

impl<W> Inbound<W> {
    /// In a box: it is handed from stage to stage, and would be copied at each.
    pub(crate) fn new(
        worker: Rc<Worker>,
        parts: Parts,
        peer: Rc<str>,
        row: &'static Row,
        ticket: Ticket,
        watch: W,
    ) -> Box<Self> {
        let moments = Moments::new(ticket.began());
        Box::new(Self {
            worker,
            parts,
            peer,
            row,
            ticket,
            moments,
            watch,
            body_whole: Rc::default(),
        })
    }

    /// Reads the body until `enough`, or all of it.
    pub(crate) async fn receive_until<B>(
        &mut self,
        upload: &mut Upload<B>,
        enough: impl Fn(&Upload<B>) -> bool,
    ) -> Result<(), Failure>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: std::error::Error + 'static,
    {
        let limit = self.worker.shared.phases.body;
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
                self.moments.waited_for_client += since.elapsed();
            }
            self.body_whole.set(upload.is_whole());
            self.ticket.bytes_in(upload.received());
        }
        Ok(())
    }
}

/// Drives a request until it is committed, or its client has left.
pub(crate) async fn unless_gone<T>(
    watch: &impl ClientWatch,
    body_whole: &Cell<bool>,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let mut work = pin!(work);
    poll_fn(|context| {
        let done = work.as_mut().poll(context);
        if done.is_pending() && watch.poll_left(context, body_whole.get()).is_ready() {
            return Poll::Ready(Err(Failure::ClientLeft));
        }
        done
    })
    .await
}
