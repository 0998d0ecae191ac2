//! What lies around every answer, whoever gives it: OPTIONS, CORS, and what HTTP/2 leaves to us.

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
    request::{
        accounting::Ticket,
        relay::{AnswerBody, BrokenOff},
        route,
    },
    worker::Worker,
};
use sans_io::{
    api::{
        cors::{self, Cors},
        endpoints::{self, Found},
    },
    codec::headers,
    seam::documents::End,
};

/// The path under which OPTIONS requests are recorded.
const OPTIONS: &str = "options";

type Answer<B, W> = Result<Response<AnswerBody<B, W>>, BrokenOff>;

/// Answers one request; see [`route::answer`].
pub(crate) fn answer<B, W>(
    worker: Rc<Worker>,
    peer: Rc<str>,
    request: Request<B>,
    watch: W,
) -> Answering<B, W, impl Future<Output = Answer<B, W>>>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::error::Error + 'static,
    W: ClientWatch + Clone,
{
    let cors = worker.shared.cors.as_ref();
    if request.method() == Method::OPTIONS
        && let Some(fields) =
            options(cors.map(AsRef::as_ref), request.uri().path(), request.headers())
    {
        watch.leave_unread(!request.body().is_end_stream());
        let response = no_content(&worker, request.headers(), fields);
        return Answering::Ours { response: Some(response) };
    }
    Answering::Theirs {
        cors: cors.map(|cors| (Arc::clone(cors), cors.grant(request.headers()))),
        // hyper drops the body of an answer to HEAD over HTTP/1.1 alone.
        drop_body: request.method() == Method::HEAD && request.version() == Version::HTTP_2,
        answer: route::answer(worker, peer, request, watch),
    }
}

/// The fields of the answer to an OPTIONS request; None: others answer it.
fn options(cors: Option<&Cors>, path: &str, request: &HeaderMap) -> Option<HeaderMap> {
    let methods = endpoints::allow(path);
    if let Some(cors) = cors.filter(|_| cors::is_preflight(request)) {
        return Some(cors.preflight(request, methods));
    }
    let mut fields = HeaderMap::new();
    if path != "*" {
        // The generic proxy passes OPTIONS on as any method.
        if !matches!(endpoints::find(&Method::OPTIONS, path), Found::WrongMethod(_)) {
            return None;
        }
        fields.insert(header::ALLOW, HeaderValue::from_static(methods?));
    }
    if let Some(cors) = cors {
        cors.put(&mut fields, cors.grant(request));
    }
    Some(fields)
}

fn no_content<B, W>(
    worker: &Worker,
    request: &HeaderMap,
    fields: HeaderMap,
) -> Response<AnswerBody<B, W>> {
    let id = headers::request_id(request).map_or_else(|| worker.new_request_id(), Arc::from);
    let mut response = Response::new(AnswerBody::Full(Bytes::new()));
    *response.status_mut() = StatusCode::NO_CONTENT;
    *response.headers_mut() = fields;
    headers::put_request_id(response.headers_mut(), &id);
    Ticket::new(&worker.shared, id, OPTIONS).refused(StatusCode::NO_CONTENT.as_u16(), End::Done);
    response
}

pin_project! {
    /// An answer on its way, kept in one piece: a box, or an async block around it, would cost
    /// every request.
    #[project = Stage]
    pub(crate) enum Answering<B, W, F> {
        Ours { response: Option<Response<AnswerBody<B, W>>> },
        Theirs {
            cors: Option<(Arc<Cors>, Option<HeaderValue>)>,
            drop_body: bool,
            #[pin]
            answer: F,
        },
    }
}

impl<B, W, F: Future<Output = Answer<B, W>>> Future for Answering<B, W, F> {
    type Output = Answer<B, W>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            Stage::Ours { response } => Poll::Ready(response.take().ok_or(BrokenOff)),
            Stage::Theirs { cors, drop_body, answer } => {
                let mut answer = ready!(answer.poll(context));
                if let Ok(response) = &mut answer {
                    if let Some((cors, granted)) = cors {
                        cors.put(response.headers_mut(), granted.take());
                    }
                    if *drop_body {
                        drop_full_body(response);
                    }
                }
                Poll::Ready(answer)
            }
        }
    }
}

/// Leaves of an answer of ours what HEAD asks for. (An engine's answer to HEAD has no body.)
fn drop_full_body<B, W>(response: &mut Response<AnswerBody<B, W>>) {
    if let AnswerBody::Full(bytes) = response.body_mut() {
        let length = std::mem::take(bytes).len();
        response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
    }
}
