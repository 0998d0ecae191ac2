"""The way out of an engine: it is out of the table, its requests end, and it is ended; or it is
left to who goes on with it.

    retire     one of them: by plan, or since the server stops
    end_all    all of them: the server stops
    leave      those that have a process stay: the next server goes on with them
    abandon    all stay: another process of this server has them already
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from gpustack_fast.engines.life import Life
from gpustack_fast.engines.replica import Replica
from gpustack_fast.engines.replicas import Replicas
from gpustack_fast.engines.restraint import Restraint
from gpustack_fast.faults import Faults

__all__ = ["Retirement"]

STOPS = "The server stops."

log = logging.getLogger(__name__)


class Retirement:
    """Ends the engines of one server, or leaves them. Lives on the event loop."""

    def __init__(
        self, replicas: Replicas, life: Life, restraint: Restraint, faults: Faults
    ) -> None:
        self._replicas = replicas
        self._life = life
        self._restraint = restraint
        self._faults = faults
        self.closing = False
        """Whether all of them go, or are left: nothing is started any more."""
        self._patience_is_over = asyncio.Event()

    def retire(self, replica: Replica, patience: float, why: str) -> asyncio.Task[None]:
        """Takes a slot out of the table at once; the rest happens in a task, which is returned.

        `patience`: seconds that its requests get.
        """
        if replica.stopping is None:
            waits = patience if replica.state == "running" else 0.0
            replica.retired = True
            self._replicas.note(replica, "retired", why)
            self._replicas.on_change()
            replica.stopping = asyncio.create_task(self._wind_up(replica, waits))
        return replica.stopping

    async def _wind_up(self, replica: Replica, patience: float) -> None:
        """Waits until the engine is idle (or `patience` seconds), then ends it."""
        why = ""
        if patience > 0 and not await self._is_idle(replica, patience):
            log.warning(
                "%s is ended after %g s, though requests still run on it.", replica.id, patience
            )
            why = f"Requests still ran on it after {patience:g} s (`drain_timeout`), and were cut."
        await self._restraint.alone.wait()
        if replica.running is not None:
            replica.running.cancel()
            await asyncio.wait({replica.running})
        # Until it is gone its slot is taken, and so is what it holds of GPUs.
        await self._life.end(replica, gives_up=lambda: self.closing, planned=not self.closing)
        self._replicas.note(replica, "ended", why)
        del self._replicas.ours[replica.slot]
        if replica.drained:
            self._replicas.remember_drained()
        self._replicas.awake.set()

    async def _is_idle(self, replica: Replica, patience: float) -> bool:
        """Whether its last request ends before the patience with it, or with all, is over. So it
        does, too, where its engine ends.
        """
        waits = {
            asyncio.ensure_future(event.wait()) for event in (replica.idle, self._patience_is_over)
        }
        lives = set() if replica.running is None else {replica.running}
        limit = None if patience == float("inf") else patience
        await asyncio.wait(waits | lives, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        for one in waits:
            one.cancel()
        return replica.idle.is_set() or any(one.done() for one in lives)

    async def end_all(self, patience: float) -> None:
        """Ends every engine; requests that still run get `patience` seconds."""
        self.closing = True
        asyncio.get_running_loop().call_later(patience, self._patience_is_over.set)
        stopping = [self.retire(one, patience, STOPS) for one in list(self._replicas.ours.values())]
        self._replicas.external.cancel()
        self._replicas.on_change()
        # A mistake in the end of one engine must leave no other one behind.
        for error in await asyncio.gather(*stopping, return_exceptions=True):
            if isinstance(error, BaseException):
                log.error("An engine was not ended, by a mistake.", exc_info=error)
                self._faults.note("mistake", type(error).__name__)

    async def leave(self) -> list[str]:
        """Leaves the engines that have a process to the next server, and ends all others. Returns
        the ids of those that go on. Nothing is watched any more behind it.
        """
        self.closing = True
        left = [replica for replica in self._replicas.ours.values() if _may_be_left(replica)]
        for replica in left:  # first, so that nobody ends one meanwhile
            del self._replicas.ours[replica.slot]
        await _cancel(replica.running for replica in left)
        for replica in left:
            self._life.leave(replica)
        await self.end_all(0.0)
        return [replica.id for replica in left]

    async def abandon(self) -> None:
        """Watches the engines no more, and leaves all of them to another process of this server."""
        self.closing = True
        self._replicas.external.cancel()
        ours = self._replicas.ours.values()
        await _cancel(task for replica in ours for task in (replica.running, replica.stopping))
        for instance in self._replicas.instances:
            if instance.may_go_on:
                instance.leave()


def _may_be_left(replica: Replica) -> bool:
    """Whether an engine starts or runs, so that the next server may go on with it."""
    is_well = replica.stopping is None and replica.state != "error"
    return is_well and replica.instance is not None and replica.instance.may_go_on


async def _cancel(tasks: Iterable[asyncio.Task[None] | None]) -> None:
    """Ends the tasks that are there, and waits for that."""
    running = {task for task in tasks if task is not None}
    for task in running:
        task.cancel()
    if running:
        await asyncio.wait(running)
