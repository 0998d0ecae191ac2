"""The GPUs of one machine, as a document. Memory is bytes, temperatures °C, power watts.

None stands for what the driver does not tell, which is never the same as 0.
"""

from __future__ import annotations

from msgspec import Struct

__all__ = ["Gpu", "GpuProcess", "GpuReport", "MigSlice"]


class GpuProcess(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A process that computes on a GPU."""

    pid: int
    """As the driver sees it: in a container it may be the number of another process, or of none."""
    memory: int | None


class MigSlice(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of a GPU that MIG has set apart."""

    uuid: str
    name: str
    memory_total: int
    memory_used: int | None
    instances: list[str] = []
    """The instances of this server that were given it; empty also where nobody was asked."""
    problem: str = ""
    """Why nothing may be started on it, in a sentence; empty: it is as well as its GPU."""


class Gpu(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One GPU. Its UUID is its name everywhere: an index may be another after a restart."""

    index: int
    """NVML's, which is the order of the PCI bus."""
    uuid: str
    name: str
    memory_total: int
    """What programs can have: without the part that the driver keeps for itself, where it says how
    much that is. 0: it is not known, and `problem` says so.
    """
    memory_used: int | None
    utilization: int | None
    """Percent of the last moment in which anything ran."""
    temperature: int | None
    power: float | None
    power_limit: float | None
    compute_capability: str | None
    """`9.0`"""
    pci_bus_id: str
    numa_node: int | None
    nvlinks: list[str]
    """UUIDs of the GPUs that NVLink joins it with."""
    mig: bool
    """Whether it is divided: then engines get slices, and never the whole."""
    slices: list[MigSlice]
    processes: list[GpuProcess] | None
    instances: list[str] = []
    """The instances of this server that were given it, or a slice of it, or hold memory of it;
    empty also where nobody was asked.
    """
    problem: str = ""
    """Why nothing may be started on it, in a sentence; empty: it is well."""
    lost: bool = False
    """Whether it has failed, so that what runs on it cannot go on; `problem` says how."""


class GpuReport(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All GPUs of a machine at one moment."""

    driver_version: str | None
    cuda_version: str | None
    """The newest CUDA that the driver can run: `13.0`."""
    gpus: list[Gpu]
    problem: str = ""
    """Why there are none, or not all, in sentences with the next step; empty: all were read."""
    unread: bool = False
    """Whether there may be GPUs that could not be read now. Without a driver there are none."""
    expected: bool = False
    """Whether GPUs were to be expected, found or not: a driver is here, or a GPU is seen."""
