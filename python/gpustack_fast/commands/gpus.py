"""`gpustack-fast gpus`: the GPUs of this machine, and which instance of a server holds what.

Nothing here imports asyncio, granian, uvloop or the data plane, so that the command is quick.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

from gpustack_fast.commands.gpus_of_server import with_server
from gpustack_fast.commands.output import in_json, say
from gpustack_fast.errors import printable
from gpustack_fast.gpus import Gpu, GpuReport, Reader

__all__ = ["show"]

_EVERY = 2.0
"""Seconds between two looks of `--watch`."""
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
        report = with_server(reader.read_blocking(), data_dir)
        page = in_json(report) if as_json else "\n".join(printable(line) for line in _page(report))
        if not watches:
            break
        # A pipe gets page after page; a terminal the last one alone.
        say(f"{_CLEAR}{page}" if sys.stdout and sys.stdout.isatty() else f"{page}\n")
        time.sleep(_EVERY)
    say(page)
    reader.close_blocking()
    return 0


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
    problems = [line for gpu in report.gpus for line in _problems(gpu)]
    if report.problem:
        problems.append(report.problem)
    if problems and (report.gpus or report.driver_version is not None):
        yield ""
    yield from problems


def _problems(gpu: Gpu) -> Iterator[str]:
    if gpu.problem:
        yield f"GPU {gpu.index}: {gpu.problem}"
        return
    for one in gpu.slices:
        if one.problem:
            yield f"GPU {gpu.index}, slice {one.uuid}: {one.problem}"


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
        name = "  slice !" if one.problem else "  slice"
        yield (name, one.name, memory, *[""] * 4, instances, one.uuid)


def _memory(used: int | None, total: int) -> str:
    def gib(size: int | None) -> str:
        return _UNKNOWN if size is None else f"{size / (1 << 30):.1f}"

    return f"{gib(used)} of {gib(total or None)}"


def _power(gpu: Gpu) -> str:
    if gpu.power is None:
        return _UNKNOWN
    limit = "" if gpu.power_limit is None else f" of {gpu.power_limit:.0f}"
    return f"{gpu.power:.0f}{limit} W"
