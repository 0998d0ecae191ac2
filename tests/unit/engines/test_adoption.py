"""Engines that an earlier run has left: which are gone on with, and which are refused."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop
from msgspec.structs import replace
from small_backend import PREPARED, SMALL, alive, child_of, eventually, kill, preparer, small
from test_leftovers import killed_server, record_of

from gpustack_fast.backends import BACKENDS, Backend
from gpustack_fast.config import ModelConfig
from gpustack_fast.engines import adoption, processes
from gpustack_fast.engines.adoption import Adoptable, Refused, candidates, verify
from gpustack_fast.engines.ask import Answer
from gpustack_fast.engines.history import History
from gpustack_fast.engines.instance import Instance
from gpustack_fast.engines.leftovers import end_leftovers, find_records
from gpustack_fast.engines.preparer import Environment, Environments
from gpustack_fast.engines.records import Found, Record
from gpustack_fast.engines.replica import Replica
from gpustack_fast.engines.supervisor import Supervisor
from gpustack_fast.errors import EngineFailed
from gpustack_fast.faults import Faults
from gpustack_fast.storage.engine_paths import EnginePaths
from raw_http import DEADLINE

ID = "small-00000"
OTHER = dataclasses.replace(SMALL, name="other")
KINDS = ("small", "other")
NOBODY = 65534


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "ORPHANS_MAY_TAKE", 0.2)


@pytest.fixture
def folder(short_folder: Path) -> Iterator[Path]:
    """A data directory; behind the test nobody of an engine in it is left."""
    yield short_folder
    for path in (short_folder / "run" / "instances").glob("*.json"):
        with contextlib.suppress(ValueError, ProcessLookupError, PermissionError):
            os.killpg(json.loads(path.read_bytes())["pid"], signal.SIGKILL)


def rewrite(folder: Path, **changes: object) -> None:
    path = folder / "run" / "instances" / f"{ID}.json"
    path.write_text(json.dumps({**record_of(folder), **changes}))


def found_in(folder: Path) -> list[Found]:
    return asyncio.run(find_records(EnginePaths(folder)))


class NextServer:
    """The engines' part of the server that starts behind one that was killed."""

    def __init__(self, folder: Path, *models: ModelConfig, backend: Backend = SMALL) -> None:
        self.paths = EnginePaths(folder)
        self.models = models
        self.notes: list[tuple[str, str]] = []
        self.why = ""
        self.states: list[str] = []
        self.backend = backend
        self.make: Environments | None = None
        self.adoptable: list[Adoptable] = []
        self.alone = True
        """Whether no other server has requests at the engines."""

    def note(self, model: str, instance: str, what: str, why: str = "") -> None:
        assert model
        if what in ("adopted", "refused", "outdated"):
            self.notes.append((instance, what))
            self.why = why

    def look(self) -> None:
        self.states += [one.state for one in self.supervisor.replicas]

    @contextlib.asynccontextmanager
    async def living(self) -> AsyncIterator[NextServer]:
        processes.become_subreaper()
        history = History()
        history.note = self.note  # type: ignore[method-assign]
        self.supervisor = Supervisor(
            self.paths,
            preparer(self.make) if self.make else preparer(),
            Faults(),
            on_change=self.look,
            backends={"small": self.backend, "other": OTHER, "external": BACKENDS["external"]},
            history=history,
        )
        if not self.alone:
            self.supervisor.restraint.alone.clear()
        found = await find_records(self.paths)
        self.adoptable, others = candidates(found, self.models, KINDS)
        self.supervisor.want(self.models, adoptable=self.adoptable)
        await end_leftovers(self.paths, [one for one, _ in others], Faults(), grace=0.3)
        loop = asyncio.ensure_future(self.supervisor.run())
        try:
            yield self
        finally:
            loop.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await loop
            self.supervisor.restraint.alone.set()
            await self.supervisor.shutdown(0.0)

    @property
    def replica(self) -> Replica:
        (one,) = self.supervisor.replicas
        return one

    @property
    def pid(self) -> int | None:
        return None if self.replica.instance is None else self.replica.instance.pid

    async def until_running(self) -> None:
        def runs() -> bool:
            states = [one.state for one in self.supervisor.replicas]
            return bool(states) and set(states) == {"running"}

        await eventually(runs, f"it runs; {self.notes}")


def scenario(server: NextServer, body: Callable[[NextServer], Awaitable[None]]) -> None:
    async def main() -> None:
        async with server.living():
            await body(server)

    uvloop.run(main())


