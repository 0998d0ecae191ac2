"""Engines' environments: built by the real uv from a wheel made here, without any network."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import http.server
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import uvloop
from small_backend import alive, eventually
from small_environments import TinyEngine, failing_uv, make_wheel, slow_uv

from gpustack_fast.engines import environments
from gpustack_fast.engines.environments import BuildError, Environment, places, uv_runs
from gpustack_fast.engines.environments.places import building_folder, interpreter, is_complete
from gpustack_fast.faults import is_ours


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TinyEngine:
    return TinyEngine(tmp_path, monkeypatch)


def prepare(tiny: TinyEngine, version: str | None = None, variant: str = "cpu") -> Environment:
    return uvloop.run(
        environments.prepare(tiny.data, "tiny_engine", version, tiny.lines.append, variant)
    )


def test_an_environment_is_built_once_and_works(tiny: TinyEngine) -> None:
    found = prepare(tiny)
    assert (found.version, found.variant) == ("1.0", "cpu")
    assert subprocess.check_output([found.python, "-c", "import tiny; tiny.main()"]) == b"1.0\n"
    assert tiny.lines[0].startswith("Building the environment of tiny_engine 1.0 (cpu)")
    assert tiny.lines[-1].startswith("tiny_engine 1.0 (cpu) is ready")
    tiny.lines.clear()
    assert prepare(tiny) == found
    assert tiny.lines == []


def test_its_programs_run_though_it_was_built_in_another_place(tiny: TinyEngine) -> None:
    python = prepare(tiny).python
    assert subprocess.check_output([python.with_name("tiny")]) == b"1.0\n"


def test_the_files_of_its_recipe_are_among_its_packages(tiny: TinyEngine) -> None:
    ask = "import importlib.metadata as m; print(m.version('stub'))"
    assert subprocess.check_output([prepare(tiny).python, "-c", ask]) == b"1.0+cpu\n"


def test_the_default_interpreter_is_that_of_the_packages_own_version(tiny: TinyEngine) -> None:
    report = tiny.lines.append
    python = uvloop.run(environments.default_interpreter(tiny.data, "tiny_engine", report))
    assert python == prepare(tiny).python


def test_a_wait_for_a_lock_that_is_given_up_keeps_none(
    tiny: TinyEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in the moment in which a slow disk opens the file of one."""
    own, asked, gate, opened = places.open_lock, threading.Event(), threading.Event(), list[int]()

    def slow(target: Path) -> int:
        asked.set()
        gate.wait()
        opened.append(own(target))
        return opened[0]

    monkeypatch.setattr(places, "open_lock", slow)

    async def scenario() -> None:
        work = environments.prepare(tiny.data, "tiny_engine", None, tiny.lines.append, "cpu")
        preparing = asyncio.ensure_future(work)
        await eventually(asked.is_set, "the lock is opened")
        preparing.cancel()
        await asyncio.wait({preparing})
        gate.set()
        lock = f"{tiny.place()}.lock"
        await eventually(lambda: bool(opened) and lock not in open_files(), "it is closed")

    uvloop.run(scenario())


def open_files() -> set[str]:
    found = set()
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            found.add(os.readlink(f"/proc/self/fd/{descriptor}"))
    return found


def test_another_lock_is_another_environment(tiny: TinyEngine) -> None:
    before = tiny.place()
    tiny.lock.write_text(tiny.lock.read_text() + "# changed\n")
    assert tiny.place() != before


def test_an_environment_whose_python_has_gone_is_built_again(tiny: TinyEngine) -> None:
    python = prepare(tiny).python
    python.unlink()
    assert not is_complete(tiny.place())
    assert prepare(tiny).python.exists()


def test_a_leftover_of_an_interrupted_build_is_removed(tiny: TinyEngine) -> None:
    leftover = building_folder(tiny.place())
    leftover.mkdir(parents=True)
    (leftover / "half").write_text("")
    prepare(tiny)
    assert not leftover.exists()
    assert not (tiny.place() / "half").exists()


def test_two_builders_wait_for_each_other(tiny: TinyEngine) -> None:
    async def both() -> None:
        await asyncio.gather(
            *(
                environments.prepare(tiny.data, "tiny_engine", None, tiny.lines.append, "cpu")
                for _ in range(2)
            )
        )

    uvloop.run(both())
    assert sum(line.startswith("Building") for line in tiny.lines) == 1
    assert sum(line.startswith("Another process is building") for line in tiny.lines) == 1


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda lock: lock.write_text(f"tiny==1.0 --hash=sha256:{'0' * 64}\n"),
            "not the one that was pinned",
        ),
        (
            lambda lock: lock.write_text(lock.read_text().replace("1.0", "3.0")),
            "Name another one|could not be fetched",
        ),
    ],
    ids=["wrong hash", "missing"],
)
def test_a_failure_is_reported_in_sentences_and_leaves_nothing(
    tiny: TinyEngine, damage: Callable[[Path], object], message: str
) -> None:
    damage(tiny.lock)
    with pytest.raises(BuildError, match=message) as caught:
        prepare(tiny)
    assert "then try again" in str(caught.value)
    assert "  uv: " in str(caught.value)
    assert tiny.folder() == []


