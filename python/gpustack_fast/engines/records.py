"""The record of an instance: who its engine is, and what the next server needs to go on with it.

    DATA_DIR/run/instances/ID.json        0600, written by the process before it becomes the engine
    DATA_DIR/run/instances/ID.json.new    the draft that the server leaves it, without the process

An engine may outlive its server. What is written here is all that the next one knows of it, its key
among it: no argument list holds that.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from gpustack_fast import plain_files
from gpustack_fast.config import ModelConfig
from gpustack_fast.engines.instance_files import remove_files
from gpustack_fast.engines.processes import Identity
from gpustack_fast.placement import Placement

__all__ = [
    "Found",
    "Record",
    "read_records",
    "read_serving",
    "renew",
    "tell_or_remove",
    "write_draft",
]

log = logging.getLogger(__name__)

LARGEST_RECORD = 1024 * 1024
"""Bytes."""
ROOM = 128
"""Bytes that the process adds to its draft, at most: on a full disk it could not."""


class Record(Identity, frozen=True, kw_only=True):
    """The whole record. Those of older versions are an `Identity` alone.

    A field that is added needs a default: else the engines of the version before are ended at an
    upgrade, and not adopted.
    """

    model: str
    number: int
    """Of the replica's slot."""
    generation: int
    """That of its model when it was started."""
    digest: str
    """What it was made of, see `command_digest`."""
    backend: str
    version: str
    """Of the engine; empty: unknown."""
    key: str
    port: int | None
    """None: it listens at `socket`."""
    ready_path: str
    """The path that says whether it can serve."""
    created: float
    """Unix seconds."""
    devices: tuple[str, ...]
    """As CUDA takes them."""
    placement: Placement | None
    """None: it has no GPU."""
    remark: str = ""
    """What is to be known of it as long as it runs."""
    has_run: bool = False
    """Whether it has been ready, and has had its first request."""
    asleep: bool = False
    """Whether it was put to sleep in its process, so that it cannot serve as it is."""
    config: dict[str, Any] | None = None
    """Its model's configuration, as a document; None: unknown. It may hold what is in `env`."""

    def model_config(self) -> ModelConfig | None:
        """The configuration that it was started with; None: it is not known, or of a version of
        this program whose configurations mean something else.
        """
        try:
            return msgspec.convert(self.config, ModelConfig)
        except msgspec.ValidationError:
            return None


Found = tuple[Path, Identity]
"""A record's file, and what is in it: a `Record`, or that of an older version."""


def write_draft(draft: Path, record: Record) -> None:
    """Writes a record whose process does not exist yet (pid 0), with room for what that adds.

    Raises OSError.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
    with os.fdopen(os.open(draft, flags, 0o600), "wb") as file:
        # Not msgspec's, which refuses a path that is no UTF-8.
        written = json.dumps(msgspec.to_builtins(record), separators=(",", ":"))
        file.write(written.encode("ascii") + b" " * ROOM)


def renew(file: Path, **changes: bool) -> None:
    """Changes what a record says of its engine: `has_run`, `asleep`. Raises OSError.

    It is replaced as a whole: whoever reads it meets the old one or the new one.
    """
    record = read_record(file)
    if isinstance(record, Record) and (renewed := replace(record, **changes)) != record:
        new = file.with_name(f"{file.name}.new")
        write_draft(new, renewed)
        new.replace(file)


def read_records(folder: Path) -> list[Found]:
    """The records in a folder. What is no record is told and goes, and what can be neither read nor
    removed is told and stays: it keeps nobody from starting. Raises OSError for the folder itself.
    """
    found = []
    for path in _files(folder):
        if path.name.endswith(".json.new"):
            tell_or_remove(path)
        elif path.name.endswith(".json"):
            try:
                identity = read_record(path)
            except OSError as error:
                log.warning(
                    "The record %s cannot be read: %s. If its engine still runs, it is ended, and "
                    "another is started in its place. Remove the record.",
                    path,
                    error.strerror or error,
                )
                continue
            if identity is None:
                log.warning(
                    "The record %s is damaged, and is removed. If its engine still runs, it is "
                    "ended, and another is started in its place.",
                    path,
                )
                tell_or_remove(path)
            else:
                found.append((path, identity))
    return found


def read_serving(folder: Path) -> list[Found]:
    """The records of engines that have served, and are awake. Nothing is removed: another server
    may be writing here. Raises OSError for the folder itself.
    """
    found: list[Found] = []
    for path in _files(folder):
        if path.name.endswith(".json"):
            with contextlib.suppress(OSError):  # it has ended meanwhile
                record = read_record(path)
                if isinstance(record, Record) and record.has_run and not record.asleep:
                    found.append((path, record))
    return found


def _files(folder: Path) -> list[Path]:
    return sorted(Path(entry.path) for entry in os.scandir(folder))


def read_record(file: Path) -> Identity | None:
    """What is in a record; None: it is not ours, for those are replaced as a whole.

    Raises OSError.
    """
    content = plain_files.read_bytes(file, LARGEST_RECORD, pipes=False)
    for kind in (Record, Identity):
        try:
            found = msgspec.json.decode(content, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            continue
        return None if "\0" in found.socket else found
    return None


def tell_or_remove(path: Path | str) -> None:
    """Removes a file; where that cannot be, it stays, and is told."""
    try:
        remove_files(path)
    except OSError as error:
        log.warning(
            "%s, of an engine of an earlier run, cannot be removed: %s. Remove it.",
            path,
            error.strerror or error,
        )
