//! One client's connection, from its first byte to its last: TLS or not, HTTP/1.1 or HTTP/2, and
//! what may follow them.

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
    worker::{Counted, Worker},
};

/// For how long what a refused client still sends is read, so that it can read its answer.
const DISCARD: Duration = Duration::from_secs(2);

/// Told to clients that speak plain HTTP to a port that speaks TLS.
const SPEAK_HTTPS: &str = "This port speaks HTTPS. Send the same request with an https:// URL.\n";

/// Serves a TCP client to its end.
pub(crate) async fn serve_tcp(worker: Rc<Worker>, stream: TcpStream, peer: SocketAddr) {
    let _counted = Counted::new(Rc::clone(&worker));
    let peer = peer.ip().to_string().into();
    if worker.shared.tls.is_none() {
        serve(worker, stream, peer, false).await;
    } else {
        // In a box: it needs much more room than a plain connection, which would have it too.
        Box::pin(serve_tls(worker, stream, peer)).await;
    }
}

/// Serves a Unix socket's client to its end.
pub(crate) async fn serve_unix(worker: Rc<Worker>, stream: UnixStream) {
    let _counted = Counted::new(Rc::clone(&worker));
    serve(worker, stream, UNIX_PEER.into(), false).await;
}

async fn serve_tls(worker: Rc<Worker>, stream: TcpStream, peer: Rc<str>) {
    let shared = Arc::clone(&worker.shared);
    let Some(tls) = &shared.tls else { return };
    match before_a_request(&shared, tls::begins_handshake(&stream)).await {
        Some(Ok(true)) => {}
        Some(Ok(false)) => return refuse_plain(stream).await,
        Some(Err(_)) | None => return,
    }
    // A failed handshake has told the client why, by an alert.
    if let Some(Ok(stream)) = before_a_request(&shared, tls.accept(stream)).await {
        let http2 = tls::agreed_on_http2(&stream);
        serve(worker, stream, peer, http2).await;
    }
}

/// Tells a client that speaks plain HTTP to a port that speaks TLS why it gets no further.
async fn refuse_plain(stream: TcpStream) {
    let (mut io, watch) = ClientIo::new(stream);
    let head = "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: \
        close\r\n";
    let answer = format!("{head}Content-Length: {}\r\n\r\n{SPEAK_HTTPS}", SPEAK_HTTPS.len());
    let tell = async {
        let _ = io.write_all(answer.as_bytes()).await;
        watch.discard().await;
    };
    let _ = tokio::time::timeout(DISCARD, tell).await;
}

/// Waits for something that a client must do before its first request. None: it did not within the
/// time that a request's head may take, or the drain has begun.
async fn before_a_request<T>(shared: &Shared, work: impl Future<Output = T>) -> Option<T> {
    let (mut work, mut ending) = (pin!(work), pin!(shared.ending.notified()));
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

/// Serves a client whose bytes are plain by now. `http2`: it was agreed on; else its first bytes
/// tell.
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
        // In a box, as TLS is.
        Box::pin(http2::serve(worker, io, peer)).await.is_err()
    } else {
        serve_http1(worker, io, watch.clone(), peer).await;
        watch.must_discard()
    };
    if must_discard {
        let _ = tokio::time::timeout(DISCARD, watch.discard()).await;
    }
}

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
    // An error is the client's: it left, or what it sent is no HTTP (hyper has answered then).
    let served = until_served(&shared, |context, end| {
        if end {
            Pin::new(&mut connection).graceful_shutdown();
        }
        (Pin::new(&mut connection).poll(context), watch.must_close())
    })
    .await;
    if let Some(tunnel) = watch.take_tunnel() {
        // Behind a 101 hyper leaves the stream open, and hands over what it had read behind the
        // request.
        let parts = connection.into_parts();
        tunnel.run(&mut parts.io.into_inner(), parts.read_buf, shared.config.timeouts.idle).await;
        watch.close_after_response();
    } else if served.is_ok() {
        // Nor does hyper end it behind a request that asked for another protocol in vain.
        let _ = tokio::time::timeout(DISCARD, watch.end()).await;
    }
}
