"""Wanted → running: the loop over small real engines."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import logging
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import msgspec
import pytest
import uvloop
from small_backend import (
    PREPARED,
    SMALL,
    alive,
    child_of,
    environment,
    eventually,
    kill,
    no_gpus,
    preparer,
    small,
)

from gpustack_fast.backends import BACKENDS
from gpustack_fast.config import ModelConfig
from gpustack_fast.engines import external, health, life, maintenance, plan, processes, replicas
from gpustack_fast.engines import preparer as preparing
from gpustack_fast.engines.allocation import Allocation
from gpustack_fast.engines.environments import BuildError
from gpustack_fast.engines.instance import Instance
from gpustack_fast.engines.plan import ReplicaSlot
from gpustack_fast.engines.prepared import Prepared
from gpustack_fast.engines.preparer import Environment, Environments, Preparer
from gpustack_fast.engines.replica import Replica
from gpustack_fast.engines.supervisor import Supervisor
from gpustack_fast.errors import InstanceNotFound
from gpustack_fast.faults import Faults
from gpustack_fast.storage.engine_paths import EnginePaths
from limits import no_descriptors, no_room


@pytest.fixture(autouse=True)
def captured(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "gpustack_fast")
    House.log = caplog


class House:
    """A supervisor with the small engine as its only backend, and its reports."""

    log: pytest.LogCaptureFixture

    def __init__(self, folder: Path, make: Environments = environment) -> None:
        self.seen: list[list[tuple[str, str]]] = []
        self.paths = EnginePaths(folder)
        self.faults = Faults()
        self.supervisor = Supervisor(
            self.paths,
            preparer(make),
            self.faults,
            on_change=self.look,
            backends={"small": SMALL, "external": BACKENDS["external"]},
        )

    @property
    def lines(self) -> list[str]:
        """Its log lines."""
        return [record.getMessage() for record in self.log.records]

    def look(self) -> None:
        """The instances that a table would hold now."""
        self.seen.append([(replica.id, replica.state) for replica in self.supervisor.replicas])

    def replica(self, number: int = 0) -> Replica:
        return self.supervisor.replicas[number]

    def states(self) -> list[str]:
        return [replica.state for replica in self.supervisor.replicas]

    async def until_running(self, count: int = 1) -> None:
        await eventually(
            lambda: self.states() == ["running"] * count, f"{count} running; {self.lines}"
        )

    def pid(self, number: int = 0) -> int:
        instance = self.replica(number).instance
        assert instance is not None
        assert instance.pid is not None
        return instance.pid


@contextlib.asynccontextmanager
async def living(house: House) -> AsyncIterator[House]:
    """Runs the supervisor for as long as the block runs, then shuts it down."""
    processes.become_subreaper()
    loop = asyncio.ensure_future(house.supervisor.run())
    try:
        yield house
    finally:
        await house.supervisor.shutdown(0.0)
        assert house.supervisor.replicas == []
        assert list(house.paths.records.iterdir()) == []
        loop.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await loop


def scenario(folder: Path, *models: ModelConfig, house: House | None = None) -> Callable[..., None]:
    """Decorates a coroutine: runs it with a house in which these models are wanted."""

    def decorate(body: Callable[[House], Awaitable[None]]) -> None:
        async def main() -> None:
            async with living(house or House(folder)) as there:
                there.supervisor.want(models)
                await body(there)

        uvloop.run(main())

    return decorate


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "ORPHANS_MAY_TAKE", 0.2)


def test_replicas_come_up_through_the_states_of_gpustack(short_folder: Path) -> None:
    @scenario(short_folder, small(replicas=2))
    async def _(house: House) -> None:
        await house.until_running(2)
        first = house.replica().id
        states = [state for seen in house.seen for name, state in seen if name == first]
        assert list(dict.fromkeys(states)) == [
            "pending",
            "initializing",
            "downloading",
            "starting",
            "running",
        ]
        assert house.replica(0).id != house.replica(1).id
        assert house.replica().address.startswith("unix:/")


def test_no_two_replicas_have_the_same_id_by_chance(
    short_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Theirs are their socket, their log and their record, too."""
    made = iter(["small-aaaaa", "small-aaaaa", "small-aaaaa", "small-bbbbb"])
    monkeypatch.setattr(replicas, "new_id", lambda _: next(made))

    @scenario(short_folder, small(replicas=2))
    async def _(house: House) -> None:
        await house.until_running(2)
        assert [one.id for one in house.supervisor.replicas] == ["small-aaaaa", "small-bbbbb"]


