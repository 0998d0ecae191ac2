//! One client's connection: plain or TLS, watched while a request is in flight, or a tunnel.

pub(crate) mod io;
pub(crate) mod places;
pub(crate) mod tls;
pub(crate) mod tunnel;
pub(crate) mod validity;
