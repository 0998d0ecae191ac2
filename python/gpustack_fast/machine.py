"""Facts of the machine that several rooms go by: its cores, and the longest path of a socket."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["SOCKET_PATH_LIMIT", "usable_cores", "worker_threads"]

SOCKET_PATH_LIMIT = 107
"""Bytes: `sun_path` of Linux without its closing zero (unix(7))."""


def usable_cores() -> int:
    """The cores that this process may use: by affinity, and by the control group's quota."""
    cores = len(os.sched_getaffinity(0))
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return cores
    return cores if quota == "max" else max(1, min(cores, int(quota) // int(period)))


def worker_threads(cores: int) -> int:
    """The data plane's threads unless somebody says otherwise: a quarter of the cores, 1 to 4."""
    return min(4, max(1, cores // 4))
