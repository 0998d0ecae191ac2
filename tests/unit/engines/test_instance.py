"""One engine process: how it is started, watched and ended."""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from small_backend import PREPARED, SMALL, alive, child_of, eventually, kill, run, small

from gpustack_fast.backends import Sign
from gpustack_fast.engines import engine_log, processes, readiness
from gpustack_fast.engines import instance as instances
from gpustack_fast.engines.instance import Instance, new_id
from gpustack_fast.engines.processes import Process, ProcessTable
from gpustack_fast.engines.readiness import until_ready
from gpustack_fast.errors import EngineFailed
from gpustack_fast.faults import Faults
from gpustack_fast.storage.engine_paths import EnginePaths
from limits import no_descriptors
from raw_http import DEADLINE


async def instance(paths: EnginePaths, *orders: str, ready_timeout: float = DEADLINE) -> Instance:
    model = small(*orders, ready_timeout=ready_timeout)
    faults = Faults()
    one = Instance(new_id(model.name), model, SMALL, paths, ProcessTable(faults), faults)
    await one.start(PREPARED)
    return one


def test_an_engine_becomes_ready_and_leaves_nothing_behind(short_folder: Path) -> None:
    async def scenario(paths: EnginePaths) -> None:
        one = await instance(paths)
        pid = one.pid
        assert pid is not None
        await until_ready(one)
        record = json.loads(one.record.read_bytes())
        assert record["pid"] == pid
        assert os.getsid(pid) == pid
        assert one.log.stat().st_mode & 0o777 == 0o600
        assert await one.stop()
        assert not alive(pid)
        assert one.exited.is_set()
        assert [
            path for folder in (paths.records, paths.sockets) for path in folder.iterdir()
        ] == []
        assert one.log.read_text() == "small engine begins\n"

    run(scenario, short_folder)


