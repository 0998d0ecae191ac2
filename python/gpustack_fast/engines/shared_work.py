"""Work that several wait for and that is done once: the build of an environment, a download.

It goes on as long as anybody waits for it. The last one who gives up ends it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Hashable
from typing import Any, Generic, TypeVar

__all__ = ["SharedWork"]

Result = TypeVar("Result")


class SharedWork(Generic[Result]):
    """The works that are on their way, by what they are for. Lives on one event loop."""

    def __init__(self) -> None:
        self._tasks: dict[Hashable, asyncio.Task[Result]] = {}
        self._waiting: dict[asyncio.Task[Result], int] = {}
        self._ending: set[asyncio.Task[Result]] = set()
        """Given up by all, and not at their end: a child is ended, files are removed."""

    async def join(self, key: Hashable, work: Coroutine[Any, Any, Result]) -> Result:
        """The result of `work`, or of the same that was begun before. Raises what that does."""
        task = self._tasks.get(key)
        if task is None or task.done():
            task = self._tasks[key] = asyncio.ensure_future(work)
        else:
            work.close()
        self._waiting[task] = self._waiting.get(task, 0) + 1
        try:
            return await asyncio.shield(task)
        finally:
            self._waiting[task] -= 1
            if not self._waiting[task]:
                del self._waiting[task]
                # Whoever comes now begins anew, and is not given the end of what others gave up.
                if self._tasks.get(key) is task:
                    del self._tasks[key]
                if not task.done():
                    self._ending.add(task)
                    task.add_done_callback(self._ending.discard)
                    task.cancel()

    async def close(self, within: float) -> None:
        """Ends all works, and waits so many seconds for it: a disk may keep them."""
        for task in self._tasks.values():
            task.cancel()
        # What is ending is not cancelled again: that would cut its end short.
        if left := {*self._tasks.values(), *self._ending}:
            await asyncio.wait(left, timeout=within)
