//! Percent-encoding (RFC 3986 2.1) in paths, and the `model` of a query.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

/// Every byte that RFC 3986 2.3 does not call unreserved.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Undoes percent-encoding in a path segment. A malformed escape stays as it is; bytes that are not
/// UTF-8 become U+FFFD.
pub fn percent_decode(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

/// The value of the first `model` in a query, decoded as a form's (`+` is a space); None without
/// one. The key is compared as it is written, not decoded.
pub fn model_in_query(query: &str) -> Option<String> {
    let value = query.split('&').find_map(|pair| pair.strip_prefix("model="))?;
    Some(percent_decode(&value.replace('+', " ")))
}

/// The query with `model` as the value of each of its `model` pairs; all other pairs stay byte for
/// byte.
pub fn with_model_in_query(query: &str, model: &str) -> String {
    let mut named = String::with_capacity(query.len() + model.len());
    for (index, pair) in query.split('&').enumerate() {
        if index > 0 {
            named.push('&');
        }
        if pair.starts_with("model=") {
            named.push_str("model=");
            named.extend(utf8_percent_encode(model, RESERVED));
        } else {
            named.push_str(pair);
        }
    }
    named
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_of_a_query_is_found_and_replaced() {
        assert_eq!(model_in_query("a=1&model=Qwen%2FQwen3+8b&b").as_deref(), Some("Qwen/Qwen3 8b"));
        assert_eq!(model_in_query("a=1&submodel=x"), None);
        assert_eq!(with_model_in_query("a=%20&model=x&b", "o/p q"), "a=%20&model=o%2Fp%20q&b");
    }

    #[test]
    fn percent_decoding_keeps_what_is_no_escape() {
        assert_eq!(percent_decode("Qwen%2FQwen3%3a8b"), "Qwen/Qwen3:8b");
        assert_eq!(percent_decode("100%"), "100%");
        assert_eq!(percent_decode("%zz%4"), "%zz%4");
        assert_eq!(percent_decode("caf%C3%A9"), "café");
    }
}
