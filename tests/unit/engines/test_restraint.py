"""While a server is handed over, engines stay as they are."""

from __future__ import annotations

import asyncio

from gpustack_fast.engines.restraint import Restraint


def test_a_freeze_waits_for_a_start_that_is_half_done_and_holds_the_next_one() -> None:
    async def scenario() -> list[str]:
        restraint, said, go = Restraint(), list[str](), asyncio.Event()

        async def start(name: str) -> None:
            async with restraint.starting():
                said.append(f"{name} begins")
                await go.wait()
            said.append(f"{name} has begun")

        first = asyncio.create_task(start("a"))
        await asyncio.sleep(0)
        freezing = asyncio.create_task(restraint.freeze())
        second = asyncio.create_task(start("b"))
        for _ in range(5):
            await asyncio.sleep(0)
        assert not freezing.done() and restraint.is_frozen
        go.set()
        await first
        await freezing
        for _ in range(5):
            await asyncio.sleep(0)
        said.append("frozen")
        restraint.thaw()
        await second
        return said

    assert asyncio.run(scenario()) == [
        "a begins",
        "a has begun",
        "frozen",
        "b begins",
        "b has begun",
    ]
