//! What the events of a stream say of the whole: the model's name, a response's id, the stream's
//! end.

use crate::{
    api::endpoints::ModelPlace,
    codec::{
        json::Finder,
        sse::{LineEnd, data, field, found_in, frame_ranges, lines, place_in},
    },
};

/// Puts `name_json` (a JSON string, quotes included) in place of the model's name in each event's
/// data, where that is a JSON object with a string at the place. Every other byte stays. `None`
/// when nothing had to change, so that the caller can pass on what it has. `frames` begins with a
/// frame; a last one that is cut off is served as far as it goes.
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

/// Where the events of a stream have the model's name.
fn model_path(place: ModelPlace) -> Option<&'static [&'static str]> {
    match place {
        ModelPlace::TopLevel => Some(&["model"]),
        ModelPlace::Response => Some(&["response", "model"]),
        ModelPlace::Message => Some(&["message", "model"]),
        ModelPlace::Nowhere => None,
    }
}

/// The id of the response that a stream of the Responses API makes: `response.id` of the first
/// event that has one. `frames` begins with a frame. None also for an id that nobody can ask for,
/// over-long or no Unicode text.
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
    /// An event with data was seen: the first one has the id, or none has.
    over: bool,
}

impl ResponseIdFinder {
    /// Before the first byte.
    pub fn new() -> Self {
        Self { whole: Finder::text_of(&["id"]), streamed: None, over: false }
    }

    /// Reads the next bytes of a whole answer.
    pub fn feed(&mut self, piece: &[u8]) {
        self.whole.feed(piece);
    }

    /// Reads the next frames of a stream.
    pub fn feed_frames(&mut self, frames: &[u8]) {
        if !self.over {
            self.streamed = response_id(frames);
            self.over = frame_ranges(frames).any(|range| data(&frames[range]).is_some());
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

/// Whether the frame says by itself that the stream is over: its data is `[DONE]`, or it is an
/// event that has data and the name `message_stop`, `error`, `response.completed`,
/// `response.failed` or `response.incomplete`. The empty line may be missing, for the rest that an
/// engine leaves when it closes.
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
