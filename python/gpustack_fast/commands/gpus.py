"""`gpustack-fast gpus`: the GPUs of this machine, and which instance of a server holds what.

Nothing here imports asyncio, granian, uvloop or the data plane, so that the command is quick.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
from msgspec.structs import replace

from gpustack_fast.commands.output import complain, say
from gpustack_fast.control.client import ControlClient, NoServer
from gpustack_fast.control.documents import InstanceStatus
from gpustack_fast.errors import GpustackFastError, printable
from gpustack_fast.gpus import Gpu, GpuProcess, GpuReport, Reader
from gpustack_fast.storage.data_directory import DataDirectory

__all__ = ["show", "with_instances"]

_EVERY = 2.0
"""Seconds between two looks of `--watch`."""
_SERVER_WITHIN = 5.0
"""Seconds that a server has to name its instances; GPUs are shown without it, too."""
_HEADER = (
    *("GPU", "NAME", "MEMORY GiB", "USE", "TEMP", "POWER", "PROCESSES", "INSTANCES", "UUID"),
)
_UNKNOWN = "-"
_CLEAR = "\x1b[H\x1b[J"
"""To the first place of the terminal, and nothing behind it."""


def show(data_dir: Path, *, as_json: bool, watches: bool) -> int:
    """Prints the GPUs, once or every 2 s until Ctrl-C ends the process. Returns 0.

    That there is no driver is no failure: a sentence says so.
    """
    reader = Reader()
    while True:
        report = with_instances(reader.read_blocking(), _instances(data_dir))
        page = _json(report) if as_json else "\n".join(printable(line) for line in _page(report))
        if not watches:
            break
        # A pipe gets page after page; a terminal the last one alone.
        say(f"{_CLEAR}{page}" if sys.stdout and sys.stdout.isatty() else f"{page}\n")
        time.sleep(_EVERY)
    say(page)
    reader.close_blocking()
    return 0


def with_instances(report: GpuReport, instances: list[InstanceStatus]) -> GpuReport:
    """The report with the names of the instances that have or hold something of each GPU.

    What an instance was given is known; else the session of a process tells whose it is. Processes
    that the driver numbers otherwise, as beyond a container, belong to nobody.
    """
    given: dict[str, list[str]] = {}
    for one in instances:
        for uuid in one.devices:
            given.setdefault(uuid, []).append(one.name)
    leaders = {one.pid: one.name for one in instances if one.pid is not None}
    gpus = [
        replace(
            gpu,
            slices=[replace(one, instances=given.get(one.uuid, [])) for one in gpu.slices],
            instances=_holders(gpu, given, leaders),
        )
        for gpu in report.gpus
    ]
    return replace(report, gpus=gpus)


def _holders(gpu: Gpu, given: Mapping[str, list[str]], leaders: Mapping[int, str]) -> list[str]:
    names = [*given.get(gpu.uuid, [])]
    names += [name for one in gpu.slices for name in given.get(one.uuid, [])]
    names += [name for one in gpu.processes or [] if (name := _owner(one, leaders))]
    return list(dict.fromkeys(names))


def _owner(process: GpuProcess, leaders: Mapping[int, str]) -> str | None:
    """The instance in whose session a process is: each engine leads one of its own."""
    try:
        return leaders.get(os.getsid(process.pid))
    except OSError:
        return None  # it has ended, or is another's


def _instances(data_dir: Path) -> list[InstanceStatus]:
    """Those of the server on the data directory; none without one."""
    try:
        with ControlClient(DataDirectory(data_dir).control_socket, _SERVER_WITHIN) as server:
            return [one for model in server.status().models for one in model.instances]
    except NoServer:
        return []
    except GpustackFastError as error:
        complain(f"warning: Instances are not shown. {error}")
        return []


def _json(report: GpuReport) -> str:
    return msgspec.json.format(msgspec.json.encode(report)).decode()


def _page(report: GpuReport) -> Iterator[str]:
    """The lines for a person."""
    if report.driver_version is not None:
        cuda = f", CUDA up to {report.cuda_version}" if report.cuda_version else ""
        yield f"NVIDIA driver {report.driver_version}{cuda}"
    if report.gpus:
        rows = [_HEADER, *(row for gpu in report.gpus for row in _rows(gpu))]
        widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADER))]
        yield ""
        for row in rows:
            cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            yield "  ".join(cells).rstrip()
    problems = [f"GPU {gpu.index}: {gpu.problem}" for gpu in report.gpus if gpu.problem]
    if report.problem:
        problems.append(report.problem)
    if problems and (report.gpus or report.driver_version is not None):
        yield ""
    yield from problems


def _rows(gpu: Gpu) -> Iterator[tuple[str, ...]]:
    """A line for the GPU, and one for each of its slices."""
    yield (
        f"{gpu.index} !" if gpu.problem else str(gpu.index),
        gpu.name,
        _memory(gpu.memory_used, gpu.memory_total),
        _UNKNOWN if gpu.utilization is None else f"{gpu.utilization} %",
        _UNKNOWN if gpu.temperature is None else f"{gpu.temperature} C",
        _power(gpu),
        _UNKNOWN if gpu.processes is None else str(len(gpu.processes)),
        ", ".join(gpu.instances) or _UNKNOWN,
        gpu.uuid,
    )
    for one in gpu.slices:
        memory = _memory(one.memory_used, one.memory_total)
        instances = ", ".join(one.instances) or _UNKNOWN
        yield ("  slice", one.name, memory, *[""] * 4, instances, one.uuid)


def _memory(used: int | None, total: int) -> str:
    def gib(size: int | None) -> str:
        return _UNKNOWN if size is None else f"{size / (1 << 30):.1f}"

    return f"{gib(used)} of {gib(total or None)}"


def _power(gpu: Gpu) -> str:
    if gpu.power is None:
        return _UNKNOWN
    limit = "" if gpu.power_limit is None else f" of {gpu.power_limit:.0f}"
    return f"{gpu.power:.0f}{limit} W"
