"""What engines that sleep hold of GPUs: it is given to others, and never promised twice."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import random
from collections.abc import Awaitable, Callable, Iterator

import gpu_reports
import pytest
from gpu_reports import GIB, gpu, report

from gpustack_fast.backends import Shape
from gpustack_fast.backends.demand import Demand
from gpustack_fast.engines import gpu_locks, gpu_use
from gpustack_fast.engines.allocation import Allocation
from gpustack_fast.engines.gpu_locks import GpuLocks
from gpustack_fast.engines.gpu_use import GpuUse
from gpustack_fast.engines.plan import ReplicaSlot
from gpustack_fast.gpus.documents import GpuReport
from gpustack_fast.placement import Placement, Wanted
from simulated_time import simulate

TOTAL = 80
HOUR = 3600.0


@pytest.fixture(autouse=True)
def made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Process ids are those of `Machine`, and whoever looks at them needs no thread."""

    async def at_once(look: Callable[..., object], *arguments: object) -> object:
        return look(*arguments)

    monkeypatch.setattr(gpu_use, "run_in_thread", at_once)
    monkeypatch.setattr(gpu_use, "_session", lambda pid: pid)
    monkeypatch.setattr(gpu_use, "mark_of", lambda pid: None)


class Machine:
    """GPUs whose memory processes take and give back; more than there is cannot be taken."""

    def __init__(self, gpus: int = 1, *, hides_processes: bool = False) -> None:
        self.used: list[dict[int, int]] = [{} for _ in range(gpus)]
        """GiB by process, of each GPU."""
        self.hides = hides_processes
        self.engines: dict[int, str] = {}
        self.pid = 1000
        self.starting: collections.Counter[int] = collections.Counter()
        self.allocation = Allocation(self.read, lambda: self.engines)

    def hold(self, at: int, pid: int, size: int) -> None:
        self.used[at][pid] = size
        if not size:
            del self.used[at][pid]
        assert sum(self.used[at].values()) <= TOTAL, f"GPU {at} was promised twice"

    async def read(self) -> GpuReport:
        await asyncio.sleep(0.01)
        found = []
        for at, held in enumerate(self.used):
            processes = {} if self.hides else held
            found.append(gpu(at, used=sum(held.values()), processes=processes))
        return report(*found)

    def promised(self) -> dict[str, int]:
        sums: collections.Counter[str] = collections.Counter()
        for placement in self.allocation.held:
            for claim in placement.claims:
                sums[claim.uuid] += claim.bytes
        return dict(sums)

    @contextlib.contextmanager
    def alone(self, gpus: list[int]) -> Iterator[None]:
        """Nobody else starts, wakes, falls asleep or ends on these meanwhile."""
        self.starting.update(gpus)
        assert all(self.starting[at] == 1 for at in gpus), "two at one time on a GPU"
        try:
            yield
        finally:
            self.starting.subtract(gpus)


