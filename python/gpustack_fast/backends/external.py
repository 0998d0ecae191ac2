"""An engine that somebody else runs: nothing is launched, and its connection facts are unknown, so they are careful."""

from __future__ import annotations

import asyncio
import os
from urllib.parse import urlsplit

from gpustack_fast.backends.base import Backend, BackendError, Command, Place
from gpustack_fast.config import ModelConfig

__all__ = ["EXTERNAL", "unreachable"]

CONNECT_WITHIN = 3.0
"""Seconds."""


async def unreachable(url: str) -> str | None:
    """Why nobody can be reached at `http://HOST:PORT` or `unix:/PATH`, in whole sentences; None when somebody can.

    A connection is opened and closed, and nothing is sent: which paths an engine of somebody else answers without a
    key is not known here.
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
        # asyncio words its own; a negative number is one of the resolver, with a text of its own.
        number = error.errno or 0
        reason = os.strerror(number) if number > 0 else str(error.strerror or error)
    else:
        writer.close()
        return None
    return f"Nobody can be reached at {url} ({reason}). Start that engine, or correct its address in `urls`."


def check(_: ModelConfig) -> None:
    """Every external model that the configuration allows is right: nothing of it is ours to decide."""


def command(model: ModelConfig, place: Place) -> Command:
    """There is none."""
    raise BackendError(f"The model {model.name} is external: it is not started here.")


EXTERNAL = Backend(
    name="external",
    check=check,
    command=command,
    ready_path="/health",
    dialects=("openai",),
    # vLLM, TensorRT-LLM and llama.cpp all close after 5 s by default. A `Keep-Alive` header of the engine overrides it.
    idle_timeout=4_000,
    requests_per_connection=0,
    # vLLM stops within 30 ms, TensorRT-LLM within 1 s; which of them it is, is not known here.
    cancel_lag=1_000,
)
