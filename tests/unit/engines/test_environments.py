"""Engines' environments: built by the real uv from a wheel made here, without any network."""

from __future__ import annotations

import asyncio
import hashlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import uvloop
from small_backend import alive, eventually

from gpustack_fast.engines import environments
from gpustack_fast.engines.environments import BuildError, environment_path, is_complete, prepare

LOCKS = sorted(environments.LOCKS.glob("*.txt"))


def make_wheel(folder: Path) -> str:
    """Makes the wheel `tiny` 1.0 in `folder`; returns its SHA-256."""
    wheel = folder / "tiny-1.0-py3-none-any.whl"
    metadata = "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tiny.py", "ANSWER = 42\n")
        archive.writestr("tiny-1.0.dist-info/METADATA", metadata)
        archive.writestr(
            "tiny-1.0.dist-info/WHEEL",
            "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        archive.writestr("tiny-1.0.dist-info/RECORD", "")
    return hashlib.sha256(wheel.read_bytes()).hexdigest()


@pytest.fixture
def lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A lock file that pins the wheel `tiny`, and a uv that finds it on this disk alone."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    digest = make_wheel(wheels)
    monkeypatch.setenv("UV_FIND_LINKS", str(wheels))
    monkeypatch.setenv("UV_NO_INDEX", "1")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))
    lock = tmp_path / "tiny_engine.txt"
    lock.write_text(f"tiny==1.0 --hash=sha256:{digest}\n")
    return lock


def test_an_environment_is_built_once_and_works(tmp_path: Path, lock: Path) -> None:
    lines: list[str] = []
    python = uvloop.run(prepare(tmp_path, "tiny_engine", lines.append, lock))
    assert subprocess.check_output([python, "-c", "import tiny; print(tiny.ANSWER)"]) == b"42\n"
    assert lines[0].startswith("Building the environment of tiny_engine")
    assert lines[-1].startswith("The environment of tiny_engine is ready")
    lines.clear()
    assert uvloop.run(prepare(tmp_path, "tiny_engine", lines.append, lock)) == python
    assert lines == []


def test_another_lock_is_another_environment(tmp_path: Path, lock: Path) -> None:
    before = environment_path(tmp_path, lock)
    lock.write_text(lock.read_text() + "# changed\n")
    assert environment_path(tmp_path, lock) != before


def test_an_environment_whose_python_has_gone_is_built_again(tmp_path: Path, lock: Path) -> None:
    python = uvloop.run(prepare(tmp_path, "tiny_engine", print, lock))
    python.unlink()
    assert not is_complete(environment_path(tmp_path, lock))
    assert uvloop.run(prepare(tmp_path, "tiny_engine", print, lock)).exists()


def test_a_leftover_of_an_interrupted_build_is_removed(tmp_path: Path, lock: Path) -> None:
    target = environment_path(tmp_path, lock)
    leftover = target.with_name(target.name + ".building")
    leftover.mkdir(parents=True)
    (leftover / "half").write_text("")
    uvloop.run(prepare(tmp_path, "tiny_engine", print, lock))
    assert not leftover.exists()
    assert not (target / "half").exists()


def test_two_builders_wait_for_each_other(tmp_path: Path, lock: Path) -> None:
    lines: list[str] = []

    async def both() -> None:
        await asyncio.gather(
            *(prepare(tmp_path, "tiny_engine", lines.append, lock) for _ in range(2))
        )

    uvloop.run(both())
    assert sum(line.startswith("Building") for line in lines) == 1
    assert sum(line.startswith("Another process is building") for line in lines) == 1


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda lock: lock.write_text(f"tiny==1.0 --hash=sha256:{'0' * 64}\n"),
            "not the one that was pinned",
        ),
        (
            lambda lock: lock.write_text(lock.read_text().replace("1.0", "2.0")),
            "could not be (built|fetched)",
        ),
    ],
    ids=["wrong hash", "missing"],
)
def test_a_failure_is_reported_in_sentences_and_leaves_nothing(
    tmp_path: Path, lock: Path, damage: object, message: str
) -> None:
    assert callable(damage)
    damage(lock)
    with pytest.raises(BuildError, match=message) as caught:
        uvloop.run(prepare(tmp_path, "tiny_engine", print, lock))
    assert "start again" in str(caught.value)
    assert [path.suffix for path in environment_path(tmp_path, lock).parent.iterdir()] == [".lock"]