# It is gone on with.


def test_an_engine_that_was_left_serves_on_with_its_process_its_id_and_its_key(
    folder: Path,
) -> None:
    killed_server(folder)
    before = record_of(folder)

    async def body(next_server: NextServer) -> None:
        await next_server.until_running()
        assert next_server.notes == [(ID, "adopted")]
        assert (next_server.replica.id, next_server.pid) == (ID, before["pid"])
        assert next_server.replica.created == before["created"]
        instance = next_server.replica.instance
        assert instance is not None and instance.key == before["key"]
        assert set(next_server.states) == {"starting", "running"}, "nothing was started"
        assert [path.name for path in next_server.paths.records.iterdir()] == [f"{ID}.json"]
        await asyncio.sleep(0.2)  # in which it is compared with what would be started now
        assert not next_server.replica.outdated

    scenario(NextServer(folder, small()), body)
    assert not alive(int(str(before["pid"]))), "the end of the server is the end of it"


def test_the_record_is_for_its_owner_alone_and_no_argument_has_its_key(folder: Path) -> None:
    killed_server(folder)
    path = folder / "run" / "instances" / f"{ID}.json"
    assert path.stat().st_mode & 0o777 == 0o600
    record = record_of(folder)
    key = str(record["key"])
    assert len(key) == 48
    assert key.encode() not in Path(f"/proc/{record['pid']}/cmdline").read_bytes()


def test_the_end_of_an_adopted_engine_is_seen_and_another_is_started(folder: Path) -> None:
    killed_server(folder, "--child")
    child = child_of(folder / "logs" / "small" / f"{ID}.log")

    async def body(next_server: NextServer) -> None:
        await next_server.until_running()
        assert next_server.pid is not None
        kill(next_server.pid)
        await eventually(lambda: next_server.replica.id != ID, "another engine")
        await next_server.until_running()
        assert "ended (nobody knows its exit code" in next_server.replica.last_failure
        assert not alive(child), "nobody of the first one's session is left"
        assert next_server.replica.restarts == 1

    scenario(NextServer(folder, small("--child")), body)


def test_an_engine_that_still_loads_goes_on_loading(folder: Path) -> None:
    killed_server(folder, "--never-ready")
    before = record_of(folder)

    async def body(next_server: NextServer) -> None:
        await asyncio.sleep(0.3)
        assert next_server.replica.state == "starting"
        assert next_server.notes == []
        assert next_server.pid == before["pid"]

    scenario(NextServer(folder, small("--never-ready")), body)


@pytest.mark.parametrize("key", ["", "another"], ids=["goes on", "refused"])
def test_a_start_waits_for_an_engine_that_has_served_until_it_goes_on_or_cannot(
    folder: Path, key: str
) -> None:
    killed_server(folder)
    rewrite(folder, has_run=True, **({"key": key} if key else {}))

    async def body(next_server: NextServer) -> None:
        await next_server.supervisor.until_adopted(DEADLINE)
        assert next_server.notes == [(ID, "refused" if key else "adopted")]
        assert "starting" not in next_server.states[-1:]

    scenario(NextServer(folder, small()), body)


def test_a_start_waits_for_no_engine_that_loads_and_for_none_too_long(folder: Path) -> None:
    killed_server(folder, "--never-ready")

    async def loads(next_server: NextServer) -> None:
        await next_server.supervisor.until_adopted(float("inf"))
        assert next_server.replica.state == "starting"
        assert await next_server.supervisor.leave() == [ID]

    async def hangs(next_server: NextServer) -> None:
        await next_server.supervisor.until_adopted(0.1)
        assert next_server.replica.state == "starting"

    scenario(NextServer(folder, small("--never-ready")), loads)
    rewrite(folder, has_run=True)
    scenario(NextServer(folder, small("--never-ready")), hangs)


def test_an_adopted_engine_that_never_gets_ready_is_replaced(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adoption, "adopted_within", lambda *_: 0.2)
    killed_server(folder, "--never-ready")
    before = record_of(folder)

    async def body(next_server: NextServer) -> None:
        await eventually(lambda: next_server.replica.id != ID, "another engine")
        assert not alive(int(str(before["pid"])))
        assert "was not ready after 0.2 s" in next_server.replica.last_failure

    scenario(NextServer(folder, small("--never-ready")), body)


