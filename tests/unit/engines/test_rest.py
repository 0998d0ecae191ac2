"""The supervisor's models sleep, wake and scale: over small real engines."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from msgspec import structs
from small_backend import SMALL, alive, eventually, kill, preparer, run, small

from gpustack_fast.backends import BACKENDS, Call, Sleep
from gpustack_fast.config import ModelConfig, ReplicasConfig
from gpustack_fast.engines.autoscale import Pace
from gpustack_fast.engines.duties import Duties
from gpustack_fast.engines.history import History
from gpustack_fast.engines.plan import ReplicaSlot, Wanted
from gpustack_fast.engines.replica import Replica
from gpustack_fast.engines.rest import Rest
from gpustack_fast.engines.rollout import There
from gpustack_fast.engines.sights import Activity
from gpustack_fast.engines.supervisor import Supervisor
from gpustack_fast.faults import Faults
from gpustack_fast.storage.data_directory import DataDirectory
from gpustack_fast.storage.engine_paths import EnginePaths
from gpustack_fast.storage.model_states import ModelStates

SLEEPER = dataclasses.replace(
    SMALL,
    sleep=Sleep(
        fall_asleep=lambda level: [Call(path="/sleep")], wake_up=lambda level: [Call(path="/wake")]
    ),
)
AT_ONCE = 0.01
"""Seconds after which a model sleeps at the next look."""


class Told(History):
    """A history that says what has happened."""

    def __init__(self) -> None:
        super().__init__()
        self.reasons: list[tuple[str, str]] = []

    def note(self, model: str, instance: str, what: str, why: str = "") -> None:
        self.reasons.append((what, why))
        super().note(model, instance, what, why)


class House:
    """A supervisor of a model `small`, in place of the data plane: requests, and when it looks."""

    def __init__(self, paths: EnginePaths) -> None:
        self.changes = 0
        self.told = Told()
        self.supervisor = Supervisor(
            paths,
            preparer(),
            Faults(),
            on_change=self.changed,
            history=self.told,
            duties=Duties(Pace(up_after=0, down_after=0, smoothing=1e-9)),
            backends={"small": SLEEPER, "external": BACKENDS["external"]},
        )

    def changed(self) -> None:
        self.changes += 1

    @property
    def replicas(self) -> list[Replica]:
        return self.supervisor.replicas

    @property
    def states(self) -> list[str]:
        return [one.state for one in self.replicas]

    def processes(self) -> list[int]:
        return [one.pid for one in self.supervisor.instances if one.pid is not None]

    def recorded(self) -> list[bool]:
        """Whether they sleep, by their records."""
        files = [one.record for one in self.supervisor.instances]
        return [bool(json.loads(file.read_bytes())["asleep"]) for file in files]

    def look(self, in_flight: int = 0, waiting: int = 0) -> None:
        """A look, with so many requests at the first instance."""
        first = self.replicas[0].id if self.replicas else ""
        self.supervisor.look(Activity({first: in_flight}, {}, {"small": waiting}))

    async def all_in(self, *states: str) -> None:
        await eventually(lambda: self.states == [*states], f"{states}, and not {self.states}")

    async def falls_asleep(self) -> None:
        """Its time is over at the second look: the first one sees it run."""
        self.look()
        await asyncio.sleep(2 * AT_ONCE)
        self.look()
        assert "It sleeps. It has had no request for" in self.supervisor.resting["small"]

    def ends(self) -> None:
        """The last request of all of them ends."""
        for one in list(self.supervisor._replicas.ours.values()):
            self.supervisor.instance_idle(one.id)

    def edit(self, model: ModelConfig, generation: int) -> None:
        self.supervisor.want([model], {"small": generation})


def scenario(
    folder: Path, model: ModelConfig
) -> Callable[[Callable[[House], Awaitable[None]]], None]:
    """Runs the function with a model that runs."""

    @contextlib.asynccontextmanager
    async def living(paths: EnginePaths) -> AsyncIterator[House]:
        house = House(paths)
        house.supervisor.want([model])
        task = asyncio.create_task(house.supervisor.run())
        try:
            await eventually(lambda: "running" in house.states, "it runs")
            yield house
        finally:
            task.cancel()
            await house.supervisor.shutdown(0.0)
            assert not any(alive(pid) for pid in house.processes())

    def decorate(body: Callable[[House], Awaitable[None]]) -> None:
        async def play(paths: EnginePaths) -> None:
            async with asyncio.timeout(120), living(paths) as house:
                await body(house)

        run(play, folder)

    return decorate


def test_it_is_stopped_and_started_again_by_one_wake(short_folder: Path) -> None:
    @scenario(short_folder, small(sleep_after=AT_ONCE))
    async def _(house: House) -> None:
        before = house.processes()
        await house.falls_asleep()
        assert house.supervisor.waits == {"small"}
        await eventually(lambda: house.replicas == [], "it is out of the table")
        house.ends()
        await eventually(lambda: not house.processes(), "it ends")
        assert house.supervisor.replicas == [] and not any(map(alive, before))
        for _ in range(3):
            house.supervisor.model_wanted("small")
            house.look(waiting=3)
        await house.all_in("running")
        assert len(house.processes()) == 1
        await asyncio.sleep(0.1)
        assert house.supervisor.waits == {"small"}, "nobody has looked since"
        told = house.changes
        house.look()
        assert house.supervisor.waits == set() and house.supervisor.resting == {}
        assert house.changes == told + 1, "no request need wait any more"
        house.look()
        assert house.changes == told + 1


def test_an_engine_that_is_ended_for_sleep_is_said_to_be_and_its_model_is_settled(
    short_folder: Path,
) -> None:
    @scenario(short_folder, small(sleep_after=AT_ONCE))
    async def _(house: House) -> None:
        progress = house.supervisor.progress
        await house.falls_asleep()
        await eventually(lambda: not house.replicas, "it leaves")
        assert ("retired", "The model sleeps.") in house.told.reasons
        house.ends()
        await eventually(lambda: progress.outlooks()["small"].settled, "nothing is on its way")
        there = progress.there("small", small("--slow=1", sleep_after=AT_ONCE))
        assert there == There(engines=0, replaced=0, asleep=True)


def test_requests_of_one_that_goes_to_sleep_get_all_their_time(short_folder: Path) -> None:
    """The supervisor's `drain_timeout` is none here."""

    @scenario(short_folder, small(sleep_after=AT_ONCE))
    async def _(house: House) -> None:
        (replica,) = house.replicas
        await house.falls_asleep()
        await eventually(lambda: house.replicas == [], "it is out of the table")
        await asyncio.sleep(0.3)
        assert alive(house.processes()[0])
        house.supervisor.instance_idle(replica.id)
        await eventually(lambda: not house.processes(), "it ends")


