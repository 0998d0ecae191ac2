//! The timeline of a request through its phases, and the `Server-Timing` that is made of it.

use std::time::Duration;

use bytes::{BufMut, Bytes};
use http::HeaderValue;
use tokio::time::Instant;

use sans_io::api::usage::Timings;

/// Room for the longest text: six phases of 12 letters and 21 digits at most.
const TEXT: usize = 256;

/// The begin of each phase of one request, on the monotonic clock; None: it was not reached. Each
/// is read from the clock once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timeline {
    /// The head was read.
    began: Instant,
    /// The key was checked.
    authenticated: Option<Instant>,
    /// The route was known.
    routed: Option<Instant>,
    /// The last attempt began.
    attempted: Option<Instant>,
    /// The last attempt had its connection.
    connected: Option<Instant>,
    /// The first bytes of the last attempt's response passed the transform.
    first_frame: Option<Instant>,
    /// The last attempt was committed, by a frame, a comment or an empty body, or failed to be.
    committed: Option<Instant>,
    /// The time spent waiting for the client's body before the route was known,
    waited_for_route: Duration,
    /// and in all, before the last attempt.
    waited_for_client: Duration,
    /// The time spent in attempts before the last one, and in the wait for an engine to wake.
    failed_attempts: Duration,
}

impl Timeline {
    /// A request begins.
    pub(crate) fn begin() -> Self {
        Self {
            began: Instant::now(),
            authenticated: None,
            routed: None,
            attempted: None,
            connected: None,
            first_frame: None,
            committed: None,
            waited_for_route: Duration::ZERO,
            waited_for_client: Duration::ZERO,
            failed_attempts: Duration::ZERO,
        }
    }

    /// The moment when the head was read.
    pub(crate) fn began(&self) -> Instant {
        self.began
    }

    /// Notes that the key was checked.
    pub(crate) fn authenticated(&mut self) {
        self.authenticated = Some(Instant::now());
    }

    /// Notes that the route is known.
    pub(crate) fn routed(&mut self) {
        self.routed = Some(Instant::now());
    }

    /// Notes that the request has waited for an engine to wake for so long.
    pub(crate) fn waited_for_engine(&mut self, time: Duration) {
        self.failed_attempts += time;
    }

    /// Notes that an attempt begins, and forgets the phases of the one before it.
    pub(crate) fn attempted(&mut self) {
        let now = Instant::now();
        if let Some(previous) = self.attempted.replace(now) {
            self.failed_attempts += now - previous;
        }
        self.connected = None;
        self.first_frame = None;
        self.committed = None;
    }

    /// Notes that the attempt has its connection.
    pub(crate) fn connected(&mut self) {
        self.connected = Some(Instant::now());
    }

    /// Notes the first bytes of the response; later calls change nothing.
    pub(crate) fn first_frame(&mut self) {
        self.first_frame.get_or_insert_with(Instant::now);
    }

    /// Notes the commit point, and returns it; later calls change nothing.
    pub(crate) fn committed(&mut self) -> Instant {
        let first_frame = self.first_frame;
        *self.committed.get_or_insert_with(|| first_frame.unwrap_or_else(Instant::now))
    }

    /// Notes that the request has failed: what the last attempt waited for, it waited for until now.
    pub(crate) fn failed(&mut self) {
        if self.attempted.is_some() {
            self.committed();
        }
    }

    /// The timings of a response at this moment, for its usage. Before the first frame it is now.
    pub(crate) fn timings(&self) -> Timings {
        let now = Instant::now();
        let since_begin = |time: Instant| time.duration_since(self.began).as_secs_f64() * 1e3;
        Timings {
            first_ms: since_begin(self.first_frame.unwrap_or(now)),
            elapsed_ms: since_begin(now),
        }
    }

    /// Notes the time that was spent waiting for the client's body so far.
    pub(crate) fn waited_for_client(&mut self, all: Duration) {
        self.waited_for_client = all;
        if self.routed.is_none() {
            self.waited_for_route = all;
        }
    }

    /// The wait for the client's body behind the route.
    fn waited_in_queue(&self) -> Duration {
        self.waited_for_client.saturating_sub(self.waited_for_route)
    }

