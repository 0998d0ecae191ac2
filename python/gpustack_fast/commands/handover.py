"""`gpustack-fast restart` and `upgrade`: a running server is replaced by another process."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from gpustack_fast.commands.interruption import told_of_interruption
from gpustack_fast.commands.output import in_json, say
from gpustack_fast.commands.running_server import running_server
from gpustack_fast.control.documents import HandedOver

__all__ = ["restart", "upgrade"]

INTERRUPTED = (
    "What was begun goes on: the server's log, and `gpustack-fast status`, say which process "
    "serves."
)


def restart(data_dir: Path, timeout: float, *, as_json: bool) -> int:
    """Replaces the server by a new process of its own interpreter. `timeout`: seconds.

    Raises ControlError with the reason for which the server goes on as it was.
    """
    return _hand_over(data_dir, None, timeout, as_json=as_json)


def upgrade(data_dir: Path, timeout: float, *, as_json: bool) -> int:
    """The same with the interpreter, and so the version, of this command."""
    python = sys.executable or shutil.which("python3")
    return _hand_over(data_dir, python, timeout, as_json=as_json)


def _hand_over(data_dir: Path, python: str | None, timeout: float, *, as_json: bool) -> int:
    with running_server(data_dir) as client, told_of_interruption(INTERRUPTED):
        done = client.hand_over(python, timeout)
    say(in_json(done) if as_json else _told(done))
    return 0


def _told(done: HandedOver) -> str:
    version = f"version {done.version}"
    if done.version != done.former_version:
        version += f", before {done.former_version}"
    told = (
        f"The process {done.pid} serves now ({version}). The process {done.former_pid} finishes "
        "its requests and leaves."
    )
    if done.at_terminal:
        told += (
            f" The new one does not belong to the terminal any more: Ctrl-C there does not reach "
            f"it; `kill {done.pid}` ends it."
        )
    return told
