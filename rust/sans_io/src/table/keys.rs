//! API keys, checked in memory.
//!
//! A key is looked up by SHA-256 over the store's salt and the key. So the table holds no secret,
//! and the time of a look-up says nothing about a key.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use http::HeaderMap;
use sha2::{Digest, Sha256};

use crate::{
    codec::{
        credentials::{LENGTH_MIN, bearer},
        headers::credentials,
    },
    seam::{KeyDelta, KeyEntry, Scope},
    table::error::KeysError,
};

/// SHA-256 over the salt and the key.
type KeyDigest = [u8; 32];

/// Texts that stand for no key, in lower case and with `-` for `_`: SDKs ask for a key, so people
/// (and examples of engines that need none) write one of these.
const PLACEHOLDERS: &[&[u8]] = &[
    b"",
    b"-",
    b"dummy",
    b"dummy-key",
    b"empty",
    b"fake",
    b"fake-key",
    b"lm-studio",
    b"no-key",
    b"no-key-required",
    b"none",
    b"not-needed",
    b"not-required",
    b"null",
    b"ollama",
    b"placeholder",
    b"sk-dummy",
    b"sk-fake",
    b"sk-no-key",
    b"sk-no-key-required",
    b"sk-not-needed",
    b"undefined",
    b"unused",
];

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
    /// Whether they hold management.
    may_manage: bool,
    /// The time of its end in Unix seconds; None: never.
    expires: Option<u64>,
    /// Whether it was revoked since it was handed out. The same key in a newer table shares it.
    revoked: Arc<AtomicBool>,
}

impl Key {
    /// Whether this key may use the route of this name.
    pub fn allows(&self, route: &str) -> bool {
        self.allowed_models.as_ref().is_none_or(|names| names.iter().any(|name| name == route))
    }

    /// Whether it may manage this server, too.
    pub fn may_manage(&self) -> bool {
        self.may_manage
    }

    /// Whether this is its name or id.
    pub fn is_called(&self, name_or_id: &str) -> bool {
        self.name == name_or_id || *self.id == *name_or_id
    }

    /// Whether it was revoked after a request was let in with it.
    pub fn is_revoked(&self) -> bool {
        self.revoked.load(Ordering::Relaxed)
    }

    /// The time until it expires, zero when it has; None: it never does.
    pub fn time_left(&self) -> Option<Duration> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.expires.map(|expires| Duration::from_secs(expires).saturating_sub(now))
    }

    fn is_expired(&self) -> bool {
        self.time_left().is_some_and(|left| left.is_zero())
    }
}

/// All keys. The table is immutable; a change makes a new one.
#[derive(Debug, Default)]
pub struct Keys {
    salt: Vec<u8>,
    by_digest: HashMap<KeyDigest, Arc<Key>, foldhash::fast::RandomState>,
}

/// A request without a key that may infer. Of several bad credentials the last of these words
/// counts: it tells most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AuthError {
    /// No credential was sent, or a placeholder that stands for none.
    Missing,
    /// The key that was sent is not in the table.
    Unknown,
    /// The key that was sent has expired.
    Expired,
    /// The scopes of the key that was sent lack inference.
    Scope,
}

impl Keys {
    /// The first of a request's credentials that is a valid key and may infer. They are read in
    /// this order: `Authorization: Bearer` (any case), `x-api-key`, and of a WebSocket the
    /// subprotocol in which browsers send it.
    pub fn check(&self, headers: &HeaderMap) -> Result<Arc<Key>, AuthError> {
        let mut refused = AuthError::Missing;
        for secret in credentials(headers) {
            match self.judge(secret) {
                Ok(key) => return Ok(Arc::clone(key)),
                Err(error) => refused = refused.max(error),
            }
        }
        Err(refused)
    }

    /// Whether a text in a request with these headers is a key of this table, valid or not, or one
    /// of the request's credentials. Wherever it stands, it is no engine's business.
    pub fn is_credential(&self, text: &[u8], headers: &HeaderMap) -> bool {
        let text = bearer(text).unwrap_or(text);
        text.len() >= LENGTH_MIN && self.by_digest.contains_key(&self.digest(text))
            || !is_placeholder(text) && credentials(headers).any(|secret| secret == text)
    }

    fn digest(&self, secret: &[u8]) -> KeyDigest {
        Sha256::new().chain_update(&self.salt).chain_update(secret).finalize().into()
    }

