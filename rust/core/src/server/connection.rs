//! One client's connection, from its first byte to its last: TLS or plain, HTTP/1.1 or HTTP/2, a
//! tunnel behind a 101, and a lingering close.

use std::{
    future::{Future, poll_fn},
    net::SocketAddr,
    pin::pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::{
    io::AsyncWriteExt,
    net::{TcpStream, UnixStream},
    time::Instant,
};

use crate::{
    client::{
        io::{ClientIo, ClientStream},
        places::{Place, Wait},
        tls,
    },
    server::{
        http1::{self, DISCARD},
        http2,
    },
    shared::{Shared, UNIX_PEER},
    timer::PhaseTimer,
    worker::{Admitted, Worker},
};

/// The response to clients that speak plain HTTP to a port that speaks TLS.
const SPEAK_HTTPS: &str = "This port speaks HTTPS. Send the same request with an https:// URL.\n";

/// Serves a TCP client until it ends or its place is given to somebody else.
pub(crate) async fn serve_tcp(
    worker: Rc<Worker>,
    stream: TcpStream,
    peer: SocketAddr,
    admitted: Admitted,
) {
    let peer = peer.ip().to_string().into();
    if worker.shared.tls.is_none() {
        admitted.place.run(serve(worker, stream, peer, false, &admitted)).await;
    } else {
        // Boxed: it needs much more room, which would be a part of every plain connection, too.
        Box::pin(admitted.place.run(serve_tls(worker, stream, peer, &admitted))).await;
    }
}

/// Serves a Unix socket's client until it ends or its place is given to somebody else.
pub(crate) async fn serve_unix(worker: Rc<Worker>, stream: UnixStream, admitted: Admitted) {
    admitted.place.run(serve(worker, stream, UNIX_PEER.into(), false, &admitted)).await;
}

/// Serves a client of a TLS port, once it has shaken hands.
async fn serve_tls(worker: Rc<Worker>, stream: TcpStream, peer: Rc<str>, admitted: &Admitted) {
    let shared = Arc::clone(&worker.shared);
    let Some(tls) = &shared.tls else { return };
    let place = &admitted.place;
    place.shakes_hands();
    let begins = before_a_request(&shared, place, tls::begins_handshake(&stream), || {
        // What has come already may not have been told to this task yet.
        let waits = !stream.is_readable();
        if waits {
            place.waits(Wait::Stranger);
        }
        waits
    });
    match begins.await {
        Some(Ok(true)) => {}
        Some(Ok(false)) => return reject_plain(&worker, stream).await,
        Some(Err(_)) | None => return,
    }
    // A failed handshake has sent its reason, as an alert.
    let waits = || {
        place.waits(Wait::Stranger);
        true
    };
    let accepted = before_a_request(&shared, place, tls.accept(stream), waits).await;
    if let Some(Ok(stream)) = accepted {
        let http2 = tls::agreed_on_http2(&stream);
        serve(worker, stream, peer, http2, admitted).await;
    }
}

/// Responds to a client that speaks plain HTTP to a port that speaks TLS.
async fn reject_plain(worker: &Worker, stream: TcpStream) {
    let mut io = ClientIo::new(stream);
    let head = "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: \
        close\r\n";
    let response = format!("{head}Content-Length: {}\r\n\r\n{SPEAK_HTTPS}", SPEAK_HTTPS.len());
    let respond = async {
        let _ = io.write_all(response.as_bytes()).await;
        io.discard(&worker.scratch).await;
    };
    let _ = tokio::time::timeout(DISCARD, respond).await;
}

/// Waits for something that a client must do before its first request. None: the limit for a
/// request's head has passed, the drain waits no longer, or the place is lost. `waits` is called when the
/// work does not come on: whether there is nothing to do but to wait.
async fn before_a_request<T>(
    shared: &Shared,
    place: &Place,
    work: impl Future<Output = T>,
    waits: impl Fn() -> bool,
) -> Option<T> {
    let (mut work, mut ending) = (pin!(work), pin!(shared.drain_changed.notified()));
    let (since, mut timer) = (Instant::now(), PhaseTimer::default());
    let (limit, mut registered) = (shared.timeouts().head, false);
    poll_fn(|context| {
        if let Poll::Ready(done) = work.as_mut().poll(context) {
            return Poll::Ready(Some(done));
        }
        // Registered once, the task is woken when the drain begins; then anew, since its limits may
        // come nearer.
        if !registered {
            registered = true;
            let _ = ending.as_mut().poll(context);
        }
        while shared.is_draining() && ending.as_mut().poll(context).is_ready() {
            ending.set(shared.drain_changed.notified());
        }
        if waits() && (place.is_lost() || ends_idle(shared, context, &mut timer)) {
            return Poll::Ready(None);
        }
        timer.poll(context, since, limit).map(|()| None)
    })
    .await
}

/// Whether a drain ends what has no request. Where it will only later, `timer` wakes the task then.
fn ends_idle(shared: &Shared, context: &mut Context<'_>, timer: &mut PhaseTimer) -> bool {
    let waits = |left| timer.poll(context, Instant::now(), Some(left)).is_pending();
    shared.is_draining() && !shared.idle_left().is_some_and(waits)
}

/// Serves a client of a stream without TLS, or behind it. `http2`: the handshake has agreed on it;
/// else the client's first bytes decide.
async fn serve<T: ClientStream + 'static>(
    worker: Rc<Worker>,
    stream: T,
    peer: Rc<str>,
    http2: bool,
    admitted: &Admitted,
) {
    let (io, begun, place) = (ClientIo::new(stream), Instant::now(), &admitted.place);
    let http2 = http2 || {
        let begins = io.begins_with(http2::PREFACE, &worker.scratch);
        // What has come already may not have been told to this task yet.
        let waits = || {
            let waits = !io.is_readable();
            if waits {
                place.waits(Wait::Stranger);
                place.ends_by_itself(true);
            }
            waits
        };
        let Some(begins) = before_a_request(&worker.shared, place, begins, waits).await else {
            return;
        };
        place.ends_by_itself(false);
        begins
    };
    if !http2 {
        return http1::serve(worker, io, peer, begun, admitted).await;
    }
    // The kept places are for probes, which speak HTTP/1.1; and of a place that is lost only a
    // request that has come whole is worth the wait.
    if admitted.is_kept || place.is_lost() {
        return;
    }
    // Boxed, as TLS is.
    let place = Rc::clone(place);
    let served = Box::pin(http2::serve(Rc::clone(&worker), io.clone(), peer, place)).await;
    if served.is_err() {
        let _ = tokio::time::timeout(DISCARD, io.discard(&worker.scratch)).await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;
    use sans_io::test_support;

    /// A client of whom nothing has come is evicted, and then `sent` comes; what he gets.
    async fn evicted_before(sent: &[u8]) -> String {
        let config = test_support::config().to_string();
        let plane = crate::DataPlane::new(config.as_bytes(), vec![]).unwrap();
        let worker = Rc::new(Worker::new(plane.shared(), &Arc::default(), 1));
        let (mut client, stream) = UnixStream::pair().unwrap();
        let admitted = worker.admit(None).unwrap();
        let mut serving = pin!(serve_unix(Rc::clone(&worker), stream, admitted));
        assert!(poll_fn(|context| Poll::Ready(serving.as_mut().poll(context))).await.is_pending());
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        assert!(worker.evict(&worker.places));
        client.write_all(sent).await.unwrap();
        serving.await;
        let mut answer = String::new();
        let _ = client.read_to_string(&mut answer).await;
        answer
    }

    #[tokio::test(flavor = "local")]
    async fn a_first_request_that_comes_in_the_moment_of_the_eviction_is_served() {
        let answer = evicted_before(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer:?}");
        assert!(answer.contains("connection: close"), "{answer:?}");
    }

    #[tokio::test(flavor = "local")]
    async fn what_is_no_whole_request_then_is_not_waited_for() {
        for sent in [b"".as_slice(), b"P", b"GET /healthz HTTP/1.1\r\nHo", http2::PREFACE] {
            assert_eq!(evicted_before(sent).await, "");
        }
    }
}
