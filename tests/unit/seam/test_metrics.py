"""The metrics of the engines."""

from __future__ import annotations

from small_deployment import REPLICAS

from gpustack_fast.seam.documents import MetricSample
from gpustack_fast.seam.metrics import metrics


def test_the_metrics_tell_states_and_restarts() -> None:
    states, restarts = metrics(REPLICAS)
    labels = [("model", "smollm2"), ("instance", "smollm2-1"), ("state", "initializing")]
    assert MetricSample(labels=labels, value=1) in states.samples
    labels = [("model", "smollm2"), ("replica", "1")]
    assert MetricSample(labels=labels, value=3) in restarts.samples
    assert [(family.name, family.kind) for family in (states, restarts)] == [
        ("gpustack_fast_instance_state", "gauge"),
        ("gpustack_fast_instance_restarts_total", "counter"),
    ]
