"""The sockets where clients arrive, bound first, so that a taken port is reported at once.

And what is around them: whether a process may open as many as it needs, and the removal of a Unix
socket's file, for those of commands and of the management API.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import logging
import resource
import socket
from pathlib import Path

from gpustack_fast.errors import GpustackFastError, UsageError
from gpustack_fast.faults import is_ours, reason_of, run_in_thread

__all__ = ["BindError", "NeverBound", "bind", "check_descriptors", "hidden_path", "remove_socket"]

log = logging.getLogger(__name__)

REMOVED_WITHIN = 5.0
"""Seconds that a disk may take to remove a socket's file before the server's end goes on."""
BACKLOG = 4096
DESCRIPTORS = 64
"""The open files of a start without engines, with some to spare: 34 were seen to be enough."""
DESCRIPTORS_OF_WORKER = 8
"""The same for each of its threads."""
NO_NAME = (socket.EAI_NONAME, socket.EAI_NODATA, socket.EAI_ADDRFAMILY)
"""The resolver's errors that stay; a server of names that does not answer may answer later."""
NO_RIGHTS = (errno.EACCES, errno.EPERM)


class BindError(GpustackFastError):
    """The server cannot listen on the address or port of its configuration."""


class NeverBound(BindError):
    """No later start could listen there either: the configuration is wrong."""

    exit_status = UsageError.exit_status


def check_descriptors(workers: int) -> None:
    """Raises GpustackFastError where a start would run out of them, somewhere on its way."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = DESCRIPTORS + workers * DESCRIPTORS_OF_WORKER
    if limit != resource.RLIM_INFINITY and limit < needed:
        raise GpustackFastError(
            f"The server cannot start: this process may have {limit} open files at once, and "
            f"{needed} are the least (workers: {workers}). Raise the limit of descriptors, `ulimit "
            "-n` or LimitNOFILE of the systemd unit; each connection needs one or two more."
        )


def bind(host: str, port: int) -> list[socket.socket]:
    """Listening sockets for every address of `host`. Port 0 takes any free one, the same for all.

    Raises BindError.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        kind = NeverBound if error.errno in NO_NAME else BindError
        raise kind(
            f"The host {host} is unknown: {error.strerror}. Set --host to an address here."
        ) from error
    listeners: list[socket.socket] = []
    for family, _, _, _, address in dict.fromkeys(found):
        try:
            listeners.append(listen(family, str(address[0]), port))
        except OSError as error:
            for listener in listeners:
                listener.close()
            kind = NeverBound if error.errno in NO_RIGHTS else BindError
            raise kind(explain(error, host, port)) from error
        port = port or int(listeners[0].getsockname()[1])
    return listeners


def listen(family: int, address: str, port: int) -> socket.socket:
    """One listening socket. An IPv6 one takes IPv6 alone: the IPv4 addresses have their own."""
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind((address, port))
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def hidden_path(path: Path) -> Path:
    """Where a Unix socket is made, and listens already, before it is renamed to its path: so that
    who connects there meets this server or the one before, and never nobody. It is not longer.
    """
    return path.with_suffix(".new")


def urls_of(sockets: list[socket.socket]) -> list[str]:
    """The addresses of listening sockets as `HOST:PORT`, an IPv6 one in brackets."""
    found = []
    for one in sockets:
        host, port = one.getsockname()[:2]
        found.append(f"[{host}]:{port}" if one.family == socket.AF_INET6 else f"{host}:{port}")
    return found


async def remove_socket(path: Path) -> None:
    """Removes the file of a Unix socket that is closed, or tells why it cannot; it is no file of
    value, and the next start removes it, too.
    """
    try:
        async with asyncio.timeout(REMOVED_WITHIN):
            await run_in_thread(functools.partial(path.unlink, missing_ok=True))
    except OSError as error:
        log.warning(
            "The socket %s could not be removed: %s. Remove it before the next start, if that "
            "cannot.",
            path,
            error.strerror or "the disk does not respond",
        )


def explain(error: OSError, host: str, port: int) -> str:
    """The cause and the next step."""
    if error.errno == errno.EADDRINUSE:
        return (
            f"The port {port} of {host} is in use by another program. "
            "Stop that one, or choose another port with --port (0 takes any free one)."
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return f"The address {host} does not belong to this machine. Choose another with --host."
    if error.errno in NO_RIGHTS:
        return (
            f"The port {port} of {host} needs more rights than this user has. Choose one above "
            "1023 with --port."
        )
    if is_ours(error):
        return f"The server cannot listen on {host}, port {port}: {reason_of(error)}."
    return (
        f"The server cannot listen on {host}, port {port}: {error.strerror}. Choose others with "
        "--host and --port."
    )
