//! Limits of request bodies.

use std::{path::Path, rc::Rc};

use sans_io::seam::Limits;

/// Limits of a request's body, and the place of the file beyond them.
#[derive(Clone, Debug)]
pub(crate) struct BodyLimits {
    /// As configured.
    pub(crate) configured: Limits,
    /// The folder of spooled bodies.
    pub(crate) spool_folder: Rc<Path>,
}

impl BodyLimits {
    /// The same with these limits, which are of the table that a request holds.
    pub(crate) fn with(&self, configured: Limits) -> Self {
        Self { configured, ..self.clone() }
    }
}
