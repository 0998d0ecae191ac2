"""Wanted and actual → what to do: a pure function."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gpustack_fast.engines.plan import ReplicaSlot, SlotStatus, Start, Stop, plan, restart_delay


def there(
    model: str, number: int, *, occupied: bool = True, stopping: bool = False, retry_at: float = 0.0
) -> SlotStatus:
    return SlotStatus(ReplicaSlot(model, number), occupied, stopping, retry_at)


def test_what_is_wanted_and_not_there_is_started() -> None:
    assert plan({"m": 2}, [], 0.0) == [Start(ReplicaSlot("m", 0)), Start(ReplicaSlot("m", 1))]
    assert plan({"m": 2}, [there("m", 0)], 0.0) == [Start(ReplicaSlot("m", 1))]


def test_what_is_there_and_not_wanted_is_stopped_once() -> None:
    assert plan({"m": 1}, [there("m", 0), there("m", 1), there("gone", 0)], 0.0) == [
        Stop(ReplicaSlot("m", 1)),
        Stop(ReplicaSlot("gone", 0)),
    ]
    assert plan({}, [there("m", 0, stopping=True)], 0.0) == []


def test_a_slot_is_not_filled_while_its_engine_is_being_ended() -> None:
    assert plan({"m": 1}, [there("m", 0, occupied=False, stopping=True)], 0.0) == []


def test_an_empty_slot_is_filled_when_its_pause_is_over_and_not_before() -> None:
    failed = there("m", 0, occupied=False, retry_at=10.0)
    assert plan({"m": 1}, [failed], 9.9) == []
    assert plan({"m": 1}, [failed], 10.0) == [Start(ReplicaSlot("m", 0))]


def test_a_slot_that_was_given_up_stays_empty() -> None:
    assert plan({"m": 1}, [there("m", 0, occupied=False, retry_at=float("inf"))], 1e12) == []


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
statuses = st.builds(SlotStatus, slots, st.booleans(), st.booleans(), st.floats(0, 100))


@given(
    st.dictionaries(st.sampled_from("abc"), st.integers(0, 4)),
    st.lists(statuses, unique_by=lambda one: one.slot),
    st.floats(0, 100),
)
def test_a_plan_that_is_carried_out_leaves_nothing_to_plan(
    wanted: dict[str, int], actual: list[SlotStatus], now: float
) -> None:
    after = {one.slot: one for one in actual}
    for action in plan(wanted, actual, now):
        if isinstance(action, Start):
            assert action.slot not in after or not after[action.slot].occupied
            after[action.slot] = SlotStatus(action.slot, True, False, 0.0)
        else:
            after[action.slot] = after[action.slot]._replace(stopping=True)
    assert plan(wanted, after.values(), now) == []


def test_thirty_thousand_slots_that_are_as_wanted_leave_nothing_to_plan() -> None:
    """With a search through all of them for each, this takes most of a minute."""
    taken = [SlotStatus(ReplicaSlot("m", n), True, False, 0.0) for n in range(30_000)]
    assert plan({"m": 30_000}, taken, 0.0) == []
