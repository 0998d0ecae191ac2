"""Shortages for tests: real ones of descriptors and of room, and a disk that confirms no folder."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

__all__ = ["limited", "no_descriptors", "no_room", "small_disk", "unconfirmed_folders"]


@contextlib.contextmanager
def no_descriptors(pid: int = 0) -> Iterator[None]:
    """A process that can open nothing while the block runs; what is open stays. 0: this one."""
    with limited(pid, resource.RLIMIT_NOFILE, 1):
        yield


@contextlib.contextmanager
def no_room(pid: int = 0) -> Iterator[None]:
    """A process that can write nothing into files while the block runs. 0: this one."""
    with limited(pid, resource.RLIMIT_FSIZE, 0):
        yield


@contextlib.contextmanager
def small_disk(folder: Path, size: int) -> Iterator[bool]:
    """A disk of its own at an empty folder while the block runs, with so many bytes of room.

    Whether there is one: only root may mount it, and not in every container.
    """
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "gpustack-fast-test", str(folder)]
    mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextlib.contextmanager
def unconfirmed_folders(number: int = errno.EIO) -> Iterator[None]:
    """A disk that confirms to this process what is in files, and not which files there are."""
    fsync = os.fsync

    def fail(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    with mock.patch.object(os, "fsync", fail):
        yield


@contextlib.contextmanager
def limited(pid: int, kind: int, limit: int) -> Iterator[None]:
    """A process with this soft limit while the block runs. 0: this one."""
    soft, hard = resource.prlimit(pid, kind)
    resource.prlimit(pid, kind, (limit, hard))
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid or os.getpid(), kind, (soft, hard))
