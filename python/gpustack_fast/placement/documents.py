"""What is wanted, what there is, and where the one goes on the other. Memory is bytes.

They are documents, so that what wants, what places and what starts may be three machines.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from gpustack_fast.backends.demand import Demand, Shape
from gpustack_fast.sizing.documents import Estimate

__all__ = ["Claim", "Device", "Placement", "Refusal", "Strategy", "Wanted"]

Strategy = Literal["spread", "binpack"]


class Device(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A GPU, or a slice of one, as far as placing depends on it."""

    uuid: str
    index: int
    """Of the GPU."""
    total: int
    foreign: int
    """Bytes that processes hold which are none of the instances that are placed."""
    island: int
    """GPUs of the same number are joined by NVLink."""
    slice: bool = False
    """A MIG slice: engines cannot be divided over several."""
    problem: str = ""
    """Why nothing may be placed on it; empty: it is well."""


class Wanted(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An instance that has no place yet."""

    model: str
    number: int
    """Of the replica."""
    demands: list[Demand]
    """The ways in which it could run, the preferred one first."""
    strategy: Strategy = "spread"
    gpu_ids: list[str] = []
    """Only these, by full UUID, index, or `<worker>:cuda:<index>`; empty: any. The index of a GPU
    that MIG divides means each of its slices.
    """


class Claim(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an instance was promised of one device."""

    uuid: str
    bytes: int


class Placement(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The place of one instance."""

    model: str
    number: int
    shape: Shape
    claims: list[Claim]
    """In the order in which the engine counts its GPUs."""
    share: float | None
    """Of each GPU's memory, as `--gpu-memory-utilization` takes it; None: the engine is not told.
    """
    estimate: Estimate | None = None
    """Of the demand that it answers to."""


class Refusal(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Why an instance has no place."""

    model: str
    number: int
    message: str
    """What was needed, what there was, the nearest miss, and what to change: whole sentences."""
