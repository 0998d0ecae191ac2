"""What a change of a model will do, in words."""

from __future__ import annotations

from typing import Any

import pytest

from gpustack_fast.config.comparison import ModelChange
from gpustack_fast.engines.rollout import There, rollout_of

RETIRED = " A retired one has 30 s for its last requests (`drain_timeout`)."
WAIT = " Up to 64 requests wait for it (`wake_queue`), and further ones get a 503."


def told(
    kind: Any,
    before: int,
    after: int,
    *,
    there: There | None = None,
    max_surge: int = 1,
    no_room: str = "",
    drain_timeout: float = 30.0,
) -> tuple[str, str]:
    """Without more of what is `there`: all that was wanted, and an edit is one of all of it."""
    change = ModelChange(name="m", kind=kind, fields=["env"], before=before, after=after)
    found = rollout_of(
        change,
        there or There(engines=before, replaced=before if kind == "edited" else 0),
        max_surge=max_surge,
        no_room=no_room,
        generation=2,
        drain_timeout=drain_timeout,
        wake_queue=64,
    )
    return " ".join(found.steps), found.interrupts


@pytest.mark.parametrize(
    ("kind", "before", "after", "steps"),
    [
        ("new", 0, 2, "Starts 2 engines."),
        ("scaled", 1, 3, "Starts 2 engines."),
        ("scaled", 3, 2, "Retires 1 engine." + RETIRED),
        ("changed", 1, 1, "Holds for the engines that run."),
        (
            "gone",
            2,
            0,
            "Its route is gone at once. Retires 2 engines." + RETIRED,
        ),
        ("edited", 0, 1, "Starts 1 engine."),
        ("edited", 2, 0, "Retires 2 engines." + RETIRED),
        ("edited", 0, 0, "It has no engines, and starts none."),
        (
            "edited",
            3,
            2,
            "Retires 1 engine. Replaces 2 engines: each new one starts beside the others (up to 1 "
            "at a time), and an old one is retired when it runs." + RETIRED,
        ),
    ],
)
def test_each_change_says_its_steps(kind: str, before: int, after: int, steps: str) -> None:
    assert told(kind, before, after) == (steps, "")


def test_a_single_replica_without_room_beside_it_is_interrupted() -> None:
    steps, interrupts = told("edited", 1, 1, no_room="GPU 0 lacks 10 GiB.")
    assert steps.startswith("Replaces 1 engine one at a time: an old one is retired, then its")
    assert interrupts == (
        "The edit of the model `m` interrupts it: its only replica ends before its successor "
        "starts. There is no room beside it. GPU 0 lacks 10 GiB." + WAIT
    )
    assert told("edited", 1, 1, max_surge=0)[1].endswith("`max_surge` is 0." + WAIT)
    assert told("edited", 1, 3, max_surge=0)[1].endswith("`max_surge` is 0." + WAIT)
    assert told("edited", 3, 1, max_surge=0)[1] == "", "the others go first, and one serves"


def test_one_of_several_replicas_can_be_missed_for_a_while() -> None:
    assert told("edited", 2, 2, max_surge=0)[1] == told("edited", 2, 2, no_room="None.")[1] == ""
    assert told("scaled", 1, 1, max_surge=0)[1] == ""


def test_an_edit_that_is_taken_back_replaces_only_what_it_has_made() -> None:
    none, one = There(engines=2, replaced=0), There(engines=2, replaced=1)
    assert told("edited", 2, 2, there=none) == ("Holds for the engines that run.", "")
    assert told("edited", 2, 2, there=one)[0].startswith("Replaces 1 engine: ")


def test_of_a_model_that_sleeps_nothing_is_started_or_replaced() -> None:
    asleep = There(engines=0, replaced=0, asleep=True)
    for kind, after in [("edited", 1), ("scaled", 3), ("changed", 1), ("edited", 0)]:
        assert told(kind, 1, after, there=asleep, max_surge=0) == (
            "It sleeps, and this holds when it wakes.",
            "",
        )
    assert told("gone", 1, 0, there=asleep) == ("Its route is gone at once.", "")


def test_requests_of_a_retired_engine_may_get_no_time() -> None:
    assert told("scaled", 2, 1, drain_timeout=0)[0] == (
        "Retires 1 engine. The requests of a retired one are cut (`drain_timeout` is 0)."
    )
