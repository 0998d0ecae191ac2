"""The engines of a killed server: the next start finds and ends them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_backend import alive, child_of, run

from gpustack_fast.backends import BACKENDS
from gpustack_fast.engines import processes
from gpustack_fast.engines.leftovers import LEFTOVER_GRACE, end_leftovers, find_records
from gpustack_fast.faults import Faults
from gpustack_fast.storage.engine_paths import EnginePaths

KILLED_SERVER = """
import asyncio, pathlib, sys, time
from gpustack_fast.engines.instance import Instance
from gpustack_fast.engines.processes import ProcessTable
from gpustack_fast.engines.readiness import until_ready
from gpustack_fast.faults import Faults
from gpustack_fast.storage.engine_paths import EnginePaths
from small_backend import PREPARED, SMALL, small
async def main():
    paths = EnginePaths(pathlib.Path(sys.argv[1]))
    faults = Faults()
    model = small(*sys.argv[2:])
    one = Instance("small-00000", model, SMALL, paths, ProcessTable(faults), faults)
    await one.start(PREPARED)
    if "--leave-child" in sys.argv:
        await one.exited.wait()
    elif "--never-ready" in sys.argv:
        while not one.record.exists():
            await asyncio.sleep(0.01)
    else:
        await until_ready(one)
    print("up", flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""


def killed_server(folder: Path, *orders: str) -> None:
    """Starts an engine in a process of its own, and kills that process."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", KILLED_SERVER, str(folder), *orders]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == "up\n"
        server.kill()


async def end_all(paths: EnginePaths, grace: float = LEFTOVER_GRACE) -> list[str]:
    """Ends all that an earlier run has left."""
    return await end_leftovers(paths, await find_records(paths), Faults(), grace)


def record_of(folder: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads(
        (folder / "run" / "instances" / "small-00000.json").read_bytes()
    )
    return found


def test_the_next_start_ends_what_a_killed_server_left(short_folder: Path) -> None:
    killed_server(short_folder, "--deaf", "--child")
    pid = record_of(short_folder)["pid"]
    assert isinstance(pid, int)
    child = child_of(short_folder / "logs" / "small" / "small-00000.log")
    assert alive(pid)
    assert alive(child)

    async def scenario(paths: EnginePaths) -> None:
        assert await end_all(paths, grace=0.3) == ["small-00000"]
        assert not alive(pid)
        assert not alive(child)
        assert list(paths.records.iterdir()) == []
        assert list(paths.sockets.iterdir()) == []
        assert await end_all(paths) == []

    run(scenario, short_folder)


def test_the_next_start_ends_the_children_of_a_leader_that_has_died_meanwhile(
    short_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "ORPHANS_MAY_TAKE", 0.2)
    killed_server(short_folder, "--leave-child")
    child = child_of(short_folder / "logs" / "small" / "small-00000.log")
    assert alive(child)

    async def scenario(paths: EnginePaths) -> None:
        assert await end_all(paths) == ["small-00000"]
        assert not alive(child)

    run(scenario, short_folder)


def test_what_is_left_gets_the_longest_grace_of_all_backends(
    short_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, given = processes.end, list[float]()

    async def end(*arguments: Any, **more: Any) -> bool:
        leader, living, polite, grace = arguments
        given.append(grace)
        return await own(leader, living, polite, 0.0, **more)

    monkeypatch.setattr(processes, "end", end)
    killed_server(short_folder)
    assert asyncio.run(end_all(EnginePaths(short_folder))) == ["small-00000"]
    assert given == [max(one.stop_grace for one in BACKENDS.values())]


def test_the_next_start_ends_what_had_left_the_session(short_folder: Path) -> None:
    killed_server(short_folder, "--escape")
    pid = record_of(short_folder)["pid"]
    assert isinstance(pid, int)
    child = child_of(short_folder / "logs" / "small" / "small-00000.log")
    os.kill(pid, signal.SIGKILL)
    assert alive(child)

    async def scenario(paths: EnginePaths) -> None:
        assert await end_all(paths) == ["small-00000"]
        assert not alive(child)

    run(scenario, short_folder)


@pytest.mark.parametrize(
    "change", [{"start_time": 1}, {"boot_id": "another"}], ids=["start time", "boot id"]
)
def test_a_process_whose_identity_does_not_match_is_never_touched(
    short_folder: Path, change: dict[str, object]
) -> None:
    killed_server(short_folder)
    record = record_of(short_folder)
    pid = record["pid"]
    assert isinstance(pid, int)
    path = short_folder / "run" / "instances" / "small-00000.json"
    path.write_text(json.dumps({**record, "log": "/nowhere", **change}))

    async def scenario(paths: EnginePaths) -> None:
        assert await end_all(paths, grace=0.1) == []
        assert alive(pid)
        assert list(paths.records.iterdir()) == []

    try:
        run(scenario, short_folder)
    finally:
        os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b'{"pid":1,"start_time":1,"boot_id":"\xff","socket":"/x","log":"/y"}',
        b'{"x":' + b"[" * 5000,
        b'{"pid":1,"start_time":1,"boot_id":"","socket":"a\\u0000b","log":"/y"}',
    ],
)
def test_a_record_that_cannot_be_read_is_told_and_removed(
    short_folder: Path, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    paths = EnginePaths(short_folder)
    (paths.records / "torn.json").write_bytes(content)
    assert asyncio.run(end_all(paths)) == []
    assert list(paths.records.iterdir()) == []
    (told,) = caplog.messages
    assert told.startswith(f"The record {paths.records}/torn.json is damaged, and is removed.")


@pytest.mark.parametrize("left", ["the leader", "its child"])
@pytest.mark.parametrize("content", [b"", b"[]", None], ids=["empty", "other", "removed"])
def test_an_engine_whose_record_is_lost_is_ended_by_its_mark(
    short_folder: Path, content: bytes | None, left: str
) -> None:
    killed_server(short_folder, "--child")
    pid = record_of(short_folder)["pid"]
    assert isinstance(pid, int)
    child = child_of(short_folder / "logs" / "small" / "small-00000.log")
    if left == "its child":
        os.kill(pid, signal.SIGKILL)
    paths = EnginePaths(short_folder)
    record = paths.record("small-00000")
    record.unlink() if content is None else record.write_bytes(content)
    other = subprocess.Popen(
        ["sleep", "100"], env={processes.MARK: str(short_folder / "elsewhere" / "small-00000.json")}
    )
    try:
        assert asyncio.run(end_all(paths, grace=2.0)) == ["small-00000"]
        assert not alive(pid) and not alive(child)
        assert list(paths.records.iterdir()) == list(paths.sockets.iterdir()) == []
        assert other.poll() is None, "that of another data directory"
    finally:
        other.kill()
        other.wait()


ODD: dict[str, Callable[[Path], None]] = {
    "a directory": Path.mkdir,
    "a pipe": os.mkfifo,
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a link to nowhere": lambda path: path.symlink_to("nowhere"),
    "a device": lambda path: path.symlink_to("/dev/zero"),
}


@pytest.mark.parametrize("kind", ODD)
def test_what_is_no_record_is_told_and_keeps_nobody_from_starting(
    short_folder: Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    paths = EnginePaths(short_folder)
    ODD[kind](paths.records / "odd.json")
    (paths.records / "odd.json.new").mkdir()
    killed_server(short_folder)
    assert asyncio.run(end_all(paths)) == ["small-00000"]
    new, record = caplog.messages[1], caplog.messages[0]
    assert f"{paths.records}/odd.json cannot be read: " in record and "Remove the record." in record
    assert f"{paths.records}/odd.json.new, of an engine" in new and "Remove it." in new
    assert os.path.lexists(paths.records / "odd.json")


def test_a_record_whose_socket_cannot_be_removed_keeps_nobody_from_starting(
    short_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    killed_server(short_folder)
    paths, record = EnginePaths(short_folder), record_of(short_folder)
    Path(str(record["socket"])).unlink()
    Path(str(record["socket"])).mkdir()
    assert asyncio.run(end_all(paths)) == ["small-00000"]
    (line,) = caplog.messages
    assert f"{record['socket']}, of an engine of an earlier run, cannot be removed" in line
    assert list(paths.records.iterdir()) == []
