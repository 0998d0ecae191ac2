"""Builds an engine's own environment: isolated, pinned, with uv.

    DATA_DIR/engines/BACKEND/
    ├── HASH/             the environment; it is whole when `complete` is inside
    ├── HASH.building/    on its way; the next build removes a leftover of an interrupted one
    └── HASH.lock         held by whoever builds, and by the uv that it started

HASH is the first 12 hex digits of SHA-256 over the lock file, so a new lock is a new environment
beside the old one. The router's own environment never carries an engine.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import os
import shutil
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import uv

from gpustack_fast.errors import GpustackFastError
from gpustack_fast.faults import run_in_thread

__all__ = ["BuildError", "environment_path", "is_complete", "lock_file", "prepare"]

LOCKS = Path(__file__).parents[1] / "backends" / "locks"
MARKER = "complete"
PROGRESS_EVERY = 10.0
STOP_PATIENCE = 5.0

Report = Callable[[str], None]
"""Shows one line to the person who waits."""

CAUSES = [
    (
        ("No space left on device", "Disk quota exceeded"),
        "the disk is full. Make room (about 400 MB are needed)",
    ),
    (
        ("Hash mismatch",),
        "a downloaded package is not the one that was pinned. Check the package index that uv uses",
    ),
    (
        ("Permission denied", "Read-only file system"),
        "the folder cannot be written. Check its owner and permissions",
    ),
    (
        (
            "Failed to fetch",
            "error sending request",
            "dns error",
            "Connection refused",
            "timed out",
            "not found in the",
        ),
        "a package could not be fetched. Check the network, or the package index that uv uses",
    ),
    (
        ("no wheels with a matching", "no usable wheels", "has no wheels"),
        "there is no prebuilt engine for this system. It needs Linux on x86-64 or arm64 with "
        "glibc, and Python 3.11",
    ),
]
"""uv's words for a cause, and the cause for a person."""


class BuildError(GpustackFastError):
    """An engine's environment could not be built. The text has the cause and the next step."""


def lock_file(backend: str) -> Path:
    """The pinned requirements of a backend."""
    return LOCKS / f"{backend}.txt"


def environment_path(data_dir: Path, lock: Path) -> Path:
    """The folder of this lock file's environment, built or not."""
    digest = hashlib.sha256(lock.read_bytes()).hexdigest()
    return data_dir / "engines" / lock.stem / digest[:12]


def interpreter(environment: Path) -> Path:
    return environment / "bin" / "python"


def is_complete(environment: Path) -> bool:
    """Whether it was built to the end, and the Python that it rests on is still there."""
    return (environment / MARKER).is_file() and interpreter(environment).exists()


async def prepare(data_dir: Path, backend: str, report: Report, lock: Path | None = None) -> Path:
    """Returns the interpreter of the backend's environment; builds it first where it is missing.

    Safe to interrupt (a cancelled build ends uv and removes what it began) and to repeat; two
    builders wait for each other. Raises BuildError.
    """
    lock = lock or lock_file(backend)
    target = await run_in_thread(environment_path, data_dir, lock)
    if await run_in_thread(is_complete, target):
        return interpreter(target)
    try:
        async with building(target, backend, report) as handle:
            # Whoever held the lock before may have built it.
            if not await run_in_thread(is_complete, target):
                await build(target, lock, handle, report)
    except OSError as error:
        raise BuildError(explain(backend, target, str(error))) from error
    return interpreter(target)


@contextlib.asynccontextmanager
async def building(target: Path, backend: str, report: Report) -> AsyncIterator[int]:
    """Holds the lock beside `target`; gives its descriptor, which a child may hold on to."""
    handle = await run_in_thread(open_lock, target)
    waiting = False
    try:
        while not try_lock(handle):
            if not waiting:
                report(
                    f"Another process is building the environment of {backend}; waiting for it ..."
                )
                waiting = True
            await asyncio.sleep(0.2)
        yield handle
    finally:
        os.close(handle)


