//! The slot that a request holds on an instance.

use std::{cell::RefCell, rc::Rc, sync::Arc};

use tokio::time::Instant;

use sans_io::table::{Instance, Lease};

/// The slot that an exchange holds on its instance. An engine that goes on with a cancelled request
/// for a while keeps it for so long, so that balancing and drain tell the truth.
pub(crate) struct Slot {
    pub(crate) instance: Arc<Instance>,
    lease: Option<Lease>,
    lingering: Rc<Lingering>,
    /// Whether the engine goes on with the request if it is cancelled now.
    lingers: bool,
}

/// The slots of cancelled requests that engines still work on.
#[derive(Debug, Default)]
pub(crate) struct Lingering(RefCell<Vec<(Instant, Lease)>>);

impl Lingering {
    /// Gives back the slots whose time is over.
    pub(crate) fn sweep(&self) {
        let now = Instant::now();
        self.0.borrow_mut().retain(|(until, _)| *until > now);
    }
}

impl Slot {
    pub(crate) fn new(lease: Lease, lingering: &Rc<Lingering>) -> Self {
        Self {
            instance: Arc::clone(lease.instance()),
            lease: Some(lease),
            lingering: Rc::clone(lingering),
            lingers: false,
        }
    }

    /// Says whether the engine would go on with the request if it were cancelled from now on.
    pub(super) fn set_lingers(&mut self, lingers: bool) {
        self.lingers = lingers;
    }

    /// The engine is done with the request.
    pub(super) fn give_back(&mut self) {
        self.lease = None;
    }

    /// The request ends here; the engine may go on with it for a while.
    pub(super) fn release(&mut self) {
        if let Some(lease) = self.lease.take().filter(|_| self.lingers)
            && !self.instance.cancel_lag.is_zero()
        {
            let until = Instant::now() + self.instance.cancel_lag;
            self.lingering.0.borrow_mut().push((until, lease));
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.release();
    }
}
