"""`gpustack-fast logs`, over files as engines leave them."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gpustack_fast.commands.logs import LogError, _begin_of_last_lines, logs
from gpustack_fast.engines.instance import new_id
from gpustack_fast.errors import UsageError
from gpustack_fast.storage.engine_paths import LOGS_PER_MODEL, EnginePaths, find_logs


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


@pytest.mark.parametrize(
    "names",
    [
        ["Qwen/Qwen3-30B-A3B-Instruct-2507-FP8", "Qwen/Qwen3-30B-A3B-Instruct-2507-AWQ"],
        ["a/b", "a:b", "a-b", "a.b", "a_b", "a"],
        ["a" * 200, "a" * 199, "/".join("a" * 100)],
    ],
    ids=["long", "similar", "longest"],
)
def test_each_model_has_logs_of_its_own(
    short_folder: Path, capfd: pytest.CaptureFixture[str], names: list[str]
) -> None:
    paths = EnginePaths(short_folder)
    for name in names:
        for _ in range(LOGS_PER_MODEL + 2):
            log = paths.log(name, new_id(name))
            paths.make_room_for(log)
            log.write_text(f"of {name}\n")
    for name in names:
        assert show(short_folder, name) == 0
        assert capfd.readouterr().out == f"of {name}\n"
    assert len(find_logs(short_folder)) == LOGS_PER_MODEL * len(names)
    with pytest.raises(UsageError, match=f"models with logs: .*{names[0]}"):
        show(short_folder, f"{names[0]}-typo")


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


def command(data_dir: Path, *arguments: str) -> list[str]:
    place = ["--data-dir", str(data_dir)]
    return [sys.executable, "-m", "gpustack_fast", "logs", *arguments, *place]


def test_following_may_begin_with_the_last_lines_and_ctrl_c_ends_it(data_dir: Path) -> None:
    log = write(data_dir, "m", "m-new00", "first\nsecond\nthird\n", 0, lives=True)
    follow = command(data_dir, "m-new00", "-f", "--tail", "1")
    with subprocess.Popen(follow, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as follower:
        assert follower.stdout is not None and follower.stderr is not None
        assert follower.stdout.readline() == b"third\n"
        with log.open("ab") as file:
            file.write(b"4th\n")
        assert follower.stdout.readline() == b"4th\n"
        follower.send_signal(signal.SIGINT)
        assert follower.wait(timeout=60) in (-signal.SIGINT, 128 + signal.SIGINT)
        assert follower.stderr.read() == b""


def test_following_the_log_of_an_engine_that_has_ended_ends_at_once(data_dir: Path) -> None:
    write(data_dir, "m", "m-old00", "only\n", 0, lives=False)
    shown = subprocess.run(command(data_dir, "m", "--follow"), capture_output=True, check=False)
    assert (shown.returncode, shown.stdout) == (0, b"only\n")


def test_a_reader_that_goes_is_no_error(data_dir: Path) -> None:
    write(data_dir, "m", "m-new00", "line\n" * 100_000, 0, lives=True)
    shown = subprocess.Popen(
        command(data_dir, "m-new00", "-f"), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert shown.stdout is not None and shown.stderr is not None
    assert shown.stdout.readline() == b"line\n"
    shown.stdout.close()
    said = shown.stderr.read()
    shown.stderr.close()
    assert b"Traceback" not in said and shown.wait(timeout=60) in (0, 141, -signal.SIGPIPE)


def test_an_output_that_takes_nothing_is_told(data_dir: Path) -> None:
    write(data_dir, "m", "m-new00", "line\n", 0, lives=True)
    with open("/dev/full", "wb") as full:
        shown = subprocess.run(
            command(data_dir, "m-new00"), stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert shown.returncode not in (0, 2)
    assert b"No space left on device" in shown.stderr and b"Traceback" not in shown.stderr


def test_a_log_that_cannot_be_read_is_told(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = write(data_dir, "m", "m-new00", "line\n", 0, lives=False)

    def refuse(*_: object) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(log))

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(LogError, match=r"cannot be read: Permission denied\. Check its rights"):
        show(data_dir, "m-new00")


def test_logs_that_cannot_be_looked_at_are_not_taken_for_none(data_dir: Path) -> None:
    (data_dir / "logs").symlink_to("logs")
    with pytest.raises(LogError, match=r"cannot be looked at: Too many levels .* Run the command"):
        show(data_dir, "m")


def test_of_two_that_have_ended_the_one_that_wrote_last_is_the_previous(
    data_dir: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write(data_dir, "m", "m-aaaaa", "older\n", 100, lives=False)
    write(data_dir, "m", "m-bbbbb", "newer\n", 50, lives=False)
    assert show(data_dir, "m", previous=True) == 0
    assert capfd.readouterr().out == "newer\n"
    assert show(data_dir, "m-aaaaa", previous=True) == 0
    assert capfd.readouterr().out == "older\n"


def test_an_engine_that_is_about_to_be_one_lives(data_dir: Path) -> None:
    write(data_dir, "m", "m-new00", "new\n", 0, lives=False)
    record(data_dir, "m-new00").with_name("m-new00.json.new").write_text("")
    with pytest.raises(UsageError, match="No instance of m has ended"):
        show(data_dir, "m", previous=True)
