//! A chat completion that becomes a Message, whichever of its two forms the client asked for and the
//! engine sends.

use bytes::{Buf, Bytes};

use super::{document::DOCUMENT_HELD, error::TransformError, frames::EventStream};
use crate::{
    api::{
        messages::{self, Assembly},
        usage::{Timings, Usage},
    },
    codec::mark::MARK,
};

/// What a line of an event stream begins with, beside an empty line.
const STREAM_BEGINS: [&[u8]; 5] = [b"data:", b"event:", b":", b"id:", b"retry:"];

/// A response of which nothing has come that tells its form. `T`: what is done with either.
#[derive(Debug)]
pub(super) struct Begin<T> {
    /// Whether its `Content-Type` says that it is a stream.
    says_stream: bool,
    /// The first bytes that are no white space, as long as they do not tell.
    held: Vec<u8>,
    of_document: T,
    of_stream: T,
}

impl<T: Default> Begin<T> {
    pub(super) fn new(says_stream: bool, of_document: T, of_stream: T) -> Self {
        Self { says_stream, held: Vec::new(), of_document, of_stream }
    }

    /// What is to be done as far as its `Content-Type` tells.
    pub(super) fn expected(&self) -> &T {
        if self.says_stream { &self.of_stream } else { &self.of_document }
    }

    /// What is to be done with a document, and with a stream.
    pub(super) fn both(&mut self) -> [&mut T; 2] {
        [&mut self.of_document, &mut self.of_stream]
    }

    /// The memory of what is held, in bytes, beside that of what is to be done with a document.
    pub(super) fn held(&self) -> (usize, &T) {
        (self.held.capacity(), &self.of_document)
    }

    /// Reads the next bytes. None: they do not tell the form. Else what is to be done, and the bytes
    /// so far. White space in front, with which some servers show that they are alive, is left out.
    pub(super) fn push(&mut self, mut data: Bytes, done: bool) -> Option<(T, Bytes)> {
        if !self.held.is_empty() {
            data = [&*std::mem::take(&mut self.held), &data].concat().into();
        }
        if data.starts_with(MARK) {
            data.advance(MARK.len());
        }
        let white = data.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
        data.advance(white);
        let is_stream = match form(&data) {
            Form::Document => false,
            Form::Stream => true,
            Form::Unknown => self.says_stream,
            Form::Unfinished if done => self.says_stream,
            Form::Unfinished => {
                self.held = data.to_vec();
                return None;
            }
        };
        let chosen = if is_stream { &mut self.of_stream } else { &mut self.of_document };
        Some((std::mem::take(chosen), data))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Document,
    Stream,
    Unknown,
    /// More bytes will tell.
    Unfinished,
}

fn form(begin: &[u8]) -> Form {
    if matches!(begin.first(), Some(b'{' | b'[')) {
        return Form::Document;
    }
    if STREAM_BEGINS.iter().any(|word| begin.starts_with(word)) {
        return Form::Stream;
    }
    let may_be = |word: &&[u8]| word.starts_with(begin) || MARK.starts_with(begin);
    if STREAM_BEGINS.iter().any(may_be) { Form::Unfinished } else { Form::Unknown }
}

/// A stream that becomes a document.
#[derive(Debug)]
pub(super) struct Assembled {
    stream: EventStream,
    message: Assembly,
    /// The document is a count of tokens, and not a Message.
    counts: bool,
}

impl Assembled {
    pub(super) fn new(stream: EventStream, counts: bool) -> Self {
        Self { stream, message: Assembly::default(), counts }
    }

    /// The memory of what is held, in bytes.
    pub(super) fn held(&self) -> usize {
        self.stream.held() + self.message.held()
    }

    /// Whether the last bytes ended a frame.
    pub(super) fn ended_frame(&self) -> bool {
        self.stream.ended_frame()
    }

    /// Whether the stream may end here with its connection.
    pub(super) fn may_end_here(&self) -> bool {
        self.stream.may_end_here()
    }

    /// The tokens that the engine counted; None: it has not said.
    pub(super) fn usage(&self) -> Option<Usage> {
        self.stream.usage()
    }

    /// Takes the engine's next bytes. The document comes with the last ones.
    pub(super) fn push(
        &mut self,
        data: Bytes,
        done: bool,
        timings: impl FnOnce() -> Timings,
    ) -> Result<Bytes, TransformError> {
        let events = self.stream.push(data, done, timings)?;
        self.message.feed(&events);
        if self.message.held() > 2 * DOCUMENT_HELD {
            return Err(TransformError::Unusable(format!(
                "The engine's response is longer than {DOCUMENT_HELD} bytes, and cannot be translated."
            )));
        }
        if !done {
            return Ok(Bytes::new());
        }
        let message = std::mem::take(&mut self.message).end();
        let made = if self.counts {
            message.and_then(|_| messages::streamed_count(self.stream.translated_usage()))
        } else {
            message
        };
        made.map(Bytes::from).map_err(|error| TransformError::Unusable(error.message))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;
    use serde_json::Value;

    use crate::{
        api::{
            transform::{Document, Transform, TransformError},
            usage::Timings,
        },
        test_support::{error_shape, message, translated_frames},
    };

    const WHOLE: &str = r#"{"choices":[{"message":{"content":"ab"},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":1}}"#;
    const STREAM: &str = concat!(
        "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n",
        "data: {\"choices\":[{\"delta\":{\"content\":\"b\"},\"finish_reason\":\"stop\"}]}\n\n",
        "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":1}}\n\n",
        "data: [DONE]\n\n",
    );

