"""The engines that an earlier, killed server left behind: found by their records, and ended."""

from __future__ import annotations

import asyncio
import functools
import signal
from pathlib import Path

import msgspec

from gpustack_fast.engines import processes
from gpustack_fast.engines.instance import remove_files
from gpustack_fast.engines.processes import Identity, Process, ProcessTable
from gpustack_fast.errors import EngineFailed
from gpustack_fast.faults import Faults
from gpustack_fast.storage.engine_paths import EnginePaths

__all__ = ["end_leftovers"]

LEFTOVER_GRACE = 15.0


async def end_leftovers(
    paths: EnginePaths, faults: Faults, grace: float = LEFTOVER_GRACE
) -> list[str]:
    """Ends the engines that an earlier, killed server left behind; returns the ids of the living.

    Never a process whose identity does not match. Raises EngineFailed when one cannot be ended: it
    may hold a GPU.
    """
    remove_files(*paths.records.glob("*.json.new"))
    found = sorted(paths.records.glob("*.json"))
    table = ProcessTable(faults)
    return [
        name
        for name in await asyncio.gather(*(end_leftover(record, table, grace) for record in found))
        if name
    ]


async def end_leftover(record: Path, table: ProcessTable, grace: float) -> str | None:
    """Ends the engine of one record; returns its id when somebody was alive."""
    identity = read_record(record)
    if identity is None:
        return None
    living = functools.partial(leftovers, identity, table, set())
    alive = await living() != []
    if alive and not await processes.end(
        identity.pid, living, signal.SIGTERM, grace, is_child=False
    ):
        raise EngineFailed(
            f"The engine {record.stem} (process {identity.pid}) of an earlier run cannot be ended, "
            "even by SIGKILL. It waits inside the kernel, perhaps for a device: look at it with "
            "`ps`, then start again."
        )
    remove_files(identity.socket, record)
    return record.stem if alive else None


def read_record(record: Path) -> Identity | None:
    """The identity in a record. One that cannot be read is not ours, and goes.

    Ours are replaced as a whole.
    """
    try:
        return msgspec.json.decode(record.read_bytes(), type=Identity)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        record.unlink(missing_ok=True)
        return None


async def leftovers(
    identity: Identity, table: ProcessTable, known: set[tuple[int, int]]
) -> list[Process] | None:
    """The living processes of an earlier run's session, where they certainly are of it.

    None: nobody can see them now.

    The kernel gives a session's number to nobody else while a member lives. So one member that is
    surely ours vouches for the others: the leader by its start time, or one that writes to the
    instance's own log, or one known before. `known` remembers them from call to call, as pairs of
    process id and start time.
    """
    if not identity.is_of_this_boot():
        return []
    members = await table.members(identity.pid)
    if members is None:
        return None
    found = [one for one in members if one.alive]
    sure = any(
        identity.is_leader(one)
        or (one.pid, one.start_time) in known
        or processes.writes_to(one.pid, identity.log)
        for one in found
    )
    if not sure:
        return []
    known.update((one.pid, one.start_time) for one in found)
    return found
