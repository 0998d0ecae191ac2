//! A tunnel behind a 101: the bytes of a WebSocket, copied both ways between client and engine.

use std::{
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::Instant,
};

use crate::{
    key_watch::{EndedEarly, KeyWatch},
    scratch::Scratch,
    timer::{PhaseTimer, SendTimer},
};
use sans_io::seam::End;

/// Bytes that a direction may move without a pause in which others run.
const BURST: usize = 64 * 1024;
/// The time that one side has to end after the other has ended.
const GRACE: Duration = Duration::from_secs(5);

/// One side of a tunnel.
pub(crate) trait Side: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Side for T {}

/// The end of a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    /// Bytes that were written to the engine.
    pub(crate) bytes_in: u64,
    /// Bytes that were written to the client.
    pub(crate) bytes_out: u64,
    /// `Done`: a side ended in order; `ClientGone`, `EngineDied`: its connection broke; `Timeout`:
    /// nothing moved, or the client took nothing; `Refused`: its key was revoked or has expired; `Drained`: a drain has cut it.
    pub(crate) end: End,
}

/// How long a tunnel may rest; None: for ever.
pub(crate) struct Limits {
    /// The longest time in which nothing moves.
    pub(crate) idle: Option<Duration>,
    /// The longest time in which the client takes nothing of what there is for it.
    pub(crate) send: Option<Duration>,
    /// Gives the bytes that were written to the client and that it has not taken, as far as the
    /// system knows.
    pub(crate) unread: Box<dyn Fn() -> Option<u64>>,
}

/// The engine's side of a tunnel, to be joined with the client's.
pub(crate) struct Tunnel {
    engine: Box<dyn Side>,
    /// Bytes that were read behind the 101.
    from_engine: Bytes,
    key: KeyWatch,
    report: Report,
}

impl Tunnel {
    /// A tunnel to this engine. `from_engine`: the bytes that were read behind the 101. `on_end` is
    /// called exactly once, when the tunnel has ended or is dropped; a drop ends it as
    /// `ClientGone`. The closure also owns everything that must live as long as the tunnel.
    pub(crate) fn new(
        engine: impl Side + 'static,
        from_engine: Bytes,
        key: KeyWatch,
        on_end: impl FnOnce(Ended) + 'static,
    ) -> Self {
        let ended = Ended { bytes_in: 0, bytes_out: 0, end: End::ClientGone };
        Self {
            engine: Box::new(engine),
            from_engine,
            key,
            report: Report { ended, on_end: Some(Box::new(on_end)) },
        }
    }

    /// Copies until both sides have ended, one has and the other does not follow within [`GRACE`],
    /// the key has ended, a drain has cut it, or a limit has passed. `from_client`: the bytes that
    /// were read behind the request. `tell` is called when something has moved or the answer is
    /// another, with whether the client now takes nothing of what there is for it.
    pub(crate) async fn run(
        self,
        client: &mut impl Side,
        from_client: Bytes,
        limits: Limits,
        scratch: &Scratch,
        mut tell: impl FnMut(bool),
    ) {
        let Self { mut engine, from_engine, mut key, mut report } = self;
        let mut inward = Direction::new(from_client, End::ClientGone, End::EngineDied);
        let mut outward = Direction::new(from_engine, End::EngineDied, End::ClientGone);
        let (mut moved_at, mut timer) = (Instant::now(), PhaseTimer::default());
        let (mut blocked_since, mut send_timer) = (None, SendTimer::default());
        let mut first_end = None;
        tell(false);
        let end = poll_fn(|context| {
            if key.poll_ended(context).is_ready() {
                let drained = key.ended_early() == Some(EndedEarly::Drained);
                return Poll::Ready(if drained { End::Drained } else { End::Refused });
            }
            let into = inward.poll(context, client, &mut engine, scratch);
            let out = outward.poll(context, &mut engine, client, scratch);
            let (taken, blocked) = (report.ended.bytes_out != outward.moved, outward.is_blocked());
            let changed = blocked != blocked_since.is_some();
            if changed || taken || report.ended.bytes_in != inward.moved {
                (report.ended.bytes_in, report.ended.bytes_out) = (inward.moved, outward.moved);
                moved_at = Instant::now();
                tell(blocked);
            }
            blocked_since = match blocked_since {
                _ if !blocked => None,
                Some(since) if !taken => Some(since),
                _ => Some(Instant::now()),
            };
            let ends = [into, out]
                .map(|polled| if let Poll::Ready(end) = polled { Some(end) } else { None });
            // The first end is the tunnel's. Of two at once, a broken side explains the other's
            // end.
            if let Some(end) = ends.iter().flatten().max_by_key(|end| **end != End::Done) {
                let (end, ended_at) = *first_end.get_or_insert_with(|| (*end, Instant::now()));
                let both = ends.iter().all(Option::is_some);
                return if both {
                    Poll::Ready(end)
                } else {
                    timer.poll(context, ended_at, Some(GRACE)).map(|()| end)
                };
            }
            if let Some(since) = blocked_since
                && send_timer.poll(context, since, limits.send, &limits.unread).is_ready()
            {
                return Poll::Ready(End::Timeout);
            }
            timer.poll(context, moved_at, limits.idle).map(|()| End::Timeout)
        })
        .await;
        report.ended.end = end;
    }
}

