//! Where a request's time went, as the client is told in `Server-Timing`.

use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;
use tokio::time::Instant;

/// The moments of one request, as far as it has come.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moments {
    began: Instant,
    /// The key was checked.
    pub(crate) authenticated: Option<Instant>,
    /// The route was known.
    pub(crate) routed: Option<Instant>,
    /// The last attempt began.
    pub(crate) attempted: Option<Instant>,
    /// It had its connection.
    pub(crate) connected: Option<Instant>,
    /// The engine's first frame was there.
    pub(crate) first_frame: Option<Instant>,
    /// How long the client was waited for.
    pub(crate) waited_for_client: Duration,
}

impl Moments {
    pub(crate) fn new(began: Instant) -> Self {
        let nothing = None;
        Self {
            began,
            authenticated: nothing,
            routed: nothing,
            attempted: nothing,
            connected: nothing,
            first_frame: nothing,
            waited_for_client: Duration::ZERO,
        }
    }

    /// `auth`: the key's check; `route`: until the model was found, without the wait for the
    /// client's bytes; `queue`: until the last attempt began; `connect`; `engine`: until its first
    /// frame; `gateway`: what was ours of it all. Milliseconds; what did not come to pass is left
    /// out.
    fn text(&self, prefix: &str) -> String {
        let mut text = String::with_capacity(144);
        text.push_str(prefix);
        let mut outside = self.waited_for_client;
        let mut last = self.began;
        let phases = [
            ("auth", self.authenticated, Duration::ZERO),
            ("route", self.routed, self.waited_for_client),
            ("queue", self.attempted, Duration::ZERO),
            ("connect", self.connected, Duration::ZERO),
            ("engine", self.first_frame, Duration::ZERO),
        ];
        for (name, at, not_ours) in phases {
            let Some(at) = at else { continue };
            let duration = at.saturating_duration_since(last).saturating_sub(not_ours);
            last = at;
            if matches!(name, "connect" | "engine") {
                outside += duration;
            }
            put(&mut text, name, duration);
            text.push_str(", ");
        }
        put(&mut text, "gateway", self.began.elapsed().saturating_sub(outside));
        text
    }

    /// The header's value.
    pub(crate) fn header(&self) -> Option<HeaderValue> {
        HeaderValue::try_from(self.text("")).ok()
    }

    /// The same as a comment at a stream's end.
    pub(crate) fn comment(&self) -> Bytes {
        let mut text = self.text(": server-timing ");
        text.push_str("\n\n");
        text.into()
    }
}

fn put(text: &mut String, name: &str, duration: Duration) {
    let micros = duration.as_secs() * 1_000_000 + u64::from(duration.subsec_micros());
    text.push_str(name);
    text.push_str(";dur=");
    text.push_str(itoa::Buffer::new().format(micros / 1000));
    text.push('.');
    for unit in [100, 10, 1] {
        text.push(char::from(b'0' + (micros / unit % 10) as u8));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_phase_has_its_own_time_and_ours_is_what_is_left() {
        let pause = |milliseconds| tokio::time::sleep(Duration::from_millis(milliseconds));
        let mut moments = Moments::new(Instant::now());
        pause(1).await;
        moments.authenticated = Some(Instant::now());
        pause(30).await;
        moments.waited_for_client = Duration::from_millis(28);
        moments.routed = Some(Instant::now());
        moments.attempted = moments.routed;
        pause(4).await;
        moments.connected = Some(Instant::now());
        pause(500).await;
        moments.first_frame = Some(Instant::now());
        let expected = "auth;dur=1.000, route;dur=2.000, queue;dur=0.000, connect;dur=4.000, \
            engine;dur=500.000, gateway;dur=3.000";
        assert_eq!(moments.header().unwrap(), expected);
        assert_eq!(moments.comment(), format!(": server-timing {expected}\n\n"));
    }

    #[tokio::test(start_paused = true)]
    async fn what_did_not_come_to_pass_is_left_out() {
        assert_eq!(Moments::new(Instant::now()).header().unwrap(), "gateway;dur=0.000");
    }
}
