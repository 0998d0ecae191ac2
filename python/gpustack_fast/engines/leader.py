"""The process that leads an engine's session: a child of this server, or one that was adopted.

Either is watched by its pidfd. Of a child the number is nobody else's until we reap it; of an
adopted one it is certain only as long as a member of its session vouches for the others.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Callable
from typing import Protocol

from gpustack_fast.engines import processes
from gpustack_fast.engines.processes import Identity, Process, ProcessTable

__all__ = ["Adopted", "Child", "Leader", "watch"]


class Leader(Protocol):
    """The leader of one session."""

    is_child: bool
    """Whether it is ours to reap, so that its number is nobody else's."""

    @property
    def pid(self) -> int: ...

    async def living(self, mark: str) -> list[Process] | None:
        """The living processes of its session, and with a `mark` those that bear it; None: nobody
        can see them now.
        """
        ...

    def how_it_ended(self) -> str:
        """The manner of its end for a sentence, as in `ended with exit code 1`. Only a hint."""
        ...

    def is_reaped(self) -> bool:
        """Whether nothing of it is left in the process table, once nobody of its session lives."""
        ...

    def leave(self) -> None:
        """Says that it goes on without this server."""
        ...


class Child:
    """An engine that this server has started."""

    is_child = True

    def __init__(self, process: subprocess.Popen[bytes], table: ProcessTable) -> None:
        self._process = process
        self._table = table

    @property
    def pid(self) -> int:
        return self._process.pid

    async def living(self, mark: str) -> list[Process] | None:
        """Reaps the dead ones except for the leader. As long as that is not reaped, no other
        session can have its number.
        """
        found = await self._table.members(self.pid, mark)
        if found is None:
            return None
        processes.reap(found, spare=self.pid)
        return [one for one in found if one.alive]

    def how_it_ended(self) -> str:
        """A crashed engine may well exit with 0."""
        found = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if found is None:
            return "is running"
        if found.si_code == os.CLD_EXITED:
            return f"ended with exit code {found.si_status}"
        hint = "; perhaps memory ran out, see `dmesg`" if found.si_status == signal.SIGKILL else ""
        return (
            f"was ended by signal {found.si_status} "
            f"({signal.strsignal(found.si_status) or 'unknown'}{hint})"
        )

    def is_reaped(self) -> bool:
        # Not `wait`: a leader that nobody sees, as without `/proc`, may live, and hold up all.
        return self._process.poll() is not None

    def leave(self) -> None:
        self._process.returncode = 0  # else Popen complains of a child that nobody waits for


class Adopted:
    """An engine that an earlier run has started. Whoever reaps it, it is not this server."""

    is_child = False

    def __init__(self, identity: Identity, table: ProcessTable) -> None:
        self._identity = identity
        self._table = table
        self._known: set[tuple[int, int]] = set()

    @property
    def pid(self) -> int:
        return self._identity.pid

    async def living(self, mark: str) -> list[Process] | None:
        return await processes.surely(self._identity, mark, self._table, self._known)

    def how_it_ended(self) -> str:
        with contextlib.suppress(OSError):
            one = processes.process(self.pid)
            if one is not None and one.alive and self._identity.is_leader(one):
                return "is running"
        return "has ended (nobody knows its exit code: an earlier run of this server started it)"

    def is_reaped(self) -> bool:
        return True

    def leave(self) -> None:
        pass


def watch(pid: int, ended: Callable[[], None]) -> int:
    """Calls `ended`, once, when a process has ended. Returns the descriptor, to be closed by the
    caller. Raises OSError: ProcessLookupError where there is no such process.
    """
    descriptor = os.pidfd_open(pid)
    loop = asyncio.get_running_loop()

    def on_end() -> None:
        loop.remove_reader(descriptor)
        ended()

    loop.add_reader(descriptor, on_end)
    return descriptor
