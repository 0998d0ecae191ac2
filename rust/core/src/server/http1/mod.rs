//! HTTP/1.1 toward clients: one connection, request after request.
//!
//! It is not hyper's, for what hyper has no hook for: an open stream that holds no buffer, a client
//! that takes no bytes, a response for a head that cannot be read, and what is told about the
//! connection's life.

mod body;
mod client;
mod response;

use std::{
    future::{Future, poll_fn},
    pin::pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use http::{Request, Response};
use tokio::time::Instant;

use crate::{
    client::{
        io::{ClientIo, ClientStream},
        tunnel::Limits,
    },
    request::{
        body::ResponseBody,
        unreadable::{self, Reason},
    },
    server::{
        graceful::UNBEGUN,
        http1::{
            body::RequestBody,
            client::{Client, Watch},
            response::{Asked, Sending, Sent},
        },
        middleware,
    },
    timer::PhaseTimer,
    worker::{Admitted, Worker},
};
use sans_io::codec::http1::request::{HeadReader, RequestHead, begins_head};

/// The time for which bytes of a client are discarded behind the last response (a lingering close).
/// A socket that is closed with unread bytes is reset, and the client may lose the response.
pub(super) const DISCARD: Duration = Duration::from_secs(2);
/// The time that an idle connection is kept beyond what its client was told, so that a request that
/// is sent in the last moment still arrives.
const GRACE: Duration = Duration::from_secs(2);

/// Serves a client to its end. `begun`: the time since which its first request is waited for.
pub(super) async fn serve<T: ClientStream + 'static>(
    worker: Rc<Worker>,
    io: ClientIo<T>,
    peer: Rc<str>,
    begun: Instant,
    admitted: &Admitted,
) {
    let client = Client::new(worker, io, Rc::clone(&admitted.place));
    let shared = &client.worker.shared;
    let mut draining = pin!(shared.drain_changed.notified());
    // Registered once, the task is woken when the drain begins, which `Waiting` sees.
    poll_fn(|context| {
        let _ = draining.as_mut().poll(context);
        Poll::Ready(())
    })
    .await;
    let mut waiting = Waiting::new(begun);
    let last = loop {
        let next = poll_fn(|context| {
            // Registered anew: its limits may come nearer.
            while shared.is_draining() && draining.as_mut().poll(context).is_ready() {
                draining.set(shared.drain_changed.notified());
            }
            waiting.poll(context, &client)
        })
        .await;
        client.place.ends_by_itself(false);
        let sent = match next {
            Next::Request(head) if admitted.is_kept && !is_probe(&head) => {
                reject(&client, Reason::NoPlace).await
            }
            Next::Request(head) => serve_request(&client, &peer, head, admitted.is_kept).await,
            Next::Rejected(reason) => reject(&client, reason).await,
            Next::End => Sent::Close,
        };
        if sent != Sent::KeepAlive {
            break sent;
        }
        client.waits_for_request();
        client.place.ends_by_itself(true);
        waiting.begin(Instant::now());
        // Requests that were sent all at once do not keep those of others waiting.
        if client.io.ahead() > 0 {
            tokio::task::yield_now().await;
        }
    };
    client.waits_for_request();
    close(&client, last).await;
}

/// Whether a request asks how the server is, which has a response where nothing else has.
fn is_probe(head: &RequestHead) -> bool {
    matches!(head.uri.path(), "/healthz" | "/readyz")
}

/// What a client does next.
enum Next {
    Request(RequestHead),
    /// A head that cannot be read, or that does not come.
    Rejected(Reason),
    /// Nothing: it has left, was idle for too long, or the drain has begun.
    End,
}

/// The wait for the next request.
struct Waiting {
    reader: HeadReader,
    /// The begin of the wait, or of the head that has begun to come.
    since: Instant,
    /// Bytes of a head have come. Empty lines, of which a client may send one now and then, are none.
    has_begun: bool,
    /// It is the connection's first request.
    is_first: bool,
    /// When the drain was seen in the middle of a head; None: it was not.
    drained: Option<Instant>,
    timer: PhaseTimer,
}

impl Waiting {
    fn new(since: Instant) -> Self {
        let (reader, timer) = (HeadReader::default(), PhaseTimer::default());
        Self { reader, since, has_begun: false, is_first: true, drained: None, timer }
    }

    /// Begins to wait for another request.
    fn begin(&mut self, now: Instant) {
        self.since = now;
        self.has_begun = false;
        self.is_first = false;
    }

    fn poll<T: ClientStream>(
        &mut self,
        context: &mut Context<'_>,
        client: &Client<T>,
    ) -> Poll<Next> {
        loop {
            if client.io.ahead() > 0 {
                let reader = &mut self.reader;
                let (taken, begins) = client.io.take_ahead(|ahead| {
                    let taken = reader.take(ahead);
                    (taken, begins_head(ahead))
                });
                match taken {
                    Ok(Some(head)) => return Poll::Ready(Next::Request(head)),
                    Ok(None) => self.note_begin(begins),
                    Err(error) => return Poll::Ready(Next::Rejected(Reason::Unreadable(error))),
                }
            }
            match client.io.poll_fill(context, &client.worker.scratch) {
                Poll::Ready(true) => {}
                Poll::Ready(false) => return Poll::Ready(Next::End),
                Poll::Pending if client.worker.shared.is_draining() => {
                    return self.poll_drain(context, client);
                }
                Poll::Pending => return self.poll_limit(context, client),
            }
        }
    }