def test_a_killed_engine_leaves_the_table_at_once_and_is_replaced(short_folder: Path) -> None:
    @scenario(short_folder, small())
    async def _(house: House) -> None:
        await house.until_running()
        first = house.replica().id
        kill(house.pid())
        await eventually(
            lambda: house.seen[-1] not in ([], [(first, "running")]), "the table changed"
        )
        await eventually(
            lambda: house.states() == ["running"] and house.replica().id != first,
            "another one runs",
        )
        assert [(first, "error")] in house.seen
        assert house.replica().restarts == 1
        assert any(
            first in line and "unasked" in line and "signal 9" in line for line in house.lines
        )


def test_the_successor_waits_until_nobody_of_the_old_session_is_left(short_folder: Path) -> None:
    @scenario(short_folder, small("--child"))
    async def _(house: House) -> None:
        await house.until_running()
        instance = house.replica().instance
        assert instance is not None
        child = child_of(instance.log)
        kill(house.pid())
        await eventually(lambda: house.states() == ["starting"], "the successor starts")
        assert not alive(child)


def test_an_engine_that_gets_ready_and_dies_again_and_again_is_started_after_growing_pauses(
    short_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "FIRST_PAUSE", 0.05)

    @scenario(short_folder, small())
    async def _(house: House) -> None:
        for died in range(3):
            await eventually(
                lambda died=died: (
                    house.states() == ["running"]  # type: ignore[misc]
                    and house.replica().restarts == died
                ),
                "the next one runs",
            )
            kill(house.pid())
        await eventually(lambda: house.replica().failures == 3, "the third death is seen")
        follows = [line.rpartition("). ")[2] for line in house.lines if "unasked" in line]
        assert follows == [
            "Starting it again at once.",
            "Starting it again in 0.05 s.",
            "Starting it again in 0.1 s.",
        ]


def test_what_an_engine_that_has_served_wrote_last_is_shown_and_not_logged(
    short_folder: Path,
) -> None:
    @scenario(short_folder, small())
    async def _(house: House) -> None:
        await house.until_running()
        first = house.replica().instance
        assert first is not None
        with first.log.open("a") as log:
            log.write("a prompt \x1b[2J\n")
        kill(house.pid())
        await eventually(lambda: house.replica().failures == 1, "the death is seen")
        assert "unasked. It wrote last" in house.replica().last_failure
        assert f"a prompt \\x1b[2J (log: {first.log})" in house.replica().last_failure
        (line,) = [line for line in house.lines if "unasked" in line]
        assert f"(log: {first.log})" in line
        assert not any("a prompt" in line for line in house.lines)


