"""What is done now and then for engines that are there: large logs are rotated, and zombies that
they have left to us are reaped.
"""

from __future__ import annotations

import asyncio

from gpustack_fast.engines.replicas import Replicas

__all__ = ["Maintenance"]

MAINTAIN_EVERY = 10.0
"""Seconds."""


class Maintenance:
    """One round at a time, beside the loop of the supervisor. Times are monotonic seconds."""

    def __init__(self, replicas: Replicas) -> None:
        self._replicas = replicas
        self._round: asyncio.Task[None] | None = None
        self.due = float("inf")
        """When the next round is to begin; infinity: nobody has said yet."""

    def postpone(self, now: float) -> None:
        """Has the next round begin when a whole pause is over."""
        self.due = now + MAINTAIN_EVERY

    def begin_if_due(self, now: float) -> None:
        """Begins a round where it is time for one."""
        if now < self.due:
            return
        self.postpone(now)
        # A disk may take longer than that.
        if self._round is None or self._round.done():
            self._round = asyncio.create_task(self._maintain())

    def cancel(self) -> None:
        """Gives up the round that is under way."""
        if self._round is not None:
            self._round.cancel()

    async def _maintain(self) -> None:
        for replica in list(self._replicas.ours.values()):
            if replica.instance is not None:
                await replica.instance.rotate_log()
        await asyncio.gather(*(one.living() for one in self._replicas.instances))
