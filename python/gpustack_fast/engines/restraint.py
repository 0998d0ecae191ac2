"""What a server may not do to engines while it is handed over to another process, and behind that.

frozen      both servers have the same engines, and it is not decided which of them goes on: none
            is started, and none is ended
not alone   the other one still has requests at them: none is taken from under these, unless it
            is lost anyway
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

__all__ = ["Restraint"]


class Restraint:
    """There is none at first."""

    def __init__(self) -> None:
        self._thawed = asyncio.Event()
        self._thawed.set()
        self.alone = asyncio.Event()
        """Set where no other server has requests at the engines."""
        self.alone.set()
        self._starts = 0
        self._no_start = asyncio.Event()
        self._no_start.set()

    @property
    def is_frozen(self) -> bool:
        """Whether no engine may be started or ended."""
        return not self._thawed.is_set()

    async def freeze(self) -> None:
        """Lets no engine be started or ended; returns when no start is half done."""
        self._thawed.clear()
        await self._no_start.wait()

    def thaw(self) -> None:
        """Lets engines be started and ended again."""
        self._thawed.set()

    async def until_thawed(self) -> None:
        """Returns when engines may be started and ended."""
        while self.is_frozen:  # again: it may be frozen anew before whoever waits goes on
            await self._thawed.wait()

    @contextlib.asynccontextmanager
    async def starting(self) -> AsyncIterator[None]:
        """Inside, a process is started and recorded; waits until that may be."""
        await self.until_thawed()
        self._starts += 1
        self._no_start.clear()
        try:
            yield
        finally:
            self._starts -= 1
            if not self._starts:
                self._no_start.set()
