"""Which models sleep so that another one of their group has room."""

from __future__ import annotations

from collections.abc import Callable, Collection

from hypothesis import given
from hypothesis import strategies as st

from gpustack_fast.engines.turns import Awake, who_sleeps

SIZES = {"a": 10, "b": 20, "c": 30}


def awake(
    model: str, last: float, *, busy: bool = False, since: float = 0.0, **more: bool
) -> Awake:
    return Awake(model, last, busy, since, **more)


def frees(size: int) -> Callable[[Collection[str]], bool]:
    return lambda without: sum(SIZES[one] for one in without) >= size


def test_the_least_recently_used_goes_first_and_no_more_than_are_needed() -> None:
    there = [awake("a", 3), awake("b", 1), awake("c", 2)]
    assert who_sleeps(there, frees(20), 100) == ["b"]
    assert who_sleeps(there, frees(45), 100) == ["b", "c"]
    assert who_sleeps(there, frees(60), 100) == ["b", "c", "a"]


def test_one_that_would_be_of_no_use_is_left_alone() -> None:
    there = [awake("a", 1), awake("c", 2)]
    assert who_sleeps(there, frees(30), 100) == ["c"]


def test_nobody_sleeps_where_it_would_not_be_enough() -> None:
    assert who_sleeps([awake("a", 1), awake("b", 2)], frees(31), 100) == []
    assert who_sleeps([], frees(1), 100) == []


def test_a_pinned_model_never_sleeps() -> None:
    there = [awake("a", 1), awake("c", 0, pinned=True)]
    assert who_sleeps(there, frees(10), 100) == ["a"]
    assert who_sleeps(there, frees(20), 100) == []


def test_those_without_requests_go_before_those_with_some_and_these_after_their_turn() -> None:
    there = [awake("c", 1, busy=True, since=95), awake("b", 99)]
    assert who_sleeps(there, frees(20), 100) == ["b"]
    assert who_sleeps(there, frees(30), 100) == []
    assert who_sleeps(there, frees(30), 105) == ["c"]
    assert who_sleeps(there, frees(20), 105) == ["b"], "though it was used last"


@given(
    st.lists(
        st.builds(
            Awake,
            st.sampled_from("abc"),
            st.floats(0, 100),
            st.booleans(),
            st.floats(0, 100),
            st.booleans(),
        ),
        unique_by=lambda one: one.model,
    ),
    st.integers(1, 60),
)
def test_what_is_chosen_is_enough_and_all_of_it_is_needed(there: list[Awake], size: int) -> None:
    chosen, fits = who_sleeps(there, frees(size), 100), frees(size)
    may = [one.model for one in there if not one.pinned and (not one.busy or one.since <= 90)]
    assert set(chosen) <= set(may) and bool(chosen) == fits(may)
    if chosen:
        assert fits(chosen)
        assert not any(fits([other for other in chosen if other != one]) for one in chosen)
