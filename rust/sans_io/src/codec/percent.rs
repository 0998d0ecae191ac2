//! Percent-encoding in paths, and the `model` of a query.

/// Undoes percent-encoding in a path segment. A malformed escape stays as it is.
pub fn percent_decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escape = (bytes[at] == b'%').then(|| bytes.get(at + 1..at + 3)).flatten();
        let value = escape
            .filter(|digits| digits.iter().all(u8::is_ascii_hexdigit))
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        decoded.push(value.unwrap_or(bytes[at]));
        at += if value.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

/// The `model` of a query.
pub fn model_in_query(query: &str) -> Option<String> {
    let value = query.split('&').find_map(|pair| pair.strip_prefix("model="))?;
    Some(percent_decode(&value.replace('+', " ")))
}

/// The same query with another `model`.
pub fn with_model_in_query(query: &str, model: &str) -> String {
    let mut named = String::with_capacity(query.len() + model.len());
    for (index, pair) in query.split('&').enumerate() {
        if index > 0 {
            named.push('&');
        }
        if pair.starts_with("model=") {
            named.push_str("model=");
            percent_encode(model, &mut named);
        } else {
            named.push_str(pair);
        }
    }
    named
}

fn percent_encode(text: &str, encoded: &mut String) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(byte.into());
        } else {
            const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
            encoded.push('%');
            encoded.push(DIGITS[usize::from(byte >> 4)].into());
            encoded.push(DIGITS[usize::from(byte & 15)].into());
        }
    }
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
