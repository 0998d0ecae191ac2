//! A bound for tests of what ends by itself: they fail where it does not, instead of waiting for
//! ever.

use std::{
    future::Future,
    pin::pin,
    time::{Duration, Instant},
};

/// Nothing in these tests takes so long, in real time.
const PATIENCE: Duration = Duration::from_secs(60);
/// Nor in paused time so many times as long.
const STEPS: u32 = 1_000;

/// The output of `work`, in real or in paused time. Panics where it does not come.
pub(crate) async fn bounded<F: Future>(work: F) -> F::Output {
    let (mut work, begun) = (pin!(work), Instant::now());
    for _ in 0..STEPS {
        if let Ok(done) = tokio::time::timeout(PATIENCE, work.as_mut()).await {
            return done;
        }
        assert!(begun.elapsed() < PATIENCE, "it waits for ever");
    }
    panic!("it waits for ever");
}
