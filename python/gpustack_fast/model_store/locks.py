"""Who may change a repository in the store, and who uses it. The kernel frees what a process held.

Both are files beside the repository's folder, so that they outlive it.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

__all__ = ["open_lock", "share", "try_lock"]


def open_lock(path: Path) -> int:
    """Opens a lock's file, and makes its folder. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)


def try_lock(handle: int) -> bool:
    """Takes it for oneself alone, unless somebody has it. Raises OSError."""
    return _try(handle, fcntl.LOCK_EX)


def share(handle: int) -> bool:
    """Takes it together with others, unless somebody has it alone. Raises OSError."""
    return _try(handle, fcntl.LOCK_SH)


def _try(handle: int, how: int) -> bool:
    try:
        fcntl.flock(handle, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
