//! Whether an engine's machine still takes what is sent to it.

use std::time::Duration;

use tokio::time::Instant;

use crate::{tcp::Delivery, upstream::connection::Connection};

/// After the limit the system is asked again each time that this part of it has passed.
const AGAIN: u32 = 3;

/// Asks now and then whether a request was acknowledged, while nothing moves.
pub(super) struct DeliveryWatch {
    /// The silence after which the engine's machine has vanished; None: nobody asks, or all was
    /// acknowledged.
    limit: Option<Duration>,
    /// The last time that the system was asked.
    asked: Option<Instant>,
}

impl DeliveryWatch {
    /// A watch of a request of which nothing was sent yet.
    pub(super) fn new(limit: Option<Duration>) -> Self {
        Self { limit, asked: None }
    }

    /// The time to ask next, where nothing moves until then: after a moment, and how long; None:
    /// never. `moved`: the last progress.
    pub(super) fn next(&self, moved: Instant) -> Option<(Instant, Duration)> {
        let limit = self.limit?;
        Some(match self.asked {
            Some(asked) if asked > moved => (asked, limit / AGAIN),
            _ => (moved, limit),
        })
    }

    /// Asks; true: the machine has vanished. `delivered`: all of the request was written.
    pub(super) fn has_vanished(&mut self, connection: &Connection, delivered: bool) -> bool {
        let Some(limit) = self.limit else { return false };
        self.asked = Some(Instant::now());
        match connection.delivery(limit) {
            Some(Delivery::Lost) => true,
            // From here on keepalive sees it vanish.
            Some(Delivery::Acknowledged) if delivered => {
                self.limit = None;
                false
            }
            Some(_) => false,
            None => {
                self.limit = None;
                false
            }
        }
    }
}
