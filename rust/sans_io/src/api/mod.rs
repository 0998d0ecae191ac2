//! The APIs: what clients may ask, and the requests and responses of each dialect. Bytes in, values
//! out.

mod base_url;
pub mod browser;
pub mod cors;
pub mod cost;
pub mod endpoints;
pub mod engine_error;
pub mod error;
pub mod messages;
mod numbers;
pub mod plan;
pub mod repair;
pub mod rerank;
pub mod response_usage;
pub mod stream_fields;
pub mod tool_ids;
pub mod transform;
pub mod usage;
