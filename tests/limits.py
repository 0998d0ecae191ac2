"""Real shortages for tests: of descriptors, and of room for what is written."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Iterator

__all__ = ["limited", "no_descriptors", "no_room"]


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
def limited(pid: int, kind: int, limit: int) -> Iterator[None]:
    """A process with this soft limit while the block runs. 0: this one."""
    soft, hard = resource.prlimit(pid, kind)
    resource.prlimit(pid, kind, (limit, hard))
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid or os.getpid(), kind, (soft, hard))