def test_what_is_to_be_known_of_an_engine_is_told_while_it_runs(
    short_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remark = "It was started without a GPU."

    async def prepare(*_: object) -> Prepared:
        return dataclasses.replace(PREPARED, remark=remark)

    monkeypatch.setattr(Preparer, "prepare", prepare)

    @scenario(short_folder, small())
    async def _(house: House) -> None:
        await house.until_running()
        assert house.replica().state_message == remark


def test_minutes_of_running_clear_the_count_of_failures(
    short_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(life, "RUNNING_WELL", 0.05)

    @scenario(short_folder, small())
    async def _(house: House) -> None:
        await house.until_running()
        kill(house.pid())
        await eventually(lambda: house.replica().failures == 1, "the death is seen")
        await eventually(lambda: house.replica().failures == 0, "the successor runs well")
        assert house.states() == ["running"]


def test_an_engine_that_crashes_at_start_is_started_again_after_growing_pauses(
    short_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "FIRST_PAUSE", 0.05)

    @scenario(short_folder, small("--crash"))
    async def _(house: House) -> None:
        await eventually(
            lambda: any(one.restarts >= 3 for one in house.supervisor.replicas), "three restarts"
        )
        follows = [
            line.rpartition("). ")[2] for line in house.lines if "the weights are torn" in line
        ]
        assert follows[:3] == [
            "Starting it again at once.",
            "Starting it again in 0.05 s.",
            "Starting it again in 0.1 s.",
        ]


def test_an_engine_that_must_not_be_restarted_stays_in_error_with_the_reason(
    short_folder: Path,
) -> None:
    @scenario(short_folder, small("--crash", restart_on_error=False))
    async def _(house: House) -> None:
        await eventually(lambda: house.states() == ["error"], "the error state")
        assert "the weights are torn" in house.replica().state_message
        assert "restart_on_error" in house.replica().state_message
        assert house.replica().restarts == 0


def test_an_environment_that_cannot_be_built_is_an_error_of_its_instances(
    short_folder: Path,
) -> None:
    async def fails(*_: object) -> Environment:
        raise BuildError("The disk is full.")

    @scenario(short_folder, small(restart_on_error=False), house=House(short_folder, fails))
    async def _(house: House) -> None:
        await eventually(lambda: house.states() == ["error"], "the error state")
        assert house.replica().state_message.startswith("The disk is full.")


def test_replicas_wait_for_one_build_of_their_environment(short_folder: Path) -> None:
    built = []

    async def slowly(model: ModelConfig, *_: object) -> Environment:
        built.append(model.backend)
        await asyncio.sleep(0.05)
        return PREPARED

    @scenario(short_folder, small(replicas=3), house=House(short_folder, slowly))
    async def _(house: House) -> None:
        await house.until_running(3)
        assert built == ["small"]


def test_a_shutdown_while_the_environment_is_built_ends_the_build(short_folder: Path) -> None:
    ended = []

    async def for_ever(model: ModelConfig, *_: object) -> Environment:
        try:
            await asyncio.sleep(600)
        finally:
            ended.append(model.backend)
        return PREPARED

    @scenario(short_folder, small(), house=House(short_folder, for_ever))
    async def _(house: House) -> None:
        await eventually(lambda: house.states() == ["initializing"], "the build")
        await house.supervisor.shutdown(0.0)
        assert ended == ["small"]


def test_a_model_that_is_no_longer_wanted_is_stopped_and_others_stay(short_folder: Path) -> None:
    @scenario(short_folder, small(name="stays"), small(name="goes"))
    async def _(house: House) -> None:
        await house.until_running(2)
        pid = house.pid(1)
        house.supervisor.want([small(name="stays")])
        await eventually(
            lambda: [one.slot.model for one in house.supervisor.replicas] == ["stays"], "it goes"
        )
        await eventually(lambda: not alive(pid), "its process ends")
        assert house.states() == ["running"]


def test_a_stop_leaves_the_table_first_and_ends_the_engine_only_when_it_is_idle(
    short_folder: Path,
) -> None:
    @scenario(short_folder, small())
    async def _(house: House) -> None:
        await house.until_running()
        pid, name = house.pid(), house.replica().id
        closing = asyncio.ensure_future(house.supervisor.shutdown(600.0))
        await eventually(lambda: house.seen[-1] == [], "the table is empty")
        assert not closing.done()
        assert alive(pid)
        house.supervisor.instance_idle("another-one")
        house.supervisor.instance_idle(name)
        await closing
        assert not alive(pid)


def test_the_wait_for_idle_ends_with_the_patience(short_folder: Path) -> None:
    @scenario(short_folder, small())
    async def _(house: House) -> None:
        await house.until_running()
        pid = house.pid()
        await house.supervisor.shutdown(0.1)
        assert not alive(pid)


def test_each_address_of_an_external_model_is_an_instance_that_says_whether_it_can_be_reached(
    short_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(external, "TRY_EVERY", 0.02)
    path = short_folder / "e.sock"
    with socket.create_server(("127.0.0.1", 0)) as engine:
        there = f"http://127.0.0.1:{engine.getsockname()[1]}"
        model = ModelConfig(name="remote", backend="external", urls=[there, f"unix:{path}"])

        @scenario(short_folder, model)
        async def _(house: House) -> None:
            await eventually(
                lambda: house.states() == ["running", "unreachable"], "the second is not there"
            )
            assert [(one.id, one.address) for one in house.supervisor.replicas] == [
                ("remote-0", there),
                ("remote-1", f"unix:{path}"),
            ]
            (line,) = house.lines
            assert line.startswith(
                f"remote-1: Nobody can be reached at unix:{path} (No such file or directory). Start"
            )
            assert house.replica(1).state_message in line
            with socket.socket(socket.AF_UNIX) as second:
                second.bind(str(path))
                second.listen()
                await house.until_running(2)
            await eventually(
                lambda: house.states() == ["running", "unreachable"], "the second has gone"
            )


def test_models_whose_names_come_to_the_same_have_instances_of_their_own(
    short_folder: Path,
) -> None:
    names = ["Qwen/Qwen3-235B-A22B-Instruct-2507", "Qwen/Qwen3-235B-A22B-Instruct-2507-FP8"]
    names += ["a/b", "a-b", "a:b"]
    urls = ["http://127.0.0.1:1", "http://127.0.0.1:2"]
    models = [ModelConfig(name=name, backend="external", urls=urls) for name in names]

    @scenario(short_folder, *models)
    async def _(house: House) -> None:
        ids = [one.id for one in house.supervisor.replicas]
        assert len(set(ids)) == len(ids) == 10, ids
        assert {one.slot.model for one in house.supervisor.replicas} == set(names)


def test_an_engine_that_says_that_it_is_not_well_is_left_out_until_it_is(
    short_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(external, "TRY_EVERY", 0.02)
    path = short_folder / "e.sock"
    answer = b"HTTP/1.1 503 Loading\r\n\r\n"

    async def engine(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if await reader.readline():
            writer.write(answer)
        writer.close()

    model = ModelConfig(name="remote", backend="external", engine="vllm", urls=[f"unix:{path}"])

    @scenario(short_folder, model)
    async def _(house: House) -> None:
        nonlocal answer
        async with await asyncio.start_unix_server(engine, path):
            await eventually(
                lambda: "answers GET /health with 503" in house.replica().state_message, "a 503"
            )
            assert house.states() == ["unreachable"]
            answer = b"HTTP/1.1 200 OK\r\n\r\n"
            await house.until_running()
            assert house.replica().state_message == ""
            answer = b"HTTP/1.1 500 Dead\r\n\r\n"
            await eventually(lambda: house.states() == ["unreachable"], "it is missed")
            answer = b"HTTP/1.1 404 Not Found\r\n\r\n"
            await house.until_running()
            assert "only its connections are watched" in house.replica().state_message
            since = house.replica().since
            answer = b"HTTP/1.1 200 OK\r\n\r\n"
            await eventually(lambda: house.replica().state_message == "", "the note goes")
            answer = b"HTTP/1.1 401 No\r\n\r\n"
            await eventually(lambda: "with 401" in house.replica().state_message, "one comes")
            assert (house.states(), house.replica().since) == (["running"], since)
        await eventually(lambda: house.states() == ["unreachable"], "it has gone")
        path.unlink(missing_ok=True)
        async with await asyncio.start_unix_server(engine, path):
            answer = b"HTTP/1.1 503 Loading\r\n\r\n"
            await eventually(
                lambda: "with 503" in house.replica().state_message, "the reason of now"
            )
            assert house.states() == ["unreachable"]


@pytest.mark.parametrize(
    "changed", [{"engine": "openai"}, {"health_path": "/ping"}, {"health_path": ""}]
)
def test_a_known_address_is_asked_as_a_reload_says(
    short_folder: Path, monkeypatch: pytest.MonkeyPatch, changed: dict[str, str]
) -> None:
    monkeypatch.setattr(external, "TRY_EVERY", 0.02)
    path = short_folder / "e.sock"

    async def engine(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = await reader.readline()
        writer.write(b"HTTP/1.1 %d X\r\n\r\n" % (200 if b"/ping" in line else 503))
        writer.close()

    before = ModelConfig(name="remote", backend="external", engine="vllm", urls=[f"unix:{path}"])
    after = msgspec.structs.replace(before, **changed)

    @scenario(short_folder, before)
    async def _(house: House) -> None:
        async with await asyncio.start_unix_server(engine, path):
            await eventually(lambda: house.states() == ["unreachable"], "a 503 on /health")
            one = house.replica()
            house.supervisor.adopt(await house.supervisor.try_external([after]), [after], {})
            assert house.replica() is one
            await house.until_running()


def test_a_drain_is_the_operator_s_until_he_takes_it_back(
    short_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(external, "TRY_EVERY", 0.02)
    path = short_folder / "e.sock"
    model = ModelConfig(name="remote", backend="external", urls=[f"unix:{path}"])

    @scenario(short_folder, model)
    async def _(house: House) -> None:
        def published() -> list[str]:
            return [replica.published_state for replica in house.supervisor.replicas]

        assert house.supervisor.orders.drain("remote-0") == house.supervisor.replicas
        await eventually(lambda: published() == ["unreachable"], "its engine's own state is shown")
        with socket.socket(socket.AF_UNIX) as engine:
            engine.bind(str(path))
            engine.listen()
            await eventually(lambda: published() == ["drained"], "it comes back drained")
            house.supervisor.orders.resume(f"unix:{path}")
            assert published() == ["running"]
            began = house.replica().since
            house.supervisor.orders.drain(f"unix:{path}")
            assert house.replica().since > began
            ordered = house.replica().since
            house.supervisor.orders.drain("remote-0")
            assert house.replica().since == ordered, "the same order again changes nothing"
            assert published() == ["draining"], "until the data plane says that nothing runs on it"
            house.supervisor.instance_idle("remote-0")
            assert published() == ["drained"]
            house.supervisor.want([model])
            await eventually(lambda: house.states() == ["running"], "it is tried anew")
            assert published() == ["drained"], "the same address, the same order"
            with pytest.raises(InstanceNotFound, match="There is no instance or address remote-9"):
                house.supervisor.orders.drain("remote-9")


def test_external_models_that_are_wanted_no_more_are_tried_no_more(short_folder: Path) -> None:
    model = ModelConfig(name="remote", backend="external", urls=["http://127.0.0.1:1"])

    @scenario(short_folder, model)
    async def _(house: House) -> None:
        watch = house.replica().running
        assert watch is not None
        house.supervisor.want([])
        await asyncio.wait({watch})
        assert watch.cancelled()
        assert house.supervisor.replicas == []


def test_a_reload_keeps_addresses_that_stay_and_adopts_new_ones_that_were_tried(
    short_folder: Path,
) -> None:
    @scenario(short_folder, small())
    async def _(house: House) -> None:
        await house.until_running()
        ours = house.replica()
        supervisor = house.supervisor
        before = ModelConfig(name="m", backend="external", urls=["http://127.0.0.1:1", "unix:/b"])
        supervisor.adopt(await supervisor.try_external([before]), [small(), before], {})
        goes, stays = house.replica(1), house.replica(2)
        server = await asyncio.start_unix_server(
            lambda _, writer: writer.close(), short_folder / "new.sock"
        )
        after = ModelConfig(
            name="m", backend="external", urls=[f"unix:{short_folder}/new.sock", "unix:/b"]
        )
        seen = len(house.seen)
        addresses = await supervisor.try_external([after])
        assert [one.id for one in supervisor.as_adopted(addresses, [small(), after])] == [
            ours.id,
            "m-2",
            "m-1",
        ]
        assert [one.id for one in supervisor.replicas] == [ours.id, "m-0", "m-1"], "not yet"
        supervisor.adopt(addresses, [small(), after], {})
        assert supervisor.replicas == supervisor.as_adopted(addresses, [small(), after])
        assert house.replica(1).state == "running", "it was tried before it is adopted"
        assert house.replica(2) is stays and stays.model is after
        assert len(house.seen) == seen, "the caller publishes all of it at once"
        await eventually(lambda: goes.running is not None and goes.running.done(), "the watch ends")

        away = await supervisor.try_external([before])
        away.discard()
        await eventually(
            lambda: all(one.running is not None and one.running.done() for one in away.fresh),
            "what nobody adopts is tried no more",
        )
        assert supervisor.replicas == supervisor.as_adopted(addresses, [small(), after])
        server.close()


# Faults of this machine, which are no engine's.


@pytest.mark.parametrize("answer", [b"503 Loading", b"200 OK"])
def test_an_engine_that_cannot_be_asked_for_want_of_a_descriptor_keeps_its_state(
    short_folder: Path, monkeypatch: pytest.MonkeyPatch, answer: bytes
) -> None:
    monkeypatch.setattr(external, "TRY_EVERY", 0.02)
    path = short_folder / "e.sock"

    async def engine(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if await reader.readline():
            writer.write(b"HTTP/1.1 " + answer + b"\r\n\r\n")
        writer.close()

    async def full(*_: object) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    model = ModelConfig(name="remote", backend="external", engine="vllm", urls=[f"unix:{path}"])

    @scenario(short_folder, model)
    async def _(house: House) -> None:
        async with await asyncio.start_unix_server(engine, path):
            await eventually(lambda: house.states() != ["pending"], "the first answer")
            states, before = house.states(), house.faults.counts["probe"]
            with monkeypatch.context() as patch:
                # The connection before it still had one.
                patch.setattr(health, "_status", full)
                await eventually(lambda: house.faults.counts["probe"] > before + 5, "it is noted")
                assert house.states() == states


def test_nothing_ends_while_there_are_no_descriptors(
    short_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maintenance, "MAINTAIN_EVERY", 0.02)
    monkeypatch.setattr(external, "TRY_EVERY", 0.02)
    with socket.create_server(("127.0.0.1", 0)) as engine:
        url = f"http://127.0.0.1:{engine.getsockname()[1]}"
        remote = ModelConfig(name="remote", backend="external", urls=[url])

        @scenario(short_folder, small(), remote)
        async def _(house: House) -> None:
            await house.until_running(2)
            before = [(one.id, one.state) for one in house.supervisor.replicas]
            house.seen.clear()
            with no_descriptors():
                await eventually(
                    lambda: (
                        house.faults.counts["processes"] > 3 and house.faults.counts["probe"] > 3
                    ),
                    "maintenance and probes fail",
                )
            assert house.seen == [], "no state has changed"
            assert [(one.id, one.state) for one in house.supervisor.replicas] == before
            told = [line for line in house.lines if "Too many open files" in line]
            assert sorted(line.partition(":")[0] for line in told) == [
                "Engines could not be probed, and stay in their states",
                "The process table could not be read, and is read again",
            ], "each is told once"


def test_an_engine_that_is_killed_while_there_are_no_descriptors_is_replaced_when_there_are(
    short_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(life, "AFTER_A_FAULT", 0.05)

    @scenario(short_folder, small(replicas=2))
    async def _(house: House) -> None:
        await house.until_running(2)
        survivor = house.replica(1).id
        with no_descriptors():
            kill(house.pid())
            await eventually(lambda: "error" in house.states(), "the death is seen")
            await eventually(lambda: house.faults.counts["processes"] > 3, "who is left, is not")
            assert house.states() == ["error", "running"]
        await house.until_running(2)
        assert house.replica(1).id == survivor
        assert house.replica().failures == 1


def test_an_engine_that_cannot_be_watched_is_ended_and_tried_again(
    short_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(life, "AFTER_A_FAULT", 0.05)
    started: list[int] = []

    def fails_once(pid: int, flags: int = 0) -> int:
        started.append(pid)
        if len(started) == 1:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return pidfd_open(pid, flags)

    pidfd_open = os.pidfd_open
    monkeypatch.setattr(os, "pidfd_open", fails_once)

    @scenario(short_folder, small())
    async def _(house: House) -> None:
        await house.until_running()
        assert not alive(started[0])
        assert (house.replica().failures, house.faults.counts["engine_start"]) == (0, 1)
        assert any("raise the limit of descriptors" in line for line in house.lines)


def test_what_keeps_an_engine_from_starting_counts_as_no_failure_of_its(
    short_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(life, "AFTER_A_FAULT", 0.02)
    house = House(short_folder)
    house.paths.logs.rmdir()
    house.paths.logs.write_text("in the way")

    @scenario(short_folder, small(restart_on_error=False), house=house)
    async def _(house: House) -> None:
        await eventually(lambda: house.faults.counts["engine_start"] > 3, "it is tried again")
        assert house.replica().failures == 0
        house.paths.logs.unlink()
        house.paths.logs.mkdir()
        await house.until_running()


def test_an_engine_is_not_started_without_room_for_its_record(
    short_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(life, "AFTER_A_FAULT", 0.02)

    @scenario(short_folder, small())
    async def _(house: House) -> None:
        with no_room():
            await eventually(lambda: house.faults.counts["engine_start"] > 1, "it is tried")
            assert "File too large" in house.replica().state_message
        await house.until_running()
        assert house.replica().failures == 0


def test_the_requests_that_its_end_cuts_do_not_hide_why_an_engine_was_ended(
    short_folder: Path,
) -> None:
    @scenario(short_folder, small(restart_on_error=False))
    async def _(house: House) -> None:
        await house.until_running()
        one = house.replica()
        house.supervisor.instance_failed(one.id, "answered with 500")
        assert one.last_failure == "answered with 500"
        kill(house.pid())
        await eventually(lambda: "signal 9" in one.last_failure, "its end is told")
        house.supervisor.instance_failed(one.id, "died: Connection reset by peer")
        assert "signal 9" in one.last_failure


def test_a_mistake_in_the_life_of_one_engine_ends_no_other(
    short_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(life, "AFTER_A_FAULT", 0.05)

    @scenario(short_folder, small(replicas=2))
    async def _(house: House) -> None:
        await house.until_running(2)
        first, survivor = house.replica(0).id, house.replica(1).id
        with monkeypatch.context() as patch:
            patch.setattr(Instance, "how_it_ended", lambda _: 1 / 0)
            kill(house.pid())
            await eventually(lambda: house.faults.counts["mistake"] == 1, "the mistake is seen")
        await eventually(
            lambda: house.states() == ["running"] * 2 and house.replica().id != first,
            "another one runs",
        )
        assert house.replica(1).id == survivor


def test_a_mistake_in_the_end_of_one_engine_leaves_no_other_behind(
    short_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @scenario(short_folder, small(replicas=2))
    async def _(house: House) -> None:
        await house.until_running(2)
        other, first = house.pid(1), house.replica().instance
        assert first is not None
        with monkeypatch.context() as patch:
            patch.setattr(first, "stop", lambda _: 1 / 0)
            await house.supervisor.shutdown(0.0)
        assert not alive(other)
        assert house.faults.counts["mistake"] == 1
        assert await first.stop()


def test_a_build_that_does_not_end_keeps_no_stop_waiting(
    short_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparing, "ENDS_WITHIN", 0.05)
    building = asyncio.Event()

    async def prepare(*_: object) -> Environment:
        building.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.Event().wait()  # as for a disk that does not respond
        raise AssertionError

    @scenario(short_folder, small(), house=House(short_folder, prepare))
    async def _(_: House) -> None:
        await building.wait()


def test_an_engine_whose_gpu_fails_before_its_start_is_not_started_there(
    short_folder: Path,
) -> None:
    gate = asyncio.Event()

    async def prepare(*_: object) -> Environment:
        await gate.wait()
        return PREPARED

    @scenario(short_folder, small(), house=House(short_folder, prepare))
    async def _(house: House) -> None:
        await eventually(lambda: house.states() == ["initializing"], "it is prepared")
        house.replica().devices = ("GPU-0",)
        first = house.replica().id
        house.supervisor.gpu_failed("GPU-1", "its GPU has failed")
        house.supervisor.gpu_failed("GPU-0", "its GPU has failed")
        await eventually(
            lambda: house.replica().id != first and house.states() == ["initializing"],
            "it is prepared again",
        )
        assert house.replica().last_failure == "The engine is ended: its GPU has failed."
        assert house.replica().devices == ()
        gate.set()
        await house.until_running()
        assert f"Starting {first} ..." not in house.lines


def test_an_engine_whose_gpu_fails_while_another_starts_there_is_not_started(
    short_folder: Path,
) -> None:
    gate, allocation = asyncio.Event(), Allocation(no_gpus, dict)

    async def prepare(*_: object) -> Environment:
        await gate.wait()
        return PREPARED

    house = House(short_folder, prepare)
    assert isinstance(house.supervisor._prepare, preparing.Preparer)
    house.supervisor._prepare._allocation = allocation

    @scenario(short_folder, small(), house=house)
    async def _(house: House) -> None:
        await eventually(lambda: house.states() == ["initializing"], "it is prepared")
        replica = house.replica()
        replica.devices, first = ("GPU-0",), replica.id
        other = ReplicaSlot("other", 0)
        await allocation.begin_start(other, ["GPU-0"])
        gate.set()
        await eventually(lambda: replica.state == "starting", "it waits for its start")
        assert replica.state_message == "It waits until no other engine starts on its GPUs."
        house.supervisor.gpu_failed("GPU-0", "its GPU has failed")
        allocation.end_start(other)
        await house.until_running()
        assert replica.last_failure == "The engine is ended: its GPU has failed."
        assert f"Starting {first} ..." not in house.lines and replica.id != first


def on_one_gpu(
    folder: Path, first: ModelConfig
) -> Callable[[Callable[[House, Replica, Replica], Awaitable[None]]], None]:
    """Decorates a coroutine: runs it while `first` starts on a GPU, with a child that hears no
    SIGTERM, and another model waits for its own start there.
    """
    gates = {name: asyncio.Event() for name in ("first", "second")}

    async def prepare(model: ModelConfig, *_: object) -> Environment:
        await gates[model.name].wait()
        return PREPARED

    house = House(folder, prepare)
    second = small(name="second", backend_version="2")

    def decorate(body: Callable[[House, Replica, Replica], Awaitable[None]]) -> None:
        @scenario(folder, first, second, house=house)
        async def _(house: House) -> None:
            await eventually(lambda: house.states() == ["initializing"] * 2, "both are prepared")
            one, other = house.supervisor.replicas
            one.devices = other.devices = ("GPU-0",)
            gates["first"].set()
            await eventually(
                lambda: one.instance is not None and child_of(one.instance.log) != 0, "it starts"
            )
            gates["second"].set()
            await eventually(lambda: other.state == "starting", "the other one waits")
            await body(house, one, other)

    return decorate


@pytest.mark.parametrize("end", ["it dies", "nobody wants it any more", "it is lost"])
def test_the_next_engine_starts_on_a_gpu_when_nobody_of_the_start_before_is_left(
    short_folder: Path, end: str
) -> None:
    first = small("--never-ready", "--child", name="first", restart_on_error=False)

    @on_one_gpu(short_folder, first)
    async def _(house: House, one: Replica, other: Replica) -> None:
        assert one.instance is not None and one.instance.pid is not None
        pid, child = one.instance.pid, child_of(one.instance.log)
        if end == "it dies":
            kill(pid)
        elif end == "it is lost":
            one.lost.set()
        else:
            house.supervisor.want([other.model])
        await eventually(lambda: other.instance is not None, "the other one starts")
        assert not alive(pid) and not alive(child)
        await eventually(lambda: other.state == "running", "the other one runs")


def test_an_engine_that_cannot_be_ended_keeps_no_other_from_its_start(
    short_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(life, "AFTER_A_FAULT", 0.05)
    first = small("--never-ready", "--child", name="first", restart_on_error=False)

    @on_one_gpu(short_folder, first)
    async def _(_: House, one: Replica, other: Replica) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(one.instance, "stop", stuck)
            one.lost.set()
            await eventually(lambda: other.state == "running", "the other one runs")
            assert one.state_message.startswith(life.CANNOT_BE_ENDED)
        await eventually(lambda: one.instance is None, "it is ended at last")


async def stuck(_: float = 0.0) -> bool:
    """In place of the end of an engine: somebody lives on."""
    return False


def test_a_slot_is_taken_until_nobody_of_its_engine_is_left(
    short_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(life, "AFTER_A_FAULT", 0.05)
    tries = 0

    async def counted(_: float = 0.0) -> bool:
        nonlocal tries
        tries += 1
        return False

    @scenario(short_folder, small())
    async def _(house: House) -> None:
        await house.until_running()
        before, pid = house.replica(), house.pid()
        with monkeypatch.context() as patch:
            patch.setattr(before.instance, "stop", counted)
            house.supervisor.want([])
            await eventually(lambda: tries >= 1, "its end is tried")
            house.supervisor.want([small()])
            await house.until_running()
            await eventually(lambda: tries >= 4, "it is tried again")
            assert alive(pid)
            assert house.replica().slot.number != before.slot.number, "its slot is taken"
        await eventually(lambda: not alive(pid), "it is ended at last")
        assert house.replica() is not before
