"""Reads the GPUs in one thread of its own, and never waits for a driver longer than it was told to.

A call of the driver may never return. Then its thread stays where it is, no second one is started,
and whoever reads is told so, at once, until the call has come back.
"""

from __future__ import annotations

import contextlib
import functools
import queue
import threading
import time
from concurrent.futures import Future, wait
from types import TracebackType

from gpustack_fast.gpus import words
from gpustack_fast.gpus.documents import GpuReport
from gpustack_fast.gpus.driver import Driver

__all__ = ["DEADLINE", "Reader"]

DEADLINE = 15.0
"""Seconds for one read. The first may take long: without `nvidia-persistenced` the driver sets up
each GPU anew.
"""
CLOSED_WITHIN = 1.0
"""Seconds that the end waits for the driver."""


class Reader:
    """The GPUs of this machine. `read` never raises for a driver, and may be called at any time.

    Those who read at the same time get the same report.
    """

    def __init__(self, deadline: float = DEADLINE) -> None:
        self._deadline = deadline
        self._driver = Driver()
        self._jobs: queue.SimpleQueue[Future[GpuReport] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._job: Future[GpuReport] | None = None
        self._begun = 0.0
        """Monotonic seconds: when the job began."""
        self._thread: threading.Thread | None = None
        self._ended = Future[None]()

    async def read(self) -> GpuReport:
        """All GPUs now."""
        import asyncio  # the commands read without an event loop, and are to be quick

        job = self._begin()
        if isinstance(job, GpuReport):
            return job
        waiting = asyncio.wrap_future(job)
        try:
            await asyncio.wait({waiting}, timeout=self._left())
            return await waiting if job.done() else self._hung()
        finally:
            waiting.cancel()  # the job itself goes on, and tells no event loop that has ended

    def read_blocking(self) -> GpuReport:
        """As `read`, without an event loop."""
        job = self._begin()
        if isinstance(job, GpuReport):
            return job
        wait([job], timeout=self._left())
        return job.result() if job.done() else self._hung()

    async def close(self) -> None:
        """Lets the driver go; one that hangs is left alone, with its thread."""
        import asyncio

        if (thread := self._stop()) is not None and thread.is_alive():
            waiting = asyncio.wrap_future(self._ended)
            await asyncio.wait({waiting}, timeout=CLOSED_WITHIN)
            waiting.cancel()

    def close_blocking(self) -> None:
        """As `close`, without an event loop."""
        if (thread := self._stop()) is not None:
            thread.join(CLOSED_WITHIN)

    def _begin(self) -> Future[GpuReport] | GpuReport:
        """The read that is under way, or a new one, or why there is none."""
        with self._lock:
            if self._ended.running() or self._ended.done():
                return _none("The GPUs are not read any more, for the server ends.")
            if self._job is not None and not self._job.done():
                return self._job
            if self._thread is None:
                thread = threading.Thread(target=self._work, name="nvml", daemon=True)
                try:
                    thread.start()
                except RuntimeError:
                    return _none(
                        "The GPUs cannot be read: the system gives no more threads. Raise its "
                        "limit of processes (`ulimit -u`, or TasksMax of the systemd unit)."
                    )
                self._thread = thread
            job = Future[GpuReport]()
            job.set_running_or_notify_cancel()  # so that whoever gives up does not cancel it
            self._job, self._begun = job, time.monotonic()
            self._jobs.put(job)
            return job

    def _left(self) -> float:
        """Seconds until the read that is under way counts as hung."""
        return max(0.0, self._begun + self._deadline - time.monotonic())

    def _hung(self) -> GpuReport:
        return _none(words.hung(time.monotonic() - self._begun, self._driver.asked))

    def _stop(self) -> threading.Thread | None:
        with self._lock:
            if not self._ended.running() and not self._ended.done():
                self._ended.set_running_or_notify_cancel()
                self._jobs.put(None)
            return self._thread

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            with contextlib.ExitStack() as otherwise:
                otherwise.push(functools.partial(_hand_on, job))
                job.set_result(self._driver.read())
        self._driver.close()
        self._ended.set_result(None)


def _none(problem: str) -> GpuReport:
    return GpuReport(driver_version=None, cuda_version=None, gpus=[], problem=problem, unread=True)


def _hand_on(
    job: Future[GpuReport],
    _: type[BaseException] | None,
    error: BaseException | None,
    __: TracebackType | None,
) -> bool:
    """Gives a mistake of ours to whoever reads, so that the thread lives on."""
    if error is not None:
        job.set_exception(error)
    return True
