//! Server-sent events as bytes: where frames end, what ends a stream, and the public name in place of the engine's.
//!
//! The rules are WHATWG's: a line ends with LF, CRLF or CR, in any mix, and an empty line ends a frame. Nothing else is
//! a line end. Bytes are never decoded. A byte order mark is not looked for: engines send none.
//!
//! A CR as the last byte of a buffer may be half of a CRLF whose LF is still on its way. It counts as a line end only
//! if the line before it ended with a lone CR too, since such a stream may have nothing to send for a long time. In
//! any other stream the LF is about to come, and a frame must not leave in two writes: readers exist that then lose
//! it. If an LF does follow a CR that was counted, it begins the next buffer and is taken for an empty line, which
//! dispatches nothing.

use std::ops::Range;

use memchr::{memchr, memchr2, memrchr2};

use crate::sniff::ModelFinder;

/// The index just behind the last complete frame in `buf`, its empty line included; `None` while there is none.
///
/// `buf` begins at a frame's first byte. `from` is how much of it earlier calls have seen without finding an edge (0 for
/// a new buffer); the search looks back over it by itself as far as it must, which is three bytes, so a long frame that
/// arrives in small reads costs linear time.
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

/// The frames that end in `buf`, in order, each with its empty line; an empty line on its own is a frame too. A CR at
/// the very end counts as a line end: `last_edge` has judged it. They make up all of `buf` when it was cut there.
pub fn frames(buf: &[u8]) -> impl Iterator<Item = &[u8]> {
    frame_ranges(buf).map(|range| &buf[range])
}

/// The last of the frames that make up all of `frames`, which ends with one.
pub fn last_frame(frames: &[u8]) -> &[u8] {
    let line_end = if frames.ends_with(b"\r\n") { 2 } else { 1 };
    let start = last_edge(&frames[..frames.len().saturating_sub(line_end)], 0).unwrap_or(0);
    &frames[start..]
}

/// Puts `name_json` (a JSON string, quotes included) in place of the top-level `model` of each event's data, where that
/// is a JSON object with such a string. Every other byte stays. `None` when nothing had to change, so that the caller
/// can pass on what it has. `frames` begins with a frame; a last one that is cut off is served as far as it goes.
pub fn rename_model(frames: &[u8], name_json: &[u8]) -> Option<Vec<u8>> {
    let mut renamed = Vec::new();
    let mut copied = 0;
    let mut finder = ModelFinder::new();
    let mut at = 0;
    while at < frames.len() {
        let line_end = LineEnd::first_in(frames, at).unwrap_or(LineEnd { start: frames.len(), end: frames.len() });
        let line = &frames[at..line_end.start];
        if line.is_empty() {
            finder = ModelFinder::new();
        } else if let Some(model) = model_in(line, &mut finder)
            && &line[model.clone()] != name_json
        {
            renamed.extend_from_slice(&frames[copied..at + model.start]);
            renamed.extend_from_slice(name_json);
            copied = at + model.end;
        }
        at = line_end.end;
    }
    if copied == 0 {
        return None;
    }
    renamed.extend_from_slice(&frames[copied..]);
    Some(renamed)
}

/// Whether the frame says by itself that the stream is over: its data is `[DONE]`, or it is an event that has data and
/// the name `message_stop`, `error`, `response.completed`, `response.failed` or `response.incomplete`. The empty line
/// may be missing, for the rest that an engine leaves when it closes.
pub fn is_terminal(frame: &[u8]) -> bool {
    let mut name: &[u8] = b"";
    let mut data = None;
    for line in lines(frame) {
        match field(line) {
            (b"event", value) => name = value,
            // Data of several lines is none of the words below.
            (b"data", value) => data = Some(if data.is_none() { value } else { b"" }),
            _ => {}
        }
    }
    let named = matches!(
        name,
        b"message_stop" | b"error" | b"response.completed" | b"response.failed" | b"response.incomplete"
    );
    data.is_some_and(|data| named || data.trim_ascii() == b"[DONE]")
}

fn frame_ranges(buf: &[u8]) -> impl Iterator<Item = Range<usize>> {
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

/// The lines of a frame without their ends; an unfinished last one too.
pub(crate) fn lines(frame: &[u8]) -> impl Iterator<Item = &[u8]> {
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

/// A line's field name and value: one space behind the colon is not part of the value. A comment has an empty name.
pub(crate) fn field(line: &[u8]) -> (&[u8], &[u8]) {
    match memchr(b':', line) {
        None => (line, b""),
        Some(colon) => {
            let value = &line[colon + 1..];
            (&line[..colon], value.strip_prefix(b" ").unwrap_or(value))
        }
    }
}

/// Where in the line the event's data names its model. `finder` has read the event's lines before it. Lines of data are
/// one text with line feeds between, which a JSON string cannot span: so the name lies within one line.
fn model_in(line: &[u8], finder: &mut ModelFinder) -> Option<Range<usize>> {
    let (b"data", value) = field(line) else { return None };
    if finder.found().is_some() {
        return None;
    }
    let value_start = line.len() - value.len();
    let before = finder.seen();
    finder.feed(value);
    let found = finder.found().map(|found| value_start + (found.start - before)..value_start + (found.end - before));
    finder.feed(b"\n");
    found
}

/// The bytes that end a line: LF, CR LF or CR.
struct LineEnd {
    start: usize,
    end: usize,
}

impl LineEnd {
    /// The first one from `at` on.
    fn first_in(buf: &[u8], at: usize) -> Option<Self> {
        let start = at + memchr2(b'\n', b'\r', buf.get(at..)?)?;
        let is_pair = buf[start] == b'\r' && buf.get(start + 1) == Some(&b'\n');
        Some(Self { start, end: start + 1 + usize::from(is_pair) })
    }

    /// The one whose last byte, an LF or a CR, is at `last`.
    fn ending_with(buf: &[u8], last: usize) -> Self {
        let is_pair = buf[last] == b'\n' && last > 0 && buf[last - 1] == b'\r';
        Self { start: last - usize::from(is_pair), end: last + 1 }
    }

    fn is_of_an_empty_line(&self, buf: &[u8]) -> bool {
        self.start == 0 || matches!(buf[self.start - 1], b'\n' | b'\r')
    }

    /// Whether no LF can still belong to it; see the module's page.
    fn is_whole(&self, buf: &[u8]) -> bool {
        self.end < buf.len() || buf[self.end - 1] == b'\n' || self.start > 0 && buf[self.start - 1] == b'\r'
    }
}
