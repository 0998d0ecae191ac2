"""The steps from the engines that are there to those that should be: pure.

Of each model as many replicas as it wants are to run, all of them *current*: made of what the
configuration says now. Those that are not are *outdated*, and go as current ones come (a rollout):

* Beside the replicas that are wanted up to `max_surge` further engines are there at any time, those
  that are being ended among them.
* An outdated replica that runs is retired only when more run than are wanted. One that does not run
  goes at once. So a new version that does not get ready leaves the old one serving.
* Without a surge (`max_surge = 0`, or no room on the GPUs) one outdated replica is retired, and the
  next one only when a current one runs in its place.
* Of more than are wanted those go first that do not run, then those that were drained, then those
  with the highest numbers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import count, islice
from typing import Literal, NamedTuple

__all__ = [
    "ReplicaSlot",
    "SlotStatus",
    "Start",
    "Stop",
    "Wanted",
    "is_carried_out",
    "plan",
    "restart_delay",
]

FIRST_PAUSE = 10.0
LONGEST_PAUSE = 300.0

Why = Literal["edited", "scaled", "gone"]


class ReplicaSlot(NamedTuple):
    """A replica's position in its model, held by one engine after another."""

    model: str
    number: int


class Wanted(NamedTuple):
    """What is wanted of a model."""

    replicas: int
    max_surge: int = 1
    """The engines that an edit may have beside the wanted ones."""


class SlotStatus(NamedTuple):
    """The state of a slot that is there, as far as a plan depends on it."""

    slot: ReplicaSlot
    occupied: bool
    """An engine is in it that starts or runs, or ends by itself."""
    stopping: bool
    """It is out of the table for good, and its engine is being ended."""
    retry_at: float
    """Monotonic seconds: when the next engine may be started in it; infinity: never again."""
    running: bool = False
    """Its engine is ready."""
    drained: bool = False
    """By its operator's order it gets no requests."""
    outdated: bool = False
    """Its engine is made of something else than what is configured now."""
    unplaced: bool = False
    """It waits for a place on the GPUs: one was looked for, and there was none."""
    makes_room: ReplicaSlot | None = None
    """It would find one if this outdated replica of its model gave up its own."""

    @property
    def serves(self) -> bool:
        """Whether it gets requests."""
        return self.running and not self.drained and not self.stopping


class Start(NamedTuple):
    """Start an engine in a slot."""

    slot: ReplicaSlot


class Stop(NamedTuple):
    """Take a slot out of the table, let its requests end, and end its engine."""

    slot: ReplicaSlot
    why: Why


def plan(
    wanted: Mapping[str, Wanted], actual: Iterable[SlotStatus], now: float
) -> list[Start | Stop]:
    """The next steps from `actual` to what is wanted, by model. `now`: monotonic seconds."""
    of_model: defaultdict[str, list[SlotStatus]] = defaultdict(list)
    for one in actual:
        of_model[one.slot.model].append(one)
    actions: list[Start | Stop] = [
        Stop(one.slot, "gone")
        for model, found in of_model.items()
        if model not in wanted
        for one in found
        if not one.stopping
    ]
    for model, target in wanted.items():
        actions += _of_model(model, target, of_model[model], now)
    return actions


def is_carried_out(wanted: Wanted, found: Iterable[SlotStatus]) -> bool:
    """Whether all replicas that are wanted of a model run, and nothing older is left of it."""
    slots = list(found)
    return len(slots) == wanted.replicas and all(
        one.running and not one.stopping and not one.outdated for one in slots
    )


def _of_model(
    model: str, wanted: Wanted, found: Sequence[SlotStatus], now: float
) -> Iterator[Start | Stop]:
    live = [one for one in found if not one.stopping]
    current, outdated = [], []
    for one in live:
        if not one.outdated:
            current.append(one)
        elif one.serves:
            outdated.append(one)
        else:
            yield Stop(one.slot, "edited")
    current.sort(key=_least_missed_last)
    excess = current[wanted.replicas :]
    current = current[: wanted.replicas]
    yield from (Stop(one.slot, "scaled") for one in excess)
    leaving = sum(one.outdated for one in found) - len(outdated)
    leaves = _retired(wanted, current, outdated, leaving)
    yield from (Stop(one.slot, "edited") for one in leaves)
    for one in current:
        if not one.occupied and one.retry_at <= now:
            yield Start(one.slot)
    if outdated and any(one.unplaced for one in current):
        return  # who waits for the place that an older one leaves comes first
    room = wanted.replicas + wanted.max_surge - len(current) - len(outdated) - leaving
    missing = wanted.replicas - len(current)
    taken = {one.slot.number for one in found}
    free = (number for number in count() if number not in taken)
    for number in islice(free, max(0, min(room, missing))):
        yield Start(ReplicaSlot(model, number))


def _retired(
    wanted: Wanted, current: Sequence[SlotStatus], outdated: Sequence[SlotStatus], leaving: int
) -> list[SlotStatus]:
    """The outdated replicas that serve and are to go now. `leaving`: those that go already."""
    serving = sum(one.serves for one in current) + len(outdated)
    surplus = serving - wanted.replicas
    last_first = sorted(outdated, key=lambda one: one.slot.number, reverse=True)
    if surplus > 0:
        return last_first[:surplus]
    if leaving or not all(one.running or one.unplaced for one in current):
        return []
    blocking = {one.makes_room for one in current if one.unplaced}
    if found := [one for one in last_first if one.slot in blocking]:
        return found[:1]
    is_full = len(current) + len(outdated) >= wanted.replicas > len(current)
    takes_turns = wanted.max_surge == 0 and is_full and all(one.running for one in current)
    return last_first[:1] if takes_turns else []


def _least_missed_last(one: SlotStatus) -> tuple[bool, bool, bool, int]:
    return (not one.running, not one.occupied, one.drained, one.slot.number)


def restart_delay(failures: int) -> float:
    """The pause in seconds after that many failures in a row: 0, 10, 20, 40 … 300."""
    return (
        0.0
        if failures <= 1
        else float(min(FIRST_PAUSE * 2 ** min(failures - 2, 30), LONGEST_PAUSE))
    )
