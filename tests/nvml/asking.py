"""A process that reads the GPUs of a stand-in through the real pynvml, and what it says."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from gpustack_fast.gpus import GpuReport
from nvml.stand_in import StandIn

T = TypeVar("T")


class Asking:
    """`ask.py` in a process."""

    def __init__(self, environment: dict[str, str], *arguments: float) -> None:
        script = str(Path(__file__).with_name("ask.py"))
        self.process = subprocess.Popen(
            [sys.executable, script, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
        )

    def tell(self, word: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()

    def hear(self, kind: type[T]) -> T:
        """The next line that it prints."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"it has ended: {self.process.wait()}"
        return msgspec.json.decode(line, type=kind)

    def ask(self, word: str, kind: type[T]) -> T:
        self.tell(word)
        return self.hear(kind)

    def read(self) -> GpuReport:
        return self.ask("read", GpuReport)


@contextmanager
def asking(
    machine: StandIn | None, *, deadline: float = 60.0, reopen_after: float = 3600.0, **more: str
) -> Iterator[Asking]:
    """Someone to ask. Without a machine, `more` says where libraries are looked for."""
    environment = {} if machine is None else machine.environment
    one = Asking({**environment, **more}, deadline, reopen_after)
    try:
        yield one
    finally:
        one.process.kill()
        one.process.communicate()


def read(machine: StandIn, **more: Any) -> GpuReport:
    """One report of a fresh process."""
    with asking(machine, **more) as one:
        return one.read()
