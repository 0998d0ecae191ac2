"""Wanted and actual → what to do: a pure function."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gpustack_fast.engines.plan import (
    ReplicaSlot,
    SlotStatus,
    Start,
    Stop,
    Wanted,
    is_carried_out,
    plan,
    restart_delay,
)


def slot(number: int, model: str = "m") -> ReplicaSlot:
    return ReplicaSlot(model, number)


def runs(number: int, model: str = "m", **more: Any) -> SlotStatus:
    return SlotStatus(slot(number, model), True, False, 0.0, running=True, **more)


def starts(number: int, room_of: int | None = None, **more: Any) -> SlotStatus:
    makes_room = None if room_of is None else slot(room_of)
    more.setdefault("unplaced", makes_room is not None)
    return SlotStatus(slot(number), True, False, 0.0, makes_room=makes_room, **more)


def leaves(number: int, **more: Any) -> SlotStatus:
    return SlotStatus(slot(number), True, True, 0.0, running=True, **more)


def failed(number: int, retry_at: float, **more: Any) -> SlotStatus:
    return SlotStatus(slot(number), False, False, retry_at, **more)


def steps(wanted: Wanted, *found: SlotStatus, now: float = 0.0) -> list[Start | Stop]:
    return plan({"m": wanted}, found, now)


def test_what_is_wanted_and_not_there_is_started() -> None:
    assert steps(Wanted(2)) == [Start(slot(0)), Start(slot(1))]
    assert steps(Wanted(2), runs(0)) == [Start(slot(1))]
    assert steps(Wanted(2), runs(1)) == [Start(slot(0))]
    assert steps(Wanted(2), starts(0, unplaced=True)) == [Start(slot(1))], "it may need less"


def test_what_is_there_and_not_wanted_is_stopped_once() -> None:
    assert plan({"m": Wanted(1)}, [runs(0), runs(1), runs(0, "gone")], 0.0) == [
        Stop(slot(0, "gone"), "gone"),
        Stop(slot(1), "scaled"),
    ]
    assert plan({}, [leaves(0)], 0.0) == []


def test_of_too_many_those_go_first_that_are_missed_least() -> None:
    found = [starts(0), runs(1, drained=True), runs(2), runs(3), failed(4, 0.0)]
    gone = [steps(Wanted(count), *found) for count in range(5)]
    assert [len([one for one in each if isinstance(one, Stop)]) for each in gone] == [5, 4, 3, 2, 1]
    assert gone[4] == [Stop(slot(4), "scaled")]
    assert gone[3][0] == Stop(slot(0), "scaled")
    assert gone[2][0] == Stop(slot(1), "scaled")
    assert gone[1][0] == Stop(slot(3), "scaled")
    assert steps(Wanted(1), failed(0, 9.0), starts(1)) == [Stop(slot(0), "scaled")]


def test_a_slot_is_not_filled_while_its_engine_is_being_ended() -> None:
    assert steps(Wanted(1), leaves(0)) == [Start(slot(1))]


def test_an_empty_slot_is_filled_when_its_pause_is_over_and_not_before() -> None:
    assert steps(Wanted(1), failed(0, 10.0), now=9.9) == []
    assert steps(Wanted(1), failed(0, 10.0), now=10.0) == [Start(slot(0))]


def test_a_slot_that_was_given_up_stays_empty() -> None:
    assert steps(Wanted(1), failed(0, float("inf")), now=1e12) == []


def test_an_edit_starts_a_new_one_before_it_retires_an_old_one() -> None:
    old = [runs(number, outdated=True) for number in range(3)]
    assert steps(Wanted(3), *old) == [Start(slot(3))]
    assert steps(Wanted(3), *old, starts(3)) == []
    assert steps(Wanted(3), *old, runs(3)) == [Stop(slot(2), "edited")]
    left = [*old[:2], leaves(2, outdated=True), runs(3)]
    assert steps(Wanted(3), *left) == [], "with the one that leaves there are as many as may be"
    assert steps(Wanted(3), *old[:2], runs(3)) == [Start(slot(2))]
    assert steps(Wanted(3, max_surge=3), *old) == [Start(slot(number)) for number in (3, 4, 5)]


def test_a_new_version_that_does_not_get_ready_leaves_the_old_one_serving() -> None:
    old = [runs(0, outdated=True), runs(1, outdated=True)]
    for new in (starts(2), failed(2, 10.0), failed(2, float("inf"))):
        assert steps(Wanted(2), *old, new) == []
        assert steps(Wanted(2, max_surge=0), old[0], new) == []
    assert steps(Wanted(1), old[0], runs(1, drained=True)) == []


def test_an_old_one_that_does_not_serve_goes_at_once() -> None:
    for old in (
        starts(0, outdated=True),
        failed(0, 10.0, outdated=True),
        runs(0, outdated=True, drained=True),
    ):
        assert steps(Wanted(1), old) == [Stop(slot(0), "edited"), Start(slot(1))]
        assert steps(Wanted(1, max_surge=0), old) == [Stop(slot(0), "edited")]


def test_without_a_surge_one_goes_at_a_time_and_the_next_one_when_its_successor_runs() -> None:
    old = [runs(0, outdated=True), runs(1, outdated=True)]
    wanted = Wanted(2, max_surge=0)
    assert steps(wanted, *old) == [Stop(slot(1), "edited")]
    assert steps(wanted, old[0], leaves(1, outdated=True)) == []
    assert steps(wanted, old[0]) == [Start(slot(1))]
    assert steps(wanted, old[0], starts(1)) == []
    assert steps(wanted, old[0], runs(1)) == [Stop(slot(0), "edited")]
    assert steps(wanted, old[0], starts(1, unplaced=True)) == []
    assert steps(Wanted(1, max_surge=0), old[0], runs(1, drained=True)) == [], "nothing else serves"


def test_where_there_is_no_room_for_a_surge_the_one_that_makes_room_goes() -> None:
    old = [runs(0, outdated=True), runs(1, outdated=True)]
    assert steps(Wanted(2), *old, starts(2, room_of=0)) == [Stop(slot(0), "edited")]
    leaving = leaves(0, outdated=True)
    assert steps(Wanted(2), old[1], leaving, starts(2, room_of=1)) == [], "one at a time"
    several = [*(runs(number, outdated=True) for number in range(3)), starts(3, room_of=0)]
    assert steps(Wanted(3, max_surge=2), *several, starts(4, room_of=1)) == [
        Stop(slot(1), "edited")
    ], "and one at a time, where several wait"
    unplaced = starts(2, unplaced=True)
    assert steps(Wanted(2), *old, unplaced) == [], "nobody's going would give it a place"
    assert steps(Wanted(2), old[1], unplaced) == [], "the place that is free is its own"
    both = [starts(2, room_of=0), starts(3)]
    assert steps(Wanted(2), *old, *both) == [], "one is on its way already"


def test_an_edit_and_fewer_replicas_at_once_retire_old_ones_first() -> None:
    old = [runs(number, outdated=True) for number in range(3)]
    assert steps(Wanted(1), *old, starts(3)) == [
        Stop(slot(2), "edited"),
        Stop(slot(1), "edited"),
    ]
    assert steps(Wanted(0), *old, starts(3))[0] == Stop(slot(3), "scaled")


def test_it_is_carried_out_when_all_run_and_nothing_older_is_left() -> None:
    assert is_carried_out(Wanted(1), [runs(4)])
    assert is_carried_out(Wanted(0), [])
    for found in (
        [],
        [starts(0)],
        [runs(0, outdated=True)],
        [leaves(0)],
        [runs(0), leaves(1, outdated=True)],
        [runs(0), runs(1)],
    ):
        assert not is_carried_out(Wanted(1), found)


def test_pauses_grow_as_gpustack_s_do() -> None:
    assert [restart_delay(failures) for failures in range(1, 9)] == [
        0,
        10,
        20,
        40,
        80,
        160,
        300,
        300,
    ]
    assert restart_delay(10_000) == 300


slots = st.builds(ReplicaSlot, st.sampled_from("abc"), st.integers(0, 3))


def status(
    of: ReplicaSlot, occupied: bool, unplaced: bool, makes_room: ReplicaSlot | None, **more: Any
) -> SlotStatus:
    """Only an engine that is on its way waits for a place, and only for one of its model."""
    waits = unplaced and occupied and not more["running"]
    if makes_room is not None and (not waits or makes_room.model != of.model):
        makes_room = None
    return SlotStatus(of, occupied, **more, unplaced=waits, makes_room=makes_room)


statuses = st.builds(
    status,
    slots,
    st.booleans(),
    st.booleans(),
    st.none() | slots,
    stopping=st.booleans(),
    retry_at=st.floats(0, 100),
    running=st.booleans(),
    drained=st.booleans(),
    outdated=st.booleans(),
)
wishes = st.builds(Wanted, st.integers(0, 4), st.integers(0, 2))


@given(
    st.dictionaries(st.sampled_from("abc"), wishes),
    st.lists(statuses, unique_by=lambda one: one.slot),
    st.floats(0, 100),
)
def test_a_plan_that_is_carried_out_leaves_nothing_to_plan(
    wanted: dict[str, Wanted], actual: list[SlotStatus], now: float
) -> None:
    after = {one.slot: one for one in actual}
    for action in plan(wanted, actual, now):
        if isinstance(action, Start):
            assert action.slot not in after or not after[action.slot].occupied
            after[action.slot] = SlotStatus(action.slot, True, False, 0.0)
        else:
            assert not after[action.slot].stopping
            after[action.slot] = after[action.slot]._replace(stopping=True)
    assert plan(wanted, after.values(), now) == []


def test_thirty_thousand_slots_that_are_as_wanted_leave_nothing_to_plan() -> None:
    """With a search through all of them for each, this takes most of a minute."""
    taken = [runs(n) for n in range(30_000)]
    assert steps(Wanted(30_000), *taken) == []
