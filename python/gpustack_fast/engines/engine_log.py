"""An engine's log: how far its start has come, the cause of its end, and its rotation."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from gpustack_fast.backends import Sign
from gpustack_fast.errors import printable

__all__ = ["LOG_END", "LogFollower", "cause_of", "last_lines", "rotate"]

LOG_END = 256 * 1024
"""Bytes of a log's end in which a cause is looked for: tracebacks of several processes."""
SHOWN_LINES = 3
SHOWN_CHARACTERS = 300
"""Of each line."""


class LogFollower:
    """The stage of a start. Waits for the disk: to be called beside the event loop."""

    def __init__(self, log: Path, stages: Sequence[Sign]) -> None:
        self._log = log
        self._stages = stages
        self._offset = 0
        self._rest = b""
        self._reached = -1

    def stage(self) -> str:
        """The meaning of the last stage that the log shows; empty: none yet. Raises OSError."""
        with open(self._log, "rb", opener=_at_once) as file:
            size = file.seek(0, os.SEEK_END)
            if size < self._offset:  # it was rotated: copied and emptied
                self._offset, self._rest = 0, b""
            file.seek(max(self._offset, size - LOG_END))
            new = file.read(LOG_END)
            self._offset = file.tell()
        lines = (self._rest + new).split(b"\n")
        self._rest = lines[-1][-SHOWN_CHARACTERS:]
        text = "\n".join(line.decode(errors="replace") for line in lines)
        for number in range(len(self._stages) - 1, self._reached, -1):
            if self._stages[number].text in text:
                self._reached = number
                break
        return self._stages[self._reached].meaning if self._reached >= 0 else ""


def cause_of(log: Path, causes: Sequence[Sign]) -> str:
    """The meaning of the cause that a log names first; empty: none is known. Raises OSError.

    The first, since what fails by it writes more of the same kind behind it.
    """
    text = _end(log, LOG_END)
    found = [(text.find(sign.text), sign.meaning) for sign in causes if sign.text in text]
    return min(found)[1] if found else ""


def last_lines(log: Path) -> list[str]:
    """The last lines of a log, in printable characters. Raises OSError."""
    lines = _end(log, 4096).splitlines()
    shown = [printable(line.strip())[-SHOWN_CHARACTERS:] for line in lines if line.strip()]
    return shown[-SHOWN_LINES:]


def rotate(log: Path, limit: int) -> None:
    """Moves what a log of more than `limit` bytes holds to a file beside it. Raises OSError.

    Without room for the copy it is emptied all the same: a disk that is full stops all else.
    """
    try:
        if log.stat().st_size <= limit:
            return
    except FileNotFoundError:
        return
    copy = log.with_suffix(".log.1")
    try:
        # For its owner alone, as the log is.
        os.close(os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o600))
        shutil.copyfile(log, copy)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            copy.unlink(missing_ok=True)
            os.truncate(log, 0)
        raise
    os.truncate(log, 0)


def _end(log: Path, size: int) -> str:
    with open(log, "rb", opener=_at_once) as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - size))
        return file.read().decode(errors="replace")


def _at_once(path: str, flags: int) -> int:
    """Opens without waiting for who writes to a pipe that somebody has put there."""
    return os.open(path, flags | os.O_NONBLOCK)
