"""Made-up GPUs for tests of engines: what a driver would report, and what changes in it."""

from __future__ import annotations

from gpustack_fast.gpus.documents import Gpu, GpuProcess, GpuReport, MigSlice

GIB = 1 << 30
DEAD = 2**22 + 1
"""A process id that Linux gives to nobody."""


def gpu(
    index: int,
    used: int = 0,
    processes: dict[int, int] | None = None,
    slices: list[MigSlice] | None = None,
    **more: object,
) -> Gpu:
    """A GPU of 80 GiB, on which so many GiB are used, and by these processes (GiB by id)."""
    fields: dict[str, object] = {
        "index": index,
        "uuid": f"GPU-{index}",
        "name": "H100",
        "memory_total": 80 * GIB,
        "memory_used": used * GIB,
        "utilization": 0,
        "temperature": 30,
        "power": 75.0,
        "power_limit": 700.0,
        "compute_capability": "9.0",
        "pci_bus_id": f"0000:0{index}:00.0",
        "numa_node": 0,
        "nvlinks": [],
        "mig": slices is not None,
        "slices": slices or [],
        "processes": [
            GpuProcess(pid=pid, memory=size * GIB) for pid, size in (processes or {}).items()
        ],
    }
    return Gpu(**{**fields, **more})  # type: ignore[arg-type]


def part(name: str, used: int = 0) -> MigSlice:
    """A slice of 16 GiB."""
    return MigSlice(uuid=f"MIG-{name}", name="1g", memory_total=16 * GIB, memory_used=used * GIB)


def report(
    *gpus: Gpu, problem: str = "", unread: bool = False, expected: bool = False
) -> GpuReport:
    return GpuReport(
        driver_version="580",
        cuda_version="13.0",
        gpus=list(gpus),
        problem=problem,
        unread=unread,
        expected=expected,
    )


class Machine:
    """A machine whose GPUs a test changes; counts how often it was looked at."""

    def __init__(self, *gpus: Gpu) -> None:
        self.report = report(*gpus)
        self.looks = 0

    def now(self, *gpus: Gpu, **more: object) -> None:
        self.report = report(*gpus, **more)  # type: ignore[arg-type]

    async def read(self) -> GpuReport:
        self.looks += 1
        return self.report
