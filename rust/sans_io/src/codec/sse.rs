//! Server-sent events as bytes: frames, their lines and their data.
//!
//! The rules are those of the WHATWG's HTML standard ("Parsing an event stream"): a line ends with
//! LF, CRLF or CR, in any mix, and an empty line ends a frame. Nothing else is a line end. Bytes
//! are never decoded. A byte order mark, which may stand before a stream's first frame, is no part
//! of the frame: who has the begin of a stream takes it away ([`super::mark`]).
//!
//! A CR as the last byte of a buffer may be half of a CRLF whose LF is still on its way. It counts
//! as a line end only if the line before it ended with a lone CR too, since such a stream may have
//! nothing to send for a long time. In any other stream the LF is about to come, and a frame must
//! not leave in two writes: readers exist that then lose it. If an LF does follow a CR that was
//! counted, it begins the next buffer and is taken for an empty line, which dispatches nothing.

use std::borrow::Cow;
use std::ops::Range;

use memchr::memmem::Finder as Needle;
use memchr::{memchr, memchr2, memrchr2};

use crate::codec::json::Finder;

/// The index just behind the last complete frame in `buf`, its empty line included; None while
/// there is none.
///
/// `buf` begins at a frame's first byte. `from` is how much of it earlier calls have seen without
/// finding an edge (0 for a new buffer). The search goes back over it by at most three bytes, so a
/// long frame that arrives in small reads costs linear time.
pub fn last_edge(buf: &[u8], from: usize) -> Option<usize> {
    // A CR that ended the earlier bytes was left open by the earlier call.
    let unseen = from.saturating_sub(1);
    let mut end = buf.len();
    while let Some(at) = memrchr2(b'\n', b'\r', buf.get(unseen..end)?) {
        let line_end = LineEnd::ending_with(buf, unseen + at);
        if line_end.is_of_an_empty_line(buf) && line_end.is_whole(buf) {
            return Some(line_end.end);
        }
        end = unseen + at;
    }
    None
}

/// So many bytes before a read decide where the frames in it end.
pub(crate) const EDGE: usize = 3;

/// The index in `piece` just behind the last frame that ends in it, or whose end it shows: 0 behind a
/// CR that was left open. None: none does. `before`: the last [`EDGE`] bytes of the stream before
/// it, or all of them.
pub(crate) fn last_edge_behind(before: &[u8], piece: &[u8]) -> Option<usize> {
    // From here on the piece alone decides.
    if let Some(edge) = last_edge(piece, EDGE + 1) {
        return Some(edge);
    }
    let mut seam = [0; 2 * EDGE + 1];
    let begin = piece.len().min(EDGE + 1);
    let seam = seam.get_mut(..before.len() + begin)?;
    seam[..before.len()].copy_from_slice(before);
    seam[before.len()..].copy_from_slice(&piece[..begin]);
    let edge = last_edge(seam, before.len())?;
    // An end at the seam was seen before, unless it is a CR that was left open.
    let is_new = edge > before.len() || last_edge(before, 0) != Some(edge);
    edge.checked_sub(before.len()).filter(|_| is_new)
}

/// The frames that end in `buf`, in order, each with its empty line; an empty line on its own is a
/// frame too. A CR at the very end counts as a line end, as decided by [`last_edge`]. A `buf` that
/// was cut there consists of nothing else.
pub fn frames(buf: &[u8]) -> impl Iterator<Item = &[u8]> {
    frame_ranges(buf).map(|range| &buf[range])
}

/// The last frame of `frames`, which consists of whole frames.
pub fn last_frame(frames: &[u8]) -> &[u8] {
    let line_end = if frames.ends_with(b"\r\n") { 2 } else { 1 };
    let start = last_edge(&frames[..frames.len().saturating_sub(line_end)], 0).unwrap_or(0);
    &frames[start..]
}

/// The range in a frame of the value that `finder` looks for in the event's data.
pub(crate) fn place_in(frame: &[u8], finder: &mut Finder) -> Option<Range<usize>> {
    let mut at = 0;
    while at < frame.len() {
        let line_end = LineEnd::first_or_rest(frame, at);
        if let Some(found) = found_in(&frame[at..line_end.start], finder) {
            return Some(at + found.start..at + found.end);
        }
        at = line_end.end;
    }
    None
}

/// The event's data, its lines joined with LF; None when it has no line of data.
pub fn data(frame: &[u8]) -> Option<Cow<'_, [u8]>> {
    let mut data: Option<Cow<'_, [u8]>> = None;
    for line in lines(frame) {
        let (b"data", value) = field(line) else { continue };
        match &mut data {
            None => data = Some(Cow::Borrowed(value)),
            Some(joined) => {
                joined.to_mut().push(b'\n');
                joined.to_mut().extend_from_slice(value);
            }
        }
    }
    data
}

