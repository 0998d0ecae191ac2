//! Outlier detection: the consequences of a failure for its instance.

use std::sync::atomic::Ordering;

use tracing::info;

use sans_io::{
    seam::Event,
    table::{Ejected, Instance, UpstreamError},
};

use crate::{failure::Failure, shared::Shared};

/// Notes that an instance has responded, whatever it said.
pub(crate) fn responded(instance: &Instance) {
    if instance.succeed() {
        info!(instance = &*instance.id, "instance responds again");
    }
}

/// Counts a failure, ejects the instance for a while, and notifies the control plane, unless the
/// failure says nothing about the instance.
pub(crate) fn note(failure: &Failure, shared: &Shared, instance: &Instance) {
    let kind = match failure {
        Failure::Connect(_) => UpstreamError::Connect,
        Failure::ConnectionLost(_) => UpstreamError::Died,
        Failure::Protocol(_) => UpstreamError::Protocol,
        Failure::FirstFrameTimeout | Failure::IdleTimeout => UpstreamError::Timeout,
        Failure::FallbackStatus(_) => return responded(instance),
        Failure::ClientLeft
        | Failure::BodyTimeout
        | Failure::BodyTooSlow { .. }
        | Failure::Rejected(_)
        | Failure::Spool(_)
        | Failure::SpoolFull
        | Failure::NoRoom
        | Failure::MachineExhausted(_)
        | Failure::ConnectTimeout
        | Failure::StaleConnection
        | Failure::LostTooOften
        | Failure::KeyRevoked
        | Failure::Drained
        | Failure::Unusable(_) => return,
    };
    shared.metrics.upstream_error(kind);
    // Failures that follow one another closely are one event, and another every now and then for as
    // long as they last.
    let reason = match instance.fail(shared.clock()) {
        None => return,
        Some(Ejected::Briefly | Ejected::Still) => failure.to_string(),
        Some(Ejected::Out { pause_ms }) => {
            let pause_s = pause_ms / 1_000;
            format!("{failure}; after failures in a row others are preferred for {pause_s} s")
        }
    };
    let event = Event::InstanceFailed { instance: instance.id.to_string(), reason };
    if !shared.records.event(event) {
        shared.metrics.events_dropped.fetch_add(1, Ordering::Relaxed);
    }
}
