//! Reading a document, with an error that names the entry and the field that are wrong.

use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_path_to_error::{Deserializer, Path, Segment, Track};

/// A document that does not have its shape: a field that is missing or unknown, a value of another
/// type, or a word that its enum does not list.
#[derive(Debug, thiserror::Error)]
#[error("The {document} does not have its shape: {place}{source}.")]
pub struct ShapeError {
    document: &'static str,
    /// Such as `models[0].instances[1].state (i-2): `.
    place: String,
    source: serde_json::Error,
}

/// Reads a document from JSON. `document`: what an error calls it.
pub fn read<T: DeserializeOwned>(document: &'static str, json: &[u8]) -> Result<T, ShapeError> {
    // Keeping track of the place costs as much as reading, so only a wrong document is read so.
    if let Ok(read) = serde_json::from_slice(json) {
        return Ok(read);
    }
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let mut track = Track::new();
    T::deserialize(Deserializer::new(&mut deserializer, &mut track))
        .and_then(|read| deserializer.end().map(|()| read))
        .map_err(|source| ShapeError { document, place: place(json, &track.path()), source })
}

/// The path of a field, with the id or name of the entry that it is in. Empty for the document
/// itself.
fn place(json: &[u8], path: &Path) -> String {
    if path.iter().next().is_none() {
        return String::new();
    }
    let whole = serde_json::from_slice(json).unwrap_or(Value::Null);
    match entry_name(&whole, path) {
        Some(name) => format!("{path} ({name}): "),
        None => format!("{path}: "),
    }
}

fn entry_name<'a>(document: &'a Value, path: &Path) -> Option<&'a str> {
    let mut value = document;
    let mut name = None;
    for segment in path {
        value = match segment {
            Segment::Seq { index } => value.get(index)?,
            Segment::Map { key } => match value.get(key) {
                Some(value) => value,
                None => break,
            },
            Segment::Enum { .. } | Segment::Unknown => break,
        };
        let own = value.get("id").or_else(|| value.get("name"));
        name = own.and_then(Value::as_str).or(name);
    }
    name
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::{
        seam::{DataPlaneConfig, KeyDelta, ShapeError, Table, read},
        test_support,
    };

    fn table() -> serde_json::Value {
        let instance = test_support::instance("i-1", "unix:/run/i.sock");
        let model = test_support::model("m", "m", vec![instance]);
        let route = test_support::route("r", vec![test_support::target("m", 1)]);
        test_support::table(vec![model], vec![route])
    }

    fn rejected(changes: impl FnOnce(&mut serde_json::Value)) -> String {
        let mut document = table();
        changes(&mut document);
        let read: Result<Table, ShapeError> = read("table", document.to_string().as_bytes());
        read.unwrap_err().to_string()
    }

    #[test]
    fn an_unknown_word_is_rejected_with_its_entry() {
        let error = rejected(|table| table["models"][0]["instances"][0]["state"] = json!("runing"));
        assert!(error.starts_with("The table does not have its shape: "), "{error}");
        assert!(error.contains("models[0].instances[0].state (i-1): "), "{error}");
        assert!(error.contains("`runing`") && error.contains("`running`"), "{error}");
        for (entry, word) in [("dialects", json!(["gemini"])), ("backend", json!(7))] {
            let error = rejected(|table| table["models"][0][entry] = word);
            assert!(
                error.contains(&format!("models[0].{entry}")) && error.contains("(m)"),
                "{error}"
            );
        }
        for (field, word) in [("access_policy", json!("all")), ("targets", json!([]))] {
            let mut target = test_support::target("m", 1);
            target["fallback"] = json!(["3xx"]);
            let error = rejected(|table| {
                table["routes"][0][field] = word;
                if field == "targets" {
                    table["routes"][0][field] = json!([target]);
                }
            });
            assert!(
                error.contains(&format!("routes[0].{field}")) && error.contains("(r)"),
                "{error}"
            );
        }
        let mut keys = test_support::keys("ab", vec![test_support::key("k", "00")]);
        keys["upsert"][0]["scopes"] = json!(["admin"]);
        let read: Result<KeyDelta, _> = read("key delta", keys.to_string().as_bytes());
        let error = read.unwrap_err().to_string();
        assert!(
            error.contains("upsert[0].scopes[0] (k): ") && error.contains("`admin`"),
            "{error}"
        );
    }

    #[test]
    fn a_field_that_is_missing_is_rejected_even_if_it_may_be_null() {
        let whole = test_support::config();
        for field in whole.as_object().unwrap().keys() {
            let mut document = whole.clone();
            document.as_object_mut().unwrap().remove(field);
            let read: Result<DataPlaneConfig, _> =
                read("configuration", document.to_string().as_bytes());
            let error = read.unwrap_err().to_string();
            assert!(error.contains(&format!("missing field `{field}`")), "{error}");
        }
        let error = rejected(|table| {
            table["models"][0]["instances"][0].as_object_mut().unwrap().remove("api_key");
        });
        assert!(error.contains("models[0].instances[0] (i-1): missing field `api_key`"), "{error}");
    }

    #[test]
    fn what_follows_a_document_and_what_is_none_is_rejected() {
        for text in [format!("{} 1", table()), "\"no object\"".to_owned(), String::new()] {
            assert!(read::<Table>("table", text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn times_are_seconds_and_no_limit_is_none() {
        let mut document = test_support::config();
        document["timeouts"]["head"] = json!(1.5);
        document["timeouts"]["body"] = json!(0);
        let config: DataPlaneConfig = test_support::read(document.clone());
        assert_eq!(config.timeouts.head, Some(std::time::Duration::from_millis(1500)));
        assert_eq!(config.timeouts.body, None);
        document["timeouts"]["head"] = json!(-1);
        let read: Result<DataPlaneConfig, _> =
            read("configuration", document.to_string().as_bytes());
        let error = read.unwrap_err().to_string();
        assert!(error.contains("timeouts.head: -1 is no number of seconds"), "{error}");
    }
}