@pytest.mark.parametrize("level", [0, 1])
def test_an_edit_of_one_that_sleeps_starts_nothing_before_it_wakes(
    short_folder: Path, level: int
) -> None:
    model = small(sleep_after=AT_ONCE, sleep_level=level)

    @scenario(short_folder, model)
    async def _(house: House) -> None:
        (replica,) = house.replicas
        await house.falls_asleep()
        await eventually(lambda: replica.retired or replica.state == "sleeping", "it leaves")
        house.supervisor.instance_idle(replica.id)
        await eventually(lambda: replica.asleep or not house.processes(), "it sleeps")
        house.edit(structs.replace(model, backend_parameters=["--child"]), 2)
        await eventually(lambda: not house.processes(), "the old one ends")
        await asyncio.sleep(0.3)
        assert house.replicas == [] and house.supervisor.waits == {"small"}
        house.supervisor.model_wanted("small")
        await house.all_in("running")
        assert house.replicas[0].model.backend_parameters == ["--child"]


def test_one_that_sleeps_with_its_process_goes_on_and_one_that_dies_asleep_waits(
    short_folder: Path,
) -> None:
    @scenario(short_folder, small(sleep_after=AT_ONCE, sleep_level=1, replicas=2))
    async def _(house: House) -> None:
        await house.all_in("running", "running")
        before = house.processes()
        await house.falls_asleep()
        await house.all_in("sleeping", "sleeping")
        for one in house.replicas:
            house.supervisor.instance_idle(one.id)
        await eventually(lambda: all(one.asleep for one in house.replicas), "both sleep")
        assert house.processes() == before
        assert house.recorded() == [True, True], "the next server must not send them requests"
        kill(before[0])
        await eventually(lambda: house.processes() == before[1:], "one is gone")
        await asyncio.sleep(0.3)
        assert house.states == ["sleeping"], "no other is started in its place"
        house.supervisor.model_wanted("small")
        await house.all_in("running", "running")
        assert before[1] in house.processes()
        assert house.recorded() == [False, False]


