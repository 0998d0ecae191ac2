"""Who holds which GPUs: what waits is placed when something changes, and nothing is given twice."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path

import pytest
from gpu_reports import DEAD, GIB, Machine, gpu, part
from small_backend import eventually

from gpustack_fast.backends import Shape
from gpustack_fast.backends.demand import Demand
from gpustack_fast.engines import allocation, gpu_use
from gpustack_fast.engines.allocation import Allocation
from gpustack_fast.engines.plan import ReplicaSlot
from gpustack_fast.engines.processes import MARK
from gpustack_fast.gpus.documents import GpuReport
from gpustack_fast.placement import Placement, Wanted

US = os.getsid(0)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocation, "GATHER", 0.01)
    monkeypatch.setattr(allocation, "LOOK_AGAIN_EVERY", 0.02)


class Claims:
    """Claims on the GPUs of a machine, each in a task."""

    def __init__(self, machine: Machine, engines: Mapping[int, str] | None = None) -> None:
        self.machine = machine
        self.allocation = Allocation(machine.read, lambda: engines or {})
        self.refusals: dict[str, list[str]] = {}

    def claim(
        self, model: str, size: int, gpus: int = 1, ids: list[str] | None = None
    ) -> asyncio.Task[Placement]:
        """An instance that asks for so many GiB of each GPU."""
        told = self.refusals.setdefault(model, [])
        demand = Demand(shape=Shape(tensor=gpus), least=size * GIB)
        wanted = Wanted(model=model, number=0, demands=[demand], gpu_ids=ids or [])
        return asyncio.create_task(
            self.allocation.claim(ReplicaSlot(model, 0), wanted, told.append)
        )

    async def refused(self, model: str, times: int = 1) -> str:
        """What it is told, so many times from now on."""
        before = len(self.refusals[model])
        await eventually(lambda: len(self.refusals[model]) >= before + times, f"{model} is refused")
        return self.refusals[model][-1]

    def release(self, model: str) -> None:
        self.allocation.release(ReplicaSlot(model, 0))


def on(placement: Placement) -> list[str]:
    return [claim.uuid for claim in placement.claims]


def play(scenario: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(60):
            await scenario()

    asyncio.run(main())


def test_those_who_ask_at_one_time_are_placed_together_with_one_look() -> None:
    async def scenario() -> None:
        claims = Claims(Machine(gpu(0), gpu(1)))
        small = [claims.claim(f"small-{number}", 40) for number in range(2)]
        large = claims.claim("large", 80)
        places = [on(await one) for one in (*small, large)]
        assert places[0] == places[1] != places[2], "the largest went first, though asked last"
        assert claims.machine.looks == 1
        assert len(claims.allocation.held) == 3

    play(scenario)


def test_one_that_finds_no_room_is_told_why_and_placed_when_some_is_released() -> None:
    async def scenario() -> None:
        claims = Claims(Machine(gpu(0)))
        await claims.claim("first", 50)
        waiting = claims.claim("second", 50)
        said = await claims.refused("second")
        assert "needs of one GPU 50.0 GiB" in said and "GPU 0 lacks 20.0 GiB" in said
        await claims.refused("second", 2)
        assert not waiting.done()
        claims.release("first")
        assert on(await waiting) == ["GPU-0"]

    play(scenario)


def test_one_that_waits_is_placed_when_a_strangers_memory_goes() -> None:
    async def scenario() -> None:
        claims = Claims(Machine(gpu(0, used=60)))
        waiting = claims.claim("m", 50)
        assert "60.0 GiB held by other processes" in await claims.refused("m")
        claims.machine.now(gpu(0, used=30))
        assert on(await waiting) == ["GPU-0"]

    play(scenario)


def test_what_our_engine_holds_counts_once_and_what_is_left_of_a_dead_one_counts() -> None:
    async def scenario() -> None:
        claims = Claims(Machine(gpu(0)), {US: "record"})
        await claims.claim("ours", 40)
        claims.machine.now(gpu(0, used=40, processes={os.getpid(): 40}))
        assert on(await claims.claim("beside", 40)) == ["GPU-0"], "40 GiB are promised, not 80"
        claims.release("beside")
        # 25 GiB of an engine that has ended are not free yet, and are nobody's.
        claims.machine.now(gpu(0, used=65, processes={os.getpid(): 40}))
        waiting = claims.claim("next", 40)
        assert "25.0 GiB held by other processes" in await claims.refused("next")
        claims.machine.now(gpu(0, used=40, processes={os.getpid(): 40}))
        assert on(await waiting) == ["GPU-0"]

    play(scenario)


def test_what_an_engine_takes_beyond_its_claim_is_nobodys_to_promise() -> None:
    async def scenario() -> None:
        claims = Claims(Machine(gpu(0)), {US: "record"})
        await claims.claim("greedy", 30)
        claims.machine.now(gpu(0, used=50, processes={os.getpid(): 50}))
        claims.claim("second", 40)
        assert "30.0 GiB free" in await claims.refused("second")

    play(scenario)


@pytest.fixture
def escaped() -> Iterator[int]:
    """A process with a mark, in a session of its own."""
    process = subprocess.Popen(
        [sys.executable, "-S", "-c", "input()"],
        stdin=subprocess.PIPE,
        start_new_session=True,
        env={**os.environ, MARK: "/run/ours.json"},
    )
    yield process.pid
    process.kill()
    process.communicate()


def test_memory_of_a_process_that_left_its_session_is_its_engines(escaped: int) -> None:
    async def scenario(record: str) -> str:
        claims = Claims(Machine(gpu(0)), {1: record})
        await claims.claim("ours", 40)
        claims.machine.now(gpu(0, used=40, processes={escaped: 40}))
        # Somebody of ours is recognised, so that the driver's numbers are those of here.
        claims.allocation._use.recognises = True
        waiting = claims.claim("beside", 40)
        done, _ = await asyncio.wait({waiting}, timeout=0.3)
        waiting.cancel()
        return on(waiting.result())[0] if done else "refused"

    async def both() -> None:
        # The mark may be seen some moments after the start.
        environ = Path(f"/proc/{escaped}/environ")
        await eventually(lambda: b"/run/ours.json" in environ.read_bytes(), "it bears its mark")
        assert await scenario("/run/ours.json") == "GPU-0"
        assert await scenario("/run/another.json") == "refused"

    play(both)


def test_where_no_process_is_recognised_what_is_used_is_ours_up_to_what_is_promised() -> None:
    """In a container the driver hides processes, or numbers them as beyond it."""

    async def scenario() -> None:
        for processes in ({}, {DEAD: 40}):
            claims = Claims(Machine(gpu(0)), {US: "record"})
            await claims.claim("ours", 40)
            claims.machine.now(gpu(0, used=40, processes=processes))
            assert on(await claims.claim("beside", 40)) == ["GPU-0"]
            claims.release("beside")
            claims.machine.now(gpu(0, used=65, processes=processes))
            claims.claim("next", 40)
            assert "25.0 GiB held by other processes" in await claims.refused("next")

    play(scenario)


def test_a_process_that_keeps_whoever_looks_at_it_keeps_one_thread_and_no_placement(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gpu_use, "LOOKED_WITHIN", 0.02)
    looks, gate = list[int](), threading.Event()

    def kept(pid: int) -> str | None:
        looks.append(pid)
        gate.wait()
        return None

    monkeypatch.setattr(gpu_use, "mark_of", kept)

    async def scenario() -> None:
        claims = Claims(Machine(gpu(0, used=40, processes={os.getpid(): 40})))
        waiting = claims.claim("m", 50)
        assert "40.0 GiB held by other processes" in await claims.refused("m", 4)
        assert looks == [os.getpid()]
        gate.set()
        await claims.refused("m", 4)
        assert len(looks) > 1, "it is looked again when that can be"
        claims.machine.now(gpu(0))
        assert on(await waiting) == ["GPU-0"]

    try:
        play(scenario)
    finally:
        gate.set()


def test_slices_are_given_to_one_each_and_large_ones_find_none() -> None:
    async def scenario() -> None:
        claims = Claims(Machine(gpu(0, slices=[part("a"), part("b")])))
        first, second = claims.claim("first", 10), claims.claim("second", 10)
        assert sorted(on(await first) + on(await second)) == ["MIG-a", "MIG-b"]
        third = claims.claim("third", 10)
        claims.claim("large", 40)
        assert "slice MIG-" in await claims.refused("third")
        await claims.refused("large")
        claims.machine.now(gpu(0, slices=[part("a", used=9), part("b")]))
        await claims.refused("third", 2)
        free = on(first.result())
        claims.release("first")
        if free == ["MIG-a"]:  # what is left of it is still there
            await claims.refused("third", 2)
            claims.machine.now(gpu(0, slices=[part("a"), part("b")]))
        assert on(await third) == free

    play(scenario)


def test_what_our_engine_holds_of_a_slice_counts_once() -> None:
    async def scenario() -> None:
        claims = Claims(Machine(gpu(0, slices=[part("a")])))
        assert on(await claims.claim("m", 12)) == ["MIG-a"]
        claims.machine.now(gpu(0, slices=[part("a", used=10)]))
        assert on(await claims.claim("n", 4)) == ["MIG-a"]
        claims.claim("o", 1)
        assert "0 MiB free of 16.0 GiB (0 MiB held by other" in await claims.refused("o")

    play(scenario)


def test_a_gpu_that_has_failed_gets_nothing_though_the_driver_shows_it_as_well() -> None:
    async def scenario() -> None:
        claims = Claims(Machine(gpu(0), gpu(1)))
        claims.allocation.avoid("GPU-0", "It reported Xid 95.")
        places = [on(await claims.claim(name, 20)) for name in "abc"]
        assert places == [["GPU-1"]] * 3
        claims.claim("d", 40)
        assert "GPU 0, which cannot be used (It reported Xid 95)" in await claims.refused("d")

    play(scenario)


def test_where_gpus_cannot_be_read_the_reason_is_told() -> None:
    async def scenario() -> None:
        claims = Claims(Machine())
        claims.machine.now(problem="The driver hangs.", unread=True)
        waiting = claims.claim("m", 10)
        assert await claims.refused("m") == "The driver hangs."
        claims.machine.now(gpu(0))
        assert on(await waiting) == ["GPU-0"]

    play(scenario)


def test_a_wait_that_is_given_up_leaves_nothing_and_does_not_hold_up_others() -> None:
    async def scenario() -> None:
        claims = Claims(Machine(gpu(0)))
        given_up, other = claims.claim("given up", 50), claims.claim("other", 50)
        await asyncio.sleep(0)
        given_up.cancel()
        assert on(await other) == ["GPU-0"]
        assert [one.model for one in claims.allocation.held] == ["other"]
        waiting = claims.claim("third", 50)
        await claims.refused("third")
        waiting.cancel()
        claims.release("other")
        assert on(await claims.claim("fourth", 80)) == ["GPU-0"]

    play(scenario)


def test_a_wait_that_is_given_up_in_the_moment_of_placing_does_not_hold_up_others() -> None:
    async def scenario() -> None:
        machine = Machine(gpu(0))
        waiting: list[asyncio.Task[Placement]] = []
        claims = Claims(machine)
        own = claims.allocation._place

        def in_the_last_moment(report: GpuReport, used: Mapping[str, int]) -> None:
            waiting[0].cancel()
            own(report, used)

        claims.allocation._place = in_the_last_moment  # type: ignore[method-assign]
        waiting += [claims.claim("given up", 50), claims.claim("other", 50)]
        assert on(await waiting[1]) == ["GPU-0"]
        assert [one.model for one in claims.allocation.held] == ["other"]

    play(scenario)


def test_a_wait_that_is_given_up_while_the_gpus_are_read_does_not_hold_up_others() -> None:
    async def scenario() -> None:
        machine = Machine(gpu(0))
        waiting: list[asyncio.Task[Placement]] = []
        claims = Claims(machine)

        async def read() -> GpuReport:
            waiting[0].cancel()  # nothing of its own has run when the answer is given
            return await machine.read()

        claims.allocation._read = read
        waiting += [claims.claim("given up", 20), claims.claim("other", 10)]
        await asyncio.wait(waiting, timeout=20)
        assert waiting[0].cancelled()
        assert waiting[1].done() and waiting[1].exception() is None
        assert [one.model for one in claims.allocation.held] == ["other"], "nothing is promised"

    play(scenario)


def test_a_mistake_in_placing_reaches_those_who_wait_and_the_next_is_placed() -> None:
    async def scenario() -> None:
        machine = Machine(gpu(0))
        claims = Claims(machine)

        async def broken() -> GpuReport:
            raise RuntimeError("a mistake")

        claims.allocation._read = broken
        with pytest.raises(RuntimeError, match="a mistake"):
            await claims.claim("first", 10)
        claims.allocation._read = machine.read
        assert on(await claims.claim("second", 10)) == ["GPU-0"]

    play(scenario)


def test_what_is_held_is_counted_until_it_is_released_also_beside_a_new_claim() -> None:
    """Of an engine that cannot be ended, a process may hold it for ever."""

    async def scenario() -> None:
        claims = Claims(Machine(gpu(0)))
        first = await claims.claim("m", 50)
        again = claims.claim("m", 20)
        assert "could not be ended" in await claims.refused("m")
        claims.claim("other", 40)
        assert "GPU 0 lacks 10.0 GiB" in await claims.refused("other")
        await claims.refused("m", 2)
        assert claims.allocation.held == [first] and not again.done()
        claims.release("m")
        assert (await again).claims[0].bytes == 20 * GIB

    play(scenario)


def test_engines_on_one_gpu_start_one_after_another_and_others_at_once() -> None:
    async def scenario() -> None:
        claims = Claims(Machine())
        starting: list[str] = []
        most: dict[str, int] = {}
        gate = asyncio.Event()

        async def start(name: str, *uuids: str) -> None:
            await claims.allocation.begin_start(ReplicaSlot(name, 0), uuids)
            starting.append(name)
            most[name] = len(starting)
            await (gate.wait() if name == "other" else asyncio.sleep(0.01))
            starting.remove(name)
            claims.allocation.end_start(ReplicaSlot(name, 0))

        other = asyncio.create_task(start("other", "GPU-9"))
        # Those with several take them in one order, so that no two wait for each other.
        await asyncio.gather(
            start("a", "GPU-0"), start("b", "GPU-1", "GPU-0"), start("c", "GPU-0", "GPU-1")
        )
        assert starting == ["other"] and max(most.values()) == 2
        gate.set()
        await other

    play(scenario)


async def one_gave_up() -> tuple[Allocation, tuple[ReplicaSlot, ReplicaSlot, ReplicaSlot]]:
    """Of the three slots the first starts on GPU-1, and the second, which wanted both, has given up
    its wait for that.
    """
    allocation = Claims(Machine()).allocation
    first, second, third = (ReplicaSlot(name, 0) for name in "abc")
    await allocation.begin_start(first, ["GPU-1"])
    waiting = asyncio.create_task(allocation.begin_start(second, ["GPU-0", "GPU-1"]))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait({waiting})
    return allocation, (first, second, third)


def test_a_wait_for_a_start_that_is_given_up_holds_up_nobody() -> None:
    async def scenario() -> None:
        allocation, (first, second, third) = await one_gave_up()
        allocation.release(second)
        await allocation.begin_start(third, ["GPU-0"])
        allocation.release(first)
        await allocation.begin_start(second, ["GPU-1"])

    play(scenario)


def test_whoever_gave_up_a_start_does_not_wait_for_itself_at_its_end() -> None:
    async def scenario() -> None:
        allocation, (first, second, third) = await one_gave_up()
        other = asyncio.create_task(allocation.begin_start(third, ["GPU-0"]))
        allocation.release(first)
        async with asyncio.timeout(30):
            await allocation.begin_start(second, ["GPU-0", "GPU-1"])
        assert not other.done()
        allocation.end_start(second)
        async with asyncio.timeout(30):
            await other

    play(scenario)


def test_two_that_take_the_same_gpus_in_another_order_do_not_wait_for_each_other() -> None:
    async def scenario() -> None:
        claims = Claims(Machine())
        go = asyncio.Event()

        async def start(number: int, *uuids: str) -> None:
            slot = ReplicaSlot("m", number)
            await claims.allocation.begin_start(slot, uuids)
            await go.wait()
            claims.allocation.end_start(slot)

        # Both are waited for, and free in the same moment.
        starts = [
            asyncio.create_task(start(number, *uuids))
            for number, uuids in enumerate(
                (["GPU-0"], ["GPU-1"], ["GPU-1", "GPU-0"], ["GPU-0", "GPU-1"])
            )
        ]
        await asyncio.sleep(0)
        go.set()
        _, waiting = await asyncio.wait(starts, timeout=10)
        for one in waiting:
            one.cancel()
        assert not waiting

    play(scenario)


def test_closing_ends_the_search() -> None:
    async def scenario() -> None:
        claims = Claims(Machine(gpu(0)))
        waiting = claims.claim("m", 100)
        await claims.refused("m")
        await claims.allocation.close()
        looks = claims.machine.looks
        await asyncio.sleep(0.1)
        assert claims.machine.looks == looks and not waiting.done()
        waiting.cancel()

    play(scenario)