@pytest.mark.parametrize(
    ("ready", "hang", "age", "has_run", "within"),
    [
        (600, 120, 10, False, 590),
        (600, 120, 5000, False, 1),
        (0, 120, 5000, False, 0),
        (600, 120, 10, True, 120),
        (600, 0, 10, True, 0),
    ],
)
def test_an_adopted_engine_has_the_rest_of_its_time_or_that_of_one_that_hangs(
    folder: Path, ready: float, hang: float, age: float, *, has_run: bool, within: float
) -> None:
    killed_server(folder)
    ((_, record),) = found_in(folder)
    assert isinstance(record, Record)
    record = replace(record, has_run=has_run)
    model = small(ready_timeout=ready, hang_timeout=hang)
    assert adoption.adopted_within(model, record, record.created + age) == within


# It would be started otherwise now.


@pytest.mark.parametrize(
    "edited",
    [small(env={"MORE": "1"}), replace(small(), backend="other")],
    ids=["variable", "backend"],
)
def test_an_engine_of_a_model_that_was_edited_serves_as_what_it_is_until_it_is_replaced(
    folder: Path, edited: ModelConfig
) -> None:
    killed_server(folder)

    async def body(next_server: NextServer) -> None:
        adopted = next_server.replica
        assert (adopted.model.env, adopted.backend.name) == ({}, "small")
        await eventually(lambda: (ID, "outdated") in next_server.notes, "it is outdated")
        assert next_server.notes == [(ID, "adopted"), (ID, "outdated")]
        await eventually(
            lambda: (
                [one.state for one in next_server.supervisor.replicas if one.id != ID]
                == ["running"]
                and len(next_server.supervisor.replicas) == 1
            ),
            "another is in its place",
        )

    scenario(NextServer(folder, edited), body)


def test_an_engine_of_a_former_version_whose_configuration_is_unknown_is_compared_with_its_model(
    folder: Path,
) -> None:
    killed_server(folder)
    rewrite(folder, config={"of": "tomorrow"})

    async def body(next_server: NextServer) -> None:
        await eventually(lambda: (ID, "outdated") in next_server.notes, "it is outdated")
        assert "other settings" in next_server.why

    scenario(NextServer(folder, small(env={"MORE": "1"})), body)


def test_an_edit_that_is_taken_back_before_another_runs_leaves_the_adopted_engine(
    folder: Path,
) -> None:
    killed_server(folder)

    async def body(next_server: NextServer) -> None:
        supervisor = next_server.supervisor
        await eventually(lambda: (ID, "outdated") in next_server.notes, "it is outdated")
        addresses = await supervisor.try_external([])
        supervisor.adopt(addresses, [small()], {"small": 3})
        await eventually(lambda: len(supervisor.replicas) == 1, "the other goes")
        assert (next_server.replica.id, next_server.replica.generation) == (ID, 3)
        assert not next_server.replica.is_outdated

    scenario(NextServer(folder, small("--never-ready")), body)


def test_the_number_of_replicas_makes_no_engine_outdated(folder: Path) -> None:
    killed_server(folder)

    async def body(next_server: NextServer) -> None:
        await next_server.until_running()
        await asyncio.sleep(0.2)
        assert [one.outdated for one in next_server.supervisor.replicas] == [False, False]
        assert next_server.supervisor.replicas[0].id == ID

    scenario(NextServer(folder, small(replicas=2)), body)


def test_another_version_in_its_environment_makes_it_outdated(folder: Path) -> None:
    killed_server(folder)
    next_server = NextServer(folder, small())
    tries: list[None] = []

    async def newer(*_: object) -> Environment:
        tries.append(None)
        if len(tries) == 1:
            raise EngineFailed("The hub is away.")
        return dataclasses.replace(PREPARED, version="2")

    async def body(server: NextServer) -> None:
        await eventually(lambda: (ID, "outdated") in server.notes, "it is outdated")

    next_server.make = newer
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(adoption, "restart_delay", lambda _: 0.0)
        scenario(next_server, body)
    assert len(tries) >= 2, "what kept it from looking did not keep it for ever"


# It is refused before anything is asked of it.


