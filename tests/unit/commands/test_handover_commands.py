"""`restart` and `upgrade` at the command line, with a server that only notes what it is asked."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from command_line import run, server


def test_restart_says_who_serves_now_and_that_ctrl_c_does_not_reach_it(short_folder: Path) -> None:
    with server(short_folder / "d") as fake:
        done = run("restart", "--data-dir", str(short_folder / "d"))
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == (
            "The process 2 serves now (version 1, before 0). The process 1 finishes its requests "
            "and leaves. The new one does not belong to the terminal any more: Ctrl-C there does "
            "not reach it; `kill 2` ends it.\n"
        )
        assert fake.handed_over == [(None, 120.0)]


def test_upgrade_names_its_own_interpreter(short_folder: Path) -> None:
    with server(short_folder / "d") as fake:
        done = run("upgrade", "--timeout", "2m", "--json", "--data-dir", str(short_folder / "d"))
        assert json.loads(done.stdout)["pid"] == 2
        assert fake.handed_over == [(sys.executable, 120.0)]


@pytest.mark.parametrize("command", ["restart", "upgrade"])
def test_without_a_server_there_is_nothing_to_hand_over(tmp_path: Path, command: str) -> None:
    done = run(command, "--data-dir", str(tmp_path))
    assert done.returncode == 1
    assert "No server runs on the data directory" in done.stderr


def test_a_time_without_a_unit_is_a_mistake(tmp_path: Path) -> None:
    done = run("restart", "--timeout", "30", "--data-dir", str(tmp_path))
    assert done.returncode == 2 and "has no unit" in done.stderr
    done = run("upgrade", "--timeout", "0s", "--data-dir", str(tmp_path))
    assert done.returncode == 2 and "--timeout is 0" in done.stderr
