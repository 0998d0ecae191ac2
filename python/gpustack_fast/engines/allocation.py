"""Who holds which GPUs: places what is wanted, and takes back what is free again.

All that wait for a place are placed together, and again whenever something may have changed: one
that finds none waits, and says what it lacks. Memory of a dead engine comes back some time after
its end, so what the driver shows as used counts whoever holds it, except for engines of ours.

An engine that sleeps keeps of its place what the driver shows that it still holds (`lending`), and
has all of it again before it wakes (`claim_back`).
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Iterable,
    Mapping,
    Sequence,
)

from msgspec.structs import replace

from gpustack_fast.engines.gpu_locks import GpuLocks
from gpustack_fast.engines.gpu_use import Engines, GpuUse
from gpustack_fast.engines.plan import ReplicaSlot
from gpustack_fast.gpus.documents import GpuReport
from gpustack_fast.placement import (
    Device,
    Placement,
    Refusal,
    Wanted,
    devices_of,
    place,
    shortage,
)

__all__ = ["Allocation"]

GATHER = 0.1
"""Seconds in which those that ask at one time come together, so that the largest goes first."""
STILL_HELD = (
    "It waits for the end of an engine that was there before it: that could not be ended, and its "
    "memory on the GPUs is not free."
)
LOOK_AGAIN_EVERY = 5.0
"""Seconds, while anybody waits: strangers' memory comes and goes without a word."""


@dataclasses.dataclass
class _Waiting:
    wanted: Wanted | Placement
    """A placement is had again as it was, or not at all."""
    placed: asyncio.Future[Placement]
    refused: Callable[[str], None]
    is_refused: bool = False
    """A place was looked for, and there was none."""


@dataclasses.dataclass
class _Lent:
    """The place of an engine that sleeps; what it still holds of it is promised to it."""

    whole: Placement
    engine: Engines


