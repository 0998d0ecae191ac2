"""Who holds which GPUs: places what is wanted, and takes back what is free again.

All that wait for a place are placed together, and again whenever something may have changed: one
that finds none waits, and says what it lacks. Memory of a dead engine comes back some time after
its end, so what the driver shows as used counts whoever holds it, except for engines of ours.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

from gpustack_fast.engines.plan import ReplicaSlot
from gpustack_fast.gpus.documents import Gpu, GpuReport
from gpustack_fast.placement import Placement, Refusal, Wanted, devices_of, place

__all__ = ["Allocation"]

GATHER = 0.1
"""Seconds in which those that ask at one time come together, so that the largest goes first."""
LOOK_AGAIN_EVERY = 5.0
"""Seconds, while anybody waits: strangers' memory comes and goes without a word."""


@dataclasses.dataclass
class _Waiting:
    wanted: Wanted
    placed: asyncio.Future[Placement]
    refused: Callable[[str], None]


class Allocation:
    """The GPUs of this machine, and what was promised of them. Lives on the event loop."""

    def __init__(
        self, read: Callable[[], Awaitable[GpuReport]], leaders: Callable[[], Iterable[int]]
    ) -> None:
        """`read` gives the GPUs of now; `leaders` the process ids of the engines that run, each
        the leader of its session.
        """
        self._read = read
        self._leaders = leaders
        self._held: dict[ReplicaSlot, Placement] = {}
        self._waiting: dict[ReplicaSlot, _Waiting] = {}
        self._changed = asyncio.Event()
        self._placing: asyncio.Task[None] | None = None
        self._starting: collections.defaultdict[str, asyncio.Lock] = collections.defaultdict(
            asyncio.Lock
        )

    @property
    def held(self) -> list[Placement]:
        """All that is promised."""
        return list(self._held.values())

    async def claim(
        self, slot: ReplicaSlot, wanted: Wanted, refused: Callable[[str], None]
    ) -> Placement:
        """A place for an instance, as soon as there is one; until then `refused` gets the reason,
        each time that it is looked for. It is held until `release`.
        """
        waiting = _Waiting(wanted, asyncio.get_running_loop().create_future(), refused)
        self._waiting[slot] = waiting
        self._changed.set()
        if self._placing is None or self._placing.done():
            self._placing = asyncio.create_task(self._place_all())
        try:
            return await waiting.placed
        finally:
            if self._waiting.get(slot) is waiting:
                del self._waiting[slot]

    def release(self, slot: ReplicaSlot) -> None:
        """Takes back what an instance holds, if it holds anything."""
        if self._held.pop(slot, None) is not None:
            self._changed.set()

    @contextlib.asynccontextmanager
    async def starting(self, uuids: Iterable[str]) -> AsyncIterator[None]:
        """Waits until no other engine starts on these GPUs: vLLM measures their memory then."""
        async with contextlib.AsyncExitStack() as held:
            for uuid in sorted(uuids):
                await held.enter_async_context(self._starting[uuid])
            yield

    async def close(self) -> None:
        """Ends the search."""
        if self._placing is not None:
            self._placing.cancel()
            await asyncio.wait({self._placing})

    async def _place_all(self) -> None:
        """Places those that wait, for as long as there are any."""
        while self._waiting:
            await asyncio.sleep(GATHER)
            self._changed.clear()
            report = await self._read()
            waiting = dict(self._waiting)
            devices = devices_of(report, self._own(report))
            found = place([one.wanted for one in waiting.values()], devices, self.held)
            for (slot, one), result in zip(waiting.items(), found, strict=True):
                if self._waiting.get(slot) is not one:
                    continue  # it has been given up meanwhile
                if isinstance(result, Refusal):
                    one.refused(result.message)
                else:
                    self._held[slot] = result
                    del self._waiting[slot]
                    one.placed.set_result(result)
            if self._waiting:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_AGAIN_EVERY):
                        await self._changed.wait()

    def _own(self, report: GpuReport) -> dict[str, int]:
        """The bytes that engines of ours hold of each GPU and slice."""
        leaders = set(self._leaders())
        promised: collections.Counter[str] = collections.Counter()
        for placement in self._held.values():
            for claim in placement.claims:
                promised[claim.uuid] += claim.bytes
        found = {gpu.uuid: _used_by(gpu, leaders) for gpu in report.gpus}
        for gpu in report.gpus:
            found |= {part.uuid: part.memory_used or 0 for part in gpu.slices}
        # What an engine takes beyond its claim is nobody's to promise.
        return {uuid: min(used, promised[uuid]) for uuid, used in found.items()}


def _used_by(gpu: Gpu, leaders: set[int]) -> int:
    """What these engines hold of a GPU, as far as the driver tells it; else what anybody does."""
    if gpu.processes is None or any(one.memory is None for one in gpu.processes):
        return gpu.memory_used or 0
    return sum(one.memory or 0 for one in gpu.processes if _session(one.pid) in leaders)


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except (ProcessLookupError, PermissionError):
        return None
