"""The models and their instances as `status`, `drain` and `resume` tell of them."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from typing import Protocol

from gpustack_fast.config import Config
from gpustack_fast.control.documents import DrainReport, InstanceStatus, ModelStatus
from gpustack_fast.engines.replica import Replica, replicas_by_model

__all__ = ["Counters", "drain_report", "instance_status", "model_statuses"]


class Counters(Protocol):
    """An instance's counters, as the data plane has them."""

    @property
    def outstanding(self) -> int: ...
    @property
    def requests(self) -> int: ...
    @property
    def failures(self) -> int: ...
    @property
    def ejected(self) -> bool: ...


NEW = "It is new in the configuration, and gets its engines when the server is restarted."


def model_statuses(
    config: Config,
    replicas: Iterable[Replica],
    counters: Mapping[str, Counters],
    begun: Container[str],
) -> list[ModelStatus]:
    """Every model, in the order of the configuration. `counters`: by the instances' ids. `begun`:
    the models of ours that there were at the start.
    """
    return [
        ModelStatus(
            name=model.name,
            backend=model.backend,
            replicas=len(model.urls) if model.external else model.replicas,
            ready_replicas=sum(one.published_state == "running" for one in found),
            state_message=""
            if model.external or not model.replicas or model.name in begun
            else NEW,
            instances=[instance_status(one, counters.get(one.id)) for one in found],
        )
        for model, found in replicas_by_model(config, replicas)
    ]


def instance_status(replica: Replica, counters: Counters | None) -> InstanceStatus:
    """One instance; without counters the data plane does not know it yet."""
    in_flight = 0 if counters is None else counters.outstanding
    state = replica.published_state
    if state in ("draining", "drained"):
        # The counter is of this moment, and the event about its end may still be on its way.
        state = "draining" if in_flight else "drained"
    return InstanceStatus(
        name=replica.id,
        model=replica.slot.model,
        address="" if replica.state == "error" else replica.address,
        state=state,
        since=replica.since,
        state_message=replica.state_message,
        drained=replica.drained,
        ejected=counters is not None and counters.ejected,
        last_failure=replica.last_failure,
        last_failure_at=replica.last_failure_at or None,
        in_flight=in_flight,
        requests=0 if counters is None else counters.requests,
        failures=0 if counters is None else counters.failures,
        pid=None if replica.instance is None else replica.instance.pid,
        restart_count=replica.restarts,
        devices=list(replica.devices),
    )


def drain_report(
    found: list[Replica], replicas: Iterable[Replica], counters: Mapping[str, Counters]
) -> DrainReport:
    """The instances of an order, and the models that it has left without any."""
    serving = {one.slot.model for one in replicas if one.published_state == "running"}
    left = {
        one.slot.model: None
        for one in found
        if one.drained and one.state == "running" and one.slot.model not in serving
    }
    warnings = [
        f"No other instance of {model} runs: its requests get a fallback, or a 503, until "
        "`gpustack-fast resume`."
        for model in left
    ]
    instances = [instance_status(one, counters.get(one.id)) for one in found]
    return DrainReport(instances=instances, warnings=warnings)
