"""The server's end of the control socket."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import stat
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol, TypeAlias

import msgspec

from gpustack_fast.control.documents import (
    LONGEST_LINE,
    Apply,
    ApplyReport,
    CreatedKey,
    CreateKey,
    DrainInstance,
    DrainReport,
    Failure,
    HandedOver,
    HandOver,
    KeyInfo,
    ListKeys,
    Request,
    Response,
    ResumeInstance,
    RevokeKey,
    ServerStatus,
)
from gpustack_fast.errors import ControlError, GpustackFastError
from gpustack_fast.faults import Faults, go_on, reason_of
from gpustack_fast.keys.live import Keys
from gpustack_fast.listeners import hidden_path, remove_socket
from gpustack_fast.storage.data_directory import explain_os_error

__all__ = ["ControlServer", "Handler"]

log = logging.getLogger(__name__)

_IDLE = 60.0
"""Seconds that a connection may stay without a request."""
_TAKEN_WITHIN = 10.0
"""Seconds in which a command has to take a response."""
_PAUSE = 0.1
"""Seconds until the next try to accept."""
_UCRED = struct.Struct("iII")
"""`struct ucred` of Linux: process, user, group (unix(7))."""


Result: TypeAlias = (
    CreatedKey | KeyInfo | list[KeyInfo] | ServerStatus | DrainReport | ApplyReport | HandedOver
)
"""What an operation comes to."""


class Handler(Protocol):
    """The operations of a running server, handed in by `app`."""

    @property
    def keys(self) -> Keys: ...

    def status(self) -> ServerStatus: ...

    def drain(self, which: str) -> DrainReport: ...

    def resume(self, which: str) -> DrainReport: ...

    async def hand_over(self, python: str | None, timeout: float) -> HandedOver: ...

    async def apply(self, file: str, *, dry_run: bool) -> ApplyReport: ...

    def key_warnings(self, key: KeyInfo) -> list[str]: ...


class ControlServer:
    """Listens from `start` to `close`.

    Needs the lock of the data directory: it removes the socket of a dead server.
    """

    def __init__(self, path: Path, handler: Handler, faults: Faults | None = None) -> None:
        self._path = path
        self._handler = handler
        self._faults = faults or Faults()
        self._accepting: asyncio.Task[None] | None = None
        self._listener: socket.socket | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._responding: set[asyncio.Task[None]] = set()
        """Those of the connections that have asked for something and have no response yet."""
        self._reserve = _Reserve()
        self._is_shown = False

    async def start(self, *, shown: bool = True) -> None:
        """Begins to listen, at its path or, not `shown`, where nobody looks before `show`.

        Raises ControlError when the socket cannot be made.
        """
        try:
            listener = _listen(self._path, hidden_path(self._path))
            if shown:
                self.show()
        except OSError as error:
            raise ControlError(
                explain_os_error(error, f"The control socket {self._path} cannot be made")
            ) from error
        self._reserve.fill()
        self._listener = listener
        self._accepting = asyncio.ensure_future(
            go_on(self._accept, "The control socket", self._faults)
        )

    def show(self) -> None:
        """Puts the socket in its place, which another server may have had. Raises OSError."""
        hidden_path(self._path).rename(self._path)
        self._is_shown = True

    async def close(self, *, taken_over: bool = False) -> None:
        """Stops listening, ends the connections, and removes the socket's file, unless it is that
        of another server, which has `taken_over`.
        """
        if self._accepting is None:
            return
        self._accepting.cancel()
        await asyncio.wait({self._accepting})
        if self._listener is not None:
            self._listener.close()
        if not taken_over:
            await remove_socket(self._path if self._is_shown else hidden_path(self._path))
        if taken_over and self._responding:
            # Whoever has asked for that is still to hear of it.
            await asyncio.wait(self._responding, timeout=_TAKEN_WITHIN)
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        self._reserve.give()
        self._accepting = None

    async def _accept(self) -> None:
        """Accepts for ever, with the reserved descriptor where there is no other."""
        loop, listener = asyncio.get_running_loop(), self._listener
        assert listener is not None
        while True:
            try:
                connection, _ = await loop.sock_accept(listener)
            except OSError as error:
                self._faults.note("control_socket", error)
                self._reserve.give()
                try:
                    connection, _ = listener.accept()
                except OSError:
                    await asyncio.sleep(_PAUSE)
                    continue
            connection.setblocking(False)
            task = asyncio.ensure_future(self._converse(connection))
            self._connections.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, connection: asyncio.Task[None]) -> None:
        """Tells of a connection that ended by a mistake: nobody waits for it."""
        self._connections.discard(connection)
        error = None if connection.cancelled() else connection.exception()
        if error is not None:
            log.error("A command was not carried out, by a mistake.", exc_info=error)
            self._faults.note("mistake", type(error).__name__)

    async def _converse(self, connection: socket.socket) -> None:
        """Carries out the requests of one connection, one after the other."""
        with connection:
            user = _peer_user(connection)
            if user not in (os.geteuid(), 0):
                log.warning("The control socket rejected a process of the user %d.", user)
                return
            reader, writer = await _streams(connection)
            await self._carry_out_all(reader, writer)
        self._reserve.fill()

    async def _carry_out_all(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            while line := await _next_line(reader):
                with self._responds():
                    writer.write(msgspec.json.encode(await self._respond(line)) + b"\n")
                    if not await _is_sent(writer):
                        return
            writer.close()
            with contextlib.suppress(OSError):
                async with asyncio.timeout(_TAKEN_WITHIN):
                    await writer.wait_closed()
        finally:
            # Who takes nothing must keep no stop waiting.
            writer.transport.abort()

    @contextlib.contextmanager
    def _responds(self) -> Iterator[None]:
        """Inside, a stop waits for this connection for a while."""
        task = asyncio.current_task()
        assert task is not None
        self._responding.add(task)
        try:
            yield
        finally:
            self._responding.discard(task)

    async def _respond(self, line: bytes) -> Response:
        try:
            request = msgspec.json.decode(line, type=Request)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            message = (
                "The control socket got a request that it does not know. Use a command of "
                "the server's version."
            )
            return Response(error=Failure(kind=ControlError.__name__, message=message))
        try:
            return Response(result=msgspec.Raw(msgspec.json.encode(await self._carry_out(request))))
        except GpustackFastError as error:
            return Response(error=Failure(kind=type(error).__name__, message=str(error)))
        except OSError as error:
            message = f"The server could not do it: {reason_of(error)}. Repeat the command."
            return Response(error=Failure(kind=ControlError.__name__, message=message))

    async def _carry_out(self, request: Request) -> Result:
        keys = self._handler.keys
        if isinstance(request, CreateKey):
            created = await keys.create(request.name, request.grant, request.text)
            warnings = [*created.warnings, *self._handler.key_warnings(created.info)]
            return msgspec.structs.replace(created, warnings=warnings)
        if isinstance(request, RevokeKey):
            return await keys.revoke(request.which)
        if isinstance(request, ListKeys):
            return keys.all()
        if isinstance(request, DrainInstance):
            return self._handler.drain(request.which)
        if isinstance(request, ResumeInstance):
            return self._handler.resume(request.which)
        if isinstance(request, HandOver):
            return await self._handler.hand_over(request.python, request.timeout)
        if isinstance(request, Apply):
            return await self._handler.apply(request.file, dry_run=request.dry_run)
        return self._handler.status()


def _listen(path: Path, hidden: Path) -> socket.socket:
    """A listening socket at the hidden path, from where it can replace what is at the path."""
    for one in (path, hidden):
        if (one.exists() or one.is_symlink()) and not stat.S_ISSOCK(one.lstat().st_mode):
            raise ControlError(
                f"{one} is in the way of the control socket and is no socket. Move it away."
            )
    hidden.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(str(hidden))
        # Before `listen` nobody can connect, so that there is no moment with wider rights.
        hidden.chmod(0o600)
        listener.listen(16)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener


class _Reserve:
    """A descriptor that is kept for a command, so that a key can be revoked without another one."""

    def __init__(self) -> None:
        self._descriptor: int | None = None

    def fill(self) -> None:
        """Takes one, if there is one."""
        if self._descriptor is None:
            with contextlib.suppress(OSError):
                self._descriptor = os.open("/", os.O_PATH | os.O_CLOEXEC)

    def give(self) -> None:
        """Gives it back."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


async def _next_line(reader: asyncio.StreamReader) -> bytes:
    """The next request of a connection; empty: there comes none."""
    try:
        # Not `wait_for`: Python 3.11's loses a cancellation that comes with the line.
        async with asyncio.timeout(_IDLE):
            return await reader.readline()
    except ValueError:
        log.warning(
            "The control socket got a line of more than %d bytes and closed the connection.",
            LONGEST_LINE,
        )
    except (TimeoutError, OSError):
        pass  # The other end is silent or gone.
    return b""


async def _is_sent(writer: asyncio.StreamWriter) -> bool:
    """Whether the other end takes what was written for it; False: it is gone, or takes nothing."""
    try:
        async with asyncio.timeout(_TAKEN_WITHIN):
            await writer.drain()
    except OSError:
        return False
    return True


async def _streams(
    connection: socket.socket,
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(LONGEST_LINE, loop)
    protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
    transport, _ = await loop.connect_accepted_socket(lambda: protocol, connection)
    return reader, asyncio.StreamWriter(transport, protocol, reader, loop)


def _peer_user(peer: socket.socket) -> int:
    credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    _, user, _ = _UCRED.unpack(credentials)
    return int(user)