    fn judge(&self, secret: &[u8]) -> Result<&Arc<Key>, AuthError> {
        match self.by_digest.get(&self.digest(secret)) {
            Some(key) if key.is_expired() => Err(AuthError::Expired),
            Some(key) if !key.may_infer => Err(AuthError::Scope),
            Some(key) => Ok(key),
            // Looked up before: somebody may have made a key of such a text.
            None if is_placeholder(secret) => Err(AuthError::Missing),
            None => Err(AuthError::Unknown),
        }
    }

    /// Tells all that runs with a key of this table that `next` lacks; whether there is such a key.
    /// It comes after `next` was published, so that no request slips in between.
    pub fn revoke_missing_from(&self, next: &Self) -> bool {
        let missing = self.by_digest.iter().filter(|(digest, key)| {
            next.by_digest
                .get(*digest)
                .is_none_or(|other| !Arc::ptr_eq(&other.revoked, &key.revoked))
        });
        missing.map(|(_, key)| key.revoked.store(true, Ordering::Relaxed)).count() > 0
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
            let holds = |wanted| scopes.iter().any(|scope| [Scope::All, wanted].contains(scope));
            let (may_infer, may_manage) = (holds(Scope::Inference), holds(Scope::Management));
            // What runs with the key goes on where only its entry is a new one.
            let known = self.by_digest.get(&digest).filter(|key| *key.id == *id);
            let revoked = known.map_or_else(Arc::default, |key| Arc::clone(&key.revoked));
            let id = id.into();
            let key = Key { id, name, allowed_models, may_infer, may_manage, expires, revoked };
            by_digest.insert(digest, Arc::new(key));
        }
        Ok(Self { salt, by_digest })
    }
}