def test_it_wakes_when_it_may_not_sleep_any_more(short_folder: Path) -> None:
    @scenario(short_folder, small(sleep_after=AT_ONCE))
    async def _(house: House) -> None:
        await house.falls_asleep()
        house.edit(small(), 1)
        await house.all_in("running")


def test_replicas_follow_requests(short_folder: Path) -> None:
    bounds = ReplicasConfig(min=1, max=3)

    @scenario(short_folder, small(replicas=bounds, target_in_flight=2))
    async def _(house: House) -> None:
        (first,) = house.replicas
        for _ in range(3):
            house.look(in_flight=5)
        await house.all_in("running", "running", "running")
        for _ in range(3):
            house.look()
        await eventually(lambda: len(house.replicas) == 1, "two are out of the table")
        assert house.replicas == [first]
        await asyncio.sleep(0.3)
        assert len(house.processes()) == 3, "their requests have all their time"
        house.ends()
        await eventually(lambda: len(house.processes()) == 1, "they end")


def test_nothing_is_decided_while_the_server_stops(short_folder: Path) -> None:
    @scenario(short_folder, small(sleep_after=AT_ONCE))
    async def _(house: House) -> None:
        house.look()
        await asyncio.sleep(2 * AT_ONCE)
        house.supervisor._retirement.closing = True
        house.look()
        house.supervisor.model_wanted("small")
        assert house.supervisor.resting == {}
        house.supervisor._retirement.closing = False


def test_replicas_that_are_on_their_way_out_or_outdated_do_not_count() -> None:
    def replica(number: int, **more: bool) -> Replica:
        made = Replica(ReplicaSlot("small", number), model, SLEEPER, f"small-{number}", 0.0)
        made.state = "running"
        for name, value in more.items():
            setattr(made, name, value)
        return made

    model = small(sleep_after=1, sleep_level=1)
    rest = Rest(preparer(), History())
    rest.take([model], [], 0.0)
    rest.look({}, Activity(), 0.0)
    rest._duties._duties["small"].sleep("It has nothing to do.")
    stays, outdated = replica(0), replica(1, outdated=True)
    retired = replica(2, retired=True)
    assert rest.wanted([model], [stays, outdated, retired]) == {"small": Wanted(1, 0)}
    assert stays.bedtime.is_set() and not retired.bedtime.is_set()
    scaled = small(replicas=ReplicasConfig(min=1, max=3), target_in_flight=2)
    for there, wants in (([stays, outdated], 2), ([replica(3, retired=True)] * 3, 1)):
        rest = Rest(preparer(), History())
        rest.take([scaled], there, 0.0)
        assert rest.wanted([scaled], there)["small"].replicas == wants


def test_which_models_sleep_is_kept_for_the_next_server(directory: DataDirectory) -> None:
    async def main() -> None:
        states = ModelStates(directory)
        states.raised({"small": "one"})
        rest = Rest(preparer(), History(states))
        model = small(sleep_after=AT_ONCE)
        rest.take([model], [], 0.0)
        running = Replica(ReplicaSlot("small", 0), model, SLEEPER, "small-0", 0.0)
        running.state = "running"
        for now in (1.0, 2.0):
            assert rest.look({running.slot: running}, Activity(), now) == (now > 1)
        assert states.asleep == {"small"}
        assert rest.wake("small") and not rest.wake("small")
        assert states.asleep == set()

    asyncio.run(main())
