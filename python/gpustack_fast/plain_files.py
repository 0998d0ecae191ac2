"""Reads small files that a person names: a configuration, a key, a certificate.

A path may lead to anything: a device that never ends, a pipe that nobody writes to, a disk image
that was named by mistake. So what is read is a plain file, or a pipe that ends, and of both no more
than a limit.
"""

from __future__ import annotations

import errno
import os
import select
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

__all__ = ["LARGEST", "open_file", "problem_of", "read_bytes", "read_text"]

LARGEST = 16 * 1024 * 1024
"""Bytes of a file that people write, at most."""
PIPE_WITHIN = 10.0
"""Seconds until a pipe has to have ended."""
_BLOCK = 64 * 1024
_BUFFER = 256 * 1024
# Without waiting: a named pipe is opened only when somebody writes to it.
_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_OTHERS = (
    (stat.S_ISDIR, errno.EISDIR, "it is a directory, and no file"),
    (stat.S_ISCHR, errno.EINVAL, "it is a device, and no file"),
    (stat.S_ISBLK, errno.EINVAL, "it is a device, and no file"),
)


def read_bytes(path: str | Path, largest: int = LARGEST, *, pipes: bool = True) -> bytes:
    """The content of a file, or of a pipe until its end.

    `largest`: bytes. `pipes`: whether a pipe will do; one that is read again is empty. Raises
    OSError, whose `strerror` completes the sentence "cannot be read: …"; also for what is larger,
    is no file, or is a pipe that brings nothing or does not end.
    """
    descriptor = os.open(path, _FLAGS)
    try:
        found = os.fstat(descriptor)
        _check(found, pipes=pipes)
        if stat.S_ISREG(found.st_mode) and found.st_size > largest:
            raise _too_large(largest)
        blocks = _pipe(descriptor) if stat.S_ISFIFO(found.st_mode) else _file(descriptor)
        content = bytearray()
        for block in blocks:
            content += block
            if len(content) > largest:
                raise _too_large(largest)
    finally:
        os.close(descriptor)
    return bytes(content)


def open_file(path: str | Path) -> BinaryIO:
    """A plain file, however large, for whoever reads a part of it. Raises OSError as `read_bytes`,
    for a pipe, too.
    """
    descriptor = os.open(path, _FLAGS)
    try:
        _check(os.fstat(descriptor), pipes=False)
    except OSError:
        os.close(descriptor)
        raise
    return open(descriptor, "rb", buffering=_BUFFER)


def problem_of(path: str | Path) -> str | None:
    """Why a plain file cannot be read, after "cannot be read: "; None: it can."""
    try:
        open_file(path).close()
    except OSError as error:
        return error.strerror or "the system gives no reason"
    return None


def _check(found: os.stat_result, *, pipes: bool) -> None:
    for is_other, number, what in _OTHERS:
        if is_other(found.st_mode):
            raise OSError(number, what)
    if stat.S_ISFIFO(found.st_mode) and not pipes:
        raise OSError(errno.EINVAL, "it is a pipe, and no file")


def read_text(path: str | Path, largest: int = LARGEST) -> str:
    """The same as text. Raises UnicodeDecodeError, too."""
    return read_bytes(path, largest).decode()


def _file(descriptor: int) -> Iterator[bytes]:
    while block := os.read(descriptor, _BLOCK):
        yield block


def _pipe(descriptor: int) -> Iterator[bytes]:
    """What comes through a pipe until the last writer closes it.

    Empty, it was most likely read before, and would look like an empty file.
    """
    until, begun = time.monotonic() + PIPE_WITHIN, False
    waiting = select.poll()
    waiting.register(descriptor, select.POLLIN)
    while True:
        left = until - time.monotonic()
        if left <= 0 or not waiting.poll(left * 1000):
            raise OSError(errno.ETIMEDOUT, f"the pipe did not end within {PIPE_WITHIN:g} s")
        try:
            block = os.read(descriptor, _BLOCK)
        except BlockingIOError:
            continue
        if not block:
            break
        begun = True
        yield block
    if not begun:
        raise OSError(errno.ENODATA, "the pipe is empty; what came through it can be read once")


def _too_large(largest: int) -> OSError:
    return OSError(errno.EFBIG, f"it is larger than {largest >> 20} MiB")
