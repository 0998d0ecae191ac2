"""Where a server cannot be replaced by another process."""

from __future__ import annotations

import pytest

from gpustack_fast.handover import predecessor
from gpustack_fast.handover.launch import Origin
from gpustack_fast.handover.predecessor import why_not_here


def test_process_1_of_a_container_cannot_be_replaced() -> None:
    assert "process 1 of its container" in why_not_here(1, 0, {})


@pytest.mark.parametrize("init", ["tini", "docker-init"])
def test_nor_can_the_program_of_a_small_init(init: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predecessor, "_name_of", lambda _: init)
    assert f"started by {init}" in why_not_here(7, 1, {})
    assert why_not_here(7, 5, {}) == "", "it is the child of somebody else, who may well wait"


def test_a_service_of_systemd_must_be_able_to_tell_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predecessor, "_name_of", lambda _: "systemd")
    assert "Type=notify" in why_not_here(7, 1, {"INVOCATION_ID": "a"})
    assert why_not_here(7, 1, {"INVOCATION_ID": "a", "NOTIFY_SOCKET": "/run/x"}) == ""
    assert why_not_here(7, 1, {}) == "", "whoever started it has left"


def test_no_key_of_the_environment_is_ever_shown() -> None:
    origin = Origin(arguments=["serve"], environment={"SECRET_KEY": "sk-1"})
    assert "sk-1" not in repr(origin) and "serve" in repr(origin)
