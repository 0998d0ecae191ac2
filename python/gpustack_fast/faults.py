"""Faults of this machine that are worked around: counted, and told once in a while.

No descriptor left, no room on the disk, a process table that cannot be read: what they hit is tried
again, or done another way. None of them says anything about an engine.
"""

from __future__ import annotations

import asyncio
import collections
import concurrent.futures
import contextlib
import errno
import logging
import os
import threading
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Literal, TypeVar, get_args

__all__ = [
    "Faults",
    "Work",
    "go_on",
    "is_ours",
    "open_in_thread",
    "reason_of",
    "run_in_thread",
]

log = logging.getLogger(__name__)

T = TypeVar("T")

Work = Literal[
    "control_socket",
    "engine_start",
    "files",
    "history",
    "keys",
    "log_rotation",
    "mistake",
    "models",
    "probe",
    "processes",
    "tokens",
]
"""The work that a fault has hit, as a metric's label; `WORDS` has a sentence for each."""

WORDS: dict[Work, str] = {
    "control_socket": "A command came when there was no descriptor for it but the reserved one",
    "engine_start": "An engine could not be started, for no fault of its own, and is tried again",
    "files": "Files of an ended engine could not be removed; the next start removes them",
    "history": "The states of models and the events could not be saved, which is tried again",
    "keys": "The keys on the disk could not be changed, which is tried again; in memory they are",
    "log_rotation": "An engine's log could not be kept when it had grown too large",
    "mistake": "A mistake in gpustack-fast was worked around",
    "models": "The model store could not be used, for no fault of a model, and is tried again",
    "probe": "Engines could not be probed, and stay in their states",
    "processes": "The process table could not be read, and is read again",
    "tokens": "The counts of tokens could not be saved, which is tried again",
}
BEGIN_AGAIN_AFTER = 1.0
"""Seconds until that is begun anew which a mistake has ended."""
TELL_EVERY = 60.0
"""Seconds between two lines about the same work."""

OURS = frozenset(
    [
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOMEM,
        errno.ENOBUFS,
        errno.EADDRNOTAVAIL,
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EFBIG,
        errno.EROFS,
        errno.EIO,
    ]
)
"""What the system says when it is itself short of something."""

STEPS = {
    errno.EMFILE: "raise the limit of descriptors, `ulimit -n` or LimitNOFILE of the systemd unit",
    errno.ENFILE: "raise the machine's limit of open files, fs.file-max",
    errno.EADDRNOTAVAIL: "widen the machine's range of ports, net.ipv4.ip_local_port_range",
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space, or raise the quota",
}


def is_ours(error: BaseException | None) -> bool:
    """Whether this machine, and not the other end, is to blame for an error, or for its cause."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in OURS:
            return True
        error = error.__cause__
    return False


def reason_of(error: OSError) -> str:
    """A fault in words, with the file and the next step where they are known; no full stop."""
    step = STEPS.get(error.errno or 0)
    where = f" ({error.filename})" if error.filename else ""
    return f"{error.strerror or error}{where}{f': {step}' if step else ''}"


async def run_in_thread(function: Callable[..., T], *arguments: object) -> T:
    """Runs what may wait for a disk beside the event loop, in a thread of its own.

    A disk may never respond, and then neither other work nor the end of the process waits for it.
    What is cancelled goes on in its thread, and nobody hears of its end. Raises what `function`
    raises, and OSError (EAGAIN) where no thread can be started.
    """
    future = concurrent.futures.Future[T]()

    def hand_on(_: object, error: BaseException | None, __: object) -> bool:
        if error is not None:
            future.set_exception(error)
        return True

    def work() -> None:
        if not future.set_running_or_notify_cancel():
            return  # it was cancelled before it began
        with contextlib.ExitStack() as otherwise:
            otherwise.push(hand_on)
            future.set_result(function(*arguments))

    try:
        threading.Thread(target=work, daemon=True).start()
    except RuntimeError as error:
        raise OSError(errno.EAGAIN, "no thread can be started") from error
    return await asyncio.wrap_future(future)


async def open_in_thread(function: Callable[..., int], *arguments: object) -> int:
    """As `run_in_thread`, for what opens a descriptor: where the caller is cancelled meanwhile, it
    is closed as soon as it is there, and with it goes the lock that it may hold.
    """
    opening = asyncio.ensure_future(run_in_thread(function, *arguments))
    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:
        opening.add_done_callback(_close)
        raise


def _close(opened: asyncio.Future[int]) -> None:
    if not opened.cancelled() and opened.exception() is None:
        os.close(opened.result())


async def go_on(work: Callable[[], Coroutine[Any, Any, None]], what: str, faults: Faults) -> None:
    """Does, until it is cancelled, what shall never end: after a mistake it is begun anew.

    `what` begins the sentence about the mistake, as in `The watch on the engines`.
    """
    while True:
        working = asyncio.ensure_future(work())
        try:
            await asyncio.wait({working})
        finally:
            working.cancel()
        error = working.exception()
        log.error("%s ended by a mistake; going on.", what, exc_info=error)
        faults.note("mistake", type(error).__name__)
        await asyncio.sleep(BEGIN_AGAIN_AFTER)


class Faults:
    """The faults since the start."""

    def __init__(self) -> None:
        self._counts: collections.Counter[Work] = collections.Counter()
        self._told: dict[Work, tuple[float, int]] = {}
        """When (monotonic seconds) a work was last told, and its count then."""

    @property
    def counts(self) -> Mapping[Work, int]:
        """The faults by the work that they have hit, zeros included."""
        return {work: self._counts[work] for work in get_args(Work)}

    def note(self, work: Work, error: OSError | str) -> None:
        """Counts a fault, and tells it unless a line about the same work is young."""
        self._counts[work] += 1
        at, before = self._told.get(work, (float("-inf"), 0))
        now = time.monotonic()
        if now - at < TELL_EVERY:
            return
        count = self._counts[work]
        self._told[work] = now, count
        reason = reason_of(error) if isinstance(error, OSError) else error.rstrip(".")
        times = f" (times since the last such line: {count - before})" if before else ""
        log.warning("%s: %s%s.", WORDS[work], reason, times)
