"""Engines that somebody else runs: whether they can be reached, and say that they are well."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from typing import Protocol
from urllib.parse import urlsplit

from gpustack_fast.backends import facts_of
from gpustack_fast.config import ModelConfig
from gpustack_fast.engines.ask import Answer, ask
from gpustack_fast.engines.context import ContextLength
from gpustack_fast.engines.health import Health, of_this_machine
from gpustack_fast.engines.replica import InstanceState, Replica
from gpustack_fast.faults import Faults

__all__ = ["watch"]

log = logging.getLogger(__name__)

CONNECT_WITHIN = 3.0
"""Seconds."""
TRY_EVERY = 2.0
"""Seconds between two tries of the address of somebody else's engine."""


class SetState(Protocol):
    """Gives a replica a state and a message."""

    def __call__(self, replica: Replica, state: InstanceState, message: str = "") -> None: ...


async def watch(
    replica: Replica,
    set_state: SetState,
    set_context_length: Callable[[Replica, int | None], None],
    engine_key: Callable[[str], str | None],
    faults: Faults,
) -> None:
    """Tries the address of somebody else's engine now and then, for as long as it is wanted, and
    asks one that can be reached how long its model's context is. `engine_key`: by model.

    A try that this machine has no room for says nothing about the engine: its state stays.
    """

    async def asked(path: str) -> Answer:
        return await ask(replica.address, path, engine_key(replica.slot.model) or "")

    health = Health(replica.address, health_path(replica.model))
    context = ContextLength()
    while True:
        # A reload may have given the model another path, or another kind of engine.
        if health.path != (path := health_path(replica.model)):
            health = Health(replica.address, path)
        try:
            problem = await unreachable(replica.address)
            if problem is None:
                problem = await health.problem(replica.state == "running")
        except OSError as error:
            faults.note("probe", error)
            await asyncio.sleep(TRY_EVERY)
            continue
        if problem is None:
            if replica.state != "running":
                context.came_back()
            _report(replica, "running", health.note, set_state)
            length = await context.learn(replica.model, replica.context_length, asked)
            set_context_length(replica, length)
        else:
            message = f"{problem} It is tried again every {TRY_EVERY:g} s."
            _report(replica, "unreachable", message, set_state)
        await asyncio.sleep(TRY_EVERY)


def _report(replica: Replica, state: InstanceState, message: str, set_state: SetState) -> None:
    """Gives a replica the state and the message that were found, and tells what is news."""
    if (replica.state, replica.state_message) == (state, message):
        return
    if state == "unreachable":
        if replica.state != "unreachable":  # another reason for it is shown, and is no news
            log.warning("%s: %s", replica.id, message)
    else:
        if replica.state == "unreachable":
            log.info("%s can be reached now.", replica.id)
        if message:
            log.info("%s: %s", replica.id, message)
    set_state(replica, state, message)


def health_path(model: ModelConfig) -> str | None:
    """The path that tells of the health of a model's engines; None: connections alone do."""
    path = facts_of(model).health_path if model.health_path is None else model.health_path
    return path or None


async def unreachable(url: str) -> str | None:
    """The reason, in a sentence, why nobody can be reached at an address; None when somebody can.

    The address is `http://HOST:PORT` or `unix:/PATH`. A connection is opened and closed, and
    nothing is sent. Raises OSError for a fault of this machine.
    """
    try:
        async with asyncio.timeout(CONNECT_WITHIN):
            if url.startswith("unix:"):
                _, writer = await asyncio.open_unix_connection(url.removeprefix("unix:"))
            else:
                address = urlsplit(url)
                _, writer = await asyncio.open_connection(address.hostname, address.port)
    except TimeoutError:
        reason = f"no connection within {CONNECT_WITHIN:g} s"
    except OSError as error:
        if of_this_machine(error):
            raise
        # asyncio words its own; a negative number is one of the resolver, with a text of its own.
        number = error.errno or 0
        reason = os.strerror(number) if number > 0 else str(error.strerror or error)
    else:
        writer.close()
        return None
    return (
        f"Nobody can be reached at {url} ({reason}). Start that engine, or correct its address "
        "in `urls`."
    )
