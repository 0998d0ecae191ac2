//! A request's body on its way from the client to an engine: read, scanned, kept for a second instance, spliced.
//!
//! Every piece is scanned before it is forwarded. So whatever makes the scan fail is found before the engine has the
//! last byte (or the last chunk), and the engine never holds a whole request that was not found in order.

use std::{
    collections::VecDeque,
    ops::Range,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use http_body::Body;

use crate::{
    error::{ApiError, Cause},
    limits::BodyLimits,
    sniff::{Model, Sniffer},
    upstream::OutQueue,
};

/// A task that has received so much without a pause lets others run.
const BURST: usize = 256 * 1024;
/// Waiting pieces are joined up to this size, since each has a cost of its own: a client may send single bytes.
const JOINED: usize = 4 * 1024;

/// Why a body cannot be had.
#[derive(Debug)]
pub(crate) enum UploadError {
    /// The client left.
    Gone,
    /// The body is refused.
    Refused(ApiError),
}

impl From<ApiError> for UploadError {
    fn from(error: ApiError) -> Self {
        Self::Refused(error)
    }
}

/// The replacement of a byte range of the body.
#[derive(Clone, Debug)]
pub(crate) struct Splice {
    pub(crate) range: Range<u64>,
    pub(crate) text: Bytes,
}

/// One request's body.
#[derive(Debug)]
pub(crate) struct Upload<B> {
    body: B,
    scan: Option<Sniffer>,
    limits: BodyLimits,
    declared: Option<u64>,
    /// Pieces from the client. While the body can be replayed: all of them; later only those that were not sent.
    pieces: VecDeque<Bytes>,
    /// How many of `pieces` this attempt has sent.
    sent: usize,
    /// The position in the body behind the last sent piece.
    sent_bytes: u64,
    received: u64,
    /// Bytes received since the last pause.
    burst: usize,
    /// The client has sent all of it, and it was found in order.
    whole: bool,
    replayable: bool,
    splice: Option<Splice>,
    /// This attempt was handed everything, the end included.
    all_sent: bool,
}

impl<B: Body<Data = Bytes> + Unpin> Upload<B>
where
    B::Error: std::error::Error + 'static,
{
    /// A body that is scanned as a JSON request, or (without `scan`) only carried.
    pub(crate) fn new(body: B, scan: bool, limits: BodyLimits) -> Result<Box<Self>, ApiError> {
        let declared = body.size_hint().exact();
        if declared.is_some_and(|length| length > limits.body) {
            return Err(too_large(limits.body));
        }
        // In a box, since it moves from attempt to attempt and holds the whole state of the scan.
        Ok(Box::new(Self {
            scan: scan.then(|| Sniffer::new(limits.nesting)),
            limits,
            declared,
            pieces: VecDeque::with_capacity(2),
            sent: 0,
            sent_bytes: 0,
            received: 0,
            burst: 0,
            whole: !scan && (declared == Some(0) || body.is_end_stream()),
            replayable: true,
            splice: None,
            all_sent: false,
            body,
        }))
    }

    /// Waits for the next piece, scans and keeps it. Ready(Ok) also when the body is whole.
    pub(crate) fn poll_receive(&mut self, context: &mut Context<'_>) -> Poll<Result<(), UploadError>> {
        if self.whole {
            return Poll::Ready(Ok(()));
        }
        if self.burst > BURST {
            self.burst = 0;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) else {
            self.burst = 0;
            return Poll::Pending;
        };
        let Some(frame) = frame else {
            return Poll::Ready(self.finish().map_err(UploadError::from));
        };
        let piece = match frame {
            // Trailers carry nothing for an engine (spec/wire.md 8.1).
            Ok(frame) => frame.into_data().unwrap_or_default(),
            Err(error) => return Poll::Ready(Err(body_error(&error))),
        };
        Poll::Ready(self.accept(piece).map_err(UploadError::from))
    }

    fn accept(&mut self, piece: Bytes) -> Result<(), ApiError> {
        self.received += piece.len() as u64;
        self.burst += piece.len();
        if self.received > self.limits.body {
            return Err(too_large(self.limits.body));
        }
        if let Some(scan) = &mut self.scan {
            scan.feed(&piece).map_err(|error| ApiError::new(Cause::BadRequest, error.to_string()).closing())?;
        }
        self.keep(piece);
        if self.replayable && self.received > self.limits.replay {
            self.replayable = false;
            self.pieces.drain(..self.sent);
            self.sent = 0;
        }
        if self.declared == Some(self.received) || self.body.is_end_stream() {
            self.finish()?;
        }
        Ok(())
    }

    /// Keeps a piece behind the others, or as a part of the last if that waits too and both are small.
    fn keep(&mut self, piece: Bytes) {
        let waiting = self.pieces.len() > self.sent;
        match self.pieces.back_mut() {
            _ if piece.is_empty() => {}
            Some(last) if waiting && last.len() + piece.len() <= JOINED => {
                let mut joined = std::mem::take(last).try_into_mut().unwrap_or_else(|shared| {
                    let mut joined = BytesMut::with_capacity(JOINED);
                    joined.extend_from_slice(&shared);
                    joined
                });
                joined.extend_from_slice(&piece);
                *last = joined.freeze();
            }
            _ => self.pieces.push_back(piece),
        }
    }

    fn finish(&mut self) -> Result<(), ApiError> {
        if let Some(scan) = &self.scan {
            scan.end().map_err(|error| ApiError::new(Cause::BadRequest, error.to_string()))?;
        }
        self.whole = true;
        Ok(())
    }

    /// Bytes that the client has sent.
    pub(crate) fn received(&self) -> u64 {
        self.received
    }

    /// The model, once it was seen.
    pub(crate) fn model(&self) -> Option<&Model> {
        self.scan.as_ref().and_then(Sniffer::model)
    }

    /// Whether the client asked for a stream, as far as was seen.
    pub(crate) fn asks_stream(&self) -> bool {
        self.scan.as_ref().is_some_and(Sniffer::stream)
    }

    /// Whether the client has sent all of it.
    pub(crate) fn is_whole(&self) -> bool {
        self.whole
    }

    /// Whether all of it was handed to this attempt.
    pub(crate) fn is_sent(&self) -> bool {
        self.all_sent
    }

    /// Whether another attempt can have all of it.
    pub(crate) fn is_replayable(&self) -> bool {
        self.replayable
    }

    /// Whether another attempt could still have all of it once it has come, as far as its length is known.
    pub(crate) fn will_be_replayable(&self) -> bool {
        self.replayable && self.declared.is_none_or(|length| length <= self.limits.replay)
    }

    /// Starts an attempt, with `model` as the engine calls it (None: as the client wrote it). Returns the length of what
    /// will be sent; None: only the end will tell.
    pub(crate) fn start_attempt(&mut self, model: Option<Bytes>) -> Option<u64> {
        debug_assert!(self.replayable || self.sent == 0, "an attempt starts at the body's first byte");
        self.sent = 0;
        self.sent_bytes = 0;
        self.all_sent = false;
        let range = self.model().map(|model| model.range.clone());
        self.splice = model.zip(range).map(|(text, range)| Splice { range, text });
        let length = self.whole.then_some(self.received).or(self.declared)?;
        Some(
            self.splice
                .as_ref()
                .map_or(length, |splice| length - (splice.range.end - splice.range.start) + splice.text.len() as u64),
        )
    }

    /// Hands the pieces that are there to an engine's queue; `chunked`: each as a chunk, with the last chunk behind the
    /// body's end.
    pub(crate) fn send_into(&mut self, queue: &mut OutQueue, chunked: bool) {
        while let Some(piece) = self.pieces.get(self.sent).cloned() {
            if self.replayable {
                self.sent += 1;
            } else {
                self.pieces.pop_front();
            }
            let start = self.sent_bytes;
            self.sent_bytes += piece.len() as u64;
            for part in spliced(piece, start, self.splice.as_ref()).into_iter().flatten() {
                if chunked && !part.is_empty() {
                    queue.push(Bytes::from(format!("{:x}\r\n", part.len())));
                    queue.push(part);
                    queue.push(Bytes::from_static(b"\r\n"));
                } else {
                    queue.push(part);
                }
            }
        }
        if self.whole && !self.all_sent {
            self.all_sent = true;
            if chunked {
                queue.push(Bytes::from_static(b"0\r\n\r\n"));
            }
        }
    }
}

/// A piece that starts at `start`, with the splice's text where its range begins and nothing where it goes on.
fn spliced(piece: Bytes, start: u64, splice: Option<&Splice>) -> [Option<Bytes>; 3] {
    let end = start + piece.len() as u64;
    let Some(splice) = splice.filter(|splice| splice.range.start < end && start < splice.range.end) else {
        return [Some(piece), None, None];
    };
    let before = splice.range.start.saturating_sub(start) as usize;
    let behind = (splice.range.end.min(end) - start) as usize;
    let text = (splice.range.start >= start).then(|| splice.text.clone());
    [Some(piece.slice(..before)), text, Some(piece.slice(behind..))]
}

fn too_large(limit: u64) -> ApiError {
    ApiError::new(
        Cause::TooLarge,
        format!("The request body is larger than {limit} bytes. Send less, or raise the limit max_body_bytes of this server."),
    )
    .closing()
}

/// What hyper says of a body that the client stopped sending, or sent wrongly. A malformed chunk is an I/O error of a
/// certain kind inside hyper's own error.
fn body_error(error: &(dyn std::error::Error + 'static)) -> UploadError {
    let kind = error.source().and_then(|source| source.downcast_ref::<std::io::Error>()).map(std::io::Error::kind);
    if matches!(kind, Some(std::io::ErrorKind::InvalidInput | std::io::ErrorKind::InvalidData)) {
        let message =
            "The request body's chunked framing is broken. Send each chunk's size in hexadecimal, followed by CR LF.";
        return UploadError::Refused(ApiError::new(Cause::BadRequest, message).closing());
    }
    UploadError::Gone
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use http_body::Frame;
    use proptest::prelude::*;

    use super::*;

    /// A body whose pieces are all there at once.
    struct Ready(VecDeque<Bytes>);

    impl Body for Ready {
        type Data = Bytes;
        type Error = std::io::Error;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
            Poll::Ready(self.0.pop_front().map(|piece| Ok(Frame::data(piece))))
        }
    }

    fn upload(pieces: VecDeque<Bytes>) -> Box<Upload<Ready>> {
        Upload::new(Ready(pieces), false, BodyLimits { body: 64 << 20, replay: 64 << 20, nesting: 9 }).unwrap()
    }

    #[test]
    fn a_fast_client_does_not_keep_others_waiting() {
        let mut upload = upload(vec![Bytes::from_static(&[b' '; 10_000]); 1_000].into());
        let context = &mut Context::from_waker(Waker::noop());
        while !upload.is_whole() {
            let before = upload.received();
            while upload.poll_receive(context).is_ready() && !upload.is_whole() {}
            assert!(upload.received() - before <= BURST as u64 + 10_000, "without a pause");
        }
        assert_eq!(upload.received(), 10_000_000);
    }

    #[test]
    fn single_bytes_are_kept_together() {
        let text: Bytes = (0..=255).cycle().take(100_000).collect::<Vec<u8>>().into();
        let mut upload = upload((0..text.len()).map(|at| text.slice(at..=at)).collect());
        let context = &mut Context::from_waker(Waker::noop());
        while !upload.is_whole() {
            let _ = upload.poll_receive(context);
        }
        assert_eq!(upload.pieces.len(), text.len().div_ceil(JOINED));
        assert_eq!(Vec::from(upload.pieces).concat(), text);
    }

    proptest! {
        #[test]
        fn a_splice_replaces_its_range_whatever_the_pieces(
            body in proptest::collection::vec(any::<u8>(), 1..200),
            cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..6),
            range in any::<(prop::sample::Index, prop::sample::Index)>(),
            text in proptest::collection::vec(any::<u8>(), 1..20),
        ) {
            let (a, b) = (range.0.index(body.len()), range.1.index(body.len()));
            let range = a.min(b)..a.max(b) + 1;
            let splice = Splice { range: range.start as u64..range.end as u64, text: text.clone().into() };
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(body.len())).chain([0, body.len()]).collect();
            cuts.sort_unstable();
            let mut sent = Vec::new();
            for pair in cuts.windows(2) {
                let piece = Bytes::copy_from_slice(&body[pair[0]..pair[1]]);
                for part in spliced(piece, pair[0] as u64, Some(&splice)).into_iter().flatten() {
                    sent.extend_from_slice(&part);
                }
            }
            let expected = [&body[..range.start], &text, &body[range.end..]].concat();
            prop_assert_eq!(sent, expected);
        }
    }
}
