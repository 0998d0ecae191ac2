"""An edit of a model whose engines run: the loop over small real engines carries it out."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import uvloop
from small_backend import SMALL, alive, environment, eventually, kill, preparer, small

from gpustack_fast.backends import BACKENDS
from gpustack_fast.config import ModelConfig
from gpustack_fast.engines import processes
from gpustack_fast.engines.history import History
from gpustack_fast.engines.preparer import Environments
from gpustack_fast.engines.progress import Outlook
from gpustack_fast.engines.replica import Replica
from gpustack_fast.engines.rollout import There
from gpustack_fast.engines.supervisor import Supervisor
from gpustack_fast.faults import Faults
from gpustack_fast.storage.data_directory import DataDirectory
from gpustack_fast.storage.engine_paths import EnginePaths
from gpustack_fast.storage.events import Events
from gpustack_fast.storage.model_states import ModelStates


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(processes, "ORPHANS_MAY_TAKE", 0.2)
    caplog.set_level(logging.INFO, "gpustack_fast")


class House:
    """A supervisor whose engines' requests end when the test says so."""

    def __init__(self, folder: Path, make: Environments = environment) -> None:
        self.drain_timeout = 600.0
        self.directory = DataDirectory(folder)
        self.directory.acquire()
        self.events = Events(self.directory.events_file)
        self.states = ModelStates(self.directory)
        self.generations: dict[str, int] = {}
        self.serving: list[int] = []
        self.supervisor = Supervisor(
            EnginePaths(folder),
            preparer(make),
            Faults(),
            on_change=self.look,
            drain_timeout=lambda: self.drain_timeout,
            history=History(self.states, self.events),
            backends={"small": SMALL, "external": BACKENDS["external"]},
        )

    def look(self) -> None:
        running = [one for one in self.supervisor.replicas if one.published_state == "running"]
        self.serving.append(len(running))

    async def adopt(self, *models: ModelConfig) -> None:
        specs = {one.name: " ".join(one.backend_parameters) for one in models}
        self.generations = self.states.raised(specs)
        addresses = await self.supervisor.try_external([])
        self.supervisor.adopt(addresses, models, self.generations)

    def all(self) -> list[Replica]:
        """Those on their way out, too."""
        return list(self.supervisor._replicas.ours.values())

    def end_requests(self) -> None:
        """Tells of the end of the requests on all that are retired."""
        for one in self.all():
            if one.retired:
                self.supervisor.instance_idle(one.id)

    def orders(self) -> list[list[str]]:
        """The flags of those that run."""
        return [one.model.backend_parameters for one in self.running()]

    def running(self) -> list[Replica]:
        return [one for one in self.supervisor.replicas if one.state == "running"]

    async def settled(self, count: int) -> None:
        def done() -> bool:
            self.end_requests()
            found = self.all()
            return len(found) == count == len(self.running()) and not any(
                one.is_outdated for one in found
            )

        await eventually(done, f"{count} as configured")

    def happened(self, what: str) -> list[str]:
        return [one.why for one in self.events.all() if one.what == what]


def scenario(
    folder: Path, make: Environments = environment
) -> Callable[[Callable[[House], Awaitable[None]]], None]:
    @asynccontextmanager
    async def living(house: House) -> AsyncIterator[None]:
        processes.become_subreaper()
        loop = asyncio.ensure_future(house.supervisor.run())
        try:
            yield
        finally:
            house.supervisor.thaw()
            house.supervisor.restraint.alone.set()
            await house.supervisor.shutdown(0.0)
            loop.cancel()
            await asyncio.wait({loop})

    def decorate(body: Callable[[House], Awaitable[None]]) -> None:
        async def main() -> None:
            house = House(folder, make)
            async with living(house):
                await body(house)
            house.directory.release()

        uvloop.run(main())

    return decorate


def pids(replicas: Iterable[Replica]) -> list[int | None]:
    return [None if one.instance is None else one.instance.pid for one in replicas]


