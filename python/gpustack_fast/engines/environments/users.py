"""Who uses a folder of programs: the processes that run from it."""

from __future__ import annotations

import contextlib
import errno
import os
import queue
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from gpustack_fast import plain_files
from gpustack_fast.engines import processes
from gpustack_fast.engines.environments.places import interpreter
from gpustack_fast.engines.processes import Identity

__all__ = ["users"]

SEEN_WITHIN = 5.0
"""Seconds for the look at one process. Its memory cannot be read while a driver changes it."""


def users(data_dir: Path, folders: Sequence[Path]) -> dict[Path, list[str]]:
    """For each folder, who runs from it: instances of this data directory, and other processes.

    An engine may write over its own command line, so the files in its memory are looked at, too.
    Those of other users' processes can be seen by root alone. Of a process that a driver keeps
    inside the kernel nothing can be seen: it counts where it may be one. Raises OSError.
    """
    spellings = {folder: {f"{folder}/", f"{os.path.realpath(folder)}/"} for folder in folders}
    found: dict[Path, list[str]] = {folder: [] for folder in folders}
    instances = _instances(data_dir)
    pids = sorted(int(name) for name in os.listdir("/proc") if name.isdigit())
    for pid, text in _looks([pid for pid in pids if pid != os.getpid()]):
        for folder, spelled in spellings.items():
            if text is None and _may_run_from(pid, folder, spelled):
                found[folder].append(f"{_shown(pid, instances)}, which cannot be looked at")
            elif text is not None and any(one in text for one in spelled):
                found[folder].append(_shown(pid, instances))
    return found


def _looks(pids: list[int]) -> Iterator[tuple[int, str | None]]:
    """What `_arguments_and_files` says of each process; None: it keeps whoever looks at it, and the
    thread that does is left behind. Raises OSError.
    """
    while pids:
        seen: queue.SimpleQueue[str | OSError] = queue.SimpleQueue()
        try:
            threading.Thread(target=_look, args=(pids, seen), daemon=True).start()
        except RuntimeError as error:
            raise OSError(errno.EAGAIN, "no thread can be started") from error
        looked_at, pids = pids, []
        for number, pid in enumerate(looked_at, 1):
            try:
                text = seen.get(timeout=SEEN_WITHIN)
            except queue.Empty:
                yield pid, None
                pids = looked_at[number:]
                break
            if isinstance(text, OSError):
                raise text
            yield pid, text


def _look(pids: list[int], seen: queue.SimpleQueue[str | OSError]) -> None:
    for pid in pids:
        try:
            seen.put(_arguments_and_files(pid))
        except OSError as error:
            seen.put(error)


def _arguments_and_files(pid: int) -> str:
    """A process's arguments, and the paths of the files in its memory, each behind a zero or a
    space. What may not be seen is left out. Raises OSError for this machine.
    """
    parts = []
    for name in ("cmdline", "maps"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            parts.append(Path(f"/proc/{pid}/{name}").read_bytes().decode(errors="replace"))
    return "\0".join(parts)


def _may_run_from(pid: int, folder: Path, spelled: set[str]) -> bool:
    """Whether a process's program lies in the folder, or is the Python on which that rests."""
    try:
        program = os.readlink(f"/proc/{pid}/exe").removesuffix(" (deleted)")
    except OSError:
        return False  # it has ended, or is another user's
    python = os.path.realpath(interpreter(folder))
    return program == python or any(program.startswith(one) for one in spelled)


def _instances(data_dir: Path) -> dict[int, str]:
    """The ids of the instances that have a record, by the numbers of their sessions."""
    found = {}
    for path in (data_dir / "run" / "instances").glob("*.json"):
        try:
            content = plain_files.read_bytes(path, pipes=False)
            identity = msgspec.json.decode(content, type=Identity)
        except (OSError, msgspec.DecodeError):
            continue
        if identity.is_of_this_boot():
            found[identity.pid] = path.stem
    return found


def _shown(pid: int, instances: dict[int, str]) -> str:
    try:
        one = processes.process(pid)
    except OSError:
        one = None
    instance = instances.get(one.session) if one is not None else None
    return f"process {pid}" if instance is None else f"instance {instance} (process {pid})"
