//! `api::engine_error`: whatever an engine writes, a client gets a document or frames of its
//! dialect, without the engine's names, and what is settled stays.

use sans_io::api::engine_error::{fix_error_frames, reshape, true_status};
use sans_io::api::error::Dialect;
use sans_io::codec::sse::frames;
use serde_json::Value;

const DIALECTS: [Dialect; 3] = [Dialect::OpenAi, Dialect::Responses, Dialect::Anthropic];

/// What stands before an engine's own words, which may go on as if it had counted.
const WRAPPED: &[u8] = b"prompt is too long: ";

/// The bytes as an error's body and as a stream. Panics when no error comes out, when a name of the
/// engine's does, or when the same is changed twice.
pub(crate) fn check(data: &[u8]) {
    let names = [("tiny".to_owned(), "public".to_owned())];
    for dialect in DIALECTS {
        for status in [400, 413, 429, 500, 503] {
            body(data, status, dialect, &names);
        }
        stream(data, dialect, &names);
    }
    assert!(true_status(200, data).is_none_or(|status| (400..600).contains(&status)));
}

fn body(data: &[u8], status: u16, dialect: Dialect, names: &[(String, String)]) {
    let made = reshape(status, data, dialect, "r", names);
    assert_ne!(made.as_deref(), Some(data), "copied without need");
    let made = made.unwrap_or_else(|| data.to_vec());
    let told: Value = serde_json::from_slice(&made).expect("JSON");
    let error = told["error"].as_object().expect("an error object");
    let told = true_status(status, data).unwrap_or(status);
    assert!(told == status || told == 400, "a status of its own: {told}");
    if !made.windows(WRAPPED.len()).any(|words| words == WRAPPED) {
        assert_eq!(reshape(told, &made, dialect, "r", names), None, "settled by one change");
    }
    match dialect {
        Dialect::OpenAi | Dialect::Responses => {
            assert!(error["code"].is_string(), "a code that is no string");
        }
        _ => assert!(error["type"].is_string() && error["message"].is_string()),
    }
    if let Some(message) = error.get("message").and_then(Value::as_str) {
        let alone = |word: &str| word == "tiny";
        assert!(!message.split(' ').any(alone), "the engine's name: {message}");
    }
}

/// Frames stay as many, and change only where they have the word. (In a stream of Responses one error
/// may become two events.)
fn stream(data: &[u8], dialect: Dialect, names: &[(String, String)]) {
    let Some(fixed) = fix_error_frames(data, dialect, names) else { return };
    assert_ne!(fixed, data, "copied without need");
    let (before, after): (Vec<_>, Vec<_>) = (frames(data).collect(), frames(&fixed).collect());
    let is_split = dialect == Dialect::Responses && after.len() > before.len();
    assert!(is_split || before.len() == after.len(), "another number of frames");
    for (before, after) in before.into_iter().zip(after).filter(|_| !is_split) {
        let may_change = before.windows(5).any(|word| word == b"error");
        assert!(before == after || may_change, "changed what is no error");
    }
    if !fixed.windows(WRAPPED.len()).any(|words| words == WRAPPED) {
        assert_eq!(fix_error_frames(&fixed, dialect, names), None, "settled by one change");
    }
}
