//! Changes of the key table.

use serde::Deserialize;

/// A change of the key table.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyDelta {
    /// Hexadecimal; the same for all keys of a store.
    pub salt: String,
    /// Forget all other keys first.
    pub replace: bool,
    /// Keys that are new, or that take the place of those of the same id.
    pub upsert: Vec<KeyEntry>,
    /// Ids of keys that are revoked.
    pub remove: Vec<String>,
}

/// One API key. The key itself never crosses: only its digest.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyEntry {
    /// The access key (16 hexadecimal digits): what logs, records and lists may show.
    pub id: String,
    /// Hexadecimal: SHA-256 over the store's salt followed by the whole key as the client sends it.
    pub digest: String,
    /// Its owner's name for it.
    pub name: String,
    /// Names of the routes that it may use; None: all.
    #[serde(deserialize_with = "Option::deserialize")]
    pub allowed_models: Option<Vec<String>>,
    /// Everything that it may do.
    pub scopes: Vec<Scope>,
    /// Unix seconds; None: never.
    #[serde(deserialize_with = "Option::deserialize")]
    pub expires: Option<u64>,
}

/// A use that a key is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Everything.
    #[serde(rename = "*")]
    All,
    /// The API below `/v2`.
    Management,
    /// Using models.
    Inference,
}
