"""An engine that sleeps without an end of its process."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from gpu_reports import GIB, Machine, gpu
from small_backend import SMALL, NoFiles, environment, eventually, small

from gpustack_fast.backends import Call, Shape, Sleep
from gpustack_fast.backends.demand import Demand
from gpustack_fast.engines import allocation, gpu_locks, nap
from gpustack_fast.engines.allocation import Allocation
from gpustack_fast.engines.instance import Instance
from gpustack_fast.engines.nap import Naps
from gpustack_fast.engines.plan import ReplicaSlot
from gpustack_fast.engines.preparer import Preparer
from gpustack_fast.engines.processes import ProcessTable
from gpustack_fast.engines.replica import InstanceState, Replica
from gpustack_fast.engines.restraint import Restraint
from gpustack_fast.errors import EngineFailed
from gpustack_fast.faults import Faults
from gpustack_fast.placement import Wanted
from gpustack_fast.storage.engine_paths import EnginePaths

SLEEPER = dataclasses.replace(
    SMALL,
    sleep=Sleep(
        fall_asleep=lambda level: [Call(path=f"/sleep?level={level}")],
        wake_up=lambda level: [Call(path="/weights", body={"a": 1}), Call(path="/wake_up")],
    ),
)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocation, "GATHER", 0.01)
    monkeypatch.setattr(allocation, "LOOK_AGAIN_EVERY", 0.02)
    monkeypatch.setattr(gpu_locks, "FREED_EVERY", 0.01)


class Bed:
    """A replica whose engine writes down what it is asked for."""

    def __init__(self, folder: Path, size: int = 0) -> None:
        paths, faults = EnginePaths(folder), Faults()
        self.model = small(name="m", sleep_after=1, sleep_level=2)
        slot = ReplicaSlot("m", 0)
        self.replica = Replica(slot, self.model, SLEEPER, id="m-1", created=0.0, state="running")
        self.instance = Instance("m-1", self.model, SLEEPER, paths, ProcessTable(faults), faults)
        self.replica.instance = self.instance
        self.machine = Machine(gpu(0))
        self.allocation = Allocation(self.machine.read, dict)
        self.preparer = Preparer(environment, NoFiles(), self.allocation, self.machine.read)
        self.size = size
        self.asked: list[str] = []
        self.answer = b"HTTP/1.1 200 OK\r\n\r\n{}"
        self.states: list[tuple[str, str]] = []
        self.restraint = Restraint()
        self.gate = asyncio.Event()
        self.gate.set()

    def set(self, replica: Replica, state: InstanceState, message: str = "") -> None:
        replica.state, replica.state_message = state, message
        self.states.append((state, message))

    @contextlib.asynccontextmanager
    async def lying(self) -> AsyncIterator[asyncio.Task[None]]:
        if self.size:
            await self.claim("m", self.size)
            self.replica.devices = ("GPU-0",)
        Path(self.instance.socket).parent.mkdir(parents=True, exist_ok=True)
        server = await asyncio.start_unix_server(self._respond, self.instance.socket)
        task = asyncio.create_task(
            Naps(self.preparer, self.restraint, self.set).take(self.replica, "as ever")
        )
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.wait({task})
            server.close()
            await self.allocation.close()

    async def claim(self, model: str, size: int) -> None:
        demand = Demand(shape=Shape(), least=size * GIB)
        wanted = Wanted(model=model, number=0, demands=[demand])
        await self.allocation.claim(ReplicaSlot(model, 0), wanted, lambda _: None)

    async def _respond(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].split()[0])
        body = await reader.readexactly(length)
        self.asked.append(f"{head.split()[1].decode()} {body.decode()}")
        await self.gate.wait()
        writer.write(self.answer)
        writer.close()

    async def lie_down(self) -> None:
        """It is ordered to sleep, and its last request ends."""
        self.replica.order(asleep=True)
        await self.is_in("sleeping")
        self.replica.idle.set()

    async def asks(self, count: int) -> None:
        await eventually(lambda: len(self.asked) >= count, f"it is asked {count} times")

    async def stays_unasked(self, but: int = 0) -> None:
        await asyncio.sleep(0.2)
        assert len(self.asked) == but

    async def is_in(self, state: str, said: str = "") -> None:
        await eventually(
            lambda: self.replica.state == state and said in self.replica.state_message,
            f"{state}: {said}, and not {self.states[-1:]}",
        )


def play(scenario: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(60):
            await scenario()

    asyncio.run(main())


def test_it_sleeps_behind_its_last_request_and_wakes_when_it_is_called(tmp_path: Path) -> None:
    async def scenario() -> None:
        bed = Bed(tmp_path)
        async with bed.lying():
            bed.replica.order(asleep=True)
            await bed.is_in("sleeping", "as soon as its last request has ended")
            assert bed.asked == []
            bed.replica.idle.set()
            await bed.is_in("sleeping", "It sleeps (level 2) until a request comes.")
            assert bed.asked == ["/sleep?level=2 {}"] and bed.replica.asleep
            bed.replica.order(asleep=False)
            await bed.is_in("running", "as ever")
            assert bed.asked[1:] == ['/weights {"a":1}', "/wake_up {}"]
            assert not bed.replica.asleep
            bed.replica.order(asleep=True)
            bed.replica.idle.set()
            await bed.is_in("sleeping", "as soon as")
            assert not bed.replica.idle.is_set(), "that was of the time before"

    play(scenario)


def test_a_request_that_comes_before_the_last_has_ended_keeps_it_awake(tmp_path: Path) -> None:
    async def scenario() -> None:
        bed = Bed(tmp_path)
        async with bed.lying():
            bed.replica.order(asleep=True)
            await bed.is_in("sleeping")
            bed.replica.order(asleep=False)
            await bed.is_in("running", "as ever")
            assert bed.asked == []

    play(scenario)


def test_one_that_its_operator_has_drained_is_idle_already(tmp_path: Path) -> None:
    async def scenario() -> None:
        bed = Bed(tmp_path)
        bed.replica.drained = True
        bed.replica.idle.set()
        async with bed.lying():
            bed.replica.order(asleep=True)
            await bed.is_in("sleeping", "until a request comes")

    play(scenario)


def test_while_the_server_is_handed_over_it_neither_falls_asleep_nor_wakes(tmp_path: Path) -> None:
    async def scenario() -> None:
        bed = Bed(tmp_path)
        bed.restraint.alone.clear()
        async with bed.lying():
            await bed.lie_down()
            await bed.is_in("sleeping", "It falls asleep.")
            await bed.stays_unasked()
            await bed.restraint.freeze()
            bed.restraint.alone.set()
            await bed.stays_unasked()
            bed.restraint.thaw()
            await bed.is_in("sleeping", "until a request comes")
            assert len(bed.asked) == 1
            await bed.restraint.freeze()
            bed.replica.order(asleep=False)
            await bed.is_in("waking")
            await bed.stays_unasked(but=1)
            bed.restraint.thaw()
            await bed.is_in("running")

    play(scenario)


def test_others_have_its_memory_and_it_waits_for_that_until_it_is_to_sleep_on(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        bed = Bed(tmp_path, size=60)
        async with bed.lying():
            await bed.lie_down()
            await bed.is_in("sleeping", "until a request comes")
            await bed.claim("other", 70)
            bed.replica.order(asleep=False)
            await bed.is_in("waking", "It needs 60.0 GiB of GPU 0")
            bed.replica.order(asleep=True)
            await bed.is_in("sleeping", "until a request comes")
            bed.replica.order(asleep=False)
            await bed.is_in("waking", "It needs 60.0 GiB of GPU 0")
            assert len(bed.asked) == 1
            bed.allocation.release(ReplicaSlot("other", 0))
            await bed.is_in("running")

    play(scenario)


def test_nobody_starts_on_its_gpus_while_it_falls_asleep_or_wakes(tmp_path: Path) -> None:
    async def scenario() -> None:
        bed = Bed(tmp_path, size=60)
        other = ReplicaSlot("other", 0)

        async def starts() -> None:
            await bed.allocation.begin_start(other, ["GPU-0"])

        async with bed.lying():
            for asleep in (True, False):
                bed.gate.clear()
                if asleep:
                    await bed.lie_down()
                else:
                    bed.replica.order(asleep=False)
                await bed.asks(1 if asleep else 2)
                task = asyncio.create_task(starts())
                done, _ = await asyncio.wait({task}, timeout=0.1)
                assert not done
                bed.gate.set()
                await task
                bed.allocation.end_start(other)

    play(scenario)


def test_one_that_does_not_respond_has_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nap, "ASLEEP_WITHIN", 0.05)

    async def scenario() -> None:
        bed = Bed(tmp_path)
        bed.gate.clear()
        async with bed.lying() as task:
            await bed.lie_down()
            with pytest.raises(EngineFailed, match=r"\(/sleep\): it did not respond within 0.05 s"):
                await task
            bed.gate.set()

    play(scenario)


def test_a_fault_of_this_machine_is_no_failure_of_the_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def ask(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    async def scenario() -> None:
        bed = Bed(tmp_path)
        monkeypatch.setattr(bed.instance, "ask", ask)
        async with bed.lying() as task:
            await bed.lie_down()
            with pytest.raises(OSError, match="Too many open files"):
                await task

    play(scenario)


def test_of_two_things_that_are_waited_for_the_other_one_is_given_up() -> None:
    async def scenario() -> None:
        given_up = list[str]()

        async def waits(name: str) -> None:
            try:
                await asyncio.sleep(1000)
            finally:
                given_up.append(name)

        assert await nap.first(asyncio.sleep(0.01), waits("b"))
        assert not await nap.first(waits("a"), asyncio.sleep(0.01))
        await asyncio.sleep(0)
        assert given_up == ["b", "a"]

    play(scenario)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"HTTP/1.1 500 No\r\n\r\nout of\x1b[1m memory", "answered with 500: out of"),
        (b"", "ended the call without an answer"),
    ],
)
def test_one_that_does_not_do_it_has_failed(tmp_path: Path, answer: bytes, said: str) -> None:
    async def scenario() -> None:
        bed = Bed(tmp_path)
        bed.answer = answer
        async with bed.lying() as task:
            await bed.lie_down()
            with pytest.raises(EngineFailed, match=r"what it was asked for \(/sleep\)") as caught:
                await task
            assert said in str(caught.value) and "\x1b" not in str(caught.value)

    play(scenario)
