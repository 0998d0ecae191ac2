"""uv as a child: its progress, its end, and its complaints in sentences."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import re
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import uv

from gpustack_fast.engines.environments.documents import BuildError, Report, gigabytes

__all__ = ["Work", "end", "find_uv", "run_uv"]

PROGRESS_EVERY = 10.0
STOP_PATIENCE = 5.0
LAST_LINES = 12
"""Of what uv has written, in the message about its failure."""

CAUSES = [
    (
        ("No space left on device", "Disk quota exceeded"),
        "the disk is full. Make room (about {size} are needed in all)",
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
        ("No solution found", "requirements are unsatisfiable"),
        "there is no such version, or none that fits this system and this Python. Name another one",
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
        "there is no prebuilt package for this system (its processor, its C library, or its "
        "Python). Use another machine",
    ),
]
"""uv's words for a cause, and the cause for a person."""

DOWNLOADING = re.compile(r"\s*(Downloading|Downloaded) (\S+)(?: \((.+)\))?")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Work:
    """What uv is run for, in words, and where."""

    what: str
    """Such as `the environment of vllm 0.33.0 (cuda)`."""
    doing: str
    """Such as `building`."""
    folder: Path
    """Where it is made, for messages."""
    size: int
    """Bytes of room on the disk that the whole needs."""
    handle: int
    """The descriptor of a lock. The child holds on to it: were we killed, it would still keep the
    next builder out until it has ended.
    """
    report: Report


def find_uv() -> str:
    """The uv that was installed with us. Raises BuildError."""
    try:
        return uv.find_uv_bin()
    except FileNotFoundError as error:
        raise BuildError(
            "The program uv was not found beside this Python, and engines are installed with it. "
            f"Install it with: {sys.executable} -m pip install uv"
        ) from error


async def run_uv(arguments: Sequence[str], work: Work) -> None:
    """Runs one uv command to its end, with a line of progress now and then.

    Raises BuildError when it fails, and OSError where it cannot be started.
    """
    child = await asyncio.create_subprocess_exec(
        find_uv(),
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env=_environment(),
        cwd="/",  # else uv would obey the project in whose folder the data directory may lie
        pass_fds=[work.handle],
        start_new_session=True,  # Ctrl-C reaches us alone, and we end it
    )
    progress = Progress(child.pid)
    reading = asyncio.ensure_future(_read(child, progress))
    try:
        while not (await asyncio.wait({reading}, timeout=PROGRESS_EVERY))[0]:
            work.report(f"Still {work.doing} {work.what} ({progress.line()}) ...")
        reading.result()
        code = await child.wait()
    finally:
        reading.cancel()
        if child.returncode is None:
            await end(child)
    if code != 0:
        raise BuildError(explain(work, progress.lines, code))


def _environment() -> dict[str, str]:
    """Ours, without what would lead uv into another environment."""
    others = ("VIRTUAL_ENV", "PYTHONHOME", "PYTHONPATH", "UV_PYTHON", "UV_PROJECT_ENVIRONMENT")
    return {name: value for name, value in os.environ.items() if name not in others}


class Progress:
    """What uv has said, and how far it is."""

    def __init__(self, pid: int) -> None:
        self.lines: list[str] = []
        """Without those of single packages."""
        self._io = Path(f"/proc/{pid}/io")
        self._begun = time.monotonic()
        self._downloading: dict[str, str] = {}

    def note(self, line: str) -> None:
        found = DOWNLOADING.match(line)
        if found is None:
            self.lines.append(line)
            del self.lines[:-LAST_LINES]
        elif found[1] == "Downloading":
            self._downloading[found[2]] = found[3] or ""
        else:
            self._downloading.pop(found[2], None)

    def line(self) -> str:
        """How long, how many bytes, what is done, and what is on its way."""
        parts = [f"{time.monotonic() - self._begun:.0f} s"]
        written = self._written()
        if written:
            parts[0] += f", {gigabytes(written)} written"
        if self.lines:
            last = self.lines[-1].strip()
            # Of what it does then uv says nothing before the end, and it may take minutes.
            parts.append("compiling its modules" if last.startswith("Installed ") else last)
        if self._downloading:
            named = [f"{name} {size}".rstrip() for name, size in self._downloading.items()]
            more = f" and {len(named) - 3} more" if len(named) > 3 else ""
            parts.append(f"downloading {', '.join(named[:3])}{more}")
        return "; ".join(parts)

    def _written(self) -> int | None:
        """The bytes that uv has written; None: nobody can say."""
        try:
            text = self._io.read_text(encoding="ascii")
        except OSError:
            return None
        found = re.search(r"^wchar: (\d+)$", text, re.MULTILINE)
        return int(found[1]) if found else None


async def _read(child: asyncio.subprocess.Process, progress: Progress) -> None:
    """Takes what the child says until it says no more."""
    assert child.stderr is not None
    rest = b""
    while block := await child.stderr.read(65536):
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            progress.note(line.decode(errors="replace").rstrip())
    if rest:
        progress.note(rest.decode(errors="replace").rstrip())


async def end(child: asyncio.subprocess.Process) -> None:
    """Politely, then firmly. One that a disk keeps inside the kernel is not waited for."""
    for ask in (child.terminate, child.kill):
        with contextlib.suppress(ProcessLookupError):
            ask()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_PATIENCE):
                await child.wait()
                return


def explain(work: Work, lines: Sequence[str], code: int) -> str:
    """A failure for a person: the cause, the next step, and uv's last lines."""
    said = "\n".join(lines).lower()
    cause = "uv could not do it. Look at what it says"
    if code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else str(-code)
        cause = f"uv was ended by the signal {name}. Look whether memory ran out"
    for words, meaning in CAUSES:
        if any(word.lower() in said for word in words):
            cause = meaning.format(size=gigabytes(work.size))
            break
    last = "\n".join(f"  uv: {line}" for line in lines if line.strip())
    return (
        f"{work.doing.capitalize()} {work.what} in {work.folder} failed: {cause}, then try again; "
        f"what was downloaded is kept.\n{last}"
    ).rstrip()
