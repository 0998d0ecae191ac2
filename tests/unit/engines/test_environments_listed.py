"""Environments that are there: listed, seen in use, and removed."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import uvloop
from small_environments import TinyEngine

from gpustack_fast.engines import environments, processes
from gpustack_fast.engines.environments import BuildError, Environment, Listed
from gpustack_fast.engines.environments import users as looking
from gpustack_fast.engines.environments.places import building_folder, open_lock, try_lock
from gpustack_fast.engines.processes import Identity


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TinyEngine:
    return TinyEngine(tmp_path, monkeypatch)


def prepare(tiny: TinyEngine, version: str | None = None) -> Environment:
    return uvloop.run(environments.prepare(tiny.data, "tiny_engine", version, print, "cpu"))


def listed(tiny: TinyEngine) -> list[tuple[str, str, str, bool]]:
    rows = environments.listing(tiny.data)
    return [(row.version, row.variant, row.state, row.default) for row in rows]


def row_of(tiny: TinyEngine, version: str) -> Listed:
    (row,) = [one for one in environments.listing(tiny.data) if one.version == version]
    return row


@contextlib.contextmanager
def running(python: Path, code: str = "") -> Iterator[subprocess.Popen[bytes]]:
    """A process of an environment, which has run `code`."""
    command = [str(python), "-c", f"{code}\nprint(flush=True)\nimport time\ntime.sleep(600)"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as child:
        assert child.stdout is not None
        child.stdout.readline()
        try:
            yield child
        finally:
            child.kill()


def test_what_can_be_installed_is_listed_and_nothing_is_made(tiny: TinyEngine) -> None:
    assert listed(tiny) == [("1.0", "cpu", "not installed", True)]
    assert list(tiny.data.iterdir()) == []


def test_versions_are_listed_with_their_sizes_and_the_default(tiny: TinyEngine) -> None:
    prepare(tiny)
    prepare(tiny, "2.0")
    assert listed(tiny) == [("1.0", "cpu", "installed", True), ("2.0", "cpu", "installed", False)]
    row = row_of(tiny, "1.0")
    assert row.size > 10_000
    assert Path(row.python).exists() and Path(row.path).is_dir()


def test_an_environment_is_listed_as_what_it_is(tiny: TinyEngine) -> None:
    place = tiny.place()
    building_folder(place).mkdir(parents=True)
    assert ("1.0", "cpu", "unfinished", False) in listed(tiny)
    assert [path.suffix for path in place.parent.iterdir()] == [".building"], "a look makes nothing"
    handle = open_lock(place)
    assert try_lock(handle)
    assert ("1.0", "cpu", "building", False) in listed(tiny)
    os.close(handle)
    prepare(tiny).python.unlink()
    assert listed(tiny) == [("1.0", "cpu", "broken", True)]


def test_who_runs_from_an_environment_is_listed_and_it_stays(tiny: TinyEngine) -> None:
    python = prepare(tiny).python
    with running(python) as child:
        assert row_of(tiny, "1.0").in_use == [f"process {child.pid}"]
        with pytest.raises(BuildError, match=f"in use by process {child.pid}, so it stays"):
            environments.remove(tiny.data, "tiny_engine", "1.0")
    assert python.exists()
    environments.remove(tiny.data, "tiny_engine", "1.0")
    assert not python.exists()


def test_an_engine_that_writes_over_its_command_line_is_seen_by_its_memory(
    tiny: TinyEngine,
) -> None:
    python = prepare(tiny).python
    file = python.parents[1] / "library"
    file.write_bytes(b"x" * 4096)
    # What setproctitle does: nothing of the path is left in the arguments.
    code = (
        "import ctypes, mmap, os\n"
        f"kept = mmap.mmap(os.open({str(file)!r}, os.O_RDONLY), 0, prot=mmap.PROT_READ)\n"
        "stat = open('/proc/self/stat').read().rpartition(')')[2].split()\n"
        "begin, end = int(stat[45]), int(stat[46])\n"
        "ctypes.memset(begin, ord('x'), end - begin)"
    )
    with running(python, code) as child:
        assert b"python" not in Path(f"/proc/{child.pid}/cmdline").read_bytes()
        assert row_of(tiny, "1.0").in_use == [f"process {child.pid}"]


def test_a_process_that_keeps_whoever_looks_at_it_holds_up_nobody_and_may_be_a_user(
    tiny: TinyEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that waits inside a driver, in the midst of a change of its memory."""
    monkeypatch.setattr(looking, "SEEN_WITHIN", 0.3)
    python, own, gate = prepare(tiny).python, looking._arguments_and_files, threading.Event()
    stuck = set[int]()

    def look(pid: int) -> str:
        if pid in stuck:
            gate.wait()
        return own(pid)

    monkeypatch.setattr(looking, "_arguments_and_files", look)
    with running(python) as child, subprocess.Popen(["sleep", "600"]) as stranger:
        stuck |= {child.pid, stranger.pid}
        shown = f"process {child.pid}, which cannot be looked at"
        try:
            # On a busy machine others may seem to be kept, too.
            used = row_of(tiny, "1.0").in_use
            assert shown in used and not any(str(stranger.pid) in one for one in used)
            with pytest.raises(BuildError, match=f"in use by .*{shown}.*, so it stays"):
                environments.remove(tiny.data, "tiny_engine", "1.0")
        finally:
            gate.set()
            stranger.kill()
        monkeypatch.setattr(looking, "SEEN_WITHIN", 60.0)
        assert row_of(tiny, "1.0").in_use == [f"process {child.pid}"]


