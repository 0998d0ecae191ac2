"""The engines of an earlier run, by their records or their marks; who is not adopted ends."""

from __future__ import annotations

import asyncio
import functools
import logging
import signal
from collections.abc import Iterable
from pathlib import Path

from gpustack_fast.backends import BACKENDS
from gpustack_fast.engines import processes
from gpustack_fast.engines.instance_files import remove_folder
from gpustack_fast.engines.processes import Identity, Process, ProcessTable
from gpustack_fast.engines.records import Found, read_records, tell_or_remove
from gpustack_fast.errors import EngineFailed, StoreError
from gpustack_fast.faults import Faults, reason_of, run_in_thread
from gpustack_fast.storage.data_directory import explain_os_error
from gpustack_fast.storage.engine_paths import EnginePaths

__all__ = ["end_leftovers", "find_records"]

log = logging.getLogger(__name__)

LEFTOVER_GRACE = max(one.stop_grace for one in BACKENDS.values())
"""Seconds. Old records do not say of which kind their engine is, so each gets the longest grace."""


async def find_records(paths: EnginePaths) -> list[Found]:
    """The records of an earlier run, and what is left of those that are lost: of the engines whose
    processes still bear their marks. Raises StoreError where their folder cannot be read.
    """
    try:
        found = await run_in_thread(read_records, paths.records)
    except OSError as error:
        what = f"The records of engines in {paths.records} cannot be read"
        raise StoreError(explain_os_error(error, what)) from error
    try:
        return found + await run_in_thread(_without_record, paths, {path for path, _ in found})
    except OSError as error:
        log.warning(
            "Whether engines are left that have no record cannot be seen: %s.", reason_of(error)
        )
        return found


def _without_record(paths: EnginePaths, known: set[Path]) -> list[Found]:
    """The engines of this data directory whose processes are there, and whose record is not, as far
    as can be seen. Raises OSError.
    """
    found: list[Found] = []
    for mark, each in processes.read_marks().items():
        record = Path(mark)
        living = [one for one in each if one.alive]
        if living and record.parent == paths.records and record not in known:
            found.append((record, _identity_of(living, record, paths)))
    return found


def _identity_of(each: list[Process], record: Path, paths: EnginePaths) -> Identity:
    first = min(each, key=lambda one: (one.pid != one.session, one.start_time))
    return Identity(
        pid=first.pid,
        start_time=first.start_time,
        boot_id=processes.boot_id(),
        socket=str(paths.socket(record.stem)),
        log="",
    )


async def end_leftovers(
    paths: EnginePaths, found: Iterable[Found], faults: Faults, grace: float = LEFTOVER_GRACE
) -> list[str]:
    """Ends the engines of these records; returns the ids of those that were alive.

    Never a process whose identity does not match. Raises EngineFailed when one cannot be ended: it
    may hold a GPU.
    """
    table = ProcessTable(faults)
    return [
        record.stem
        for record, was_alive in await asyncio.gather(
            *(
                end_leftover(
                    record, identity, paths.socket(record.stem).with_suffix(".d"), table, grace
                )
                for record, identity in found
            )
        )
        if was_alive
    ]


async def end_leftover(
    record: Path, identity: Identity, folder: Path, table: ProcessTable, grace: float
) -> tuple[Path, bool]:
    """Ends the engine of one record; returns whether somebody was alive, too. `folder`: that of the
    files that were written for it.
    """
    living = functools.partial(processes.surely, identity, str(record), table, set())
    alive = await living() != []
    if alive and not await processes.end(
        identity.pid, living, signal.SIGTERM, grace, is_child=False
    ):
        raise EngineFailed(
            f"The engine {record.stem} (process {identity.pid}) of an earlier run cannot be ended, "
            "even by SIGKILL. It waits inside the kernel, perhaps for a device: look at it with "
            "`ps`, then start again."
        )
    await run_in_thread(remove_folder, folder)
    await run_in_thread(tell_or_remove, identity.socket)
    await run_in_thread(tell_or_remove, record)
    return record, alive
