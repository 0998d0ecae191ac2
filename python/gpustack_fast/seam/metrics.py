"""The metrics of the engines, which the data plane shows behind its own."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from gpustack_fast.engines.replica import Replica
from gpustack_fast.faults import Work
from gpustack_fast.seam.documents import MetricFamily, MetricSample

__all__ = ["fault_metrics", "metrics"]


def metrics(replicas: Collection[Replica]) -> list[MetricFamily]:
    """The control plane's families."""
    states = [
        MetricSample(
            labels=[
                ("model", replica.slot.model),
                ("instance", replica.id),
                ("state", replica.published_state),
            ],
            value=1,
        )
        for replica in replicas
    ]
    restarts = [
        MetricSample(
            labels=[("model", replica.slot.model), ("replica", str(replica.slot.number))],
            value=replica.restarts,
        )
        for replica in replicas
    ]
    return [
        MetricFamily(
            name="gpustack_fast_instance_state",
            help="The state that each instance is in, by GPUStack's names.",
            kind="gauge",
            samples=states,
        ),
        MetricFamily(
            name="gpustack_fast_instance_restarts_total",
            help="Engines started in place of one that ended, by replica.",
            kind="counter",
            samples=restarts,
        ),
    ]


def fault_metrics(faults: Mapping[Work, int], unsaved_revocations: int) -> list[MetricFamily]:
    """The families of what was worked around. `faults`: their number, by the work hit."""
    return [
        MetricFamily(
            name="gpustack_fast_own_faults_total",
            help="Faults of this machine, such as a full disk, that were worked around, by the "
            "work that they hit.",
            kind="counter",
            samples=[
                MetricSample(labels=[("work", work)], value=count) for work, count in faults.items()
            ],
        ),
        MetricFamily(
            name="gpustack_fast_unsaved_revocations",
            help="Revoked keys that may still be on the disk, so that a restart would bring them "
            "back.",
            kind="gauge",
            samples=[MetricSample(labels=[], value=unsaved_revocations)],
        ),
    ]
