"""The metrics of the engines, which the data plane shows behind its own."""

from __future__ import annotations

from collections.abc import Collection

from gpustack_fast.engines.replica import Replica
from gpustack_fast.seam.documents import MetricFamily, MetricSample

__all__ = ["metrics"]


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
