"""Who holds which GPUs, and who waits for one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from gpustack_fast.backends import Demand, Shape
from gpustack_fast.engines.allocation import Allocation
from gpustack_fast.engines.plan import ReplicaSlot
from gpustack_fast.gpus.documents import Gpu, GpuReport
from gpustack_fast.placement import Wanted

GIB = 1 << 30


def report_of_one() -> GpuReport:
    gpu = Gpu(
        index=0,
        uuid="GPU-0",
        name="A",
        memory_total=80 * GIB,
        memory_used=0,
        utilization=None,
        temperature=None,
        power=None,
        power_limit=None,
        compute_capability="9.0",
        pci_bus_id="0",
        numa_node=None,
        nvlinks=[],
        mig=False,
        slices=[],
        processes=[],
    )
    return GpuReport(driver_version="580", cuda_version="13.0", gpus=[gpu])


def wanted(model: str, gib: int) -> Wanted:
    return Wanted(model=model, number=0, demands=[Demand(shape=Shape(), least=gib * GIB)])


def allocation(read: Callable[[], Awaitable[GpuReport]]) -> Allocation:
    return Allocation(read, dict)


def claim(
    found: Allocation, model: str, gib: int, told: list[str] | None = None
) -> asyncio.Task[object]:
    refused = (lambda _: None) if told is None else told.append
    slot = ReplicaSlot(model, 0)
    return asyncio.ensure_future(found.claim(slot, wanted(model, gib), refused))


def test_one_that_finds_no_place_gets_it_when_it_is_released() -> None:
    async def main() -> None:
        async def read() -> GpuReport:
            return report_of_one()

        found, told = allocation(read), list[str]()
        await claim(found, "a", 60)
        waiting = claim(found, "b", 60, told)
        await asyncio.wait({waiting}, timeout=1.0)
        assert told and not waiting.done()
        found.release(ReplicaSlot("a", 0))
        await waiting
        assert [one.model for one in found.held] == ["b"]
        await found.close()

    asyncio.run(main())


def test_one_that_gives_up_at_the_moment_of_its_answer_leaves_the_others_theirs() -> None:
    async def main() -> None:
        tasks: list[asyncio.Task[object]] = []

        async def read() -> GpuReport:
            tasks[0].cancel()  # nothing of its own has run when the answer is given
            return report_of_one()

        found = allocation(read)
        tasks += [claim(found, "a", 20), claim(found, "b", 10)]
        await asyncio.wait(tasks, timeout=20)
        assert tasks[0].cancelled()
        assert tasks[1].done() and tasks[1].exception() is None
        assert [one.model for one in found.held] == ["b"], "nothing is promised to who is gone"
        await found.close()

    asyncio.run(main())


def test_a_mistake_in_the_search_reaches_those_that_wait() -> None:
    async def main() -> None:
        async def read() -> GpuReport:
            raise ZeroDivisionError

        found = allocation(read)
        waiting = claim(found, "a", 20)
        await asyncio.wait({waiting}, timeout=20)
        with pytest.raises(ZeroDivisionError):
            waiting.result()
        await found.close()

    asyncio.run(main())
