//! One worker's bounds on request bodies.

use std::{path::Path, rc::Rc};

use sans_io::seam::Limits;

/// Bounds on a request's body, and the place where the rest of it waits.
#[derive(Clone, Debug)]
pub(crate) struct BodyLimits {
    /// As configured.
    pub(crate) configured: Limits,
    /// The folder of what is too much for memory.
    pub(crate) spool_folder: Rc<Path>,
}
