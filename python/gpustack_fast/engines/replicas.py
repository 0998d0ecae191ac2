"""All replicas of one server: those of ours, each in its slot, and somebody else's addresses.

Who changes one says so here: `on_change` is called at once whenever an instance comes, goes or
changes, and `awake` is set where the supervisor has something to look at.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

from gpustack_fast.backends import Backend
from gpustack_fast.engines.addresses import ExternalReplicas
from gpustack_fast.engines.external import watch
from gpustack_fast.engines.history import History
from gpustack_fast.engines.instance import Instance, new_id
from gpustack_fast.engines.plan import ReplicaSlot
from gpustack_fast.engines.replica import InstanceState, Replica
from gpustack_fast.faults import Faults

__all__ = ["Replicas"]


class Replicas:
    """The replicas of one server, and who is told of their changes. Lives on the event loop."""

    def __init__(
        self,
        history: History,
        faults: Faults,
        external: Backend,
        on_change: Callable[[], None],
        engine_key: Callable[[str], str | None] = lambda _: None,
    ) -> None:
        """`external`: the backend of somebody else's engines, and `engine_key` their key, by model.
        `on_change` must not wait.
        """
        self._history = history
        self._faults = faults
        self.on_change = on_change
        self._engine_key = engine_key
        self.awake = asyncio.Event()
        self.ours: dict[ReplicaSlot, Replica] = {}
        """Those of ours, also those on their way out."""
        self.external = ExternalReplicas(external, lambda replica: self.task(self.watch(replica)))

    def __iter__(self) -> Iterator[Replica]:
        """All of them, also those on their way out, as they are now."""
        return iter([*self.ours.values(), *self.external])

    @property
    def present(self) -> list[Replica]:
        """All of them without those on their way out."""
        return [*(one for one in self.ours.values() if not one.retired), *self.external]

    @property
    def instances(self) -> list[Instance]:
        """The engines that are there, also those that are being ended."""
        return [one.instance for one in self.ours.values() if one.instance is not None]

    def unused_id(self, model: str) -> str:
        """A new id; with thousands of engines, two would be the same by chance some day."""
        taken = {replica.id for replica in self.present}
        while (made := new_id(model)) in taken:
            pass
        return made

    def task(self, life: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """A replica's life; its end wakes the supervisor, which looks at what it came to."""
        task = asyncio.create_task(life)
        task.add_done_callback(lambda _: self.awake.set())
        return task

    async def watch(self, replica: Replica) -> None:
        """The life of somebody else's address, for as long as it is wanted."""
        await watch(
            replica, self.set_state, self.set_context_length, self._engine_key, self._faults
        )

    def set_state(self, replica: Replica, state: InstanceState, message: str = "") -> None:
        """Gives a replica a state and a message."""
        if replica.since and (replica.state, replica.state_message) == (state, message):
            return  # as how far a start has come, which is asked each second
        if replica.state != state or not replica.since:
            replica.since = time.time()
            self.awake.set()
        replica.state, replica.state_message = state, message
        if replica.model.external:
            self.external.state_changed()
        # One that is being tried for a reload is not here yet.
        if self._is_here(replica):
            self.on_change()

    def set_context_length(self, replica: Replica, length: int | None) -> None:
        """Keeps how long the context of a replica's model is."""
        if length == replica.context_length:
            return
        replica.context_length = length
        if self._is_here(replica):
            self.on_change()

    def _is_here(self, replica: Replica) -> bool:
        return self.ours.get(replica.slot) is replica or replica in self.external

    def note(self, replica: Replica, what: str, why: str = "") -> None:
        """Keeps what has happened to the engine of a replica, see `History.note`."""
        self._history.note(replica.slot.model, replica.id, what, why)

    def remember_drained(self) -> None:
        """Keeps which of ours are drained: after each change of that, or of their ids."""
        self._history.drain(one.id for one in self.ours.values() if one.drained)
