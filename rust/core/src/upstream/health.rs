//! Outlier detection: the consequences of a failure for its instance.

use std::sync::atomic::Ordering;

use tracing::info;

use sans_io::{
    seam::Event,
    table::{Ejected, Instance, Model, UpstreamError},
};

use crate::{failure::Failure, shared::Shared};

/// Notes that an instance has responded, with a status that is no failure of its own.
pub(crate) fn responded(instance: &Instance) {
    if instance.succeed() {
        info!(instance = &*instance.id, "instance responds again");
    }
}

/// Whether this status says that the engine, and not the request, is at fault. A 501 and a 505 say
/// what the engine cannot do, as a 404 does.
pub(crate) fn is_failure(status: u16) -> bool {
    status == 429 || matches!(status, 500..=599) && !matches!(status, 501 | 505)
}

/// Counts a response of an instance of `model` whose status is a failure, ejects the instance for a
/// while where others do better, and notifies the control plane. Nothing follows for the request.
pub(crate) fn failed_by_status(status: u16, shared: &Shared, model: &Model, instance: &Instance) {
    shared.metrics.upstream_error(UpstreamError::Status);
    if let Some(ejected) = model.fail_by_status(instance, shared.clock()) {
        notify(&format!("it responded with status {status}"), ejected, shared, instance);
    }
}

/// Counts a failure without a response, ejects the instance for a while, and notifies the control
/// plane, unless the failure says nothing about the instance.
pub(crate) fn note(failure: &Failure, shared: &Shared, instance: &Instance) {
    let kind = match failure {
        Failure::Connect(_) => UpstreamError::Connect,
        Failure::ConnectionLost(_) => UpstreamError::Died,
        Failure::Protocol(_) => UpstreamError::Protocol,
        Failure::FirstFrameTimeout | Failure::IdleTimeout => UpstreamError::Timeout,
        // `failed_by_status` and `responded` are for it.
        Failure::FallbackStatus(_)
        | Failure::ClientLeft
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
    if let Some(ejected) = instance.fail(shared.clock()) {
        notify(&failure.to_string(), ejected, shared, instance);
    }
}

/// Tells the control plane of a failure. Failures that follow one another closely are one event, and
/// another every now and then for as long as they last.
fn notify(failure: &str, ejected: Ejected, shared: &Shared, instance: &Instance) {
    let reason = match ejected {
        Ejected::Briefly | Ejected::Still => failure.to_owned(),
        Ejected::Out { pause_ms } => {
            let pause_s = pause_ms / 1_000;
            format!("{failure}; after failures in a row others are preferred for {pause_s} s")
        }
    };
    let event = Event::InstanceFailed { instance: instance.id.to_string(), reason };
    if !shared.records.event(event) {
        shared.metrics.events_dropped.fetch_add(1, Ordering::Relaxed);
    }
}
