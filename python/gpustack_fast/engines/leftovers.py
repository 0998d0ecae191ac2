"""The engines that an earlier, killed server left behind: found by their records, and ended."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import signal
from pathlib import Path

import msgspec

from gpustack_fast import plain_files
from gpustack_fast.backends import BACKENDS
from gpustack_fast.engines import processes
from gpustack_fast.engines.instance import remove_files, remove_folder
from gpustack_fast.engines.processes import Identity, Process, ProcessTable
from gpustack_fast.errors import EngineFailed, StoreError
from gpustack_fast.faults import Faults, run_in_thread
from gpustack_fast.storage.data_directory import explain_os_error
from gpustack_fast.storage.engine_paths import EnginePaths

__all__ = ["end_leftovers"]

log = logging.getLogger(__name__)

LEFTOVER_GRACE = max(one.stop_grace for one in BACKENDS.values())
"""Seconds. A record does not say of which kind its engine is, so each gets the longest grace."""
LARGEST_RECORD = 1024 * 1024
"""Bytes."""


async def end_leftovers(
    paths: EnginePaths, faults: Faults, grace: float = LEFTOVER_GRACE
) -> list[str]:
    """Ends the engines that an earlier, killed server left behind; returns the ids of the living.

    Never a process whose identity does not match. Raises EngineFailed when one cannot be ended: it
    may hold a GPU; and StoreError where the folder of the records cannot be read.
    """
    try:
        found = await run_in_thread(read_records, paths.records)
    except OSError as error:
        what = f"The records of engines in {paths.records} cannot be read"
        raise StoreError(explain_os_error(error, what)) from error
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
    living = functools.partial(leftovers, identity, str(record), table, set())
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


def read_records(folder: Path) -> list[tuple[Path, Identity]]:
    """The records in a folder. What is no record goes, and what can be neither read nor removed is
    told and stays: it keeps nobody from starting. Raises OSError for the folder itself.
    """
    found = []
    for path in sorted(Path(entry.path) for entry in os.scandir(folder)):
        if path.name.endswith(".json.new"):
            tell_or_remove(path)
        elif path.name.endswith(".json"):
            try:
                identity = read_record(path)
            except OSError as error:
                log.warning(
                    "The record %s cannot be read: %s. If it is that of an engine of an earlier "
                    "run, the engine may still run: look for it with `ps`, then remove the record.",
                    path,
                    error.strerror or error,
                )
                continue
            if identity is None:
                tell_or_remove(path)
            else:
                found.append((path, identity))
    return found


def read_record(record: Path) -> Identity | None:
    """The identity in a record; None: it is not ours, for those are replaced as a whole.

    Raises OSError.
    """
    content = plain_files.read_bytes(record, LARGEST_RECORD, pipes=False)
    try:
        identity = msgspec.json.decode(content, type=Identity)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return None if "\0" in identity.socket else identity


def tell_or_remove(path: Path | str) -> None:
    """Removes a file; where that cannot be, it stays, and is told."""
    try:
        remove_files(path)
    except OSError as error:
        log.warning(
            "%s, of an engine of an earlier run, cannot be removed: %s. Remove it.",
            path,
            error.strerror or error,
        )


async def leftovers(
    identity: Identity, mark: str, table: ProcessTable, known: set[tuple[int, int]]
) -> list[Process] | None:
    """The living processes of an earlier run's session, where they certainly are of it, and those
    that bear the engine's record as their `mark`.

    None: nobody can see them now.

    The kernel gives a session's number to nobody else while a member lives. So one member that is
    surely ours vouches for the others: the leader by its start time, or one that writes to the
    instance's own log, or one known before. `known` remembers them from call to call, as pairs of
    process id and start time.
    """
    if not identity.is_of_this_boot():
        return []
    members = await table.members(identity.pid, mark)
    if members is None:
        return None
    found = [one for one in members if one.alive and one.session == identity.pid]
    left = [one for one in members if one.alive and one.session != identity.pid]
    sure = any(
        identity.is_leader(one)
        or (one.pid, one.start_time) in known
        or processes.writes_to(one.pid, identity.log)
        for one in found
    )
    if not sure:
        return left
    known.update((one.pid, one.start_time) for one in found)
    return found + left
