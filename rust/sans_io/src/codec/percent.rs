//! Percent-encoding (RFC 3986 2.1) in paths, and the fields of a query that say what responds, or
//! hold a credential.

use std::borrow::Cow;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use crate::codec::adapters::{self, Picks};

/// Every byte that RFC 3986 2.3 does not call unreserved.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Undoes percent-encoding in a path segment. A malformed escape stays as it is; bytes that are not
/// UTF-8 become U+FFFD.
pub fn percent_decode(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

/// A query that names two models, of which engines take either, or one in a way that only some take
/// for it (`model[]`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TwoModels;

/// The value of the `model` in a query; None without one. Fails for a second `model`, and for one
/// that is written otherwise.
pub fn model_in_query(query: &str) -> Result<Option<String>, TwoModels> {
    let mut found = None;
    for pair in query.split('&') {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let name = form_decode(name);
        if adapters::is_model_otherwise(name.as_bytes())
            || name == "model" && found.replace(form_decode(value).into_owned()).is_some()
        {
            return Err(TwoModels);
        }
    }
    Ok(found)
}

/// Whether a query names a model, or holds a field that picks an adapter or another model.
pub fn picks_adapter(query: &str) -> bool {
    picks(query).model
}

/// Whether a query holds a field that names a host to which an engine connects.
pub fn names_host(query: &str) -> bool {
    picks(query).host
}

/// Some readers split at `;`, too.
fn picks(query: &str) -> Picks {
    let mut picks = Picks::default();
    for pair in query.split(['&', ';']) {
        let name = form_decode(pair.split('=').next().unwrap_or_default());
        picks.add(adapters::picks_in_text(name.as_bytes()));
    }
    picks
}

/// The query with `model` as the value of its `model`; all other pairs stay byte for byte.
pub fn with_model_in_query(query: &str, model: &str) -> String {
    let mut named = String::with_capacity(query.len() + model.len());
    for (index, pair) in query.split('&').enumerate() {
        if index > 0 {
            named.push('&');
        }
        if form_decode(pair.split('=').next().unwrap_or_default()) == "model" {
            named.push_str("model=");
            named.extend(utf8_percent_encode(model, RESERVED));
        } else {
            named.push_str(pair);
        }
    }
    named
}

/// The query without the pairs whose decoded name and value `cut` names; all others stay byte for
/// byte. None: nothing is left of it.
pub fn without_pairs(query: &str, cut: impl Fn(&str, &str) -> bool) -> Option<Cow<'_, str>> {
    let cuts = |pair: &&str| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        cut(&form_decode(name), &form_decode(value))
    };
    if !query.split('&').any(|pair| cuts(&pair)) {
        return Some(Cow::Borrowed(query));
    }
    let kept: Vec<_> = query.split('&').filter(|pair| !cuts(pair)).collect();
    (!kept.is_empty()).then(|| Cow::Owned(kept.join("&")))
}

/// Whether a field of a query has a name under which servers take a credential.
pub fn names_credential(name: &str) -> bool {
    // The longest is as long as the array.
    let mut plain = [0; 25];
    let Some(plain) = plain.get_mut(..name.len()) else { return false };
    for (to, from) in plain.iter_mut().zip(name.bytes()) {
        *to = if from == b'_' { b'-' } else { from.to_ascii_lowercase() };
    }
    matches!(
        &*plain,
        b"key"
            | b"apikey"
            | b"api-key"
            | b"x-api-key"
            | b"x-goog-api-key"
            | b"api-token"
            | b"api-secret"
            | b"subscription-key"
            | b"ocp-apim-subscription-key"
            | b"token"
            | b"accesstoken"
            | b"access-token"
            | b"id-token"
            | b"jwt"
            | b"auth"
            | b"authtoken"
            | b"auth-token"
            | b"authorization"
            | b"bearer"
            | b"bearer-token"
            | b"credential"
            | b"credentials"
            | b"password"
            | b"secret"
            | b"client-secret"
            | b"sig"
            | b"signature"
    )
}

/// Undoes the encoding of a form's names and values, in which `+` is a space.
fn form_decode(text: &str) -> Cow<'_, str> {
    if text.contains(['+', '%']) {
        Cow::Owned(percent_decode(&text.replace('+', " ")))
    } else {
        Cow::Borrowed(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_of_a_query_is_found_and_replaced() {
        let found = |query| model_in_query(query).map(Option::unwrap_or_default);
        assert_eq!(found("a=1&model=Qwen%2FQwen3+8b&b").as_deref(), Ok("Qwen/Qwen3 8b"));
        assert_eq!(found("a=1&m%6Fdel=x").as_deref(), Ok("x"));
        assert_eq!(model_in_query("a=1&submodel=x&Model=y"), Ok(None));
        for two in [
            "model=a&model=a",
            "model=a&m%6Fdel=b",
            "%6dodel=a&b=c&model",
            "model=a&model[]=b",
            "model%5B%5D=a",
            "+model=a",
        ] {
            assert_eq!(model_in_query(two), Err(TwoModels), "{two}");
        }
        assert_eq!(with_model_in_query("a=%20&model=x&b", "o/p q"), "a=%20&model=o%2Fp%20q&b");
        assert_eq!(with_model_in_query("m%6fdel=x", "o"), "model=o");
    }

    #[test]
    fn a_query_that_picks_a_model_or_an_adapter_is_known() {
        for query in [
            "model=x",
            "a&m%6Fdel=x",
            "lora_path=x",
            "lor%61=1",
            "a=1&fallbacks=x",
            "model[]=x",
            "+lora=x",
            "%20lora%20=x",
            "lora%5B0%5D=x",
            "options[lora]=x",
            "a=1;lora=x",
        ] {
            assert!(picks_adapter(query), "{query}");
        }
        for query in ["", "beta=true", "a=model&b=lora", "modes=x", "stream=1", "base_url=x"] {
            assert!(!picks_adapter(query), "{query}");
            assert_eq!(names_host(query), query.starts_with("base"), "{query}");
        }
        for query in ["extra_body[lora]=x", "vllm_xargs=x"] {
            assert!(picks_adapter(query) && names_host(query), "{query}");
        }
    }

    #[test]
    fn pairs_are_cut_out_of_a_query_and_the_others_stay_as_they_are() {
        let without = |query| without_pairs(query, |name, value| name == "k y" || value == "cut");
        for (query, left) in [
            ("a=%20&b&&c=", Some("a=%20&b&&c=")),
            ("", Some("")),
            ("k+y=1&a=%20&k%20y&b", Some("a=%20&b")),
            ("a=cut&b=c%75t&c=cuts", Some("c=cuts")),
            ("k+y", None),
            ("a=cut&k+y=x=y", None),
        ] {
            assert_eq!(without(query).as_deref(), left, "{query}");
        }
    }

    #[test]
    fn names_of_credentials_are_known_in_any_spelling() {
        for name in ["key", "API_KEY", "api-key", "Access_Token", "Ocp-Apim-Subscription-Key"] {
            assert!(names_credential(name), "{name}");
        }
        for name in ["", "keys", "ke", "model", "after", "ocp-apim-subscription-keys", "stream"] {
            assert!(!names_credential(name), "{name}");
        }
    }

    #[test]
    fn percent_decoding_keeps_what_is_no_escape() {
        assert_eq!(percent_decode("Qwen%2FQwen3%3a8b"), "Qwen/Qwen3:8b");
        assert_eq!(percent_decode("100%"), "100%");
        assert_eq!(percent_decode("%zz%4"), "%zz%4");
        assert_eq!(percent_decode("caf%C3%A9"), "café");
    }
}
