//! A response on its way to the client: its head, its framing, and its body piece by piece.

use std::{
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use bytes::{BufMut, Bytes, BytesMut};
use http::{Method, Response, StatusCode, Version, header, response::Parts};
use http_body::Body;

use crate::{
    client::io::{ClientStream, ClientWatch},
    request::body::{ResponseBody, Truncated},
    server::http1::{
        body::RequestBody,
        client::{Client, Lost, Watch},
    },
};
use sans_io::codec::{headers::put_field, http1::SizeLine};

/// What the request says about its response.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    /// It is a HEAD, whose response has no body.
    head_only: bool,
    /// It is HTTP/1.0, which has no chunks.
    is_http_1_0: bool,
    /// The connection may carry another request.
    keep_alive: bool,
}

impl Asked {
    /// A request that cannot be read.
    pub(super) const UNREADABLE: Self =
        Self { head_only: false, is_http_1_0: false, keep_alive: false };

    pub(super) fn new(method: &Method, version: Version, keep_alive: bool) -> Self {
        let (head_only, is_http_1_0) = (*method == Method::HEAD, version == Version::HTTP_10);
        Self { head_only, is_http_1_0, keep_alive }
    }
}

/// How the end of a body is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    /// There is no body.
    Bodiless,
    /// By its length; this many bytes are still to come.
    Length(u64),
    Chunked,
    /// By the connection's end.
    UntilClose,
}

impl Framing {
    fn of(status: StatusCode, body: &impl Body, asked: Asked) -> Self {
        let has_none = status.is_informational()
            || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        if asked.head_only || has_none {
            return Self::Bodiless;
        }
        match body.size_hint().exact() {
            Some(length) => Self::Length(length),
            None if body.is_end_stream() => Self::Length(0),
            None if asked.is_http_1_0 => Self::UntilClose,
            None => Self::Chunked,
        }
    }
}

/// The end of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// The connection may carry another request.
    KeepAlive,
    /// It may not.
    Close,
    /// The response is not whole, and only the connection's end tells so.
    Truncated,
    /// The client is gone.
    Lost,
}

/// A response that is being sent.
pub(super) struct Sending<T: ClientStream> {
    client: Rc<Client<T>>,
    body: ResponseBody<RequestBody<T>, Watch<T>>,
    /// None: it was written.
    head: Option<Parts>,
    framing: Framing,
    keep_alive: bool,
    /// The response's last byte was written, or waits to be.
    whole: bool,
}

impl<T: ClientStream> Sending<T> {
    /// A response of which nothing was sent yet.
    pub(super) fn new(
        client: &Rc<Client<T>>,
        response: Response<ResponseBody<RequestBody<T>, Watch<T>>>,
        asked: Asked,
    ) -> Self {
        client.place.works();
        let (mut head, body) = response.into_parts();
        let framing = Framing::of(head.status, &body, asked);
        if let Some(length @ 1..) = body.size_hint().exact().filter(|_| asked.head_only) {
            head.headers.entry(header::CONTENT_LENGTH).or_insert(length.into());
        }
        // The rest of a body that was not read would be taken for the next request.
        let keep_alive = asked.keep_alive
            && framing != Framing::UntilClose
            && !client.close.get()
            && !client.worker.shared.is_draining()
            && (client.is_body_read() || client.skip_body());
        let client = Rc::clone(client);
        Self { client, body, head: Some(head), framing, keep_alive, whole: false }
    }

