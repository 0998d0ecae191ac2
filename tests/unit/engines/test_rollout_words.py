"""What a change of a model will do, in words."""

from __future__ import annotations

from typing import Any

import pytest

from gpustack_fast.config.comparison import ModelChange
from gpustack_fast.engines.rollout import rollout_of


def told(
    kind: Any, before: int, after: int, *, max_surge: int = 1, no_room: str = ""
) -> tuple[str, str]:
    change = ModelChange(name="m", kind=kind, fields=["env"], before=before, after=after)
    found = rollout_of(change, max_surge=max_surge, no_room=no_room, generation=2)
    return " ".join(found.steps), found.interrupts


@pytest.mark.parametrize(
    ("kind", "before", "after", "steps"),
    [
        ("new", 0, 2, "Starts 2 engines."),
        ("scaled", 1, 3, "Starts 2 engines."),
        ("scaled", 3, 2, "Retires 1 engine."),
        ("changed", 1, 1, "Holds for the engines that run."),
        (
            "gone",
            2,
            0,
            "Its route is gone at once, and 2 engines end when their requests have ended.",
        ),
        ("edited", 0, 1, "Starts 1 engine."),
        ("edited", 2, 0, "Retires 2 engines."),
        (
            "edited",
            3,
            2,
            "Retires 1 engine. Replaces 2 engines: each new one starts beside the others (up to 1 "
            "at a time), and an old one is retired when it runs.",
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
        "starts. There is no room beside it. GPU 0 lacks 10 GiB."
    )
    assert told("edited", 1, 1, max_surge=0)[1].endswith("`max_surge` is 0.")
    assert told("edited", 1, 3, max_surge=0)[1].endswith("`max_surge` is 0.")


def test_one_of_several_replicas_can_be_missed_for_a_while() -> None:
    assert told("edited", 2, 2, max_surge=0)[1] == told("edited", 2, 2, no_room="None.")[1] == ""
    assert told("scaled", 1, 1, max_surge=0)[1] == ""
