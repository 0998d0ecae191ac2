"""`gpustack-fast logs`, over files as engines leave them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gpustack_fast.commands.logs import _begin_of_last_lines, logs
from gpustack_fast.errors import UsageError


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    (tmp_path / "run" / "instances").mkdir(parents=True)
    return tmp_path


def write(data_dir: Path, model: str, instance: str, text: str, age: float, lives: bool) -> Path:
    """A log, last changed `age` seconds ago, and the record of an engine that lives."""
    log = data_dir / "logs" / model / f"{instance}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text(text)
    os.utime(log, (time.time() - age,) * 2)
    if lives:
        record(data_dir, instance).write_text("{}")
    return log


def record(data_dir: Path, instance: str) -> Path:
    return data_dir / "run" / "instances" / f"{instance}.json"


def show(data_dir: Path, name: str, previous: bool = False, tail: int | None = None) -> int:
    return logs(data_dir, name, previous=previous, tail=tail, follow=False)


def test_a_models_log_is_that_of_its_instance_that_runs(
    data_dir: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write(data_dir, "m", "m-old00", "old\n", 50, lives=False)
    write(data_dir, "m", "m-new00", "\x1b[1mnew\x1b[0m\n", 100, lives=True)
    write(data_dir, "other", "other-1", "other\n", 0, lives=True)
    assert show(data_dir, "m") == 0
    printed = capfd.readouterr()
    assert printed.out == "\x1b[1mnew\x1b[0m\n"
    assert "m-new00" in printed.err
    assert show(data_dir, "m", previous=True) == 0
    assert capfd.readouterr().out == "old\n"
    assert show(data_dir, "m-old00") == 0
    assert capfd.readouterr() == ("old\n", "")


def test_a_name_with_a_slash_is_found_as_well(
    data_dir: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write(data_dir, "Qwen-Qwen3-8B", "Qwen-Qwen3-8B-abcde", "x\n", 0, lives=False)
    assert show(data_dir, "Qwen/Qwen3-8B") == 0
    assert capfd.readouterr().out == "x\n"


def test_a_log_that_is_not_there_says_what_there_is(data_dir: Path) -> None:
    with pytest.raises(UsageError, match="models with logs: none"):
        show(data_dir, "m")
    write(data_dir, "m", "m-new00", "new\n", 0, lives=True)
    with pytest.raises(UsageError, match="models with logs: m"):
        show(data_dir, "n")
    with pytest.raises(UsageError, match="No instance of m has ended"):
        show(data_dir, "m", previous=True)


@pytest.mark.parametrize("text", [b"", b"a", b"a\n", b"a\nb\nc\n", b"\n\n\n", b"a\nb"])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 9])
@pytest.mark.parametrize("long", [False, True])
def test_the_last_lines_are_those_that_a_plain_split_gives(
    tmp_path: Path, text: bytes, count: int, long: bool
) -> None:
    text = b"x" * 100_000 + b"\n" + text + b"y" * 70_000 if long else text
    path = tmp_path / "log"
    path.write_bytes(text)
    with path.open("rb") as file:
        begin = _begin_of_last_lines(file.fileno(), count)
    lines = text.splitlines(keepends=True)
    assert text[begin:] == b"".join(lines[-count:] if count else [])


def test_following_goes_on_behind_a_rotation_until_the_engine_has_ended(data_dir: Path) -> None:
    log = write(data_dir, "m", "m-new00", "first\n", 0, lives=True)
    code = f"""
import sys
from pathlib import Path
from gpustack_fast.commands.logs import logs
sys.exit(logs(Path({str(data_dir)!r}), "m-new00", previous=False, tail=None, follow=True))
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as follower:
        assert follower.stdout is not None
        assert follower.stdout.readline() == b"first\n"
        with log.open("ab") as file:
            file.write(b"second\n")
        assert follower.stdout.readline() == b"second\n"
        os.truncate(log, 0)
        time.sleep(0.5)
        with log.open("ab") as file:
            file.write(b"3rd\n")
        assert follower.stdout.readline() == b"3rd\n"
        with log.open("ab") as file:
            file.write(b"last\n")
        record(data_dir, "m-new00").unlink()
        assert follower.stdout.read() == b"last\n"
        assert follower.wait(timeout=10) == 0