/// Whether a text stands for no key.
fn is_placeholder(secret: &[u8]) -> bool {
    PLACEHOLDERS.iter().any(|known| {
        let plain = |byte: &u8| if *byte == b'_' { b'-' } else { byte.to_ascii_lowercase() };
        secret.len() == known.len() && secret.iter().map(plain).eq(known.iter().copied())
    })
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
            ("authorization", "Bearer ", AuthError::Missing),
            ("authorization", "Bearer secret-one-and-more", AuthError::Unknown),
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
            let scopes_manage = scopes.contains(&Scope::All);
            one.upsert[0].scopes = scopes;
            let keys = Keys::default().changed_by(one).unwrap();
            let found = keys.check(&headers("x-api-key", "secret-one"));
            assert_eq!(found.as_ref().err(), (!may).then_some(&AuthError::Scope));
            if let Ok(key) = found {
                assert_eq!(key.may_manage(), scopes_manage, "{:?}", key.id);
                assert!(key.is_called("a") && key.is_called("key a") && !key.is_called("b"));
            }
        }
    }

    /// A key that may infer, one that has expired and one that may only manage.
    fn three() -> Keys {
        let mut three = delta(true, &[("a", "good"), ("b", "expired"), ("c", "managing")], &[]);
        three.upsert[1].expires = Some(1);
        three.upsert[2].scopes = vec![Scope::Management];
        Keys::default().changed_by(three).unwrap()
    }

    #[test]
    fn of_two_credentials_the_good_one_counts_and_of_two_bad_ones_the_one_that_tells_more() {
        let keys = three();
        for (bearer, x_api_key, found) in [
            ("Bearer foreign", "good", Ok("a")),
            ("Bearer good", "foreign", Ok("a")),
            ("Bearer managing", "good", Ok("a")),
            ("Bearer expired", "good", Ok("a")),
            ("Basic abc", "good", Ok("a")),
            ("Bearer EMPTY", "good", Ok("a")),
            ("Bearer foreign", "expired", Err(AuthError::Expired)),
            ("Bearer managing", "expired", Err(AuthError::Scope)),
            ("Bearer foreign", "dummy", Err(AuthError::Unknown)),
            ("Basic abc", "none", Err(AuthError::Missing)),
        ] {
            let mut both = headers("authorization", bearer);
            both.extend(headers("x-api-key", x_api_key));
            let opened = keys.check(&both);
            let id = opened.as_ref().map(|key| &*key.id).map_err(|error| *error);
            assert_eq!(id, found, "{bearer}, {x_api_key}");
        }
    }

    #[test]
    fn a_browser_sends_the_key_among_the_subprotocols_of_its_websocket() {
        let keys = three();
        for (protocols, found) in [
            ("realtime, openai-insecure-api-key.good, openai-beta.realtime-v1", Ok("a")),
            ("openai-insecure-api-key.good", Ok("a")),
            ("realtime,openai-insecure-api-key.other", Err(AuthError::Unknown)),
            ("realtime, openai-insecure-api-key.expired", Err(AuthError::Expired)),
            ("realtime", Err(AuthError::Missing)),
        ] {
            let mut asked = headers("sec-websocket-protocol", protocols);
            let unasked = keys.check(&asked);
            assert_eq!(unasked.unwrap_err(), AuthError::Missing, "it asks for no WebSocket");
            asked.extend(headers("connection", "Upgrade"));
            asked.extend(headers("upgrade", "websocket"));
            let opened = keys.check(&asked);
            let id = opened.as_ref().map(|key| &*key.id).map_err(|error| *error);
            assert_eq!(id, found, "{protocols}");
        }
    }

    #[test]
    fn a_placeholder_is_no_key_unless_somebody_made_one_of_it() {
        let keys = three();
        let check = |keys: &Keys, text| keys.check(&headers("x-api-key", text));
        for text in ["EMPTY", "none", "Dummy", "not-needed", "NOT_NEEDED", "sk-no-key-required", ""]
        {
            assert_eq!(check(&keys, text).unwrap_err(), AuthError::Missing, "{text}");
        }
        for text in ["EMPTYx", "no", "not-needed-at-all", "sk-"] {
            assert_eq!(check(&keys, text).unwrap_err(), AuthError::Unknown, "{text}");
        }
        let custom = keys.changed_by(delta(false, &[("d", "sk-no-key-required")], &[])).unwrap();
        assert_eq!(&*check(&custom, "sk-no-key-required").unwrap().id, "d");
    }

    #[test]
    fn a_credential_is_known_wherever_it_stands() {
        let (key, old) = ("a-key-of-somebody", "a-key-that-expired");
        let mut two = delta(true, &[("a", key), ("b", old)], &[]);
        two.upsert[1].expires = Some(1);
        let keys = Keys::default().changed_by(two).unwrap();
        let with = headers("authorization", "Bearer foreign");
        let is = |text: &str| keys.is_credential(text.as_bytes(), &with);
        for text in [key, old, "foreign", "Bearer a-key-of-somebody", "bearer  foreign"] {
            assert!(is(text), "{text}");
        }
        for text in ["", "x", "a-key-of-nobody", "foreig", "a-key-of-somebody "] {
            assert!(!is(text), "{text}");
        }
        let none = headers("x-api-key", "none");
        assert!(!keys.is_credential(b"none", &none), "a placeholder is none");
    }

    #[test]
    fn what_runs_with_a_key_hears_of_its_end_and_of_no_other_change() {
        let find = |keys: &Keys, text| keys.check(&headers("x-api-key", text)).unwrap();
        let change = |keys: &Keys, delta| {
            let next = keys.changed_by(delta).unwrap();
            let any = keys.revoke_missing_from(&next);
            (next, any)
        };
        let both = [("a", "secret-one"), ("b", "secret-two")];
        let keys = Keys::default().changed_by(delta(true, &both, &[])).unwrap();
        let (one, two) = (find(&keys, "secret-one"), find(&keys, "secret-two"));
        let (keys, any) = change(&keys, delta(true, &both, &[]));
        assert!(!any && !one.is_revoked() && !two.is_revoked(), "all were published again");
        let (keys, any) = change(&keys, delta(false, &[("c", "secret-three")], &[]));
        assert!(!any && !one.is_revoked());
        let (keys, any) = change(&keys, delta(false, &[], &["a"]));
        assert!(any && one.is_revoked() && !two.is_revoked());
        let (keys, any) = change(&keys, delta(false, &[("b", "another")], &[]));
        assert!(any && two.is_revoked(), "its text is another");
        let (keys, _) = change(&keys, delta(false, &[("a", "secret-one")], &[]));
        assert!(one.is_revoked() && !find(&keys, "secret-one").is_revoked(), "made once more");
        let third = find(&keys, "secret-three");
        assert!(change(&keys, delta(true, &[], &[])).1 && third.is_revoked());
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