class Engine:
    """One that holds as much as it was promised while it is awake, and `rest` GiB asleep."""

    def __init__(self, machine: Machine, model: str, size: int, gpus: int = 1, rest: int = 2):
        self.machine, self.size, self.gpus, self.rest = machine, size, gpus, rest
        self.slot = ReplicaSlot(model, 0)
        self.told: list[str] = []
        self.pid = 0
        self.on: list[int] = []

    async def start(self, seconds: float = 0.0) -> None:
        demand = Demand(shape=Shape(tensor=self.gpus), least=self.size * GIB)
        wanted = Wanted(model=self.slot.model, number=0, demands=[demand])
        placement = await self.machine.allocation.claim(self.slot, wanted, self.told.append)
        await self._load(placement, seconds)

    async def _load(self, placement: Placement, seconds: float) -> None:
        allocation = self.machine.allocation
        uuids = [claim.uuid for claim in placement.claims]
        self.on = [int(one.removeprefix("GPU-")) for one in uuids]
        await allocation.begin_start(self.slot, uuids)
        if not self.pid:
            self.machine.pid += 1
            self.pid = self.machine.pid
            self.machine.engines[self.pid] = ""
        with self.machine.alone(self.on):
            for part in range(1, 5):
                await asyncio.sleep(seconds / 4)
                self._hold(self.size * part // 4)
        allocation.end_start(self.slot)

    def _hold(self, size: int) -> None:
        for at in self.on:
            self.machine.hold(at, self.pid, size)

    async def sleep(self, seconds: float = 0.0) -> None:
        async with self.machine.allocation.lending(self.slot, {self.pid: ""}):
            with self.machine.alone(self.on):
                await asyncio.sleep(seconds)
                self._hold(self.rest)

    async def wake(self, seconds: float = 0.0) -> None:
        await self.machine.allocation.claim_back(self.slot, self.told.append)
        placement = self.machine.allocation._held[self.slot]
        await self._load(placement, seconds)

    async def stop(self, freed_after: float = 0.0) -> None:
        async with self.machine.allocation.freeing(self.slot, {self.pid: ""}):
            with self.machine.alone(self.on):
                self.die(freed_after)
        self.gone()

    def die(self, freed_after: float = 0.0) -> None:
        """Its process ends; its memory comes back later, whoever asks for it."""
        if self.machine.hides:
            freed_after = 0.0  # what is left of a dead one could be anybody's
        self.machine.engines.pop(self.pid, None)
        pid, self.pid, on = self.pid, 0, self.on

        def free() -> None:
            for at in on:
                self.machine.used[at].pop(pid, None)

        if freed_after:
            asyncio.get_running_loop().call_later(freed_after, free)
        else:
            free()

    def gone(self) -> None:
        self.machine.allocation.release(self.slot)


def play(scenario: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await scenario()

    simulate(main())


async def settled() -> None:
    """Whoever waits has been looked at."""
    await asyncio.sleep(60)


@pytest.mark.parametrize("hides", [False, True])
def test_what_a_sleeping_engine_gave_back_is_another_ones_and_what_it_keeps_is_not(
    hides: bool,
) -> None:
    async def scenario() -> None:
        machine = Machine(hides_processes=hides)
        a, b = Engine(machine, "a", 60), Engine(machine, "b", 78)
        await a.start()
        waiting = asyncio.create_task(b.start())
        await settled()
        assert not waiting.done() and "GPU 0 lacks" in b.told[-1]
        await a.sleep()
        await waiting
        assert machine.promised() == {"GPU-0": 80 * GIB}, "2 GiB are still of the one asleep"

    play(scenario)


def test_a_claim_does_not_shrink_before_the_driver_shows_it() -> None:
    async def scenario() -> None:
        machine = Machine()
        a, b = Engine(machine, "a", 60, rest=60), Engine(machine, "b", 40)
        await a.start()
        waiting = asyncio.create_task(b.start())
        await a.sleep()  # its calls were answered, but it has given nothing back
        await settled()
        assert not waiting.done()
        a._hold(5)
        await waiting

    play(scenario)


def test_one_that_wakes_has_its_whole_place_before_it_begins_to() -> None:
    async def scenario() -> None:
        machine = Machine()
        a, b = Engine(machine, "a", 60), Engine(machine, "b", 60)
        await a.start()
        await a.sleep()
        await b.start()
        waking = asyncio.create_task(a.wake())
        await settled()
        assert not waking.done()
        assert "It needs 60.0 GiB of GPU 0, on which it is, and 20.0 GiB are free." in a.told[-1]
        await b.sleep()
        await waking
        assert machine.promised() == {"GPU-0": 62 * GIB}

    play(scenario)


def test_what_would_fit_counts_those_that_could_sleep_as_asleep() -> None:
    async def scenario() -> None:
        machine = Machine()
        first, second = Engine(machine, "first", 30), Engine(machine, "second", 30)
        await first.start()
        await second.start()
        wide, huge = Engine(machine, "wide", 70), Engine(machine, "huge", 90)
        tasks = [asyncio.create_task(one.start()) for one in (wide, huge)]
        await settled()
        fits = machine.allocation.would_fit
        assert not fits("wide", set()) and not fits("wide", {"first"})
        assert fits("wide", {"first", "second"})
        assert not fits("huge", {"first", "second"}) and not fits("first", {"second"})
        for task in tasks:
            task.cancel()

    play(scenario)


def test_nothing_starts_on_a_gpu_until_what_an_engine_gave_up_is_seen_to_be_free() -> None:
    async def scenario() -> None:
        machine = Machine()
        a, b = Engine(machine, "a", 40), Engine(machine, "b", 40)
        await a.start()
        await asyncio.gather(a.stop(freed_after=9.0), b.start())
        assert a.pid == 0 and machine.promised() == {"GPU-0": 40 * GIB}
        assert machine.used[0] == {b.pid: 40}, "the other's was free before it began"

    play(scenario)


def test_a_little_that_others_take_meanwhile_is_no_reason_to_wait() -> None:
    async def scenario() -> None:
        machine = gpu_reports.Machine(gpu(0, used=40, processes={7: 40}))
        locks = GpuLocks(machine.read, GpuUse())
        async with locks.giving_back(ReplicaSlot("m", 0), ["GPU-0"], {7: ""}):
            machine.now(gpu(0, memory_used=gpu_locks.TOLERANCE))
        assert machine.looks == 2
        machine.now(gpu(0, used=40, processes={7: 40}))
        async with locks.giving_back(ReplicaSlot("m", 0), ["GPU-0"], {7: ""}):
            machine.now(gpu(0, memory_used=gpu_locks.TOLERANCE + 1))
        assert machine.looks == 2 + 3, "it is looked once more whether that is all"

    play(scenario)


def test_an_engine_on_no_gpu_sleeps_wakes_and_ends_without_any() -> None:
    async def scenario() -> None:
        machine = Machine()
        slot = ReplicaSlot("m", 0)
        async with machine.allocation.lending(slot, {1: ""}):
            pass
        await machine.allocation.claim_back(slot, lambda _: None)
        async with machine.allocation.freeing(slot, {1: ""}):
            pass
        assert machine.allocation.held == []

    play(scenario)


async def _live(engine: Engine, chance: random.Random, done: collections.Counter[str]) -> None:
    """Starts, sleeps, wakes, stops and dies in random order, for ever."""
    while True:
        engine.size = chance.choice([10, 20, 35, 50, 70])
        try:
            # An operator's stop comes at any moment.
            async with asyncio.timeout(chance.expovariate(1 / 400)):
                await engine.start(chance.uniform(0, 60))
                done["started"] += 1
                while chance.random() < 0.8:
                    await asyncio.sleep(chance.expovariate(1 / 40))
                    await engine.sleep(chance.uniform(0, 8))
                    done["slept"] += 1
                    await asyncio.sleep(chance.expovariate(1 / 40))
                    await engine.wake(chance.uniform(0, 8))
                    done["woken"] += 1
                await asyncio.sleep(chance.expovariate(1 / 60))
                if chance.random() < 0.5:
                    await engine.stop(freed_after=chance.uniform(0, 20))
                    done["stopped"] += 1
        except TimeoutError:
            done["given up"] += 1
        if engine.pid:
            engine.die(chance.uniform(0, 20))
            done["died"] += 1
        engine.gone()
        await asyncio.sleep(chance.expovariate(1 / 10))


async def _stranger(machine: Machine, chance: random.Random) -> None:
    """Somebody else's process, which takes of what is promised to nobody."""
    while True:
        await asyncio.sleep(chance.expovariate(1 / 60))
        at = chance.randrange(len(machine.used))
        strangers = sum(size for pid, size in machine.used[at].items() if pid >= 10**6)
        dead = sum(
            size
            for pid, size in machine.used[at].items()
            if pid < 10**6 and pid not in machine.engines
        )
        left = TOTAL - machine.promised().get(f"GPU-{at}", 0) // GIB - strangers - dead
        if left > 1:
            pid = 10**6 + chance.randrange(10**6)
            machine.hold(at, pid, chance.randint(1, left))
            await asyncio.sleep(chance.expovariate(1 / 30))
            machine.used[at].pop(pid)


@pytest.mark.parametrize("hides", [False, True], ids=["processes are seen", "they are hidden"])
@pytest.mark.parametrize("seed", range(8))
def test_in_an_hour_of_any_order_no_memory_is_promised_twice(seed: int, hides: bool) -> None:
    """`Machine.hold` fails where engines would take more than there is, and `Machine.alone` where
    two start, wake, fall asleep or end on one GPU at a time.
    """
    chance, done = random.Random(seed), collections.Counter[str]()

    async def scenario() -> None:
        machine = Machine(gpus=3, hides_processes=hides)
        engines = [Engine(machine, f"m{at}", 10, gpus=1 + at % 2) for at in range(8)]
        lives = [asyncio.create_task(_live(one, chance, done)) for one in engines]
        if not hides:
            lives.append(asyncio.create_task(_stranger(machine, chance)))
        ended, _ = await asyncio.wait(lives, timeout=HOUR, return_when=asyncio.FIRST_COMPLETED)
        for one in ended:
            one.result()
        for size in machine.promised().values():
            assert size <= TOTAL * GIB
        for one in lives:
            one.cancel()
        await asyncio.wait(lives)

    play(scenario)
    assert all(done[what] > 3 for what in ("started", "slept", "woken", "stopped", "died")), done