@pytest.mark.parametrize(
    ("said", "meaning"),
    [
        ("error: No space left on device (os error 28)", "Make room (about 5 GB are needed"),
        ("error: Failed to fetch: `https://host/simple/tiny/`: dns error", "Check the network"),
        ("error: Hash mismatch for `tiny==1.0`", "not the one that was pinned"),
        ("error: Permission denied (os error 13)", "cannot be written"),
        ("error: No solution found when resolving dependencies", "there is no such version"),
        ("error: something new", "Look at what it says"),
    ],
)
def test_what_uv_says_is_explained(
    tiny: TinyEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, meaning: str
) -> None:
    tiny.recipe.write_text(tiny.recipe.read_text().replace("size = 5000", "size = 5_000_000_000"))
    monkeypatch.setattr(uv_runs, "find_uv", lambda: str(failing_uv(tmp_path, said)))
    with pytest.raises(BuildError) as caught:
        prepare(tiny)
    assert meaning.replace("5 GB", "5.0 GB") in str(caught.value)
    assert said in str(caught.value)
    assert tiny.folder() == []


def test_a_fault_of_this_machine_is_known_as_one(
    tiny: TinyEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: Path) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(places, "open_lock", full)
    with pytest.raises(BuildError, match="free some space") as caught:
        prepare(tiny)
    assert is_ours(caught.value)


