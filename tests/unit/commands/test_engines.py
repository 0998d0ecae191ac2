"""`gpustack-fast engines …`: real processes, with the real uv over wheels made here."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_line import ENVIRONMENT
from small_environments import TinyEngine, slow_uv

from raw_http import DEADLINE

COMMAND = """
import pathlib, sys
from gpustack_fast.engines.environments import recipes, uv_runs
recipes.LOCKS, recipes.DRIVER = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
if sys.argv[3]:
    uv_runs.find_uv = lambda: sys.argv[3]
from gpustack_fast.commands.parser import main
sys.exit(main(sys.argv[4:]))
"""


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TinyEngine:
    return TinyEngine(tmp_path, monkeypatch)


def start(tiny: TinyEngine, *arguments: str, uv: Path | None = None) -> subprocess.Popen[str]:
    """The command as a process, with the recipes of `tiny`."""
    own = [str(tiny.locks), str(tiny.driver), str(uv or "")]
    place = ["--data-dir", str(tiny.data)]
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, *own, "engines", *arguments, *place],
        env={**ENVIRONMENT, **tiny.variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(tiny: TinyEngine, *arguments: str) -> tuple[int, str, str]:
    with start(tiny, *arguments) as child:
        out, err = child.communicate()
    return child.returncode, out, err


def test_an_engine_is_installed_listed_and_removed(tiny: TinyEngine) -> None:
    tiny.data.rmdir()  # as before the first start of a server
    status, out, err = run(tiny, "install", "tiny-engine==2.0")
    assert status == 0, err
    assert tiny.data.stat().st_mode & 0o777 == 0o700
    python = Path(out.strip())
    assert subprocess.check_output([python.with_name("tiny")]) == b"2.0\n"
    assert "warning: No lock of tiny_engine 2.0 (cpu)" in err
    assert err.endswith("tiny_engine 2.0 (cpu) is there. Its interpreter:\n")

    status, out, err = run(tiny, "list")
    assert (status, err) == (0, "")
    lines = [line.split() for line in out.splitlines()]
    assert lines[0][:6] == ["ENGINE", "VERSION", "VARIANT", "SIZE", "STATE", "DEFAULT"]
    assert [line[:3] for line in lines[1:]] == [
        ["tiny_engine", "1.0", "cpu"],
        ["tiny_engine", "2.0", "cpu"],
    ]
    assert lines[1][-3:] == ["not", "installed", "yes"]
    assert lines[2][-1] == "installed"

    (_, second) = json.loads(run(tiny, "list", "--json")[1])
    assert (second["engine"], second["state"], second["in_use"]) == ("tiny_engine", "installed", [])
    assert second["python"] == str(python)

    status, out, err = run(tiny, "remove", "tiny_engine==2.0")
    assert (status, err) == (0, "")
    assert out.startswith("tiny_engine 2.0 (cpu) is removed; it took ")
    assert not python.exists()


def test_an_environment_that_exists_is_taken_note_of(tiny: TinyEngine) -> None:
    python = run(tiny, "install", "tiny_engine")[1].strip()
    status, out, _ = run(tiny, "install", "elsewhere", "--python", python)
    assert (status, out.strip()) == (0, python)
    (row,) = [
        row for row in json.loads(run(tiny, "list", "--json")[1]) if row["engine"] == "elsewhere"
    ]
    assert (row["version"], row["state"]) == ("1.0", "registered")


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["install", "nothing"], 1, "Those that can: elsewhere, tiny_engine."),
        (["install", "tiny_engine==latest"], 2, "is no version"),
        (["install", "tiny_engine=="], 2, "names no engine"),
        (["install", "tiny_engine", "--variant", "cuda"], 1, "  * There is no NVIDIA driver"),
        (["install", "elsewhere"], 1, "--python PATH"),
        (["install", "elsewhere", "--python", "/nowhere/python"], 1, "cannot be run"),
        (["remove", "tiny_engine"], 2, "Say which version"),
        (["remove", "tiny_engine==1.0"], 1, "there: none."),
    ],
)
def test_what_cannot_be_done_is_told(
    tiny: TinyEngine, arguments: list[str], status: int, message: str
) -> None:
    code, out, err = run(tiny, *arguments)
    assert (code, out) == (status, "")
    assert "error: " in err and message in err


def test_a_folder_with_other_things_is_left_alone(tiny: TinyEngine) -> None:
    (tiny.data / "thesis.txt").write_text("mine")
    code, _, err = run(tiny, "install", "tiny_engine")
    assert code == 2
    assert "is no data directory: it holds other things" in err
    assert [path.name for path in tiny.data.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_installation_ends_uv_and_goes_on_when_it_is_repeated(
    tiny: TinyEngine, tmp_path: Path, number: signal.Signals
) -> None:
    program, told, _ = slow_uv(tmp_path)
    with start(tiny, "install", "tiny_engine", uv=program) as child:
        until = time.monotonic() + DEADLINE
        while not (told.exists() and told.read_text()) and time.monotonic() < until:
            time.sleep(0.01)
        child.send_signal(number)
        out, err = child.communicate()
    assert (child.returncode, out) == (130, "")
    assert "Interrupted." in err and "what was downloaded is kept" in err
    assert not os.path.exists(f"/proc/{told.read_text()}")
    assert tiny.folder() == []
    assert run(tiny, "install", "tiny_engine")[0] == 0
