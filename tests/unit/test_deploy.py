"""The files of `deploy/` and the program say the same."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gpustack_fast.app import DRAINED_WITHIN
from gpustack_fast.backends import BACKENDS
from gpustack_fast.config import Config, ServerConfig
from gpustack_fast.config.settings import load_config
from gpustack_fast.config.warnings import unknown_variables
from gpustack_fast.errors import ConfigError
from gpustack_fast.handover.predecessor import why_not_here

DEPLOY = Path(__file__).parents[2] / "deploy"
UNIT = (DEPLOY / "gpustack-fast.service").read_text()
CONTAINER = (DEPLOY / "Containerfile").read_text()
STOPPED_WITHIN = (
    ServerConfig().drain_timeout
    + DRAINED_WITHIN
    + max(backend.stop_grace for backend in BACKENDS.values())
)
"""Seconds from the first signal to the end of the last engine, at most."""


def directives(name: str) -> list[str]:
    """The values of a directive of the unit that is no comment."""
    return re.findall(rf"^{name}=(.*)$", UNIT, re.MULTILINE)


@pytest.mark.parametrize("text", [UNIT, CONTAINER, (DEPLOY / "README.md").read_text()])
def test_every_variable_that_is_named_is_one_of_ours(text: str) -> None:
    named = set(re.findall(r"GPUSTACK_FAST_\w+", text))
    assert named and unknown_variables(dict.fromkeys(named, ""), Config.default()) == []


def test_what_the_files_set_is_right() -> None:
    for text, host in ((UNIT, "127.0.0.1"), (CONTAINER, "0.0.0.0")):
        written = dict(re.findall(r"(GPUSTACK_FAST_(?:HOST|DATA_DIR))=(\S+)", text))
        server = load_config(None, {}, written).server
        assert (str(server.data_dir), server.host) == ("/var/lib/gpustack-fast", host)


def test_there_is_time_to_end_engines_politely() -> None:
    assert directives("KillMode") == ["process"], "engines hear it from the server"
    assert directives("KillSignal") == ["SIGTERM"] and "\nSTOPSIGNAL SIGTERM\n" in CONTAINER
    [timeout] = directives("TimeoutStopSec")
    assert float(timeout) > STOPPED_WITHIN
    told = re.findall(r"--stop-timeout (\d+)", CONTAINER + (DEPLOY / "README.md").read_text())
    assert told and all(float(seconds) > STOPPED_WITHIN for seconds in told)


def test_another_process_can_become_the_service() -> None:
    assert (directives("Type"), directives("NotifyAccess")) == (["notify"], ["all"])
    environment = {"INVOCATION_ID": "x", "NOTIFY_SOCKET": "/run/systemd/notify"}
    assert why_not_here(7, 1, environment) == ""


def test_a_mistake_in_the_configuration_is_not_tried_again() -> None:
    assert directives("RestartPreventExitStatus") == [str(ConfigError.exit_status)]


def test_the_sections_that_are_named_say_what_they_are_named_for() -> None:
    readme = (DEPLOY.parent / "README.md").read_text()
    sections = dict(re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", readme, re.MULTILINE | re.DOTALL))
    lines = (DEPLOY / "README.md").read_text().split("\n* ")
    named = [(line, name) for line in lines for name in re.findall(r'under "([^"]+)"', line)]
    assert [name for _, name in named] == ["Reload", "Restart and upgrade"]
    for line, name in named:
        words = set(re.findall(r"SIG\w+|restart|upgrade", line))
        assert words and all(word in sections[name] for word in words), (name, words)


def test_nothing_of_the_unit_hides_the_gpus() -> None:
    for name in ("PrivateDevices", "DevicePolicy", "DeviceAllow", "ProtectClock", "PrivateUsers"):
        assert directives(name) == []
