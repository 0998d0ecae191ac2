//! One client's connection, from its first byte to its last: TLS or plain, HTTP/1.1 or HTTP/2, a
//! tunnel behind a 101, and a lingering close.

use std::{
    future::{Future, poll_fn},
    net::SocketAddr,
    pin::{Pin, pin},
    rc::Rc,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpStream, UnixStream},
    time::Instant,
};

use crate::{
    client::{
        io::{ClientIo, ClientStream, ClientWatch, StreamWatch},
        tls,
    },
    server::{graceful::until_served, http2, middleware},
    shared::{Shared, UNIX_PEER},
    timer::PhaseTimer,
    worker::{ConnectionGuard, Worker},
};

/// The time for which bytes of a client are discarded behind the last response (a lingering close).
/// A socket that is closed with unread bytes is reset, and the client may lose the response.
const DISCARD: Duration = Duration::from_secs(2);

/// The response to clients that speak plain HTTP to a port that speaks TLS.
const SPEAK_HTTPS: &str = "This port speaks HTTPS. Send the same request with an https:// URL.\n";

/// Serves a TCP client to its end.
pub(crate) async fn serve_tcp(worker: Rc<Worker>, stream: TcpStream, peer: SocketAddr) {
    let _guard = ConnectionGuard::new(Rc::clone(&worker));
    let peer = peer.ip().to_string().into();
    if worker.shared.tls.is_none() {
        serve(worker, stream, peer, false).await;
    } else {
        // Boxed: it needs much more room, which would be a part of every plain connection, too.
        Box::pin(serve_tls(worker, stream, peer)).await;
    }
}

/// Serves a Unix socket's client to its end.
pub(crate) async fn serve_unix(worker: Rc<Worker>, stream: UnixStream) {
    let _guard = ConnectionGuard::new(Rc::clone(&worker));
    serve(worker, stream, UNIX_PEER.into(), false).await;
}

/// Serves a client of a TLS port, once it has shaken hands.
async fn serve_tls(worker: Rc<Worker>, stream: TcpStream, peer: Rc<str>) {
    let shared = Arc::clone(&worker.shared);
    let Some(tls) = &shared.tls else { return };
    match before_a_request(&shared, tls::begins_handshake(&stream)).await {
        Some(Ok(true)) => {}
        Some(Ok(false)) => return reject_plain(stream).await,
        Some(Err(_)) | None => return,
    }
    // A failed handshake has sent its reason, as an alert.
    if let Some(Ok(stream)) = before_a_request(&shared, tls.accept(stream)).await {
        let http2 = tls::agreed_on_http2(&stream);
        serve(worker, stream, peer, http2).await;
    }
}

/// Responds to a client that speaks plain HTTP to a port that speaks TLS.
async fn reject_plain(stream: TcpStream) {
    let (mut io, watch) = ClientIo::new(stream);
    let head = "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: \
        close\r\n";
    let response = format!("{head}Content-Length: {}\r\n\r\n{SPEAK_HTTPS}", SPEAK_HTTPS.len());
    let respond = async {
        let _ = io.write_all(response.as_bytes()).await;
        watch.discard().await;
    };
    let _ = tokio::time::timeout(DISCARD, respond).await;
}

/// Waits for something that a client must do before its first request. None: the limit for a
/// request's head has passed, or the drain has begun.
async fn before_a_request<T>(shared: &Shared, work: impl Future<Output = T>) -> Option<T> {
    let (mut work, mut ending) = (pin!(work), pin!(shared.drain_changed.notified()));
    let (since, mut timer) = (Instant::now(), PhaseTimer::default());
    poll_fn(|context| {
        if let Poll::Ready(done) = work.as_mut().poll(context) {
            return Poll::Ready(Some(done));
        }
        if ending.as_mut().poll(context).is_ready() || shared.is_draining() {
            return Poll::Ready(None);
        }
        timer.poll(context, since, shared.config.timeouts.head).map(|()| None)
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
) {
    let (io, watch) = ClientIo::new(stream);
    let http2 = http2 || {
        let Some(begins) =
            before_a_request(&worker.shared, watch.begins_with(http2::PREFACE)).await
        else {
            return;
        };
        begins
    };
    let must_discard = if http2 {
        // Boxed, as TLS is.
        Box::pin(http2::serve(worker, io, peer)).await.is_err()
    } else {
        serve_http1(worker, io, watch.clone(), peer).await;
        watch.must_discard()
    };
    if must_discard {
        let _ = tokio::time::timeout(DISCARD, watch.discard()).await;
    }
}

/// Serves HTTP/1.1, and the tunnel that may follow it.
async fn serve_http1<T: ClientStream + 'static>(
    worker: Rc<Worker>,
    io: ClientIo<T>,
    watch: StreamWatch<T>,
    peer: Rc<str>,
) {
    let shared = Arc::clone(&worker.shared);
    let service = {
        let watch = watch.clone();
        service_fn(move |request| {
            middleware::wrap(Rc::clone(&worker), Rc::clone(&peer), request, watch.clone())
        })
    };
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(shared.config.timeouts.head);
    let mut connection = builder.serve_connection(TokioIo::new(io), service);
    // An error is the client's: it left, or sent no HTTP (hyper has responded with a 400 then).
    let served = until_served(&shared, |context, end| {
        if end {
            Pin::new(&mut connection).graceful_shutdown();
        }
        (Pin::new(&mut connection).poll(context), watch.must_close())
    })
    .await;
    if let Some(tunnel) = watch.take_tunnel() {
        // Behind a 101 hyper leaves the stream open, and returns what it has read behind the
        // request.
        let parts = connection.into_parts();
        tunnel.run(&mut parts.io.into_inner(), parts.read_buf, shared.config.timeouts.idle).await;
        watch.close_after_response();
    } else if served.is_ok() {
        // hyper also leaves the stream open behind a request that asked for another protocol in
        // vain.
        let _ = tokio::time::timeout(DISCARD, watch.end()).await;
    }
}
