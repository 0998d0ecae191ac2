"""Small files that a crash leaves old or new, never half.

They are written beside the old one, fsynced, and renamed over it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec import Struct

from gpustack_fast import plain_files
from gpustack_fast.errors import StoreError
from gpustack_fast.storage.data_directory import explain_os_error

__all__ = ["read", "write", "write_bytes"]

T = TypeVar("T", bound=Struct)

LARGEST = 1024 * 1024 * 1024
"""Bytes of a file of ours, at most: some millions of keys."""


class _Version(Struct):
    """The one field that files of every version have."""

    version: int


def read(file: Path, kind: type[T], newest: int, what: str) -> T | None:
    """The document in a file; None when there is no file yet.

    `newest` is the newest format that we know, `what` names the content in a sentence (`The keys`).
    Raises StoreError when the file is damaged, newer than we are, or cannot be read; it is then
    left as it is.
    """
    try:
        content = plain_files.read_bytes(file, LARGEST)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreError(explain_os_error(error, f"{what} in {file} cannot be read")) from error
    try:
        version = msgspec.json.decode(content, type=_Version).version
        if version > newest:
            raise StoreError(
                f"{what} in {file} were written by a newer gpustack-fast (format {version}; this "
                f"one knows {newest}). Use that version, or another directory with --data-dir."
            )
        return msgspec.json.decode(content, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        # The text of the error may quote the file: it stays out of the message.
        raise StoreError(
            f"{what} in {file} are damaged: the file is not what gpustack-fast wrote. It was left "
            "as it is. Restore it from a backup, or move it away to begin anew."
        ) from error


def write(file: Path, document: Struct) -> None:
    """Replaces a file by a document. When this returns, the disk has it. Raises StoreError."""
    write_bytes(file, msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n")


def write_bytes(file: Path, content: bytes) -> None:
    """Replaces a file, as `write` does. It is its owner's alone (0600)."""
    new = file.with_name(file.name + ".new")
    try:
        new.unlink(missing_ok=True)
        try:
            descriptor = os.open(
                new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
            )
            with os.fdopen(descriptor, "wb") as out:
                out.write(content)
                out.flush()
                os.fsync(out.fileno())
            new.rename(file)
        except OSError:
            new.unlink(missing_ok=True)
            raise
        _sync_folder(file.parent)
    except OSError as error:
        raise StoreError(explain_os_error(error, f"The change was not saved in {file}")) from error


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
