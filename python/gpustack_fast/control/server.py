"""The server's end of the control socket."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import stat
import struct
from pathlib import Path
from typing import Protocol

import msgspec

from gpustack_fast.control.documents import (
    LONGEST_LINE,
    CreatedKey,
    CreateKey,
    DrainInstance,
    DrainReport,
    Failure,
    KeyInfo,
    ListKeys,
    Request,
    Response,
    ResumeInstance,
    RevokeKey,
    ServerStatus,
)
from gpustack_fast.errors import ControlError, GpustackFastError
from gpustack_fast.keys.live import Keys
from gpustack_fast.storage.data_directory import explain_os_error

__all__ = ["ControlServer", "Handler"]

log = logging.getLogger(__name__)

_IDLE = 60.0
"""Seconds that a connection may stay without a request."""
_UCRED = struct.Struct("iII")
"""`struct ucred` of Linux: process, user, group (unix(7))."""


class Handler(Protocol):
    """The operations of a running server, handed in by `app`."""

    @property
    def keys(self) -> Keys: ...

    def status(self) -> ServerStatus: ...

    def drain(self, which: str) -> DrainReport: ...

    def resume(self, which: str) -> DrainReport: ...
    def key_warnings(self, key: KeyInfo) -> list[str]: ...


class ControlServer:
    """Listens from `start` to `close`.

    Needs the lock of the data directory: it removes the socket of a dead server.
    """

    def __init__(self, path: Path, handler: Handler) -> None:
        self._path = path
        self._handler = handler
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Begins to listen. Raises ControlError when the socket cannot be made."""
        try:
            listener = _listen(self._path)
        except OSError as error:
            raise ControlError(
                explain_os_error(error, f"The control socket {self._path} cannot be made")
            ) from error
        self._server = await asyncio.start_unix_server(
            self._accept, sock=listener, limit=LONGEST_LINE
        )

    async def close(self) -> None:
        """Stops listening, ends the connections, and removes the socket's file."""
        if self._server is None:
            return
        self._server.close()
        self._path.unlink(missing_ok=True)
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await self._server.wait_closed()
        self._server = None

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = asyncio.ensure_future(self._converse(reader, writer))
        self._connections.add(connection)
        connection.add_done_callback(self._connections.discard)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carries out the requests of one connection, one after the other."""
        try:
            user = _peer_user(writer)
            if user not in (os.geteuid(), 0):
                log.warning("The control socket rejected a process of the user %d.", user)
                return
            while line := await asyncio.wait_for(reader.readline(), _IDLE):
                writer.write(msgspec.json.encode(await self._respond(line)) + b"\n")
                await writer.drain()
        except (TimeoutError, OSError):
            pass  # The other end is silent or gone: nobody is left to respond to.
        except ValueError:
            log.warning(
                "The control socket got a line of more than %d bytes and closed the connection.",
                LONGEST_LINE,
            )
        finally:
            writer.close()

    async def _respond(self, line: bytes) -> Response:
        try:
            request = msgspec.json.decode(line, type=Request)
        except (msgspec.DecodeError, UnicodeDecodeError):
            message = (
                "The control socket got a request that it does not know. Use a command of "
                "the server's version."
            )
            return Response(error=Failure(kind=ControlError.__name__, message=message))
        try:
            return Response(result=msgspec.Raw(msgspec.json.encode(await self._carry_out(request))))
        except GpustackFastError as error:
            return Response(error=Failure(kind=type(error).__name__, message=str(error)))

    async def _carry_out(
        self, request: Request
    ) -> CreatedKey | KeyInfo | list[KeyInfo] | ServerStatus | DrainReport:
        keys = self._handler.keys
        if isinstance(request, CreateKey):
            created = await keys.create(request.name, request.grant, request.text)
            warnings = self._handler.key_warnings(created.info)
            return msgspec.structs.replace(created, warnings=warnings)
        if isinstance(request, RevokeKey):
            return await keys.revoke(request.which)
        if isinstance(request, ListKeys):
            return keys.all()
        if isinstance(request, DrainInstance):
            return self._handler.drain(request.which)
        if isinstance(request, ResumeInstance):
            return self._handler.resume(request.which)
        return self._handler.status()


def _listen(path: Path) -> socket.socket:
    if path.exists() or path.is_symlink():
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise ControlError(
                f"{path} is in the way of the control socket and is no socket. Move it away."
            )
        path.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(str(path))
        # Before `listen` nobody can connect, so that there is no moment with wider rights.
        path.chmod(0o600)
        listener.listen(16)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener


def _peer_user(writer: asyncio.StreamWriter) -> int:
    peer: socket.socket = writer.get_extra_info("socket")
    credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    _, user, _ = _UCRED.unpack(credentials)
    return int(user)
