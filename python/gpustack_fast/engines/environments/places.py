"""Where environments lie in the data directory.

    DATA_DIR/engines/BACKEND/
    ├── VERSION-VARIANT-HASH/           an environment; it is whole when `complete` is inside
    ├── VERSION-VARIANT-HASH.building/  on its way; a leftover goes with the next build
    ├── VERSION-VARIANT-HASH.removing/  on its way out, likewise
    ├── VERSION-VARIANT-HASH.lock       held by whoever builds or removes, and by its uv
    ├── VERSION-VARIANT.txt             the lock of a version that has none in the package
    └── VERSION-VARIANT.json            an environment of somebody else's, see `registered`

HASH is the first 12 hex digits of SHA-256 over the lock, so a new lock is a new environment beside
the old one.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import os
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from gpustack_fast import plain_files
from gpustack_fast.engines.environments.documents import Report
from gpustack_fast.engines.environments.recipes import Pin
from gpustack_fast.faults import open_in_thread

__all__ = [
    "Complete",
    "Found",
    "building_folder",
    "environment_path",
    "folder_of",
    "found",
    "holding",
    "interpreter",
    "is_complete",
    "kept_lock",
    "lock_of",
    "open_lock",
    "read_marker",
    "remove_tree",
    "removing_folder",
    "replace_file",
    "size_on_disk",
    "try_lock",
    "without_suffix",
    "write_marker",
]

MARKER = "complete"
LOOK_EVERY = 0.2
"""Seconds between two tries for a lock that somebody holds."""


class Complete(msgspec.Struct, frozen=True, kw_only=True):
    """The content of the marker, JSON."""

    version: str
    variant: str
    size: int
    """Bytes on the disk when it was built; what it shares with uv's cache counts, too."""


class Found(NamedTuple):
    """An environment of ours on the disk, whole or not."""

    folder: Path
    version: str
    variant: str


def folder_of(data_dir: Path, backend: str) -> Path:
    return data_dir / "engines" / backend


def kept_lock(data_dir: Path, pin: Pin) -> Path:
    """The lock of a version that has none in the package, made or not."""
    return folder_of(data_dir, pin.backend) / f"{pin.version}-{pin.variant}.txt"


def environment_path(data_dir: Path, pin: Pin) -> Path:
    """The folder of a pin's environment, built or not. Raises OSError."""
    assert pin.lock is not None, "an environment is named by its lock"
    digest = hashlib.sha256(pin.lock.read_bytes()).hexdigest()[:12]
    return folder_of(data_dir, pin.backend) / f"{pin.version}-{pin.variant}-{digest}"


def building_folder(environment: Path) -> Path:
    return environment.with_name(environment.name + ".building")


def removing_folder(environment: Path) -> Path:
    return environment.with_name(environment.name + ".removing")


def without_suffix(folder: Path) -> Path:
    """The place of an environment that is on its way in or out."""
    return folder.with_name(folder.name.removesuffix(".building").removesuffix(".removing"))


def interpreter(environment: Path) -> Path:
    return environment / "bin" / "python"


def is_complete(environment: Path) -> bool:
    """Whether it was built to the end, and the Python that it rests on is still there."""
    return (environment / MARKER).is_file() and interpreter(environment).exists()


def read_marker(environment: Path) -> Complete | None:
    """What was written when it was whole; None: it is not. Raises OSError."""
    try:
        content = plain_files.read_bytes(environment / MARKER, pipes=False)
        return msgspec.json.decode(content, type=Complete)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def write_marker(environment: Path, marker: Complete) -> None:
    (environment / MARKER).write_bytes(msgspec.json.encode(marker) + b"\n")


def replace_file(path: Path, content: bytes) -> None:
    """Writes a file that is there whole or not at all. Raises OSError."""
    new = path.with_name(path.name + ".new")
    new.write_bytes(content)
    new.rename(path)


def found(data_dir: Path, backend: str) -> Iterator[Found]:
    """The environments of a backend, whole or not, by version and variant. Raises OSError."""
    folder = folder_of(data_dir, backend)
    try:
        names = sorted(os.listdir(folder))
    except FileNotFoundError:
        return
    for name in names:
        path = folder / name
        parts = without_suffix(path).name.rsplit("-", 2)
        if len(parts) == 3 and path.is_dir() and not path.is_symlink():
            yield Found(path, parts[0], parts[1])


def size_on_disk(folder: Path) -> int:
    """Bytes that a folder's files take, each file once. What goes meanwhile does not count."""
    seen: set[tuple[int, int]] = set()
    total = 0
    for path, _, files in os.walk(folder):
        for name in files:
            with contextlib.suppress(FileNotFoundError):
                info = os.lstat(os.path.join(path, name))
                if (info.st_dev, info.st_ino) not in seen:
                    seen.add((info.st_dev, info.st_ino))
                    total += info.st_blocks * 512
    return total


def remove_tree(folder: Path) -> None:
    """Removes a folder, if it is there. Raises OSError."""
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(folder)


@contextlib.asynccontextmanager
async def holding(target: Path, waits_for: str, report: Report) -> AsyncIterator[int]:
    """Holds the lock beside `target`; gives its descriptor, which a child may hold on to.

    Whoever builds and whoever removes holds it; `waits_for` says in a line what is waited for, if
    somebody else does. Raises OSError.
    """
    handle = await open_in_thread(open_lock, target)
    waiting = False
    try:
        while not try_lock(handle):
            if not waiting:
                report(waits_for)
                waiting = True
            await asyncio.sleep(LOOK_EVERY)
        yield handle
    finally:
        os.close(handle)


def lock_of(target: Path) -> Path:
    """The file that whoever builds or removes an environment locks."""
    return target.with_name(target.name + ".lock")


def open_lock(target: Path) -> int:
    """Opens the lock beside `target`, and makes its folder. Raises OSError."""
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return os.open(lock_of(target), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def try_lock(handle: int) -> bool:
    """Takes the lock, if nobody has it."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
