//! `translate`: every row of the tables in spec/wire.md 6, conversations there and back, and
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

#[path = "../../fuzz/checks/translate.rs"]
mod agreement;
#[path = "translate/answers.rs"]
mod answers;
#[path = "translate/conversations.rs"]
mod conversations;
#[path = "translate/generated_streams.rs"]
mod generated_streams;
#[path = "translate/requests.rs"]
mod requests;
#[path = "translate/streams.rs"]
mod streams;
