"""How often the table is published while much changes at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

__all__ = ["Pace"]


class Pace:
    """Publishes what has changed soon, and not once for each change.

    A table is always the whole of what there is: 10,000 engines that come up within a second would
    publish 10,000 tables of 10,000 engines. So the first change is published as soon as the event
    loop has the time, and those that follow together, after a pause that is as long as publishing
    takes. What must be in force when a call returns is published by `now`. Keys are none of it:
    their changes have a document of their own, which never waits.
    """

    LEAST_PAUSE = 0.01
    LONGEST_PAUSE = 0.25
    """Seconds between the end of a publish and the begin of the next one."""

    def __init__(self, publish: Callable[[], None]) -> None:
        self._publish = publish
        self._waiting: asyncio.TimerHandle | None = None
        self._not_before = 0.0
        """On the event loop's clock."""

    def soon(self) -> None:
        """Something has changed. Called on the event loop."""
        if self._waiting is None:
            loop = asyncio.get_running_loop()
            self._waiting = loop.call_at(max(loop.time(), self._not_before), self.now)

    def catch_up(self) -> None:
        """Publishes what has changed, if anything has. For who is about to tell of it."""
        if self._waiting is not None:
            self.now()

    def now(self) -> None:
        """Publishes all that has changed until now. Raises what `publish` raises."""
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            self._publish()
        finally:
            ended = loop.time()
            pause = min(max(ended - began, self.LEAST_PAUSE), self.LONGEST_PAUSE)
            self._not_before = ended + pause
