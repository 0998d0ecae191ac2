"""What the service manager is told."""

from __future__ import annotations

import logging
import secrets
import socket
from pathlib import Path

import pytest

from gpustack_fast import systemd


@pytest.mark.parametrize("abstract", [False, True])
def test_the_manager_is_told_and_engines_do_not_inherit_its_address(
    short_folder: Path, abstract: bool
) -> None:
    name = f"@{secrets.token_hex(8)}" if abstract else str(short_folder / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + name[1:] if abstract else name)
        environment = {"NOTIFY_SOCKET": name, "PATH": "/bin"}
        notifier = systemd.Notifier(environment)
        assert environment == {"PATH": "/bin"}
        for state in (systemd.READY, systemd.STOPPING):
            notifier.tell(state)
            assert manager.recv(100) == state.encode()


def test_without_a_manager_nothing_is_told() -> None:
    systemd.Notifier({}).tell(systemd.READY)


def test_a_manager_that_does_not_listen_is_no_reason_to_stop(
    short_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        systemd.Notifier({"NOTIFY_SOCKET": str(short_folder / "none")}).tell(systemd.READY)
    assert "was not told `READY=1`: No such file or directory." in caplog.text


def test_another_process_can_be_made_the_service() -> None:
    assert systemd.main_process(17) == "MAINPID=17"
