"""What lasts of engines over restarts: what has happened to them, which generation of a model was
carried out, and which instances are drained. Written beside the event loop.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable

from gpustack_fast.errors import StoreError
from gpustack_fast.faults import Faults, run_in_thread
from gpustack_fast.storage.events import Event, Events
from gpustack_fast.storage.model_states import ModelStates

__all__ = ["History"]

TRY_AGAIN_AFTER = 10.0
"""Seconds, after a fault of the disk."""
SAVED_WITHIN = 5.0
"""Seconds that a stop waits for the disk."""

log = logging.getLogger(__name__)


class History:
    """The history of one server's engines. Lives on the event loop."""

    def __init__(
        self,
        states: ModelStates | None = None,
        events: Events | None = None,
        faults: Faults | None = None,
    ) -> None:
        """Without states and events nothing lasts."""
        self._states = states
        self._events = events
        self._faults = faults or Faults()
        self._writing: asyncio.Task[None] | None = None
        self._changed = False
        self._given = False
        """Whether another process keeps it from now on."""

    def give(self) -> None:
        """Keeps nothing more: another process of this server does."""
        self._given = True

    def note(self, model: str, instance: str, what: str, why: str = "") -> None:
        """Keeps that something has happened now to a model, or to an instance of it (empty: to
        none).
        """
        if self._events is not None and not self._given:
            event = Event(time=time.time(), model=model, instance=instance, what=what, why=why)
            self._events.add(event)
            self._soon()

    def events(self) -> list[Event]:
        """The newest, the oldest of them first."""
        return [] if self._events is None else self._events.all()

    def observe(self, model: str, generation: int) -> None:
        """Notes that a generation of a model is carried out."""
        if self._states is not None and self._states.observe(model, generation):
            self._soon()

    def observed(self, model: str) -> int:
        """The last generation of a model that was carried out as a whole; 0: none."""
        return 0 if self._states is None else self._states.observed(model)

    def was_drained(self, instance: str) -> bool:
        """Whether an instance of an earlier run was drained."""
        return self._states is not None and instance in self._states.drained

    def drain(self, instances: Iterable[str]) -> None:
        """Notes which instances of ours are drained."""
        if self._states is not None and self._states.drain(instances):
            self._soon()

    def rest(self, models: Iterable[str]) -> None:
        """Notes which models of ours sleep."""
        if self._states is not None and self._states.rest(models):
            self._soon()

    @property
    def asleep(self) -> frozenset[str]:
        """The models that sleep, as far as it is known of an earlier run, too."""
        return frozenset() if self._states is None else self._states.asleep

    async def close(self) -> None:
        """Waits until all of it is on the disk, or the disk has taken too long."""
        if self._writing is not None:
            await asyncio.wait({self._writing}, timeout=SAVED_WITHIN)
            self._writing.cancel()

    def _soon(self) -> None:
        if self._given:
            return
        self._changed = True
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write())

    async def _write(self) -> None:
        while self._changed and not self._given:  # else it would undo what the other one saves
            self._changed = failed = False
            for save in self._savers():
                try:
                    await run_in_thread(save)
                except (OSError, StoreError) as error:
                    told = error if isinstance(error, OSError) else str(error)
                    self._faults.note("history", told)
                    self._changed = failed = True
            if failed:
                await asyncio.sleep(TRY_AGAIN_AFTER)

    def _savers(self) -> list[Callable[[], None]]:
        return [one.save for one in (self._states, self._events) if one is not None]
