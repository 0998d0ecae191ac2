"""The GPUs of adopted engines: they are kept, and promised to nobody else."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from gpu_reports import GIB, Machine, gpu, part, report
from small_backend import (
    PREPARED,
    SMALL,
    NoFiles,
    alive,
    environment,
    eventually,
    kill,
    no_gpus,
    small,
)
from test_preparer import House

from gpustack_fast.backends import BACKENDS, Shape
from gpustack_fast.config import GpuSelectorConfig
from gpustack_fast.engines import allocation
from gpustack_fast.engines.allocation import Allocation
from gpustack_fast.engines.external import SetState
from gpustack_fast.engines.prepared import Prepared
from gpustack_fast.engines.preparer import Preparer
from gpustack_fast.engines.records import Record
from gpustack_fast.engines.replica import Replica
from gpustack_fast.engines.supervisor import Supervisor
from gpustack_fast.errors import EngineFailed
from gpustack_fast.faults import Faults
from gpustack_fast.placement import Claim, Placement
from gpustack_fast.storage.engine_paths import EnginePaths


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocation, "GATHER", 0.01)
    monkeypatch.setattr(allocation, "LOOK_AGAIN_EVERY", 0.02)


def placed(*uuids: str, size: int = 60) -> Placement:
    claims = [Claim(uuid=uuid, bytes=size * GIB) for uuid in uuids]
    shape = Shape(tensor=len(uuids))
    return Placement(model="m", number=0, shape=shape, claims=claims, share=0.75)


def play(scenario: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(60):
            await scenario()

    asyncio.run(main())


def test_what_an_adopted_engine_holds_is_given_to_nobody_until_it_ends() -> None:
    async def scenario() -> None:
        house = House(Machine(gpu(0)))
        adopted, other = house.replica("m"), house.replica("other")
        house.preparer.restore(adopted, placed("GPU-0"))
        assert adopted.devices == ("GPU-0",)
        preparing = house.prepare(other)
        await eventually(
            lambda: "60.0 GiB promised" in other.state_message, "there is no room for another"
        )
        house.preparer.release(adopted)
        assert not adopted.devices
        assert (await preparing).devices == ("0",)

    play(scenario)


class OneGpu(Preparer):
    """Gives every replica the same GPU."""

    async def prepare(self, replica: Replica, set_state: SetState) -> Prepared:
        prepared = await super().prepare(replica, set_state)
        self.restore(replica, placed("GPU-0", size=1))
        return prepared


def test_one_that_is_left_while_it_starts_keeps_no_other_from_its_end(short_folder: Path) -> None:
    """None is ended by plan while another one starts on its GPUs."""

    async def scenario() -> None:
        supervisor = Supervisor(
            EnginePaths(short_folder),
            OneGpu(environment, NoFiles(), Allocation(no_gpus, dict), no_gpus),
            Faults(),
            on_change=lambda: None,
            backends={"small": SMALL, "external": BACKENDS["external"]},
        )
        first, second = small(name="first"), small("--never-ready", name="second")
        supervisor.want([first])
        running = asyncio.ensure_future(supervisor.run())
        (one,) = await there(supervisor, "running")
        supervisor.want([first, second])
        _, other = await there(supervisor, "running", "starting")
        await eventually(lambda: bool(other.address), "its process runs")
        supervisor.adopt(await supervisor.try_external([]), [second], {})
        supervisor.instance_idle(one.id)
        assert one.instance is not None and one.instance.pid is not None
        pid = one.instance.pid
        await asyncio.sleep(0.3)
        assert alive(pid), "it waits for the other one's start"
        running.cancel()
        process = other.instance.pid if other.instance is not None else None
        async with asyncio.timeout(30):
            assert await supervisor.leave() == [other.id]
        assert not alive(pid)
        assert process is not None and alive(process)
        kill(process)

    async def there(supervisor: Supervisor, *states: str) -> list[Replica]:
        await eventually(
            lambda: [one.state for one in supervisor.replicas] == [*states],
            f"{states}, and not {[one.state for one in supervisor.replicas]}",
        )
        return supervisor.replicas

    play(scenario)


def test_one_without_gpus_has_no_place_to_restore() -> None:
    async def scenario() -> None:
        house = House(Machine(gpu(0)))
        replica = house.replica()
        house.preparer.restore(replica, None)
        assert (replica.devices, house.allocation.held) == ((), [])
        assert await house.preparer.still_fits(replica, None)
        assert house.machine.looks == 0

    play(scenario)


@pytest.mark.parametrize(
    ("selector", "fits"),
    [
        (None, True),
        (GpuSelectorConfig(gpu_ids=["0"]), True),
        (GpuSelectorConfig(gpu_ids=["GPU-0"], gpus_per_replica=1), True),
        (GpuSelectorConfig(gpu_ids=["1"]), False),
        (GpuSelectorConfig(gpus_per_replica=2), False),
    ],
)
def test_a_place_that_the_configuration_no_longer_allows_does_not_fit(
    selector: GpuSelectorConfig | None, *, fits: bool
) -> None:
    async def scenario() -> None:
        house = House(Machine(gpu(0), gpu(1)))
        replica = house.replica(gpu_selector=selector)
        assert await house.preparer.still_fits(replica, placed("GPU-0")) == fits

    play(scenario)


def test_an_engine_whose_gpu_is_gone_or_lost_cannot_go_on() -> None:
    async def scenario() -> None:
        house = House(Machine(gpu(1)))
        replica = house.replica()
        with pytest.raises(EngineFailed, match="Its GPU GPU-0 is not there any more"):
            await house.preparer.still_fits(replica, placed("GPU-1", "GPU-0"))
        divided = gpu(0, slices=[part("a")], lost=True, problem="It has fallen off the bus.")
        house.machine.now(divided)
        with pytest.raises(EngineFailed, match=r"MIG-a has failed\. It has fallen off the bus"):
            await house.preparer.still_fits(replica, placed("MIG-a", size=10))

    play(scenario)


def test_gpus_that_nobody_can_read_now_take_no_engine_its_place() -> None:
    async def scenario() -> None:
        house = House(Machine())
        house.machine.report = report(problem="The driver does not respond.", unread=True)
        assert await house.preparer.still_fits(house.replica(), placed("GPU-0"))

    play(scenario)


def test_what_it_would_be_started_with_now_has_its_own_place_and_shows_no_state(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        house = House(Machine(gpu(0)))
        replica = house.replica()
        fields = dict.fromkeys(Record.__struct_fields__, "")
        record = Record(
            **{
                **fields,
                "devices": ("3",),
                "placement": placed("GPU-0"),
                "remark": "Told.",
            }  # type: ignore[arg-type]
        )
        again = await house.preparer.prepare_again(replica, record)
        assert again == dataclasses.replace(
            PREPARED,
            python=Path("/python"),
            version="1",
            files=Path("/files"),
            facts=again.facts,
            devices=("3",),
            placement=record.placement,
            remark="Told.",
        )
        assert again.facts is not None
        assert house.built == [("m", None, True)], "for GPUs"
        assert house.seen == {}
        assert house.allocation.held == [], "no place was asked for"

    play(scenario)
