"""The models and their instances as `status`, `drain` and `resume` tell of them."""

from __future__ import annotations

import collections
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

from gpustack_fast.config import Config, ModelConfig
from gpustack_fast.control.documents import (
    ApplyReport,
    DrainReport,
    Event,
    InstanceStatus,
    ModelPlan,
    ModelStatus,
)
from gpustack_fast.engines.progress import Outlook
from gpustack_fast.engines.replica import Replica, replicas_by_model
from gpustack_fast.engines.rollout import Rollout

__all__ = [
    "Counters",
    "Generations",
    "apply_report",
    "drain_report",
    "instance_status",
    "model_statuses",
    "shown_events",
]


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


class Outcome(Protocol):
    """What a reload has changed, or would; see `reload`."""

    @property
    def changes(self) -> Sequence[str]: ...
    @property
    def rollouts(self) -> Sequence[Rollout]: ...
    @property
    def restart(self) -> Sequence[str]: ...


SETTLED = Outlook(settled=True, given_up=False, retired=[])
"""That of somebody else's engines, of which nothing is on its way."""
EVENTS_OF_MODEL = 10
"""Of each model, whatever instances they are of."""


class Generations(NamedTuple):
    """The generations of a model of ours, see `storage.model_states`."""

    wanted: int
    observed: int


def model_statuses(
    config: Config,
    replicas: Iterable[Replica],
    counters: Mapping[str, Counters],
    generations: Mapping[str, Generations],
    resting: Mapping[str, str] | None = None,
    outlooks: Mapping[str, Outlook] | None = None,
) -> list[ModelStatus]:
    """Every model, in the order of the configuration. `counters`: by the instances' ids.
    `generations`, `outlooks`: those of the models of ours. `resting`: why those sleep that do.
    """
    asleep = resting or {}
    known = outlooks or {}
    return [
        model_status(
            model,
            found,
            counters,
            generations.get(model.name),
            asleep.get(model.name, ""),
            known.get(model.name, SETTLED),
        )
        for model, found in replicas_by_model(config, replicas)
    ]


def model_status(
    model: ModelConfig,
    found: Sequence[Replica],
    counters: Mapping[str, Counters],
    generations: Generations | None,
    resting: str,
    outlook: Outlook,
) -> ModelStatus:
    """One model, with its replicas."""
    return ModelStatus(
        name=model.name,
        backend=model.backend,
        replicas=len(model.urls) if model.external else model.replica_bounds[0],
        ready_replicas=sum(one.published_state == "running" for one in found),
        generation=None if generations is None else generations.wanted,
        observed_generation=None if generations is None else generations.observed,
        state_message=" ".join(_messages(found, generations, resting, outlook)),
        instances=[instance_status(one, counters.get(one.id)) for one in found],
        retired=outlook.retired,
        settled=outlook.settled,
        given_up=outlook.given_up,
    )


def _messages(
    found: Sequence[Replica], generations: Generations | None, resting: str, outlook: Outlook
) -> Iterator[str]:
    """What is to be known of a model, in sentences: none where all of it is as it should be."""
    if resting:
        yield resting
    old = [one for one in found if one.is_outdated]
    new = [one for one in found if not one.is_outdated]
    if old and generations is not None and not resting:
        yield (
            f"An edit is being carried out. Instances of generation {generations.wanted}: "
            f"{len(new)}; older ones: {len(old)}."
        )
        if any(one.state == "error" for one in new):
            yield (
                "The new one fails, and the older ones serve on: write the model otherwise, or "
                "take the edit back."
            )
    if outlook.retired:
        yield (
            f"Instances that are retired, and still have requests or are being ended: "
            f"{len(outlook.retired)}."
        )


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
        generation=None if replica.model.external else replica.generation,
        outdated=replica.is_outdated,
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


def apply_report(
    file: str, outcome: Outcome, *, applied: bool, warnings: Sequence[str] = ()
) -> ApplyReport:
    """What a configuration has changed, or would."""
    return ApplyReport(
        file=file,
        applied=applied,
        changes=list(outcome.changes),
        models=[
            ModelPlan(
                name=one.change.name,
                kind=one.change.kind,
                fields=one.change.fields,
                replicas_before=one.change.before,
                replicas=one.change.after,
                generation=one.generation,
                steps=one.steps,
                interrupts=one.interrupts,
            )
            for one in outcome.rollouts
        ],
        restart=list(outcome.restart),
        warnings=list(warnings),
    )


def shown_events(
    events: Sequence[Event], config: Config, replicas: Iterable[Replica]
) -> list[Event]:
    """All that are kept of the instances that are there, and the newest of each model."""
    instances = {one.id for one in replicas}
    models = {model.name for model in config.models}
    found, left = [], collections.Counter[str]()
    for event in reversed(events):
        left[event.model] += 1
        is_new = event.model in models and left[event.model] <= EVENTS_OF_MODEL
        if event.instance in instances or is_new:
            found.append(event)
    return found[::-1]
