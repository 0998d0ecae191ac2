"""How many replicas a model has between its bounds: they follow its requests, slowly."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpustack_fast.engines.autoscale import Autoscaler, Pace

QUICK = Pace(up_after=60, down_after=600, smoothing=0.001)


class Clock:
    """Looks at a load once a second."""

    def __init__(self, scaler: Autoscaler) -> None:
        self.scaler, self.now = scaler, 0.0
        scaler.look(0, 1, 0.0)

    def run(self, seconds: int, load: Callable[[], int] | int, running: int = 99) -> int:
        for _ in range(seconds):
            self.now += 1
            requests = load if isinstance(load, int) else load()
            self.scaler.look(requests, running, self.now)
        return self.scaler.replicas


def test_it_goes_up_after_a_steady_minute_and_down_after_ten() -> None:
    clock = Clock(Autoscaler(1, 3, 10, QUICK))
    assert clock.run(60, 25) == 1
    assert clock.run(1, 25) == 3
    assert clock.run(600, 3) == 3
    assert clock.run(1, 3) == 1


def test_what_does_not_last_moves_nothing() -> None:
    clock = Clock(Autoscaler(1, 3, 10, QUICK))
    for _ in range(20):
        assert clock.run(59, 30) == 1
        assert clock.run(1, 5) == 1
    clock.run(1, 30)
    clock.scaler.begin(3)
    for _ in range(5):
        assert clock.run(599, 5) == 3
        assert clock.run(1, 30) == 3


def test_it_goes_no_further_than_what_was_asked_for_all_the_time() -> None:
    clock = Clock(Autoscaler(1, 9, 10, QUICK))
    clock.run(30, 80)
    assert clock.run(31, 25) == 3, "eight were asked for only at first"
    clock = Clock(Autoscaler(1, 9, 10, QUICK))
    clock.scaler.begin(9)
    clock.run(300, 15)
    clock.run(1, 45)
    assert clock.run(298, 15) == 9
    assert clock.run(100, 15) == 5, "two would not have been enough in between"
    assert clock.run(190, 15) == 5
    assert clock.run(20, 15) == 2


def test_requests_that_come_and_go_count_by_their_average() -> None:
    chance = random.Random(1)
    clock = Clock(Autoscaler(1, 8, 10, Pace()))
    assert clock.run(300, lambda: chance.choice([0, 20, 40])) in (2, 3)
    assert clock.run(300, 0) in (2, 3)
    assert clock.run(400, 0) == 1


def test_there_are_not_fewer_before_those_that_stay_run() -> None:
    clock = Clock(Autoscaler(1, 3, 10, QUICK))
    clock.scaler.begin(3)
    assert clock.run(700, 15, running=1) == 3
    assert clock.run(1, 15, running=2) == 2


def test_the_exact_load_of_its_replicas_asks_for_no_more_and_no_fewer() -> None:
    clock = Clock(Autoscaler(1, 9, 10, Pace()))
    assert clock.run(300, 30) == 3
    clock.run(120, 60)
    assert clock.run(1200, 30) == 3


def test_it_goes_on_within_other_bounds() -> None:
    clock = Clock(Autoscaler(1, 3, 10, QUICK))
    clock.run(61, 30)
    clock.scaler.bound(1, 2, 10)
    assert clock.scaler.replicas == 2
    clock.scaler.bound(4, 8, 10)
    assert clock.run(1, 0) == 4


@pytest.mark.parametrize(("there", "begins"), [(0, 2), (2, 2), (4, 4), (9, 5)])
def test_it_begins_with_those_that_are_there(there: int, begins: int) -> None:
    scaler = Autoscaler(2, 5, 10)
    scaler.begin(there)
    assert scaler.replicas == begins


@given(
    st.integers(1, 5),
    st.integers(0, 5),
    st.integers(1, 20),
    st.lists(st.tuples(st.integers(0, 200), st.floats(0, 400), st.integers(0, 9)), max_size=60),
)
def test_it_is_always_within_its_bounds(
    least: int, more: int, target: int, looks: list[tuple[int, float, int]]
) -> None:
    scaler, now = Autoscaler(least, least + more, target), 0.0
    for requests, passed, running in looks:
        now += passed
        before = scaler.replicas
        after = scaler.look(requests, running, now)
        assert least <= after <= least + more
        assert after >= before or running >= after
