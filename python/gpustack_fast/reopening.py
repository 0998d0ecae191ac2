"""Opens log files again, for who has moved them."""

from __future__ import annotations

import asyncio
import logging

from gpustack_fast.engines.instance import Instance
from gpustack_fast.engines.supervisor import Supervisor
from gpustack_fast.faults import reason_of, run_in_thread
from gpustack_fast.log_files import LogFiles

__all__ = ["Reopening"]

log = logging.getLogger(__name__)


class Reopening:
    """Opens our own log files again; those of engines stay where they are, which is told."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._log_files = LogFiles()
        self._tasks: set[asyncio.Future[None]] = set()

    def soon(self) -> None:
        """Beside the loop, for a disk may not respond."""
        task = asyncio.ensure_future(self._reopen())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _reopen(self) -> None:
        try:
            problems = await run_in_thread(self._log_files.reopen)
            moved = await run_in_thread(_moved, self._supervisor.instances)
        except OSError as error:
            problems, moved = [f"The log files were not opened again: {reason_of(error)}."], []
        for problem in problems:
            log.warning("%s", problem)
        for instance in moved:
            log.warning(
                "The log %s was moved or removed, but the engine %s holds it open and writes on "
                "into the old file. Let logrotate use `copytruncate` for the logs of engines.",
                instance.log,
                instance.id,
            )
        if not problems:
            log.info("The log files were opened again.")


def _moved(instances: list[Instance]) -> list[Instance]:
    """Those whose logs somebody has moved or removed. Waits for the disk."""
    return [instance for instance in instances if instance.log_was_moved()]
