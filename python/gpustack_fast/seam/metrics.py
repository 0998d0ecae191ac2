"""The metrics of the engines, which the data plane appends to its own."""

from __future__ import annotations

from collections.abc import Iterable

from gpustack_fast.engines.replica import Replica

__all__ = ["metrics"]


def metrics(replicas: Iterable[Replica]) -> str:
    """The control plane's families, as Prometheus text."""
    states = [
        "# HELP gpustack_fast_instance_state The state that each instance is in, by GPUStack's "
        "names.",
        "# TYPE gpustack_fast_instance_state gauge",
    ]
    restarts = [
        "# HELP gpustack_fast_instance_restarts_total Engines started in place of one that ended, "
        "by replica.",
        "# TYPE gpustack_fast_instance_restarts_total counter",
    ]
    for replica in replicas:
        model = label(replica.slot.model)
        labels = f'model="{model}",instance="{label(replica.id)}",state="{replica.state}"'
        states.append(f"gpustack_fast_instance_state{{{labels}}} 1")
        labels = f'model="{model}",replica="{replica.slot.number}"'
        restarts.append(f"gpustack_fast_instance_restarts_total{{{labels}}} {replica.restarts}")
    return "\n".join([*states, *restarts, ""])


def label(text: str) -> str:
    """A label's value, escaped."""
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
