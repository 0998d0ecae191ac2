//! One request, from its head to its record. `serve` is the table of contents.

pub(crate) mod accounting;
mod admission;
mod attempt;
pub(crate) mod body;
mod browser;
mod context;
mod dispatch;
mod find_endpoint;
pub(crate) mod head;
mod local;
mod management;
mod metrics_page;
mod newer_table;
mod outbound_head;
mod peer;
mod reach;
mod rejections;
mod relay;
mod relayed_body;
mod resolve;
mod respond;
mod retry;
mod retry_loop;
pub(crate) mod serve;
mod timeline;
pub(crate) mod unreadable;
mod wake;
