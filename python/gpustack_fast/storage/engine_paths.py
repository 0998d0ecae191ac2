"""The places of the engines' records, sockets and logs in the data directory."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from gpustack_fast.errors import EngineFailed, StoreError
from gpustack_fast.machine import SOCKET_PATH_LIMIT
from gpustack_fast.storage.data_directory import explain_os_error, make_private

__all__ = ["EngineLog", "EnginePaths", "find_logs", "safe"]

LOGS_PER_MODEL = 10

_IN_FOLDERS = str.maketrans({"/": "+", ":": "="})
_IN_NAMES = str.maketrans({"+": "/", "=": ":"})
"""Models' names have neither `+` nor `=`, so that no two of them share a folder."""


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
            self.sockets = self._make_folders()
        except OSError as error:
            raise StoreError(
                explain_os_error(error, f"The folders in {data_dir} cannot be used")
            ) from error

    def _make_folders(self) -> Path:
        """Makes those that are not there, and returns that of the sockets."""
        sockets = self._data_dir / "run" / "engines"
        for folder in (sockets.parent, self.records, sockets, self.logs):
            # Somebody may keep the logs elsewhere.
            if not folder.is_symlink():
                make_private(folder)
        longest = sockets / f"{'m' * 32}-{'r' * 5}.sock"
        is_short = len(os.fsencode(longest)) <= SOCKET_PATH_LIMIT
        return sockets if is_short else short_folder(self._data_dir)

    def record(self, instance_id: str) -> Path:
        """The file where an engine's process writes down who it is, see `records.Record`."""
        return self.records / f"{instance_id}.json"

    def socket(self, instance_id: str) -> Path:
        """The Unix socket where an engine listens; its path is short enough for one."""
        return self.sockets / f"{instance_id}.sock"

    def log(self, model: str, instance_id: str) -> Path:
        """The log of an instance."""
        return self.logs / model.translate(_IN_FOLDERS) / f"{instance_id}.log"

    def make_room_for(self, log: Path) -> None:
        """Makes the folder of a new log; the oldest of its model go, but for those of the living.

        Makes all folders anew that have gone; not the data directory, which may be a file system
        that is not mounted. Waits for the disk, and may be called from any thread. Raises OSError,
        StoreError.
        """
        self._make_folders()
        log.parent.mkdir(mode=0o700, exist_ok=True)
        # An engine of any age may write on.
        ended = [one for one in _plain_logs(log.parent) if not self._lives(one[1].stem)]
        ended.sort(reverse=True)
        for _, old in ended[LOGS_PER_MODEL - 1 :]:
            for path in (old, old.with_suffix(".log.1")):
                # What somebody has put in its place stays, and keeps no engine from starting.
                with contextlib.suppress(FileNotFoundError, IsADirectoryError, PermissionError):
                    path.unlink()

    def _lives(self, instance_id: str) -> bool:
        """Whether an engine may still run: its record is the last thing of it that goes."""
        record = self.record(instance_id)
        return record.exists() or record.with_name(f"{record.name}.new").exists()


@dataclasses.dataclass(frozen=True)
class EngineLog:
    """A log in a data directory."""

    model: str
    instance: str
    path: Path
    record: Path
    lives: bool
    """Whether the engine may still run, as it was found."""

    def is_alive(self) -> bool:
        """Whether the engine may still run now: its record is the last thing of it that goes."""
        return self.record.exists() or self.record.with_name(f"{self.record.name}.new").exists()


def find_logs(data_dir: Path) -> list[EngineLog]:
    """All logs of engines in a data directory, the newest last: by the last change, and those of
    engines that run behind those of engines that have ended. Waits for the disk. Raises OSError
    where the folder of logs cannot be read; one that is not there has none.
    """
    found = []
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        for folder in (data_dir / "logs").iterdir():
            with contextlib.suppress(OSError):
                for changed, path in _plain_logs(folder):
                    record = data_dir / "run" / "instances" / f"{path.stem}.json"
                    model = folder.name.translate(_IN_NAMES)
                    log = EngineLog(model, path.stem, path, record, lives=False)
                    found.append((log.is_alive(), changed, log))
    ordered = sorted(found, key=lambda one: one[:2])
    return [dataclasses.replace(log, lives=lives) for lives, _, log in ordered]


def _plain_logs(folder: Path) -> Iterator[tuple[float, Path]]:
    """The logs in a folder that are files, each with the time of its last change. Raises OSError.

    Another thread may just be removing them.
    """
    for path in folder.glob("*.log"):
        with contextlib.suppress(FileNotFoundError):
            found = path.lstat()
            if stat.S_ISREG(found.st_mode):
                yield found.st_mtime, path


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
    """A model's name as part of an id. Several models may have the same."""
    return re.sub(r"[^A-Za-z0-9_.-]", "-", name)[:32]
