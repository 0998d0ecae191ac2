"""Whether an engine that starts, or is adopted, has become ready, and serves its first request.

Whether it still works from then on is for `liveness`.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import time
from collections.abc import Awaitable, Callable

import msgspec

from gpustack_fast.engines.engine_log import LogFollower
from gpustack_fast.engines.instance import Instance
from gpustack_fast.engines.listening import listens
from gpustack_fast.errors import EngineFailed, printable
from gpustack_fast.faults import is_ours, run_in_thread

__all__ = ["until_ready", "warm_up"]

STAGE_EVERY = 1.0
"""Seconds between two looks at how far a start has come."""
STAGE_WITHIN = 5.0
"""Seconds that a disk may take to tell that, before nobody asks it any more."""
WARM_UP_WITHIN = 300.0
"""Seconds: kernels that are compiled at the first request were seen to take half a minute."""


async def until_ready(
    instance: Instance,
    stage: Callable[[str], None] = lambda _: None,
    is_ready: Callable[[], Awaitable[bool | None]] | None = None,
    limit: float | None = None,
) -> None:
    """Returns when the engine can serve; `stage` is told how far it has come. Raises
    EngineFailed when it ends or takes too long.

    `is_ready`: what is asked for that, else whether its ready path gives 200. `limit`: seconds,
    0 for none, instead of the model's `ready_timeout`.
    """
    asks = is_ready or functools.partial(_is_ready, instance)
    limit = instance.model.ready_timeout if limit is None else limit
    follower = LogFollower(instance.log, instance.backend.stages)
    waited, asked, looked = 0.0, time.monotonic(), 0.0
    while not (ready := await asks()):
        before, asked = asked, time.monotonic()
        # What cannot be probed is neither ready nor too slow.
        waited += 0.0 if ready is None else asked - before
        if asked >= looked + STAGE_EVERY and instance.backend.stages:
            looked = asked
            try:
                async with asyncio.timeout(STAGE_WITHIN):
                    stage(await run_in_thread(follower.stage))
            except TimeoutError:
                looked = float("inf")  # each further look would keep one more thread
            except OSError:
                pass  # there is no log yet, or none that can be read
        if limit and waited > limit:
            raise EngineFailed(
                f"The engine was not ready after {limit:g} s. Set a longer ready_timeout for the "
                f"model {instance.model.name}, or look into its log. "
                f"{await instance.last_words()}"
            )
        # Not `wait_for`: Python 3.11's loses a cancellation that comes with the event.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.1 if waited < 10 else 0.5):
                await instance.exited.wait()
        if instance.exited.is_set():
            raise EngineFailed(
                f"The engine {instance.how_it_ended()} before it was ready. "
                f"{await instance.last_words()}"
            )


async def _is_ready(instance: Instance) -> bool | None:
    """As `probe`, and it is this engine that says so: between the choice of its port and its
    listening there, another program may have taken it.
    """
    ready = await instance.probe()
    # A program of the user's may leave listening to others, such as a container's runtime.
    if not ready or instance.port is None or instance.backend.environment == "none":
        return ready
    living = await instance.living()
    if living is None:
        return None
    try:
        pids = [one.pid for one in living]
        return await run_in_thread(listens, instance.port, pids)
    except OSError as error:
        instance.note_unseen(error)
        return ready


async def warm_up(instance: Instance) -> None:
    """Sends a ready engine its first request, if its kind needs one. Raises EngineFailed."""
    asked = None if instance.backend.warm_up is None else instance.backend.warm_up(instance.model)
    if asked is None:
        return
    try:
        async with asyncio.timeout(WARM_UP_WITHIN):
            answer = await instance.ask(asked.path, msgspec.json.encode(asked.body))
    except TimeoutError:
        said = f"gave no answer within {WARM_UP_WITHIN:g} s"
    except OSError as error:
        if is_ours(error):
            raise
        said = f"ended it without an answer ({os.strerror(error.errno or 0)})"
    else:
        if 200 <= answer.status < 300:
            return
        # It answers a prompt of ours: nothing of a client's is in it.
        body = printable(answer.body.decode(errors="replace").strip())[:300]
        said = f"answered it with {answer.status}: {body}"
    raise EngineFailed(
        f"The engine was ready, but its first request ({asked.path}), which we sent, failed: "
        f"it {said}. {await instance.last_words()}"
    )