def assert_refused(folder: Path, *models: ModelConfig, why: str = "") -> None:
    adoptable, others = candidates(found_in(folder), models or [small()], KINDS)
    assert adoptable == []
    ((_, told),) = others
    assert why in told


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"boot_id": "another"}, "it has ended, or it is not certain that it is ours"),
        ({"start_time": 1}, "it has ended, or it is not certain that it is ours"),
        ({"backend": "another"}, "the backend `another` is not known"),
        ({"backend": "other", "config": None}, "the backend `other` is not known, or is not"),
        (
            {"backend": "another", "config": {"name": "small", "backend": "another"}},
            "the backend `another` is not known",
        ),
        ({"model": "another"}, "the model `another` is not run here any more"),
        ({"asleep": True}, "it was asleep in its process"),
    ],
)
def test_an_engine_of_another_boot_a_recycled_pid_another_kind_or_model_is_no_candidate(
    folder: Path, change: dict[str, object], why: str
) -> None:
    killed_server(folder)
    adoptable, others = candidates(found_in(folder), [small()], KINDS)
    assert ([name for name, _ in adoptable], others) == ([ID], [])
    pid = int(str(record_of(folder)["pid"]))
    rewrite(folder, **change)
    try:
        assert_refused(folder, why=why)
    finally:
        kill(pid)


@pytest.mark.parametrize("field", ["key", "generation", "digest", "model"])
def test_a_record_without_a_field_is_that_of_an_older_version_and_its_engine_is_ended(
    folder: Path, field: str
) -> None:
    killed_server(folder)
    record = record_of(folder)
    path = folder / "run" / "instances" / f"{ID}.json"
    path.write_text(json.dumps({name: record[name] for name in record if name != field}))
    assert_refused(folder)

    async def body(next_server: NextServer) -> None:
        assert not alive(int(str(record["pid"])))
        await next_server.until_running()
        assert next_server.replica.id != ID

    scenario(NextServer(folder, small()), body)


def test_a_process_that_has_the_number_of_one_that_has_ended_meanwhile_is_not_taken(
    folder: Path,
) -> None:
    killed_server(folder)
    ((_, record),) = found_in(folder)
    assert isinstance(record, Record)

    async def main() -> None:
        paths, faults = EnginePaths(folder), Faults()
        table = processes.ProcessTable(faults)
        one = Instance(ID, small(), SMALL, paths, table, faults)
        with pytest.raises(ProcessLookupError):
            one.adopt(replace(record, start_time=1, log="/none.log"))
        assert await one.stop(), "of the other one nobody is left"
        assert alive(record.pid)

    uvloop.run(main())
    kill(record.pid)


def test_a_process_of_another_user_is_no_candidate(folder: Path) -> None:
    """Root may start one; another user tries it with a process of root's."""
    killed_server(folder)
    engine = int(str(record_of(folder)["pid"]))
    user = NOBODY if os.geteuid() == 0 else None
    with subprocess.Popen(["sleep", "600"], user=user, start_new_session=True) as stranger:
        try:
            found = processes.process(stranger.pid)
            assert found is not None
            rewrite(folder, pid=stranger.pid, start_time=found.start_time)
            if user is None:
                assert candidates(found_in(folder), [small()], KINDS)[0]
                rewrite(folder, pid=1, start_time=processes.process(1).start_time)  # type: ignore[union-attr]
            assert_refused(folder)
        finally:
            stranger.kill()
            kill(engine)


def test_a_process_that_leads_no_session_is_no_candidate(folder: Path) -> None:
    killed_server(folder)
    engine = int(str(record_of(folder)["pid"]))
    with subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE) as other:
        found = processes.process(other.pid)
        assert found is not None
        rewrite(folder, pid=other.pid, start_time=found.start_time)
        assert_refused(folder)
        other.kill()
    kill(engine)


def test_a_leader_that_has_died_takes_its_living_workers_with_it(folder: Path) -> None:
    killed_server(folder, "--child")
    child = child_of(folder / "logs" / "small" / f"{ID}.log")
    leader = int(str(record_of(folder)["pid"]))
    kill(leader)
    while alive(leader):
        time.sleep(0.01)
    assert alive(child)
    assert_refused(folder)

    async def body(next_server: NextServer) -> None:
        assert not alive(child)
        await next_server.until_running()
        assert next_server.replica.id != ID

    scenario(NextServer(folder, small()), body)


def test_of_two_engines_in_one_slot_the_younger_is_the_candidate(folder: Path) -> None:
    killed_server(folder)
    (path, record) = found_in(folder)[0]
    assert isinstance(record, Record)
    older: Found = (path.with_name("small-older.json"), record)
    younger: Found = (
        path,
        replace(record, created=record.created + 1),
    )
    for order in ([older, younger], [younger, older]):
        adoptable, others = candidates(order, [small()], KINDS)
        assert ([name for name, _ in adoptable], others) == (
            [ID],
            [(older, "a later one has its place")],
        )


