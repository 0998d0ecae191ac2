"""Shortages for tests: real ones of descriptors and of room, and a disk that confirms no folder."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import stat
from collections.abc import Iterator
from unittest import mock

__all__ = ["limited", "no_descriptors", "no_room", "unconfirmed_folders"]


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
