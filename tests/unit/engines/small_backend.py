"""The backend of `small_engine.py`, and what tests of engines share."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import uvloop

from gpustack_fast.backends import Backend, Command, Model, Place
from gpustack_fast.config import ModelConfig
from gpustack_fast.engines import processes
from gpustack_fast.engines.allocation import Allocation
from gpustack_fast.engines.prepared import Prepared
from gpustack_fast.engines.preparer import Environment, Environments, Preparer, Report
from gpustack_fast.gpus.documents import GpuReport
from gpustack_fast.sizing import ModelFacts
from gpustack_fast.storage.engine_paths import EnginePaths
from raw_http import DEADLINE

ENGINE = Path(__file__).parent / "small_engine.py"


def command(model: Model, place: Place) -> Command:
    arguments = [str(place.python), str(ENGINE), str(place.socket), *model.backend_parameters]
    return Command(arguments=arguments, environment={"SMALL_ENGINE_KEY": place.key})


SMALL = Backend(
    name="small",
    command=command,
    ready_path="/health",
    check=lambda _: iter(()),
    stop_grace=1.0,
)

PYTHON = Path(sys.executable)


PREPARED = Prepared(python=PYTHON)


async def environment(*_: object) -> Environment:
    """The small engine's environment: this one."""
    return PREPARED


class NoFiles:
    """The files of a model that has none."""

    async def facts(self, model: ModelConfig) -> ModelFacts | None:
        raise AssertionError("nobody places it")

    async def fetch(self, model: ModelConfig, report: Report) -> Path | None:
        return None

    async def adapters(self, model: ModelConfig, report: Report) -> Mapping[str, Path]:
        return {}


async def no_gpus() -> GpuReport:
    return GpuReport(driver_version=None, cuda_version=None, gpus=[])


def preparer(make: Environments = environment) -> Preparer:
    """A preparer of small engines."""
    return Preparer(make, NoFiles(), Allocation(no_gpus, dict), no_gpus)


def small(
    *orders: str, name: str = "small", ready_timeout: float = DEADLINE, **more: object
) -> ModelConfig:
    """A model of the small engine."""
    return ModelConfig(
        name=name,
        backend="small",
        backend_parameters=list(orders),
        ready_timeout=ready_timeout,
        **more,  # type: ignore[arg-type]
    )


def run(scenario: Callable[[EnginePaths], Awaitable[None]], folder: Path) -> None:
    """Runs a test's coroutine on the event loop that the product runs on."""

    async def main() -> None:
        processes.become_subreaper()
        await scenario(EnginePaths(folder))

    uvloop.run(main())


async def eventually(happened: Callable[[], bool], what: str, deadline: float = DEADLINE) -> None:
    """Waits until something is so; the deadline only keeps a broken test from waiting for ever."""
    end = time.monotonic() + deadline
    while not happened():
        assert time.monotonic() < end, f"It did not happen: {what}."
        await asyncio.sleep(0.02)


def child_of(log: Path) -> int:
    """The process id of the worker in a small engine's log; 0 as long as there is none."""
    found = re.search(r"child (\d+)", log.read_text()) if log.exists() else None
    return int(found[1]) if found else 0


def alive(pid: int) -> bool:
    found = processes.process(pid)
    return found is not None and found.alive


def kill(pid: int) -> None:
    """As `kill -9` does."""
    os.kill(pid, signal.SIGKILL)
