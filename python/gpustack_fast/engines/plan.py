"""What to do about the difference between the engines that should be there and those that are:
pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

__all__ = ["Actual", "Slot", "Start", "Stop", "plan", "restart_delay"]

FIRST_PAUSE = 10.0
LONGEST_PAUSE = 300.0


class Slot(NamedTuple):
    """One of a model's replicas, over all the engines that fill it one after another."""

    model: str
    number: int


class Actual(NamedTuple):
    """What a plan needs to know of a slot that is there."""

    slot: Slot
    occupied: bool
    """An engine is in it: starting, running or stopping."""
    stopping: bool
    retry_at: float
    """When the next engine may be started in it; infinity: never again."""


class Start(NamedTuple):
    slot: Slot


class Stop(NamedTuple):
    slot: Slot


def plan(wanted: Mapping[str, int], actual: Iterable[Actual], now: float) -> list[Start | Stop]:
    """What to do now so that `actual` becomes `wanted` (replicas by model): a pure function."""
    present = {one.slot: one for one in actual}
    slots = [
        Slot(model, number) for model, replicas in wanted.items() for number in range(replicas)
    ]
    actions: list[Start | Stop] = [
        Stop(slot) for slot, one in present.items() if slot not in slots and not one.stopping
    ]
    for slot in slots:
        one = present.get(slot)
        if one is None or (not one.occupied and one.retry_at <= now):
            actions.append(Start(slot))
    return actions


def restart_delay(failures: int) -> float:
    """The pause after that many failures in a row: 0, 10, 20, 40 … 300 s."""
    return (
        0.0
        if failures <= 1
        else float(min(FIRST_PAUSE * 2 ** min(failures - 2, 30), LONGEST_PAUSE))
    )