def test_an_edit_replaces_engines_one_by_one_when_their_requests_have_ended(
    short_folder: Path,
) -> None:
    @scenario(short_folder)
    async def _(house: House) -> None:
        await house.adopt(small(replicas=2))
        await house.settled(2)
        assert house.supervisor.history.observed("small") == 1
        before = pids(house.running())
        house.serving.clear()
        await house.adopt(small("--slow=1", replicas=2))
        await eventually(lambda: any(one.retired for one in house.all()), "the first is retired")
        (leaving,) = [one for one in house.all() if one.retired]
        assert house.supervisor.history.observed("small") == 1
        await asyncio.sleep(0.2)
        assert [one for one in house.all() if one.retired] == [leaving], "its requests still run"
        assert all(pid is not None and alive(pid) for pid in before)
        await house.settled(2)
        assert min(house.serving) == 2 and max(house.serving) <= 3
        assert house.orders() == [["--slow=1"]] * 2
        assert not any(alive(pid) for pid in before if pid is not None)
        await eventually(lambda: house.supervisor.history.observed("small") == 2, "observed")
        assert [one.generation for one in house.all()] == [2, 2]
        assert len(house.happened("retired")) == len(house.happened("ended")) == 2


def test_what_makes_no_other_engine_is_taken_up_by_those_that_run(short_folder: Path) -> None:
    @scenario(short_folder)
    async def _(house: House) -> None:
        await house.adopt(small())
        await house.settled(1)
        before = pids(house.all())
        await house.adopt(small(hang_timeout=7.0, ready_timeout=9.0, replicas=2))
        await house.settled(2)
        first = house.running()[0]
        assert pids([first]) == before
        assert first.instance is not None
        assert (first.model.hang_timeout, first.instance.model.ready_timeout) == (7.0, 9.0)


def test_an_edit_that_is_taken_back_replaces_nothing(short_folder: Path) -> None:
    @scenario(short_folder)
    async def _(house: House) -> None:
        await house.adopt(small())
        await house.settled(1)
        before = pids(house.all())
        await house.adopt(small("--never-ready"))
        await eventually(lambda: len(house.all()) == 2, "the new one starts")
        await house.adopt(small())
        await house.settled(1)
        assert pids(house.all()) == before
        assert [one.generation for one in house.all()] == [3]


def test_a_model_that_comes_back_while_it_leaves_starts_at_once(short_folder: Path) -> None:
    @scenario(short_folder)
    async def _(house: House) -> None:
        await house.adopt(small(name="a"), small(name="b"))
        await eventually(lambda: len(house.running()) == 2, "both run")
        await house.adopt(small(name="b"))
        assert [one.slot.model for one in house.supervisor.replicas] == ["b"], "in the same moment"
        await house.adopt(small(name="a"), small(name="b"))
        await eventually(lambda: len(house.running()) == 2, "both run again")
        assert len(house.all()) == 3, "the requests on the old one still run"
        await house.settled(2)


def test_a_stop_waits_for_no_replica_that_leaves(short_folder: Path) -> None:
    @scenario(short_folder)
    async def _(house: House) -> None:
        await house.adopt(small())
        await house.settled(1)
        await house.adopt(small(replicas=0))
        await eventually(lambda: any(one.retired for one in house.all()), "it leaves")
        await house.supervisor.shutdown(0.0)
        assert house.all() == []


def test_an_engine_that_dies_while_it_leaves_is_not_waited_for_nor_started_again(
    short_folder: Path,
) -> None:
    @scenario(short_folder)
    async def _(house: House) -> None:
        await house.adopt(small())
        await house.settled(1)
        (pid,) = pids(house.all())
        assert pid is not None
        await house.adopt(small(replicas=0))
        await eventually(lambda: any(one.retired for one in house.all()), "it leaves")
        kill(pid)
        await eventually(lambda: house.all() == [], "it is gone")
        assert len(house.happened("started")) == 1


def test_orders_of_the_operator_are_on_the_disk(short_folder: Path) -> None:
    @scenario(short_folder)
    async def _(house: House) -> None:
        await house.adopt(small())
        await house.settled(1)
        name = house.running()[0].id
        house.supervisor.orders.drain(name)
        await eventually(lambda: name in house.directory.models_file.read_text(), "it is saved")
        house.supervisor.orders.resume(name)
        await eventually(lambda: name not in house.directory.models_file.read_text(), "and this")


