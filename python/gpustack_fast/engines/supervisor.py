"""Wanted → running: starts and ends engines until those that run are those that should.

`plan` decides and is pure; `Supervisor` carries it out. States bear GPUStack's names, see
`life` for engines of ours, and `addresses` for those that somebody else runs.

Nothing here knows the data plane: it is told of changes by `replicas`, and `app` calls
`instance_idle` when a retired instance has ended its last request.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Mapping

from gpustack_fast.backends import BACKENDS, Backend
from gpustack_fast.config import ModelConfig
from gpustack_fast.config.model_fields import makes_same_process
from gpustack_fast.engines import life
from gpustack_fast.engines.addresses import Addresses
from gpustack_fast.engines.adoption import Adoptable, started_by
from gpustack_fast.engines.duties import Duties
from gpustack_fast.engines.history import History
from gpustack_fast.engines.instance import Instance
from gpustack_fast.engines.life import Life, Prepare
from gpustack_fast.engines.maintenance import Maintenance
from gpustack_fast.engines.orders import Orders
from gpustack_fast.engines.plan import (
    ReplicaSlot,
    SlotStatus,
    Start,
    Stop,
    plan,
)
from gpustack_fast.engines.progress import Progress
from gpustack_fast.engines.records import Record
from gpustack_fast.engines.replica import Replica
from gpustack_fast.engines.replicas import Replicas
from gpustack_fast.engines.rest import Rest
from gpustack_fast.engines.restraint import Restraint
from gpustack_fast.engines.retirement import Retirement
from gpustack_fast.engines.sights import Activity
from gpustack_fast.engines.wanted import WantedModels
from gpustack_fast.faults import Faults
from gpustack_fast.storage.engine_paths import EnginePaths

__all__ = ["Supervisor"]

WHY = {
    "edited": "The model was edited, and another engine takes its place.",
    "scaled": "Fewer replicas are wanted.",
    "gone": "The model is not in the configuration any more.",
}
SLEEPS = "The model sleeps."

log = logging.getLogger(__name__)


class Supervisor:
    """Carries out the plan. Everything happens on one event loop; `on_change` must not wait."""

    def __init__(
        self,
        paths: EnginePaths,
        prepare: Prepare,
        faults: Faults,
        *,
        on_change: Callable[[], None],
        in_flight: Callable[[str], int] = lambda _: 0,
        drain_timeout: Callable[[], float] = lambda: 0.0,
        history: History | None = None,
        duties: Duties | None = None,
        backends: Mapping[str, Backend] = BACKENDS,
        engine_key: Callable[[str], str | None] = lambda _: None,
    ) -> None:
        """`engine_key`: that of somebody else's engines, by model."""
        self._prepare = prepare
        self._faults = faults
        self._drain_timeout = drain_timeout
        self.history = history or History()
        self._backends = backends
        self._rest = Rest(prepare, self.history, duties)
        self.restraint = Restraint()
        """What may not be done to engines now."""
        self._models = WantedModels()
        self._interrupted: set[str] = set()
        self._replicas = Replicas(self.history, faults, backends["external"], on_change, engine_key)
        self.orders = Orders(self._replicas)
        """The operator's."""
        self.progress = Progress(self._replicas, self._models, self._rest)
        self._maintenance = Maintenance(self._replicas)
        self._life = Life(
            paths, prepare, faults, self._replicas, self._models, self.restraint, in_flight
        )
        self._adopting: list[asyncio.Event] = []
        """Set when an engine that has served before runs again, or does not."""
        self._retirement = Retirement(self._replicas, self._life, self.restraint, faults)

    @property
    def replicas(self) -> list[Replica]:
        """The replicas that are there, external addresses too, without those on their way out."""
        return self._replicas.present

    @property
    def instances(self) -> list[Instance]:
        """The engines that are there, also those that are being ended."""
        return self._replicas.instances

    def want(
        self,
        models: Iterable[ModelConfig],
        generations: Mapping[str, int] | None = None,
        adoptable: Iterable[Adoptable] = (),
    ) -> None:
        """Sets the models that should run, at the start. Of external ones each address is a
        replica. `generations`: of those of ours; 1 where there is none. `adoptable`: engines of
        these models that an earlier run has left, and that are gone on with.

        Called from within the event loop.
        """
        models = list(models)
        self._take(models, generations or {})
        self._replicas.external.want(models)
        for instance_id, record in adoptable:
            settled = asyncio.Event()
            if record.has_run:
                self._adopting.append(settled)
            self._adopt(instance_id, record, settled)
        self._take_rest()
        self._replicas.awake.set()
        self._replicas.on_change()

    def follow(self, started: Iterable[Adoptable]) -> None:
        """Goes on with engines that another server has started, to which everything was handed
        over, and that are not known here.
        """
        known = {one.id for one in self._replicas}
        for instance_id, record in started:
            if instance_id not in known and not self._retirement.closing:
                self._adopt(instance_id, record, None)

    def _adopt(self, instance_id: str, record: Record, settled: asyncio.Event | None) -> None:
        """Gives an engine of an earlier run its slot again; another one where that is taken by one
        that has ended. `settled`: as of `Life.adopt`.
        """
        model = self._models[record.model]
        before = started_by(record, model)
        slot = ReplicaSlot(record.model, record.number)
        while slot in self._replicas.ours:
            slot = ReplicaSlot(slot.model, slot.number + 1)
        replica = Replica(
            slot=slot,
            model=model if makes_same_process(before, model) else before,
            backend=self._backends[record.backend],
            id=instance_id,
            created=record.created,
            generation=record.generation,
            drained=self.history.was_drained(instance_id),
        )
        if replica.drained:
            replica.idle.set()
        self._replicas.ours[replica.slot] = replica
        self._prepare.restore(replica, record.placement)
        self._replicas.set_state(replica, "starting", "It was left by an earlier run.")
        replica.running = self._replicas.task(self._life.adopt(replica, record, settled))

    async def until_adopted(self, within: float) -> None:
        """Returns when the engines of an earlier run that have served go on, or when it is known
        that they do not; after so many seconds at the latest.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within):
                await asyncio.gather(*(adopted.wait() for adopted in self._adopting))
        self._adopting = []

    async def try_external(self, models: Iterable[ModelConfig]) -> Addresses:
        """The replicas of somebody else's engines for `adopt`, see `ExternalReplicas.try_once`."""
        return await self._replicas.external.try_once(models)

    def as_adopted(self, addresses: Addresses, models: Iterable[ModelConfig]) -> list[Replica]:
        """The replicas as they will be when these addresses and models are adopted."""
        stay = {model.name for model in models if not model.external}
        ours = [
            one
            for one in self._replicas.ours.values()
            if not one.retired and one.slot.model in stay
        ]
        return ours + [replica for replica, _ in addresses.replicas.values()]

    def adopt(
        self, addresses: Addresses, models: Iterable[ModelConfig], generations: Mapping[str, int]
    ) -> None:
        """Sets the models that should run from now on, and replaces the addresses of somebody
        else's engines. Engines of ours follow step by step, see `plan`.

        Not told to `on_change`: the caller has published them.
        """
        self._take(models, generations)
        self._take_rest()
        self._replicas.external.adopt(addresses)
        self._step()  # what is wanted no more leaves at once, as the caller has published it
        self._replicas.awake.set()

    def _take(self, models: Iterable[ModelConfig], generations: Mapping[str, int]) -> None:
        self._models.take(models, generations)
        for replica in self._replicas.ours.values():
            self._models.hand_to(replica)

    def _take_rest(self) -> None:
        """Behind the adoption: it goes on from what is there."""
        self._rest.take(self._models.values(), self._replicas.ours.values(), time.monotonic())

    async def run(self) -> None:
        """Keeps what is wanted running, until it is cancelled."""
        self._maintenance.postpone(time.monotonic())
        while True:
            self._replicas.awake.clear()
            for replica in self._replicas:
                self._survive(replica)
            self._step()
            now = time.monotonic()
            self._maintenance.begin_if_due(now)
            pauses = [
                one.retry_at - now for one in self._replicas.ours.values() if one.retry_at > now
            ]
            # Not `wait_for`: Python 3.11's loses a cancellation that comes with the event.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min([*pauses, self._maintenance.due - now])):
                    await self._replicas.awake.wait()

    def _step(self) -> None:
        """Carries out the steps that can be taken now, and notes what has been carried out."""
        if self.restraint.is_frozen:
            return
        models = [] if self._retirement.closing else self._models.values()
        ours = self._replicas.ours.values()
        wanted = self._rest.wanted(models, ours)
        for action in plan(wanted, self._statuses(), time.monotonic()):
            if isinstance(action, Start):
                self._start(action.slot)
            else:
                replica = self._replicas.ours[action.slot]
                if action.why == "edited" and replica.state == "running":
                    self._interrupted.add(action.slot.model)
                sleeps = action.why == "scaled" and self._rest.is_asleep(action.slot.model)
                why = SLEEPS if sleeps else WHY[action.why]
                self._retirement.retire(replica, self._patience(action), why)
        served = {one.slot.model for one in self.replicas if one.published_state == "running"}
        self._interrupted &= {one.name for one in models if one.most_replicas} - served
        for name in self.progress.settled(wanted):
            self.history.observe(name, self._models.generation(name))

    def _patience(self, action: Stop) -> float:
        """Seconds that the requests of an engine get which is ended by plan."""
        at_leisure = action.why == "scaled" and self._rest.ends_at_leisure(action.slot.model)
        return float("inf") if at_leisure else self._drain_timeout()

    def _statuses(self) -> list[SlotStatus]:
        leaves = collections.defaultdict(list)
        for replica in self._replicas.ours.values():
            status = replica.status()
            if status.outdated and status.serves:
                leaves[replica.slot.model].append(replica.slot)
        return [
            one.status(
                unplaced=True, makes_room=self._prepare.makes_room(one, leaves[one.slot.model])
            )
            if self._prepare.is_refused(one)
            else one.status()
            for one in self._replicas.ours.values()
        ]

    def _start(self, slot: ReplicaSlot) -> None:
        """Starts a new engine in a slot."""
        model = self._models[slot.model]
        replica = self._replicas.ours.get(slot)
        if replica is None:
            replica = Replica(slot, model, self._backends[model.backend], id="", created=0.0)
            self._replicas.ours[slot] = replica
        else:
            replica.restarts += 1
            # That of an adopted engine may have been another.
            replica.model, replica.backend = model, self._backends[model.backend]
            replica.edited = False
        replica.generation = self._models.generation(model.name)
        replica.id = self._replicas.unused_id(slot.model)
        replica.outdated = False
        replica.created = time.time()
        replica.address = ""
        replica.idle = asyncio.Event()
        replica.lost = asyncio.Event()
        if replica.drained:
            replica.idle.set()
            self._replicas.remember_drained()
        again = "It takes the place of one that has ended." if replica.restarts else ""
        self._replicas.note(replica, "started", again)
        self._replicas.set_state(replica, "pending")
        replica.running = self._replicas.task(self._life.live(replica))

    def _survive(self, replica: Replica) -> None:
        """Goes on with a replica whose life ended with a mistake of ours: the others live on."""
        error = replica.unexpected()
        if error is not None and replica.stopping is None:
            log.error("%s: The watch on it ended by a mistake.", replica.id, exc_info=error)
            self._faults.note("mistake", type(error).__name__)
            replica.running = self._replicas.task(self._begin_again(replica))

    async def _begin_again(self, replica: Replica) -> None:
        # First, so that a mistake that comes at once does not come without end.
        await asyncio.sleep(life.AFTER_A_FAULT)
        if replica.model.external:
            await self._replicas.watch(replica)
        else:
            mistake = "The watch on it ended by a mistake in gpustack-fast; see above."
            self._life.failed(replica, mistake)
            await self._life.end(replica)

    @property
    def waits(self) -> set[str]:
        """The models for which requests wait while nothing of them runs."""
        return self._rest.waits() | self._interrupted

    @property
    def resting(self) -> dict[str, str]:
        """Of each model that sleeps, that it does and why, in sentences."""
        return self._rest.messages()

    @property
    def has_to_look(self) -> bool:
        """Whether `look` decides anything."""
        return self._rest.is_needed

    def look(self, activity: Activity) -> None:
        """Decides which models sleep, and how many replicas they have, by what they have to do."""
        # Another server may have requests at these engines, of which nothing is counted here.
        if (
            self._retirement.closing
            or self.restraint.is_frozen
            or not self.restraint.alone.is_set()
        ):
            return
        if self._rest.look(self._replicas.ours, activity, time.monotonic()):
            self._replicas.awake.set()
            self._replicas.on_change()

    def model_wanted(self, model: str) -> None:
        """Notes that a request waits for a model, as the data plane reports."""
        if not self._retirement.closing and self._rest.wake(model):
            self._replicas.awake.set()
            self._replicas.on_change()

    @property
    def interrupted(self) -> frozenset[str]:
        """The models of which an edit has retired the last engine that served, before the next one
        is ready: their requests wait for that.
        """
        return frozenset(self._interrupted)

    def instance_idle(self, instance_id: str) -> None:
        """Notes that a retired instance has ended its last request, as the data plane reports."""
        for replica in self._replicas:
            if replica.id == instance_id:
                replica.idle.set()
                if replica.drained:
                    self._replicas.on_change()

    def instance_failed(self, instance_id: str, reason: str) -> None:
        """Notes that an instance has failed a request, as the data plane reports.

        Not of an engine that has ended: why it did says more than what its requests came to by it.
        """
        for replica in self._replicas:
            ended = replica.state == "error" and not replica.model.external
            if replica.id == instance_id and not ended:
                replica.note_failure(reason)

    def gpu_failed(self, uuid: str, reason: str) -> None:
        """Ends the engines that hold a GPU which has failed, also those that are still prepared.

        `reason`: a clause.
        """
        for replica in self._replicas.ours.values():
            if uuid in replica.devices and not replica.lost.is_set():
                replica.lost_to = reason
                replica.lost.set()

    def thaw(self) -> None:
        """Starts and ends engines again, see `restraint`."""
        self.restraint.thaw()
        self._replicas.awake.set()

    async def shutdown(self, patience: float) -> None:
        """Ends every engine and every build; requests that still run get `patience` seconds."""
        self._maintenance.cancel()
        await self._retirement.end_all(patience)
        await self._close()

    async def leave(self) -> list[str]:
        """Ends every build, and every engine that the next server cannot go on with, see
        `Retirement.leave`.
        """
        self._maintenance.cancel()
        left = await self._retirement.leave()
        await self._close()
        return left

    async def abandon(self) -> None:
        """Ends every build, and leaves all engines, see `Retirement.abandon`."""
        self._maintenance.cancel()
        await self._retirement.abandon()
        await self._close()

    async def _close(self) -> None:
        await self._prepare.close()
        await self.history.close()