def test_where_this_machine_lets_nobody_look_nothing_is_removed(
    tiny: TinyEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    python, own = prepare(tiny).python, Path.read_bytes

    def read(path: Path) -> bytes:
        if path.name == "maps":
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return own(path)

    monkeypatch.setattr(Path, "read_bytes", read)
    with pytest.raises(BuildError, match="Too many open files"):
        environments.remove(tiny.data, "tiny_engine", "1.0")
    assert python.exists()


def test_an_instance_of_this_data_directory_is_named(tiny: TinyEngine) -> None:
    with running(prepare(tiny).python) as child:
        one = processes.process(child.pid)
        assert one is not None
        identity = Identity(
            pid=child.pid,
            start_time=one.start_time,
            boot_id=processes.boot_id(),
            socket="",
            log="",
        )
        records = tiny.data / "run" / "instances"
        records.mkdir(parents=True)
        (records / "chat-0-abc.json").write_bytes(msgspec.json.encode(identity))
        used = row_of(tiny, "1.0").in_use
        assert used == [f"instance chat-0-abc (process {child.pid})"]


def test_only_the_version_that_was_named_is_removed(tiny: TinyEngine) -> None:
    prepare(tiny)
    other = prepare(tiny, "2.0")
    (line,) = environments.remove(tiny.data, "tiny_engine", "1.0")
    assert line.startswith("tiny_engine 1.0 (cpu) is removed; it took ")
    assert other.python.exists()
    # The locks stay, so that the next installation is the same.
    assert [name for name in tiny.folder() if not name.startswith("2.0-cpu-")] == [
        "1.0-cpu.txt",
        "2.0-cpu.txt",
    ]


def test_what_is_not_there_is_told_with_what_is(tiny: TinyEngine) -> None:
    prepare(tiny)
    with pytest.raises(BuildError, match=r"no tiny_engine 7\.0\. Versions .* there: 1\.0 \(cpu\)"):
        environments.remove(tiny.data, "tiny_engine", "7.0")
    with pytest.raises(BuildError, match=r"no tiny_engine 1\.0 \(cuda\)"):
        environments.remove(tiny.data, "tiny_engine", "1.0", "cuda")
    with pytest.raises(BuildError, match="Those that can"):
        environments.remove(tiny.data, "nothing", "1.0")


def test_what_is_being_built_is_not_removed(tiny: TinyEngine) -> None:
    prepare(tiny)
    handle = open_lock(tiny.place())
    assert try_lock(handle)
    with pytest.raises(BuildError, match="being built or removed by another process"):
        environments.remove(tiny.data, "tiny_engine", "1.0")
    os.close(handle)
    environments.remove(tiny.data, "tiny_engine", "1.0")


def test_leftovers_go_with_a_removal(tiny: TinyEngine) -> None:
    (building_folder(tiny.place()) / "half").mkdir(parents=True)
    assert len(environments.remove(tiny.data, "tiny_engine", "1.0")) == 1
    assert tiny.folder() == []


def test_of_somebody_elses_environment_only_the_note_is_removed(
    tiny: TinyEngine, tmp_path: Path
) -> None:
    python = prepare(tiny).python
    uvloop.run(environments.register(tiny.data, "elsewhere", python, None, None))
    (row,) = [one for one in environments.listing(tiny.data) if one.engine == "elsewhere"]
    assert (row.state, row.default, row.python) == ("registered", True, str(python))
    with running(python) as child:
        assert row_of_engine(tiny, "elsewhere").in_use == [f"process {child.pid}"]
    (line,) = environments.remove(tiny.data, "elsewhere", "1.0")
    assert "no longer registered" in line
    assert python.exists()
    assert not [one for one in environments.listing(tiny.data) if one.engine == "elsewhere"]


def row_of_engine(tiny: TinyEngine, engine: str) -> Listed:
    (row,) = [one for one in environments.listing(tiny.data) if one.engine == engine]
    return row


def test_what_has_no_lock_yet_is_listed_among_those_that_can_be_installed(tmp_path: Path) -> None:
    rows = {(one.engine, one.variant): one.state for one in environments.listing(tmp_path)}
    assert rows["tensorrt_llm", "cuda"] == "not installed"
    assert "sglang" not in {engine for engine, _ in rows}, "nothing is known to install it"
