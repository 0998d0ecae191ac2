//! A request's body on its way from the client to an engine: read, scanned, kept for a second
//! instance, spliced.
//!
//! Every piece is scanned before it is forwarded. So whatever makes the scan fail is found before
//! the engine has the last byte (or the last chunk), and the engine never holds a whole request
//! that was not found in order.

use std::{
    collections::VecDeque,
    ops::Range,
    path::Path,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use http_body::Body;

use crate::{
    failure::Failure,
    limits::BodyLimits,
    upstream::{connection::OutQueue, spool::Spool},
};
use sans_io::{
    api::{
        error::{ApiError, Cause},
        usage,
    },
    codec::{
        inflate::{Caps, Coding, Inflater},
        json::{Model, Scanner},
        multipart,
    },
    seam::Limits,
    table::Target,
};

/// A task that has received so much without a pause lets others run.
const BURST: usize = 256 * 1024;
/// Waiting pieces are joined up to this size, since each has a cost of its own: a client may send
/// single bytes.
const JOINED: usize = 4 * 1024;
/// A compressed body is decoded in pieces of this size.
const DECODED: usize = 64 * 1024;

/// A `stream_options` may be so long: it waits in memory until it is whole, since it may have to be
/// edited.
const STREAM_OPTIONS: u64 = 64 * 1024;

/// How a body is read.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Reading<'a> {
    /// Not at all: it is only carried.
    Carry,
    /// As a JSON object with a `model`.
    Json,
    /// As a JSON object that may name an earlier response.
    JsonOfResponse,
    /// As a form with a field `model`; its `Content-Type`.
    Form(&'a [u8]),
}

/// What looks into a body while it arrives.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "it lies in a box already, and is the usual one")]
enum Scan {
    None,
    Json(Scanner),
    Form(Box<multipart::Scanner>),
}

impl Scan {
    fn new(reading: Reading<'_>, limits: &Limits) -> Result<Self, ApiError> {
        Ok(match reading {
            Reading::Carry => Self::None,
            Reading::Json => Self::Json(Scanner::new(limits.max_nesting)),
            Reading::JsonOfResponse => {
                let mut scanner = Scanner::new(limits.max_nesting);
                scanner.retain_previous_response_id();
                Self::Json(scanner)
            }
            Reading::Form(content_type) => {
                Self::Form(Box::new(multipart::Scanner::new(content_type).map_err(|error| {
                    ApiError::new(Cause::BadRequest, error.to_string()).closing()
                })?))
            }
        })
    }

    fn feed(&mut self, piece: &[u8]) -> Result<(), ApiError> {
        let refused = |error: String| ApiError::new(Cause::BadRequest, error).closing();
        match self {
            Self::None => Ok(()),
            Self::Json(scanner) => scanner.feed(piece).map_err(|error| refused(error.to_string())),
            Self::Form(scanner) => scanner.feed(piece).map_err(|error| refused(error.to_string())),
        }
    }

    fn end(&self) -> Result<(), ApiError> {
        let refused = |error: String| ApiError::new(Cause::BadRequest, error);
        match self {
            Self::None => Ok(()),
            Self::Json(scanner) => scanner.end().map_err(|error| refused(error.to_string())),
            Self::Form(scanner) => scanner.end().map_err(|error| refused(error.to_string())),
        }
    }

    fn model(&self) -> Option<&Model> {
        match self {
            Self::None => None,
            Self::Json(scanner) => scanner.model(),
            Self::Form(scanner) => scanner.model(),
        }
    }

    fn json(&self) -> Option<&Scanner> {
        match self {
            Self::Json(scanner) => Some(scanner),
            _ => None,
        }
    }
}

/// A compressed body's way to its plain bytes.
#[derive(Debug)]
struct Decoding {
    inflater: Inflater,
    /// What has come and is not decoded yet.
    encoded: Bytes,
    /// The last piece was full: there may be more inside the inflater.
    more: bool,
}

/// The replacement of a byte range of the body; an empty range is a place.
#[derive(Clone, Debug)]
pub(crate) struct Splice {
    pub(crate) range: Range<u64>,
    pub(crate) text: Bytes,
}

impl Splice {
    fn growth(&self) -> i64 {
        (self.text.len() as u64).cast_signed() - (self.range.end - self.range.start).cast_signed()
    }
}

/// What one attempt changes in the body.
#[derive(Debug, Default)]
pub(crate) struct Changes<'a> {
    /// The name that the engine knows in place of the client's.
    pub(crate) rename: Option<&'a Target>,
    /// Whether a stream is asked for its usage.
    pub(crate) ask_usage: bool,
    /// Sent in place of the whole body.
    pub(crate) substitute: Option<Bytes>,
}

