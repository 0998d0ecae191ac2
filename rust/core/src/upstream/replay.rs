//! The replay buffer of a request's body: pieces that this attempt has not sent yet, and those that
//! it has sent and another attempt may need.

use std::{collections::VecDeque, ops::Range};

use bytes::{Bytes, BytesMut};

/// Waiting pieces are joined up to this size, in bytes. Each has a cost of its own, and a client
/// may send single bytes.
const JOINED: usize = 4 * 1024;

/// The buffered pieces of one body.
#[derive(Debug)]
pub(super) struct Replay {
    pieces: VecDeque<Bytes>,
    /// The bytes in `pieces`.
    held: u64,
    retained: Retained,
    /// The position in the body behind the last piece that this attempt has sent.
    position: u64,
    /// The longest body that is retained for another attempt, in bytes.
    limit: u64,
}

/// The part of the body that is buffered.
#[derive(Clone, Copy, Debug)]
enum Retained {
    /// The body from its first byte on. `sent`: the number of pieces that this attempt has sent.
    All { sent: usize },
    /// Only the pieces that were not sent yet.
    Unsent,
}

/// Adds a piece to the last that waits (None: none does) if both are small. Else gives it back,
/// unless it is empty.
pub(super) fn join(last: Option<&mut Bytes>, piece: Bytes) -> Option<Bytes> {
    match last {
        _ if piece.is_empty() => None,
        Some(last) if last.len() + piece.len() <= JOINED => {
            let mut joined = std::mem::take(last).try_into_mut().unwrap_or_else(|shared| {
                let mut joined = BytesMut::with_capacity(JOINED);
                joined.extend_from_slice(&shared);
                joined
            });
            joined.extend_from_slice(&piece);
            *last = joined.freeze();
            None
        }
        _ => Some(piece),
    }
}

impl Replay {
    /// An empty buffer. `limit`: the longest body that is retained for another attempt, in bytes.
    pub(super) fn new(limit: u64) -> Self {
        Self {
            pieces: VecDeque::with_capacity(2),
            held: 0,
            retained: Retained::All { sent: 0 },
            position: 0,
            limit,
        }
    }

    /// The longest body that is retained for another attempt, in bytes.
    pub(super) fn limit(&self) -> u64 {
        self.limit
    }

    /// Adds a piece behind the others, or to the last if that waits too and both are small.
    pub(super) fn push(&mut self, piece: Bytes) {
        self.held += piece.len() as u64;
        let waits = self.pieces.len() > self.sent();
        let last = self.pieces.back_mut().filter(|_| waits);
        if let Some(piece) = join(last, piece) {
            self.pieces.push_back(piece);
        }
    }

    /// The number of pieces that this attempt has sent.
    fn sent(&self) -> usize {
        match self.retained {
            Retained::All { sent } => sent,
            Retained::Unsent => 0,
        }
    }

    /// Stops retaining the body if it is longer than the limit. `length`: the bytes received so
    /// far.
    pub(super) fn note_length(&mut self, length: u64) {
        if length > self.limit {
            self.release();
        }
    }

    /// Drops the pieces that were sent, and from now on each piece as it is sent. No other attempt
    /// can follow, unless nothing was sent.
    fn release(&mut self) {
        let sent = self.pieces.drain(..self.sent());
        self.held -= sent.map(|piece| piece.len() as u64).sum::<u64>();
        self.retained = Retained::Unsent;
    }

    /// Drops everything: no attempt follows, and this one sends no more.
    pub(super) fn clear(&mut self) {
        self.pieces = VecDeque::new();
        self.held = 0;
        self.retained = Retained::Unsent;
    }

    /// Whether an attempt could send all of the body.
    pub(super) fn is_complete(&self) -> bool {
        matches!(self.retained, Retained::All { .. }) || self.position == 0
    }

    /// Whether a body of this length will be retained; None: the length is unknown.
    pub(super) fn will_retain(&self, length: Option<u64>) -> bool {
        matches!(self.retained, Retained::All { .. })
            && length.is_none_or(|length| length <= self.limit)
    }

    /// Begins again at the body's first byte.
    pub(super) fn rewind(&mut self) {
        debug_assert!(self.is_complete(), "an attempt starts at the body's first byte");
        if let Retained::All { sent } = &mut self.retained {
            *sent = 0;
        }
        self.position = 0;
    }

    /// The next piece for this attempt, and its position in the body; None: there is none, or it
    /// reaches beyond the position `held_from`.
    pub(super) fn next_before(&mut self, held_from: u64) -> Option<(u64, Bytes)> {
        let next = self.pieces.get(self.sent())?;
        let (start, end) = (self.position, self.position + next.len() as u64);
        if end > held_from {
            return None;
        }
        let piece = match &mut self.retained {
            Retained::All { sent } => {
                *sent += 1;
                next.clone()
            }
            Retained::Unsent => {
                self.held -= next.len() as u64;
                self.pieces.pop_front()?
            }
        };
        self.position = end;
        Some((start, piece))
    }