    /// The durations in milliseconds, of the phases that were reached:
    ///
    /// * `auth`: until the key was checked;
    /// * `route`: until the route was known, without the wait for the client's body;
    /// * `queue`: until the last attempt began, without the wait for the client's body: also the wait
    ///   for an engine to wake;
    /// * `connect`: until it had its connection;
    /// * `engine`: until its commit point, or its failure;
    /// * `gateway`: all but the client's part, the wait for an engine to wake, failed attempts, and the
    ///   last attempt's `connect` and `engine`.
    fn put(&self, out: &mut impl BufMut) {
        let mut outside = self.waited_for_client + self.failed_attempts;
        let mut last = self.began;
        let phases: [(&[u8], _, _, _); 5] = [
            (b"auth;dur=", self.authenticated, Duration::ZERO, false),
            (b"route;dur=", self.routed, self.waited_for_route, false),
            (b"queue;dur=", self.attempted, self.waited_in_queue(), false),
            (b"connect;dur=", self.connected, Duration::ZERO, true),
            (b"engine;dur=", self.committed, Duration::ZERO, true),
        ];
        for (name, at, not_ours, is_outside) in phases {
            let Some(at) = at else { continue };
            let duration = at.saturating_duration_since(last).saturating_sub(not_ours);
            last = at;
            if is_outside {
                outside += duration;
            }
            out.put_slice(name);
            put_milliseconds(out, duration);
            out.put_slice(b", ");
        }
        out.put_slice(b"gateway;dur=");
        put_milliseconds(out, self.began.elapsed().saturating_sub(outside));
    }

    /// The value of the header field.
    pub(crate) fn header(&self) -> Option<HeaderValue> {
        let mut text = [0; TEXT];
        let mut out = &mut text[..];
        self.put(&mut out);
        let rest = out.len();
        HeaderValue::from_bytes(&text[..TEXT - rest]).ok()
    }

    /// The value as a comment, for the end of a stream.
    pub(crate) fn comment(&self) -> Bytes {
        let mut text = Vec::with_capacity(TEXT);
        text.put_slice(b": server-timing ");
        self.put(&mut text);
        text.put_slice(b"\n\n");
        text.into()
    }
}

/// Writes a duration in milliseconds, with three decimals.
fn put_milliseconds(out: &mut impl BufMut, duration: Duration) {
    let micros = duration.as_secs() * 1_000_000 + u64::from(duration.subsec_micros());
    out.put_slice(itoa::Buffer::new().format(micros / 1000).as_bytes());
    let digit = |unit| b'0' + (micros / unit % 10) as u8;
    out.put_slice(&[b'.', digit(100), digit(10), digit(1)]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_phase_has_its_own_time_and_the_gateway_has_the_rest() {
        let pause = |milliseconds| tokio::time::sleep(Duration::from_millis(milliseconds));
        let mut timeline = Timeline::begin();
        pause(1).await;
        timeline.authenticated = Some(Instant::now());
        pause(30).await;
        timeline.waited_for_client(Duration::from_millis(28));
        timeline.routed = Some(Instant::now());
        pause(70).await;
        timeline.waited_for_client(Duration::from_millis(28 + 70));
        timeline.attempted = Some(Instant::now());
        pause(4).await;
        timeline.connected = Some(Instant::now());
        pause(500).await;
        timeline.committed = Some(Instant::now());
        let expected = "auth;dur=1.000, route;dur=2.000, queue;dur=0.000, connect;dur=4.000, \
            engine;dur=500.000, gateway;dur=3.000";
        assert_eq!(timeline.header().unwrap(), expected);
        assert_eq!(timeline.comment(), format!(": server-timing {expected}\n\n"));
    }

    #[tokio::test(start_paused = true)]
    async fn phases_that_were_not_reached_are_left_out() {
        assert_eq!(Timeline::begin().header().unwrap(), "gateway;dur=0.000");
    }

    #[tokio::test(start_paused = true)]
    async fn the_wait_for_engines_that_failed_is_not_ours() {
        let pause = |milliseconds| tokio::time::sleep(Duration::from_millis(milliseconds));
        let mut timeline = Timeline::begin();
        pause(1).await;
        timeline.attempted();
        pause(900).await;
        timeline.attempted();
        pause(2).await;
        timeline.connected();
        pause(5000).await;
        timeline.failed();
        let expected =
            "queue;dur=901.000, connect;dur=2.000, engine;dur=5000.000, gateway;dur=1.000";
        assert_eq!(timeline.header().unwrap(), expected);
    }
}