class Allocation:
    """The GPUs of this machine, and what was promised of them. Lives on the event loop."""

    def __init__(
        self, read: Callable[[], Awaitable[GpuReport]], engines: Callable[[], Engines]
    ) -> None:
        """`read` gives the GPUs of now; `engines` all engines that run."""
        self._read = read
        self._engines = engines
        self._use = GpuUse()
        self._failed: dict[str, str] = {}
        """GPUs and slices on which nothing is placed any more, with the reason."""
        self._held: dict[ReplicaSlot, Placement] = {}
        self._lent: dict[ReplicaSlot, _Lent] = {}
        self._waiting: dict[ReplicaSlot, _Waiting] = {}
        self._changed = asyncio.Event()
        self._placing: asyncio.Task[None] | None = None
        self._seen: list[Device] = []
        """The devices as those that wait were placed on last."""
        self._locks = GpuLocks(read, self._use)

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
        return await self._wait(slot, wanted, refused)

    async def claim_back(self, slot: ReplicaSlot, refused: Callable[[str], None]) -> None:
        """Has all of a sleeping engine's place again, as soon as it is free; as `claim`."""
        if slot in self._lent:
            await self._wait(slot, self._lent[slot].whole, refused)

    async def _wait(
        self, slot: ReplicaSlot, wanted: Wanted | Placement, refused: Callable[[str], None]
    ) -> Placement:
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
            gone = (slot, *without)
            held = [placed for one, placed in self._held.items() if one not in gone]
            if _has_room(waiting.wanted, self._seen, held):
                return without[0] if without else None  # it is placed in a moment
        return None

    async def no_room(self, wanted: Wanted, report: GpuReport) -> str:
        """Why one more instance would find no place beside all that is promised, in sentences;
        empty: it would. `report`: the GPUs of now.
        """
        (used,) = await self._use.of(report, [self._engines()])
        devices = self.devices(report, self._within_promises(used))
        (found,) = place([wanted], devices, self.held)
        return found.message if isinstance(found, Refusal) else ""

    def restore(self, slot: ReplicaSlot, placement: Placement) -> None:
        """Gives an instance again what an earlier run of this server has given it."""
        self._held[slot] = placement

    def release(self, slot: ReplicaSlot) -> None:
        """Takes back what an instance holds, if it holds anything."""
        self.end_start(slot)
        self._lent.pop(slot, None)
        if self._held.pop(slot, None) is not None:
            self._changed.set()

    async def begin_start(self, slot: ReplicaSlot, uuids: Iterable[str]) -> None:
        """Waits until no other engine starts on these GPUs: vLLM measures their memory then. From
        now on others wait, until `end_start` or `release`.
        """
        await self._locks.take(slot, uuids)

    def end_start(self, slot: ReplicaSlot) -> None:
        """Lets others start on the GPUs on which this one has started, or begun to."""
        self._locks.give(slot)

    @contextlib.asynccontextmanager
    async def lending(self, slot: ReplicaSlot, engine: Engines) -> AsyncIterator[None]:
        """Inside, an engine falls asleep, and no other starts, wakes or ends on its GPUs. From then
        on it holds of its place what the driver shows.
        """
        whole = self._held.get(slot)
        async with self._locks.giving_back(slot, self._uuids(slot), engine):
            yield
        if whole is not None and self._held.get(slot) is whole:
            self._lent[slot] = _Lent(whole, engine)
            self._changed.set()

    @contextlib.asynccontextmanager
    async def freeing(self, slot: ReplicaSlot, engine: Engines) -> AsyncIterator[None]:
        """Inside, an engine is ended, and no other starts, wakes or ends on its GPUs, until the
        driver shows that its memory is free.
        """
        async with self._locks.giving_back(slot, self._uuids(slot), engine):
            yield

    def _uuids(self, slot: ReplicaSlot) -> list[str]:
        return [one.uuid for one in self._held[slot].claims] if slot in self._held else []

    def would_fit(self, model: str, without: Collection[str]) -> bool:
        """Whether one of a model's instances that wait would have its place, if all of these
        models slept; as the GPUs were when those that wait were placed last.
        """
        for slot, one in self._waiting.items():
            kept = [
                placement
                for holder, placement in self._held.items()
                if holder != slot and holder.model not in without
            ]
            if slot.model == model and _has_room(one.wanted, self._seen, kept):
                return True
        return False

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
            asleep = dict(self._lent)
            groups = [self._engines(), *(one.engine for one in asleep.values())]
            used, *each = await self._use.of(report, groups)
            for slot, shown in zip(asleep, each, strict=True):
                if self._lent.get(slot) is asleep[slot]:
                    self._shrink(slot, shown)
            self._place(report, used)
            if self._waiting:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_AGAIN_EVERY):
                        await self._changed.wait()

    def _shrink(self, slot: ReplicaSlot, shown: Mapping[str, int]) -> None:
        """What a sleeping engine holds is never more again than was shown once."""
        held = self._held[slot]
        claims = [
            replace(one, bytes=max(0, min(one.bytes, shown.get(one.uuid, one.bytes))))
            for one in held.claims
        ]
        self._held[slot] = replace(held, claims=claims)

    def _place(self, report: GpuReport, used: Mapping[str, int]) -> None:
        """Places those that wait now. `used`: what engines of ours hold by the same report."""
        # Those who have given up are gone from here some moments later.
        waiting = {slot: one for slot, one in self._waiting.items() if not one.placed.cancelled()}
        devices = self._seen = self.devices(report, self._within_promises(used))
        for slot in waiting.keys() & self._held.keys():
            one = waiting.pop(slot)
            if isinstance(one.wanted, Placement):
                self._give_back(slot, one, one.wanted, devices)
            else:
                one.refused(STILL_HELD)  # else nobody would count what is held
        fresh = {slot: one for slot, one in waiting.items() if isinstance(one.wanted, Wanted)}
        wanted = [one.wanted for one in fresh.values() if isinstance(one.wanted, Wanted)]
        found = place(wanted, devices, self.held)
        for (slot, one), result in zip(fresh.items(), found, strict=True):
            if not isinstance(result, Refusal):
                self._held[slot] = result
                del self._waiting[slot]
                one.placed.set_result(result)
            elif report.unread and not report.gpus:
                one.refused(report.problem)
            else:
                one.is_refused = True
                one.refused(result.message)

    def _give_back(
        self, slot: ReplicaSlot, one: _Waiting, whole: Placement, devices: Sequence[Device]
    ) -> None:
        """Its whole place to an engine that wakes, if that is free beside all that is held."""
        kept = [placement for holder, placement in self._held.items() if holder != slot]
        lacks = shortage(whole, devices, kept)
        if lacks is not None:
            one.is_refused = True
            one.refused(lacks)
            return
        self._held[slot] = whole
        self._lent.pop(slot, None)
        del self._waiting[slot]
        one.placed.set_result(whole)

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


def _has_room(
    wanted: Wanted | Placement, devices: Sequence[Device], kept: Sequence[Placement]
) -> bool:
    if isinstance(wanted, Placement):
        return shortage(wanted, devices, kept) is None
    return isinstance(place([wanted], devices, kept)[0], Placement)
