"""The data directory, and the lock that says who may touch it.

    DIR/                    0700 if we make it
    ├── lock                held (flock) by a server, or briefly by a command that changes keys
    ├── keys.json           0600, see `keys`
    ├── first-key           0600, the key of the first start, where no terminal was there to show it
    ├── routes.json         0600, see `route_numbers`
    ├── spool/              0700: request bodies that wait in files; emptied at each start
    └── run/                0700
        ├── control.sock    0600, see `control`
        └── api.sock        the management API, see `api`

(Engines, their logs and their records lie beside these: see `environments` and `engine_paths`.)

One lock guards all of it: a server holds it from before it reads anything until it has ended, so
that two servers never share a directory; a command without a server holds it while it changes the
keys, so that two commands do not lose each other's change, and no server starts between. The kernel
frees it when its holder dies, however it dies.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time
from pathlib import Path

from gpustack_fast.errors import DataDirectoryInUse, StoreError
from gpustack_fast.machine import SOCKET_PATH_LIMIT

__all__ = ["DataDirectory", "explain_os_error"]

_POLL = 0.02
"""Seconds between two tries for the lock."""


class DataDirectory:
    """One data directory. Making the object touches nothing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.run = path / "run"
        self.spool = path / "spool"
        self.keys_file = path / "keys.json"
        self.first_key_file = path / "first-key"
        self.routes_file = path / "routes.json"
        self.control_socket = self.run / "control.sock"
        self.api_socket = self.run / "api.sock"
        self._lock_file = path / "lock"
        self._lock: int | None = None

    @property
    def held(self) -> bool:
        """Whether this object holds the lock."""
        return self._lock is not None

    def acquire(self, patience: float = 2.0) -> None:
        """Makes the directory if need be, and takes its lock until `release` or the process's end.

        Waits `patience` seconds for a command that holds the lock for a moment. Raises
        DataDirectoryInUse when another process keeps it, StoreError when the directory cannot be
        used.
        """
        self._check_socket_paths()
        try:
            _make_directory(self.path)
            _make_private(self.run)
            lock = os.open(
                self._lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
            )
        except OSError as error:
            raise StoreError(
                explain_os_error(error, f"The data directory {self.path} cannot be used")
            ) from error
        try:
            self._lock_within(lock, patience)
            os.truncate(lock, 0)
            os.pwrite(lock, b"%d\n" % os.getpid(), 0)
        except OSError as error:
            os.close(lock)
            raise StoreError(
                explain_os_error(error, f"The file {self._lock_file} cannot be locked")
            ) from error
        except DataDirectoryInUse:
            os.close(lock)
            raise
        give_to_owner(lock, self.path)
        self._lock = lock

    def empty_spool(self) -> Path:
        """Makes the folder for request bodies that wait in files, without those of a killed server.

        Needs the lock. Nothing but plain files is touched. Raises StoreError.
        """
        assert self.held, "the spool belongs to the holder of the lock"
        try:
            _make_private(self.spool)
            with os.scandir(self.spool) as entries:
                for entry in entries:
                    if entry.is_file(follow_symlinks=False):
                        os.unlink(entry.path)
        except OSError as error:
            raise StoreError(
                explain_os_error(error, f"The folder {self.spool} cannot be used")
            ) from error
        return self.spool

    def release(self) -> None:
        """Gives the lock back. The file stays, so that there is one to lock and not two."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _lock_within(self, lock: int, patience: float) -> None:
        deadline = time.monotonic() + patience
        while True:
            try:
                return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise DataDirectoryInUse(self.path, _written_pid(lock)) from None
            time.sleep(_POLL)

    def _check_socket_paths(self) -> None:
        longest = max(len(os.fsencode(path)) for path in (self.control_socket, self.api_socket))
        if longest > SOCKET_PATH_LIMIT:
            raise StoreError(
                f"The data directory {self.path} has too long a path: that of its sockets would "
                f"have {longest} bytes, and Linux allows {SOCKET_PATH_LIMIT}. Choose a shorter one "
                "with --data-dir."
            )


def give_to_owner(file: int, directory: Path) -> None:
    """Gives a new file to the directory's owner, who must be able to read what root makes here."""
    owner = directory.stat()
    if os.geteuid() == 0 and os.fstat(file).st_uid != owner.st_uid:
        os.fchown(file, owner.st_uid, owner.st_gid)


def explain_os_error(error: OSError, what: str) -> str:
    """Whole sentences for a failed system call: what failed, why, and the next step."""
    steps = {
        errno.ENOSPC: "The disk is full: free some space and try again",
        errno.EDQUOT: "The disk quota is used up: free some space and try again",
        errno.EFBIG: "File too large: raise the limit of a file's size, `ulimit -f`",
        errno.EMFILE: "Too many open files: raise the limit of descriptors, `ulimit -n`",
        errno.ENFILE: "Too many open files on this machine: raise its limit, fs.file-max",
        errno.EROFS: "The file system is read-only: choose another directory with --data-dir",
        errno.EACCES: "Permission was denied: run it as the owner of the directory, or choose "
        "another with --data-dir",
        errno.EPERM: "Permission was denied: run it as the owner of the directory, or choose "
        "another with --data-dir",
        errno.ENOLCK: "Its file system cannot lock files: choose a local directory with --data-dir",
        errno.ENOTDIR: "A part of its path is no directory: choose another with --data-dir",
        errno.EEXIST: "There is a file of this name, and no directory: choose another with "
        "--data-dir",
    }
    unknown = (
        f"The system says: {error.strerror or error}. Choose another directory with --data-dir"
    )
    reason = steps.get(error.errno or 0, unknown)
    return f"{what}. {reason}."


def _make_directory(folder: Path) -> None:
    """Makes the data directory, for its owner alone; one that exists keeps its rights.

    (It may be a mounted volume or somebody's home; what matters in it has its own narrow rights.)
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_mode & stat.S_IWOTH:
        raise StoreError(
            f"Everybody may write to the directory {folder}, so that anybody could replace the "
            "keys in it. Run `chmod o-w` on it, or choose another with --data-dir."
        )


def _make_private(folder: Path) -> None:
    """Makes a folder that only the data directory's owner may enter."""
    folder.mkdir(mode=0o700, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        give_to_owner(descriptor, folder.parent)
        os.fchmod(descriptor, 0o700)
    finally:
        os.close(descriptor)


def _written_pid(lock: int) -> int | None:
    text = os.pread(lock, 32, 0).strip()
    return int(text) if text.isdigit() else None