/// Reports the end when it is dropped.
struct Report {
    ended: Ended,
    on_end: Option<Box<dyn FnOnce(Ended)>>,
}

impl Drop for Report {
    fn drop(&mut self) {
        if let Some(on_end) = self.on_end.take() {
            on_end(self.ended);
        }
    }
}

/// One direction of a tunnel.
struct Direction {
    /// Bytes that were read and not written yet.
    buffer: BytesMut,
    /// Bytes that were written.
    moved: u64,
    /// Bytes were written since the last flush.
    unflushed: bool,
    /// The end of the side that is read; None: it has not ended.
    source_end: Option<End>,
    /// The end of this direction; None: it has not ended.
    end: Option<End>,
    /// The end that a broken connection of the side that is read stands for.
    source_broken: End,
    /// The end that a broken connection of the side that is written stands for.
    sink_broken: End,
}

impl Direction {
    fn new(first: Bytes, source_broken: End, sink_broken: End) -> Self {
        let buffer = BytesMut::from(first);
        Self {
            buffer,
            moved: 0,
            unflushed: false,
            source_end: None,
            end: None,
            source_broken,
            sink_broken,
        }
    }

    /// Whether the sink does not take what there is for it.
    fn is_blocked(&self) -> bool {
        self.end.is_none() && !self.buffer.is_empty()
    }

    /// Copies. Ready when the source has ended and the sink was shut down, or the sink is broken.
    fn poll(
        &mut self,
        context: &mut Context<'_>,
        source: &mut impl Side,
        sink: &mut impl Side,
        scratch: &Scratch,
    ) -> Poll<End> {
        if let Some(end) = self.end {
            return Poll::Ready(end);
        }
        let end =
            ready!(self.poll_copy(context, source, sink, scratch)).unwrap_or(self.sink_broken);
        self.end = Some(end);
        Poll::Ready(end)
    }

