//! What one publish puts in the place of its predecessor, at once: the table, and the settings that
//! a reload can change.

use std::{ops::Deref, sync::Arc};

use sans_io::{
    api::cors::{Cors, CorsError},
    seam::{self, Limits, ResponseExtras, Timeouts},
    table::Table,
};

/// One state of everything that is published. A request takes it with its head and holds it until
/// its response begins, so that it never meets a part of one state and a part of another; a retry
/// may go over to a newer one as a whole.
///
/// It stands for its table, which is what nearly everybody looks for in it.
#[derive(Debug)]
pub(crate) struct Published {
    pub(crate) table: Table,
    pub(crate) settings: Settings,
}

impl Deref for Published {
    type Target = Table;

    fn deref(&self) -> &Table {
        &self.table
    }
}

/// The settings that a reload can change, ready for use.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) timeouts: Timeouts,
    pub(crate) limits: Limits,
    pub(crate) response_extras: ResponseExtras,
    /// None: no other origin is granted anything.
    pub(crate) cors: Option<Arc<Cors>>,
}

impl Settings {
    /// Reads the rules for other origins, which may be unusable.
    pub(crate) fn load(document: &seam::Settings) -> Result<Self, CorsError> {
        let seam::Settings { timeouts, limits, cors, response_extras } = document;
        let rules = (!cors.origins.is_empty()).then(|| Cors::new(cors)).transpose()?;
        Ok(Self {
            timeouts: *timeouts,
            limits: *limits,
            response_extras: *response_extras,
            cors: rules.map(Arc::new),
        })
    }
}
