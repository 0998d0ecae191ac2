"""What an engine is started with: the states on the way, and what is done once for many."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import pytest
from gpu_reports import GIB, Machine, gpu, part
from small_backend import SMALL, eventually

from gpustack_fast.backends import Model, Shape
from gpustack_fast.backends.demand import Demand
from gpustack_fast.config import GpuSelectorConfig, ModelConfig
from gpustack_fast.engines import allocation, preparer
from gpustack_fast.engines.allocation import Allocation
from gpustack_fast.engines.plan import ReplicaSlot
from gpustack_fast.engines.prepared import Prepared
from gpustack_fast.engines.preparer import Environment, Preparer, Report
from gpustack_fast.engines.replica import InstanceState, Replica
from gpustack_fast.errors import EngineFailed
from gpustack_fast.sizing import UNKNOWN, FactsError, ModelFacts

FACTS = ModelFacts(
    architecture="Small",
    format="safetensors",
    generates=True,
    weight_bytes=GIB,
    parameters=1,
    dtype_bytes=2.0,
    layers=1,
    heads=1,
    kv_heads=1,
    vocabulary=1,
    hidden=1,
    context=1,
    kv_bytes_per_token=1.0,
)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocation, "GATHER", 0.01)
    monkeypatch.setattr(allocation, "LOOK_AGAIN_EVERY", 0.02)
    monkeypatch.setattr(preparer, "READ_AGAIN_EVERY", 0.02)


def demands(model: Model, facts: ModelFacts, count: int) -> list[Demand]:
    return [Demand(shape=Shape(), least=(10 if model.name in ("part", "chosen") else 30) * GIB)]


BACKEND = dataclasses.replace(SMALL, demands=demands)


class House:
    """A preparer over a machine, with environments and files that a test lets go."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.allocation = Allocation(machine.read, dict)
        self.preparer = Preparer(self.build, self, self.allocation, machine.read)
        self.built: list[tuple[str, str | None, bool]] = []
        self.fetched: list[str] = []
        self.ended: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.reports: dict[str, Report] = {}
        self.seen: dict[str, list[tuple[InstanceState, str]]] = {}

    async def build(self, model: ModelConfig, gpus: bool, report: Report) -> Environment:
        self.built.append((model.name, model.backend_version, gpus))
        self.reports[f"environment of {model.name}"] = report
        await self.gate.wait()
        return Prepared(python=Path("/python"), version="1")

    async def facts(self, model: ModelConfig) -> ModelFacts | None:
        return FACTS

    async def fetch(self, model: ModelConfig, report: Report) -> Path | None:
        self.fetched.append(model.name)
        self.reports[model.name] = report
        try:
            await self.gate.wait()
        finally:
            self.ended.append(model.name)
        return Path("/files")

    async def adapters(self, model: ModelConfig, report: Report) -> Mapping[str, Path]:
        return {}

    def set_state(self, replica: Replica, state: InstanceState, message: str = "") -> None:
        replica.state, replica.state_message = state, message
        self.seen.setdefault(replica.id, []).append((state, message))

    def replica(
        self, name: str = "m", number: int = 0, slices: bool = False, **more: object
    ) -> Replica:
        model = ModelConfig(name=name, backend="small", **more)  # type: ignore[arg-type]
        backend = dataclasses.replace(BACKEND, takes_slices=slices)
        slot = ReplicaSlot(name, number)
        return Replica(slot, model, backend, id=f"{name}-{number}", created=0.0)

    def prepare(self, replica: Replica) -> asyncio.Task[Prepared]:
        return asyncio.create_task(self.preparer.prepare(replica, self.set_state))

    def states(self, replica: Replica) -> list[InstanceState]:
        return list(dict.fromkeys(state for state, _ in self.seen[replica.id]))


