"""Asks engines how long the contexts of their models are.

What an engine does not tell is left out of the list of models, and is no failure of anything.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import msgspec

from gpustack_fast.backends import context_length, context_path_of
from gpustack_fast.config import ModelConfig
from gpustack_fast.engines.ask import Answer

__all__ = ["ContextLength", "ask_context_length", "ask_until_told"]

WITHIN = 3.0
"""Seconds for the answer. Nobody waits for it but a start, which takes longer."""
PAUSES = (0.5, 1.0, 0.0)
"""Seconds behind each try at an engine that has just come up."""
AGAIN_AFTER = 30.0
"""Seconds until an engine is asked again that gave no answer: it may still load, or its key may
be on its way.
"""

Ask = Callable[[str], Awaitable[Answer]]
"""The answer to a GET of a path. Raises OSError."""


async def ask_context_length(model: ModelConfig, ask: Ask) -> int | None:
    """The tokens that a context of this model has at an engine; None: it does not tell.

    Raises OSError where it gives no answer that could tell.
    """
    path = context_path_of(model)
    if path is None:
        return None
    async with asyncio.timeout(WITHIN):
        answer = await ask(path)
    if answer.status in (404, 405, 501):
        return None
    if answer.status != 200:
        raise OSError(f"It answers GET {path} with {answer.status}")
    try:
        return context_length(msgspec.json.decode(answer.body), model.engine_name)
    except (msgspec.DecodeError, RecursionError):
        return None


async def ask_until_told(model: ModelConfig, ask: Ask) -> int | None:
    """As `ask_context_length`, of an engine that has just come up: it is asked again for a moment
    where it gives no answer, and then does not tell.
    """
    for pause in PAUSES:
        try:
            return await ask_context_length(model, ask)
        except OSError:
            await asyncio.sleep(pause)
    return None


class ContextLength:
    """When somebody else's engine is asked: as soon as it can be reached, whenever it comes back,
    and when its model is configured otherwise.
    """

    def __init__(self) -> None:
        self._about: ModelConfig | None = None
        self._ask_at = 0.0
        """Monotonic seconds; infinity: it has told what it tells."""

    def came_back(self) -> None:
        """Notes that it could not be reached, and can now: another one may respond there."""
        self._ask_at = 0.0

    async def learn(self, model: ModelConfig, known: int | None, ask: Ask) -> int | None:
        """The length as it is known now, which was `known` so far."""
        if model is not self._about:
            self._about, self._ask_at = model, 0.0
        if time.monotonic() < self._ask_at:
            return known
        try:
            length = await ask_context_length(model, ask)
        except OSError:
            self._ask_at = time.monotonic() + AGAIN_AFTER
            return None
        self._ask_at = float("inf")
        return length
