//! API keys, checked in memory.
//!
//! A key is looked up by SHA-256 over the store's salt and the key. So the table holds no secret,
//! and the time of a look-up says nothing about a key.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use http::{HeaderMap, header::AUTHORIZATION};
use sha2::{Digest, Sha256};

use crate::{
    seam::{KeyDelta, KeyEntry, Scope},
    table::error::KeysError,
};

/// SHA-256 over the salt and the key.
type KeyDigest = [u8; 32];

/// One API key: its names and permissions.
#[derive(Debug)]
pub struct Key {
    /// The access key, which logs and records may show.
    pub id: Arc<str>,
    /// The name that its owner gave it.
    name: String,
    /// The routes that it may use; None: all.
    allowed_models: Option<Vec<String>>,
    /// Whether its scopes hold inference.
    may_infer: bool,
    /// The time of its end in Unix seconds; None: never.
    expires: Option<u64>,
}

impl Key {
    /// Whether this key may use the route of this name.
    pub fn allows(&self, route: &str) -> bool {
        self.allowed_models.as_ref().is_none_or(|names| names.iter().any(|name| name == route))
    }

    /// Whether its scopes hold inference.
    pub fn may_infer(&self) -> bool {
        self.may_infer
    }

    /// Whether this is its name or id.
    pub fn is_called(&self, name_or_id: &str) -> bool {
        self.name == name_or_id || *self.id == *name_or_id
    }

    fn is_expired(&self) -> bool {
        self.expires.is_some_and(|expires| {
            SystemTime::now().duration_since(UNIX_EPOCH).is_ok_and(|now| now.as_secs() >= expires)
        })
    }
}

/// All keys. The table is immutable; a change makes a new one.
#[derive(Debug, Default)]
pub struct Keys {
    salt: Vec<u8>,
    by_digest: HashMap<KeyDigest, Arc<Key>, foldhash::fast::RandomState>,
}

/// A request without a valid key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthError {
    /// Neither `Authorization: Bearer` nor `x-api-key` was sent.
    Missing,
    /// The key that was sent is not in the table.
    Unknown,
    /// The key that was sent has expired.
    Expired,
}

impl Keys {
    /// The valid key of a request, sent as `Authorization: Bearer` (any case) or `x-api-key`.
    pub fn check(&self, headers: &HeaderMap) -> Result<Arc<Key>, AuthError> {
        let secret = credential(headers).ok_or(AuthError::Missing)?;
        let digest = Sha256::new().chain_update(&self.salt).chain_update(secret).finalize();
        let key = self.by_digest.get(&KeyDigest::from(digest)).ok_or(AuthError::Unknown)?;
        if key.is_expired() { Err(AuthError::Expired) } else { Ok(Arc::clone(key)) }
    }

    /// The table after a change. Fails for a salt or digest that cannot be read, or another salt.
    pub fn changed_by(&self, delta: KeyDelta) -> Result<Self, KeysError> {
        let salt = hex_bytes(&delta.salt).ok_or(KeysError::Salt)?;
        let mut by_digest = if delta.replace { HashMap::default() } else { self.by_digest.clone() };
        if !delta.replace && !by_digest.is_empty() && salt != self.salt {
            return Err(KeysError::AnotherSalt);
        }
        by_digest.retain(|_, key| {
            !delta.remove.iter().any(|id| *id == *key.id)
                && !delta.upsert.iter().any(|entry| *entry.id == *key.id)
        });
        for KeyEntry { id, digest, name, allowed_models, scopes, expires } in delta.upsert {
            let digest: KeyDigest = hex_bytes(&digest)
                .and_then(|bytes| bytes.try_into().ok())
                .ok_or_else(|| KeysError::Digest { key: id.clone() })?;
            let may_infer =
                scopes.iter().any(|scope| matches!(scope, Scope::All | Scope::Inference));
            by_digest.insert(
                digest,
                Arc::new(Key { id: id.into(), name, allowed_models, may_infer, expires }),
            );
        }
        Ok(Self { salt, by_digest })
    }
}

/// The key in a request. `Bearer` is read first: the SDKs of `OpenAI` and (from 2.0) of Anthropic
/// send it. Older ones of Anthropic's send `x-api-key`.
fn credential(headers: &HeaderMap) -> Option<&[u8]> {
    if let Some(value) = headers.get(AUTHORIZATION) {
        let (scheme, rest) = value.as_bytes().split_at_checked(7)?;
        return scheme.eq_ignore_ascii_case(b"bearer ").then(|| rest.trim_ascii());
    }
    headers.get("x-api-key").map(|value| value.as_bytes().trim_ascii())
}

