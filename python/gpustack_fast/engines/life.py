"""One engine's life, from its preparation to the end of its session. States bear GPUStack's names:

pending → analyzing (its files are looked at) → scheduled (it has a place) → initializing (its
environment is made) → downloading → starting → running
any → error (it ended, or could not start), and after a pause from the beginning

The life of one that an earlier run has left begins at `starting`: it is adopted (`adoption`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol, TypeVar

from gpustack_fast.engines import liveness
from gpustack_fast.engines.adoption import Adoption, Again, Refused
from gpustack_fast.engines.context import ask_until_told
from gpustack_fast.engines.external import SetState
from gpustack_fast.engines.instance import Instance
from gpustack_fast.engines.nap import Naps, Places
from gpustack_fast.engines.plan import ReplicaSlot, restart_delay
from gpustack_fast.engines.prepared import Prepared
from gpustack_fast.engines.processes import ProcessTable
from gpustack_fast.engines.readiness import until_ready, warm_up
from gpustack_fast.engines.records import Record
from gpustack_fast.engines.replica import Replica
from gpustack_fast.engines.replicas import Replicas
from gpustack_fast.engines.restraint import Restraint
from gpustack_fast.engines.wanted import WantedModels
from gpustack_fast.errors import EngineFailed, GpustackFastError, in_one_line
from gpustack_fast.faults import Faults, is_ours, reason_of
from gpustack_fast.model_store.documents import ModelStoreError
from gpustack_fast.storage.engine_paths import EnginePaths

__all__ = ["AFTER_A_FAULT", "Life", "Prepare"]

RUNNING_WELL = 300.0
"""Seconds of running after which earlier failures count no more: many a crash loop gets ready."""
AFTER_A_FAULT = 10.0
"""Seconds until the next try, after a fault of this machine or of ours."""
LOST_GRACE = 3.0
"""Seconds that what is left of an engine gets which has ended or works no more: its requests wait
for an end, and a stopped process hears no signal but the last.
"""
CANNOT_BE_ENDED = (
    "A process of it could not be ended, even by SIGKILL, so nothing is started in its place."
)
LEFT_BEHIND = "A process of it could not be ended, even by SIGKILL. The next start tries again."

log = logging.getLogger(__name__)

Result = TypeVar("Result")


class Prepare(Again, Places, Protocol):
    """Gets a replica's engine all that it is started with, and says so by its states."""

    async def prepare(self, replica: Replica, set_state: SetState) -> Prepared:
        """What is given is the replica's until `release`. Raises GpustackFastError, or OSError for
        this machine.
        """
        ...

    def makes_room(self, replica: Replica, others: Sequence[ReplicaSlot]) -> ReplicaSlot | None:
        """Which of these holds what a replica waits for; see `Allocation.makes_room`."""
        ...

    def release(self, replica: Replica) -> None:
        """Takes back what the replica has, if it has anything: nobody of its engine is left."""
        ...

    async def close(self) -> None:
        """Ends what is still being prepared."""
        ...


def lost(replica: Replica) -> EngineFailed:
    """Why a replica's engine cannot go on, though it is well itself."""
    return EngineFailed(f"The engine is ended: {replica.lost_to}.")


