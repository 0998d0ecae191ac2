//! The intake of a request's body: receives it from the client, decompresses and scans it. A body
//! that is too large for memory is spooled to a file while it waits for its first attempt.
//!
//! Every piece is scanned before it is passed on, and the last one only if the whole body is
//! well-formed. So an engine never gets a whole request that is not.

use std::{
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::Body;
use tokio::time::Instant;

use crate::{
    body_limits::{BodyLimits, Rooms},
    failure::Failure,
    upstream::{
        decoding::Decoding,
        patience::Patience,
        scan::{Reading, Scan},
        spool::Spool,
    },
};
use sans_io::{
    api::error::{ApiError, Cause},
    codec::{
        http1::WireError,
        inflate::{Caps, Coding, InflateError},
        json::Scanner,
    },
};

/// Bytes that a task may receive without a pause in which others run.
const BURST: usize = 64 * 1024;
/// The longest `stream_options`, in bytes. It waits in memory until it is whole, since it may have
/// to be edited.
const STREAM_OPTIONS_MAX: u64 = 64 * 1024;
/// Of a body that is too large to be kept, so much must have come before an engine is bothered with
/// it, in bytes.
const HEAD_START: u64 = 64 * 1024;

/// The intake of one request's body.
#[derive(Debug)]
pub(super) struct Intake<B> {
    body: B,
    scan: Scan,
    /// None: the body is not compressed.
    decoding: Option<Box<Decoding>>,
    limits: BodyLimits,
    patience: Patience,
    /// The `Content-Length`; None: there is none, or it counts compressed bytes.
    declared: Option<u64>,
    /// Bytes received so far, decoded.
    received: u64,
    /// Bytes received since the last pause.
    burst: usize,
    /// All of it was received and found well-formed.
    whole: bool,
    stage: Stage,
}

/// The destination of received pieces.
#[derive(Debug)]
enum Stage {
    /// Memory: no attempt has begun.
    Buffering,
    /// The file: no attempt has begun, and memory may hold no more.
    Spooling(Box<Spool>),
    /// An attempt has begun. The file is read back before anything else is received.
    Unspooling(Box<Spool>),
    /// The engine: an attempt has begun, and the file, if any, was read back.
    Streaming,
}

impl<B: Body<Data = Bytes> + Unpin> Intake<B>
where
    B::Error: std::error::Error + 'static,
{
    /// A body of which nothing was received yet. Fails with a 413 for a `Content-Length` over the
    /// limit, or a 400 for a form without a usable boundary.
    pub(super) fn new(
        body: B,
        reading: Reading<'_>,
        coding: Option<Coding>,
        limits: &BodyLimits,
    ) -> Result<Self, ApiError> {
        let declared = body.size_hint().exact();
        if declared.is_some_and(|length| length > limits.configured.max_body_bytes) {
            return Err(too_large(limits.configured.max_body_bytes));
        }
        let caps = Caps {
            decoded: limits.configured.max_body_bytes,
            ratio: limits.configured.decoded_ratio,
        };
        let decoding = coding.map(|coding| Box::new(Decoding::new(coding, caps)));
        let empty = declared == Some(0) || body.is_end_stream();
        Ok(Self {
            scan: Scan::new(reading, limits)?,
            patience: Patience::new(limits.pause, limits.configured.body_rate),
            limits: limits.clone(),
            declared: declared.filter(|_| decoding.is_none()),
            decoding,
            received: 0,
            burst: 0,
            // An empty body that is to be scanned is read to its end, where the scan rejects it.
            whole: matches!(reading, Reading::Carry | Reading::Watch { .. }) && empty,
            stage: Stage::Buffering,
            body,
        })
    }

    /// Waits for the next piece, scanned. It is empty where it went into the file, and at the
    /// body's end. Fails with `Rejected` (malformed or too large), `ClientLeft`, `Spool` or
    /// `SpoolFull`.
    pub(super) fn poll_piece(&mut self, context: &mut Context<'_>) -> Poll<Result<Bytes, Failure>> {
        match &mut self.stage {
            Stage::Buffering | Stage::Streaming => {}
            Stage::Spooling(spool) => ready!(spool.poll_write(context))?,
            Stage::Unspooling(_) => return self.poll_unspool(context),
        }
        if self.whole {
            return Poll::Ready(Ok(Bytes::new()));
        }
        // A client that sends fast would keep this task running for as long as it likes.
        if self.burst > BURST {
            self.burst = 0;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        if self.decoding.as_ref().is_some_and(|decoding| decoding.has_input()) {
            return Poll::Ready(self.decode().map_err(Failure::from));
        }
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) else {
            self.burst = 0;
            self.patience.wait();
            return Poll::Pending;
        };
        let accepted = match frame {
            Some(Ok(frame)) => {
                // Trailers carry nothing that an engine reads.
                let piece = frame.into_data().unwrap_or_default();
                self.patience.came(piece.len());
                self.accept_encoded(piece)
            }
            Some(Err(error)) => return Poll::Ready(Err(body_error(&error))),
            None => self.finish().map(|()| Bytes::new()),
        };
        Poll::Ready(accepted.map_err(Failure::from))
    }

    /// The next piece from the file; an empty one at its end. Fails with `Spool`.
    pub(super) fn poll_unspool(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<Bytes, Failure>> {
        let mut piece = None;
        if let Stage::Unspooling(spool) = &mut self.stage {
            piece = ready!(spool.poll_read(context)).map_err(Failure::Spool)?;
            if piece.is_none() {
                self.stage = Stage::Streaming;
            }
        }
        Poll::Ready(Ok(piece.unwrap_or_default()))
    }

    /// Accepts a piece as the client sent it, compressed or not.
    fn accept_encoded(&mut self, piece: Bytes) -> Result<Bytes, ApiError> {
        match &mut self.decoding {
            None => self.accept(piece),
            Some(decoding) => {
                decoding.feed(piece);
                self.decode()
            }
        }
    }

    /// Decodes and accepts one piece; an empty one: more must be received.
    fn decode(&mut self) -> Result<Bytes, ApiError> {
        let plain = match &mut self.decoding {
            Some(decoding) => decoding.next().map_err(|error| undecodable(error).closing())?,
            None => Bytes::new(),
        };
        if plain.is_empty() { Ok(plain) } else { self.accept(plain) }
    }

    /// Counts and scans a plain piece, and passes it on.
    fn accept(&mut self, piece: Bytes) -> Result<Bytes, ApiError> {
        self.received += piece.len() as u64;
        self.burst += piece.len();
        if self.received > self.limits.configured.max_body_bytes {
            return Err(too_large(self.limits.configured.max_body_bytes));
        }
        self.scan.feed(&piece)?;
        let open = self.scan.json().and_then(Scanner::open_stream_options);
        if open.is_some_and(|start| self.received - start > STREAM_OPTIONS_MAX) {
            let message = format!(
                "`stream_options` is longer than {STREAM_OPTIONS_MAX} bytes. Send the \
                 options alone."
            );
            return Err(ApiError::new(Cause::BadRequest, message).closing());
        }
        // The end is judged before the last piece is passed on: an error withholds its bytes.
        let ended = self.declared == Some(self.received)
            || self.decoding.is_none() && self.body.is_end_stream();
        if ended {
            self.finish()?;
        }
        Ok(self.spool_if_full(piece))
    }

    /// Moves a piece into the file if memory may hold no more; else returns it.
    fn spool_if_full(&mut self, piece: Bytes) -> Bytes {
        match &mut self.stage {
            Stage::Buffering if self.received > self.limits.configured.buffered_bytes() => {
                let mut spool = Box::new(Spool::new(Rc::clone(&self.limits.rooms)));
                spool.push(piece);
                self.stage = Stage::Spooling(spool);
                Bytes::new()
            }
            Stage::Spooling(spool) => {
                spool.push(piece);
                Bytes::new()
            }
            Stage::Buffering | Stage::Unspooling(_) | Stage::Streaming => piece,
        }
    }

    /// Judges the body at its end. Fails with a 400 where it is incomplete.
    fn finish(&mut self) -> Result<(), ApiError> {
        if let Some(decoding) = &self.decoding {
            decoding.end().map_err(undecodable)?;
            // Its window may be large.
            self.decoding = None;
        }
        self.scan.end()?;
        self.whole = true;
        Ok(())
    }
}

impl<B> Intake<B> {
    /// Passes pieces on from now on, those in the file first: an attempt begins.
    pub(super) fn start(&mut self) {
        self.stage = match std::mem::replace(&mut self.stage, Stage::Streaming) {
            Stage::Spooling(spool) | Stage::Unspooling(spool) => Stage::Unspooling(spool),
            Stage::Buffering | Stage::Streaming => Stage::Streaming,
        };
    }

    /// Frees the file and the decoder: nothing more is received.
    pub(super) fn release(&mut self) {
        self.stage = Stage::Streaming;
        self.decoding = None;
    }

    /// The bytes received so far, decoded.
    pub(super) fn received(&self) -> u64 {
        self.received
    }

    /// The body's `Content-Length`; None: there is none, or it counts compressed bytes.
    pub(super) fn declared(&self) -> Option<u64> {
        self.declared
    }

    /// The body's length, decoded; None: unknown yet.
    pub(super) fn length(&self) -> Option<u64> {
        if self.whole { Some(self.received) } else { self.declared }
    }

    /// Whether so much was received that an engine may be given the rest as it comes. What can be
    /// kept for another attempt is received whole before: a slow client holds no engine then.
    pub(super) fn has_head_start(&self) -> bool {
        let kept = self.limits.configured.replay_bytes;
        let enough = match self.declared {
            Some(length) if length > kept => HEAD_START,
            _ => kept.max(HEAD_START),
        };
        self.received > enough
    }

    /// The wait for the client; see [`Patience::limit`].
    pub(super) fn client_wait(&self) -> Option<(Instant, Option<Duration>, Failure)> {
        self.patience.limit()
    }

    /// All waiting for the client.
    pub(super) fn waited(&self) -> Duration {
        self.patience.waited()
    }

    /// The memory of the decoder, in bytes.
    pub(super) fn decoder_bytes(&self) -> u64 {
        self.decoding.as_ref().map_or(0, |decoding| decoding.memory() as u64)
    }

    /// What the bodies of all requests share.
    pub(super) fn rooms(&self) -> &Rooms {
        &self.limits.rooms
    }

    /// Whether all of it was received and found well-formed.
    pub(super) fn is_whole(&self) -> bool {
        self.whole
    }

    /// Whether a part of it is being read back from the file.
    pub(super) fn is_unspooling(&self) -> bool {
        matches!(self.stage, Stage::Unspooling(_))
    }

    /// Whether all of it was passed on.
    pub(super) fn is_drained(&self) -> bool {
        self.whole && !matches!(self.stage, Stage::Spooling(_) | Stage::Unspooling(_))
    }

    /// Takes a JSON body without a model.
    pub(super) fn allow_no_model(&mut self) {
        self.scan.allow_no_model();
    }

    /// The scan so far.
    pub(super) fn scan(&self) -> &Scan {
        &self.scan
    }
}

/// The error for a compressed body: a 413 where it grows too much, or a 400.
fn undecodable(error: InflateError) -> ApiError {
    let cause = if error.is_too_large() { Cause::TooLarge } else { Cause::BadRequest };
    ApiError::new(cause, error.to_string())
}

/// 413. `limit`: in bytes.
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

/// The failure for a body's error, hyper's or our own. A malformed chunk is an I/O error of a certain
/// kind inside it; anything else is a lost connection.
fn body_error(error: &(dyn std::error::Error + 'static)) -> Failure {
    let Some(source) = error.source().and_then(|source| source.downcast_ref::<std::io::Error>())
    else {
        return Failure::ClientLeft;
    };
    if !matches!(source.kind(), std::io::ErrorKind::InvalidInput | std::io::ErrorKind::InvalidData)
    {
        return Failure::ClientLeft;
    }
    let wire = source.get_ref().and_then(|error| error.downcast_ref::<WireError>());
    let message = if wire == Some(&WireError::Trailer) {
        "The request body's trailer is malformed or larger than 4 KB. Send `Name: value` in each of \
         its lines, or none."
    } else {
        "The request body's chunked framing is broken. Send each chunk's size in hexadecimal, \
         followed by CR LF."
    };
    Failure::Rejected(ApiError::new(Cause::BadRequest, message).closing())
}

#[cfg(test)]
pub(super) mod tests {
    use std::{collections::VecDeque, future::poll_fn, sync::Arc, task::Waker};

    use http_body::Frame;

    use sans_io::{seam::DataPlaneConfig, test_support};

    use super::*;
    use crate::{blocking::BlockingPool, budget::Budget};

    /// A body whose pieces are all there at once. `true`: it says with the last one that it has
    /// ended.
    pub(in crate::upstream) struct Ready(
        pub(in crate::upstream) VecDeque<Bytes>,
        pub(in crate::upstream) bool,
    );

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

    pub(in crate::upstream) fn rooms() -> Rooms {
        Rooms {
            spool_folder: std::env::temp_dir(),
            spool: Budget::new(1 << 30).0,
            memory: Budget::new(1 << 30).0,
            blocking: Arc::new(BlockingPool::new().unwrap()),
        }
    }

    pub(in crate::upstream) fn limits(replay: u64, memory: u64) -> BodyLimits {
        let mut configured = test_support::read::<DataPlaneConfig>(test_support::config()).limits;
        configured.max_body_bytes = 64 << 20;
        configured.replay_bytes = replay;
        configured.memory_bytes = memory;
        configured.decoded_ratio = 9;
        configured.max_nesting = 9;
        BodyLimits { configured, pause: None, rooms: Rc::new(rooms()) }
    }

    #[test]
    fn a_fast_client_does_not_keep_others_waiting() {
        let pieces = vec![Bytes::from_static(&[b' '; 10_000]); 1_000].into();
        let mut intake =
            Intake::new(Ready(pieces, false), Reading::Carry, None, &limits(64 << 20, 64 << 20))
                .unwrap();
        let context = &mut Context::from_waker(Waker::noop());
        while !intake.is_whole() {
            let before = intake.received();
            while intake.poll_piece(context).is_ready() && !intake.is_whole() {}
            assert!(intake.received() - before <= BURST as u64 + 10_000, "without a pause");
        }
        assert_eq!(intake.received(), 10_000_000);
    }

    #[tokio::test]
    async fn what_can_be_kept_is_received_whole_before_an_engine_is_bothered() {
        let of_size = |size: usize, declared: bool| {
            let pieces = vec![Bytes::from_static(&[b' '; 10_000]); size / 10_000].into();
            let limits = limits(200_000, 300_000);
            let mut intake =
                Intake::new(Ready(pieces, false), Reading::Carry, None, &limits).unwrap();
            intake.declared = declared.then_some(size as u64);
            intake
        };
        for (size, declared, started) in [
            (200_000, true, 200_000),
            (200_000, false, 200_000),
            (210_000, true, HEAD_START + 10_000),
            (300_000, false, 210_000),
        ] {
            let mut intake = of_size(size, declared);
            while !intake.is_whole() && !intake.has_head_start() {
                poll_fn(|context| intake.poll_piece(context)).await.unwrap();
            }
            assert_eq!(intake.received() / 10_000, started / 10_000, "{size} {declared}");
        }
    }

    #[test]
    fn options_that_would_fill_memory_are_rejected() {
        let start = Bytes::from_static(br#"{"model":"m","stream_options":{"x":""#);
        let rest = std::iter::repeat_n(Bytes::from_static(&[b'x'; 10_000]), 100);
        let pieces = Ready(std::iter::once(start).chain(rest).collect(), false);
        let mut intake = Intake::new(pieces, Reading::Json, None, &limits(0, 64 << 20)).unwrap();
        let context = &mut Context::from_waker(Waker::noop());
        let error = loop {
            match intake.poll_piece(context) {
                Poll::Ready(Err(Failure::Rejected(error))) => break error,
                Poll::Ready(Err(other)) => panic!("{other}"),
                Poll::Ready(Ok(_)) | Poll::Pending => assert!(!intake.is_whole()),
            }
        };
        assert_eq!(error.cause, Cause::BadRequest);
        assert!(intake.received() < 2 * STREAM_OPTIONS_MAX);
    }

    #[test]
    fn the_last_piece_of_a_malformed_body_is_never_passed_on() {
        let pieces = [&br#"{"model":"m","#[..], br#""n":1"#].map(Bytes::from_static);
        let mut intake =
            Intake::new(Ready(pieces.into(), true), Reading::Json, None, &limits(99, 99)).unwrap();
        let context = &mut Context::from_waker(Waker::noop());
        assert!(matches!(intake.poll_piece(context), Poll::Ready(Ok(piece)) if !piece.is_empty()));
        assert!(matches!(intake.poll_piece(context), Poll::Ready(Err(Failure::Rejected(_)))));
        assert!(!intake.is_whole() && !intake.is_drained());
    }

    #[tokio::test]
    async fn a_body_too_large_for_memory_waits_in_the_file_and_comes_in_order() {
        let pieces: Vec<Bytes> = (0..9_u8).map(|byte| vec![byte; 10].into()).collect();
        let body = Ready(pieces.clone().into(), false);
        let mut intake = Intake::new(body, Reading::Carry, None, &limits(0, 25)).unwrap();
        let mut found = Vec::new();
        while intake.received() < 50 {
            found.push(poll_fn(|context| intake.poll_piece(context)).await.unwrap());
        }
        assert!(found[2..].iter().all(Bytes::is_empty), "no more than memory may hold");
        intake.start();
        assert!(intake.is_unspooling() && !intake.is_drained());
        while !intake.is_drained() {
            found.push(poll_fn(|context| intake.poll_piece(context)).await.unwrap());
        }
        assert_eq!(found.concat(), pieces.concat());
    }
}
