//! The body of a request, read from its connection as it is asked for.

use std::{
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::{client::io::ClientStream, server::http1::client::Client};
use sans_io::codec::http1::{Chunk, Decoder, WireError};

/// A rest that is longer than this is read in large pieces, in bytes.
const LONG: u64 = 8 * 1024;

/// The body of the request that a connection carries now.
pub(crate) struct RequestBody<T>(pub(super) Rc<Client<T>>);

/// A body that has no end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    /// Its framing is malformed.
    #[error("the body's framing is malformed")]
    Malformed(#[source] io::Error),
    /// The client has left.
    #[error("the client left inside its body")]
    Left,
}

impl From<WireError> for BodyError {
    fn from(error: WireError) -> Self {
        Self::Malformed(io::Error::new(io::ErrorKind::InvalidData, error))
    }
}

impl<T: ClientStream> Body for RequestBody<T> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let client = &self.0;
        let decoder = &mut *client.decoder.borrow_mut();
        loop {
            if client.io.ahead() > 0 {
                let piece = client.io.take_ahead(|ahead| decoder.decode(ahead))?;
                client.body_came(piece.data.len(), decoder.is_done());
                if !piece.data.is_empty() {
                    return Poll::Ready(Some(Ok(Frame::data(piece.data))));
                }
            }
            if decoder.is_done() {
                return Poll::Ready(None);
            }
            client.send_continue(context);
            let more = match decoder {
                Decoder::Length(rest) | Decoder::Chunked(Chunk::Data(rest)) if *rest > LONG => {
                    client.io.poll_fill_large(context, &client.worker.scratch)
                }
                _ => client.io.poll_fill(context, &client.worker.scratch),
            };
            match more {
                Poll::Ready(true) => {}
                Poll::Ready(false) => return Poll::Ready(Some(Err(BodyError::Left))),
                Poll::Pending => {
                    client.waits_for_client();
                    return Poll::Pending;
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_body_read()
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.0.decoder.borrow().remaining();
        rest.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
