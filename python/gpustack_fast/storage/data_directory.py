"""The data directory, and the lock that says who may touch it.

    DIR/                    0700, and its owner's who runs the program
    ├── lock                held (flock) by a server, or briefly by a command that changes keys
    ├── keys.json           0600, see `keys`
    ├── first-key           0600, the key of the first start, where no terminal was there to show it
    ├── routes.json         0600, see `route_numbers`
    ├── models.json         0600, see `model_states`
    ├── events.jsonl        0600, see `events`
    ├── tokens.json         0600, see `token_counts`
    ├── spool/              0700: request bodies that wait in files; emptied at each start
    └── run/                0700
        ├── control.sock    0600, see `control`
        └── api.sock        the management API, see `api`

(Engines, their logs and their records lie beside these: see `environments` and `engine_paths`.)

One lock guards all of it: a server holds it from before it reads anything until it has ended, or
has handed everything over, so that two servers never write to a directory; a command without a
server holds it while it changes the keys, so that two commands do not lose each other's change, and
no server starts between. The kernel frees it when its holder dies, however it dies.

Whoever can write here can put keys of his own into it. So what belongs to somebody else is not
used, not by root either, and what others may read or write is taken from them, and that is told.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import pwd
import stat
import time
from pathlib import Path

from gpustack_fast.errors import DataDirectoryInUse, StoreError, UsageError
from gpustack_fast.machine import SOCKET_PATH_LIMIT

__all__ = ["DataDirectory", "check_is_ours", "check_usable", "explain_os_error", "make_private"]

log = logging.getLogger(__name__)

_POLL = 0.02
"""Seconds between two tries for the lock."""
_MARKS = {"lock", "keys.json"}
"""One of them is in each data directory that was ever used."""
_AT_FIRST = {*_MARKS, "run", "spool", "logs", "engines", "cache", "models", "lost+found"}
"""What may be there before the first start: left by one that failed, or mounted into it (`cache` in
our container), and what a file system has of its own.
"""


class DataDirectory:
    """One data directory. Making the object touches nothing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.run = path / "run"
        self.spool = path / "spool"
        self.keys_file = path / "keys.json"
        self.first_key_file = path / "first-key"
        self.routes_file = path / "routes.json"
        self.models_file = path / "models.json"
        self.events_file = path / "events.jsonl"
        self.tokens_file = path / "tokens.json"
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
        DataDirectoryInUse when another process keeps it, UsageError when its path is too long or
        it holds other things, and StoreError when the directory cannot be used.
        """
        self.check_socket_paths()
        try:
            _make_directory(self.path)
            for file in (
                self._lock_file,
                self.keys_file,
                self.routes_file,
                self.models_file,
                self.events_file,
                self.tokens_file,
            ):
                _keep_file_private(file)
            make_private(self.run)
            lock = os.open(
                self._lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
            )
        except OSError as error:
            raise StoreError(
                explain_os_error(error, f"The data directory {self.path} cannot be used")
            ) from error
        try:
            if not stat.S_ISREG(os.fstat(lock).st_mode):
                raise OSError(errno.EINVAL, "it is no file")
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
        self._lock = lock

    def inherit(self, lock: int) -> None:
        """Takes the lock from the process that holds it: an open file is locked, and not its
        holder. `lock` is a descriptor of that file, and belongs to this object from now on.

        Raises UsageError where it is that of another directory, and StoreError.
        """
        self.check_socket_paths()
        try:
            held = os.fstat(lock)
            ours = os.stat(self._lock_file, follow_symlinks=False)
            is_another = (held.st_dev, held.st_ino) != (ours.st_dev, ours.st_ino)
        except FileNotFoundError:
            is_another = True
        except OSError as error:
            os.close(lock)
            raise StoreError(
                explain_os_error(error, f"The data directory {self.path} cannot be used")
            ) from error
        if is_another:
            os.close(lock)
            raise UsageError(
                f"The data directory {self.path} is not that of the running server. Set `data_dir` "
                "as it was, or stop that server and start one anew."
            )
        self._lock = lock

    def sign(self) -> None:
        """Says in the lock's file which process holds it. A full disk is no reason not to."""
        assert self._lock is not None
        with contextlib.suppress(OSError):
            os.truncate(self._lock, 0)
            os.pwrite(self._lock, b"%d\n" % os.getpid(), 0)

    def descriptor(self) -> int:
        """The lock's, for a process that is to inherit it."""
        assert self._lock is not None
        return self._lock

    def empty_spool(self) -> Path:
        """Makes the folder for request bodies that wait in files, without those of a killed server.

        Needs the lock. Nothing but plain files is touched. Raises StoreError.
        """
        assert self.held, "the spool belongs to the holder of the lock"
        try:
            make_private(self.spool)
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

    def check_socket_paths(self) -> None:
        """Raises UsageError where the sockets in it would have too long paths."""
        longest = max(len(os.fsencode(path)) for path in (self.control_socket, self.api_socket))
        if longest > SOCKET_PATH_LIMIT:
            raise UsageError(
                f"The data directory {self.path} has too long a path: that of its sockets would "
                f"have {longest} bytes, and Linux allows {SOCKET_PATH_LIMIT}. Choose a shorter one "
                "with --data-dir."
            )


