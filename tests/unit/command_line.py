"""What tests of the command line share: a clean environment, and a server that holds only keys."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gpustack_fast.control.documents import (
    ApplyReport,
    DrainReport,
    HandedOver,
    ModelStatus,
    ServerStatus,
)
from gpustack_fast.control.server import ControlServer
from gpustack_fast.faults import Faults
from gpustack_fast.keys.live import KeyChange, Keys
from gpustack_fast.keys.reach import unknown_models
from gpustack_fast.keys.store import KeyInfo, Store
from gpustack_fast.storage.data_directory import DataDirectory

ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if not name.startswith("GPUSTACK_FAST_")},
    "PYTHONPATH": os.pathsep.join(sys.path),
}


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs the command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "gpustack_fast", *arguments],
        env={**ENVIRONMENT, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


class FakeServer:
    """Holds a data directory and serves its control socket, in a thread of this process."""

    def __init__(self, folder: Path) -> None:
        self.directory = DataDirectory(folder)
        self.directory.acquire()
        self.changes: list[KeyChange] = []
        self.models: list[ModelStatus] = []
        self.avoided_gpus: dict[str, str] = {}
        self.handed_over: list[tuple[str | None, float]] = []
        self.stop = threading.Event()
        self.ready = threading.Event()
        self.thread = threading.Thread(target=lambda: asyncio.run(self.serve()))

    async def serve(self) -> None:
        self.keys = Keys(Store(self.directory), self.changes.append, Faults())
        server = ControlServer(self.directory.control_socket, self)
        await server.start()
        self.ready.set()
        await asyncio.to_thread(self.stop.wait)
        await server.close()
        self.directory.release()

    def key_warnings(self, key: KeyInfo) -> list[str]:
        return unknown_models(key, ["known"])

    async def apply(self, file: str, *, dry_run: bool) -> ApplyReport:
        raise NotImplementedError

    def status(self) -> ServerStatus:
        return ServerStatus(
            version="0",
            pid=1,
            since=0.0,
            phase="serving",
            addresses=[],
            models=self.models,
            avoided_gpus=self.avoided_gpus,
        )

    def drain(self, which: str) -> DrainReport:
        return DrainReport(instances=[])

    def resume(self, which: str) -> DrainReport:
        return DrainReport(instances=[])

    async def hand_over(self, python: str | None, timeout: float) -> HandedOver:
        self.handed_over.append((python, timeout))
        return HandedOver(
            pid=2, version="1", former_pid=1, former_version="0", addresses=[], at_terminal=True
        )


@contextmanager
def server(folder: Path) -> Iterator[FakeServer]:
    fake = FakeServer(folder)
    fake.thread.start()
    try:
        fake.ready.wait()
        yield fake
    finally:
        fake.stop.set()
        fake.thread.join()
