"""Whole rollouts, step by step, over a machine that is made up: they end, and keep their bounds."""

from __future__ import annotations

import dataclasses
from typing import Literal

from hypothesis import given, settings
from hypothesis import strategies as st

from gpustack_fast.engines.plan import (
    ReplicaSlot,
    SlotStatus,
    Start,
    Stop,
    Wanted,
    is_carried_out,
    plan,
)

State = Literal["pending", "starting", "running", "failed", "leaving"]


@dataclasses.dataclass
class Engine:
    version: int
    state: State = "pending"
    retry_at: float = 0.0
    drained: bool = False
    refused: bool = False
    """A place was looked for, and there was none."""


HAPPENS_TO: dict[str, tuple[State, ...]] = {
    "gets_ready": ("starting",),
    "ends": ("leaving",),
    "dies": ("starting", "running"),
    "drain": ("running",),
    "resume": ("running",),
}


class Machine:
    """The replicas of one model, on a machine with room for so many engines."""

    def __init__(self, wanted: Wanted, room: int) -> None:
        self.wanted = wanted
        self.room = room
        self.version = 1
        self.broken: set[int] = set()
        """Versions whose engines never get ready."""
        self.now = 0.0
        self.engines: dict[int, Engine] = {}

    def holding(self) -> int:
        """How many have a place."""
        return sum(one.state not in ("pending", "failed") for one in self.engines.values())

    def place(self) -> None:
        for one in reversed(self.engines.values()):  # those that came last go first
            if one.state == "pending" and self.holding() < self.room:
                one.state = "starting"
            one.refused = one.state == "pending"

    def statuses(self) -> list[SlotStatus]:
        holders = [
            number
            for number, one in self.engines.items()
            if one.version != self.version and one.state == "running"
        ]
        is_full = self.holding() >= self.room
        makes_room = ReplicaSlot("m", holders[0]) if holders and is_full else None
        return [
            SlotStatus(
                ReplicaSlot("m", number),
                occupied=one.state != "failed",
                stopping=one.state == "leaving",
                retry_at=one.retry_at,
                running=one.state in ("running", "leaving"),
                drained=one.drained,
                outdated=one.version != self.version,
                unplaced=one.refused,
                makes_room=makes_room if one.refused else None,
            )
            for number, one in self.engines.items()
        ]

    def serving(self) -> int:
        return sum(one.serves for one in self.statuses())

    def carry_out(self) -> None:
        """One plan, and what must hold of it."""
        before, leaving = self.serving(), self.leaving()
        blocked = any(one.makes_room for one in self.statuses())
        there = self.there()
        for action in plan({"m": self.wanted}, self.statuses(), self.now):
            number = action.slot.number
            if isinstance(action, Start):
                one = self.engines.get(number)
                assert one is None or (one.state == "failed" and one.version == self.version)
                self.engines[number] = Engine(self.version)
            else:
                assert isinstance(action, Stop)
                assert self.engines[number].state != "leaving"
                self.engines[number].state = "leaving"
        on_their_way = [
            one
            for one in self.engines.values()
            if one.version == self.version and one.state in ("starting", "failed")
        ]
        one_by_one = self.wanted.max_surge == 0 or blocked
        least = min(before, self.wanted.replicas)
        if self.serving() < least:
            assert one_by_one and leaving == 0, "only where there is no room beside it"
            assert self.serving() == least - 1, "one at a time"
            assert not on_their_way, "and the next one when its successor runs"
        most = self.wanted.replicas + self.wanted.max_surge
        assert self.there() <= max(there, most), "no more than the surge allows"
        assert plan({"m": self.wanted}, self.statuses(), self.now) == [], "one plan is enough"

    def leaving(self) -> int:
        return sum(
            one.state == "leaving" and one.version != self.version for one in self.engines.values()
        )

    def there(self) -> int:
        """What a surge counts: all but those that only leave since fewer are wanted."""
        return sum(
            one.state != "leaving" or one.version != self.version for one in self.engines.values()
        )

    def happens(self, event: str, which: int) -> None:
        """Something that is not of the plan's doing."""
        if event == "edit":
            self.version += 1
        elif event == "edit_badly":
            self.version += 1
            self.broken.add(self.version)
        elif event == "scale":
            self.wanted = self.wanted._replace(replicas=which % (min(self.room, 4) + 1))
        elif event == "surge":
            self.wanted = self.wanted._replace(max_surge=which % 3)
        elif event == "later":
            self.now += 20.0
        else:
            states = HAPPENS_TO[event]
            numbers = [number for number, one in self.engines.items() if one.state in states]
            if numbers:
                self.goes_on(event, numbers[which % len(numbers)])

    def goes_on(self, event: str, number: int) -> None:
        one = self.engines[number]
        if one.state not in HAPPENS_TO[event]:
            return
        if event == "ends":
            del self.engines[number]
        elif event == "drain":
            one.drained = True
        elif event == "resume":
            one.drained = False
        elif event == "gets_ready" and one.version not in self.broken:
            one.state = "running"
        else:
            one.state, one.retry_at = "failed", self.now + 10.0

    def comes_to_rest(self) -> None:
        """All that has begun ends, until nothing is left to do."""
        for _ in range(200):
            if is_carried_out(self.wanted, self.statuses()):
                return
            for number in list(self.engines):
                self.goes_on("resume", number)
                self.goes_on("gets_ready", number)
                self.goes_on("ends", number)
            self.now += 20.0
            self.carry_out()
            self.place()
        raise AssertionError(f"it does not end: {self.wanted}, {self.statuses()}")


EVENTS = ("edit", "edit_badly", "scale", "surge", "later", *HAPPENS_TO)
happenings = st.lists(st.tuples(st.sampled_from(EVENTS), st.integers(0, 20)), max_size=60)
wishes = st.builds(Wanted, st.integers(0, 4), st.integers(0, 2))


@settings(max_examples=400)
@given(wishes, st.integers(0, 2), happenings)
def test_whatever_happens_a_rollout_keeps_its_bounds_and_ends(
    wanted: Wanted, room: int, happened: list[tuple[str, int]]
) -> None:
    machine = Machine(wanted, max(1, wanted.replicas) + room)
    machine.comes_to_rest()
    for event, which in happened:
        machine.happens(event, which)
        machine.carry_out()
        machine.place()
    machine.happens("edit", 0)
    machine.carry_out()
    machine.comes_to_rest()


@given(st.integers(1, 4), st.integers(0, 2), st.integers(0, 3))
def test_a_bad_edit_of_what_serves_takes_nothing_away_where_there_is_room(
    replicas: int, max_surge: int, repeats: int
) -> None:
    machine = Machine(Wanted(replicas, max_surge), room=replicas + max_surge)
    machine.carry_out()
    machine.place()
    machine.comes_to_rest()
    for _ in range(repeats + 1):
        machine.happens("edit_badly", 0)
        for _ in range(20):
            machine.carry_out()
            machine.place()
            for number in list(machine.engines):
                machine.goes_on("gets_ready", number)
                machine.goes_on("ends", number)
            machine.now += 20.0
    assert machine.serving() == (replicas if max_surge else replicas - 1)
    assert not is_carried_out(machine.wanted, machine.statuses())
    machine.happens("edit", 0)
    machine.carry_out()
    machine.comes_to_rest()
