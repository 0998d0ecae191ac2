"""The metrics of the engines."""

from __future__ import annotations

from small_deployment import REPLICAS

from gpustack_fast.faults import Faults
from gpustack_fast.seam.documents import MetricSample
from gpustack_fast.seam.metrics import fault_metrics, metrics


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


def test_the_metrics_tell_what_was_worked_around() -> None:
    noted = Faults()
    noted.note("probe", "There is no descriptor.")
    faults, unsaved = fault_metrics(noted.counts, 2)
    assert MetricSample(labels=[("work", "probe")], value=1) in faults.samples
    assert MetricSample(labels=[("work", "keys")], value=0) in faults.samples
    assert unsaved.samples == [MetricSample(labels=[], value=2)]