    /// Whether this attempt has sent all buffered pieces.
    pub(super) fn is_exhausted(&self) -> bool {
        self.pieces.len() == self.sent()
    }

    /// The bytes that are buffered.
    pub(super) fn held(&self) -> u64 {
        self.held
    }

    /// All buffered pieces as one, which takes their place. No attempt has begun, or none can have
    /// sent a part of it.
    pub(super) fn gather(&mut self) -> Bytes {
        if self.pieces.len() > 1 {
            let mut whole = BytesMut::with_capacity(self.held as usize);
            self.pieces.drain(..).for_each(|piece| whole.extend_from_slice(&piece));
            self.pieces.push_back(whole.freeze());
            self.rewind();
        }
        self.pieces.front().cloned().unwrap_or_default()
    }

    /// The bytes of a range of positions in the body; None: they are not all buffered.
    pub(super) fn bytes(&self, range: Range<u64>) -> Option<Vec<u8>> {
        let mut start = match self.retained {
            Retained::All { .. } => 0,
            Retained::Unsent => self.position,
        };
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
}

#[cfg(test)]
mod tests {
    use super::*;

    fn send_all(replay: &mut Replay) -> Vec<(u64, Bytes)> {
        std::iter::from_fn(|| replay.next_before(u64::MAX)).collect()
    }

    fn large(byte: u8) -> Bytes {
        vec![byte; JOINED].into()
    }

    #[test]
    fn single_bytes_are_joined() {
        let text: Bytes = (0..=255).cycle().take(100_000).collect::<Vec<u8>>().into();
        let mut replay = Replay::new(64 << 20);
        for at in 0..text.len() {
            replay.push(text.slice(at..=at));
        }
        assert_eq!(replay.pieces.len(), text.len().div_ceil(JOINED));
        assert_eq!(replay.gather(), text);
    }

    #[test]
    fn a_second_attempt_gets_what_the_first_one_got() {
        let mut replay = Replay::new(1 << 20);
        replay.push(large(b'a'));
        replay.push(large(b'b'));
        let first = send_all(&mut replay);
        assert!(first.len() == 2 && first[1].0 == JOINED as u64);
        assert!(replay.is_exhausted() && replay.is_complete());
        replay.rewind();
        assert!(!replay.is_exhausted());
        replay.push(large(b'c'));
        let second = send_all(&mut replay);
        assert_eq!(second[..2], first);
        assert_eq!(second[2], (2 * JOINED as u64, large(b'c')));
    }

    #[test]
    fn a_piece_that_was_sent_does_not_grow() {
        let mut replay = Replay::new(1 << 20);
        replay.push(Bytes::from_static(b"a"));
        assert_eq!(send_all(&mut replay), [(0, Bytes::from_static(b"a"))]);
        replay.push(Bytes::from_static(b"b"));
        replay.push(Bytes::from_static(b"c"));
        assert_eq!(send_all(&mut replay), [(1, Bytes::from_static(b"bc"))]);
    }

    #[test]
    fn a_body_over_the_limit_is_dropped_as_it_is_sent() {
        let mut replay = Replay::new(JOINED as u64);
        replay.push(large(b'a'));
        replay.note_length(JOINED as u64);
        assert!(replay.will_retain(None) && replay.will_retain(Some(JOINED as u64)));
        assert!(!replay.will_retain(Some(JOINED as u64 + 1)), "it will be too long");
        replay.note_length(JOINED as u64 + 1);
        assert!(!replay.will_retain(None));
        assert!(replay.is_complete(), "nothing was sent yet");
        replay.rewind();
        assert_eq!(replay.bytes(1..3).as_deref(), Some(&b"aa"[..]));
        assert_eq!(send_all(&mut replay), [(0, large(b'a'))]);
        assert!(!replay.is_complete() && replay.pieces.is_empty());
        assert_eq!(replay.bytes(1..3), None);
        replay.push(large(b'b'));
        assert_eq!(send_all(&mut replay), [(JOINED as u64, large(b'b'))]);
    }

    #[test]
    fn what_waits_survives_a_release() {
        let mut replay = Replay::new(1 << 20);
        replay.push(large(b'a'));
        let _ = replay.next_before(u64::MAX);
        replay.push(large(b'b'));
        replay.release();
        assert_eq!(replay.pieces.len(), 1);
        assert_eq!(send_all(&mut replay), [(JOINED as u64, large(b'b'))]);
    }

    #[test]
    fn bytes_from_a_place_on_are_held() {
        let mut replay = Replay::new(1 << 20);
        replay.push(large(b'a'));
        replay.push(large(b'b'));
        assert!(replay.next_before(JOINED as u64 + 1).is_some());
        assert!(replay.next_before(JOINED as u64 + 1).is_none(), "it reaches beyond the place");
        assert!(!replay.is_exhausted());
        let over_both = JOINED as u64 - 1..JOINED as u64 + 1;
        assert_eq!(replay.bytes(over_both).as_deref(), Some(&b"ab"[..]));
    }
}
