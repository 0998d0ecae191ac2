"""The places of the engines' records, sockets and logs in the data directory."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from gpustack_fast.errors import EngineFailed, StoreError
from gpustack_fast.machine import SOCKET_PATH_LIMIT
from gpustack_fast.storage.data_directory import explain_os_error, make_private

__all__ = ["EnginePaths", "safe"]

LOGS_PER_MODEL = 10


class EnginePaths:
    """The folders of a data directory that engines use. Making the object makes them.

    Only their owner may enter them. Raises EngineFailed when there is no place for sockets, and
    StoreError.
    """

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self.records = data_dir / "run" / "instances"
        self.logs = data_dir / "logs"
        try:
            data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._make_folders()
        except OSError as error:
            raise StoreError(
                explain_os_error(error, f"The folders in {data_dir} cannot be used")
            ) from error

    def _make_folders(self) -> None:
        sockets = self._data_dir / "run" / "engines"
        for folder in (sockets.parent, self.records, sockets, self.logs):
            # Somebody may keep the logs elsewhere.
            if not folder.is_symlink():
                make_private(folder)
        longest = sockets / f"{'m' * 32}-{'r' * 5}.sock"
        is_short = len(os.fsencode(longest)) <= SOCKET_PATH_LIMIT
        self.sockets = sockets if is_short else short_folder(self._data_dir)

    def record(self, instance_id: str) -> Path:
        """The file where an engine's process writes down who it is, see `processes.Identity`."""
        return self.records / f"{instance_id}.json"

    def socket(self, instance_id: str) -> Path:
        """The Unix socket where an engine listens; its path is short enough for one."""
        return self.sockets / f"{instance_id}.sock"

    def log(self, model: str, instance_id: str) -> Path:
        """The log of a new instance; the oldest logs of its model go, but for those of the living.

        Makes all folders anew that have gone; not the data directory, which may be a file system
        that is not mounted. Raises OSError, StoreError.
        """
        self._make_folders()
        folder = self.logs / safe(model)
        folder.mkdir(mode=0o700, exist_ok=True)
        # Models with similar names share a folder, and an engine of any age may write on.
        ended = [path for path in folder.glob("*.log") if not self._lives(path.stem)]
        ended.sort(key=lambda path: path.stat().st_mtime, reverse=True)
        for old in ended[LOGS_PER_MODEL - 1 :]:
            old.unlink(missing_ok=True)
            old.with_suffix(".log.1").unlink(missing_ok=True)
        return folder / f"{instance_id}.log"

    def _lives(self, instance_id: str) -> bool:
        """Whether an engine may still run: its record is the last thing of it that goes."""
        record = self.record(instance_id)
        return record.exists() or record.with_name(f"{record.name}.new").exists()


def short_folder(data_dir: Path) -> Path:
    """A folder for sockets whose path is short, ours alone: under XDG_RUNTIME_DIR, else under /tmp.

    In /tmp another user may have made a folder of this name, so its owner and mode are checked.
    """
    digest = hashlib.sha256(os.fsencode(data_dir)).hexdigest()[:8]
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    base = (
        Path(runtime)
        if os.path.isabs(runtime) and len(runtime) <= 32 and os.access(runtime, os.W_OK)
        else Path("/tmp")
    )
    folder = base / f"gpustack-fast-{os.getuid()}-{digest}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if (
        not folder.is_dir()
        or folder.is_symlink()
        or found.st_uid != os.getuid()
        or found.st_mode & 0o077
    ):
        raise EngineFailed(
            f"The folder {folder} belongs to somebody else, so engines cannot listen there. "
            "Choose a shorter path with --data-dir, or set XDG_RUNTIME_DIR."
        )
    return folder


def safe(name: str) -> str:
    """A model's name as part of a file's name."""
    return re.sub(r"[^A-Za-z0-9_.-]", "-", name)[:32]
