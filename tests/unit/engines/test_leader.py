"""The process that leads an engine's session."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
from small_backend import alive, eventually, kill

from gpustack_fast.engines import processes
from gpustack_fast.engines.leader import Adopted, watch
from gpustack_fast.engines.processes import Identity, ProcessTable, boot_id
from gpustack_fast.faults import Faults

WITH_A_WORKER = """
import os, sys, time
if os.fork() == 0:
    print(os.getpid(), flush=True)
    os.dup2(os.open(os.devnull, os.O_RDWR), 1)
time.sleep(600)
"""


@pytest.fixture
def adopted() -> Iterator[tuple[Adopted, int]]:
    """An engine of an earlier run, and its worker, which writes into no log."""
    program = [sys.executable, "-S", "-c", WITH_A_WORKER]
    with subprocess.Popen(program, stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout is not None
        worker = int(process.stdout.readline())
        found = processes.process(process.pid)
        assert found is not None
        identity = Identity(
            pid=process.pid,
            start_time=found.start_time,
            boot_id=boot_id(),
            socket="/none.sock",
            log="/none.log",
        )
        yield Adopted(identity, ProcessTable(Faults())), worker
        os.killpg(process.pid, signal.SIGKILL)


def test_who_was_seen_with_its_leader_is_of_an_adopted_engine_behind_the_end_of_that(
    adopted: tuple[Adopted, int],
) -> None:
    leader, worker = adopted

    async def main() -> None:
        assert {one.pid for one in await leader.living("") or []} == {leader.pid, worker}
        assert leader.how_it_ended() == "is running"
        kill(leader.pid)
        await eventually(lambda: not alive(leader.pid), "its end")
        assert [one.pid for one in await leader.living("") or []] == [worker]
        assert "nobody knows its exit code" in leader.how_it_ended()
        kill(worker)
        await eventually(lambda: not alive(worker), "its end")
        assert await leader.living("") == []

    asyncio.run(main())


def test_an_adopted_engine_that_nobody_can_see_gets_no_signal(
    adopted: tuple[Adopted, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its number may be another program's by now."""
    monkeypatch.setattr(processes, "UNSEEN_MAY_TAKE", 0.1)
    monkeypatch.setattr(processes, "KILLED_MAY_TAKE", 0.1)
    leader, _ = adopted

    async def unseen() -> None:
        return None

    async def main() -> None:
        term, child = signal.SIGTERM, leader.is_child
        assert not await processes.end(leader.pid, unseen, term, 0.05, is_child=child)
        assert alive(leader.pid)

    asyncio.run(main())


def test_the_end_of_a_process_is_told_once() -> None:
    """However long nobody reaps it."""
    told = list[str]()

    async def main(process: subprocess.Popen[bytes]) -> None:
        descriptor = watch(process.pid, lambda: told.append("ended"))
        await asyncio.sleep(0.05)
        assert told == []
        process.kill()
        await eventually(lambda: bool(told), "its end is told")
        await asyncio.sleep(0.05)
        os.close(descriptor)
        process.wait()
        with pytest.raises(ProcessLookupError):
            watch(process.pid, told.clear)

    with subprocess.Popen(["sleep", "600"]) as process:
        asyncio.run(main(process))
    assert told == ["ended"]