    /// The transformation for a client that asked for a stream, or not.
    fn transform(says_stream: bool, asked_stream: bool) -> Transform {
        let document = message(asked_stream);
        if asked_stream {
            Transform::streamed_completion(says_stream, document, translated_frames())
        } else {
            Transform::whole_completion(says_stream, document, translated_frames(), false)
        }
    }

    /// What the client gets of a body in these pieces.
    fn told(mut transform: Transform, pieces: &[&[u8]]) -> Result<String, TransformError> {
        let timings = || Timings { first_ms: 0.0, elapsed_ms: 0.0 };
        let mut out = Vec::new();
        for piece in pieces {
            out.extend(transform.push(Bytes::copy_from_slice(piece), false, timings)?);
        }
        out.extend(transform.push(Bytes::new(), true, timings)?);
        Ok(String::from_utf8(out).unwrap_or_default())
    }

    fn text(events: &str) -> String {
        let data = events.lines().filter_map(|line| line.strip_prefix("data: "));
        let texts = data.filter_map(|data| {
            let event: Value = serde_json::from_str(data).ok()?;
            Some(event["delta"]["text"].as_str()?.to_owned())
        });
        texts.collect()
    }

    proptest! {
        #[test]
        fn the_client_gets_the_form_that_it_asked_for_whatever_comes(
            says_stream in any::<bool>(),
            asked_stream in any::<bool>(),
            is_stream in any::<bool>(),
            before in prop::sample::select(vec!["", "\n\n", " \r\n", "\u{feff}"]),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..4),
        ) {
            let body = format!("{before}{}", if is_stream { STREAM } else { WHOLE });
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(body.len())).collect();
            cuts.extend([0, body.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> =
                cuts.windows(2).map(|cut| &body.as_bytes()[cut[0]..cut[1]]).collect();
            let transform = transform(says_stream, asked_stream);
            prop_assert_eq!(transform.is_event_stream(), asked_stream);
            let told = told(transform, &pieces);
            prop_assert!(told.is_ok(), "{:?}", told);
            let told = told.unwrap_or_default();
            if asked_stream {
                prop_assert!(told.starts_with("event: message_start\n"), "{}", told);
                let end = "data: {\"type\":\"message_stop\"}\n\n";
                prop_assert!(told.ends_with(end), "{}", told);
                prop_assert_eq!(text(&told), "ab");
            } else {
                let message: Value = serde_json::from_str(&told).unwrap_or_default();
                prop_assert_eq!(&message["content"][0]["text"], "ab");
                prop_assert_eq!(&message["usage"]["input_tokens"], 3);
            }
        }
    }

    #[test]
    fn a_stream_that_is_cut_off_is_no_document() {
        let cut = &STREAM[..STREAM.len() - "data: [DONE]\n\n".len()];
        let cut = &cut[..cut.find("\"b\"").unwrap_or_default()];
        for says_stream in [true, false] {
            let told = told(transform(says_stream, false), &[cut.as_bytes()]);
            assert!(matches!(told, Err(TransformError::Incomplete)), "{told:?}");
        }
    }

    #[test]
    fn an_error_in_a_stream_is_no_document() {
        let stream = "data: {\"error\":{\"message\":\"The cards are gone.\"}}\n\ndata: [DONE]\n\n";
        let told = told(transform(true, false), &[stream.as_bytes()]);
        assert!(told.is_err_and(|error| error.to_string().contains("The cards are gone.")));
    }

    #[test]
    fn a_stream_counts_tokens_where_a_document_was_asked_for() {
        let transform = || {
            Transform::whole_completion(
                false,
                Document::TokenCount { shape: error_shape() },
                translated_frames(),
                true,
            )
        };
        for body in [WHOLE, STREAM] {
            let told = told(transform(), &[body.as_bytes()]);
            assert_eq!(told.unwrap_or_default(), r#"{"input_tokens":3}"#);
        }
    }

    #[test]
    fn an_error_in_place_of_a_completion_has_a_status() {
        let timings = || Timings { first_ms: 0.0, elapsed_ms: 0.0 };
        let error = r#"{"error": {"message": "Slow\ndown.", "code": 429}}"#;
        for (asked_stream, commented) in [(false, false), (true, false), (true, true)] {
            let mut transform = transform(true, asked_stream);
            if commented {
                transform.note_comment();
            }
            let told = transform.push(Bytes::from_static(error.as_bytes()), true, timings);
            let told = String::from_utf8(told.unwrap_or_default().to_vec()).unwrap_or_default();
            let body = told.strip_prefix("event: error\ndata: ").unwrap_or(&told);
            let body: Value = serde_json::from_str(body).unwrap_or_default();
            assert_eq!(body["error"]["type"], "rate_limit_error");
            assert_eq!(body["error"]["message"], "Slow\ndown.");
            assert_eq!(told.starts_with("event: error\n"), commented);
            assert_eq!(transform.status(), (!commented).then_some(429));
            assert_eq!(transform.is_event_stream(), commented);
            assert_eq!(transform.rewrites_body(), !commented);
        }
    }

    #[test]
    fn what_is_neither_is_unusable() {
        for (says_stream, body) in [(false, "<html>"), (false, ""), (false, "d"), (false, "null")] {
            for asked_stream in [false, true] {
                let told = told(transform(says_stream, asked_stream), &[body.as_bytes()]);
                assert!(matches!(told, Err(TransformError::Unusable(_))), "{body}: {told:?}");
            }
        }
    }

    #[test]
    fn numbers_that_are_none_do_not_make_a_document_unusable() {
        let body = WHOLE.replace("\"message\"", "\"logprobs\":[NaN,-Infinity],\"message\"");
        for asked_stream in [false, true] {
            let told = told(transform(false, asked_stream), &[body.as_bytes()]);
            assert!(told.is_ok_and(|told| told.contains("\"ab\"")));
        }
    }
}