def play(scenario: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(60):
            await scenario()

    asyncio.run(main())


def test_a_replica_comes_through_all_states_and_gets_its_place() -> None:
    async def scenario() -> None:
        house = House(Machine(gpu(0, used=70), gpu(1)))
        replica = house.replica()
        prepared = await house.prepare(replica)
        assert house.states(replica) == ["analyzing", "scheduled", "initializing", "downloading"]
        assert ("scheduled", "It goes on GPU 1 (30.0 GiB).") in house.seen[replica.id]
        assert (prepared.devices, prepared.files) == (("1",), Path("/files"))
        assert replica.devices == ("GPU-1",) and house.built == [("m", None, True)]
        house.preparer.release(replica)
        assert not replica.devices and not house.allocation.held

    play(scenario)


def test_one_without_room_is_pending_with_the_reason_and_goes_on_when_there_is() -> None:
    async def scenario() -> None:
        house = House(Machine(gpu(0)))
        replicas = [house.replica(number=number) for number in range(3)]
        preparing = [house.prepare(one) for one in replicas]
        await eventually(
            lambda: any("No GPU has room" in one.state_message for one in replicas), "no room"
        )
        last = next(one for one in replicas if one.state == "pending")
        await asyncio.wait(preparing, return_when=asyncio.FIRST_COMPLETED)
        house.preparer.release(next(one for one in replicas if one is not last))
        await asyncio.gather(*preparing)
        assert last.state == "downloading" and last.devices == ("GPU-0",)

    play(scenario)


def test_a_machine_without_gpus_runs_it_without() -> None:
    async def scenario() -> None:
        house = House(Machine())
        house.machine.now(problem="There is no NVIDIA driver here.")
        prepared = await house.prepare(house.replica())
        assert prepared.devices == () and house.built == [("m", None, False)]
        assert prepared.remark == "", "nobody would expect a GPU there"

    play(scenario)


@pytest.mark.parametrize(
    ("expected", "chosen"), [(True, False), (False, True)], ids=["a driver", "GPUs that are chosen"]
)
def test_one_that_starts_without_the_gpus_that_it_is_for_says_so(
    caplog: pytest.LogCaptureFixture, expected: bool, chosen: bool
) -> None:
    async def scenario() -> None:
        house = House(Machine())
        house.machine.now(problem="The NVIDIA driver is not loaded.", expected=expected)
        more = {"gpu_selector": GpuSelectorConfig(gpu_ids=["0"])} if chosen else {}
        prepared = await house.prepare(house.replica(**more))  # type: ignore[arg-type]
        assert prepared.devices == ()
        assert prepared.remark == "It was started without a GPU. The NVIDIA driver is not loaded."
        assert "m-0 is started without a GPU. The NVIDIA driver is not loaded." in caplog.text

    play(scenario)


def test_while_a_driver_cannot_be_asked_nothing_starts_without_gpus() -> None:
    async def scenario() -> None:
        house = House(Machine())
        house.machine.now(problem="The NVIDIA driver has not answered for 15 s.", unread=True)
        replica = house.replica()
        preparing = house.prepare(replica)
        await eventually(lambda: house.machine.looks > 2, "the GPUs are looked at again")
        assert (replica.state, replica.state_message) == ("pending", house.machine.report.problem)
        assert not house.built
        house.machine.now(gpu(0))
        assert (await preparing).devices == ("0",)

    play(scenario)


def test_the_number_of_a_gpu_is_that_of_the_moment_in_which_it_is_given() -> None:
    async def scenario() -> None:
        house = House(Machine(gpu(0), gpu(1, used=70)))
        house.allocation.avoid("GPU-0", "It has failed.")
        replica = house.replica()
        preparing = house.prepare(replica)
        await eventually(lambda: "No GPU has room" in replica.state_message, "it waits")
        house.machine.now(gpu(0, uuid="GPU-1"))  # the other one is gone
        assert (await preparing).devices == ("0",) and replica.devices == ("GPU-1",)

    play(scenario)


def test_slices_are_for_backends_that_take_them() -> None:
    async def scenario() -> None:
        divided = gpu(0, slices=[part("a")])
        house = House(Machine(divided, gpu(1)))
        assert (await house.prepare(house.replica("whole"))).devices == ("1",)
        by_index = house.replica("chosen", gpu_selector=GpuSelectorConfig(gpu_ids=["0", "1"]))
        assert (await house.prepare(by_index)).devices == ("1",)
        assert (await house.prepare(house.replica("part", slices=True))).devices == ("MIG-a",)
        house.machine.now(divided)
        with pytest.raises(EngineFailed, match=r"divided by MIG.*`nvidia-smi -i 0 -mig 0`"):
            await house.prepare(house.replica("whole", number=1))

    play(scenario)


def test_how_many_gpus_it_could_have_goes_by_what_it_was_given() -> None:
    async def scenario() -> None:
        counts: list[int] = []

        def counted(model: Model, facts: ModelFacts, count: int) -> list[Demand]:
            counts.append(count)
            return demands(model, facts, count)

        house = House(Machine(gpu(0), gpu(1), gpu(2), gpu(3, slices=[part("a")])))
        house.allocation.avoid("GPU-2", "It has failed.")
        chosen = GpuSelectorConfig(gpu_ids=["1", "3"])
        for replica in (house.replica("m"), house.replica("chosen", gpu_selector=chosen)):
            replica.backend = dataclasses.replace(replica.backend, demands=counted)
            await house.prepare(replica)
        assert counts == [2, 1]

    play(scenario)


@pytest.mark.parametrize("any_files", [True, False])
def test_files_that_say_nothing_are_for_those_alone_that_take_any(any_files: bool) -> None:
    async def scenario() -> None:
        seen: list[ModelFacts] = []

        def noted(model: Model, facts: ModelFacts, count: int) -> list[Demand]:
            seen.append(facts)
            return demands(model, facts, count)

        async def none(model: ModelConfig) -> ModelFacts | None:
            raise FactsError("Nothing says what it is. Name another.")

        house = House(Machine(gpu(0)))
        house.facts = none  # type: ignore[method-assign]
        replica = house.replica()
        replica.backend = dataclasses.replace(replica.backend, demands=noted, any_files=any_files)
        if any_files:
            assert (await house.prepare(replica)).facts == UNKNOWN and seen == [UNKNOWN]
        else:
            with pytest.raises(FactsError, match="Nothing says what it is"):
                await house.prepare(replica)

    play(scenario)


def test_replicas_share_one_build_and_one_download_and_each_shows_how_far_it_is() -> None:
    async def scenario() -> None:
        house = House(Machine(gpu(0), gpu(1)))
        house.gate.clear()
        replicas = [house.replica("m", number) for number in range(3)]
        other = house.replica("other", backend_version="2")
        preparing = [house.prepare(one) for one in (*replicas, other)]
        await eventually(lambda: len(house.built) == 2, "both environments are built")
        await asyncio.sleep(0.05)
        assert sorted(house.built) == [("m", None, True), ("other", "2", True)]
        house.reports["environment of m"]("Still building ...")
        shown = [(one.state, one.state_message) for one in (*replicas, other)]
        assert shown[:3] == [("initializing", "Still building ...")] * 3
        assert "Still building" not in shown[3][1]
        house.gate.set()
        await asyncio.sleep(0)
        house.gate.clear()
        await eventually(lambda: len(house.fetched) == 2, "both models are fetched")
        await eventually(
            lambda: all(one.state == "downloading" for one in replicas), "all wait for the files"
        )
        assert sorted(house.fetched) == ["m", "other"]
        # The first gives up, and the others still see how far it is.
        preparing[0].cancel()
        await asyncio.wait({preparing[0]})
        replicas[0].state_message = ""
        house.reports["m"]("half")
        assert [one.state_message for one in replicas] == ["", "half", "half"]
        house.gate.set()
        await asyncio.gather(*preparing[1:])
        assert sorted(house.fetched) == ["m", "other"]

    play(scenario)


def test_a_download_that_all_give_up_ends_and_the_next_begins_anew() -> None:
    async def scenario() -> None:
        house = House(Machine())
        house.gate.clear()
        replica = house.replica()
        replica.backend = dataclasses.replace(replica.backend, environment="none")
        preparing = house.prepare(replica)
        await eventually(lambda: house.fetched == ["m"], "it is fetched")
        preparing.cancel()
        again = house.prepare(replica)
        await eventually(lambda: house.fetched == ["m", "m"], "it is fetched again")
        assert house.ended == ["m"] and not again.done()
        house.gate.set()
        assert (await again).files == Path("/files")
        with contextlib.suppress(asyncio.CancelledError):
            await preparing
        await house.preparer.close()

    play(scenario)
