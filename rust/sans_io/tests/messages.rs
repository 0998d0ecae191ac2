//! `api::messages`: each member of requests and responses, conversations there and back, and
//! streams against an accumulator that follows the SDKs' rules.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on says where"
)]
#![allow(
    clippy::needless_pass_by_value,
    reason = "`json!` makes values, and a test reads better without borrowing them"
)]

#[path = "../../fuzz/checks/messages.rs"]
mod agreement;
#[path = "messages/conversations.rs"]
mod conversations;
#[path = "messages/generated_streams.rs"]
mod generated_streams;
#[path = "messages/requests.rs"]
mod requests;
#[path = "messages/responses.rs"]
mod responses;
#[path = "messages/streams.rs"]
mod streams;
#[path = "messages/templates.rs"]
mod templates;
