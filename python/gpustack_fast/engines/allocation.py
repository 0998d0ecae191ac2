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
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

from msgspec.structs import replace

from gpustack_fast.engines.plan import ReplicaSlot
from gpustack_fast.engines.processes import mark_of
from gpustack_fast.faults import run_in_thread
from gpustack_fast.gpus.documents import Gpu, GpuProcess, GpuReport
from gpustack_fast.placement import Device, Placement, Refusal, Wanted, devices_of, place

__all__ = ["Allocation"]

GATHER = 0.1
"""Seconds in which those that ask at one time come together, so that the largest goes first."""
LOOKED_WITHIN = 5.0
"""Seconds for the look at whose the processes on GPUs are."""
STILL_HELD = (
    "It waits for the end of an engine that was there before it: that could not be ended, and its "
    "memory on the GPUs is not free."
)
LOOK_AGAIN_EVERY = 5.0
"""Seconds, while anybody waits: strangers' memory comes and goes without a word."""


@dataclasses.dataclass
class _Waiting:
    wanted: Wanted
    placed: asyncio.Future[Placement]
    refused: Callable[[str], None]
    is_refused: bool = False
    """A place was looked for, and there was none."""


class Allocation:
    """The GPUs of this machine, and what was promised of them. Lives on the event loop."""

    def __init__(
        self, read: Callable[[], Awaitable[GpuReport]], engines: Callable[[], Mapping[int, str]]
    ) -> None:
        """`read` gives the GPUs of now; `engines` the engines that run: the process id of each,
        which leads its session, and the mark of those that have left that.
        """
        self._read = read
        self._engines = engines
        self._recognises = False
        """Whether the driver's process ids were seen to be ours: beyond a container they are not.
        """
        self._failed: dict[str, str] = {}
        """GPUs and slices on which nothing is placed any more, with the reason."""
        self._held: dict[ReplicaSlot, Placement] = {}
        self._waiting: dict[ReplicaSlot, _Waiting] = {}
        self._seen: list[Device] = []
        """The devices as they were when a place was last looked for."""
        self._changed = asyncio.Event()
        self._placing: asyncio.Task[None] | None = None
        self._looking: asyncio.Task[dict[str, int]] | None = None
        """The last look at whose the processes on GPUs are; it may never end."""
        self._starting: collections.defaultdict[str, asyncio.Lock] = collections.defaultdict(
            asyncio.Lock
        )
        self._starts: dict[ReplicaSlot, list[asyncio.Lock]] = {}
        """What those hold of it that start now, or wait for a part of it."""

    @property
    def held(self) -> list[Placement]:
        """All that is promised."""
        return list(self._held.values())

    @property
    def avoided(self) -> Mapping[str, str]:
        """Why nothing is placed on a GPU or slice any more, by its UUID; see `avoid`."""
        return self._failed

    def devices(self, report: GpuReport, own: Mapping[str, int] | None = None) -> list[Device]:
        """What can be placed on. `own`: bytes that engines of ours hold, see `devices_of`."""
        return [
            replace(one, problem=one.problem or self._failed.get(one.uuid, ""))
            for one in devices_of(report, own or {})
        ]

    def avoid(self, uuid: str, reason: str) -> None:
        """Places nothing on a GPU or slice any more: it has failed, and the driver may not show it.

        `reason`: sentences.
        """
        self._failed[uuid] = reason
        self._changed.set()

    async def claim(
        self, slot: ReplicaSlot, wanted: Wanted, refused: Callable[[str], None]
    ) -> Placement:
        """A place for an instance, as soon as there is one; until then `refused` gets the reason,
        each time that it is looked for. It is held until `release`, and until then the instance
        gets no other.
        """
        waiting = _Waiting(wanted, asyncio.get_running_loop().create_future(), refused)
        self._waiting[slot] = waiting
        self._changed.set()
        if self._placing is None or self._placing.done():
            self._placing = asyncio.create_task(self._place_all())
            self._placing.add_done_callback(self._hand_on)
        try:
            return await waiting.placed
        finally:
            if self._waiting.get(slot) is waiting:
                del self._waiting[slot]

    def is_refused(self, slot: ReplicaSlot) -> bool:
        """Whether a place was looked for, for an instance that waits, and there was none."""
        waiting = self._waiting.get(slot)
        return waiting is not None and waiting.is_refused

    def makes_room(self, slot: ReplicaSlot, others: Sequence[ReplicaSlot]) -> ReplicaSlot | None:
        """Which of these holds what an instance waits for: the first that alone would do, else the
        first of all that are needed. None: it waits for nothing, or for something else.
        """
        waiting = self._waiting.get(slot)
        if waiting is None or not waiting.is_refused:
            return None
        for without in ([], *([one] for one in others), list(others)):
            held = [placed for one, placed in self._held.items() if one not in without]
            (found,) = place([waiting.wanted], self._seen, held)
            if isinstance(found, Placement):
                return without[0] if without else None  # it is placed in a moment
        return None

    def has_room(self, wanted: Wanted, devices: Sequence[Device]) -> Refusal | None:
        """Why one more instance would find no place beside all that is promised; None: it would.
        `devices`: those of now, see `devices`.
        """
        (found,) = place([wanted], list(devices), self.held)
        return found if isinstance(found, Refusal) else None

    def release(self, slot: ReplicaSlot) -> None:
        """Takes back what an instance holds, if it holds anything."""
        self.end_start(slot)
        if self._held.pop(slot, None) is not None:
            self._changed.set()

    async def begin_start(self, slot: ReplicaSlot, uuids: Iterable[str]) -> None:
        """Waits until no other engine starts on these GPUs: vLLM measures their memory then. From
        now on others wait, until `end_start` or `release`.
        """
        taken = self._starts.setdefault(slot, [])
        for uuid in sorted(uuids):
            await self._starting[uuid].acquire()
            taken.append(self._starting[uuid])

    def end_start(self, slot: ReplicaSlot) -> None:
        """Lets others start on the GPUs on which this one has started, or begun to."""
        for lock in self._starts.pop(slot, []):
            lock.release()

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
            self._place(report, await self._look(report))
            if self._waiting:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_AGAIN_EVERY):
                        await self._changed.wait()

    async def _look(self, report: GpuReport) -> dict[str, int]:
        """What `_used_by_ours` says, or nothing where nobody can see it now: then all that is used
        counts as strangers'.
        """
        # A process that a driver keeps inside the kernel may keep whoever looks at it, too: in one
        # thread, and not in one more with each look.
        if self._looking is None or self._looking.done():
            work = run_in_thread(self._used_by_ours, report, self._engines())
            self._looking = asyncio.ensure_future(work)
            await asyncio.wait({self._looking}, timeout=LOOKED_WITHIN)
            if self._looking.done():
                return self._looking.result()
        return {}

    def _place(self, report: GpuReport, used: Mapping[str, int]) -> None:
        """Places those that wait now. `used`: what `_used_by_ours` says of the same report."""
        # Those who have given up are gone from here some moments later.
        waiting = {slot: one for slot, one in self._waiting.items() if not one.placed.cancelled()}
        for slot in waiting.keys() & self._held.keys():
            waiting.pop(slot).refused(STILL_HELD)  # else nobody would count what is held
        devices = self.devices(report, self._within_promises(used))
        self._seen = devices
        found = place([one.wanted for one in waiting.values()], devices, self.held)
        for (slot, one), result in zip(waiting.items(), found, strict=True):
            if not isinstance(result, Refusal):
                self._held[slot] = result
                del self._waiting[slot]
                one.placed.set_result(result)
            elif report.unread and not report.gpus:
                one.refused(report.problem)
            else:
                one.is_refused = True
                one.refused(result.message)

    def _hand_on(self, placing: asyncio.Task[None]) -> None:
        """Gives a mistake of ours in placing to those who wait: nobody else would tell them."""
        if placing.cancelled() or (error := placing.exception()) is None:
            return
        for one in self._waiting.values():
            if not one.placed.done():
                one.placed.set_exception(error)

    def _within_promises(self, used: Mapping[str, int]) -> dict[str, int]:
        """What an engine takes beyond its claim is nobody's to promise."""
        promised: collections.Counter[str] = collections.Counter()
        for placement in self._held.values():
            for claim in placement.claims:
                promised[claim.uuid] += claim.bytes
        return {uuid: min(size, promised[uuid]) for uuid, size in used.items()}

    def _used_by_ours(self, report: GpuReport, engines: Mapping[int, str]) -> dict[str, int]:
        """The bytes of each GPU and slice that these engines hold, at most. Looks into /proc."""
        marks = set(engines.values())
        found: dict[str, int] = {}
        for gpu in report.gpus:
            # Whose it is, is not told: see `_within_promises`.
            found |= {part.uuid: part.memory_used or 0 for part in gpu.slices}
            owners = [(one, _owner(one, engines, marks)) for one in gpu.processes or []]
            self._recognises |= any(ours for _, ours in owners)
            found[gpu.uuid] = self._held_of(gpu, owners)
        return found

    def _held_of(self, gpu: Gpu, owners: list[tuple[GpuProcess, bool | None]]) -> int:
        """What engines of ours hold of a GPU, as far as the driver tells it, else what may be."""
        if gpu.processes is None or any(one.memory is None for one in gpu.processes):
            return gpu.memory_used or 0
        if self._recognises:
            return sum(one.memory or 0 for one, ours in owners if ours)
        # In a container processes are hidden, or numbered as beyond it.
        strangers = sum(one.memory or 0 for one, ours in owners if ours is False)
        return max(0, (gpu.memory_used or 0) - strangers)


def _owner(one: GpuProcess, engines: Mapping[int, str], marks: set[str]) -> bool | None:
    """Whether a process is of these engines; None: nobody here has its number."""
    session = _session(one.pid)
    if session is None:
        return None
    return session in engines or mark_of(one.pid) in marks


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except (ProcessLookupError, PermissionError):
        return None
