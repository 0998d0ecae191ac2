//! Response middleware: OPTIONS, CORS, HEAD over HTTP/2.

use std::{
    future::Future,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header};
use http_body::Body;
use pin_project_lite::pin_project;

use crate::{
    client::io::ClientWatch,
    published::Published,
    request::{
        accounting::Accounting,
        body::{ResponseBody, ResponseResult, Truncated},
        head,
        serve::serve,
    },
    worker::Worker,
};
use sans_io::{
    api::{
        cors::{self, Cors},
        endpoints::{self, NotFound},
    },
    codec::headers,
    seam::End,
};

/// The path under which OPTIONS requests are recorded.
const OPTIONS: &str = "options";

/// Serves one request; see [`serve`]. It responds by itself to every CORS preflight where CORS is
/// configured, and to other OPTIONS requests but those of the generic proxy, of the management API
/// and of API paths without an endpoint; not if the head is malformed.
pub(crate) fn wrap<B, W>(
    worker: Rc<Worker>,
    peer: Rc<str>,
    request: Request<B>,
    watch: W,
) -> Middleware<B, W, impl Future<Output = ResponseResult<B, W>>>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: std::error::Error + 'static,
    W: ClientWatch + Clone + 'static,
{
    // The one look at what is published, until a retry asks for something newer.
    let published = worker.shared.table.load_full();
    let cors = published.settings.cors.as_ref();
    if request.method() == Method::OPTIONS
        && head::check(request.method(), request.uri(), request.version(), request.headers())
            .is_ok()
        && let Some(fields) =
            options(cors.map(AsRef::as_ref), request.uri().path(), request.headers())
    {
        let response = no_content(&worker, &published, request.headers(), fields);
        return Middleware::Preflight { response: Some(response) };
    }
    Middleware::Wrapped {
        cors: cors.map(|cors| (Arc::clone(cors), cors.grant(request.headers()))),
        // Over HTTP/1.1 the body of a response to HEAD is dropped by `http1`; hyper keeps it.
        drop_body: request.method() == Method::HEAD && request.version() == Version::HTTP_2,
        inner: serve(worker, published, peer, request, watch),
    }
}

/// The fields of the response to an OPTIONS request; None: the request is served as any other is.
fn options(cors: Option<&Cors>, path: &str, request: &HeaderMap) -> Option<HeaderMap> {
    let methods = endpoints::allow(path);
    if let Some(cors) = cors.filter(|_| cors::is_preflight(request)) {
        return Some(cors.preflight(request, methods));
    }
    let mut fields = HeaderMap::new();
    if path != "*" {
        // The generic proxy and the management API take OPTIONS as any other method.
        let found = endpoints::find(&Method::OPTIONS, path, request);
        if !matches!(found, Err(NotFound::WrongMethod(_))) {
            return None;
        }
        fields.insert(header::ALLOW, HeaderValue::from_static(methods?));
    }
    if let Some(cors) = cors {
        cors.put(&mut fields, cors.grant(request));
    }
    Some(fields)
}

/// A 204, recorded.
fn no_content<B, W>(
    worker: &Worker,
    published: &Published,
    request: &HeaderMap,
    fields: HeaderMap,
) -> Response<ResponseBody<B, W>> {
    let id = headers::request_id(request).map_or_else(|| worker.new_request_id(), Arc::from);
    let mut response = Response::new(ResponseBody::Full(Bytes::new()));
    *response.status_mut() = StatusCode::NO_CONTENT;
    *response.headers_mut() = fields;
    headers::put_request_id(response.headers_mut(), &id);
    Accounting::new(&worker.shared, published, id, OPTIONS)
        .reject(StatusCode::NO_CONTENT.as_u16(), End::Done);
    response
}

pin_project! {
    /// The future of a response. It is a type of its own, since a box or an async block around the
    /// inner future would cost every request.
    #[project = Stage]
    pub(crate) enum Middleware<B, W, F> {
        // An OPTIONS request; None: the response was taken.
        Preflight { response: Option<Response<ResponseBody<B, W>>> },
        // Any other request.
        Wrapped {
            // The rules, and the origin that they grant; None: CORS is not configured.
            cors: Option<(Arc<Cors>, Option<HeaderValue>)>,
            // It is a HEAD over HTTP/2.
            drop_body: bool,
            #[pin]
            inner: F,
        },
    }
}

impl<B, W, F: Future<Output = ResponseResult<B, W>>> Future for Middleware<B, W, F> {
    type Output = ResponseResult<B, W>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            Stage::Preflight { response } => Poll::Ready(response.take().ok_or(Truncated)),
            Stage::Wrapped { cors, drop_body, inner } => {
                let mut result = ready!(inner.poll(context));
                if let Ok(response) = &mut result {
                    if let Some((cors, granted)) = cors {
                        cors.put(response.headers_mut(), granted.take());
                    }
                    if *drop_body {
                        drop_full_body(response);
                    }
                }
                Poll::Ready(result)
            }
        }
    }
}

/// Replaces the body of a local response by its length. (An engine's response to HEAD has none.)
fn drop_full_body<B, W>(response: &mut Response<ResponseBody<B, W>>) {
    if let ResponseBody::Full(bytes) = response.body_mut() {
        let length = std::mem::take(bytes).len();
        response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
    }
}
