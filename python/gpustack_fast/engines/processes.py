"""Processes as the kernel knows them: their identity, their session, and their end.

A process is identified by boot id, process id and start time together: a process id alone may
belong to another program by now. An engine's children stay in its session (it is started as the
leader of one), so *an engine is gone when no living process of its session is left*.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import ctypes
import errno
import functools
import os
import signal
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

import msgspec

from gpustack_fast.faults import Faults, run_in_thread

__all__ = [
    "MARK",
    "Identity",
    "Process",
    "ProcessTable",
    "become_subreaper",
    "boot_id",
    "end",
    "mark_of",
    "open_standard_descriptors",
    "process",
    "processor_time",
    "reap",
    "surely",
    "user_of",
    "writes_to",
]

Found = TypeVar("Found")

PR_SET_CHILD_SUBREAPER = 36

MARK = "GPUSTACK_FAST_INSTANCE"
"""The environment variable of an engine's processes with the path of its record. By it those are
found that have left its session, as MPI's daemons do, which start TensorRT-LLM's workers.
"""

ASK_AGAIN_EVERY = 5.0
"""vLLM loses a SIGTERM that comes while it loads."""
ORPHANS_MAY_TAKE = 3.0
"""Seconds for the rest of a session after its leader's end: vLLM's workers were seen to need 2.2.
"""
KILLED_MAY_TAKE = 10.0
"""Seconds until a killed process is given up: one may wait for a device or a network disk."""
UNSEEN_MAY_TAKE = 60.0
"""Seconds for which the end of a session is waited for while nobody can see who is left of it."""
READ_WITHIN = 10.0
"""Seconds after which a process table that does not come is one that cannot be read."""
LOOK_EVERY = 0.05
LOOK_AT_MARKS_EVERY = 0.25
"""Seconds: the variables of every process are read for it."""


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """Who an engine is: the part of its record (`records`) that every version has written."""

    pid: int
    """Also the number of its session."""
    start_time: int
    """Clock ticks after boot: field 22 of /proc/PID/stat."""
    boot_id: str
    socket: str
    log: str

    def is_leader(self, one: Process) -> bool:
        """Whether a process is this very one, and no later one with its number."""
        return one.pid == self.pid and one.start_time == self.start_time

    def is_of_this_boot(self) -> bool:
        return self.boot_id == boot_id()


class Process(NamedTuple):
    """A line of the process table."""

    pid: int
    parent: int
    session: int
    start_time: int
    alive: bool
    """False for a zombie, unless threads of it go on: it cannot be reaped before their end."""


@functools.cache
def boot_id() -> str:
    """Differs after every start of the machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def process(pid: int) -> Process | None:
    """Reads /proc/PID/stat; None when there is no such process, or none that we may see.

    Raises OSError where the table cannot be read.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    try:
        # The name, in parentheses before the state, may hold anything.
        state, parent, _, session, *rest = text.rpartition(")")[2].split()
        threads, start_time = int(rest[13]), int(rest[15])
        return Process(pid, int(parent), int(session), start_time, state not in "ZX" or threads > 1)
    except (ValueError, IndexError) as error:
        # Left out, it might be the one of a session that lives on.
        raise OSError(errno.EIO, "A line is not understood", f"/proc/{pid}/stat") from error


def processor_time(pid: int) -> float | None:
    """Seconds of processors' time that all threads of a process have used; None: it cannot be read
    now, or the process is gone.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
        user, system = text.rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError):
        return None


Sessions = Mapping[int, list[Process]]
"""Every process by its session, zombies too."""


def read_sessions() -> Sessions:
    """One pass over /proc. Raises OSError where it cannot be read."""
    found: dict[int, list[Process]] = collections.defaultdict(list)
    for name in os.listdir("/proc"):
        if name.isdigit() and (one := process(int(name))) is not None:
            found[one.session].append(one)
    return found


def read_marks() -> Mapping[str, list[Process]]:
    """Every process of this user with a mark, by that. Raises OSError where none can be seen."""
    found: dict[str, list[Process]] = collections.defaultdict(list)
    for name in os.listdir("/proc"):
        if name.isdigit() and (mark := mark_of(int(name))) is not None:
            one = process(int(name))
            if one is not None:
                found[mark].append(one)
    return found


