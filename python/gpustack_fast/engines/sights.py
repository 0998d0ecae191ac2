"""What duties go by: the replicas that are there, and what they have to do."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Iterable, Mapping

from gpustack_fast.engines.duties import Sight
from gpustack_fast.engines.plan import ReplicaSlot
from gpustack_fast.engines.replica import InstanceState, Replica

__all__ = ["Activity", "sights"]

_ON_THEIR_WAY: tuple[InstanceState, ...] = (
    "pending",
    "analyzing",
    "scheduled",
    "initializing",
    "downloading",
    "starting",
    "waking",
)


@dataclasses.dataclass(frozen=True)
class Activity:
    """What the data plane counts, at one moment."""

    in_flight: Mapping[str, int] = dataclasses.field(default_factory=dict)
    """The requests that instances have, by their ids."""
    requests: Mapping[str, int] = dataclasses.field(default_factory=dict)
    """Those that they ever had, likewise."""
    waiting: Mapping[str, int] = dataclasses.field(default_factory=dict)
    """Those that wait until something of their model runs, by its name."""


def sights(
    replicas: Iterable[Replica], activity: Activity, unplaced: Callable[[ReplicaSlot], bool]
) -> dict[str, Sight]:
    """By model. `replicas`: of ours, those on their way out among them; `unplaced`: whether a slot
    waits for a place on the GPUs, of which there is none.
    """
    found: collections.defaultdict[str, list[Replica]] = collections.defaultdict(list)
    for replica in replicas:
        found[replica.slot.model].append(replica)
    for model in activity.waiting:
        found[model]  # one that sleeps has no replica
    return {model: _sight(model, ones, activity, unplaced) for model, ones in found.items()}


def _sight(
    model: str, found: list[Replica], activity: Activity, unplaced: Callable[[ReplicaSlot], bool]
) -> Sight:
    there = [one for one in found if not one.retired]
    placeless = {one.slot for one in there if one.state != "running" and unplaced(one.slot)}
    return Sight(
        running=sum(one.published_state == "running" for one in there),
        in_flight=sum(activity.in_flight.get(one.id, 0) for one in found),
        requests=sum(activity.requests.get(one.id, 0) for one in found),
        waiting=activity.waiting.get(model, 0),
        starting=any(one.state in _ON_THEIR_WAY and one.slot not in placeless for one in there),
        unplaced=bool(placeless),
        given_up=bool(found) and all(_is_given_up(one) for one in found),
        leaving=any(one.retired or (one.state == "sleeping" and not one.asleep) for one in found),
    )


def _is_given_up(replica: Replica) -> bool:
    return replica.state == "error" and replica.retry_at == float("inf")