    /// Sends the response to its end.
    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Sent> {
        loop {
            // No piece is asked for before the client has taken the one before it.
            match self.client.poll_written(context) {
                Poll::Ready(Ok(())) if self.whole => {
                    // What went wrong behind the head may end a connection that was to be kept.
                    let keep_alive = self.keep_alive && !self.client.close.get();
                    return Poll::Ready(if keep_alive { Sent::KeepAlive } else { Sent::Close });
                }
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(Lost)) => return Poll::Ready(Sent::Lost),
                // The body, which is not polled now, would see the client leave and the key end.
                Poll::Pending => {
                    let watch = Watch(Rc::clone(&self.client));
                    let left = watch.poll_left(context);
                    let ended = self.body.poll_ended_early(context);
                    let is_over = left.is_ready() || ended.is_ready();
                    return if is_over { Poll::Ready(Sent::Lost) } else { Poll::Pending };
                }
            }
            let piece = match self.poll_body(context) {
                // The connection's end, where it is all that tells the body's, must not look whole.
                Poll::Ready(Some(Err(_))) if self.framing == Framing::UntilClose => {
                    self.client.io.reset_on_close(true);
                    return Poll::Ready(Sent::Lost);
                }
                Poll::Ready(Some(Err(_))) => return Poll::Ready(Sent::Truncated),
                Poll::Ready(Some(Ok(piece))) => Some(piece),
                Poll::Ready(None) => None,
                Poll::Pending if self.head.is_some() => Some(Bytes::new()),
                Poll::Pending => return Poll::Pending,
            };
            if let Err(sent) = self.write(context, piece) {
                return Poll::Ready(sent);
            }
        }
    }

    /// The next piece of the body; None: it has ended.
    fn poll_body(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Truncated>>> {
        if matches!(self.framing, Framing::Bodiless | Framing::Length(0)) {
            return Poll::Ready(None);
        }
        let frame = Pin::new(&mut self.body).poll_frame(context);
        // Nobody here sends trailers.
        frame.map_ok(|frame| frame.into_data().unwrap_or_default())
    }

    /// Writes the head, unless that was done, and a piece; None: the body has ended.
    fn write(&mut self, context: &mut Context<'_>, piece: Option<Bytes>) -> Result<(), Sent> {
        let ends = piece.is_none();
        let piece = piece.unwrap_or_default();
        let head = self.head.take();
        let framing = self.framing;
        let mut last: &'static [u8] = b"";
        self.whole = match &mut self.framing {
            Framing::Bodiless => true,
            Framing::UntilClose => ends,
            Framing::Length(rest) => {
                // A body that breaks its own promise.
                let left = rest.checked_sub(piece.len() as u64).ok_or(Sent::Truncated)?;
                *rest = left;
                if ends && left > 0 {
                    return Err(Sent::Truncated);
                }
                left == 0
            }
            Framing::Chunked => {
                let ends = ends || self.body.is_end_stream();
                last = match (piece.is_empty(), ends) {
                    (true, true) => b"0\r\n\r\n",
                    (false, true) => b"\r\n0\r\n\r\n",
                    (true, false) => b"",
                    (false, false) => b"\r\n",
                };
                ends
            }
        };
        let size = (framing == Framing::Chunked && !piece.is_empty()).then_some(piece.len());
        if head.is_none() && piece.is_empty() && last.is_empty() {
            return Ok(());
        }
        let put_first = |out: &mut BytesMut| {
            if let Some(head) = head {
                self.put_head(out, &head, framing);
            }
            if let Some(size) = size {
                out.put_slice(SizeLine::new(size).as_bytes());
            }
        };
        self.client.write(context, put_first, piece, last).map_err(|Lost| Sent::Lost)
    }

    /// Writes a head, with the fields of the connection and of the body's framing.
    fn put_head(&self, out: &mut BytesMut, head: &Parts, framing: Framing) {
        put_status(out, head.status);
        let switches = head.status == StatusCode::SWITCHING_PROTOCOLS;
        let mut has_date = false;
        for (name, value) in &head.headers {
            if name == header::CONNECTION && !switches {
                continue;
            }
            has_date |= name == header::DATE;
            put_field(out, name.as_str().as_bytes(), value.as_bytes());
        }
        match framing {
            Framing::Bodiless | Framing::UntilClose => {}
            Framing::Length(length) => {
                let mut digits = itoa::Buffer::new();
                put_field(out, b"content-length", digits.format(length).as_bytes());
            }
            Framing::Chunked => out.put_slice(b"transfer-encoding: chunked\r\n"),
        }
        if !has_date {
            self.client.worker.put_date(out);
        }
        if !switches {
            let idle = self.client.worker.shared.timeouts().keep_alive;
            match idle.filter(|_| self.keep_alive) {
                Some(limit) => {
                    out.put_slice(b"connection: keep-alive\r\nkeep-alive: timeout=");
                    out.put_slice(itoa::Buffer::new().format(limit.as_secs()).as_bytes());
                    out.put_slice(b"\r\n");
                }
                None if self.keep_alive => out.put_slice(b"connection: keep-alive\r\n"),
                None => out.put_slice(b"connection: close\r\n"),
            }
        }
        out.put_slice(b"\r\n");
    }
}

/// The status line.
fn put_status(out: &mut BytesMut, status: StatusCode) {
    if status == StatusCode::OK {
        out.put_slice(b"HTTP/1.1 200 OK\r\n");
        return;
    }
    out.put_slice(b"HTTP/1.1 ");
    out.put_slice(status.as_str().as_bytes());
    out.put_u8(b' ');
    out.put_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    out.put_slice(b"\r\n");
}