/// Whether the wish for a stream's usage has found its place in the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum UsageWish {
    /// There is none.
    None,
    /// It waits for the client's own `stream_options`, or for the end of the body.
    Open,
    /// It is spliced in, or need not be.
    Settled,
}

/// One request's body.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(crate) struct Upload<B> {
    body: B,
    scan: Scan,
    decoding: Option<Box<Decoding>>,
    limits: Limits,
    spool_folder: Rc<Path>,
    declared: Option<u64>,
    /// Pieces from the client. While the body can be replayed: all of them; later only those that
    /// were not sent.
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
    /// Behind `pieces`: what is too much for memory.
    spool: Option<Box<Spool>>,
    /// An attempt has begun: from now on pieces go as fast as they come.
    started: bool,
    /// This attempt's, by their places.
    splices: [Option<Splice>; 2],
    wish: UsageWish,
    /// The client itself asks for a stream's usage.
    asks_usage: bool,
    substitute: Option<Bytes>,
    /// This attempt was handed everything, the end included.
    all_sent: bool,
}

impl<B: Body<Data = Bytes> + Unpin> Upload<B>
where
    B::Error: std::error::Error + 'static,
{
    /// A body that is read in this way, after it was decoded if it is compressed.
    pub(crate) fn new(
        body: B,
        reading: Reading<'_>,
        coding: Option<Coding>,
        BodyLimits { limits, spool_folder }: &BodyLimits,
    ) -> Result<Box<Self>, ApiError> {
        let declared = body.size_hint().exact();
        if declared.is_some_and(|length| length > limits.max_body_bytes) {
            return Err(too_large(limits.max_body_bytes));
        }
        let decoding = coding.map(|coding| {
            let caps = Caps { decoded: limits.max_body_bytes, ratio: limits.decoded_ratio };
            Box::new(Decoding {
                inflater: Inflater::new(coding, caps),
                encoded: Bytes::new(),
                more: false,
            })
        });
        let empty = declared == Some(0) || body.is_end_stream();
        // In a box, since it moves from attempt to attempt and holds the whole state of the scan.
        Ok(Box::new(Self {
            scan: Scan::new(reading, limits)?,
            limits: *limits,
            spool_folder: Rc::clone(spool_folder),
            declared: declared.filter(|_| decoding.is_none()),
            decoding,
            pieces: VecDeque::with_capacity(2),
            sent: 0,
            sent_bytes: 0,
            received: 0,
            burst: 0,
            whole: matches!(reading, Reading::Carry) && empty,
            replayable: true,
            spool: None,
            started: false,
            splices: [None, None],
            wish: UsageWish::None,
            asks_usage: false,
            substitute: None,
            all_sent: false,
            body,
        }))
    }

    /// Waits for the next piece, scans and keeps it. Ready(Ok) also when the body is whole.
    pub(crate) fn poll_receive(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        if let Some(spool) = &mut self.spool {
            if self.started {
                return self.poll_unspool(context);
            }
            ready!(spool.poll_write(context)).map_err(Failure::Spool)?;
        }
        if self.whole {
            return Poll::Ready(Ok(()));
        }
        if self.burst > BURST {
            self.burst = 0;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        if self
            .decoding
            .as_ref()
            .is_some_and(|decoding| decoding.more || !decoding.encoded.is_empty())
        {
            return Poll::Ready(self.decode().map_err(Failure::from));
        }
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) else {
            self.burst = 0;
            return Poll::Pending;
        };
        let Some(frame) = frame else {
            return Poll::Ready(self.finish().map_err(Failure::from));
        };
        let piece = match frame {
            // Trailers carry nothing for an engine (spec/wire.md 8.1).
            Ok(frame) => frame.into_data().unwrap_or_default(),
            Err(error) => return Poll::Ready(Err(body_error(&error))),
        };
        let accepted = match &mut self.decoding {
            None => self.accept(piece),
            Some(decoding) => {
                decoding.encoded = piece;
                self.decode()
            }
        };
        Poll::Ready(accepted.map_err(Failure::from))
    }

    /// Takes the next piece back from the file.
    fn poll_unspool(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        if let Some(spool) = &mut self.spool {
            match ready!(spool.poll_read(context)).map_err(Failure::Spool)? {
                Some(piece) => self.pieces.push_back(piece),
                None => self.spool = None,
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Ready when all of a whole body is in memory.
    pub(crate) fn poll_load(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        while self.spool.is_some() {
            ready!(self.poll_unspool(context))?;
        }
        Poll::Ready(Ok(()))
    }

    /// Decodes one piece of what has come.
    fn decode(&mut self) -> Result<(), ApiError> {
        let Some(decoding) = &mut self.decoding else { return Ok(()) };
        let mut plain = BytesMut::new();
        decoding.inflater.decode(&mut decoding.encoded, &mut plain, DECODED).map_err(|error| {
            let cause = if error.is_too_large() { Cause::TooLarge } else { Cause::BadRequest };
            ApiError::new(cause, error.to_string()).closing()
        })?;
        decoding.more = plain.len() >= DECODED;
        if plain.is_empty() { Ok(()) } else { self.accept(plain.freeze()) }
    }

    fn accept(&mut self, piece: Bytes) -> Result<(), ApiError> {
        self.received += piece.len() as u64;
        self.burst += piece.len();
        if self.received > self.limits.max_body_bytes {
            return Err(too_large(self.limits.max_body_bytes));
        }
        self.scan.feed(&piece)?;
        let open = self.scan.json().and_then(Scanner::open_stream_options);
        if open.is_some_and(|start| self.received - start > STREAM_OPTIONS) {
            let message = format!(
                "`stream_options` is longer than {STREAM_OPTIONS} bytes. Send the options alone."
            );
            return Err(ApiError::new(Cause::BadRequest, message).closing());
        }
        self.keep(piece);
        if self.replayable && self.received > self.limits.replay_bytes {
            self.replayable = false;
            self.pieces.drain(..self.sent);
            self.sent = 0;
        }
        let ended = self.declared == Some(self.received)
            || self.decoding.is_none() && self.body.is_end_stream();
        if ended { self.finish() } else { Ok(()) }
    }

    /// Keeps a piece behind the others, or as a part of the last if that waits too and both are
    /// small.
    fn keep(&mut self, piece: Bytes) {
        let waiting = self.pieces.len() > self.sent;
        let too_much = !self.started && self.received > self.limits.buffered_bytes();
        match self.pieces.back_mut() {
            _ if piece.is_empty() => {}
            _ if too_much || self.spool.is_some() => {
                let folder = &self.spool_folder;
                self.spool
                    .get_or_insert_with(|| Box::new(Spool::new(folder.to_path_buf())))
                    .push(piece);
            }
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
        if let Some(decoding) = &self.decoding {
            decoding
                .inflater
                .end()
                .map_err(|error| ApiError::new(Cause::BadRequest, error.to_string()))?;
        }
        self.scan.end()?;
        self.whole = true;
        Ok(())
    }

    /// Bytes that the client has sent (decoded, where it compressed them).
    pub(crate) fn received(&self) -> u64 {
        self.received
    }

    /// The model, once it was seen.
    pub(crate) fn model(&self) -> Option<&Model> {
        self.scan.model()
    }

    /// Whether the client asked for a stream, as far as was seen.
    pub(crate) fn asks_stream(&self) -> bool {
        match &self.scan {
            Scan::None => false,
            Scan::Json(scanner) => scanner.stream(),
            Scan::Form(scanner) => scanner.stream(),
        }
    }

    /// Whether the client itself asked for a stream's usage, as far as was seen when that mattered.
    pub(crate) fn asks_usage(&self) -> bool {
        self.asks_usage
    }

    /// The earlier response that the request goes on from.
    pub(crate) fn previous_response_id(&self) -> Option<&str> {
        self.scan.json().and_then(Scanner::previous_response_id)
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
        self.replayable || self.sent_bytes == 0
    }

    /// Whether another attempt could still have all of it once it has come, as far as its length is
    /// known.
    pub(crate) fn will_be_replayable(&self) -> bool {
        self.replayable && self.declared.is_none_or(|length| length <= self.limits.replay_bytes)
    }

    /// The whole body, before anything of it was sent.
    pub(crate) fn gather(&self) -> Bytes {
        match self.pieces.as_slices() {
            ([only], []) => only.clone(),
            (first, second) => [first, second].concat().concat().into(),
        }
    }

    /// The bytes of a range of the body; None: they are not in memory.
    fn bytes_of(&self, range: Range<u64>) -> Option<Vec<u8>> {
        let mut start = if self.replayable { 0 } else { self.sent_bytes };
        if range.start < start {
            return None;
        }
        let mut found = Vec::with_capacity((range.end - range.start) as usize);
        for piece in &self.pieces {
            let end = start + piece.len() as u64;
            if range.start < end && start < range.end {
                let from = range.start.saturating_sub(start) as usize;
                found.extend_from_slice(&piece[from..(range.end.min(end) - start) as usize]);
            }
            start = end;
        }
        (found.len() as u64 == range.end - range.start).then_some(found)
    }

    /// Starts an attempt with these changes. Returns the length of what will be sent; None: only
    /// the end will tell.
    pub(crate) fn start_attempt(&mut self, changes: Changes<'_>) -> Option<u64> {
        debug_assert!(self.is_replayable(), "an attempt starts at the body's first byte");
        self.started = true;
        self.sent = 0;
        self.sent_bytes = 0;
        self.all_sent = false;
        self.substitute = changes.substitute;
        self.splices = [None, None];
        if let Some(substitute) = &self.substitute {
            return Some(substitute.len() as u64);
        }
        if let Some((model, target)) = self.scan.model().zip(changes.rename) {
            let text = match self.scan {
                Scan::Form(_) => Bytes::copy_from_slice(target.served_name.as_bytes()),
                _ => target.served_json.clone(),
            };
            self.splices[0] = Some(Splice { range: model.range.clone(), text });
        }
        self.wish = if changes.ask_usage { UsageWish::Open } else { UsageWish::None };
        self.settle_usage();
        let length = match self.wish {
            // Also of a whole body, when the place of the edit lies in the file.
            UsageWish::Open => return None,
            _ if self.whole => self.received,
            _ => self.declared?,
        };
        let growth: i64 = self.splices.iter().flatten().map(Splice::growth).sum();
        length.checked_add_signed(growth)
    }

    /// Splices the wish for usage in as soon as its place is known: in the client's own
    /// `stream_options`, or before the end of a body that asks for a stream without any.
    fn settle_usage(&mut self) {
        if self.wish != UsageWish::Open {
            return;
        }
        let Some(scanner) = self.scan.json() else { return };
        let splice = if let Some(range) = scanner.stream_options() {
            let Some(options) = self.bytes_of(range.clone()) else { return };
            self.asks_usage = usage::includes_usage(&options);
            usage::ask_for_usage(&options).map(|edit| Splice {
                range: range.start + edit.range.start as u64..range.start + edit.range.end as u64,
                text: edit.text,
            })
        } else if let Some(end) = scanner.object_end() {
            let text = Bytes::from_static(usage::STREAM_OPTIONS_MEMBER);
            scanner.stream().then_some(Splice { range: end..end, text })
        } else {
            return;
        };
        self.wish = UsageWish::Settled;
        self.splices[1] = splice;
        if let [Some(first), Some(second)] = &self.splices
            && second.range.start < first.range.start
        {
            self.splices.swap(0, 1);
        }
    }

    /// From where on bytes must wait: an edit may become necessary there.
    fn held_from(&self) -> u64 {
        let Some(scanner) = self.scan.json().filter(|_| self.wish == UsageWish::Open) else {
            return u64::MAX;
        };
        let not_in_memory = || scanner.stream_options().map(|range| range.start);
        scanner.open_stream_options().or_else(not_in_memory).unwrap_or(u64::MAX)
    }

    /// Hands the pieces that are there to an engine's queue; `chunked`: each as a chunk, with the
    /// last chunk behind the body's end.
    pub(crate) fn send_into(&mut self, queue: &mut OutQueue, chunked: bool) {
        if let Some(substitute) = &self.substitute {
            if !self.all_sent {
                queue.push(substitute.clone());
                self.all_sent = true;
            }
            return;
        }
        self.settle_usage();
        let held_from = self.held_from();
        while let Some(piece) = self.pieces.get(self.sent) {
            let start = self.sent_bytes;
            if start + piece.len() as u64 > held_from {
                return;
            }
            let piece = piece.clone();
            self.sent_bytes += piece.len() as u64;
            if self.replayable {
                self.sent += 1;
            } else {
                self.pieces.pop_front();
            }
            spliced(&piece, start, &self.splices, |part| {
                if chunked && !part.is_empty() {
                    queue.push(Bytes::from(format!("{:x}\r\n", part.len())));
                    queue.push(part);
                    queue.push(Bytes::from_static(b"\r\n"));
                } else {
                    queue.push(part);
                }
            });
        }
        if self.whole && self.spool.is_none() && self.pieces.len() == self.sent && !self.all_sent {
            self.all_sent = true;
            if chunked {
                queue.push(Bytes::from_static(b"0\r\n\r\n"));
            }
        }
    }
}

/// A piece that starts at `start`, with each splice's text where its range begins and nothing where
/// it goes on.
fn spliced(piece: &Bytes, start: u64, splices: &[Option<Splice>], mut push: impl FnMut(Bytes)) {
    let end = start + piece.len() as u64;
    let mut done = 0;
    for splice in splices.iter().flatten() {
        let Range { start: from, end: to } = splice.range;
        let begins_here = (start..end).contains(&from);
        if !begins_here && (to <= start || from >= end) {
            continue;
        }
        push(piece.slice(done..from.saturating_sub(start) as usize));
        if begins_here {
            push(splice.text.clone());
        }
        done = (to.min(end) - start) as usize;
    }
    push(piece.slice(done..));
}

fn too_large(limit: u64) -> ApiError {
    ApiError::new(
        Cause::TooLarge,
        format!(
            "The request body is larger than {limit} bytes. Send less, or raise the limit \
            max_body_bytes of this server."
        ),
    )
    .closing()
}

/// What hyper says of a body that the client stopped sending, or sent wrongly. A malformed chunk is
/// an I/O error of a certain kind inside hyper's own error.
fn body_error(error: &(dyn std::error::Error + 'static)) -> Failure {
    let kind = error
        .source()
        .and_then(|source| source.downcast_ref::<std::io::Error>())
        .map(std::io::Error::kind);
    if matches!(kind, Some(std::io::ErrorKind::InvalidInput | std::io::ErrorKind::InvalidData)) {
        let message = "The request body's chunked framing is broken. Send each chunk's size in \
            hexadecimal, followed by CR LF.";
        return Failure::Rejected(ApiError::new(Cause::BadRequest, message).closing());
    }
    Failure::ClientLeft
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, task::Waker};

    use http_body::Frame;
    use proptest::prelude::*;
    use sans_io::{seam::DataPlaneConfig, test_support};

    use super::*;

    /// A body whose pieces are all there at once. `true`: with the last one it says that it was the
    /// last.
    struct Ready(VecDeque<Bytes>, bool);

    impl Body for Ready {
        type Data = Bytes;
        type Error = std::io::Error;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
            Poll::Ready(self.0.pop_front().map(|piece| Ok(Frame::data(piece))))
        }

        fn is_end_stream(&self) -> bool {
            self.1 && self.0.is_empty()
        }
    }

    fn upload(pieces: VecDeque<Bytes>) -> Box<Upload<Ready>> {
        Upload::new(Ready(pieces, false), Reading::Carry, None, &limits(64 << 20, 64 << 20))
            .unwrap()
    }

    /// Bounds for bodies of at most 64 MB.
    fn limits(replay_bytes: u64, memory_bytes: u64) -> BodyLimits {
        let config: DataPlaneConfig = test_support::read(test_support::config());
        let limits = Limits {
            max_body_bytes: 64 << 20,
            replay_bytes,
            memory_bytes,
            decoded_ratio: 9,
            max_nesting: 9,
            ..config.limits
        };
        BodyLimits { limits, spool_folder: config.spool_folder.into() }
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

    #[test]
    fn options_that_would_fill_memory_are_refused() {
        let start = Bytes::from_static(br#"{"model":"m","stream_options":{"x":""#);
        let rest = std::iter::repeat_n(Bytes::from_static(&[b'x'; 10_000]), 100);
        let pieces = Ready(std::iter::once(start).chain(rest).collect(), false);
        let mut upload = Upload::new(pieces, Reading::Json, None, &limits(0, 64 << 20)).unwrap();
        let context = &mut Context::from_waker(Waker::noop());
        let error = loop {
            match upload.poll_receive(context) {
                Poll::Ready(Err(Failure::Rejected(error))) => break error,
                Poll::Ready(Err(other)) => panic!("{other}"),
                Poll::Ready(Ok(())) | Poll::Pending => assert!(!upload.is_whole()),
            }
        };
        assert_eq!(error.cause, Cause::BadRequest);
        assert!(upload.received() < 2 * STREAM_OPTIONS);
    }

    fn target(served_name: &str) -> Target {
        use sans_io::table::Table;
        let model = test_support::model("m", served_name, vec![]);
        let route = test_support::route("r", vec![test_support::target("m", 1)]);
        let table = test_support::read(test_support::table(vec![model], vec![route]));
        let route = Arc::clone(Table::default().replaced_by(table).unwrap().0.route("r").unwrap());
        let target = Arc::clone(route.targets().next().unwrap());
        drop(route);
        Arc::into_inner(target).unwrap()
    }

    /// What an engine gets of a body in these pieces, when the attempt begins as soon as the model
    /// is known.
    fn sent(
        body: &[u8],
        (cuts, says_its_end): (&[usize], bool),
        target: &Target,
        limits: &BodyLimits,
    ) -> (Option<u64>, Vec<u8>) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let pieces = cuts
                .windows(2)
                .map(|pair| Bytes::copy_from_slice(&body[pair[0]..pair[1]]))
                .collect();
            let mut upload =
                Upload::new(Ready(pieces, says_its_end), Reading::Json, None, limits).unwrap();
            let receive = async |upload: &mut Upload<Ready>| {
                std::future::poll_fn(|context| upload.poll_receive(context)).await.unwrap();
            };
            while upload.model().is_none() {
                receive(&mut upload).await;
            }
            let changes = Changes { rename: Some(target), ask_usage: true, substitute: None };
            let length = upload.start_attempt(changes);
            let (mut queue, mut sent) = (OutQueue::default(), Vec::new());
            loop {
                upload.send_into(&mut queue, false);
                sent.extend(queue.take_all());
                if upload.is_sent() {
                    return (length, sent);
                }
                receive(&mut upload).await;
            }
        })
    }

    proptest! {
        #[test]
        fn a_renamed_body_that_asks_for_usage_is_right_whatever_its_pieces(
            members in proptest::sample::subsequence(
                vec![r#""stream":true"#, r#""stream_options":{"include_usage":false,"x":[1.10]}"#, r#""n":  1e400"#,
                    r#""messages":[{"role":"user","content":"\u00e9 {\"stream_options\":1}"}]"#], 0..=4).prop_shuffle(),
            at in any::<prop::sample::Index>(),
            cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..8),
            says_its_end in any::<bool>(),
            (replay, memory) in prop_oneof![Just((1_000, 1_000)), Just((5, 5)), Just((5, 40)), Just((0, 1_000))],
        ) {
            let mut members = members;
            members.insert(at.index(members.len() + 1), r#""model": "public""#);
            let body = format!("{{{}}} ", members.join(" ,\n"));
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(body.len())).chain([0, body.len()]).collect();
            cuts.sort_unstable();
            let limits = limits(replay, memory);
            let (length, sent) = sent(body.as_bytes(), (&cuts, says_its_end), &target("engine"), &limits);
            let streams = members.contains(&r#""stream":true"#);
            let own = members.iter().any(|member| member.starts_with(r#""stream_options"#));
            let mut expected = body.replace(r#""public""#, r#""engine""#).replace(r#""include_usage":false"#, r#""include_usage":true"#);
            if streams && !own {
                let end = expected.rfind('}').unwrap();
                expected.insert_str(end, r#","stream_options":{"include_usage":true}"#);
            }
            prop_assert_eq!(String::from_utf8(sent).unwrap(), expected.clone());
            prop_assert!(length.is_none_or(|length| length == expected.len() as u64));
        }

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
                spliced(&piece, pair[0] as u64, &[Some(splice.clone()), None], |part| sent.extend_from_slice(&part));
            }
            let expected = [&body[..range.start], &text, &body[range.end..]].concat();
            prop_assert_eq!(sent, expected);
        }
    }
}
