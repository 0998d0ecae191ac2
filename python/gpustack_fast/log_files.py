"""Standard output and error where they are files: opened again when somebody has moved them."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path

__all__ = ["LogFiles"]


class LogFiles:
    """The files that standard output and error went to at the start, by their paths then.

    A terminal, a pipe and a journal's socket are none, and there is nothing to be opened again.
    """

    def __init__(self, descriptors: tuple[int, ...] = (1, 2)) -> None:
        self._files = {
            descriptor: path
            for descriptor in descriptors
            if (path := file_of(descriptor)) is not None
        }

    def reopen(self) -> list[str]:
        """Goes on in the file that has the path now, or in a new one; returns what went wrong.

        What cannot be opened stays as it was. Waits for the disk, and may be called from any
        thread.
        """
        problems = []
        for path in dict.fromkeys(self._files.values()):
            same = [descriptor for descriptor, file in self._files.items() if file == path]
            try:
                opened = _open(path, stat.S_IMODE(os.fstat(same[0]).st_mode))
            except OSError as error:
                problems.append(
                    f"The log file {path} cannot be opened again: {error.strerror}. Lines go on "
                    "into the former one. Correct its folder or its rights, then send SIGUSR1."
                )
                continue
            for descriptor in same:
                os.dup2(opened, descriptor)
            os.close(opened)
        return problems


def _open(path: Path, mode: int) -> int:
    """Opens a file or a device, as `/dev/null`, to append to it. Raises OSError.

    Without waiting: a pipe is opened only when somebody reads from it, and all else would wait.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
    try:
        opened = os.open(path, flags, mode)
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise _no_file() from error
        raise
    found = os.fstat(opened).st_mode
    if not (stat.S_ISREG(found) or stat.S_ISCHR(found)):
        os.close(opened)
        raise _no_file()
    os.set_blocking(opened, True)
    return opened


def _no_file() -> OSError:
    return OSError(errno.EINVAL, "It is a pipe or a socket, and no file")


def file_of(descriptor: int) -> Path | None:
    """The path of the file behind a descriptor; None where it is no file, or has no path."""
    with contextlib.suppress(OSError):
        opened = os.fstat(descriptor)
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        if stat.S_ISREG(opened.st_mode) and os.path.samestat(opened, os.stat(path)):
            return Path(path)
    return None
