//! Limits of request bodies.

use std::{path::PathBuf, rc::Rc, sync::Arc, time::Duration};

use crate::{blocking::BlockingPool, budget::Budget};
use sans_io::seam::Limits;

/// Limits of a request's body, and the room beyond them.
#[derive(Clone, Debug)]
pub(crate) struct BodyLimits {
    /// As configured.
    pub(crate) configured: Limits,
    /// The longest pause of a client; None: no limit.
    pub(crate) pause: Option<Duration>,
    /// What the bodies of all requests share.
    pub(crate) rooms: Rc<Rooms>,
}

/// What the bodies of all requests share, or those of callers without a key.
#[derive(Debug)]
pub(crate) struct Rooms {
    /// The folder of spooled bodies.
    pub(crate) spool_folder: PathBuf,
    /// What their files may hold.
    pub(crate) spool: Arc<Budget>,
    /// What they may hold in memory, beyond a little that each may have.
    pub(crate) memory: Arc<Budget>,
    /// The threads that read and write files.
    pub(crate) blocking: Arc<BlockingPool>,
}

impl BodyLimits {
    /// The same with these limits, which are of the state that a request holds.
    pub(crate) fn with(&self, configured: Limits, pause: Option<Duration>) -> Self {
        Self { configured, pause, rooms: Rc::clone(&self.rooms) }
    }
}
