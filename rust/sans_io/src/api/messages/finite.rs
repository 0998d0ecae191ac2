//! Numbers that Python's `json` writes and JSON does not know.

/// What Python writes for numbers that are none.
const WORDS: [&[u8]; 3] = [b"NaN", b"Infinity", b"-Infinity"];
const NULL: &[u8] = b"null";

/// The document with `null` in place of each `NaN`, `Infinity` and `-Infinity`; None: it has none.
/// Engines have them in `logprobs`. For what is no JSON otherwise.
pub fn finite(document: &[u8]) -> Option<Vec<u8>> {
    let mut made = Vec::new();
    let (mut at, mut copied, mut in_string) = (0, 0, false);
    while let Some(&byte) = document.get(at) {
        let word = match byte {
            b'"' => {
                in_string = !in_string;
                None
            }
            b'\\' if in_string => {
                at += 1;
                None
            }
            b'N' | b'I' | b'-' if !in_string => {
                WORDS.iter().find(|word| document[at..].starts_with(word))
            }
            _ => None,
        };
        let Some(word) = word else {
            at += 1;
            continue;
        };
        if made.is_empty() {
            made.reserve_exact(document.len() + document.len() / 3 + 1);
        }
        made.extend_from_slice(&document[copied..at]);
        made.extend_from_slice(NULL);
        at += word.len();
        copied = at;
    }
    if copied == 0 {
        return None;
    }
    made.extend_from_slice(&document[copied..]);
    Some(made)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_that_are_none_become_null_outside_of_strings() {
        for (document, made) in [
            ("[NaN,-Infinity,Infinity,-1]", Some("[null,null,null,-1]")),
            (r#"{"NaN":"Infinity\"NaN\\","a":NaN}"#, Some(r#"{"NaN":"Infinity\"NaN\\","a":null}"#)),
            (r#"{"a":"NaN"}"#, None),
            ("-", None),
            ("", None),
        ] {
            let made = made.map(|made| made.as_bytes().to_vec());
            assert_eq!(finite(document.as_bytes()), made, "{document}");
        }
    }

    proptest! {
        #[test]
        fn documents_of_python_become_json(
            parts in prop::collection::vec(prop::sample::select(vec![
                "NaN", "Infinity", "-Infinity", "1", "-2.5", r#""NaN""#, r#""a\"NaN""#, r#""\\""#,
            ]), 1..9),
        ) {
            let document = format!("[{}]", parts.join(","));
            let is_json = serde_json::from_str::<serde_json::Value>(&document).is_ok();
            let made = finite(document.as_bytes());
            prop_assert_eq!(made.is_none(), is_json);
            if let Some(made) = made {
                let values: Vec<serde_json::Value> = serde_json::from_slice(&made).unwrap_or_default();
                prop_assert_eq!(values.len(), parts.len());
                prop_assert_eq!(finite(&made), None);
            }
        }
    }
}