@pytest.mark.parametrize(
    ("said", "meaning"),
    [
        ("error: No space left on device (os error 28)", "the disk is full"),
        ("error: Failed to fetch: `https://host/simple/tiny/`: dns error", "Check the network"),
        ("error: Hash mismatch for `tiny==1.0`", "not the one that was pinned"),
        ("error: Permission denied (os error 13)", "cannot be written"),
        ("error: something new", "could not install"),
    ],
)
def test_what_uv_says_is_explained(said: str, meaning: str) -> None:
    text = environments.explain("tiny_engine", Path("/data/engines/x"), said)
    assert meaning in text
    assert said in text


def test_an_interrupted_build_ends_uv_and_can_be_repeated(
    tmp_path: Path, lock: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = tmp_path / "slow-uv"
    told = str(tmp_path / "pid")
    slow.write_text(
        f"#!{sys.executable} -S\nimport os, time\nopen({told!r}, "
        "'w').write(str(os.getpid()))\ntime.sleep(600)\n"
    )
    slow.chmod(0o755)

    async def interrupted() -> int:
        with monkeypatch.context() as patch:
            patch.setattr(environments, "find_uv", lambda: str(slow))
            task = asyncio.ensure_future(prepare(tmp_path, "tiny_engine", print, lock))
            pid = tmp_path / "pid"
            await eventually(lambda: pid.exists() and pid.read_text() != "", "uv was started")
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            return int(pid.read_text())

    pid = uvloop.run(interrupted())
    assert not alive(pid)
    assert uvloop.run(prepare(tmp_path, "tiny_engine", print, lock)).exists()


KILLED_BUILDER = """
import asyncio, pathlib, sys
from gpustack_fast.engines import environments
environments.find_uv = lambda: sys.argv[1]
folder, lock = map(pathlib.Path, sys.argv[2:4])
asyncio.run(environments.prepare(folder, "tiny_engine", print, lock))
"""


def test_the_uv_of_a_killed_builder_keeps_the_next_one_waiting(tmp_path: Path, lock: Path) -> None:
    told, go = tmp_path / "pid", tmp_path / "go"
    slow = tmp_path / "slow-uv"
    slow.write_text(
        f"#!{sys.executable} -S\nimport os, time\nopen({str(told)!r}, "
        "'w').write(str(os.getpid()))\n"
        f"while not os.path.exists({str(go)!r}): time.sleep(0.01)\n"
    )
    slow.chmod(0o755)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", KILLED_BUILDER, str(slow), str(tmp_path), str(lock)]
    lines: list[str] = []

    async def next_builder(builder: subprocess.Popen[bytes]) -> Path:
        await eventually(lambda: told.exists() and told.read_text() != "", "uv was started")
        builder.kill()
        task = asyncio.ensure_future(prepare(tmp_path, "tiny_engine", lines.append, lock))
        await eventually(lambda: lines != [], "the next builder speaks")
        assert lines == [
            "Another process is building the environment of tiny_engine; waiting for it ..."
        ]
        go.touch()
        return await task

    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as builder:
        assert uvloop.run(next_builder(builder)).exists()


def test_a_missing_uv_is_reported_with_the_way_to_get_it(
    tmp_path: Path, lock: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> str:
        raise FileNotFoundError

    monkeypatch.setattr("uv.find_uv_bin", missing)
    with pytest.raises(BuildError, match="pip install uv"):
        uvloop.run(prepare(tmp_path, "tiny_engine", print, lock))


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_a_lock_pins_every_package_by_hash_and_names_no_host(lock: Path) -> None:
    text = lock.read_text()
    requirements = text.replace("\\\n", " ").splitlines()
    assert requirements
    for requirement in requirements:
        assert "==" in requirement
        assert "--hash=sha256:" in requirement
    assert "://" not in text
    assert "index-url" not in text


def test_there_are_locks() -> None:
    assert "llama_cpp.txt" in [path.name for path in LOCKS]
    assert os.access(environments.find_uv(), os.X_OK)


def test_a_uv_that_the_kernel_keeps_is_asked_twice_and_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(environments, "STOP_PATIENCE", 0.02)
    asked: list[str] = []

    class Kept:
        """A process that waits for a disk which does not respond."""

        def terminate(self) -> None:
            asked.append("TERM")

        def kill(self) -> None:
            asked.append("KILL")

        async def wait(self) -> None:
            await asyncio.Event().wait()

    asyncio.run(environments.end(Kept()))  # type: ignore[arg-type]
    assert asked == ["TERM", "KILL"]
