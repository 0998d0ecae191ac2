"""An event loop whose clock jumps to whatever is due next: an hour takes as long as its work."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

__all__ = ["simulate"]

T = TypeVar("T")


class _Selector(selectors.DefaultSelector):
    """Waits for no clock. Without a time it waits for files alone, as for the end of a thread."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        found = super().select(0 if timeout is not None else None)
        if not found and timeout:
            self.now += timeout
        return found


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._clock = _Selector()
        super().__init__(self._clock)

    def time(self) -> float:
        return self._clock.now


def simulate(work: Coroutine[Any, Any, T]) -> T:
    """What the work gives. Its sleeps and timeouts are over at once, in the order of their ends.

    Nothing in it may work in threads: while they do, the clock goes on.
    """
    with asyncio.Runner(loop_factory=_Loop) as runner:
        return runner.run(work)
