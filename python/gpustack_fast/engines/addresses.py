"""The addresses of somebody else's engines as a reload wants them, before they are adopted."""

from __future__ import annotations

import dataclasses

from gpustack_fast.config import ModelConfig
from gpustack_fast.engines.plan import ReplicaSlot
from gpustack_fast.engines.replica import Replica

__all__ = ["Addresses"]


@dataclasses.dataclass
class Addresses:
    """A replica for each address, with its model as it will be."""

    replicas: dict[ReplicaSlot, tuple[Replica, ModelConfig]] = dataclasses.field(
        default_factory=dict
    )
    fresh: list[Replica] = dataclasses.field(default_factory=list)
    """Those of them that are new. They are watched already."""

    def discard(self) -> None:
        """Ends the watch on the new ones, where nobody adopts them."""
        for replica in self.fresh:
            if replica.running is not None:
                replica.running.cancel()
