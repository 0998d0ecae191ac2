"""The metrics of the engines."""

from __future__ import annotations

from small_deployment import REPLICAS

from gpustack_fast.seam.metrics import label, metrics


def test_the_metrics_tell_states_and_restarts() -> None:
    lines = metrics(REPLICAS).splitlines()
    assert (
        'gpustack_fast_instance_state{model="smollm2",instance="smollm2-1",state="initializing"} 1'
        in lines
    )
    assert 'gpustack_fast_instance_restarts_total{model="smollm2",replica="1"} 3' in lines
    families = [line.split()[2] for line in lines if line.startswith("# TYPE")]
    assert families == ["gpustack_fast_instance_state", "gpustack_fast_instance_restarts_total"]
    assert label('a"b\\c\nd') == 'a\\"b\\\\c\\nd'
