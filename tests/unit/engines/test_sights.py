"""What is seen of a model's replicas, for who decides about their sleep."""

from __future__ import annotations

from small_backend import SMALL, small

from gpustack_fast.engines.duties import Sight
from gpustack_fast.engines.plan import ReplicaSlot
from gpustack_fast.engines.replica import InstanceState, Replica
from gpustack_fast.engines.sights import Activity, sights

NOTHING = Activity()


def replica(
    number: int,
    state: InstanceState,
    *,
    drained: bool = False,
    retired: bool = False,
    asleep: bool = False,
) -> Replica:
    made = Replica(ReplicaSlot("m", number), small(name="m"), SMALL, f"m-{number}", 0.0, state)
    made.drained, made.retired, made.asleep = drained, retired, asleep
    return made


def seen(*replicas: Replica, activity: Activity = NOTHING, unplaced: tuple[int, ...] = ()) -> Sight:
    return sights(replicas, activity, lambda slot: slot.number in unplaced)["m"]


def test_those_that_take_requests_run_and_all_requests_count() -> None:
    activity = Activity(
        in_flight={"m-0": 2, "m-1": 3, "m-9": 50}, requests={"m-0": 7}, waiting={"m": 4, "n": 9}
    )
    drained = replica(1, "running", drained=True)
    assert seen(replica(0, "running"), drained, activity=activity) == Sight(
        running=1, in_flight=5, requests=7, waiting=4
    )


def test_one_that_finds_no_place_is_not_on_its_way() -> None:
    assert seen(replica(0, "pending")) == Sight(starting=True)
    assert seen(replica(0, "pending"), unplaced=(0,)) == Sight(unplaced=True)
    assert seen(replica(0, "waking"), unplaced=(0,)) == Sight(unplaced=True)
    assert seen(replica(0, "starting"), replica(1, "pending"), unplaced=(1,)) == Sight(
        starting=True, unplaced=True
    )
    assert seen(replica(0, "error")) == Sight()


def test_one_leaves_until_it_has_ended_or_sleeps() -> None:
    assert seen(replica(0, "running", retired=True)) == Sight(leaving=True)
    produces = Activity(in_flight={"m-0": 2})
    assert seen(replica(0, "running", retired=True), activity=produces) == Sight(
        leaving=True, in_flight=2
    )
    assert seen(replica(0, "sleeping")) == Sight(leaving=True)
    assert seen(replica(0, "sleeping", asleep=True)) == Sight()


def test_one_is_given_up_when_none_of_its_replicas_is_started_again() -> None:
    failed, again = replica(0, "error"), replica(1, "error")
    failed.retry_at = float("inf")
    assert seen(failed).given_up
    assert not seen(failed, again).given_up and not seen(failed, replica(2, "running")).given_up


def test_a_model_without_replicas_is_seen_by_those_who_wait_for_it() -> None:
    found = sights([], Activity(waiting={"m": 2}), lambda _: False)
    assert found == {"m": Sight(waiting=2)}
