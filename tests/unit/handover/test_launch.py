"""A successor's process: how it is started, and how it is ended."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from gpustack_fast.handover import launch as launching
from gpustack_fast.handover.launch import Origin, Process, launch
from gpustack_fast.handover.messages import Offer, Refused
from harness import alive
from raw_http import eventually

COUNTS = """
import os, sys
from gpustack_fast.errors import ControlError
from gpustack_fast.handover.successor import inherit
inherited = inherit(os.environ)
with inherited.errors():
    leads = os.getsid(0) == os.getpid()
    raise ControlError(f"{len(inherited.offer.running)}, {leads}: {' '.join(sys.argv[1:])}")
"""
STAYS = """
import os, pathlib, signal, time
if os.fork() == 0 or {deaf}:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
pathlib.Path({folder!r}, f"{{os.getpid()}}.pid").touch()
time.sleep(600)
"""
"""A program and its child, which is deaf to SIGTERM; so may the program be."""


def program(folder: Path, code: str) -> str:
    """An interpreter that runs this, whatever it is called with."""
    path = folder / "python"
    path.write_text(f"#!{sys.executable}\n{code}")
    path.chmod(0o700)
    return str(path)


def played(scenario: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(60):
            await scenario()

    asyncio.run(main())


async def begun(python: str, running: int = 0) -> Process:
    offer = Offer(version="1", host="h", port=1, running=[("model", "a" * 100)] * running)
    origin = Origin(arguments=["serve"], environment=os.environ)
    lock = os.open(python, os.O_RDONLY)
    try:
        return await launch(python, origin, offer, [lock, 2])
    finally:
        os.close(lock)


def test_an_offer_of_any_length_is_sent_without_a_wait(tmp_path: Path) -> None:
    """What fits into no socket is read by the successor, which is started after the first piece."""

    async def scenario() -> None:
        process = await begun(program(tmp_path, COUNTS), running=30_000)
        try:
            assert await process.channel.receive() == Refused(
                reason="30000, True: -P -m gpustack_fast serve"
            )
        finally:
            await process.end()

    played(scenario)


@pytest.mark.parametrize("deaf", [False, True])
def test_its_end_is_that_of_all_that_it_has_started_and_leaves_no_zombie(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deaf: bool
) -> None:
    monkeypatch.setattr(launching, "ENDED_WITHIN", 0.2 if deaf else 30.0)

    async def scenario() -> None:
        process = await begun(program(tmp_path, STAYS.format(folder=str(tmp_path), deaf=deaf)))
        try:
            await until(lambda: len(list(tmp_path.glob("*.pid"))) == 2, "both run")
        finally:
            await process.end()
        pids = [int(path.stem) for path in tmp_path.glob("*.pid")]
        assert process.pid in pids
        await until(lambda: not any(map(alive, pids)), "their end")
        await until(lambda: not Path(f"/proc/{process.pid}").exists(), "it is reaped")

    played(scenario)


async def until(happened: Callable[[], bool], what: str) -> None:
    await asyncio.to_thread(eventually, happened, what)
