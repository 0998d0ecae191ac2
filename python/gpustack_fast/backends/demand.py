"""One way in which an instance could run: so many GPUs, so much of each. Memory is bytes."""

from __future__ import annotations

from msgspec import Struct

from gpustack_fast.sizing.documents import Estimate

__all__ = ["Demand", "Shape"]


class Shape(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a model is divided."""

    tensor: int = 1
    pipeline: int = 1
    data: int = 1

    @property
    def gpus(self) -> int:
        return self.tensor * self.pipeline * self.data


class Demand(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one shape of an instance asks of each of its GPUs."""

    shape: Shape
    least: int
    """Bytes that it cannot do without."""
    share: float | None = None
    """The part of a GPU's whole memory that the user wants it to have; None: `least` is enough."""
    tells_share: bool = False
    """Whether the engine is told its share, as vLLM's --gpu-memory-utilization."""
    beside: int = 0
    """Bytes of `least` that it takes of each GPU beside the share that it is told."""
    estimate: Estimate | None = None
    """What `least` comes from; None: the user's word."""