# It is refused as soon as it can be asked.


def refusal(server: NextServer, pid: int, why: str) -> None:
    """That the engine is refused for a reason, ended, and another started in its place."""

    async def body(next_server: NextServer) -> None:
        await eventually(lambda: (ID, "refused") in next_server.notes, "it is refused")
        assert why in next_server.why
        await eventually(lambda: next_server.replica.id != ID, "another engine")
        await next_server.until_running()
        assert not alive(pid)
        assert (ID, "adopted") not in next_server.notes
        assert next_server.replica.failures == 0, "no start has failed"

    scenario(server, body)


@pytest.mark.parametrize(("ready_path", "asked"), [("/open", "/v1/models"), ("/health", "/health")])
def test_an_engine_that_does_not_take_our_key_is_refused(
    folder: Path, ready_path: str, asked: str
) -> None:
    """The ready path of most asks for none."""
    killed_server(folder)
    rewrite(folder, key="another", ready_path=ready_path)
    backend = dataclasses.replace(SMALL, ready_path=ready_path)
    refusal(
        NextServer(folder, small(), backend=backend),
        int(str(record_of(folder)["pid"])),
        f"GET {asked} was answered with 401",
    )


def test_one_that_is_refused_lives_on_while_another_server_has_requests_at_it(
    folder: Path,
) -> None:
    killed_server(folder)
    rewrite(folder, key="another")
    pid = int(str(record_of(folder)["pid"]))

    async def body(next_server: NextServer) -> None:
        await eventually(lambda: (ID, "refused") in next_server.notes, "it is refused")
        await asyncio.sleep(0.3)
        assert alive(pid) and next_server.replica.state == "error"
        next_server.supervisor.restraint.alone.set()
        await eventually(lambda: next_server.replica.id != ID, "another engine")
        assert not alive(pid)

    next_server = NextServer(folder, small())
    next_server.alone = False
    scenario(next_server, body)


