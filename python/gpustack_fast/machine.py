"""Facts of the machine that several rooms go by: cores, addresses, the longest path of a socket."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import os
import socket
from pathlib import Path

__all__ = [
    "SOCKET_PATH_LIMIT",
    "can_be_resolved",
    "is_loopback",
    "local_time",
    "outward_address",
    "usable_cores",
    "worker_threads",
]

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


def is_loopback(host: str) -> bool:
    """Whether an address, or the name `localhost`, is reached from this machine alone.

    Of other names nothing is known here: False.
    """
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def can_be_resolved(host: str) -> bool:
    """Whether a name is one that the system can be asked for: Python refuses others by itself."""
    try:
        host.encode("idna")
    except UnicodeError:
        return False
    return True


def local_time(unix: float) -> str:
    """A time in Unix seconds as people read it here: `2026-11-30 04:15:00+01:00`.

    In UTC where the zone here would make it later than the last day of the year 9999, with which
    certificates say that they never end (RFC 5280, 4.1.2.5).
    """
    time = datetime.datetime.fromtimestamp(int(unix), datetime.UTC)
    with contextlib.suppress(OverflowError):
        time = time.astimezone()
    return time.isoformat(sep=" ")


def outward_address() -> str | None:
    """The IPv4 address by which other machines most likely know this one; None: not known.

    It is the one that packets for elsewhere would carry. None is sent: the socket is of datagrams,
    and `connect` only asks the routing table.
    """
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
            asking.connect(("192.0.2.1", 9))  # reserved for documentation (RFC 5737)
            address: str = asking.getsockname()[0]
    except OSError:
        return None
    return None if is_loopback(address) else address


def worker_threads(cores: int) -> int:
    """The data plane's threads unless somebody says otherwise: a quarter of the cores, 1 to 4."""
    return min(4, max(1, cores // 4))
