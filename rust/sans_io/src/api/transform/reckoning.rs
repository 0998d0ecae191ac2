//! What translating a frame will take in memory, reckoned while it comes.

use memchr::memchr2;

use crate::{api::cost, codec::json::Census};

/// A shorter frame is not reckoned, in bytes: it takes less than a connection's buffers.
const COUNTED: usize = 16 * 1024;

/// The census of a frame that has not come whole.
#[derive(Debug, Default)]
pub(super) struct FrameReckoning {
    census: Census,
    /// Bytes of the frame that were counted.
    counted: usize,
}

impl FrameReckoning {
    /// Counts what has come of a frame. `is_new`: it is another one than that of the last call.
    pub(super) fn follow(&mut self, frame: &[u8], is_new: bool) {
        if is_new && self.counted > 0 {
            *self = Self::default();
        }
        if frame.len() < COUNTED {
            return;
        }
        let mut rest = &frame[self.counted..];
        while let Some(at) = memchr2(b'\n', b'\r', rest) {
            self.census.feed(&rest[..at]);
            // No string lies across two lines, whatever a line may hold that is no data.
            self.census.end_line();
            rest = &rest[at + 1..];
        }
        self.census.feed(rest);
        self.counted = frame.len();
    }

    /// The most bytes that translating it takes beside it.
    pub(super) fn cost(&self) -> usize {
        if self.counted == 0 { 0 } else { cost::of_event(self.counted, &self.census) }
    }
}
