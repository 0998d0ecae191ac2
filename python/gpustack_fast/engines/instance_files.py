"""The files of one instance: its log, what its command names, and their end."""

from __future__ import annotations

import asyncio
import shutil
import socket
from pathlib import Path
from typing import IO

from gpustack_fast.backends import Command

__all__ = ["close_log", "free_port", "make_folder", "remove_files", "remove_folder"]


def close_log(made: asyncio.Future[IO[bytes]]) -> None:
    """Closes the log that was opened for an engine, once that is done."""
    if not made.cancelled() and made.exception() is None:
        made.result().close()


def free_port() -> int:
    """A TCP port of loopback that nobody listens at now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def make_folder(folder: Path, command: Command) -> None:
    """Writes the files and makes the links that an engine is to find. Raises OSError."""
    if command.files or command.links:
        folder.mkdir(mode=0o700, exist_ok=True)
    for path, text in command.files.items():
        path.write_text(text, encoding="utf-8")
    for link, target in command.links.items():
        link.unlink(missing_ok=True)
        link.symlink_to(target)


def remove_folder(folder: Path) -> None:
    """Removes what `make_folder` has made, as far as it can be removed."""
    shutil.rmtree(folder, ignore_errors=True)


def remove_files(*paths: Path | str) -> None:
    for path in paths:
        Path(path).unlink(missing_ok=True)
