"""What an engine's log tells."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpustack_fast.backends import Sign
from gpustack_fast.engines.engine_log import LOG_END, LogFollower, cause_of, rotate

STAGES = (
    Sign(text="Loading weights", meaning="its weights are read"),
    Sign(text="torch.compile took", meaning="it is compiled"),
    Sign(text="startup complete", meaning="it has begun to listen"),
)
CAUSES = (
    Sign(text="CUDA out of memory", meaning="The GPU's memory ran out."),
    Sign(text="Address already in use", meaning="Its port is in use."),
)


def test_the_stage_follows_the_log_and_never_goes_back(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_text("hello\n")
    follower = LogFollower(log, STAGES)
    assert follower.stage() == ""
    seen = []
    for text in ("Loading wei", "ghts\n", "torch.compile took 3 s\n", "Loading weights again\n"):
        with log.open("a") as file:
            file.write(text)
        seen.append(follower.stage())
    assert seen == ["", STAGES[0].meaning, STAGES[1].meaning, STAGES[1].meaning]


def test_a_stage_is_found_behind_the_rotation_of_the_log(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_text("Loading weights\n" * 10)
    follower = LogFollower(log, STAGES)
    assert follower.stage() == STAGES[0].meaning
    rotate(log, 10)
    log.write_text("startup complete\n")
    assert follower.stage() == STAGES[2].meaning


def test_the_cause_that_came_first_is_the_cause(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_text("x\nAddress already in use\n\x1b[31mCUDA out of memory\n")
    assert cause_of(log, CAUSES) == CAUSES[1].meaning
    log.write_text("nothing that is known\n")
    assert cause_of(log, CAUSES) == ""


def test_of_a_long_log_its_end_is_read_alone(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_bytes(b"Address already in use\n" + b"\xff" * LOG_END + b"\nCUDA out of memory\n")
    assert cause_of(log, CAUSES) == CAUSES[0].meaning


def test_a_log_that_is_not_there_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        LogFollower(tmp_path / "none.log", STAGES).stage()
