"""Who uses a folder of programs: the processes that run from it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

from gpustack_fast import plain_files
from gpustack_fast.engines import processes
from gpustack_fast.engines.processes import Identity

__all__ = ["users"]


def users(data_dir: Path, folders: Sequence[Path]) -> dict[Path, list[str]]:
    """For each folder, who runs from it: instances of this data directory, and other processes.

    An engine may write over its own command line, so the files in its memory are looked at, too.
    Those of other users' processes can be seen by root alone. Raises OSError.
    """
    spellings = {folder: {f"{folder}/", f"{os.path.realpath(folder)}/"} for folder in folders}
    found: dict[Path, list[str]] = {folder: [] for folder in folders}
    instances = _instances(data_dir)
    for name in sorted(filter(str.isdigit, os.listdir("/proc")), key=int):
        pid = int(name)
        if pid == os.getpid():
            continue
        text = _arguments_and_files(pid)
        for folder, spelled in spellings.items():
            if any(one in text for one in spelled):
                found[folder].append(_shown(pid, instances))
    return found


def _arguments_and_files(pid: int) -> str:
    """A process's arguments, and the paths of the files in its memory, each behind a zero or a
    space. What cannot be seen is left out.
    """
    parts = []
    for name in ("cmdline", "maps"):
        try:
            parts.append(Path(f"/proc/{pid}/{name}").read_bytes().decode(errors="replace"))
        except OSError:
            continue
    return "\0".join(parts)


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
