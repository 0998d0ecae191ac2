"""granian, embedded in our event loop: the only file that names it.

granian calls its embedded server experimental (its version is pinned to a minor for that). What we
rely on, as read in 2.8: `Server(...)` configures the logger `_granian` and sets no signal handler;
`serve()` binds the Unix socket, runs one worker as a task of the running loop and returns after
`stop()`; at its end it removes the socket's file on the loop, if `bind_uds` still names it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

from granian.constants import HTTPModes, Interfaces
from granian.log import LogLevels
from granian.server.embed import Server

from gpustack_fast.api.application import Application
from gpustack_fast.errors import GpustackFastError
from gpustack_fast.listeners import hidden_path, remove_socket

__all__ = ["ApiServer"]

log = logging.getLogger(__name__)

_PATIENCE = 10.0
"""Seconds until the socket must be there, and until a stop must be done."""
_LOGGING = {
    "version": 1,
    "incremental": True,
    "loggers": {"_granian": {"level": "ERROR"}},
    "handlers": {},
    "formatters": {},
}
"""granian's logging, incremental: no handler is touched, and its own, to standard output, not made.
"""


class ApiServer:
    """Serves an application on a Unix socket in a private folder, from `start` to `close`."""

    def __init__(self, application: Application, socket: Path) -> None:
        self._application = application
        self._path = socket
        self._socket = hidden_path(socket)
        """Where it is now."""
        self._server: Server | None = None
        self._task: asyncio.Task[None] | None = None
        self._closing = False

    async def start(self, *, shown: bool = True) -> None:
        """Returns when the socket accepts connections, at its path or, not `shown`, where nobody
        looks before `show`.

        Needs the data directory's lock: it removes a dead server's socket. Raises GpustackFastError
        when the socket cannot be made.
        """
        try:
            self._socket.unlink(missing_ok=True)
        except OSError as error:
            raise _in_the_way(self._socket, error) from error
        self._server = Server(
            self._application,
            uds=self._socket,
            interface=Interfaces.ASGINL,
            http=HTTPModes.http1,
            websockets=False,
            log_level=LogLevels.error,
            log_dictconfig=_LOGGING,
        )
        self._task = asyncio.ensure_future(self._server.serve())
        try:
            async with asyncio.timeout(_PATIENCE):
                await self._wait_until_it_listens(self._task)
        except TimeoutError as error:
            raise GpustackFastError(
                f"The management API did not listen on {self._socket} within {_PATIENCE:g} s. "
                "Start again when this machine has less to do, and with more descriptors "
                "(`ulimit -n`) where that does not help."
            ) from error
        self._socket.chmod(0o600)
        self._task.add_done_callback(self._tell_end)
        if shown:
            self.show()

    def show(self) -> None:
        """Puts the socket in its place, which another server may have had.

        Raises GpustackFastError.
        """
        try:
            self._socket.rename(self._path)
        except OSError as error:
            raise _in_the_way(self._path, error) from error
        self._socket = self._path

    async def _wait_until_it_listens(self, serving: asyncio.Task[None]) -> None:
        while not await self._listens():
            if serving.done():
                error = serving.exception()
                # Behind its first line granian has a stack.
                reason = str(error).partition("\n")[0]
                raise GpustackFastError(
                    f"The management API could not listen on {self._socket}: {reason}. Check "
                    "the rights of its folder."
                ) from error
            await asyncio.sleep(0.01)

    async def close(self, *, taken_over: bool = False) -> None:
        """Ends the server and removes its socket's file, unless it is that of another server, which
        has `taken_over`.
        """
        if self._server is None or self._task is None:
            return
        self._closing = True
        self._server.bind_uds = None  # for a disk may not respond
        stop: Callable[[], None] = self._server.stop
        stop()
        ended, _ = await asyncio.wait({self._task}, timeout=_PATIENCE)
        if not ended:
            self._task.cancel()
            log.warning("The management API did not end within %g s and was abandoned.", _PATIENCE)
        self._server = self._task = None
        if not taken_over:
            await remove_socket(self._socket)

    def _tell_end(self, task: asyncio.Task[None]) -> None:
        """Logs an end that was not asked for: nobody waits for the task while it serves."""
        error = None if task.cancelled() else task.exception()
        if not self._closing:
            log.error(
                "The management API ended by itself (%s). Restart the server to have it back.",
                error,
            )

    async def _listens(self) -> bool:
        try:
            _, writer = await asyncio.open_unix_connection(self._socket)
        except OSError:
            return False
        writer.close()
        await writer.wait_closed()
        return True


def _in_the_way(path: Path, error: OSError) -> GpustackFastError:
    return GpustackFastError(
        f"{path} is in the way of the management API's socket, and cannot be removed: "
        f"{error.strerror}. Move it away."
    )
