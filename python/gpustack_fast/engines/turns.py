"""Which models sleep so that another one of their group has room on the GPUs: pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import NamedTuple

__all__ = ["TURN", "Awake", "who_sleeps"]

TURN = 10.0
"""Seconds for which a model runs at least before it sleeps while it still has requests. So two that
are asked for all the time take turns, and do not only wake up.
"""


class Awake(NamedTuple):
    """A model of the group that runs. Times are monotonic seconds."""

    model: str
    last_token: float
    busy: bool
    """It has requests, which would have to end first."""
    since: float
    pinned: bool = False


def who_sleeps(
    awake: Iterable[Awake],
    fits: Callable[[Collection[str]], bool],
    now: float,
    turn: float = TURN,
) -> list[str]:
    """The models that are to sleep, the least recently used first; empty: it would be of no use.

    `fits`: whether there is room once all of these sleep. Those without requests go before those
    that have some, and no more go than are needed.
    """
    may = [one for one in awake if not one.pinned and (not one.busy or now - one.since >= turn)]
    may.sort(key=lambda one: (one.busy, one.last_token, one.model))
    for count in range(1, len(may) + 1):
        chosen = [one.model for one in may[:count]]
        if fits(chosen):
            break
    else:
        return []
    # The last one is needed; of those before it some may hold other GPUs than those in question.
    for model in reversed(chosen[:-1]):
        fewer = [one for one in chosen if one != model]
        if fits(fewer):
            chosen = fewer
    return chosen
