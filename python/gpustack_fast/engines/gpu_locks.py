"""On each GPU one engine at a time starts, wakes, falls asleep or is ended by plan."""

from __future__ import annotations

import asyncio
import collections
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable

from gpustack_fast.engines.gpu_use import Engines, GpuUse, in_use
from gpustack_fast.engines.plan import ReplicaSlot
from gpustack_fast.gpus.documents import GpuReport

__all__ = ["GpuLocks"]

FREED_WITHIN = 30.0
"""Seconds for the driver to show what an engine has given back."""
FREED_EVERY = 0.5
"""Seconds between two looks at that."""
TOLERANCE = 256 << 20
"""Bytes of a GPU's memory that change hands without anybody of ours."""


class GpuLocks:
    """The locks of all GPUs and slices, and who holds them. Lives on the event loop."""

    def __init__(self, read: Callable[[], Awaitable[GpuReport]], use: GpuUse) -> None:
        self._read = read
        self._use = use
        self._locks: collections.defaultdict[str, asyncio.Lock] = collections.defaultdict(
            asyncio.Lock
        )
        self._held: dict[ReplicaSlot, list[asyncio.Lock]] = {}
        """Also by those that wait for another one of theirs."""

    async def take(self, slot: ReplicaSlot, uuids: Iterable[str]) -> None:
        """Waits until nobody else has any of these. From now on others wait, until `give`. Whoever
        has begun to take some goes on.
        """
        taken = self._held.setdefault(slot, [])
        for uuid in sorted(uuids):  # in one order, so that no two wait for each other
            lock = self._locks[uuid]
            if lock not in taken:
                await lock.acquire()
                taken.append(lock)

    def give(self, slot: ReplicaSlot) -> None:
        """Lets others have what this one holds, if it holds anything."""
        for lock in self._held.pop(slot, []):
            lock.release()

    @contextlib.asynccontextmanager
    async def giving_back(
        self, slot: ReplicaSlot, uuids: Collection[str], engine: Engines
    ) -> AsyncIterator[None]:
        """Inside, an engine gives memory of these back. Others wait until the driver shows that all
        of what it held came back, or some of it and no more.
        """
        await self.take(slot, uuids)
        try:
            report = await self._read()
            before, (own,) = in_use(report), await self._use.of(report, [engine])
            yield
            clock = asyncio.get_running_loop().time
            until, last = clock() + FREED_WITHIN, before
            while clock() < until:
                now = in_use(await self._read())
                told = [one for one in uuids if one in before and one in now]
                if all(now[one] <= before[one] - own.get(one, 0) + TOLERANCE for one in told):
                    break
                if now == last and any(now[one] < before[one] for one in told):
                    break
                last = now
                await asyncio.sleep(FREED_EVERY)
        finally:
            self.give(slot)
