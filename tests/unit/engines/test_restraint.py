"""While a server is handed over, engines stay as they are."""

from __future__ import annotations

import asyncio
from pathlib import Path

from small_backend import PREPARED, alive, eventually, kill, small
from test_rolling_supervisor import House, scenario

from gpustack_fast.engines.preparer import Environment
from gpustack_fast.engines.processes import process
from gpustack_fast.engines.restraint import Restraint
from gpustack_fast.engines.sights import Activity


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


def test_a_freeze_right_behind_a_thaw_holds_those_who_wait_on() -> None:
    """A hand-over that begins again thaws and freezes at one go."""

    async def scenario() -> None:
        restraint, begun = Restraint(), list[str]()

        async def start() -> None:
            async with restraint.starting():
                begun.append("a start")

        async def end() -> None:
            await restraint.until_thawed()
            begun.append("an end")

        await restraint.freeze()
        waiting = [asyncio.create_task(one) for one in (start(), end())]
        await asyncio.sleep(0)
        restraint.thaw()
        await restraint.freeze()
        for _ in range(5):
            await asyncio.sleep(0)
        assert begun == []
        restraint.thaw()
        await asyncio.gather(*waiting)
        assert begun == ["a start", "an end"]

    asyncio.run(scenario())


def test_a_frozen_supervisor_starts_and_ends_nothing_and_goes_on_behind_a_thaw(
    short_folder: Path,
) -> None:
    @scenario(short_folder)
    async def _(house: House) -> None:
        supervisor = house.supervisor
        await house.adopt(small(), small(name="gone", sleep_after=0.01))
        await house.settled(2)
        await supervisor.restraint.freeze()
        for _ in range(3):
            supervisor.look(Activity())
            await asyncio.sleep(0.1)
        assert supervisor.resting == {}
        await house.adopt(small(), small(name="new"))
        pid = pid_of(house, "small")
        kill(pid)
        await eventually(lambda: "error" in states(house), "its end is seen")
        await asyncio.sleep(0.3)
        assert sorted(states(house)) == ["error", "running"], "nothing is begun or retired"
        assert process(pid) is not None, "a process that is not ended is not reaped"
        supervisor.thaw()
        await house.settled(2)
        assert {one.slot.model for one in house.running()} == {"small", "new"}
        assert process(pid) is None


def test_a_start_that_is_prepared_waits_for_the_thaw(short_folder: Path) -> None:
    prepared, go = asyncio.Event(), asyncio.Event()

    async def held(*_: object) -> Environment:
        prepared.set()
        await go.wait()
        return PREPARED

    @scenario(short_folder, held)
    async def _(house: House) -> None:
        await house.adopt(small())
        await prepared.wait()
        await house.supervisor.restraint.freeze()
        go.set()
        await asyncio.sleep(0.3)
        (replica,) = house.all()
        assert replica.instance is None or replica.instance.pid is None
        assert list((short_folder / "run" / "instances").iterdir()) == []
        house.supervisor.thaw()
        await house.settled(1)


def test_while_another_server_has_requests_at_engines_none_is_ended_by_plan_or_put_to_sleep(
    short_folder: Path,
) -> None:
    """One that has failed is lost anyway."""

    @scenario(short_folder)
    async def _(house: House) -> None:
        supervisor = house.supervisor
        await house.adopt(small(), small(name="sleeper", sleep_after=0.01), small(name="gone"))
        await house.settled(3)
        supervisor.restraint.alone.clear()
        gone, broken = pid_of(house, "gone"), pid_of(house, "small")
        await house.adopt(small(), small(name="sleeper", sleep_after=0.01))
        house.end_requests()
        kill(broken)
        await eventually(lambda: pid_of(house, "small") not in (0, broken), "another is started")
        for _ in range(3):
            supervisor.look(Activity())
            await asyncio.sleep(0.1)
        assert alive(gone) and supervisor.resting == {}
        supervisor.restraint.alone.set()
        await eventually(lambda: not alive(gone), "it is ended")
        for _ in range(3):
            supervisor.look(Activity())
            await asyncio.sleep(0.1)
        assert supervisor.resting.keys() == {"sleeper"}


def states(house: House) -> list[str]:
    return [one.state for one in house.supervisor.replicas]


def pid_of(house: House, model: str) -> int:
    """That of its engine; 0: there is none."""
    found = [one.instance for one in house.all() if one.slot.model == model]
    return next((one.pid for one in found if one is not None and one.pid is not None), 0)