/// The event's name, the last one if there are several; empty when it has none.
pub(crate) fn event_name(frame: &[u8]) -> &[u8] {
    let name = |line| match field(line) {
        (b"event", value) => Some(value),
        _ => None,
    };
    lines(frame).filter_map(name).last().unwrap_or_default()
}

/// Ranges of the frames that contain `token`, in order; a last one may be cut off. The usual bytes
/// contain none, and cost one search.
pub(crate) fn frames_with<'a>(
    frames: &'a [u8],
    token: &'a Needle<'_>,
) -> impl Iterator<Item = Range<usize>> + 'a {
    let mut from = 0;
    std::iter::from_fn(move || {
        let rest = frames.get(from..)?;
        let hit = token.find(rest)?;
        // The hit is inside a line, so that every empty line before it is whole.
        let start = from + last_edge(&rest[..=hit], 0).unwrap_or(0);
        let end =
            frame_ranges(&frames[start..]).next().map_or(frames.len(), |range| start + range.end);
        from = end;
        Some(start..end)
    })
}

/// Ranges of the [`frames`] of `buf`.
pub(crate) fn frame_ranges(buf: &[u8]) -> impl Iterator<Item = Range<usize>> {
    let mut start = 0;
    std::iter::from_fn(move || {
        let mut at = start;
        loop {
            let line_end = LineEnd::first_in(buf, at)?;
            at = line_end.end;
            if line_end.is_of_an_empty_line(buf) {
                return Some(std::mem::replace(&mut start, at)..at);
            }
        }
    })
}

/// The lines of a frame without their ends, an unfinished last one included.
pub fn lines(frame: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let rest = frame.get(at..).filter(|rest| !rest.is_empty())?;
        let Some(line_end) = LineEnd::first_in(frame, at) else {
            at = frame.len();
            return Some(rest);
        };
        Some(&frame[std::mem::replace(&mut at, line_end.end)..line_end.start])
    })
}

/// Name and value of a line. One space behind the colon is not part of the value. A comment has an
/// empty name, a line without a colon an empty value.
pub fn field(line: &[u8]) -> (&[u8], &[u8]) {
    match memchr(b':', line) {
        None => (line, b""),
        Some(colon) => {
            let value = &line[colon + 1..];
            (&line[..colon], value.strip_prefix(b" ").unwrap_or(value))
        }
    }
}

/// The range in `line` of the value that `finder` looks for. `finder` has read the event's lines
/// before it. Lines of data are one text with LF between, and a JSON string cannot contain an LF,
/// so the value lies within one line.
pub(crate) fn found_in(line: &[u8], finder: &mut Finder) -> Option<Range<usize>> {
    let (b"data", value) = field(line) else { return None };
    if finder.found().is_some() {
        return None;
    }
    let value_start = line.len() - value.len();
    let before = finder.seen();
    finder.feed(value);
    let found = finder.found().and_then(|found| {
        Some(
            value_start + found.start.checked_sub(before)?
                ..value_start + found.end.checked_sub(before)?,
        )
    });
    finder.feed(b"\n");
    found
}

/// The end of a line: LF, CR LF or CR.
pub(crate) struct LineEnd {
    /// The index of its first byte.
    pub start: usize,
    /// Just behind its last byte.
    pub end: usize,
}

impl LineEnd {
    /// The first line end from `at` on; None without one.
    fn first_in(buf: &[u8], at: usize) -> Option<Self> {
        let start = at + memchr2(b'\n', b'\r', buf.get(at..)?)?;
        let is_pair = buf[start] == b'\r' && buf.get(start + 1) == Some(&b'\n');
        Some(Self { start, end: start + 1 + usize::from(is_pair) })
    }

    /// The first line end from `at` on; without one, an empty one at the end of `buf`.
    pub(crate) fn first_or_rest(buf: &[u8], at: usize) -> Self {
        Self::first_in(buf, at).unwrap_or(Self { start: buf.len(), end: buf.len() })
    }

    /// The line end whose last byte, an LF or a CR, is at `last`.
    fn ending_with(buf: &[u8], last: usize) -> Self {
        let is_pair = buf[last] == b'\n' && last > 0 && buf[last - 1] == b'\r';
        Self { start: last - usize::from(is_pair), end: last + 1 }
    }

    fn is_of_an_empty_line(&self, buf: &[u8]) -> bool {
        self.start == 0 || matches!(buf[self.start - 1], b'\n' | b'\r')
    }

    /// Whether no LF can still belong to it; see the module.
    fn is_whole(&self, buf: &[u8]) -> bool {
        self.end < buf.len()
            || buf[self.end - 1] == b'\n'
            || self.start > 0 && buf[self.start - 1] == b'\r'
    }
}
