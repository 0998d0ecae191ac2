//! One client's connection, from its first byte to its last: TLS or plain, HTTP/1.1 or HTTP/2, a
//! tunnel behind a 101, and a lingering close.

use std::{
    future::{Future, poll_fn},
    net::SocketAddr,
    pin::pin,
    rc::Rc,
    sync::Arc,
    task::Poll,
};

use tokio::{
    io::AsyncWriteExt,
    net::{TcpStream, UnixStream},
    time::Instant,
};

use crate::{
    client::{
        io::{ClientIo, ClientStream},
        places::Wait,
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
    let begins = before_a_request(&shared, tls::begins_handshake(&stream), || {
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
    let accepted = before_a_request(&shared, tls.accept(stream), waits).await;
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
/// request's head has passed, or the drain has begun. `waits` is called when the work does not come
/// on: whether there is nothing to do but to wait.
async fn before_a_request<T>(
    shared: &Shared,
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
        // Registered once, the task is woken when the drain begins.
        if !registered {
            registered = true;
            let _ = ending.as_mut().poll(context);
        }
        if waits() && shared.is_draining() {
            return Poll::Ready(None);
        }
        timer.poll(context, since, limit).map(|()| None)
    })
    .await
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
    let (io, begun) = (ClientIo::new(stream), Instant::now());
    let http2 = http2 || {
        let begins = io.begins_with(http2::PREFACE, &worker.scratch);
        // What has come already may not have been told to this task yet.
        let waits = || {
            let waits = !io.is_readable();
            if waits {
                admitted.place.waits(Wait::Stranger);
            }
            waits
        };
        let begins = before_a_request(&worker.shared, begins, waits).await;
        let Some(begins) = begins else { return };
        begins
    };
    if !http2 {
        return http1::serve(worker, io, peer, begun, admitted).await;
    }
    // The kept places are for probes, which speak HTTP/1.1.
    if admitted.is_kept {
        return;
    }
    // Boxed, as TLS is.
    let place = Rc::clone(&admitted.place);
    let served = Box::pin(http2::serve(Rc::clone(&worker), io.clone(), peer, place)).await;
    if served.is_err() {
        let _ = tokio::time::timeout(DISCARD, io.discard(&worker.scratch)).await;
    }
}