class Life:
    """Lives the lives of engines: a method's replica is the one that it is about."""

    def __init__(
        self,
        paths: EnginePaths,
        prepare: Prepare,
        faults: Faults,
        replicas: Replicas,
        models: WantedModels,
        restraint: Restraint,
        in_flight: Callable[[str], int],
    ) -> None:
        """`in_flight`: the requests at an instance."""
        self._paths = paths
        self._table = ProcessTable(faults)
        self._prepare = prepare
        self._faults = faults
        self._set, self._note = replicas.set_state, replicas.note
        self._set_context_length = replicas.set_context_length
        self._restraint = restraint
        self._in_flight = in_flight
        self._adoption = Adoption(prepare, replicas, models)
        self._naps = Naps(prepare, restraint, replicas.set_state)

    async def live(self, replica: Replica) -> None:
        """From the preparation to the end of its session. Ends with `retry_at` set."""
        await self._live(replica, self._bring_up(replica))

    def adopt(
        self, replica: Replica, record: Record, settled: asyncio.Event | None
    ) -> Coroutine[Any, Any, None]:
        """From the engine that an earlier run has left to the end of its session; as `live`.

        `settled`: set when it runs, or cannot; None: nobody replaces it here, and whether it is up
        to date is not asked. The replica has its instance when this returns, so that whatever ends
        the life ends the engine, too.
        """
        try:
            self._new_instance(replica).adopt(record)
        except OSError as error:
            return self._adopt(replica, record, settled, error)
        return self._adopt(replica, record, settled, None)

    async def _adopt(
        self,
        replica: Replica,
        record: Record,
        settled: asyncio.Event | None,
        problem: OSError | None,
    ) -> None:
        """`problem`: why the process cannot be watched."""
        if settled is None:
            await self._live(replica, self._take_up(replica, record, asyncio.Event(), problem))
            return
        comparing = asyncio.ensure_future(self._adoption.compare(replica, record, settled))
        try:
            await self._live(replica, self._take_up(replica, record, settled, problem))
        finally:
            comparing.cancel()

    async def _live(self, replica: Replica, bring_up: Coroutine[Any, Any, str]) -> None:
        grace = float("inf")
        try:
            remark = await bring_up
            self._prepare.end_start(replica)
            self._set(replica, "running", remark)
            self._note(replica, "running", remark)
            grace = LOST_GRACE
            self.failed(replica, *await self._until_it_ends(replica, remark))
        except Refused as error:
            self._refused(replica, in_one_line(error))
            await self._until_nobody_else_needs(replica)
        except ModelStoreError as error:
            if error.may_pass:
                self._without_files(replica, in_one_line(error), error.wait)
            else:
                self.failed(replica, in_one_line(error))
        except GpustackFastError as error:
            if is_ours(error):
                self._hindered(replica, in_one_line(error))
            else:
                self.failed(replica, in_one_line(error))
        except OSError as error:
            self._hindered(replica, f"It could not be started: {reason_of(error)}.")
        await self.end(replica, grace)

    async def _bring_up(self, replica: Replica) -> str:
        """Place, environment and files; process, readiness, first request. Others that wait for
        the same GPUs wait on: until it is told to be running, or has ended. Returns what is to be
        known of it from then on.
        """
        prepared = await self._unless_lost(replica, self._prepare.prepare(replica, self._set))
        replica.fetches_failed = 0
        if replica.devices:
            self._set(replica, "starting", "It waits until no other engine starts on its GPUs.")
        await self._prepare.begin_start(replica)
        if replica.lost.is_set():
            raise lost(replica)
        log.info("Starting %s ...", replica.id)
        instance = self._new_instance(replica)
        async with self._restraint.starting():
            await instance.start(prepared, replica.slot.number, replica.generation)
        replica.address = instance.address
        self._set(replica, "starting")
        await self._unless_lost(replica, self._get_ready(replica, instance))
        await self._learn_context_length(replica)
        await instance.note(has_run=True)
        log.info("%s is running after %.1f s.", replica.id, time.time() - replica.created)
        return prepared.remark

    def _new_instance(self, replica: Replica) -> Instance:
        replica.instance = Instance(
            replica.id, replica.model, replica.backend, self._paths, self._table, self._faults
        )
        return replica.instance

    async def _take_up(
        self, replica: Replica, record: Record, settled: asyncio.Event, problem: OSError | None
    ) -> str:
        """Waits until it is certain that an engine of an earlier run is ours, and serves. Returns
        as `_bring_up`. Raises Refused.
        """
        instance = replica.instance
        assert instance is not None
        # Others that start on its GPUs wait for it if it still loads; itself waits for nobody.
        starting = asyncio.ensure_future(self._prepare.begin_start(replica))
        try:
            if problem is not None:
                raise problem
            replica.address = instance.address
            await self._unless_lost(replica, self._adoption.confirm(replica, record, instance))
            # Before `settled` is set, behind which it must be told to be running at once.
            await self._learn_context_length(replica)
        except ProcessLookupError as error:
            raise Refused("It has ended meanwhile.") from error
        finally:
            starting.cancel()
            settled.set()
        return record.remark

    async def _get_ready(self, replica: Replica, instance: Instance) -> None:
        def tell(stage: str) -> None:
            self._set(replica, "starting", f"So far: {stage}." if stage else "")

        await until_ready(instance, tell)
        if instance.backend.warm_up is not None:
            self._set(replica, "starting", "It is sent its first request.")
            await warm_up(instance)

    async def _learn_context_length(self, replica: Replica) -> None:
        """Keeps it as its engine tells it, before anybody gets to see it."""
        assert replica.instance is not None
        length = await ask_until_told(replica.model, replica.instance.ask)
        self._set_context_length(replica, length)

    async def _unless_lost(self, replica: Replica, work: Coroutine[Any, Any, Result]) -> Result:
        """What the work gives. Raises EngineFailed as soon as the engine is lost to a cause outside
        of it.
        """
        working = asyncio.ensure_future(work)
        losing = asyncio.ensure_future(replica.lost.wait())
        try:
            await asyncio.wait({working, losing}, return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                raise lost(replica)
            return working.result()
        finally:
            for task in (working, losing):
                task.cancel()

    async def _until_it_ends(self, replica: Replica, remark: str) -> tuple[str, str]:
        """Waits until an engine that runs, or sleeps, has ended, or is lost; the manner, in words
        for the log and for who asks for its state. It has served, so that its last words may hold
        something of a request.
        """
        instance = replica.instance
        assert instance is not None
        watching = asyncio.ensure_future(liveness.lost(instance, self._in_flight, self._faults))
        ending = asyncio.ensure_future(instance.exited.wait())
        losing = asyncio.ensure_future(replica.lost.wait())
        napping = asyncio.ensure_future(self._naps.take(replica, remark))
        ends = {watching, ending, losing, napping}
        try:
            done, _ = await asyncio.wait(
                ends, timeout=RUNNING_WELL, return_when=asyncio.FIRST_COMPLETED
            )
            if not done:
                replica.failures = 0
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in ends:
                task.cancel()
        unrested = napping.exception() if napping.done() else None
        if replica.lost.is_set():
            ended = str(lost(replica)).rstrip(".")
        elif ending.done():
            # Whatever its exit code: nobody asked it to end. (A crashed vLLM exits with 0.)
            ended = f"The engine {instance.how_it_ended()}, unasked"
        elif isinstance(unrested, EngineFailed):
            ended = str(unrested).rstrip(".")
        elif unrested is not None:
            raise unrested
        else:
            ended = f"The engine is ended, since it works no more. {watching.result().rstrip('.')}"
        self._set(replica, "error", f"{ended}.")  # at once, for a disk may be slow to tell more
        where = f"`gpustack-fast status` quotes what it wrote last (log: {instance.log})."
        return f"{ended}; {where}", f"{ended}. {await instance.last_words()}"

    def leave(self, replica: Replica) -> None:
        """Leaves an engine to the next server. One that ends on its GPUs may wait for its start."""
        assert replica.instance is not None
        replica.instance.leave()
        self._prepare.end_start(replica)

    async def end(
        self,
        replica: Replica,
        grace: float = float("inf"),
        gives_up: Callable[[], bool] = lambda: False,
        *,
        planned: bool = False,
    ) -> None:
        """Ends what is left of an engine. Nothing is started in its place before that is gone.

        `grace`: as of `Instance.stop`. `gives_up`: whether one that cannot be ended is left to the
        next start of this server; what it holds stays counted then. `planned`: it waits until no
        other engine starts on its GPUs, and none does until its memory is free.
        """
        await self._restraint.until_thawed()
        if planned and replica.devices and replica.instance is not None:
            async with self._prepare.freeing(replica):
                gone = await self._end_process(replica, grace, gives_up)
        else:
            gone = await self._end_process(replica, grace, gives_up)
        if gone:
            self._prepare.release(replica)

    async def _end_process(
        self, replica: Replica, grace: float, gives_up: Callable[[], bool]
    ) -> bool:
        """Whether nobody of it is left; see `end`."""
        reason = replica.state_message
        while replica.instance is not None and not await replica.instance.stop(grace):
            self._prepare.end_start(replica)  # what it holds may stay for ever, and is counted
            if gives_up():
                log.error("%s: %s", replica.id, LEFT_BEHIND)
                return False
            if not replica.state_message.startswith(CANNOT_BE_ENDED):
                log.error("%s: %s", replica.id, CANNOT_BE_ENDED)
                self._set(replica, "error", f"{CANNOT_BE_ENDED} {reason}".rstrip())
            await asyncio.sleep(AFTER_A_FAULT)
        replica.instance = None
        replica.asleep = False
        return True

    async def _until_nobody_else_needs(self, replica: Replica) -> None:
        """Another process of this server may still have requests at an engine that is there."""
        if replica.instance is not None and await replica.instance.living() != []:
            await self._restraint.alone.wait()

    def _refused(self, replica: Replica, reason: str) -> None:
        """Starts another in the place of an engine that is not adopted: no failure of a start."""
        replica.note_failure(f"It was not adopted. {reason}")
        replica.retry_at = 0.0
        self._set(replica, "error", f"It is not adopted, and another is started. {reason}")
        log.warning("%s is not adopted, and another is started. %s", replica.id, reason)
        self._note(replica, "refused", reason)

    def failed(self, replica: Replica, reason: str, shown: str | None = None) -> None:
        """Takes the engine out of the table at once, and says when the next one starts.

        `shown`: the reason for who asks for the replica's state, where the log has another.
        """
        shown = shown or reason
        replica.failures += 1
        replica.note_failure(shown)
        if replica.retired:
            follows = "It was to be ended."
        elif replica.model.restart_on_error:
            pause = restart_delay(replica.failures)
            replica.retry_at = time.monotonic() + pause
            follows = (
                "Starting it again at once." if not pause else f"Starting it again in {pause:g} s."
            )
        else:
            replica.retry_at = float("inf")
            follows = "It is not started again (restart_on_error = false)."
        self._set(replica, "error", f"{shown} {follows}")
        log.warning("%s: %s %s", replica.id, reason, follows)
        self._note(replica, "failed", f"{reason} {follows}")

    def _hindered(self, replica: Replica, reason: str) -> None:
        """Tries an engine again that this machine kept from starting: no failure of its own."""
        self._faults.note("engine_start", reason)
        replica.retry_at = time.monotonic() + AFTER_A_FAULT
        self._set(replica, "error", f"{reason} Starting it again in {AFTER_A_FAULT:g} s.")

    def _without_files(self, replica: Replica, reason: str, wait: float) -> None:
        """Tries an engine again whose files cannot be had for now: no failure of its own, and no
        reason to give it up. The pauses grow: a hub may ask for that, and a wrong file comes whole
        each time. `wait`: seconds that a hub asks for at least.
        """
        replica.fetches_failed += 1
        replica.note_failure(reason)
        pause = max(wait, restart_delay(replica.fetches_failed + 1))
        replica.retry_at = time.monotonic() + pause
        follows = f"Trying again in {pause:g} s."
        self._set(replica, "error", f"{reason} {follows}")
        log.warning("%s: %s %s", replica.id, reason, follows)