@contextlib.contextmanager
def stranger_at(where: str) -> Iterator[subprocess.Popen[bytes]]:
    """Another program that gives 200 to whoever asks, at a path or a port."""
    code = (
        "import socket, sys\n"
        "where = sys.argv[1]\n"
        "one = socket.socket(socket.AF_UNIX if '/' in where else socket.AF_INET)\n"
        "one.bind(where if '/' in where else ('127.0.0.1', int(where)))\n"
        "one.listen()\n"
        "print(one.getsockname() if '/' in where else one.getsockname()[1], flush=True)\n"
        "while True:\n"
        "    with one.accept()[0] as connection:\n"
        "        print(connection.recv(65536), flush=True)\n"
        "        connection.sendall(b'HTTP/1.1 200 OK\\r\\nContent-Length: 0\\r\\n\\r\\n')\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, where], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline()
        try:
            yield other
        finally:
            other.kill()


@pytest.mark.parametrize("was_there", [True, False], ids=["removed path", "not listening yet"])
def test_a_listener_of_another_program_at_its_path_is_refused_and_gets_no_key(
    folder: Path, *, was_there: bool
) -> None:
    killed_server(folder, *([] if was_there else ["--never-ready"]))
    record = record_of(folder)
    path = Path(str(record["socket"]))
    path.unlink(missing_ok=True)
    with stranger_at(str(path)) as other:
        refusal(
            NextServer(folder, small(), backend=SMALL),
            int(str(record["pid"])),
            f"Another program listens at unix:{path}",
        )
        assert alive(other.pid), "it is nobody's business of ours"
        other.kill()
        assert other.stdout is not None
        assert other.stdout.read() == b"", "it was asked nothing"


def test_a_listener_of_another_program_at_its_port_is_refused(folder: Path) -> None:
    killed_server(folder)
    with stranger_at("0") as other, socket.create_server(("127.0.0.1", 0)):
        inode = next(one for one in os.listdir(f"/proc/{other.pid}/fd") if int(one) > 2)
        found = os.readlink(f"/proc/{other.pid}/fd/{inode}")
        port = next(
            int(line.split()[1].partition(":")[2], 16)
            for line in Path("/proc/net/tcp").read_text().splitlines()[1:]
            if f"socket:[{line.split()[9]}]" == found
        )
        rewrite(folder, port=port)
        refusal(
            NextServer(folder, small()),
            int(str(record_of(folder)["pid"])),
            f"Another program listens at http://127.0.0.1:{port}",
        )
        assert alive(other.pid)


class Answering:
    """An engine as far as it is looked at: who lives of it, and what it answers."""

    pid = 4711
    ready_path = "/health"
    key_path = "/v1/models"

    def __init__(
        self, ready: int | None = 200, key: int | None = 200, address: str = "", session: int = pid
    ) -> None:
        self.address = address
        self.statuses = {self.ready_path: ready, self.key_path: key}
        self.lives = [processes.Process(os.getpid(), 1, session, 1, alive=True)]

    async def living(self) -> list[processes.Process] | None:
        return self.lives

    async def ask(self, path: str) -> Answer:
        status = self.statuses[path]
        if status is None:
            await asyncio.sleep(1000)
        return Answer(status or 0, b"")


@pytest.mark.parametrize(
    ("ready", "key", "serves"),
    [
        (200, 200, True),
        (200, 500, False),
        (200, 302, False),
        (200, None, False),
        (503, 200, False),
        (None, 200, False),
        (401, 200, None),
        (403, 200, None),
        (404, 200, False),
        (200, 401, None),
        (200, 404, None),
    ],
)
def test_an_engine_serves_when_it_says_so_and_takes_our_key(
    monkeypatch: pytest.MonkeyPatch, ready: int | None, key: int | None, serves: bool | None
) -> None:
    async def is_its_own(_: object) -> bool:
        return True

    monkeypatch.setattr(adoption, "_is_its_own", is_its_own)
    monkeypatch.setattr(adoption, "PROBE_TIMEOUT", 0.05)
    engine: Any = Answering(ready, key)
    if serves is None:
        with pytest.raises(Refused, match="does not take the key of its record"):
            asyncio.run(verify(engine))
    else:
        assert asyncio.run(asyncio.wait_for(verify(engine), 30)) is serves


def test_only_a_listener_of_its_session_is_asked_with_its_key(short_folder: Path) -> None:
    """Whoever has left the session may be anybody who bears its mark."""
    path = short_folder / "engine.sock"
    engine: Any = Answering(address=f"unix:{path}")
    assert asyncio.run(verify(engine)) is False, "nobody listens yet"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        assert asyncio.run(verify(engine)) is True
        apart: Any = Answering(address=f"unix:{path}", session=4712)
        with pytest.raises(Refused, match="Another program listens"):
            asyncio.run(verify(apart))
        engine.lives = None
        assert asyncio.run(verify(engine)) is False, "nobody can see who lives"


def test_a_process_table_that_cannot_be_read_refuses_nobody(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_server(folder)
    asked: list[None] = []

    def unreadable(*_: object) -> bool | None:
        asked.append(None)
        if len(asked) < 3:
            raise PermissionError(1, "Operation not permitted")
        return True

    monkeypatch.setattr(adoption, "is_theirs", unreadable)

    async def body(next_server: NextServer) -> None:
        await next_server.until_running()
        assert next_server.replica.id == ID

    scenario(NextServer(folder, small()), body)


# It is left to the next server.


def test_engines_that_are_left_are_adopted_by_the_next_and_what_is_prepared_is_ended(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "gpustack_fast")
    waits = asyncio.Event()
    first = NextServer(folder, small(replicas=2))
    environments: list[None] = []

    async def one_alone(*_: object) -> Environment:
        environments.append(None)
        if len(environments) > 1:
            await waits.wait()
        return PREPARED

    first.make = one_alone
    pids: list[int | None] = []

    async def leave(server: NextServer) -> None:
        await eventually(
            lambda: [one.state for one in server.supervisor.replicas].count("running") == 2,
            "both run",
        )
        one, other = server.supervisor.replicas
        assert one.instance is not None and other.instance is not None
        assert other.instance.pid is not None
        kill(other.instance.pid)
        await eventually(lambda: other.state == "initializing", "another is prepared")
        pids.append(one.instance.pid)
        assert await server.supervisor.leave() == [one.id]
        assert server.supervisor.replicas == []

    scenario(first, leave)
    (pid,) = pids
    assert pid is not None and alive(pid)

    async def body(next_server: NextServer) -> None:
        await next_server.until_running()
        assert next_server.pid == pid

    time.sleep(0.01)
    scenario(NextServer(folder, small()), body)
    assert not alive(pid)
