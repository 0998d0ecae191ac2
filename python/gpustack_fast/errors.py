"""The exceptions that reach a user, as a tree:

    GpustackFastError           anything that ends a command with one message; exit status 1
    ├── UsageError              what was typed cannot be carried out as typed; exit status 2
    │   └── ConfigError         a wrong setting or file; has the file, the line and the fix
    ├── StoreError              the data directory or the keys in it cannot be read or written
    │   ├── DataDirectoryInUse  another server holds the data directory; has its process id
    │   ├── KeyNameTaken        a key of this name exists already (the management API's 409)
    │   └── KeyNotFound         no key has this name or access key (the management API's 404)
    ├── EngineFailed            an engine ended, was not ready in time, or has no place to listen
    ├── InstanceNotFound        no instance has this id or address
    └── ControlError            the control socket cannot be used, or rejected an operation

The text of each is whole sentences: what is wrong, and what to do next. It never holds a key or a
prompt.
"""

from __future__ import annotations

from pathlib import Path

__all__ = [
    "ConfigError",
    "ControlError",
    "DataDirectoryInUse",
    "EngineFailed",
    "GpustackFastError",
    "InstanceNotFound",
    "KeyNameTaken",
    "KeyNotFound",
    "StoreError",
    "UsageError",
]


class GpustackFastError(Exception):
    """The root: the command line prints `error: ` and the text, and ends with `exit_status`."""

    exit_status = 1


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
        if self.file is None:
            return self.message
        place = str(self.file) if self.line is None else f"{self.file}:{self.line}"
        return f"{place}: {self.message}"


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
