"""The only file that imports `_native`: a typed handle on the data plane."""

from __future__ import annotations

import msgspec

from gpustack_fast import _native
from gpustack_fast._native import DataPlaneError, flush_log, show
from gpustack_fast._native import log as write_log
from gpustack_fast.seam.documents import DataPlaneConfig, KeyDelta, Polled, Started, Stats, Table

__all__ = ["DataPlane", "DataPlaneError", "__version__", "flush_log", "show", "write_log"]

__version__: str = _native.__version__


class DataPlane:
    """`_native.DataPlane` with documents instead of bytes. See the stub for what each call
    promises.
    """

    def __init__(self, config: DataPlaneConfig, listeners: list[int]) -> None:
        self._native = _native.DataPlane(msgspec.json.encode(config), listeners)

    def start(self) -> Started:
        return msgspec.json.decode(self._native.start(), type=Started)

    def publish(self, table: Table) -> int:
        return self._native.publish(msgspec.json.encode(table))

    def update_keys(self, delta: KeyDelta) -> None:
        self._native.update_keys(msgspec.json.encode(delta))

    def poll(self) -> Polled:
        return msgspec.msgpack.decode(self._native.poll(), type=Polled)

    def fileno(self) -> int:
        return self._native.fileno()

    def stats(self) -> Stats:
        return msgspec.json.decode(self._native.stats(), type=Stats)

    def drain(self, deadline: float) -> None:
        self._native.drain(deadline)
