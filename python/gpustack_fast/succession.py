"""From one process of a server to the next: what is given, and what is taken over.

What the two say to each other, and when, is in `handover`; here is what it comes to for the rooms.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection

from gpustack_fast.earlier_engines import EarlierEngines
from gpustack_fast.engines.adoption import candidates
from gpustack_fast.engines.records import read_serving
from gpustack_fast.errors import ControlError, GpustackFastError
from gpustack_fast.faults import reason_of, run_in_thread
from gpustack_fast.handover.messages import Go, Offer
from gpustack_fast.handover.predecessor import Postponed
from gpustack_fast.handover.successor import Inheritance
from gpustack_fast.keys.live import KeyChange
from gpustack_fast.keys.store import Store
from gpustack_fast.parts import Parts
from gpustack_fast.seam.dataplane import __version__

__all__ = ["Giving", "become_ready", "take_last_changes", "until_alone"]

log = logging.getLogger(__name__)

LOOK_EVERY = 0.05
"""Seconds between two looks at what a successor waits for."""
FOLLOW_EVERY = 0.25
"""Seconds between two looks at what the last requests of a server lack that was handed over."""
STANDARD_ERROR = 2


class Giving:
    """What a running server gives to its successor (a `handover.predecessor.Giver`).

    `is_serving`: whether its own start is over. `tell_wanted`: tells the successor for which model
    a request waits. The other callables are what follows for `app`.
    """

    def __init__(
        self,
        parts: Parts,
        *,
        is_serving: Callable[[], bool],
        tell_wanted: Callable[[str], None],
        leave: Callable[[], None],
        hurry: Callable[[float], None],
        bereft: Callable[[], None],
    ) -> None:
        self._parts = parts
        self._is_serving = is_serving
        self._tell_wanted = tell_wanted
        self._leave = leave
        self.hurry = hurry
        self.bereft = bereft
        self._reload = False
        """Whether a reload was asked for meanwhile."""
        self._holds_reloads = False

    async def freeze(self) -> None:
        """Starts and ends no engine from now on, and reloads nothing.

        Waits until what is half done is done, and until no request waits for a model that wakes up:
        it would wait here, and the engine come there. Raises ControlError.
        """
        if not self._is_serving():
            raise ControlError(
                "This process is still starting itself. Wait until it serves: `gpustack-fast "
                "status` shows its models."
            )
        while self._waited_for():  # noqa: ASYNC110  (the data plane sets no event)
            await asyncio.sleep(LOOK_EVERY)
        await self._parts.reloader.freeze()
        self._holds_reloads = True
        await self._parts.supervisor.restraint.freeze()
        await self._parts.tokens.freeze()

    def _waited_for(self) -> list[str]:
        """The models for which requests wait."""
        return [one.name for one in self._parts.plane.stats().models if one.waiting]

    def reload_later(self) -> None:
        """Notes that a reload was asked for: it is done by whichever process goes on."""
        self._reload = True

    def thaw(self) -> None:
        """Goes on as before."""
        self._parts.tokens.thaw()
        self._parts.keys.take_back()
        self._parts.supervisor.thaw()
        if self._holds_reloads:
            self._parts.reloader.thaw()
            self._holds_reloads = False
        if self._reload:
            self._reload = False
            self._parts.reloader.soon()

    def given(self) -> None:
        """Leaves to the successor what would be written twice, and leaves."""
        self._parts.supervisor.history.give()
        self._parts.reloader.thaw(given=True)
        self._leave()

    def offer(self) -> tuple[Offer, list[int]]:
        """The facts of this moment, and the descriptors."""
        parts = self._parts
        running = [one for one in parts.supervisor.replicas if one.state == "running"]
        offer = Offer(
            version=__version__,
            host=parts.config.server.host,
            port=parts.config.server.port,
            running=[(one.slot.model, one.address) for one in running],
            instances=[one.id for one in parts.supervisor.replicas if one.instance is not None],
            has_models=bool(parts.config.models),
        )
        sockets = [one.fileno() for one in parts.sockets]
        return offer, [parts.directory.descriptor(), STANDARD_ERROR, *sockets]

    async def last_changes(self) -> Go:
        """What has changed since, and is not on the disk; no key changes here any more.

        Raises Postponed.
        """
        if waited_for := self._waited_for():
            raise Postponed(
                f"Requests have come that wait for a model to wake up: {', '.join(waited_for)}. "
                "Repeat the command when it runs."
            )
        revoked = await self._parts.keys.give()
        return Go(
            revoked=revoked, drained=self._parts.supervisor.orders.drained, reload=self._reload
        )

    async def follow(self) -> None:
        """Until it is cancelled: where nothing runs of a model here for which a last request may
        come, by a connection that its client keeps, goes on with what the successor has started.
        """
        told: set[str] = set()
        while True:
            waited_for = set(self._waited_for())
            for model in waited_for - told:
                self._tell_wanted(model)
            told = waited_for
            replicas = self._parts.supervisor.replicas
            running = {one.slot.model for one in replicas if one.state == "running"}
            lacking = (waited_for | {one.slot.model for one in replicas}) - running
            if lacking:
                await self._follow(lacking)
            await asyncio.sleep(FOLLOW_EVERY)

    async def _follow(self, lacking: Collection[str]) -> None:
        models = [one for one in self._parts.config.models if one.name in lacking]
        try:
            found = await run_in_thread(read_serving, self._parts.engine_paths.records)
            started, _ = await run_in_thread(candidates, found, models)
        except OSError as error:
            self._parts.faults.note("processes", error)
            return
        self._parts.supervisor.follow(started)

    def heed(self, change: KeyChange) -> None:
        """Tells the data plane, whose last requests run with the keys, too."""
        self._parts.publish_keys(change)


async def become_ready(parts: Parts, earlier: EarlierEngines, inherited: Inheritance) -> None:
    """Wants what the configuration says, and returns when this process can serve what its
    predecessor serves. No engine is started or ended yet.
    """
    await parts.supervisor.restraint.freeze()
    parts.supervisor.restraint.alone.clear()
    parts.want(await earlier.adoptable(inherited.offer.instances))
    told = ""
    while waits_for := _waits_for(parts, inherited.offer.running):
        if waits_for != told:
            told = waits_for
            inherited.tell_wait(told)
        await asyncio.sleep(LOOK_EVERY)
    parts.publisher.pace.now()


def _waits_for(parts: Parts, running: list[tuple[str, str]]) -> str:
    """What is still missing of what runs elsewhere, in a sentence; empty: nothing."""
    replicas = parts.supervisor.replicas
    wanted = {model.name for model in parts.config.models}
    here = {one.slot.model for one in replicas if one.state == "running"}
    missing = [name for name, _ in dict(running).items() if name in wanted and name not in here]
    if missing:
        return f"It waits for an instance of {', '.join(missing)}."
    # Else all requests would go to the first that responds.
    for replica in replicas:
        runs_there = (replica.slot.model, replica.address) in running
        if (
            replica.state == "pending"
            if replica.model.external
            else (runs_there and replica.state == "starting")
        ):
            return (
                f"It waits for {replica.id} at {replica.address} to respond, or not. Where that "
                "engine hangs, the server ends it after the model's `hang_timeout`: repeat the "
                "command then."
            )
    return ""


async def take_last_changes(parts: Parts, go: Go) -> None:
    """Takes up what has changed while this process was starting. Raises StoreError, OSError."""
    store = await run_in_thread(Store, parts.directory)
    parts.keys.take(store, go.revoked)
    parts.supervisor.orders.take(go.drained)
    parts.publisher.pace.now()


async def until_alone(parts: Parts, earlier: EarlierEngines, inherited: Inheritance) -> None:
    """Waits for the end of the process before, takes up what that has counted, and ends the engines
    that it has left and nobody goes on with: none of its requests is there any more.
    """
    await inherited.has_left.wait()
    log.info("The process before has ended.")
    parts.tokens.add(inherited.tokens)
    parts.supervisor.restraint.alone.set()
    try:
        await earlier.end_others()
    except GpustackFastError as error:
        log.error("%s", error)
    except OSError as error:
        log.error("The engines that were left cannot be ended: %s.", reason_of(error))
