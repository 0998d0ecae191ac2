"""The steps from the engines that are there to those that should be: pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

__all__ = ["ReplicaSlot", "SlotStatus", "Start", "Stop", "plan", "restart_delay"]

FIRST_PAUSE = 10.0
LONGEST_PAUSE = 300.0


class ReplicaSlot(NamedTuple):
    """A replica's position in its model, held by one engine after another."""

    model: str
    number: int


class SlotStatus(NamedTuple):
    """The state of a slot that is there, as far as a plan depends on it."""

    slot: ReplicaSlot
    occupied: bool
    """An engine is in it that starts or runs, or ends by itself."""
    stopping: bool
    """It is out of the table for good, and its engine is being ended."""
    retry_at: float
    """Monotonic seconds: when the next engine may be started in it; infinity: never again."""


class Start(NamedTuple):
    """Start an engine in a slot."""

    slot: ReplicaSlot


class Stop(NamedTuple):
    """Take a slot out of the table, and end its engine."""

    slot: ReplicaSlot


def plan(wanted: Mapping[str, int], actual: Iterable[SlotStatus], now: float) -> list[Start | Stop]:
    """The steps that turn `actual` into `wanted` (replicas by model). `now`: monotonic seconds."""
    present = {one.slot: one for one in actual}
    slots = [
        ReplicaSlot(model, number)
        for model, replicas in wanted.items()
        for number in range(replicas)
    ]
    kept = set(slots)
    actions: list[Start | Stop] = [
        Stop(slot) for slot, one in present.items() if slot not in kept and not one.stopping
    ]
    for slot in slots:
        one = present.get(slot)
        if one is None or not (one.occupied or one.stopping or one.retry_at > now):
            actions.append(Start(slot))
    return actions


def restart_delay(failures: int) -> float:
    """The pause in seconds after that many failures in a row: 0, 10, 20, 40 … 300."""
    return (
        0.0
        if failures <= 1
        else float(min(FIRST_PAUSE * 2 ** min(failures - 2, 30), LONGEST_PAUSE))
    )
