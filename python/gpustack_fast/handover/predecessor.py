"""What a running server does to be replaced by another process."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol, TypeVar

from gpustack_fast.control.documents import HandedOver
from gpustack_fast.errors import ControlError, GpustackFastError
from gpustack_fast.faults import reason_of
from gpustack_fast.handover.launch import Origin, Process, launch
from gpustack_fast.handover.messages import (
    Go,
    Hurry,
    KeysChanged,
    Left,
    Offer,
    Ready,
    Refused,
    Serving,
    Waiting,
    Wanted,
)
from gpustack_fast.keys.live import KeyChange
from gpustack_fast.seam.documents import RouteTokens
from gpustack_fast.signals import has_terminal

__all__ = ["Giver", "Postponed", "Predecessor", "why_not_here"]

log = logging.getLogger(__name__)

_Expected = TypeVar("_Expected", Ready, Serving)

TAKES_OVER_WITHIN = 10.0
"""Seconds that a successor has at least from the word on, by which it serves: one that is ended
then may have begun to, and would end what it has taken over.
"""
INITS_OF_CONTAINERS = frozenset({"tini", "docker-init", "dumb-init", "catatonit"})
"""First processes that end their container with the one program that they have started."""


class Postponed(ControlError):
    """Something has come that has to be finished here before anything is handed over."""


class Giver(Protocol):
    """The server as a hand-over needs it."""

    async def freeze(self) -> None:
        """From now on no engine is started or ended, and the configuration stays as it is.

        Raises ControlError.
        """
        ...

    def thaw(self) -> None:
        """Takes it back as far as it was done, and all of `last_changes`."""
        ...

    def offer(self) -> tuple[Offer, list[int]]:
        """What is given, and the descriptors."""
        ...

    async def last_changes(self) -> Go:
        """What the successor cannot know; from now on no key changes here. Raises Postponed."""
        ...

    def given(self) -> None:
        """The successor serves: finish the requests, accept no more, and leave."""
        ...

    def heed(self, change: KeyChange) -> None:
        """The successor's keys have changed."""
        ...

    def hurry(self, within: float) -> None:
        """The successor is to stop, and waits; seconds that requests may still take."""
        ...

    def bereft(self) -> None:
        """The successor has ended before this server did."""
        ...


class Predecessor:
    """Hands a server over, once; as often as it fails, the server goes on as it was."""

    def __init__(self, server: Giver, origin: Callable[[], Origin]) -> None:
        self._server = server
        self._origin = origin
        self._working: asyncio.Task[HandedOver] | None = None
        self._heeding: asyncio.Task[None] | None = None
        self._heir: Process | None = None
        self.successor: int | None = None
        """The process to which everything was handed over; None: this server serves."""

    @property
    def is_under_way(self) -> bool:
        """Whether a hand-over has begun that may still fail."""
        return self._working is not None and not self._working.done()

    async def hand_over(self, python: str | None, timeout: float) -> HandedOver:
        """Starts a successor and gives everything to it; returns when that serves.

        `python`: its interpreter; None: ours. `timeout`: seconds until it must serve. Raises
        ControlError with the reason for which this server goes on instead.
        """
        self._check_possible()
        working = asyncio.ensure_future(self._hand_over(python or sys.executable, timeout))
        self._working = working
        # Whoever has asked may leave: it goes on.
        await asyncio.wait({working})
        if working.cancelled():
            raise ControlError(
                "The server was told to stop meanwhile, and nothing was handed over."
            )
        return working.result()

    async def abort(self) -> None:
        """Ends a hand-over that is under way: this server is to stop itself."""
        if self._working is not None and self.is_under_way and self.successor is None:
            self._working.cancel()
            await asyncio.wait({self._working})

    def tell_wanted(self, model: str) -> None:
        """Tells the successor, if there is one, that a request waits here for a model."""
        if self._heir is not None:
            self._heir.channel.send(Wanted(model=model))

    def tell_left(self, tokens: list[RouteTokens]) -> None:
        """Tells the successor, if there is one, that the last request has ended."""
        if self._heir is not None:
            self._heir.channel.send(Left(tokens=tokens))

    def close(self) -> None:
        """Heeds the successor no more: this server has ended."""
        if self._heeding is not None:
            self._heeding.cancel()

    def _check_possible(self) -> None:
        if self.successor is not None:
            raise ControlError(
                f"This server finishes its last requests: the process {self.successor} has taken "
                "over. Repeat the command, which then reaches that one."
            )
        if self.is_under_way:
            raise ControlError(
                "A hand-over to another process is under way already. Wait for its end, and look "
                "at `gpustack-fast status` then."
            )
        if reason := why_not_here(os.getpid(), os.getppid(), self._origin().environment):
            raise ControlError(reason)

    async def _hand_over(self, python: str, timeout: float) -> HandedOver:
        log.info("Handing over to a new process (%s) ...", python)
        deadline = time.monotonic() + timeout
        try:
            while (handed := await self._unless_postponed(python, deadline)) is None:
                log.info("The hand-over begins again.")
        except (GpustackFastError, OSError) as error:
            reason = reason_of(error) + "." if isinstance(error, OSError) else str(error)
            text = f"Nothing was handed over, and the server goes on as it was. {reason}"
            log.error("%s", text)
            raise ControlError(text) from error
        except asyncio.CancelledError:
            log.warning("Nothing was handed over: the server was told to stop.")
            raise
        log.info("Handed over to the process %d (version %s).", handed.pid, handed.version)
        return handed

    async def _unless_postponed(self, python: str, deadline: float) -> HandedOver | None:
        """One try; None: another may succeed, for which there is time. Raises ControlError."""
        begun = time.monotonic()
        try:
            return await self._try(python, deadline - begun)
        except Postponed as error:
            now = time.monotonic()
            if deadline - now < now - begun:
                raise
            log.info("%s", error)
            return None

    async def _try(self, python: str, timeout: float) -> HandedOver:
        attempt = _Attempt()
        try:
            async with asyncio.timeout(timeout) as limit:
                await self._server.freeze()
                offer, descriptors = self._server.offer()
                successor = await launch(python, self._origin(), offer, descriptors)
                attempt.successor = successor
                ready = await attempt.next(Ready)
                go = await self._server.last_changes()
                enough = asyncio.get_running_loop().time() + TAKES_OVER_WITHIN
                limit.reschedule(max(limit.when() or 0.0, enough))
                successor.channel.send(go)
                serving = await attempt.next(Serving)
        except TimeoutError as error:
            raise ControlError(attempt.too_late(timeout)) from error
        finally:
            await self._conclude(attempt)
        return HandedOver(
            pid=successor.pid,
            version=ready.version,
            former_version=offer.version,
            former_pid=os.getpid(),
            at_terminal=has_terminal() is True,
            addresses=serving.addresses,
        )

    async def _conclude(self, attempt: _Attempt) -> None:
        """Leaves everything to the successor if it serves, else ends it and goes on."""
        successor = attempt.successor
        if successor is not None and attempt.serves:
            self.successor = successor.pid
            self._heir = successor
            self._server.given()
            self._heeding = asyncio.ensure_future(self._heed(successor))
            return
        try:
            if successor is not None:
                await successor.end()
        finally:
            self._server.thaw()

    async def _heed(self, successor: Process) -> None:
        """Does what the successor says, until it has ended; which it should not before us."""
        while True:
            match await successor.channel.receive_known():
                case KeysChanged() as changed:
                    self._server.heed(changed.change())
                case Hurry(within=within):
                    self._server.hurry(within)
                case None:
                    break
        log.error(
            "The process %d, which had taken over, %s Start a server anew; this one finishes its "
            "requests.",
            successor.pid,
            await successor.how_it_ended(),
        )
        successor.let_go()
        self._server.bereft()


