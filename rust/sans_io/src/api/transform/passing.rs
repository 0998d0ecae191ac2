//! An event stream that passes as it comes, whose frames are watched all the same.

use super::{
    error::TransformError,
    limits::{FRAME_MOST, endless_frame},
};
use crate::codec::sse;

/// The watch over the frames of a stream that passes unread.
#[derive(Debug)]
pub(super) struct PassingFrames {
    /// The last bytes that have passed: an empty line may lie across two reads.
    last: Vec<u8>,
    /// Bytes of the present frame that have passed.
    passed: u64,
    /// The most of one frame that passes, in bytes.
    most: u64,
    /// The last bytes ended a frame.
    ended_frame: bool,
}

impl PassingFrames {
    /// A stream of which nothing has passed.
    pub(super) fn new() -> Self {
        let last = Vec::with_capacity(2 * sse::EDGE);
        Self { last, passed: 0, most: FRAME_MOST, ended_frame: false }
    }

    /// Whether the last bytes ended a frame.
    pub(super) fn ended_frame(&self) -> bool {
        self.ended_frame
    }

    /// Watches the next bytes. Fails for a frame without an end.
    pub(super) fn watch(&mut self, piece: &[u8]) -> Result<(), TransformError> {
        let edge = sse::last_edge_behind(&self.last, piece);
        self.ended_frame = edge.is_some();
        let (before, present) = edge.map_or((self.passed, piece.len()), |at| (0, piece.len() - at));
        self.passed = before + present as u64;
        self.last.extend_from_slice(&piece[piece.len().saturating_sub(sse::EDGE)..]);
        self.last.drain(..self.last.len().saturating_sub(sse::EDGE));
        if self.passed > self.most {
            return Err(endless_frame(self.most));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_frame_without_an_end_ends_a_stream_that_passes_unread() {
        let mut frames = PassingFrames::new();
        frames.most = 100;
        let frame = |size: usize| [b"data: ", &*vec![b'x'; size], b"\n\n"].concat();
        for _ in 0..3 {
            frame(90).chunks(7).for_each(|piece| frames.watch(piece).unwrap());
            assert!(frames.ended_frame());
        }
        frames.watch(&[b'x'; 100]).unwrap();
        assert!(!frames.ended_frame() && frames.watch(b"x").is_err(), "not a byte more");
        frames.watch(b"\n\n").unwrap();
        let error = frame(101).chunks(7).try_for_each(|piece| frames.watch(piece)).unwrap_err();
        assert!(error.to_string().contains("has a frame of more than 100 bytes"), "{error}");
    }

    proptest! {
        #[test]
        fn frames_end_where_they_do_however_the_stream_is_cut(
            words in prop::collection::vec(
                prop::sample::select(vec!["\n", "\r", "\r\n", "a", "data: b"]), 0..30,
            ),
            cuts in prop::collection::vec(0..6_usize, 0..60),
        ) {
            let text = words.concat().into_bytes();
            let mut frames = PassingFrames::new();
            let (mut at, mut edge) = (0, 0);
            for cut in cuts {
                let end = (at + cut).min(text.len());
                frames.watch(&text[at..end]).unwrap();
                at = end;
                let before = edge;
                edge = sse::last_edge(&text[..at], 0).map_or(edge, |found| found.max(edge));
                prop_assert_eq!(frames.ended_frame(), edge > before, "{} {:?}", at, &words);
                prop_assert_eq!(frames.passed, (at - edge) as u64, "{} {:?}", at, &words);
            }
        }
    }
}
