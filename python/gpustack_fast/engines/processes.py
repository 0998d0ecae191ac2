"""Processes as the kernel knows them: their identity, their session, and their end.

A process is identified by boot id, process id and start time together: a process id alone may
belong to another program by now. An engine's children stay in its session (it is started as the
leader of one), so *an engine is gone when no living process of its session is left*.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import msgspec

__all__ = [
    "Identity",
    "Process",
    "become_subreaper",
    "boot_id",
    "end",
    "members",
    "open_standard_descriptors",
    "process",
    "reap",
    "writes_to",
]

PR_SET_CHILD_SUBREAPER = 36

ASK_AGAIN_EVERY = 5.0
"""vLLM loses a SIGTERM that comes while it loads."""
ORPHANS_MAY_TAKE = 3.0
"""Seconds for the rest of a session after its leader's end: vLLM's workers were seen to need 2.2.
"""
KILLED_MAY_TAKE = 10.0
"""Seconds until a killed process is given up: one may wait for a device or a network disk."""
LOOK_EVERY = 0.05


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """The record that `backends/exec_stub.py` writes before it becomes the engine."""

    pid: int
    """Also the number of its session."""
    start_time: int
    """Clock ticks after boot: field 22 of /proc/PID/stat."""
    boot_id: str
    socket: str
    log: str

    def leader_is_alive(self) -> bool:
        """Whether this very process, and no later one with its number, is there."""
        found = process(self.pid)
        return (
            self.is_of_this_boot()
            and found is not None
            and found.alive
            and found.start_time == self.start_time
        )

    def is_of_this_boot(self) -> bool:
        return self.boot_id == boot_id()


class Process(NamedTuple):
    """A line of the process table."""

    pid: int
    parent: int
    session: int
    start_time: int
    alive: bool
    """False for a zombie."""


def boot_id() -> str:
    """Differs after every start of the machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def process(pid: int) -> Process | None:
    """Reads /proc/PID/stat; None when there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name, in parentheses before the state, may hold anything.
    state, parent, _, session, *rest = text.rpartition(")")[2].split()
    return Process(pid, int(parent), int(session), int(rest[15]), state not in "ZX")


def members(session: int) -> list[Process]:
    """Every process of a session, zombies too."""
    found = (process(int(name)) for name in os.listdir("/proc") if name.isdigit())
    return [one for one in found if one is not None and one.session == session]


def writes_to(pid: int, log: str) -> bool:
    """Whether a process's output goes to this file, which makes an orphaned session ours."""
    for number in (1, 2):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/{pid}/fd/{number}") == log:
                return True
    return False


def send(pid: int, number: signal.Signals) -> None:
    """Sends a signal; a process that is gone already is no error."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


async def end(
    leader: int, living: Callable[[], list[Process]], polite: signal.Signals, grace: float
) -> bool:
    """Ends a session: asks its leader, again and again; after `grace` seconds kills the rest.

    `living` gives its living processes. Returns whether nobody is left.
    """
    begun = now = time.monotonic()
    deadline, ask_at = begun + grace, begun
    while left := living():
        if all(one.pid != leader for one in left):
            deadline = min(deadline, now + ORPHANS_MAY_TAKE)
        if now >= deadline + KILLED_MAY_TAKE:
            return False
        if now >= deadline:
            for one in left:
                send(one.pid, signal.SIGKILL)
        elif now >= ask_at:
            ask_at = now + ASK_AGAIN_EVERY
            for one in left:
                if one.pid == leader:
                    send(one.pid, polite)
        await asyncio.sleep(LOOK_EVERY)
        now = time.monotonic()
    return True


def reap(found: list[Process], spare: int) -> None:
    """Takes the exit codes of zombies that became our children when their parent died.

    By number, never `any child`: other parts of the program wait for children of their own. `spare`
    is the leader, whose exit code is still wanted.
    """
    for one in found:
        if not one.alive and one.parent == os.getpid() and one.pid != spare:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(one.pid, os.WNOHANG)


def open_standard_descriptors() -> None:
    """Opens /dev/null where standard input, output or error is closed.

    Else a file or a socket of ours would get that number, and lines and keys would be written into
    it.
    """
    for standard in (0, 1, 2):
        try:
            os.fstat(standard)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened == standard:
                os.set_inheritable(opened, True)
            else:
                os.dup2(opened, standard)
                os.close(opened)


def become_subreaper() -> None:
    """Makes orphans among our descendants our children, not init's, so that we see them end."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER) failed")