def test_progress_says_what_is_downloaded_and_how_much_was_written(
    tiny: TinyEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    says = "Resolved 2 packages in 1ms\nDownloading other (2.0MiB)\nDownloading torch (1.0GiB)\n"
    says += " Downloaded other\n"
    program, _, go = slow_uv(tmp_path, says=says)
    monkeypatch.setattr(uv_runs, "find_uv", lambda: str(program))
    monkeypatch.setattr(uv_runs, "PROGRESS_EVERY", 0.05)

    def report(line: str) -> None:
        tiny.lines.append(line)
        if "torch" in line:
            go.touch()

    with pytest.raises(BuildError):
        uvloop.run(environments.prepare(tiny.data, "tiny_engine", None, report, "cpu"))
    said = [line for line in tiny.lines if "torch" in line]
    assert "Still building the environment of tiny_engine 1.0 (cpu) (" in said[0]
    assert "Resolved 2 packages in 1ms; downloading torch 1.0GiB)" in said[0]
    assert " written; " in said[0]


def test_an_interrupted_build_ends_uv_and_can_be_repeated(
    tiny: TinyEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, told, _ = slow_uv(tmp_path)

    async def interrupted() -> int:
        with monkeypatch.context() as patch:
            patch.setattr(uv_runs, "find_uv", lambda: str(program))
            task = asyncio.ensure_future(
                environments.prepare(tiny.data, "tiny_engine", None, print, "cpu")
            )
            await eventually(lambda: told.exists() and told.read_text() != "", "uv was started")
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            return int(told.read_text())

    pid = uvloop.run(interrupted())
    assert not alive(pid)
    assert tiny.folder() == []
    assert prepare(tiny).python.exists()


def test_a_killed_uv_is_told_and_leaves_nothing(
    tiny: TinyEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, told, _ = slow_uv(tmp_path)

    async def killed() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(uv_runs, "find_uv", lambda: str(program))
            task = asyncio.ensure_future(
                environments.prepare(tiny.data, "tiny_engine", None, print, "cpu")
            )
            await eventually(lambda: told.exists() and told.read_text() != "", "uv was started")
            os.kill(int(told.read_text()), signal.SIGKILL)
            with pytest.raises(BuildError, match="ended by the signal SIGKILL"):
                await task

    uvloop.run(killed())
    assert tiny.folder() == []
    assert prepare(tiny).python.exists()


KILLED_BUILDER = """
import asyncio, pathlib, sys
from gpustack_fast.engines import environments
from gpustack_fast.engines.environments import recipes, uv_runs
uv_runs.find_uv = lambda: sys.argv[1]
recipes.LOCKS = pathlib.Path(sys.argv[3])
asyncio.run(environments.prepare(pathlib.Path(sys.argv[2]), "tiny_engine", None, print, "cpu"))
"""


def test_the_uv_of_a_killed_builder_keeps_the_next_one_waiting(
    tiny: TinyEngine, tmp_path: Path
) -> None:
    program, told, go = slow_uv(tmp_path)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", KILLED_BUILDER, *map(str, (program, tiny.data, tiny.locks))]

    async def next_builder(builder: subprocess.Popen[bytes]) -> Environment:
        await eventually(lambda: told.exists() and told.read_text() != "", "uv was started")
        builder.kill()
        task = asyncio.ensure_future(
            environments.prepare(tiny.data, "tiny_engine", None, tiny.lines.append, "cpu")
        )
        await eventually(lambda: tiny.lines != [], "the next builder speaks")
        assert tiny.lines == [
            "Another process is building or removing tiny_engine 1.0 (cpu); waiting for it ..."
        ]
        go.touch()
        return await task

    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as builder:
        assert uvloop.run(next_builder(builder)).python == interpreter(tiny.place())


def test_a_disk_that_fills_up_cuts_no_lock_that_is_kept(
    tiny: TinyEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(tiny)
    kept = tiny.data / "engines" / "tiny_engine" / "1.0-cpu.txt"
    before = kept.read_bytes()
    tiny.lock.write_text(tiny.lock.read_text() + "# changed\n")
    write = Path.write_bytes

    def cut(path: Path, content: bytes) -> int:
        if path.name.startswith(kept.name):
            write(path, content[:5])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", cut)
    with pytest.raises(BuildError, match="free some space"):
        prepare(tiny)
    assert kept.read_bytes() == before


def test_a_missing_uv_is_reported_with_the_way_to_get_it(
    tiny: TinyEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> str:
        raise FileNotFoundError

    monkeypatch.setattr("uv.find_uv_bin", missing)
    with pytest.raises(BuildError, match="pip install uv"):
        prepare(tiny)


def test_a_uv_that_the_kernel_keeps_is_asked_twice_and_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(uv_runs, "STOP_PATIENCE", 0.02)
    asked: list[str] = []

    class Kept:
        """A process that waits for a disk which does not respond."""

        def terminate(self) -> None:
            asked.append("TERM")

        def kill(self) -> None:
            asked.append("KILL")

        async def wait(self) -> None:
            await asyncio.Event().wait()

    asyncio.run(uv_runs.end(Kept()))  # type: ignore[arg-type]
    assert asked == ["TERM", "KILL"]


class Index(http.server.ThreadingHTTPServer):
    """A package index on loopback that holds back one wheel until it may go."""

    def __init__(self, wheels: Path, held: str) -> None:
        super().__init__(("127.0.0.1", 0), Page)
        self.wheels = wheels
        self.held = held
        self.go = threading.Event()
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/simple"


class Page(http.server.BaseHTTPRequestHandler):
    """A page of a project (PEP 503), or a wheel."""

    server: Index

    def do_GET(self) -> None:
        name = self.path.rstrip("/").rpartition("/")[2]
        self.server.asked.append(name)
        wheel = self.server.wheels / name
        if wheel.suffix == ".whl" and name.startswith(self.server.held):
            self.server.go.wait()
        links = "".join(
            f'<a href="/files/{one.name}">{one.name}</a>'
            for one in self.server.wheels.glob(f"{name}-*.whl")
        )
        body = wheel.read_bytes() if wheel.suffix == ".whl" else links.encode()
        kind = "application/zip" if wheel.suffix == ".whl" else "text/html"
        with contextlib.suppress(OSError):
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


def test_what_a_killed_uv_had_downloaded_is_kept(
    tiny: TinyEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = make_wheel(tiny.wheels, "1.0", "slow")
    tiny.lock.write_text(f"{tiny.lock.read_text()}slow==1.0 --hash=sha256:{digest}\n")
    index = Index(tiny.wheels, "slow")
    threading.Thread(target=index.serve_forever, daemon=True).start()
    for name in ("UV_NO_INDEX", "UV_FIND_LINKS"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("UV_DEFAULT_INDEX", index.url)
    cache = tmp_path / "cache"

    async def killed() -> None:
        task = asyncio.ensure_future(
            environments.prepare(tiny.data, "tiny_engine", None, print, "cpu")
        )
        # The file that tells uv where it has unpacked the package is written last.
        await eventually(lambda: any(cache.glob("wheels*/**/tiny/*.http")), "a package has come")
        (pid,) = [one for one in children() if b"--require-hashes" in arguments(one)]
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(BuildError, match="SIGKILL"):
            await task

    uvloop.run(killed())
    assert tiny.folder() == []
    index.asked.clear()
    index.go.set()
    prepare(tiny)
    assert "slow-1.0-py3-none-any.whl" in index.asked
    assert "tiny-1.0-py3-none-any.whl" not in index.asked
    index.shutdown()
    index.server_close()


def children() -> list[int]:
    """Our children now."""
    return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]


def arguments(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()
