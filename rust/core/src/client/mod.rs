//! One client's connection.

pub(crate) mod io;
pub(crate) mod tls;
pub(crate) mod tunnel;
