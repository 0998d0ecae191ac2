"""What a command writes: the result on standard output, complaints on standard error.

A standard output that fails is an error like any other: one line, exit status 1. One whose reader
has gone, as `| head` goes when it has seen enough, ends a command without a word, with the status
that a shell shows for SIGPIPE. A standard error that fails has nobody to tell; the exit status
stays.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from typing import TextIO

import msgspec

from gpustack_fast.errors import GpustackFastError, printable

__all__ = ["OutputFailed", "ReaderGone", "complain", "in_json", "say"]


class OutputFailed(GpustackFastError):
    """Standard output is full, closed, or has no reader any more."""


class ReaderGone(OutputFailed):
    """The reader of standard output has gone. Of itself that is nothing to tell anybody."""

    exit_status = 128 + signal.SIGPIPE

    def each(self) -> tuple[GpustackFastError, ...]:
        return ()


def say(text: str) -> None:
    """Writes a line, and returns when the system has taken it. Raises OutputFailed."""
    if sys.stdout is None:  # it was closed when the process began
        raise _failed(OSError(errno.EBADF, os.strerror(errno.EBADF)))
    try:
        print(text, flush=True)
    except OSError as error:
        raise _failed(error) from error
    except UnicodeEncodeError as error:
        raise OutputFailed(
            f"Standard output cannot be written: its encoding is {sys.stdout.encoding}, which has "
            "not all of the letters. Set the variable `PYTHONIOENCODING=utf-8`, and run it again."
        ) from error


def in_json(document: object) -> str:
    """A document for programs, laid out so that people can read it, too."""
    return msgspec.json.format(msgspec.json.encode(document)).decode()


def complain(text: str) -> None:
    """Writes to standard error, if that can be written. No terminal obeys what is in the text."""
    if sys.stderr is not None:
        shown = "\n".join(printable(line) for line in text.split("\n"))
        try:
            print(shown, file=sys.stderr, flush=True)
        except OSError:
            _discard(sys.stderr)


def _failed(error: OSError) -> OutputFailed:
    if sys.stdout is not None:
        _discard(sys.stdout)
    kind = ReaderGone if isinstance(error, BrokenPipeError) else OutputFailed
    return kind(
        f"Standard output cannot be written: {error.strerror}. Run the command again with another "
        "output."
    )


def _discard(stream: TextIO) -> None:
    """Sends the rest to nowhere: Python writes what is left at its end, and would complain."""
    nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
