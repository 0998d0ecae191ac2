"""The running server of a data directory, for commands that do nothing without one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gpustack_fast.control.client import ControlClient, NoServer
from gpustack_fast.errors import ControlError
from gpustack_fast.storage.data_directory import DataDirectory

__all__ = ["running_server"]


@contextmanager
def running_server(data_dir: Path, timeout: float = 30.0) -> Iterator[ControlClient]:
    """A connection to it. `timeout`: seconds for each answer. Raises ControlError without one."""
    try:
        client = ControlClient(DataDirectory(data_dir).control_socket, timeout)
    except NoServer as error:
        raise ControlError(
            f"No server runs on the data directory {data_dir}. Start one with `gpustack-fast "
            "serve`, or name the directory of the one that runs with --data-dir or --config."
        ) from error
    with client:
        yield client
