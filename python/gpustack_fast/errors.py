"""The exceptions that reach a user, as a tree:

    GpustackFastError           anything that ends a command with one message; exit status 1
    ├── UsageError              what was typed cannot be carried out as typed; exit status 2
    │   └── ConfigError         a wrong setting or file; has the file, the line and the fix
    │       └── Mistakes        all that is wrong with a configuration, each as an error of its own
    ├── StoreError              the data directory or the keys in it cannot be read or written
    │   ├── DataDirectoryInUse  another server holds the data directory; has its process id
    │   ├── KeyNameTaken        a key of this name exists already (the management API's 409)
    │   └── KeyNotFound         no key has this name or access key (the management API's 404)
    ├── EngineFailed            an engine ended, was not ready in time, or has no place to listen
    ├── InstanceNotFound        no instance has this id or address
    ├── ControlError            the control socket cannot be used, or rejected an operation
    │   └── TakenOver           another process of the server is to be asked
    └── DataPlaneError          the data plane cannot do what a call asked

The text of each is whole sentences: what is wrong, and what to do next. It never holds a key or a
prompt.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = [
    "ConfigError",
    "ControlError",
    "DataDirectoryInUse",
    "DataPlaneError",
    "EngineFailed",
    "GpustackFastError",
    "InstanceNotFound",
    "KeyNameTaken",
    "KeyNotFound",
    "Mistakes",
    "MistakesFound",
    "StoreError",
    "TakenOver",
    "UsageError",
    "in_one_line",
    "printable",
]


def printable(text: str) -> str:
    """The text with control characters (and all else that is not printable) written as escapes.

    A name from a file may hold any character, and a terminal obeys some of them.
    """
    if text.isprintable():
        return text
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode() for one in text
    )


def in_one_line(error: GpustackFastError) -> str:
    """The message for the log and for states; some have a line for each of several things."""
    return re.sub(r"\s*\n\s*", " ", str(error))


class GpustackFastError(Exception):
    """The root: the command line prints `error: ` and the text, and ends with `exit_status`."""

    exit_status = 1

    def each(self) -> tuple[GpustackFastError, ...]:
        """The errors to print, a line each: this one alone, unless it stands for several."""
        return (self,)


class UsageError(GpustackFastError):
    """The command cannot be carried out as it was typed."""

    exit_status = 2


class ConfigError(UsageError):
    """A setting is wrong. `str()` begins with `FILE:LINE: ` as far as they are known."""

    def __init__(self, message: str, file: Path | None = None, line: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.file = file
        self.line = line

    def __str__(self) -> str:
        message = printable(self.message)
        if self.file is None:
            return message
        file = printable(str(self.file))
        return f"{file}: {message}" if self.line is None else f"{file}:{self.line}: {message}"


class Mistakes(ConfigError):
    """Two or more mistakes, in the order in which to read them. Its own place is the first's."""

    def __init__(self, errors: list[UsageError]) -> None:
        first = errors[0]
        if isinstance(first, ConfigError):
            super().__init__(first.message, first.file, first.line)
        else:
            super().__init__(str(first))
        self.errors = tuple(errors)

    def __str__(self) -> str:
        return "\n".join(str(error) for error in self.errors)

    def each(self) -> tuple[GpustackFastError, ...]:
        return self.errors


class MistakesFound:
    """Collects mistakes, so that somebody hears of all of them in one run.

    found = MistakesFound()
    with found.here():
        one_check()
    with found.here():
        another_check()
    found.raise_any()
    """

    def __init__(self) -> None:
        self.errors: list[UsageError] = []

    @contextmanager
    def here(self) -> Iterator[None]:
        """Takes note of the UsageError that ends the block, and goes on behind it."""
        try:
            yield
        except Mistakes as error:
            self.errors += error.errors
        except UsageError as error:
            self.errors.append(error)

    def raise_any(self) -> None:
        """Raises what was found: a single mistake as itself, more of them as Mistakes.

        The lines of the file come in their order, then what stands elsewhere.
        """
        self.errors.sort(key=_line)
        if len(self.errors) == 1:
            raise self.errors[0]
        if self.errors:
            raise Mistakes(self.errors)


def _line(error: UsageError) -> tuple[bool, int]:
    line = error.line if isinstance(error, ConfigError) else None
    return line is None, line or 0


class StoreError(GpustackFastError):
    """The data directory or the keys in it cannot be read or written."""


class DataDirectoryInUse(StoreError):
    """Another server holds the data directory."""

    def __init__(self, directory: Path, pid: int | None) -> None:
        holder = (
            "another gpustack-fast" if pid is None else f"another gpustack-fast (process {pid})"
        )
        super().__init__(
            f"The data directory {directory} is in use by {holder}. "
            "Stop that one first, or give this one its own directory with --data-dir."
        )
        self.pid = pid


class KeyNameTaken(StoreError):
    """A key of this name exists already."""


class KeyNotFound(StoreError):
    """No key has this name or access key."""


class EngineFailed(GpustackFastError):
    """An engine ended, did not become ready, or has no place to listen. The text names its log."""


class InstanceNotFound(GpustackFastError):
    """No instance of the running server has this id or address."""


class ControlError(GpustackFastError):
    """The control socket of the running server cannot be used, or it rejected an operation."""


class TakenOver(ControlError):
    """Another process takes this server over, or has done so: the command is to be repeated there.

    Nothing was changed.
    """


class DataPlaneError(GpustackFastError):
    """The data plane cannot do what a call asked. The text names the cause and what to change.

    Its `__cause__` is an OSError where a call of the system failed.
    """
