//! The data plane of gpustack-fast: everything that happens to a request.

pub mod sniff;
pub mod sse;