def test_the_key_is_in_no_argument_and_our_own_settings_do_not_reach_the_engine(
    short_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPUSTACK_FAST_BOOTSTRAP_KEY", "a-secret-of-sixteen")

    async def scenario(paths: EnginePaths) -> None:
        one = await instance(paths)
        await until_ready(one)
        seen = Path(f"/proc/{one.pid}/cmdline").read_bytes()
        assert one.key.encode() not in seen
        assert str(one.socket).encode() in seen
        assert b"a-secret-of-sixteen" not in Path(f"/proc/{one.pid}/environ").read_bytes()
        await one.stop()

    run(scenario, short_folder)


def test_an_engine_that_crashes_at_start_is_reported_with_its_last_words_though_it_exits_with_0(
    short_folder: Path,
) -> None:
    async def scenario(paths: EnginePaths) -> None:
        one = await instance(paths, "--crash")
        with pytest.raises(
            EngineFailed, match=r"exit code 0 before it was ready.*the weights are torn"
        ):
            await until_ready(one)
        assert await one.stop()

    run(scenario, short_folder)


def test_a_pipe_in_the_place_of_a_log_has_no_last_words_and_is_not_waited_for(
    short_folder: Path,
) -> None:
    async def scenario(paths: EnginePaths) -> None:
        one = await instance(paths)
        await until_ready(one)
        one.log.unlink()
        os.mkfifo(one.log)
        assert await one.last_words() == f"It wrote nothing (log: {one.log})."
        assert await one.stop()

    run(scenario, short_folder)


def test_an_engine_that_is_not_ready_in_time_is_reported(short_folder: Path) -> None:
    async def scenario(paths: EnginePaths) -> None:
        one = await instance(paths, "--never-ready", ready_timeout=0.3)
        with pytest.raises(EngineFailed, match=r"not ready after 0\.3 s.*ready_timeout"):
            await until_ready(one)
        assert await one.stop()

    run(scenario, short_folder)


def test_an_engine_that_is_deaf_to_sigterm_is_killed_with_its_children(short_folder: Path) -> None:
    async def scenario(paths: EnginePaths) -> None:
        one = await instance(paths, "--deaf", "--child")
        pid = one.pid
        assert pid is not None
        await until_ready(one)
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

    async def scenario(paths: EnginePaths) -> None:
        one = await instance(paths, "--child")
        assert one.pid is not None
        await until_ready(one)
        child = child_of(one.log)
        kill(one.pid)
        await one.exited.wait()
        assert (
            one.how_it_ended()
            == "was ended by signal 9 (Killed; perhaps memory ran out, see `dmesg`)"
        )
        assert alive(child)
        assert await one.stop()
        assert processes.process(child) is None, "it was our zombie, and should be reaped"

    run(scenario, short_folder)


def test_a_grown_log_is_copied_and_truncated_while_the_engine_appends(short_folder: Path) -> None:
    async def scenario(paths: EnginePaths) -> None:
        one = await instance(paths, "--child")
        await until_ready(one)
        await one.rotate_log(limit=10)
        assert one.log.stat().st_size == 0
        copy = one.log.with_suffix(".log.1")
        assert copy.read_text().startswith("small engine begins")
        assert copy.stat().st_mode & 0o777 == 0o600, "it holds what the log held"
        await one.stop()

    run(scenario, short_folder)


def test_the_exit_of_an_engine_is_seen_though_it_is_not_asked_for(short_folder: Path) -> None:
    async def scenario(paths: EnginePaths) -> None:
        one = await instance(paths)
        assert one.pid is not None
        await until_ready(one)
        assert one.how_it_ended() == "is running"
        kill(one.pid)
        await eventually(one.exited.is_set, "the exit is seen")
        assert await one.stop()

    run(scenario, short_folder)


def test_a_grown_log_that_cannot_be_copied_is_emptied_all_the_same(short_folder: Path) -> None:
    async def scenario(paths: EnginePaths) -> None:
        one = await instance(paths)
        await until_ready(one)
        copy = one.log.with_suffix(".log.1")
        copy.symlink_to("/dev/full")
        await one.rotate_log(limit=10)
        assert one.log.stat().st_size == 0, "the disk is full because of it, perhaps"
        assert not copy.is_symlink()
        assert one._faults.counts["log_rotation"] == 1
        await one.stop()

    run(scenario, short_folder)


def test_an_engine_that_cannot_be_probed_is_neither_ready_nor_too_slow(short_folder: Path) -> None:
    async def scenario(paths: EnginePaths) -> None:
        one = await instance(paths, ready_timeout=0.3)
        await eventually(one.socket.is_socket, "the engine to listen")
        with no_descriptors():
            waiting = asyncio.ensure_future(until_ready(one))
            await eventually(lambda: one._faults.counts["probe"] > 6, "probes fail")
            assert not waiting.done()
        await waiting
        assert await one.stop()

    run(scenario, short_folder)


@pytest.mark.parametrize("line", ["", "1 (a) S 1", "1 (a) S 1 1 x" + " 0" * 40])
def test_a_line_of_the_process_table_that_is_not_understood_hides_nobody(
    short_folder: Path, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    async def scenario(paths: EnginePaths) -> None:
        one = await instance(paths)
        await until_ready(one)
        with monkeypatch.context() as broken:
            broken.setattr(Path, "read_text", lambda *_, **__: line)
            assert await one.living() is None
        assert [found.pid for found in await one.living() or []] == [one.pid]
        assert await one.stop()

    run(scenario, short_folder)


def test_a_log_that_cannot_be_looked_at_is_not_taken_for_moved(
    short_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(paths: EnginePaths) -> None:
        one = await instance(paths)
        await until_ready(one)
        assert not one.log_was_moved()

        def forbidden(_: Path) -> os.stat_result:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

        with monkeypatch.context() as patch:
            patch.setattr(Path, "stat", forbidden)
            assert not one.log_was_moved()
        folder = one.log.parent
        folder.rename(paths.logs / "moved")
        assert one.log_was_moved()
        folder.write_text("a file in the way")
        assert one.log_was_moved()
        await one.stop()

    run(scenario, short_folder)


def test_a_process_table_that_does_not_come_hides_nobody_and_keeps_nobody_waiting(
    short_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    comes = threading.Event()

    async def scenario(paths: EnginePaths) -> None:
        one = await instance(paths)
        await until_ready(one)
        with monkeypatch.context() as stuck:
            stuck.setattr(processes, "READ_WITHIN", 0.05)
            stuck.setattr(processes, "read_sessions", comes.wait)
            assert await one.living() is None
            assert await one.living() is None
            assert one._faults.counts["processes"] == 2
        comes.set()
        assert await one.stop()

    run(scenario, short_folder)


def test_variables_that_do_not_come_keep_nobody_waiting(
    short_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    comes = threading.Event()

    async def scenario(paths: EnginePaths) -> None:
        model, faults = small(), Faults()
        backend = dataclasses.replace(SMALL, leaves_session=True)
        one = Instance(new_id("small"), model, backend, paths, ProcessTable(faults), faults)
        await one.start(PREPARED)
        await until_ready(one)
        with monkeypatch.context() as stuck:
            stuck.setattr(processes, "READ_WITHIN", 0.05)
            stuck.setattr(processes, "read_marks", comes.wait)
            assert await one.living() is None, "somebody may live"
        comes.set()
        assert faults.counts["processes"] == 1
        assert await one.stop()

    try:
        run(scenario, short_folder)
    finally:
        comes.set()


def test_an_engine_that_ends_before_it_is_ready_is_seen_though_its_disk_hangs(
    short_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    responds, asked = threading.Event(), list[None]()

    def hangs(_: object) -> str:
        asked.append(None)
        responds.wait()
        return ""

    async def scenario(paths: EnginePaths) -> None:
        monkeypatch.setattr(instances, "DISK_WITHIN", 0.05)
        monkeypatch.setattr(readiness, "STAGE_EVERY", 0.0)
        monkeypatch.setattr(readiness, "STAGE_WITHIN", 0.05)
        monkeypatch.setattr(engine_log.LogFollower, "stage", hangs)
        monkeypatch.setattr(instances, "last_lines", hangs)
        model, faults = small("--never-ready"), Faults()
        stages = (Sign(text="begins", meaning="it begins"),)
        backend = dataclasses.replace(SMALL, stages=stages)
        one = Instance(new_id("small"), model, backend, paths, ProcessTable(faults), faults)
        await one.start(PREPARED)
        waiting = asyncio.ensure_future(until_ready(one))
        await asyncio.wait({waiting}, timeout=0.5)
        assert one.pid is not None and len(asked) == 1
        kill(one.pid)
        await asyncio.wait({waiting}, timeout=DEADLINE)
        assert waiting.done(), "it would wait for the disk"
        assert "before it was ready" in str(waiting.exception())
        assert await one.stop()

    try:
        run(scenario, short_folder)
    finally:
        responds.set()


def test_an_engine_that_nobody_sees_is_not_waited_for_and_not_taken_for_gone(
    short_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nobody() -> list[Process]:
        return []

    async def scenario(paths: EnginePaths) -> None:
        one = await instance(paths)
        await until_ready(one)
        with monkeypatch.context() as without_proc:
            without_proc.setattr(one, "living", nobody)
            assert not await one.stop()
        assert await one.stop()

    run(scenario, short_folder)


def test_a_start_that_is_given_up_while_it_makes_files_leaves_none_behind(
    short_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, goes_on = threading.Event(), threading.Event()

    async def scenario(paths: EnginePaths) -> None:
        faults = Faults()
        one = Instance(new_id("m"), small(), SMALL, paths, ProcessTable(faults), faults)
        make = paths.make_room_for

        def wait_and_make(log: Path) -> None:
            begun.set()
            assert goes_on.wait(DEADLINE)
            make(log)

        monkeypatch.setattr(paths, "make_room_for", wait_and_make)
        start = asyncio.ensure_future(one.start(PREPARED))
        await asyncio.to_thread(begun.wait, DEADLINE)
        start.cancel()
        await asyncio.wait({start})
        end = asyncio.ensure_future(one.stop())
        await asyncio.sleep(0.05)
        goes_on.set()
        assert await end
        assert [
            path for folder in (paths.records, paths.sockets) for path in folder.iterdir()
        ] == []

    run(scenario, short_folder)


def test_a_disk_that_does_not_respond_keeps_neither_the_loop_nor_a_stop_waiting(
    short_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    responds = threading.Event()

    def wait(*_: object) -> None:
        responds.wait()

    def wait_and_fail(_: Path) -> None:
        responds.wait()
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    async def scenario(paths: EnginePaths) -> None:
        one = await instance(paths)
        await until_ready(one)
        monkeypatch.setattr(instances, "DISK_WITHIN", 0.05)
        monkeypatch.setattr(instances, "remove_files", wait)
        monkeypatch.setattr(instances, "last_lines", wait)
        assert "the disk does not respond" in await one.last_words()
        assert await one.stop()
        assert one._faults.counts["files"] == 1
        monkeypatch.setattr(paths, "make_room_for", wait_and_fail)
        starting = asyncio.ensure_future(instance(paths))
        _, pending = await asyncio.wait({starting}, timeout=0.05)
        assert pending, "it waits beside the loop"
        starting.cancel()
        await asyncio.wait({starting})
        assert starting.cancelled()

    try:
        run(scenario, short_folder)
    finally:
        responds.set()


def test_a_log_that_a_disk_opens_too_late_is_closed(
    short_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    responds, asked = threading.Event(), threading.Event()

    async def scenario(paths: EnginePaths) -> None:
        monkeypatch.setattr(instances, "DISK_WITHIN", 0.05)
        room = paths.make_room_for

        def slow(log: Path) -> None:
            asked.set()
            responds.wait()
            room(log)

        monkeypatch.setattr(paths, "make_room_for", slow)
        model, faults = small(), Faults()
        one = Instance(new_id("small"), model, SMALL, paths, ProcessTable(faults), faults)
        starting = asyncio.ensure_future(one.start(PREPARED))
        await eventually(asked.is_set, "its files are made")
        starting.cancel()
        await asyncio.wait({starting})
        assert await one.stop() and faults.counts["files"] == 1
        made = one._making
        assert made is not None and not made.done()
        responds.set()
        await eventually(made.done, "they are made")
        await eventually(lambda: made.result().closed, "the log is closed")

    try:
        run(scenario, short_folder)
    finally:
        responds.set()


def test_what_has_left_the_session_is_ended_as_well(short_folder: Path) -> None:
    async def scenario(paths: EnginePaths) -> None:
        model, faults = small("--escape"), Faults()
        backend = dataclasses.replace(SMALL, leaves_session=True)
        one, other = (
            Instance(new_id("small"), model, backend, paths, ProcessTable(faults), faults)
            for _ in range(2)
        )
        for each in (one, other):
            await each.start(PREPARED)
            await until_ready(each)
        child, spared = (child_of(each.log) for each in (one, other))
        assert os.getsid(child) == child
        assert one.pid is not None
        kill(one.pid)  # nobody asks the child any more
        await one.exited.wait()
        assert await one.stop()
        assert not alive(child)
        assert alive(spared)
        assert await other.stop()
        assert not alive(spared)

    run(scenario, short_folder)


LEADERLESS = """
import ctypes, threading, time
threading.Thread(target=time.sleep, args=[600]).start()
ctypes.CDLL(None).pthread_exit(None)
"""


def test_a_process_whose_first_thread_has_ended_lives_on() -> None:
    one = subprocess.Popen([sys.executable, "-c", LEADERLESS])
    try:
        while "Z" not in Path(f"/proc/{one.pid}/stat").read_text().rpartition(")")[2]:
            time.sleep(0.02)
        found = processes.process(one.pid)
        assert found is not None and found.alive
        assert one.poll() is None, "it cannot be reaped"
    finally:
        one.kill()
        one.wait()