/// The bytes of a hexadecimal text; None: it is not one.
fn hex_bytes(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) {
        return None;
    }
    text.as_bytes()
        .chunks_exact(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support;

    fn delta(replace: bool, upsert: &[(&str, &str)], remove: &[&str]) -> KeyDelta {
        let entry = |(id, secret): &(&str, &str)| {
            let digest = Sha256::new().chain_update([0xab, 0xcd]).chain_update(secret).finalize();
            let digest: Vec<String> = digest.iter().map(|byte| format!("{byte:02x}")).collect();
            test_support::read(test_support::key(id, &digest.concat()))
        };
        KeyDelta {
            salt: "abcd".to_owned(),
            replace,
            upsert: upsert.iter().map(entry).collect(),
            remove: remove.iter().map(|id| (*id).to_owned()).collect(),
        }
    }

    fn headers(name: &'static str, value: &'static str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(name, http::HeaderValue::from_static(value));
        headers
    }

    #[test]
    fn a_key_opens_as_bearer_in_any_case_and_as_x_api_key() {
        let keys = Keys::default().changed_by(delta(true, &[("a", "secret-one")], &[])).unwrap();
        for (name, value) in [
            ("authorization", "Bearer secret-one"),
            ("authorization", "bEARER   secret-one"),
            ("x-api-key", "secret-one"),
        ] {
            assert_eq!(&*keys.check(&headers(name, value)).unwrap().id, "a", "{name}: {value}");
        }
    }

    #[test]
    fn an_unknown_or_malformed_key_opens_nothing() {
        let keys = Keys::default().changed_by(delta(true, &[("a", "secret-one")], &[])).unwrap();
        for (name, value, error) in [
            ("authorization", "Bearer secret-on", AuthError::Unknown),
            ("authorization", "Bearer ", AuthError::Unknown),
            ("authorization", "Basic secret-one", AuthError::Missing),
            ("authorization", "Bear", AuthError::Missing),
            ("x-other", "secret-one", AuthError::Missing),
        ] {
            assert_eq!(keys.check(&headers(name, value)).unwrap_err(), error, "{name}: {value}");
        }
    }

    #[test]
    fn removing_and_replacing_take_keys_away() {
        let two = Keys::default()
            .changed_by(delta(true, &[("a", "secret-one"), ("b", "secret-two")], &[]))
            .unwrap();
        let one = two.changed_by(delta(false, &[], &["a"])).unwrap();
        assert!(one.check(&headers("x-api-key", "secret-one")).is_err());
        assert!(one.check(&headers("x-api-key", "secret-two")).is_ok());
        let renewed = one.changed_by(delta(false, &[("b", "secret-three")], &[])).unwrap();
        assert!(renewed.check(&headers("x-api-key", "secret-two")).is_err());
        assert!(renewed.check(&headers("x-api-key", "secret-three")).is_ok());
        let none = renewed.changed_by(delta(true, &[], &[])).unwrap();
        assert!(none.check(&headers("x-api-key", "secret-three")).is_err());
    }

    #[test]
    fn an_expired_key_opens_nothing_and_is_an_error_of_its_own() {
        for (expires, opens) in [(1, false), (4_000_000_000, true)] {
            let mut one = delta(true, &[("a", "secret-one")], &[]);
            one.upsert[0].expires = Some(expires);
            let keys = Keys::default().changed_by(one).unwrap();
            let found = keys.check(&headers("x-api-key", "secret-one"));
            assert_eq!(found.is_ok(), opens);
            assert!(opens || found.unwrap_err() == AuthError::Expired);
        }
    }

    #[test]
    fn scopes_say_whether_a_key_may_infer() {
        for (scopes, may) in [
            (vec![Scope::All], true),
            (vec![Scope::Inference], true),
            (vec![Scope::Management], false),
            (vec![], false),
        ] {
            let mut one = delta(true, &[("a", "secret-one")], &[]);
            one.upsert[0].scopes = scopes;
            let key = Keys::default()
                .changed_by(one)
                .unwrap()
                .check(&headers("x-api-key", "secret-one"))
                .unwrap();
            assert_eq!(key.may_infer(), may);
            assert!(key.is_called("a") && key.is_called("key a") && !key.is_called("b"));
        }
    }

    #[test]
    fn a_malformed_delta_is_rejected() {
        let mut odd = delta(true, &[("a", "secret-one")], &[]);
        odd.upsert[0].digest.truncate(10);
        assert!(Keys::default().changed_by(odd).unwrap_err().to_string().contains("key a"));
        let mut odd = delta(true, &[], &[]);
        odd.salt = "xyz".to_owned();
        assert!(Keys::default().changed_by(odd).is_err());
    }
}
