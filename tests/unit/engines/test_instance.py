"""One engine process: how it is started, watched, ended, and found again after a server that was killed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import uvloop
from small_backend import PYTHON, SMALL, alive, child_of, eventually, kill, small

from gpustack_fast.engines import processes
from gpustack_fast.engines.instance import EngineFailed, Instance, Rooms, end_leftovers, new_id, short_folder


def run(scenario: Callable[[Rooms], Awaitable[None]], folder: Path) -> None:
    """Runs a test's coroutine on the event loop that the product runs on."""

    async def main() -> None:
        processes.become_subreaper()
        await scenario(Rooms(folder))

    uvloop.run(main())


def instance(rooms: Rooms, *orders: str, ready_timeout: float = 30.0) -> Instance:
    model = small(*orders, ready_timeout=ready_timeout)
    one = Instance(new_id(model.name), model, SMALL, rooms)
    one.start(PYTHON)
    return one


def test_an_engine_becomes_ready_and_leaves_nothing_behind(short_folder: Path) -> None:
    async def scenario(rooms: Rooms) -> None:
        one = instance(rooms)
        pid = one.pid
        assert pid is not None
        await one.wait_until_ready()
        record = json.loads(one.record.read_bytes())
        assert record["pid"] == pid
        assert os.getsid(pid) == pid
        assert one.log.stat().st_mode & 0o777 == 0o600
        assert await one.stop()
        assert not alive(pid)
        assert one.exited.is_set()
        assert [path for folder in (rooms.records, rooms.sockets) for path in folder.iterdir()] == []
        assert one.log.read_text() == "small engine begins\n"

    run(scenario, short_folder)


