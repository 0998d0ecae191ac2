//! Fields in the events of a stream that concern the whole response: the model's name, the
//! response's id, the end of the stream.

use crate::{
    api::endpoints::ModelPlace,
    codec::{
        json::Finder,
        mark::without_mark,
        sse::{LineEnd, data, field, found_in, frame_ranges, lines, place_in},
    },
};

/// Replaces the model's name by `name_json` (a JSON string, quotes included) in each event whose
/// data is a JSON object with a string at `place`. Every other byte stays. None when nothing had to
/// change, so that the caller can pass on the frames that it has.
///
/// `frames` begins with a frame. A last frame that is cut off is treated as far as it goes.
pub fn rename_model(frames: &[u8], place: ModelPlace, name_json: &[u8]) -> Option<Vec<u8>> {
    let path = model_path(place)?;
    let mut renamed = Vec::new();
    let mut copied = 0;
    let mut finder = Finder::string(path);
    let mut at = 0;
    while at < frames.len() {
        let line_end = LineEnd::first_or_rest(frames, at);
        let line = &frames[at..line_end.start];
        if line.is_empty() {
            finder = Finder::string(path);
        } else if let Some(model) = found_in(line, &mut finder)
            && &line[model.clone()] != name_json
        {
            if copied == 0 {
                // Exact where one name is replaced, as in the usual read of one frame.
                renamed.reserve_exact(frames.len() - model.len() + name_json.len());
            }
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

/// The path of the model's name in the events of a stream; None: they carry none.
fn model_path(place: ModelPlace) -> Option<&'static [&'static str]> {
    match place {
        ModelPlace::TopLevel => Some(&["model"]),
        ModelPlace::Response => Some(&["response", "model"]),
        ModelPlace::Message => Some(&["message", "model"]),
        ModelPlace::Nowhere => None,
    }
}

/// `response.id` of the first event that has one, in a stream of the Responses API. `frames` begins
/// with a frame. None also for an id that nobody can ask for: finished-long or no Unicode text.
fn response_id(frames: &[u8]) -> Option<String> {
    let id = |frame| {
        let mut finder = Finder::text_of(&["response", "id"]);
        place_in(frame, &mut finder).and(finder.text().map(str::to_owned))
    };
    frame_ranges(frames).find_map(|range| id(&frames[range]))
}

/// Finds the id of a response of the Responses API as it passes, whole or streamed.
#[derive(Debug)]
pub struct ResponseIdFinder {
    whole: Finder,
    streamed: Option<String>,
    /// Frames of a stream were read.
    begun: bool,
    /// An event with data was seen: the first one has the id, or none has.
    finished: bool,
}

impl ResponseIdFinder {
    /// A finder before the first byte.
    pub fn new() -> Self {
        let whole = Finder::text_of(&["id"]).of_document();
        Self { whole, streamed: None, begun: false, finished: false }
    }

    /// Reads the next bytes of a whole response.
    pub fn feed(&mut self, piece: &[u8]) {
        self.whole.feed(piece);
    }

    /// Reads the next frames of a stream; each call begins with a frame.
    pub fn feed_frames(&mut self, mut frames: &[u8]) {
        if !self.begun {
            frames = without_mark(frames);
            self.begun = !frames.is_empty();
        }
        if !self.finished {
            self.streamed = response_id(frames);
            self.finished = frame_ranges(frames).any(|range| data(&frames[range]).is_some());
        }
    }

    /// The id, once it was read.
    pub fn found(&self) -> Option<&str> {
        self.streamed.as_deref().or_else(|| self.whole.text())
    }
}

impl Default for ResponseIdFinder {
    fn default() -> Self {
        Self::new()
    }
}

/// Whether the frame ends its stream: its data is `[DONE]`, or it has data and the name
/// `message_stop`, `error`, `response.completed`, `response.failed` or `response.incomplete`. The
/// empty line may be missing, as in the rest that an engine leaves when it closes.
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
        b"message_stop"
            | b"error"
            | b"response.completed"
            | b"response.failed"
            | b"response.incomplete"
    );
    data.is_some_and(|data| named || data.trim_ascii() == b"[DONE]")
}
