//! One request, from its head to its record.

pub(crate) mod accounting;
pub(crate) mod admission;
pub(crate) mod attempts;
pub(crate) mod context;
pub(crate) mod local;
pub(crate) mod prometheus;
pub(crate) mod rejections;
pub(crate) mod relay;
pub(crate) mod respond;
pub(crate) mod route;
pub(crate) mod server_timing;
