"""Who listens at an address, by the kernel's tables: a path or a port may be another program's."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

__all__ = ["is_theirs", "listens"]

_LISTEN = "0A"
"""The state of a listening socket in /proc/net/tcp."""
_ACCEPTS = 0x10000
"""The flag of one in /proc/net/unix (`__SO_ACCEPTCON`)."""
_LOOPBACK = f"{int.from_bytes(socket.inet_aton('127.0.0.1'), sys.byteorder):08X}"
_MAPPED = f"{int.from_bytes(bytes.fromhex('0000ffff'), sys.byteorder):08X}"
_REACHED = {_LOOPBACK, "0" * 8, "0" * 32, "0" * 16 + _MAPPED + _LOOPBACK}
"""Local addresses at which a connection to 127.0.0.1 may arrive."""


def listens(port: int, pids: Iterable[int]) -> bool:
    """Whether one of these processes listens at a TCP port. Raises OSError where nobody can see
    that.
    """
    sockets = {inode for _, inode in _of_port(port)}
    return any(not sockets.isdisjoint(_descriptors(pid)) for pid in pids)


def is_theirs(address: str, pids: Iterable[int]) -> bool | None:
    """Whether all that listens at an address is of these processes, so that what is said there
    reaches nobody else; None: nobody listens there.

    `address`: `unix:/PATH` or `http://127.0.0.1:PORT`. Raises OSError where nobody can see that.
    """
    if address.startswith("unix:"):
        sockets = set(_of_path(address.removeprefix("unix:")))
    else:
        port = urlsplit(address).port or 0
        sockets = {inode for local, inode in _of_port(port) if local in _REACHED}
    if not sockets:
        return None
    return sockets <= {inode for pid in pids for inode in _descriptors(pid)}


def _of_port(port: int) -> Iterator[tuple[str, str]]:
    """The sockets that listen at a TCP port: local address (in hexadecimal) and socket."""
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(FileNotFoundError):  # without IPv6 there is one alone
            for line in Path(f"/proc/net/{table}").read_text(encoding="ascii").splitlines()[1:]:
                fields = line.split()
                local, _, number = fields[1].rpartition(":")
                if fields[3] == _LISTEN and int(number, 16) == port:
                    yield local, f"socket:[{fields[9]}]"


def _of_path(path: str) -> Iterator[str]:
    """The sockets that listen at a Unix socket's path, also those whose file was removed."""
    wanted = os.fsencode(path)
    for line in Path("/proc/net/unix").read_bytes().splitlines()[1:]:
        # Num RefCount Protocol Flags Type St Inode Path, which may have blanks.
        fields = line.split(None, 7)
        if len(fields) == 8 and fields[7] == wanted and int(fields[3], 16) & _ACCEPTS:
            yield f"socket:[{int(fields[6])}]"


def _descriptors(pid: int) -> Iterator[str]:
    """What a process's descriptors lead to; nothing of one that has ended."""
    folder = f"/proc/{pid}/fd"
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for name in os.listdir(folder):
            with contextlib.suppress(FileNotFoundError):
                yield os.readlink(f"{folder}/{name}")
