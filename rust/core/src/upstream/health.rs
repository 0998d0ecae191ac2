//! The consequences of a failure for its instance.

use sans_io::{
    seam::Event,
    table::{Instance, UpstreamError},
};

use crate::{failure::Failure, shared::Shared};

/// Others are preferred to an instance that failed for so long.
const EJECTED_MS: u64 = 1_000;

/// Counts a failure that is the instance's, prefers others for a while, and tells the control plane.
pub(crate) fn note(failure: &Failure, shared: &Shared, instance: &Instance) {
    let kind = match failure {
        Failure::Connect(_) => UpstreamError::Connect,
        Failure::ConnectionLost(_) => UpstreamError::Died,
        Failure::Protocol(_) => UpstreamError::Protocol,
        Failure::FirstFrameTimeout | Failure::IdleTimeout => UpstreamError::Timeout,
        Failure::ClientLeft
        | Failure::BodyTimeout
        | Failure::Rejected(_)
        | Failure::Spool(_)
        | Failure::ConnectTimeout
        | Failure::StaleConnection
        | Failure::LostTwice
        | Failure::FallbackStatus(_)
        | Failure::Unusable(_) => return,
    };
    shared.metrics.upstream_error(kind);
    let now = shared.clock();
    if instance.eject(now, now + EJECTED_MS) {
        let event = Event::InstanceFailed {
            instance: instance.id.to_string(),
            reason: failure.to_string(),
        };
        shared.records.event(event);
    }
}
