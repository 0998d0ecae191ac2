"""`gpustack-fast logs`: what an engine writes, from the files in the data directory.

No server is asked: the log of an engine that has ended, or of a server that has, is the one that is
looked for. What is printed are the engine's own bytes, progress bars among them.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from gpustack_fast.commands.output import OutputFailed, ReaderGone, complain
from gpustack_fast.errors import GpustackFastError, UsageError, printable
from gpustack_fast.storage.data_directory import DataDirectory
from gpustack_fast.storage.engine_paths import EngineLog, find_logs

__all__ = ["logs"]

_LOOK_EVERY = 0.2
"""Seconds between two looks at a log that is followed."""
_PIECE = 65536


class LogError(GpustackFastError):
    """A log cannot be read."""


def logs(data_dir: Path, name: str, *, previous: bool, tail: int | None, follow: bool) -> int:
    """Prints the log of an instance, or of the newest instance of a model.

    `previous`: that of the newest one which has ended. `tail`: its last lines alone. `follow`: goes
    on until the engine has ended. Raises UsageError where there is no such log, and LogError.
    """
    log = _choose(_found(DataDirectory(data_dir).path), name, previous=previous)
    if log.instance != name:
        complain(f"This is the log of {log.instance}: {log.path}")
    try:
        with open(log.path, "rb") as file:
            file.seek(0 if tail is None else _begin_of_last_lines(file.fileno(), tail))
            for piece in _pieces(file.fileno(), log, follow=follow):
                _write(piece)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except OSError as error:
        raise LogError(
            f"The log {log.path} cannot be read: {error.strerror}. Check its rights."
        ) from error
    return 0


def _found(directory: Path) -> list[EngineLog]:
    """All logs. Raises LogError."""
    try:
        return find_logs(directory)
    except OSError as error:
        raise LogError(
            f"The logs in {directory} cannot be looked at: {error.strerror or error}. Run the "
            "command as the user who runs the server, or check --data-dir."
        ) from error


def _choose(found: list[EngineLog], name: str, *, previous: bool) -> EngineLog:
    """The newest log that is meant. Raises UsageError."""
    mine = [one for one in found if name in (one.instance, one.model)]
    chosen = [one for one in mine if not (previous and one.lives)]
    if chosen:
        return chosen[-1]
    if mine:
        raise UsageError(
            f"No instance of {printable(name)} has ended yet, so there is no previous log. Leave "
            "out --previous."
        )
    known = ", ".join(sorted({one.model for one in found})) or "none"
    raise UsageError(
        f"There is no log of a model or an instance {printable(name)}. `gpustack-fast status` "
        f"shows the instances that there are; models with logs: {known}. Models that somebody else "
        "runs have none here."
    )


def _begin_of_last_lines(file: int, count: int) -> int:
    """The offset of the last `count` lines, read backwards from the end. Raises OSError."""
    end = os.lseek(file, 0, os.SEEK_END)
    at, lines = end, 0
    while at > 0 and count:
        begin = max(0, at - _PIECE)
        piece = os.pread(file, at - begin, begin)
        # The last line's own end begins no further one.
        stop = len(piece) - 1 if at == end else len(piece)
        while (found := piece.rfind(b"\n", 0, stop)) >= 0:
            lines += 1
            if lines == count:
                return begin + found + 1
            stop = found
        at = begin
    return 0 if count else end


def _pieces(file: int, log: EngineLog, *, follow: bool) -> Iterator[bytes]:
    """What the log holds; to `follow`, what comes until the engine has ended. Raises OSError."""
    while True:
        # Before the look at the file: what is written up to its end is shown.
        lives = follow and log.is_alive()
        while piece := os.read(file, _PIECE):
            yield piece
        if not lives:
            return
        time.sleep(_LOOK_EVERY)
        if os.fstat(file).st_size < os.lseek(file, 0, os.SEEK_CUR):
            os.lseek(file, 0, os.SEEK_SET)  # it was rotated: copied and emptied


def _write(piece: bytes) -> None:
    """Writes bytes as they are. Raises OutputFailed."""
    try:
        if sys.stdout is None:
            raise OutputFailed("Standard output is closed. Run the command with another output.")
        sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()
    except BrokenPipeError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise ReaderGone("The reader has gone.") from error
    except OSError as error:
        raise OutputFailed(
            f"Standard output cannot be written: {error.strerror}. Run the command again with "
            "another output."
        ) from error
