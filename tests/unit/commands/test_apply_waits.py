"""What `gpustack-fast apply` waits for, by what a server says from look to look."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest
from msgspec.structs import replace

from gpustack_fast.commands import apply as command
from gpustack_fast.commands.apply import _wait, apply
from gpustack_fast.control.client import ControlClient
from gpustack_fast.control.documents import (
    ApplyReport,
    InstanceStatus,
    ModelPlan,
    ModelStatus,
    ServerStatus,
)
from gpustack_fast.errors import ControlError, UsageError

PLAN = ModelPlan(name="m", kind="edited", replicas_before=1, replicas=1, generation=2)
REPORT = ApplyReport(file="/c.toml", applied=True, changes=["the model `m`"], models=[PLAN])
SERVER = ServerStatus(
    version="0", pid=1, since=0.0, phase="serving", addresses=[], connections=0, in_flight=0
)
MODEL = ModelStatus(
    name="m", backend="vllm", replicas=1, ready_replicas=1, generation=2, observed_generation=2
)


def one(name: str, state: str, **more: object) -> InstanceStatus:
    given = InstanceStatus(name=name, model="m", state=state, since=0.0, generation=2)
    return replace(given, **more)


class Scripted:
    """A server that says one after the other, and the last for ever."""

    def __init__(self, *models: ModelStatus) -> None:
        self._models = list(models)
        self.asked = 0

    def status(self) -> ServerStatus:
        self.asked += 1
        model = self._models[0] if len(self._models) == 1 else self._models.pop(0)
        return replace(SERVER, models=[model])


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "_POLL", 0.0)


def wait(*models: ModelStatus, timeout: float | None = 5.0) -> int:
    """How often it has looked."""
    server = Scripted(*models)
    _wait(cast(ControlClient, server), REPORT, timeout, quiet=False)
    return server.asked


def test_it_waits_until_all_is_carried_out_and_the_old_ones_are_gone(
    capsys: pytest.CaptureFixture[str],
) -> None:
    old = one("m-old", "running", outdated=True, generation=1)
    under_way = replace(MODEL, observed_generation=1, settled=False)
    looks = wait(
        replace(under_way, instances=[old, one("m-new", "starting")]),
        replace(under_way, instances=[one("m-new", "running")], retired=["m-old"]),
        replace(under_way, state_message="Instances that are retired: 1.", retired=["m-old"]),
        replace(MODEL, instances=[one("m-new", "running")]),
    )
    assert looks == 4
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "m-new (generation 2) is starting."
    assert "m: Instances that are retired: 1." in lines


@pytest.mark.parametrize(
    "now",
    [
        replace(MODEL, state_message="It sleeps. It wakes with the next request."),
        replace(MODEL, instances=[one("m-1", "running"), one("m-2", "running")]),
    ],
    ids=["a model that sleeps", "more replicas than the least, by what they have to do"],
)
def test_it_does_not_wait_for_engines_that_nobody_wants_now(now: ModelStatus) -> None:
    assert wait(now) == 1


def test_it_ends_where_another_change_has_taken_its_place() -> None:
    for now in (
        replace(MODEL, generation=3),
        replace(MODEL, replicas=2),
        replace(MODEL, name="another"),
    ):
        with pytest.raises(ControlError, match="was changed again meanwhile, by another `apply`"):
            wait(replace(MODEL, settled=False), now)


def test_it_ends_where_an_engine_has_failed_for_good() -> None:
    failed = replace(MODEL, settled=False, given_up=True, instances=[one("m-new", "error")])
    with pytest.raises(ControlError, match=r"An engine of m has failed.*take the edit back"):
        wait(failed)


def test_an_engine_that_failed_is_not_said_to_be_retired(
    capsys: pytest.CaptureFixture[str],
) -> None:
    failing = one("m-1", "error", state_message="It lacks a file.")
    wait(replace(MODEL, settled=False, instances=[failing]), MODEL)
    assert capsys.readouterr().out.splitlines() == [
        "m-1 (generation 2) is error. It lacks a file.",
        "m-1, which has failed, is removed.",
    ]


def test_it_says_who_is_missing_when_its_time_is_over() -> None:
    with pytest.raises(ControlError, match="After 0 s not all is done: m"):
        wait(replace(MODEL, settled=False), timeout=0.0)


@pytest.mark.parametrize("file", ["/dev/stdin", "/proc/self/fd/0", "/dev/null"])
def test_what_only_the_command_can_read_is_refused(tmp_path: Path, file: str) -> None:
    with pytest.raises(UsageError, match="is no plain file"):
        apply(tmp_path, Path(file), dry_run=True, waits=False, timeout=None, as_json=False)
