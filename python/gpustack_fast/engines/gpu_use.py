"""What engines hold of the GPUs' memory, as the driver shows it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence

from gpustack_fast.engines.processes import mark_of
from gpustack_fast.faults import run_in_thread
from gpustack_fast.gpus.documents import Gpu, GpuProcess, GpuReport

__all__ = ["Engines", "GpuUse", "in_use"]

LOOKED_WITHIN = 5.0
"""Seconds for the look at whose the processes on GPUs are."""

Engines = Mapping[int, str]
"""Engines: the process id of each, which leads its session, and the mark of those that have left
that.
"""


class GpuUse:
    """Tells whose the memory of GPUs is, as far as that can be told. Lives on the event loop."""

    def __init__(self) -> None:
        self.recognises = False
        """Whether the driver's process ids were seen to be ours: beyond a container they are not.
        """
        self._looking: asyncio.Task[list[dict[str, int]]] | None = None
        """The last look; it may never end."""
        self._one = asyncio.Lock()

    async def of(self, report: GpuReport, groups: Sequence[Engines]) -> list[dict[str, int]]:
        """The bytes of each GPU and slice that the engines of each group hold, at most; nothing
        where nobody can see it now.
        """
        # A process that a driver keeps inside the kernel may keep whoever looks at it, too: in one
        # thread, and not in one more with each look.
        async with self._one:
            if self._looking is None or self._looking.done():
                work = run_in_thread(self._look, report, groups)
                self._looking = asyncio.ensure_future(work)
                await asyncio.wait({self._looking}, timeout=LOOKED_WITHIN)
                if self._looking.done():
                    return self._looking.result()
        return [{} for _ in groups]

    def _look(self, report: GpuReport, groups: Sequence[Engines]) -> list[dict[str, int]]:
        """Looks into /proc."""
        return [self._held(report, engines) for engines in groups]

    def _held(self, report: GpuReport, engines: Engines) -> dict[str, int]:
        marks = set(engines.values())
        found: dict[str, int] = {}
        for gpu in report.gpus:
            # Whose it is, is not told: only what was promised of it can be ours.
            found |= {part.uuid: part.memory_used or 0 for part in gpu.slices}
            owners = [(one, _owner(one, engines, marks)) for one in gpu.processes or []]
            self.recognises |= any(ours for _, ours in owners)
            found[gpu.uuid] = self._held_of(gpu, owners)
        return found

    def _held_of(self, gpu: Gpu, owners: list[tuple[GpuProcess, bool | None]]) -> int:
        """What these engines hold of a GPU, as far as the driver tells it, else what may be."""
        if gpu.processes is None or any(one.memory is None for one in gpu.processes):
            return gpu.memory_used or 0
        if self.recognises:
            return sum(one.memory or 0 for one, ours in owners if ours)
        # In a container processes are hidden, or numbered as beyond it.
        strangers = sum(one.memory or 0 for one, ours in owners if ours is False)
        return max(0, (gpu.memory_used or 0) - strangers)


def in_use(report: GpuReport) -> dict[str, int]:
    """The bytes in use of each GPU and slice that tells it."""
    found = {gpu.uuid: gpu.memory_used for gpu in report.gpus}
    found |= {part.uuid: part.memory_used for gpu in report.gpus for part in gpu.slices}
    return {uuid: size for uuid, size in found.items() if size is not None}


def _owner(one: GpuProcess, engines: Engines, marks: set[str]) -> bool | None:
    """Whether a process is of these engines; None: nobody here has its number."""
    session = _session(one.pid)
    if session is None:
        return None
    return session in engines or mark_of(one.pid) in marks


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except (ProcessLookupError, PermissionError):
        return None
