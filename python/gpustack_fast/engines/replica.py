"""A model's replica: its slot and the engine in it. The supervisor changes it, others read it."""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import time
from collections.abc import Iterable
from typing import Literal

from gpustack_fast.backends import Backend
from gpustack_fast.config import Config, ModelConfig
from gpustack_fast.engines.instance import Instance
from gpustack_fast.engines.plan import ReplicaSlot, SlotStatus

__all__ = ["InstanceState", "Replica", "replicas_by_model"]

InstanceState = Literal[
    "pending",
    "analyzing",
    "scheduled",
    "initializing",
    "downloading",
    "starting",
    "running",
    "error",
    "unreachable",
    "draining",
    "drained",
    "sleeping",
    "waking",
]
"""GPUStack's names for the state of an instance; the data plane knows the same words.

unreachable: an engine of somebody else's that cannot be reached or says that it is not well.
draining, drained (not GPUStack's): it runs, and its operator has taken it out of the choice.
sleeping, waking (not GPUStack's): its engine has given its memory back, and gets it again.
"""


@dataclasses.dataclass
class Replica:
    """A slot and the engine in it, or an address of somebody else's engine."""

    slot: ReplicaSlot
    model: ModelConfig
    backend: Backend
    id: str
    created: float
    """Unix seconds: when this engine (not the first in the slot) was started."""
    state: InstanceState = "pending"
    """The engine's; `published_state` heeds the operator's order, too."""
    state_message: str = ""
    since: float = 0.0
    """Unix seconds: when `state` was entered, or a running engine drained or resumed."""
    last_failure: str = ""
    """In words: why an engine ended here, or a request failed; empty: nothing has."""
    last_failure_at: float = 0.0
    """Unix seconds."""
    drained: bool = False
    """The operator's order: no new requests, whatever engine is here."""
    address: str = ""
    context_length: int | None = None
    """The tokens of the model's context, as its engine has told; None: it has not."""
    instance: Instance | None = None
    failures: int = 0
    """In a row, since an engine last ran here for some minutes."""
    fetches_failed: int = 0
    """Tries in a row for which the model's files could not be had, though they may be later."""
    generation: int = 1
    """Of its model, of which its engine was made; see `storage.model_states`."""
    edited: bool = False
    """Its model is configured otherwise now, so that another engine is to take its place."""
    outdated: bool = False
    """The same, since its engine would be started otherwise now, whatever is configured."""
    restarts: int = 0
    """Engines that were started here after the first."""
    retry_at: float = 0.0
    """Monotonic seconds: when the next engine may be started here; infinity: never again."""
    retired: bool = False
    """Out of the table for good."""
    running: asyncio.Task[None] | None = None
    """The engine's life; of somebody else's, the watch on its address."""
    stopping: asyncio.Task[None] | None = None
    lost: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)
    """Set when the engine is to be ended for a cause outside of it, such as a GPU that failed."""
    lost_to: str = ""
    """That cause: a clause."""
    devices: tuple[str, ...] = ()
    """The UUIDs of the GPUs or slices that it holds."""
    bedtime: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)
    """Set while its engine is to sleep, with its process."""
    morning: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)
    """Set while it is not."""
    asleep: bool = False
    """Its engine has fallen asleep, and has not been woken yet."""
    idle: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)
    """Set when it is out of the table and its last request has ended, as the data plane reports."""

    @property
    def is_outdated(self) -> bool:
        """Whether another engine is to take its place."""
        return self.edited or self.outdated

    @property
    def published_state(self) -> InstanceState:
        """The state for the data plane and for people."""
        if not self.drained or self.state != "running":
            return self.state
        return "drained" if self.idle.is_set() else "draining"

    @property
    def can_sleep(self) -> bool:
        """Whether its engine sleeps with its process."""
        return self.model.sleep_level > 0 and self.backend.sleep is not None

    @property
    def is_up(self) -> bool:
        """Whether its engine is ready, or sleeps with its process."""
        return self.state in ("running", "sleeping", "waking")

    def order(self, *, asleep: bool) -> None:
        """Says whether its engine is to sleep, with its process."""
        due, over = (self.bedtime, self.morning) if asleep else (self.morning, self.bedtime)
        over.clear()
        due.set()

    def take(self, model: ModelConfig, generation: int) -> None:
        """Goes on by another configuration of its model, which makes the same engine."""
        self.model, self.generation, self.edited = model, generation, False
        if self.instance is not None:
            self.instance.take(model)

    def note_failure(self, reason: str) -> None:
        """Remembers the last failure."""
        self.last_failure, self.last_failure_at = reason, time.time()

    def unexpected(self) -> BaseException | None:
        """The exception that ended the replica's life, which nobody expected; None: there is none.

        Whatever is expected of an engine is dealt with in its life.
        """
        if self.running is None or not self.running.done() or self.running.cancelled():
            return None
        return self.running.exception()

    def status(
        self, *, unplaced: bool = False, makes_room: ReplicaSlot | None = None
    ) -> SlotStatus:
        """The slot as a plan needs it. `unplaced`, `makes_room`: see there."""
        return SlotStatus(
            self.slot,
            occupied=self.running is not None and not self.running.done(),
            stopping=self.stopping is not None,
            retry_at=self.retry_at,
            running=self.is_up,
            drained=self.drained,
            outdated=self.is_outdated,
            unplaced=unplaced,
            makes_room=makes_room,
        )


def replicas_by_model(
    config: Config, replicas: Iterable[Replica]
) -> list[tuple[ModelConfig, list[Replica]]]:
    """Every model with its replicas, in the order of the configuration."""
    found: dict[str, list[Replica]] = collections.defaultdict(list)
    for replica in replicas:
        found[replica.slot.model].append(replica)
    return [(model, found[model.name]) for model in config.models]
