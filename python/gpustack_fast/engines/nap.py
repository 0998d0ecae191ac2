"""An engine that sleeps without an end of its process: falls asleep, waits, wakes up."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Collection, Coroutine, Iterable
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

import msgspec

from gpustack_fast.backends import Call
from gpustack_fast.engines.external import SetState
from gpustack_fast.engines.instance import Instance
from gpustack_fast.engines.replica import Replica
from gpustack_fast.engines.restraint import Restraint
from gpustack_fast.errors import EngineFailed, printable
from gpustack_fast.faults import is_ours

__all__ = ["Naps", "Places"]

ASLEEP_WITHIN = 300.0
"""Seconds for the calls by which an engine falls asleep: weights of hundreds of GB are copied."""


class Places(Protocol):
    """What engines hold of GPUs; see `Allocation`."""

    def lending(self, replica: Replica) -> AbstractAsyncContextManager[None]:
        """Inside, its engine falls asleep; others have what it gives back from then on."""
        ...

    def freeing(self, replica: Replica) -> AbstractAsyncContextManager[None]:
        """Inside, its engine is ended; nobody starts there before its memory is free."""
        ...

    async def claim_back(self, replica: Replica, refused: Callable[[str], None]) -> None:
        """Has all of a sleeping engine's place again."""
        ...

    async def begin_start(self, replica: Replica) -> None:
        """Waits until no other engine starts on the same GPUs. Others wait from now on, until
        `end_start` or `release`: each measures what is free, so nobody else's share may change.
        """
        ...

    def end_start(self, replica: Replica) -> None:
        """Lets others start there, whether or not this one has begun to."""
        ...

    def is_refused(self, replica: Replica) -> bool:
        """Whether a replica waits for a place, after one was looked for."""
        ...

    def would_fit(self, model: str, without: Collection[str]) -> bool:
        """Whether one of a model's replicas that wait had its place if all of these slept."""
        ...


class Naps:
    """The sleep of engines that run."""

    def __init__(self, places: Places, restraint: Restraint, set_state: SetState) -> None:
        self._places = places
        self._restraint = restraint
        self._set = set_state

    async def take(self, replica: Replica, remark: str = "") -> None:
        """Sleeps whenever it is ordered to, for ever. `remark`: of its state as it runs.

        Raises EngineFailed when its engine does not do what it is asked for.
        """
        instance = replica.instance
        assert instance is not None
        while True:
            await replica.bedtime.wait()
            if await self._idle(replica):
                await self._sleep(replica, instance)
                while not await self._has_place(replica):
                    pass
                await self._wake(replica, instance)
            self._set(replica, "running", remark)

    async def _idle(self, replica: Replica) -> bool:
        """Whether its requests have ended before it was to be awake again."""
        if not replica.drained:
            replica.idle.clear()
        self._set(replica, "sleeping", "It falls asleep as soon as its last request has ended.")
        return await first(replica.idle.wait(), replica.morning.wait())

    async def _sleep(self, replica: Replica, instance: Instance) -> None:
        sleep, level = instance.backend.sleep, instance.model.sleep_level
        assert sleep is not None
        self._set(replica, "sleeping", "It falls asleep.")
        await self._restraint.alone.wait()
        await self._restraint.until_thawed()
        await instance.note(asleep=True)  # before: the next server may have to begin with it
        async with self._places.lending(replica):
            await do(instance, sleep.fall_asleep(level), ASLEEP_WITHIN)
            replica.asleep = True

    async def _has_place(self, replica: Replica) -> bool:
        """Waits for the morning. Whether it has its place again, before it was to sleep on."""
        level = replica.model.sleep_level
        self._set(replica, "sleeping", f"It sleeps (level {level}) until a request comes.")
        await replica.morning.wait()
        self._set(replica, "waking", "It waits for its memory on the GPUs.")

        def refused(lacks: str) -> None:
            self._set(replica, "waking", lacks)

        return await first(self._places.claim_back(replica, refused), replica.bedtime.wait())

    async def _wake(self, replica: Replica, instance: Instance) -> None:
        sleep = instance.backend.sleep
        assert sleep is not None
        self._set(replica, "waking", "It waits until no other engine starts on its GPUs.")
        await self._places.begin_start(replica)
        try:
            await self._restraint.until_thawed()
            self._set(replica, "waking", "It wakes up.")
            limit = instance.model.ready_timeout or float("inf")
            await do(instance, sleep.wake_up(instance.model.sleep_level), limit)
            replica.asleep = False
            await instance.note(asleep=False)
        finally:
            self._places.end_start(replica)


async def first(one: Coroutine[Any, Any, object], other: Coroutine[Any, Any, object]) -> bool:
    """Whether the first of the two has ended before the other, or with it. Raises what it does."""
    ours, others = asyncio.ensure_future(one), asyncio.ensure_future(other)
    try:
        await asyncio.wait({ours, others}, return_when=asyncio.FIRST_COMPLETED)
        if ours.done():
            ours.result()
        return ours.done()
    finally:
        ours.cancel()
        others.cancel()


async def do(instance: Instance, calls: Iterable[Call], within: float) -> None:
    """Asks an engine for these, one after the other. Raises EngineFailed unless it does them all
    in so many seconds, or OSError by our own fault.
    """
    for call in calls:
        path = call.path.partition("?")[0]
        try:
            async with asyncio.timeout(within if within < float("inf") else None):
                answer = await instance.ask(call.path, msgspec.json.encode(call.body))
        except TimeoutError:
            said = f"it did not respond within {within:g} s"
        except OSError as error:
            if is_ours(error):
                raise
            said = f"it ended the call without an answer ({os.strerror(error.errno or 0)})"
        else:
            if 200 <= answer.status < 300:
                continue
            body = printable(answer.body.decode(errors="replace").strip())[:300]
            said = f"it answered with {answer.status}: {body}"
        raise EngineFailed(f"The engine did not do what it was asked for ({path}): {said}.")
