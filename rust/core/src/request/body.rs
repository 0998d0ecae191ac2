//! Response bodies: local ones, and an engine's as it is relayed to one client.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::Response;
use http_body::{Body, Frame, SizeHint};

pub(crate) use crate::request::relayed_body::Truncated;
use crate::{
    client::io::ClientWatch,
    key_watch::KeyWatch,
    request::{
        early_body::{EarlyBody, Next},
        relayed_body::RelayedBody,
    },
};

/// The response to a client; the error ends its connection (HTTP/2: its stream) without one.
pub(crate) type ResponseResult<B, W> = Result<Response<ResponseBody<B, W>>, Truncated>;

/// The body of any response.
pub(crate) enum ResponseBody<B, W> {
    /// A local one, in one piece.
    Full(Bytes),
    /// An engine's, or the management API's.
    Relayed(Box<RelayedBody<B, W>>),
    /// That of a stream whose head has gone before its engine's, which takes its place.
    Early(Box<EarlyBody<B, W>>),
}

impl<B, W> ResponseBody<B, W>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::error::Error + 'static,
    W: ClientWatch,
{
    /// Ready when the response ends before it is whole, because of its key or of a drain. For
    /// whoever cannot send what the body has, and so does not ask it for more.
    pub(crate) fn poll_ended_early(&mut self, context: &Context<'_>) -> Poll<()> {
        match self {
            Self::Full(_) => Poll::Pending,
            Self::Relayed(body) => body.poll_ended_early(context),
            Self::Early(body) => body.poll_ended_early(context),
        }
    }

    /// Another watch over the key of an engine's response; None: the response is a local one.
    pub(crate) fn key_watch(&self) -> Option<KeyWatch> {
        match self {
            Self::Full(_) => None,
            Self::Relayed(body) => Some(body.key_watch()),
            Self::Early(body) => Some(body.key_watch()),
        }
    }
}

impl<B, W> Body for ResponseBody<B, W>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::error::Error + 'static,
    W: ClientWatch + Unpin,
{
    type Data = Bytes;
    type Error = Truncated;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let body = self.get_mut();
        if let Self::Early(early) = body {
            match ready!(early.poll(context)) {
                Some(Ok(Next::Stream(relayed))) => *body = Self::Relayed(relayed),
                Some(Ok(Next::Piece(piece))) => return Poll::Ready(Some(Ok(Frame::data(piece)))),
                Some(Err(truncated)) => return Poll::Ready(Some(Err(truncated))),
                None => return Poll::Ready(None),
            }
        }
        match body {
            Self::Full(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Full(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Self::Relayed(relayed) => relayed.poll(context),
            Self::Early(_) => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Full(bytes) => bytes.is_empty(),
            Self::Relayed(body) => body.is_end_stream(),
            Self::Early(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Relayed(body) => body.size_hint(),
            Self::Early(_) => SizeHint::default(),
        }
    }
}
