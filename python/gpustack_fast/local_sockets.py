"""The Unix sockets of a server: that of commands, and that of the management API."""

from __future__ import annotations

import contextlib

from gpustack_fast.api.application import Application
from gpustack_fast.api.server import ApiServer
from gpustack_fast.control.server import ControlServer
from gpustack_fast.faults import Faults
from gpustack_fast.operation import Operation
from gpustack_fast.storage.data_directory import DataDirectory

__all__ = ["LocalSockets"]


class LocalSockets:
    """Both of them, from `open` to `close`."""

    def __init__(self, operation: Operation, directory: DataDirectory, faults: Faults) -> None:
        self._control = ControlServer(directory.control_socket, operation, faults)
        self._api = ApiServer(Application(operation.sources()), directory.api_socket)

    async def open(self, *, shown: bool) -> None:
        """Listens, at their places or, not `shown`, where nobody looks before `show`.

        Raises GpustackFastError.
        """
        await self._control.start(shown=shown)
        await self._api.start(shown=shown)

    def show(self) -> None:
        """Puts them in their places, which another process may have had. Raises OSError."""
        self._control.show()
        self._api.show()

    async def close(self, *, taken_over: bool) -> None:
        """Ends both. `taken_over`: their places are those of another process."""
        # Each of them, whatever comes of the other.
        async with contextlib.AsyncExitStack() as closing:
            closing.push_async_callback(self._control.close, taken_over=taken_over)
            closing.push_async_callback(self._api.close, taken_over=taken_over)
