//! Errors in published documents of the right shape.

/// A contradiction in a table, or an entry that cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// An instance's address cannot be read.
    #[error("instance {instance}: the address is neither http://HOST:PORT nor unix:PATH")]
    Address {
        /// Its id.
        instance: String,
    },
    /// An engine's key cannot stand in a header.
    #[error("instance {instance}: the key holds control characters")]
    EngineKey {
        /// Its id.
        instance: String,
    },
    /// A target leads nowhere.
    #[error("route {route}: there is no model {model}")]
    NoModel {
        /// The route's name.
        route: String,
        /// The model that its target names.
        model: String,
    },
    /// Requests without a model would lead nowhere.
    #[error("default_route: there is no route {route}")]
    NoDefaultRoute {
        /// Its name.
        route: String,
    },
    /// A name, an id or a number that leads to two places.
    #[error("{place}: {value} stands twice")]
    Twice {
        /// Where the second one stands, as in `models[1].name`.
        place: String,
        /// What it is.
        value: String,
    },
}

/// A key, or a change of the keys, that cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeysError {
    /// The salt cannot be read.
    #[error("the salt is not hexadecimal")]
    Salt,
    /// Keys of two stores would lie in one table.
    #[error("the salt differs from that of the keys already there; send all keys with replace")]
    AnotherSalt,
    /// A key's digest cannot be read.
    #[error("the digest of key {key} is not 64 hexadecimal digits")]
    Digest {
        /// Its id.
        key: String,
    },
}