class _Attempt:
    """One try, and how far it has come."""

    def __init__(self) -> None:
        self.successor: Process | None = None
        self.serves = False
        self._waits_for = ""

    async def next(self, kind: type[_Expected]) -> _Expected:
        """The successor's next message of this kind. Raises ControlError when it cannot go on."""
        successor = self.successor
        assert successor is not None
        while True:
            message = await successor.channel.receive()
            if isinstance(message, kind):
                self.serves = isinstance(message, Serving)
                return message
            match message:
                case Waiting(reason=reason):
                    self._waits_for = reason
                case Refused(reason=reason):
                    raise ControlError(f"The new process cannot take over: {reason}")
                case None:
                    how = await successor.how_it_ended()
                    raise ControlError(
                        f"The new process {how} The server's log may have more of it."
                    )

    def too_late(self, timeout: float) -> str:
        """The sentences for a successor that was not ready in time."""
        if self.successor is None:
            return (
                f"It could not begin within {round(timeout, 1):g} s: a reload, the start of an "
                "engine, or requests that wait for a model to wake up are still under way. Repeat "
                "the command."
            )
        words = self.successor.last_words()
        found = (
            f"The new process did not take over within {round(timeout, 1):g} s, and was ended.",
            self._waits_for,
            words,
            "Look at its lines in the server's log; --timeout gives it more time.",
        )
        return " ".join(one for one in found if one)


def why_not_here(pid: int, parent: int, environment: Mapping[str, str]) -> str:
    """Why a server cannot be replaced by another process where it runs; empty: it can."""
    if pid == 1:
        return (
            "The server is process 1 of its container, which ends with it, and with all engines. "
            "Start another container in its place; beside it, if its clients shall notice nothing."
        )
    if parent != 1:
        return ""
    if (init := _name_of(1)) in INITS_OF_CONTAINERS:
        return (
            f"The server was started by {init}, which ends the container with it, and with all "
            "engines. Start another container in its place; beside it, if its clients shall notice "
            "nothing."
        )
    if environment.get("INVOCATION_ID") and not environment.get("NOTIFY_SOCKET"):
        return (
            "The server is a service of systemd, which takes its end for the service's and cannot "
            "be told of another process. Set Type=notify and KillMode=process in its unit, as "
            "deploy/gpustack-fast.service does, and restart it with `systemctl restart` once."
        )
    return ""


def _name_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
