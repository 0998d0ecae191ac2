"""One file on its way: received, compared with its hash, and put where files count.

Runs in the process that downloads, several files at a time.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from pathlib import Path

from gpustack_fast.model_store.documents import ModelStoreError, RemoteFile
from gpustack_fast.model_store.hubs import HubAccess
from gpustack_fast.model_store.layout import HEAD_BYTES, Folder, head_on_its_way, size_of

__all__ = ["bring", "bring_head"]

BLOCK = 4 * 1024 * 1024
_NO_LINKS = (errno.EPERM, errno.EMLINK, errno.EXDEV, errno.ENOTSUP, errno.ENOSYS)
"""What a file system says that has no second names for files, or no more of them."""


def bring(hub: HubAccess, folder: Folder, commit: str, file: RemoteFile) -> None:
    """Brings a file. Raises OSError, ModelStoreError for a wrong hash, and the hub's errors."""
    target = folder.files(commit) / file.name
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.on_its_way(commit, file)
    partial.parent.mkdir(parents=True, exist_ok=True)
    if (twin := folder.twin(file)) is not None:
        if _linked(twin, target):
            return
        shutil.copyfile(twin, partial)
    resumes = bool(size_of(partial))
    hub.receive(commit, file, partial, file.size)
    if resumes and not is_right(partial, file):
        partial.unlink()  # an earlier try may have left something else
        hub.receive(commit, file, partial, file.size)
    if not is_right(partial, file):
        partial.unlink()
        raise ModelStoreError(
            f"The file `{file.name}` of {hub_name(folder)} is not the one that the hub describes: "
            "its hash is another one. It was removed. Try again; if that repeats, check what is "
            "between this machine and the hub: a proxy or a mirror (HF_ENDPOINT) may change files.",
            may_pass=True,
        )
    settle(partial, target)


def bring_head(hub: HubAccess, folder: Folder, commit: str, file: RemoteFile) -> None:
    """Brings the first bytes of a file, which no hash covers: nothing but an estimate uses them."""
    target = folder.heads(commit) / file.name
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = head_on_its_way(target)
    partial.unlink(missing_ok=True)
    hub.receive(commit, file, partial, min(file.size, HEAD_BYTES))
    settle(partial, target)


def _linked(twin: Path, target: Path) -> bool:
    """Gives a file a second name; whether its file system has such. Raises OSError."""
    target.unlink(missing_ok=True)
    try:
        os.link(twin, target)
    except OSError as error:
        if error.errno in _NO_LINKS:
            return False
        raise
    return True


def is_right(path: Path, file: RemoteFile) -> bool:
    """Whether a file is what the hub describes: its size, and its hash where one is known."""
    if size_of(path) != file.size:
        return False
    if file.sha256:
        return _digest(path, hashlib.sha256()) == file.sha256
    if file.git_sha1:
        begun = hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False)
        return _digest(path, begun) == file.git_sha1
    return True


def settle(partial: Path, target: Path) -> None:
    """Puts a whole file in its place, where it is after a power cut, too."""
    descriptor = os.open(partial, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.replace(partial, target)


def hub_name(folder: Folder) -> str:
    return folder.path.name.replace("--", "/")


def _digest(path: Path, begun: hashlib._Hash) -> str:
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            begun.update(block)
    return begun.hexdigest()