def test_the_key_is_in_no_argument_and_our_own_settings_do_not_reach_the_engine(
    short_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPUSTACK_FAST_BOOTSTRAP_KEY", "a-secret-of-sixteen")

    async def scenario(rooms: Rooms) -> None:
        one = instance(rooms)
        await one.wait_until_ready()
        seen = Path(f"/proc/{one.pid}/cmdline").read_bytes()
        assert one.key.encode() not in seen
        assert str(one.socket).encode() in seen
        assert b"a-secret-of-sixteen" not in Path(f"/proc/{one.pid}/environ").read_bytes()
        await one.stop()

    run(scenario, short_folder)


def test_an_engine_that_crashes_at_start_is_reported_with_its_last_words_though_it_exits_with_0(
    short_folder: Path,
) -> None:
    async def scenario(rooms: Rooms) -> None:
        one = instance(rooms, "--crash")
        with pytest.raises(EngineFailed, match=r"exit code 0 before it was ready.*the weights are torn"):
            await one.wait_until_ready()
        assert await one.stop()

    run(scenario, short_folder)


def test_an_engine_that_is_not_ready_in_time_is_reported(short_folder: Path) -> None:
    async def scenario(rooms: Rooms) -> None:
        one = instance(rooms, "--never-ready", ready_timeout=0.3)
        with pytest.raises(EngineFailed, match=r"not ready after 0\.3 s.*ready_timeout"):
            await one.wait_until_ready()
        assert await one.stop()

    run(scenario, short_folder)


def test_an_engine_that_is_deaf_to_sigterm_is_killed_with_its_children(short_folder: Path) -> None:
    async def scenario(rooms: Rooms) -> None:
        one = instance(rooms, "--deaf", "--child")
        pid = one.pid
        assert pid is not None
        await one.wait_until_ready()
        child = child_of(one.log)
        assert alive(child)
        assert await one.stop()
        assert not alive(pid)
        assert not alive(child)

    run(scenario, short_folder)


def test_the_children_of_an_engine_that_was_killed_are_ended_too(
    short_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "ORPHANS_MAY_TAKE", 0.2)

    async def scenario(rooms: Rooms) -> None:
        one = instance(rooms, "--child")
        assert one.pid is not None
        await one.wait_until_ready()
        child = child_of(one.log)
        kill(one.pid)
        await one.exited.wait()
        assert one.how_it_ended() == "was ended by signal 9 (Killed; perhaps memory ran out, see `dmesg`)"
        assert alive(child)
        assert await one.stop()
        assert processes.process(child) is None, "it was our zombie, and should be reaped"

    run(scenario, short_folder)


def test_a_grown_log_is_copied_and_truncated_while_the_engine_appends(short_folder: Path) -> None:
    async def scenario(rooms: Rooms) -> None:
        one = instance(rooms, "--child")
        await one.wait_until_ready()
        one.rotate_log(limit=10)
        assert one.log.stat().st_size == 0
        assert one.log.with_suffix(".log.1").read_text().startswith("small engine begins")
        await one.stop()

    run(scenario, short_folder)


def test_only_the_newest_logs_of_a_model_are_kept(short_folder: Path) -> None:
    rooms = Rooms(short_folder)
    for number in range(15):
        rooms.log("m", f"m-{number}").write_text("x")
    assert len(list((rooms.logs / "m").glob("*.log"))) == 10


def test_a_long_data_directory_gets_a_short_folder_for_sockets(tmp_path: Path) -> None:
    long = tmp_path / ("d" * 100)
    rooms = Rooms(long)
    try:
        assert len(os.fsencode(rooms.socket("m" * 32 + "-abcde"))) <= 107
        assert rooms.sockets.stat().st_mode & 0o777 == 0o700
        assert Rooms(long).sockets == rooms.sockets
        rooms.sockets.chmod(0o755)
        with pytest.raises(EngineFailed, match="--data-dir"):
            short_folder(long)
    finally:
        rooms.sockets.rmdir()


# What a killed server leaves.

KILLED_SERVER = """
import asyncio, pathlib, sys, time
from gpustack_fast.engines.instance import Instance, Rooms
from small_backend import PYTHON, SMALL, small
async def main():
    one = Instance("small-00000", small(*sys.argv[2:]), SMALL, Rooms(pathlib.Path(sys.argv[1])))
    one.start(PYTHON)
    if "--leave-child" in sys.argv:
        await one.exited.wait()
    else:
        await one.wait_until_ready()
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


def record_of(folder: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((folder / "run" / "instances" / "small-00000.json").read_bytes())
    return found


def test_the_next_start_ends_what_a_killed_server_left(short_folder: Path) -> None:
    killed_server(short_folder, "--deaf", "--child")
    pid = record_of(short_folder)["pid"]
    assert isinstance(pid, int)
    child = child_of(short_folder / "logs" / "small" / "small-00000.log")
    assert alive(pid)
    assert alive(child)

    async def scenario(rooms: Rooms) -> None:
        assert await end_leftovers(rooms, grace=0.3) == ["small-00000"]
        assert not alive(pid)
        assert not alive(child)
        assert list(rooms.records.iterdir()) == []
        assert list(rooms.sockets.iterdir()) == []
        assert await end_leftovers(rooms) == []

    run(scenario, short_folder)


def test_the_next_start_ends_the_children_of_a_leader_that_has_died_meanwhile(
    short_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "ORPHANS_MAY_TAKE", 0.2)
    killed_server(short_folder, "--leave-child")
    child = child_of(short_folder / "logs" / "small" / "small-00000.log")
    assert alive(child)

    async def scenario(rooms: Rooms) -> None:
        assert await end_leftovers(rooms) == ["small-00000"]
        assert not alive(child)

    run(scenario, short_folder)


@pytest.mark.parametrize("change", [{"start_time": 1}, {"boot_id": "another"}], ids=["start time", "boot id"])
def test_a_process_whose_identity_does_not_match_is_never_touched(
    short_folder: Path, change: dict[str, object]
) -> None:
    killed_server(short_folder)
    record = record_of(short_folder)
    pid = record["pid"]
    assert isinstance(pid, int)
    path = short_folder / "run" / "instances" / "small-00000.json"
    path.write_text(json.dumps({**record, "log": "/nowhere", **change}))

    async def scenario(rooms: Rooms) -> None:
        assert await end_leftovers(rooms, grace=0.1) == []
        assert alive(pid)
        assert list(rooms.records.iterdir()) == []

    try:
        run(scenario, short_folder)
    finally:
        os.kill(pid, signal.SIGKILL)


def test_a_record_that_cannot_be_read_is_removed(short_folder: Path) -> None:
    rooms = Rooms(short_folder)
    (rooms.records / "torn.json").write_text("{")
    assert asyncio.run(end_leftovers(rooms)) == []
    assert list(rooms.records.iterdir()) == []


def test_the_exit_of_an_engine_is_seen_though_it_is_not_asked_for(short_folder: Path) -> None:
    async def scenario(rooms: Rooms) -> None:
        one = instance(rooms)
        assert one.pid is not None
        await one.wait_until_ready()
        assert one.how_it_ended() == "is running"
        kill(one.pid)
        await eventually(one.exited.is_set, "the exit is seen")
        assert await one.stop()

    run(scenario, short_folder)
