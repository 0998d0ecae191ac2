"""The only file that imports `_native`: a typed handle on the data plane."""

from __future__ import annotations

import msgspec

from gpustack_fast import _native
from gpustack_fast._native import flush_log, show
from gpustack_fast._native import log as write_log
from gpustack_fast.errors import DataPlaneError
from gpustack_fast.seam.documents import (
    DataPlaneConfig,
    KeyDelta,
    Polled,
    Started,
    Stats,
    Table,
    Tokens,
)

__all__ = ["DataPlane", "DataPlaneError", "__version__", "flush_log", "show", "write_log"]

__version__: str = _native.__version__


class DataPlane:
    """`_native.DataPlane` with documents instead of bytes; its stub says more on each call."""

    def __init__(self, config: DataPlaneConfig, listeners: list[int]) -> None:
        self._native = _native.DataPlane(msgspec.json.encode(config), listeners)

    def start(self) -> Started:
        """Starts the workers; returns the addresses that respond from now on.

        Raises DataPlaneError when it was started before, or a thread cannot be made.
        """
        return msgspec.json.decode(self._native.start(), type=Started)

    def publish(self, table: Table) -> int:
        """Replaces the whole routing table, atomically; returns its version (1, 2, ...).

        Raises DataPlaneError when a target names no model of the table, or a value does not fit;
        the former table then stays, and the former settings and certificate.
        """
        return self._native.publish(msgspec.json.encode(table))

    def read_certificate(self) -> bool:
        """Reads the certificate's files for the reload that is published next; waits for the disk.

        Returns whether they hold another one than that in force. Raises DataPlaneError when they
        cannot be used.
        """
        return self._native.read_certificate()

    def update_keys(self, delta: KeyDelta) -> None:
        """Changes the keys. When it returns, the next request on any worker sees it.

        Raises DataPlaneError when a value does not fit; the keys then stay as they were.
        """
        self._native.update_keys(msgspec.json.encode(delta))

    def add_tokens(self, tokens: Tokens) -> None:
        """Adds to the tokens of routes; those that the table has not are left out."""
        self._native.add_tokens(msgspec.json.encode(tokens))

    def show_tokens(self, tokens: Tokens) -> None:
        """Has the metrics show no more than these, of routes that the table has."""
        self._native.show_tokens(msgspec.json.encode(tokens))

    def poll(self) -> Polled:
        """Events and at most 10,000 records since the last call; never waits. Clears `fileno`."""
        return msgspec.msgpack.decode(self._native.poll(), type=Polled)

    def fileno(self) -> int:
        """An eventfd that is readable when a poll is worth while. Do not close it."""
        return self._native.fileno()

    def stats(self) -> Stats:
        """A reading of the counters, cheap enough for every second."""
        return msgspec.json.decode(self._native.stats(), type=Stats)

    def drain(self, deadline: float, *, idle_grace: float = 0.0) -> None:
        """Stops accepting, and cuts requests that still run after `deadline` seconds (0: at once).

        Connections without a request are closed, with `idle_grace` only after so many seconds:
        until then another request of theirs is served, and its response ends the connection.
        Returns at once; a `Drained` event follows. A second call can only shorten the limits.
        """
        self._native.drain(deadline, idle_grace=idle_grace)
