"""The GPUs of a machine as the devices that instances are placed on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import structs

from gpustack_fast.gpus.documents import Gpu, GpuReport, MigSlice
from gpustack_fast.placement.documents import Device

__all__ = ["devices_of"]

_UNKNOWN = (
    "The driver does not tell how much of its memory is in use, so nothing can be promised of it."
)
_NO_MEMORY = "The driver does not tell how much memory it has, so nothing can be promised of it."
_NO_SLICES = (
    "It is divided by MIG, and has no slices. Make some with `nvidia-smi mig -cgi PROFILE -C`, or "
    "turn MIG off with `nvidia-smi -mig 0`."
)


def devices_of(report: GpuReport, own: Mapping[str, int]) -> list[Device]:
    """The GPUs in the order of their index, or in place of a divided one its slices.

    `own`: bytes that the instances which are placed hold of each device, by its UUID. What is in
    use beyond that is foreign. What an instance holds beyond its claim must not be in `own`: it is
    promised to nobody, and so counts as foreign, too.
    """
    gpus = sorted(report.gpus, key=lambda gpu: (gpu.index, gpu.uuid))
    islands = _islands(gpus)
    found: list[Device] = []
    for gpu in gpus:
        found += _devices(gpu, islands[gpu.uuid], own)
    return found


def _devices(gpu: Gpu, island: int, own: Mapping[str, int]) -> list[Device]:
    if not gpu.mig:
        return [_device(gpu, gpu.uuid, gpu.memory_total, gpu.memory_used, island, own)]
    if not gpu.slices:
        whole = _device(gpu, gpu.uuid, gpu.memory_total, 0, island, own)
        return [structs.replace(whole, problem=gpu.problem or _NO_SLICES)]
    return [_slice(gpu, one, island, own) for one in sorted(gpu.slices, key=lambda one: one.uuid)]


def _slice(gpu: Gpu, one: MigSlice, island: int, own: Mapping[str, int]) -> Device:
    device = _device(gpu, one.uuid, one.memory_total, one.memory_used, island, own)
    return structs.replace(device, slice=True, problem=one.problem or device.problem)


def _device(
    gpu: Gpu,
    uuid: str,
    total: int,
    used: int | None,
    island: int,
    own: Mapping[str, int],
) -> Device:
    problem = gpu.problem
    if not problem and total <= 0:
        problem = _NO_MEMORY
    if not problem and used is None:
        problem = _UNKNOWN
    held = total if used is None else used
    return Device(
        uuid=uuid,
        index=gpu.index,
        total=total,
        foreign=max(0, held - own.get(uuid, 0)),
        island=island,
        problem=problem,
    )


def _islands(gpus: Sequence[Gpu]) -> dict[str, int]:
    """The island of each GPU: the lowest index among all that NVLink joins, also by way of others.

    A link counts when one side tells of it.
    """
    joined: dict[str, set[str]] = {gpu.uuid: set() for gpu in gpus}
    for gpu in gpus:
        for other in gpu.nvlinks:
            if other in joined:
                joined[gpu.uuid].add(other)
                joined[other].add(gpu.uuid)
    islands: dict[str, int] = {}
    for gpu in gpus:  # in the order of the index: the first of an island has the lowest
        waiting = [gpu.uuid]
        while waiting:
            uuid = waiting.pop()
            if uuid not in islands:
                islands[uuid] = gpu.index
                waiting += joined[uuid]
    return islands
