//! The pure half of the data plane: bytes in, values out. Its manifest holds no runtime and no
//! socket, and nothing here reads a file, starts a thread or waits
//! (<https://sans-io.readthedocs.io>).
//!
//! * [`codec`]: formats; knows no API and no table.
//! * [`api`]: what clients may ask, and the requests and responses of each dialect.
//! * [`table`]: the published snapshot of routes, models, instances and keys, with their counters.
//! * [`seam`]: the documents that cross to Python.

#![forbid(unsafe_code)]

pub mod api;
pub mod codec;
pub mod seam;
pub mod table;
#[cfg(any(test, feature = "test-support"))]
pub mod test_support;
