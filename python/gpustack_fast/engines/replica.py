"""A model's replica: its slot and the engine in it. The supervisor changes it, others read it."""

from __future__ import annotations

import asyncio
import collections
import dataclasses
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
]
"""GPUStack's names for the state of an instance; the data plane knows the same words.

unreachable: an engine of somebody else's that cannot be reached or says that it is not well.
draining, drained (not GPUStack's): it runs, and its operator has taken it out of the choice.
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
    state_message: str = ""
    address: str = ""
    instance: Instance | None = None
    failures: int = 0
    """In a row, since an engine was last ready here."""
    restarts: int = 0
    """Engines that were started here after the first."""
    retry_at: float = 0.0
    """Monotonic seconds: when the next engine may be started here; infinity: never again."""
    retired: bool = False
    """Out of the table for good."""
    running: asyncio.Task[None] | None = None
    """The engine's life; of somebody else's, the watch on its address."""
    stopping: asyncio.Task[None] | None = None
    idle: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)
    """Set when the data plane has reported the end of its last request."""

    def raise_unexpected(self) -> None:
        """Re-raises an unexpected exception: fail loudly."""
        if self.running is not None and self.running.done() and not self.running.cancelled():
            self.running.result()

    def status(self) -> SlotStatus:
        """The slot as a plan needs it."""
        busy = self.running is not None and not self.running.done()
        return SlotStatus(self.slot, busy, self.stopping is not None, self.retry_at)


def replicas_by_model(
    config: Config, replicas: Iterable[Replica]
) -> list[tuple[ModelConfig, list[Replica]]]:
    """Every model with its replicas, in the order of the configuration."""
    found: dict[str, list[Replica]] = collections.defaultdict(list)
    for replica in replicas:
        found[replica.slot.model].append(replica)
    return [(model, found[model.name]) for model in config.models]
