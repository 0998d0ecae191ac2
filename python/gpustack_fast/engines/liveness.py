"""Whether an engine that runs still works.

Dead, hung, busy and wrong are different things:

    dead    its process has ended (`Instance.exited`), or a worker outside of its session has; or it
            says itself that it cannot go on (503)
    hung    it has not answered for `hang_timeout`, or has requests and has made no step for as long
    busy    it answers late, or its counters move, or (where it computes on processors) it uses
            them: it is left alone, and is asked nothing that would be work
    wrong   it answers requests with errors: the data plane passes it over (`table/outlier.rs`)

`/health` of vLLM says nothing about a hang: it stays 200 with a stopped EngineCore. Its counters
tell. That of TensorRT-LLM may stay 200 when a worker has died, which the process table shows. What
would make a token (`/health_generate`) is not asked: while requests are there it would be work
beside theirs, and without them nobody waits. SIGTERM does not reach what is stopped, so what hangs
is ended as any engine: politely, then firmly.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable

from gpustack_fast.backends import Progress
from gpustack_fast.engines.instance import Identified, Instance
from gpustack_fast.faults import Faults, is_ours

__all__ = ["lost"]

LOOK_EVERY = 5.0
ANSWER_WITHIN = 10.0
BUSY_SHARE = 0.05
"""Of one processor's time, from which on an engine computes: on a machine that others use as well,
too. Our questions alone cost a tenth of a percent.
"""
FALL = 3
"""Answers in a row by which it says itself that it is not well."""


async def lost(instance: Instance, in_flight: Callable[[str], int], faults: Faults) -> str:
    """Returns when an engine that runs is lost though its process is there: the reason, a sentence
    about "it". `in_flight`: the requests that this server has at an instance, by its id.
    """
    patience = instance.model.hang_timeout
    watch = Watch(instance.backend.progress, patience, time.monotonic())
    workers = Workers()
    while True:
        if reason := workers.look(await instance.apart()):
            return reason
        await asyncio.sleep(LOOK_EVERY)
        try:
            async with asyncio.timeout(min(patience or ANSWER_WITHIN, ANSWER_WITHIN)):
                status = (await instance.ask(instance.ready_path)).status
        except TimeoutError:
            status = None
        except OSError as error:
            if is_ours(error):
                faults.note("probe", error)
                continue
            status = None
        metrics = None if status is None else await _metrics(instance)
        used = await _used(instance)
        if reason := watch.look(status, metrics, in_flight(instance.id), time.monotonic(), used):
            return reason


async def _metrics(instance: Instance) -> str | None:
    """The text of its metrics; None: there is none, or it does not come."""
    progress = instance.backend.progress
    if progress is None:
        return None
    with contextlib.suppress(TimeoutError, OSError):
        async with asyncio.timeout(ANSWER_WITHIN):
            answer = await instance.ask(progress.path)
            return answer.body.decode(errors="replace") if answer.status == 200 else None
    return None


class Workers:
    """What was seen of the processes of an engine that have left its session."""

    def __init__(self) -> None:
        self._known: set[Identified] = set()

    def look(self, found: set[Identified] | None) -> str | None:
        """Notes a look (None: nobody could see them); the reason to give the engine up."""
        if found is None:
            return None
        gone = sorted(self._known - found)
        self._known = found
        if not gone:
            return None
        return f"A worker of it has ended (process {gone[0][0]}), whatever its health path says."


async def _used(instance: Instance) -> float | None:
    """The processors' time by which it may be busy; None: that says nothing, or is not known."""
    progress = instance.backend.progress
    if progress is None or not progress.on_processors:
        return None
    with contextlib.suppress(OSError):
        return await instance.processor_time()
    return None


class Watch:
    """What was seen of one engine. Times are monotonic seconds; `patience` 0: a hang is no end."""

    def __init__(self, progress: Progress | None, patience: float, now: float) -> None:
        self._progress = progress
        self._patience = patience
        self._answered = now
        self._unwell = 0
        self._moved = now
        self._steps = -1.0
        self._ran = False
        """Whether it had requests at the last look."""
        self._used = 0.0
        self._used_at = now

    def look(
        self,
        status: int | None,
        metrics: str | None,
        in_flight: int,
        now: float,
        used: float | None = None,
    ) -> str | None:
        """Notes a look (`status` of its health, None: no answer; `used`: the processors' time that
        it has taken, None: it does not count); the reason to give it up.
        """
        if status is not None:
            self._answered = now
        self._unwell = self._unwell + 1 if status is not None and status >= 500 else 0
        if self._unwell >= FALL:
            return f"It says itself that it cannot go on: it answers its health path with {status}."
        if metrics is None:
            self._moved = now  # nothing can be said
        else:
            self._note_steps(metrics, in_flight, now)
        if used is not None:
            if used - self._used >= BUSY_SHARE * (now - self._used_at):
                self._moved = now
            self._used, self._used_at = used, now
        if not self._patience:
            return None
        if now - self._answered >= self._patience:
            return (
                f"It has not answered for {now - self._answered:.0f} s (hang_timeout of the model: "
                f"{self._patience:g} s)."
            )
        if now - self._moved >= self._patience:
            return (
                f"It has requests, and has not made a step for {now - self._moved:.0f} s "
                f"(hang_timeout of the model: {self._patience:g} s)."
            )
        return None

    def _note_steps(self, metrics: str, in_flight: int, now: float) -> None:
        assert self._progress is not None
        # Its own count may stand still with it: vLLM's comes from the core that has hung.
        running = in_flight or total(metrics, [self._progress.running])
        steps = total(metrics, self._progress.tokens)
        # Without a number that is known, nothing can be said; and a request that was not there at
        # the last look has had no time yet.
        if not (running and self._ran) or steps is None or steps != self._steps:
            self._moved = now
        self._ran = bool(running)
        self._steps = -1.0 if steps is None else steps


def total(metrics: str, names: Iterable[str]) -> float | None:
    """The sum over all samples of these metrics; None: there are none."""
    wanted = set(names)
    found: list[float] = []
    for line in metrics.splitlines():
        name = line.partition("{")[0] if "{" in line else line.partition(" ")[0]
        if name in wanted:
            with contextlib.suppress(ValueError, IndexError):
                # A time may stand behind the value.
                found.append(float(line.rpartition("}")[2].split()[0 if "{" in line else 1]))
    return sum(found) if found else None