    /// Copies as far as both sides allow. The error is the sink's.
    fn poll_copy(
        &mut self,
        context: &mut Context<'_>,
        source: &mut impl Side,
        sink: &mut impl Side,
        scratch: &Scratch,
    ) -> Poll<std::io::Result<End>> {
        let mut burst = 0;
        loop {
            while !self.buffer.is_empty() {
                let count = ready!(Pin::new(&mut *sink).poll_write(context, &self.buffer))?;
                if count == 0 {
                    return Poll::Ready(Ok(self.sink_broken));
                }
                self.buffer.advance(count);
                self.moved += count as u64;
                self.unflushed = true;
                burst += count;
            }
            if let Some(end) = self.source_end {
                return Pin::new(&mut *sink).poll_shutdown(context).map_ok(|()| end);
            }
            if burst > BURST {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            // While nothing moves, no memory is held.
            self.buffer = BytesMut::new();
            match scratch.poll_read(Pin::new(&mut *source), context, &mut self.buffer) {
                Poll::Ready(Ok(1..)) => {}
                Poll::Ready(Ok(0)) => self.source_end = Some(End::Done),
                Poll::Ready(Err(_)) => self.source_end = Some(self.source_broken),
                Poll::Pending => {
                    if self.unflushed {
                        ready!(Pin::new(&mut *sink).poll_flush(context))?;
                        self.unflushed = false;
                    }
                    return Poll::Pending;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, rc::Rc};

    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;
    use crate::bounded::bounded;

    /// The outer ends of client and engine, and the end of the tunnel, once it is known.
    struct Ends {
        client: DuplexStream,
        engine: DuplexStream,
        ended: Rc<Cell<Option<Ended>>>,
    }

    /// Limits of a tunnel of whose client the system tells nothing.
    fn limits(idle: Option<Duration>, send: Option<Duration>) -> Limits {
        Limits { idle, send, unread: Box::new(|| None) }
    }

    /// A tunnel, not yet run, and the stream to run it with.
    fn tunnel(from_engine: &'static [u8]) -> (Tunnel, DuplexStream, Ends) {
        let ((client, inner_client), (engine, inner_engine)) = (duplex(1000), duplex(1000));
        let ended = Rc::new(Cell::new(None));
        let reported = Rc::clone(&ended);
        let key = KeyWatch::new(None, &Rc::default());
        let tunnel =
            Tunnel::new(inner_engine, Bytes::from_static(from_engine), key, move |ended| {
                assert!(reported.replace(Some(ended)).is_none(), "reported once");
            });
        (tunnel, inner_client, Ends { client, engine, ended })
    }

    #[tokio::test]
    async fn bytes_that_were_read_before_go_first_and_nothing_is_lost_either_way() {
        let (tunnel, mut inner, Ends { mut client, mut engine, ended }) = tunnel(b"hello ");
        let long: Vec<u8> = (0..700_000_u32).map(|number| number as u8).collect();
        let scratch = Scratch::default();
        let run = tunnel.run(
            &mut inner,
            Bytes::from_static(b"early "),
            limits(None, None),
            &scratch,
            |_| {},
        );
        // An engine that sends back what it gets, to the end.
        let echo = async {
            let (mut read, mut write) = tokio::io::split(&mut engine);
            tokio::io::copy(&mut read, &mut write).await.unwrap();
            write.shutdown().await.unwrap();
        };
        let ask = async {
            let (mut read, mut write) = tokio::io::split(&mut client);
            let mut got = Vec::new();
            let send = async {
                write.write_all(&long).await.unwrap();
                write.shutdown().await.unwrap();
            };
            tokio::join!(send, async { read.read_to_end(&mut got).await.unwrap() });
            got
        };
        let ((), (), got) = bounded(async { tokio::join!(run, echo, ask) }).await;
        assert!(got == [&b"hello early "[..], &long].concat());
        let (bytes_in, bytes_out) = (700_006, 700_012);
        assert_eq!(ended.get(), Some(Ended { bytes_in, bytes_out, end: End::Done }));
    }

    #[tokio::test(start_paused = true)]
    async fn one_sides_end_reaches_the_other_which_may_still_speak_for_a_while() {
        for engine_ends in [true, false] {
            let (tunnel, mut inner, Ends { client, engine, ended }) = tunnel(b"");
            let (mut ending, mut other) =
                if engine_ends { (engine, client) } else { (client, engine) };
            let scratch = Scratch::default();
            let run = tunnel.run(&mut inner, Bytes::new(), limits(None, None), &scratch, |_| {});
            let speak = async {
                ending.shutdown().await.unwrap();
                assert_eq!(other.read(&mut [0; 9]).await.unwrap(), 0, "it sees the end");
                other.write_all(b"last words").await.unwrap();
                let mut words = [0; 10];
                ending.read_exact(&mut words).await.unwrap();
                assert_eq!(&words, b"last words");
                // It does not end: the tunnel ends all the same.
                other
            };
            let started = Instant::now();
            let ((), _other) = bounded(async { tokio::join!(run, speak) }).await;
            assert_eq!(started.elapsed().as_secs(), GRACE.as_secs());
            assert_eq!(ended.get().unwrap().end, End::Done);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_tunnel_in_which_nothing_moves_ends() {
        let (tunnel, mut inner, Ends { mut client, mut engine, ended }) = tunnel(b"");
        let idle = Duration::from_secs(60);
        let started = Instant::now();
        let scratch = Scratch::default();
        let run = tunnel.run(&mut inner, Bytes::new(), limits(Some(idle), None), &scratch, |_| {});
        let speak = async {
            for _ in 0..3 {
                tokio::time::sleep(idle / 2).await;
                client.write_all(b"x").await.unwrap();
                engine.read_u8().await.unwrap();
                tokio::time::sleep(idle / 2).await;
                engine.write_all(b"y").await.unwrap();
                client.read_u8().await.unwrap();
            }
        };
        bounded(async { tokio::join!(run, speak) }).await;
        assert_eq!(started.elapsed().as_secs(), 4 * idle.as_secs());
        assert_eq!(ended.get(), Some(Ended { bytes_in: 3, bytes_out: 3, end: End::Timeout }));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_ends_it_however_much_it_sends() {
        let (tunnel, mut inner, Ends { mut client, mut engine, ended }) = tunnel(b"");
        let limits = limits(None, Some(Duration::from_secs(60)));
        let (started, scratch) = (Instant::now(), Scratch::default());
        let mut told = Vec::new();
        let run = tunnel.run(&mut inner, Bytes::new(), limits, &scratch, |it| told.push(it));
        let speak = async {
            engine.write_all(&[b'x'; 500]).await.unwrap();
            client.read_exact(&mut [0; 500]).await.unwrap();
            tokio::time::sleep(Duration::from_secs(100)).await;
            engine.write_all(&[b'x'; 1500]).await.unwrap();
            for _ in 0..100 {
                tokio::time::sleep(Duration::from_secs(1)).await;
                let _ = client.write_all(b"y").await;
            }
        };
        let at_end = async {
            run.await;
            started.elapsed().as_secs()
        };
        let (seconds, ()) = bounded(async { tokio::join!(at_end, speak) }).await;
        assert_eq!(seconds, 160);
        assert_eq!(ended.get().unwrap().end, End::Timeout);
        assert_eq!((told.first(), told.last()), (Some(&false), Some(&true)));
    }

    #[tokio::test]
    async fn a_broken_side_ends_the_tunnel_under_its_own_name() {
        for (engine_breaks, end) in [(true, End::EngineDied), (false, End::ClientGone)] {
            let (tunnel, mut inner, Ends { client, engine, ended }) = tunnel(b"");
            let (broken, mut other) =
                if engine_breaks { (engine, client) } else { (client, engine) };
            // A pipe whose other end is gone takes no byte, and has ended for the reader.
            drop(broken);
            other.write_all(b"for nobody").await.unwrap();
            let scratch = Scratch::default();
            let run = tunnel.run(&mut inner, Bytes::new(), limits(None, None), &scratch, |_| {});
            let finish = async {
                assert_eq!(other.read(&mut [0; 9]).await.unwrap(), 0);
                drop(other);
            };
            bounded(async { tokio::join!(run, finish) }).await;
            assert_eq!(ended.get().unwrap().end, end);
        }
    }

    #[tokio::test]
    async fn a_tunnel_that_is_dropped_reports_what_it_moved() {
        let (tunnel, mut inner, Ends { mut client, engine: _engine, ended }) = tunnel(b"");
        client.write_all(b"four").await.unwrap();
        let scratch = Scratch::default();
        let run = tunnel.run(&mut inner, Bytes::new(), limits(None, None), &scratch, |_| {});
        let cut = tokio::time::timeout(Duration::from_millis(1), run).await;
        assert!(cut.is_err());
        assert_eq!(ended.get(), Some(Ended { bytes_in: 4, bytes_out: 0, end: End::ClientGone }));
    }
}
