"""`gpustack-fast engines …`: environments of engines, in the data directory.

A running server is not asked: who builds and who removes holds the lock of the environment.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

from gpustack_fast.commands.interruption import Interrupted
from gpustack_fast.commands.output import complain, in_json, say
from gpustack_fast.engines import environments
from gpustack_fast.engines.environments import BuildError, Environment, Listed
from gpustack_fast.engines.environments.documents import check_version, gigabytes
from gpustack_fast.errors import StoreError, UsageError, printable
from gpustack_fast.storage.data_directory import check_usable, explain_os_error

__all__ = ["install", "remove", "show"]

T = TypeVar("T")

_HEADER = ("ENGINE", "VERSION", "VARIANT", "SIZE", "STATE", "DEFAULT", "IN USE BY")
_STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def install(data_dir: Path, which: str, variant: str | None, python: Path | None) -> int:
    """Builds an environment, or takes note of one that is there. Prints its interpreter alone.

    `which`: NAME or NAME==VERSION. What a person wants to know meanwhile goes to standard error.
    Raises BuildError, UsageError, Interrupted.
    """
    engine, version = _named(which)
    check_usable(data_dir)
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(
            explain_os_error(error, f"The data directory {data_dir} cannot be used")
        ) from error
    if python is None:
        work = environments.prepare(data_dir, engine, version, _tell, variant)
    else:
        work = _register(data_dir, engine, python, version, variant)
    found = asyncio.run(_until_stopped(work))
    complain(f"{engine} {found.version} ({found.variant}) is there. Its interpreter:")
    say(str(found.python))
    return 0


async def _register(
    data_dir: Path, engine: str, python: Path, version: str | None, variant: str | None
) -> Environment:
    try:
        return await environments.register(data_dir, engine, python, version, variant)
    except OSError as error:
        raise StoreError(
            explain_os_error(error, f"The environment of {python} cannot be registered")
        ) from error


def show(data_dir: Path, *, as_json: bool) -> int:
    """Prints the environments that are there, and those that can be installed by a name alone."""
    try:
        found = environments.listing(data_dir)
    except OSError as error:
        raise StoreError(
            explain_os_error(error, f"The environments in {data_dir} cannot be listed")
        ) from error
    if as_json:
        say(in_json(found))
        return 0
    rows = [_HEADER, *(_row(one) for one in found)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADER))]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        say("  ".join(cells).rstrip())
    return 0


def remove(data_dir: Path, which: str, variant: str | None) -> int:
    """Removes the environments of a version, unless something runs from one. Raises BuildError."""
    engine, version = _named(which)
    if version is None:
        raise UsageError(
            f"Say which version of {engine} is to go, as in `gpustack-fast engines remove "
            f"{engine}==VERSION`; `gpustack-fast engines list` shows those that are there."
        )
    for line in environments.remove(data_dir, engine, version, variant):
        say(printable(line))
    return 0


def _named(which: str) -> tuple[str, str | None]:
    """The engine and its version. Raises UsageError for what is neither NAME nor NAME==VERSION."""
    engine, _, version = which.partition("==")
    engine = engine.strip().replace("-", "_")
    if not engine or ("==" in which and not version.strip()):
        raise UsageError(
            f"{which!r} names no engine. Write NAME or NAME==VERSION, as vllm==0.33.0."
        )
    try:
        if version:
            check_version(version.strip())
    except BuildError as error:
        raise UsageError(str(error)) from error
    return engine, version.strip() or None


def _tell(line: str) -> None:
    complain(line)


async def _until_stopped(work: Coroutine[Any, Any, T]) -> T:
    """Does the work; a stop signal ends it in order. Raises Interrupted then."""
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(work)
    stopped = asyncio.Event()

    def stop() -> None:
        stopped.set()
        task.cancel()

    for number in _STOPS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            loop.add_signal_handler(number, stop)
    try:
        return await task
    except asyncio.CancelledError:
        if not stopped.is_set():
            raise
        raise Interrupted(
            "Interrupted. Nothing half-made is left, and what was downloaded is kept: repeat the "
            "command to go on."
        ) from None


def _row(one: Listed) -> Sequence[str]:
    return (
        one.engine,
        printable(one.version),
        printable(one.variant),
        gigabytes(one.size) if one.size else "",
        one.state,
        "yes" if one.default else "",
        ", ".join(one.in_use),
    )