def open_lock(target: Path) -> int:
    """Opens the lock beside `target`, and makes its folder. Raises OSError."""
    target.parent.mkdir(parents=True, exist_ok=True)
    lock = target.with_name(target.name + ".lock")
    return os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def try_lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


async def build(target: Path, lock: Path, handle: int, report: Report) -> None:
    """Builds beside `target`, and renames at the very end."""
    begun = time.monotonic()
    backend = lock.stem
    report(f"Building the environment of {backend} (once; a download of about 130 MB) ...")
    temporary = target.with_name(target.name + ".building")
    try:
        for leftover in (temporary, target):
            await run_in_thread(remove, leftover)
        uv_program = find_uv()
        venv = [
            uv_program,
            "venv",
            "--quiet",
            "--python",
            sys.executable,
            "--no-python-downloads",
            str(temporary),
        ]
        install = [
            uv_program,
            "pip",
            "install",
            "--no-progress",
            "--python",
            str(interpreter(temporary)),
            "--no-deps",
        ]
        install += ["--only-binary", ":all:", "--require-hashes", "--requirements", str(lock)]
        for command in (venv, install):
            await run(command, backend, target, handle, report)
        finish(temporary, lock, target)  # at once: no stop may remove it meanwhile
    except BaseException:
        with contextlib.suppress(OSError):
            await run_in_thread(remove, temporary)
        raise
    report(f"The environment of {backend} is ready after {time.monotonic() - begun:.1f} s.")


def remove(folder: Path) -> None:
    """Removes a folder, if it is there. Raises OSError."""
    if folder.exists():
        shutil.rmtree(folder)


def finish(temporary: Path, lock: Path, target: Path) -> None:
    shutil.copyfile(lock, temporary / MARKER)
    temporary.rename(target)


def find_uv() -> str:
    """The uv that was installed with us."""
    try:
        return uv.find_uv_bin()
    except FileNotFoundError as error:
        raise BuildError(
            "The program uv was not found beside this Python, and engines are installed with it. "
            f"Install it with: {sys.executable} -m pip install uv"
        ) from error


async def run(command: list[str], backend: str, target: Path, handle: int, report: Report) -> None:
    """Runs one uv command to its end, with a line of progress now and then.

    The child holds on to the lock: were we killed, it would still keep the next builder out until
    it has ended. Raises BuildError when it fails.
    """
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("VIRTUAL_ENV", "PYTHONHOME")
    }
    child = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env=environment,
        cwd=target.parent,
        pass_fds=[handle],
        start_new_session=True,  # Ctrl-C reaches us alone, and we end it
    )
    begun = time.monotonic()
    reading = asyncio.ensure_future(child.communicate())
    try:
        while not (await asyncio.wait({reading}, timeout=PROGRESS_EVERY))[0]:
            report(
                f"Still building the environment of {backend} ({time.monotonic() - begun:.0f} s) "
                "..."
            )
        said = reading.result()[1].decode(errors="replace").strip()
    finally:
        if child.returncode is None:
            await end(child)
    if child.returncode != 0:
        raise BuildError(explain(backend, target, said))


async def end(child: asyncio.subprocess.Process) -> None:
    """Politely, then firmly. One that a disk keeps inside the kernel is not waited for."""
    for ask in (child.terminate, child.kill):
        ask()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_PATIENCE):
                await child.wait()
                return


def explain(backend: str, target: Path, said: str) -> str:
    """A failure for a person: the cause, the next step, and uv's last lines."""
    cause = "uv could not install it"
    for words, meaning in CAUSES:
        if any(word.lower() in said.lower() for word in words):
            cause = meaning
            break
    last = "\n".join(f"  uv: {line}" for line in said.splitlines()[-12:] if line.strip())
    return (
        f"The environment of {backend} in {target} could not be built: {cause}, then start again; "
        f"what was downloaded is kept.\n{last}"
    ).rstrip()
