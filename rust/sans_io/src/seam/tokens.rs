//! Tokens that engines have counted, by route, in both directions.

use serde::{Deserialize, Serialize};

/// Tokens of routes.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tokens {
    /// Each name once, at most.
    pub routes: Vec<RouteTokens>,
}

/// The tokens of one route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteTokens {
    /// Its public name.
    pub name: String,
    /// Tokens of prompts, the cached ones included.
    pub input: u64,
    /// Of these, those that engines found in their caches.
    pub cached: u64,
    /// Tokens that engines generated.
    pub output: u64,
}
