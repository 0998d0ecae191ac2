"""A slot and the engine in it, as the supervisor changes it and the others read it."""

from __future__ import annotations

import asyncio
import collections
import dataclasses
from collections.abc import Iterable
from typing import Literal

from gpustack_fast.backends import Backend
from gpustack_fast.config import Config, ModelConfig
from gpustack_fast.engines.instance import Instance
from gpustack_fast.engines.plan import Actual, Slot

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
]
"""GPUStack's names for what an instance is doing; unreachable: somebody else's engine, where nobody
answers. The data plane knows the same words.
"""


@dataclasses.dataclass
class Replica:
    """A slot and the engine in it."""

    slot: Slot
    model: ModelConfig
    backend: Backend
    id: str
    created: float
    """Unix seconds: when this engine (not the slot) began."""
    state: InstanceState = "pending"
    state_message: str = ""
    address: str = ""
    instance: Instance | None = None
    failures: int = 0
    restarts: int = 0
    retry_at: float = 0.0
    retired: bool = False
    """Out of the table for good."""
    running: asyncio.Task[None] | None = None
    stopping: asyncio.Task[None] | None = None
    idle: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)
    """Set when the data plane has told that its last request has ended."""

    def raise_mistake(self) -> None:
        """A life ends with an exception only by a mistake of ours: better to end loudly than to
        start it for ever.
        """
        if self.running is not None and self.running.done() and not self.running.cancelled():
            self.running.result()

    def actual(self) -> Actual:
        busy = self.running is not None and not self.running.done()
        return Actual(self.slot, busy, self.stopping is not None, self.retry_at)


def replicas_by_model(
    config: Config, replicas: Iterable[Replica]
) -> list[tuple[ModelConfig, list[Replica]]]:
    """Every model with its replicas, in the order of the configuration."""
    found: dict[str, list[Replica]] = collections.defaultdict(list)
    for replica in replicas:
        found[replica.slot.model].append(replica)
    return [(model, found[model.name]) for model in config.models]