def mark_of(pid: int) -> str | None:
    """The mark of a process; None: it bears none, has ended, or is not ours to look into."""
    try:
        entries = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return None
    sign = f"{MARK}=".encode()
    found = [os.fsdecode(one.removeprefix(sign)) for one in entries if one.startswith(sign)]
    return found[0] if found else None


class _Pass(Generic[Found]):
    """What one look at all processes finds, read beside the event loop, and once for all who ask at
    one time.
    """

    def __init__(self, read: Callable[[], Found], every: float, faults: Faults) -> None:
        """`every`: seconds between the begins of two looks."""
        self._read = read
        self._every = every
        self._faults = faults
        self._following: asyncio.Task[Found | None] | None = None
        self._one_at_a_time = asyncio.Lock()
        self._not_before = 0.0
        """Monotonic seconds."""

    async def next(self) -> Found | None:
        """What was there after the call; None: nobody can see it now."""
        if self._following is None:
            self._following = asyncio.ensure_future(self._look())
        try:
            # A process that a driver keeps inside the kernel may keep whoever looks at it, too.
            async with asyncio.timeout(READ_WITHIN):
                return await asyncio.shield(self._following)
        except TimeoutError:
            self._faults.note("processes", f"it did not come within {READ_WITHIN:g} s")
            return None

    async def _look(self) -> Found | None:
        """The next look, a while after the last: all who ask until it begins wait for this one."""
        async with self._one_at_a_time:
            await asyncio.sleep(self._not_before - time.monotonic())
            self._following = None
            self._not_before = time.monotonic() + self._every
            try:
                return await run_in_thread(self._read)
            except OSError as error:
                self._faults.note("processes", error)
                return None


class ProcessTable:
    """The process table, for all who watch engines."""

    def __init__(self, faults: Faults) -> None:
        # By their names, which tests replace.
        self._sessions: _Pass[Sessions] = _Pass(lambda: read_sessions(), LOOK_EVERY, faults)
        self._marks: _Pass[Mapping[str, list[Process]]] = _Pass(
            lambda: read_marks(), LOOK_AT_MARKS_EVERY, faults
        )

    async def members(self, session: int, mark: str = "") -> list[Process] | None:
        """Every process of a session, zombies too; None: nobody can see them now.

        `mark`: those count, too, that have left the session and bear it, see `MARK`. What is read
        was there after the call, so that none is missed that was started before it.
        """
        sessions = await self._sessions.next()
        if sessions is None:
            return None
        found = sessions.get(session, [])
        if not mark:
            return found
        marks = await self._marks.next()
        if marks is None:
            return None
        known = {one.pid for one in found}
        return found + [one for one in marks.get(mark, []) if one.pid not in known]


async def surely(
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
        or writes_to(one.pid, identity.log)
        for one in found
    )
    if not sure:
        return left
    known.update((one.pid, one.start_time) for one in found)
    return found + left


def user_of(pid: int) -> int | None:
    """The effective user of a process; None: it is gone. Raises OSError."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for line in Path(f"/proc/{pid}/status").read_text(errors="replace").splitlines():
            if line.startswith("Uid:"):
                return int(line.split()[2])
    return None


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
    leader: int,
    living: Callable[[], Awaitable[list[Process] | None]],
    polite: signal.Signals,
    grace: float,
    *,
    is_child: bool,
) -> bool:
    """Ends a session: asks its leader, again and again; after `grace` seconds kills the rest.

    `living` gives its living processes, None where they cannot be seen now: only a leader that
    `is_child` of ours, so that its number is nobody else's, gets a signal unseen. Returns whether
    nobody is left.
    """
    begun = now = time.monotonic()
    deadline, ask_at = begun + grace, begun
    while (left := await living()) is None or left:
        if left is None:
            pids = [leader] if is_child else []
            give_up = max(deadline, begun + UNSEEN_MAY_TAKE) + KILLED_MAY_TAKE
        else:
            pids = [one.pid for one in left]
            if leader not in pids:
                deadline = min(deadline, now + ORPHANS_MAY_TAKE)
            give_up = deadline + KILLED_MAY_TAKE
        if now >= give_up:
            return False
        if now >= deadline:
            for pid in pids:
                send(pid, signal.SIGKILL)
        elif now >= ask_at:
            ask_at = now + ASK_AGAIN_EVERY
            if leader in pids:
                send(leader, polite)
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
