//! Formats: bytes in, values out. Knows no API and no table.

pub(crate) mod adapters;
pub(crate) mod credentials;
pub mod forwarding;
pub mod headers;
pub mod host;
pub mod http1;
pub mod inflate;
pub mod json;
pub(crate) mod mark;
pub mod multipart;
pub mod percent;
pub mod response_fields;
pub mod splice;
pub mod sse;
pub mod websocket;