def check_usable(folder: Path) -> None:
    """Raises UsageError for a directory that a server would refuse, whoever runs it."""
    DataDirectory(folder).check_socket_paths()
    try:
        _check_not_everybody_s(folder, folder.stat())
    except StoreError as error:
        raise UsageError(str(error)) from error
    except OSError:
        return  # it may not be there yet, and what cannot be read is for others to tell
    check_is_ours(folder)


def check_is_ours(folder: Path) -> None:
    """Raises UsageError for a folder that holds other things: nobody means to mix ours with them.

    One that is new, empty, or was a data directory before will do. What cannot be read is for
    others to tell.
    """
    try:
        names = set(os.listdir(folder))
    except OSError:
        return
    marks = [name for name in names & _MARKS if _is_plain_file(folder / name)]
    if names - _AT_FIRST and not marks:
        raise UsageError(
            f"The folder {folder} is no data directory: it holds other things, and no server has "
            "used it. Check --data-dir: `gpustack-fast serve` takes an empty folder, or makes one."
        )


def _is_plain_file(path: Path) -> bool:
    """Links are none: `/var` has one called `lock`."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def explain_os_error(error: OSError, what: str) -> str:
    """Whole sentences for a failed system call: what failed, why, and the next step."""
    name = error.filename2 or error.filename
    where = f" ({name})" if isinstance(name, str) else ""
    steps = {
        errno.ENOENT: f"It is not there any more{where}: put it back, or start the server anew "
        "with another directory (--data-dir)",
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
        errno.EEXIST: f"A file is in the place of a directory{where}: move it away, or choose "
        "another with --data-dir",
        errno.EISDIR: f"A directory is in the place of a file{where}: move it away",
        errno.ELOOP: f"A link is in the place of a file, or leads to itself{where}: remove it",
    }
    unknown = (
        f"The system says: {error.strerror or error}{where}. Choose another directory with "
        "--data-dir"
    )
    reason = steps.get(error.errno or 0, unknown)
    return f"{what}. {reason}."


def make_private(folder: Path) -> None:
    """Makes a folder that only its owner may enter. Raises OSError, StoreError."""
    folder.mkdir(mode=0o700, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        _keep_private(folder, os.fstat(descriptor), 0o700)
    finally:
        os.close(descriptor)


def _make_directory(folder: Path) -> None:
    """Makes the data directory, for its owner alone."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.stat()
    _check_owner(folder, found)
    _check_not_everybody_s(folder, found)
    check_is_ours(folder)
    _keep_private(folder, found, 0o700)


def _check_not_everybody_s(folder: Path, found: os.stat_result) -> None:
    if found.st_mode & stat.S_IWOTH:
        raise StoreError(
            f"Everybody may write to the directory {folder}, so that anybody could replace the "
            "keys in it. Run `chmod o-w` on it, or choose another with --data-dir."
        )


def _keep_file_private(file: Path) -> None:
    """Takes the rights of others on a file of ours, if it is there."""
    try:
        found = file.lstat()
    except FileNotFoundError:
        return
    _check_owner(file, found)
    if stat.S_ISREG(found.st_mode):
        _keep_private(file, found, 0o600)


def _keep_private(path: Path, found: os.stat_result, mode: int) -> None:
    _check_owner(path, found)
    before = stat.S_IMODE(found.st_mode)
    if before & 0o077:
        path.chmod(mode)
        log.warning(
            "Others had rights on %s (mode %04o); now it is for its owner alone (%04o).",
            path,
            before,
            mode,
        )


def _check_owner(path: Path, found: os.stat_result) -> None:
    ours = os.geteuid()
    if found.st_uid != ours:
        raise StoreError(
            f"{path} belongs to {_user(found.st_uid)}, who could replace the keys, and this "
            f"program runs as {_user(ours)}. Run it as its owner, give it to that user with "
            "`chown -R`, or choose another directory with --data-dir."
        )


def _user(number: int) -> str:
    try:
        return f"the user {pwd.getpwuid(number).pw_name}"
    except KeyError:
        return f"the user {number}"


def _written_pid(lock: int) -> int | None:
    text = os.pread(lock, 32, 0).strip()
    return int(text) if text.isdigit() else None
