//! The slots that requests hold on instances, some of them beyond their end.

use std::{cell::RefCell, rc::Rc, sync::Arc};

use tokio::time::Instant;

use sans_io::table::{Instance, Lease};

/// The slot of one exchange. After a cancelled request it lingers for as long as the engine is
/// known to work on, so that balancing and drains see the engine's true load.
pub(crate) struct Slot {
    /// The instance that the slot is on.
    pub(crate) instance: Arc<Instance>,
    /// None: the slot was given back, or lingers.
    lease: Option<Lease>,
    /// The worker's lingering slots.
    lingering: Rc<Lingering>,
    /// Whether the engine would work on if the request were cancelled now.
    lingers: bool,
}

/// One worker's slots of cancelled requests, each with the time until which its engine works on.
#[derive(Debug, Default)]
pub(crate) struct Lingering(RefCell<Vec<(Instant, Lease)>>);

impl Lingering {
    /// Gives back the slots whose time has passed.
    pub(crate) fn sweep(&self) {
        let now = Instant::now();
        self.0.borrow_mut().retain(|(until, _)| *until > now);
    }
}

impl Slot {
    /// A slot that is given back as soon as it is dropped.
    pub(crate) fn new(lease: Lease, lingering: &Rc<Lingering>) -> Self {
        Self {
            instance: Arc::clone(lease.instance()),
            lease: Some(lease),
            lingering: Rc::clone(lingering),
            lingers: false,
        }
    }

    /// Sets whether the engine would work on if the request were cancelled from now on.
    pub(super) fn set_lingers(&mut self, lingers: bool) {
        self.lingers = lingers;
    }

    /// Gives the slot back: the engine is done with the request.
    pub(super) fn give_back(&mut self) {
        self.lease = None;
    }

    /// Gives the slot back, or lets it linger: the request was cancelled.
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