    /// Notes whether a head has begun to come: its limit counts from its first byte, that of the
    /// first one from the connection's begin.
    fn note_begin(&mut self, begins: bool) {
        if begins && !self.has_begun && !self.is_first {
            self.since = Instant::now();
        }
        self.has_begun = begins;
    }

    /// Ready when the wait has been too long.
    fn poll_limit<T: ClientStream>(
        &mut self,
        context: &mut Context<'_>,
        client: &Client<T>,
    ) -> Poll<Next> {
        // What a new client has sent may lie unread in a busy moment: that is no wait for it.
        if !self.is_first || !client.io.is_readable() {
            client.waits_for_request();
            client.place.ends_by_itself(true);
        }
        // Its place is needed; but a request that has come is served.
        if client.place.is_lost() && !client.io.is_readable() {
            return Poll::Ready(Next::End);
        }
        let timeouts = client.worker.shared.timeouts();
        let limit = if self.has_begun || self.is_first {
            timeouts.head
        } else {
            timeouts.keep_alive.map(|limit| limit + GRACE)
        };
        ready!(self.timer.poll(context, self.since, limit));
        if self.has_begun {
            return Poll::Ready(Next::Rejected(Reason::HeadTimeout));
        }
        end_unless_readable(context, client)
    }

    /// The same in a drain. Where somebody else accepts in our place, it waits for another request
    /// for a while; else for the rest of a head alone, and not for long.
    fn poll_drain<T: ClientStream>(
        &mut self,
        context: &mut Context<'_>,
        client: &Client<T>,
    ) -> Poll<Next> {
        if let Some(left) = client.worker.shared.idle_left()
            && self.timer.poll(context, Instant::now(), Some(left)).is_pending()
        {
            return self.poll_limit(context, client);
        }
        if !self.has_begun {
            return end_unless_readable(context, client);
        }
        let drained = *self.drained.get_or_insert_with(Instant::now);
        if self.timer.poll(context, drained, Some(UNBEGUN)).is_ready() {
            return Poll::Ready(Next::Rejected(Reason::Draining));
        }
        self.poll_limit(context, client)
    }
}

/// Ends a connection without a request. The system may hold one of which this task was not told
/// yet, but soon is.
fn end_unless_readable<T: ClientStream>(
    context: &mut Context<'_>,
    client: &Client<T>,
) -> Poll<Next> {
    if client.io.is_readable() {
        context.waker().wake_by_ref();
        return Poll::Pending;
    }
    Poll::Ready(Next::End)
}

/// Serves one request, and sends its response.
async fn serve_request<T: ClientStream + 'static>(
    client: &Rc<Client<T>>,
    peer: &Rc<str>,
    head: RequestHead,
    is_last: bool,
) -> Sent {
    let asked = Asked::new(&head.method, head.version, head.keep_alive && !is_last);
    client.begin_request(head.decoder, head.expects_continue);
    let mut request = Request::new(RequestBody(Rc::clone(client)));
    *request.method_mut() = head.method;
    *request.uri_mut() = head.uri;
    *request.version_mut() = head.version;
    *request.headers_mut() = head.headers;
    let (worker, watch) = (Rc::clone(&client.worker), Watch(Rc::clone(client)));
    // In a box that ends with the head: a stream would keep its room to its end.
    let served = Box::pin(middleware::wrap(worker, Rc::clone(peer), request, watch)).await;
    let Ok(response) = served else { return Sent::Lost };
    let sent = send(client, response, asked).await;
    if let Some(tunnel) = client.tunnel.take().filter(|_| sent != Sent::Lost) {
        let from_client = client.io.take_ahead(|ahead| ahead.split().freeze());
        let timeouts = client.worker.shared.timeouts();
        let unread = Box::new(client.io.unread_while_open());
        let limits = Limits { idle: timeouts.idle, send: timeouts.send, unread };
        let mut was_blocked = false;
        let tell = |blocked| {
            client.tunnel_moved();
            if std::mem::replace(&mut was_blocked, blocked) != blocked {
                client.io.reset_on_close(blocked);
            }
        };
        let scratch = &client.worker.scratch;
        tunnel.run(&mut client.io.clone(), from_client, limits, scratch, tell).await;
        if was_blocked {
            return Sent::Lost;
        }
        return Sent::Close;
    }
    sent
}

/// Responds to a head that cannot be read.
async fn reject<T: ClientStream + 'static>(client: &Rc<Client<T>>, reason: Reason) -> Sent {
    let watch = Watch(Rc::clone(client));
    let response: Response<ResponseBody<RequestBody<T>, Watch<T>>> =
        unreadable::respond(&client.worker, reason, &watch);
    send(client, response, Asked::UNREADABLE).await
}

async fn send<T: ClientStream + 'static>(
    client: &Rc<Client<T>>,
    response: Response<ResponseBody<RequestBody<T>, Watch<T>>>,
    asked: Asked,
) -> Sent {
    client.relays.set(!matches!(response.body(), ResponseBody::Full(_)));
    let mut sending = Sending::new(client, response, asked);
    poll_fn(|context| sending.poll(context)).await
}

/// Ends a connection behind its last response.
async fn close<T: ClientStream>(client: &Client<T>, last: Sent) {
    let still_sends = client.close.get() || !client.is_body_read() || client.io.ahead() > 0;
    let ending = async {
        match last {
            Sent::Lost => {}
            Sent::Truncated => client.io.discard(&client.worker.scratch).await,
            _ if still_sends => client.io.discard(&client.worker.scratch).await,
            _ => client.io.end().await,
        }
    };
    // A place that was given away is needed at once.
    let limit = if client.place.is_lost() { Duration::ZERO } else { DISCARD };
    let _ = tokio::time::timeout(limit, ending).await;
}
