//! Outlier detection: the consequences of a failure for its instance.

use sans_io::{
    seam::Event,
    table::{Instance, UpstreamError},
};

use crate::{failure::Failure, shared::Shared};

/// The time for which an instance that failed is ejected, in milliseconds: requests prefer others.
const EJECTED_MS: u64 = 1_000;
/// The time after which an instance that goes on failing is told of again, in milliseconds.
const TOLD_AGAIN_MS: u64 = 10_000;

/// Counts a failure, ejects the instance for a while, and notifies the control plane, unless the
/// failure says nothing about the instance.
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
        | Failure::LostTooOften
        | Failure::FallbackStatus(_)
        | Failure::Unusable(_) => return,
    };
    shared.metrics.upstream_error(kind);
    // Failures that follow one another closely are one event, and another every now and then for as
    // long as they last.
    let now = shared.clock();
    if instance.eject(now, now + EJECTED_MS, now.saturating_sub(TOLD_AGAIN_MS)) {
        let event = Event::InstanceFailed {
            instance: instance.id.to_string(),
            reason: failure.to_string(),
        };
        shared.records.event(event);
    }
}