def test_a_model_is_interrupted_from_the_end_of_its_last_engine_until_the_next_one_runs(
    short_folder: Path,
) -> None:
    @scenario(short_folder)
    async def _(house: House) -> None:
        await house.adopt(small("--a", max_surge=0))
        await house.settled(1)
        assert house.supervisor.interrupted == frozenset()
        await house.adopt(small("--b", max_surge=0))
        assert house.supervisor.interrupted == {"small"}, "in the same moment"
        await house.settled(1)
        assert house.orders() == [["--b"]]
        await eventually(lambda: not house.supervisor.interrupted, "it serves again")
        await house.adopt(small("--c", replicas=2))
        await house.settled(2)
        assert house.supervisor.interrupted == frozenset(), "a surge interrupts nothing"
        await house.adopt(small("--d", max_surge=0))
        await house.adopt()
        assert house.supervisor.interrupted == frozenset(), "nobody waits for what is gone"


def test_how_far_a_model_is_counts_the_retired_until_they_have_ended(short_folder: Path) -> None:
    @scenario(short_folder)
    async def _(house: House) -> None:
        progress = house.supervisor.progress
        await house.adopt(small(replicas=2))
        assert not progress.outlooks()["small"].settled
        await house.settled(2)
        assert progress.outlooks()["small"] == Outlook(settled=True, given_up=False, retired=[])
        await house.adopt(small(replicas=1))
        (leaving,) = [one for one in house.all() if one.retired]
        found = progress.outlooks()["small"]
        assert (found.settled, found.retired) == (False, [leaving.id])
        await house.settled(1)
        assert progress.outlooks()["small"].settled


def test_a_model_is_given_up_only_where_its_engine_is_not_started_again(
    short_folder: Path,
) -> None:
    @scenario(short_folder)
    async def _(house: House) -> None:
        again, never = (
            small("--crash", name=name, restart_on_error=restarts)
            for name, restarts in (("again", True), ("never", False))
        )
        await house.adopt(again, never)
        await eventually(
            lambda: house.supervisor.progress.outlooks()["never"].given_up, "it is given up"
        )
        both = ["error", "error"]
        await eventually(lambda: [one.state for one in house.all()] == both, "both have failed")
        assert not house.supervisor.progress.outlooks()["again"].given_up


def test_what_a_change_replaces_is_counted_by_the_engines_that_are_there(
    short_folder: Path,
) -> None:
    @scenario(short_folder)
    async def _(house: House) -> None:
        there = house.supervisor.progress.there
        assert there("small", small()) == There(engines=0, replaced=0)
        await house.adopt(small(replicas=2))
        await house.settled(2)
        assert there("small", small(replicas=3)) == There(engines=2, replaced=0)
        assert there("small", small("--slow=1", replicas=2)) == There(engines=2, replaced=2)
        assert there("small", None) == There(engines=2, replaced=2)
        await house.adopt(small("--never-ready", replicas=2))
        await eventually(lambda: len(house.all()) == 3, "the new one starts")
        assert there("small", small(replicas=2)) == There(engines=3, replaced=1), "taken back"


def test_requests_that_are_cut_are_told_with_the_end_of_their_engine(short_folder: Path) -> None:
    @scenario(short_folder)
    async def _(house: House) -> None:
        await house.adopt(small(replicas=2))
        await house.settled(2)
        house.drain_timeout = 0.1
        await house.adopt(small(replicas=1))
        await eventually(lambda: len(house.all()) == 1, "it is ended")
        assert house.happened("ended") == [
            "Requests still ran on it after 0.1 s (`drain_timeout`), and were cut."
        ]
        house.drain_timeout = 600.0
        await house.adopt(small(replicas=0))
        await house.settled(0)
        assert house.happened("ended")[1:] == [""]
        assert house.happened("retired") == ["Fewer replicas are wanted."] * 2
