"""Small files that a crash leaves old or new, never half.

They are written beside the old one, fsynced, and renamed over it. From the rename on the new one is
what everybody reads, also after a restart. Only a power cut could still bring the old one back, as
long as the disk has not confirmed the rename; where it does not, a change is made all the same, and
its doubt is told. Taking it out again would need the same disk to obey.
"""

from __future__ import annotations

import errno
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
        content = plain_files.read_bytes(file, LARGEST, pipes=False)
    except FileNotFoundError as error:
        if file.is_symlink():
            # Its file system may not be mounted: what is there must not be taken for nothing.
            raise StoreError(
                f"{what} in {file} cannot be read: it is a link to something that is not there. "
                "Mount or restore that, or remove the link to begin anew."
            ) from error
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


def write(file: Path, document: Struct) -> str:
    """Replaces a file by a document. Raises StoreError: nothing has changed then.

    Returns the doubt, in a sentence, where the change is made and a power cut may undo it; empty:
    the disk has it.
    """
    return write_bytes(file, msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n")


def write_bytes(file: Path, content: bytes) -> str:
    """Replaces a file, as `write` does. It is its owner's alone (0600).

    Of a link, what it leads to: somebody keeps the file elsewhere.
    """
    file = Path(os.path.realpath(file))
    new = file.with_name(file.name + ".new")
    try:
        # First, so that behind the rename nothing can fail but the disk.
        folder = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _write_new(new, content)
            new.rename(file)
            return _doubt(file, folder)
        except OSError:
            new.unlink(missing_ok=True)
            raise
        finally:
            os.close(folder)
    except OSError as error:
        raise StoreError(explain_os_error(error, f"The change was not saved in {file}")) from error


def _write_new(new: Path, content: bytes) -> None:
    new.unlink(missing_ok=True)
    descriptor = os.open(
        new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
    )
    with os.fdopen(descriptor, "wb") as out:
        out.write(content)
        out.flush()
        os.fsync(out.fileno())


def _doubt(file: Path, folder: int) -> str:
    """What a power cut may do to a file that was renamed in this open folder; empty: nothing."""
    try:
        os.fsync(folder)
    except OSError as error:
        # Some file systems sync no folders (fsync(2)), and nothing could ever be made there.
        if error.errno != errno.EINVAL:
            return (
                f"The change is made in {file}, but a power cut may undo it: its folder could not "
                f"be written to the disk ({error.strerror or error}). Check that disk."
            )
    return ""
