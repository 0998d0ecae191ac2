"""`gpustack-fast restart` and `upgrade`: a running server is replaced by another process."""

from __future__ import annotations

import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from gpustack_fast.commands.output import say
from gpustack_fast.control.client import ControlClient, NoServer
from gpustack_fast.control.documents import HandedOver
from gpustack_fast.errors import ControlError
from gpustack_fast.storage.data_directory import DataDirectory

__all__ = ["restart", "upgrade"]


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
    try:
        client = ControlClient(DataDirectory(data_dir).control_socket)
    except NoServer as error:
        raise ControlError(
            f"No server runs on the data directory {data_dir}. Start one with `gpustack-fast "
            "serve`, or name the directory of the one that runs with --data-dir or --config."
        ) from error
    with client, _told_of_interruption():
        done = client.hand_over(python, timeout)
    say(msgspec.json.format(msgspec.json.encode(done)).decode() if as_json else _told(done))
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


class Interrupted(ControlError):
    """A person has ended the command while it waited."""

    exit_status = 128 + signal.SIGINT


@contextmanager
def _told_of_interruption() -> Iterator[None]:
    """Inside, Ctrl-C raises Interrupted: by default it would leave without a word."""
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(
            "Interrupted. What was begun goes on: the server's log, and `gpustack-fast status`, "
            "say which process serves."
        ) from None
    finally:
        signal.signal(signal.SIGINT, before)
