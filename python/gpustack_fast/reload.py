"""A reload: the configuration, the secrets in files and the certificate, all of it or nothing."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from gpustack_fast.config import Config, ModelConfig
from gpustack_fast.config.certificate import validity_warning
from gpustack_fast.config.comparison import Comparison, compare
from gpustack_fast.config.model_fields import spec_digest
from gpustack_fast.config.source import Source
from gpustack_fast.engines.replica import Replica
from gpustack_fast.engines.rollout import Rollout, rollout_of
from gpustack_fast.engines.supervisor import Supervisor
from gpustack_fast.errors import GpustackFastError, TakenOver
from gpustack_fast.faults import reason_of, run_in_thread
from gpustack_fast.seam.dataplane import DataPlane
from gpustack_fast.seam.documents import Table
from gpustack_fast.seam.settings import plane_settings
from gpustack_fast.storage.data_directory import DataDirectory
from gpustack_fast.storage.model_states import ModelStates
from gpustack_fast.storage.route_numbers import KnownRoute, known_routes

__all__ = ["Deployment", "Outcome", "Reloader"]

log = logging.getLogger(__name__)

NOT_RELOADED = "Not reloaded, and everything stays as it was. %s"
SLOW_AFTER = 30.0
"""Seconds after which a reload that is not over is told."""
SLOW = (
    "A reload is still under way after %g s: files that it reads, or addresses that are new, do "
    "not respond. Until it ends everything stays as it was, and another SIGHUP is obeyed behind "
    "it. Mend their file system or network, or restart the server."
)


class Deployment(Struct, frozen=True, kw_only=True):
    """What the configuration of one moment comes to."""

    config: Config
    routes: Mapping[str, KnownRoute]
    """Every public name, with its number."""
    engine_keys: Mapping[str, str]
    """The keys of the engines of external models, by model."""
    generations: Mapping[str, int]
    """Of the models of ours, see `ModelStates`."""

    @classmethod
    def of(
        cls,
        config: Config,
        engine_keys: Mapping[str, str],
        directory: DataDirectory,
        states: ModelStates,
    ) -> Deployment:
        """Numbers the routes that are new, as `known_routes`, and raises the generations of models
        that were edited. Raises StoreError.
        """
        routes = known_routes(directory, [route.name for route in config.all_routes()])
        ours = [model for model in config.models if not model.external]
        generations = states.raised({model.name: spec_digest(model) for model in ours})
        return cls(config=config, routes=routes, engine_keys=engine_keys, generations=generations)


class Outcome(Struct, frozen=True, kw_only=True):
    """What a reload has changed, or would."""

    changes: list[str]
    """The names of what it changes, for a sentence."""
    rollouts: list[Rollout]
    """What becomes of the engines of ours."""
    restart: list[str]
    """What is written and needs a restart, for a sentence."""


WholeTable = Callable[[Deployment, list[Replica]], Table]
"""The table of a deployment with these replicas, and with all that is shown with it."""


class Reloader:
    """Reads everything again, and publishes once what has changed. It holds what is in force."""

    def __init__(
        self,
        source: Source,
        start: Deployment,
        directory: DataDirectory,
        states: ModelStates,
        plane: DataPlane,
        supervisor: Supervisor,
        whole_table: WholeTable,
        no_room: Callable[[ModelConfig], Awaitable[str]],
    ) -> None:
        """`no_room`: see `Engines.no_room`."""
        self.deployment = start
        """What is in force now."""
        self.begin = asyncio.Event()
        """To be set when that of the start is in force: no reload comes before it."""
        self._source = source
        self._started = start.config
        self._directory = directory
        self._states = states
        self._plane = plane
        self._supervisor = supervisor
        self._whole_table = whole_table
        self._no_room = no_room
        self._one_at_a_time = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._again = False
        self._stopping = False
        self._given = False

    @property
    def file(self) -> Path | None:
        """The file that a reload reads; None: there is none."""
        return self._source.file

    @property
    def first_file(self) -> Path | None:
        """The file of the start."""
        return self._source.first_file

    def soon(self) -> None:
        """Reloads in a task: one at a time, and once more for all that ask meanwhile."""
        self._again = True
        if self._task is not None and not self._task.done() and self.begin.is_set():
            log.info("A reload is under way; another follows when it is over.")
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())
            # What nobody expects is told at once, by the loop.
            self._task.add_done_callback(lambda task: task.cancelled() or task.result())

    async def stop(self) -> None:
        """Ends a reload that is on its way; it changes nothing any more, and is not waited for."""
        self._stopping = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def freeze(self) -> None:
        """Lets no reload begin before `thaw`; returns when none is under way."""
        await self._one_at_a_time.acquire()

    def thaw(self, *, given: bool = False) -> None:
        """Lets reloads begin again. `given`: another process of the server takes them up."""
        self._given = given
        self._one_at_a_time.release()

    async def _run(self) -> None:
        await self.begin.wait()
        while self._again:
            self._again = False
            slow = asyncio.get_running_loop().call_later(SLOW_AFTER, log.warning, SLOW, SLOW_AFTER)
            try:
                async with self._one_at_a_time:
                    if self._given:
                        return
                    await self._reload(self.deployment, None)
            except GpustackFastError as error:
                for one in error.each():
                    log.error(NOT_RELOADED, one)
            except OSError as error:
                log.error(NOT_RELOADED, f"{reason_of(error)}. Send SIGHUP again.")
            finally:
                slow.cancel()

    async def apply(self, file: Path) -> Outcome:
        """Reloads from a file, which is read from now on. Raises as `_reload`."""
        await self.begin.wait()
        async with self._one_at_a_time:
            if self._stopping:
                raise OSError(errno.ECANCELED, "the server stops")
            if self._given:
                raise TakenOver("Another process of the server is to be asked. Repeat the command.")
            return await self._reload(self.deployment, file)

    async def preview(self, file: Path) -> Outcome:
        """What `apply` would do; it changes nothing. Raises as `_reload`."""
        await self.begin.wait()
        async with self._one_at_a_time:
            running = self.deployment
            reading = await run_in_thread(self._source.read_again, running.config, file)
            compared = compare(self._started, running.config, reading.config)
            changes = compared.changes + _changed_keys(running.engine_keys, reading.engine_keys)
            rollouts = await self._rollouts(compared, running.generations, ahead=True)
            return Outcome(changes=changes, rollouts=rollouts, restart=compared.restart)

    async def _reload(self, running: Deployment, file: Path | None) -> Outcome:
        """Puts what is written now into force, and says what that is and what needs a restart.
        `file`: None for the one that was read last.

        Raises GpustackFastError, or OSError for this machine; nothing has changed then. When it
        returns, everything has, the data plane and the engines' addresses.
        """
        compared, prepared, is_renewed = await run_in_thread(self._read, running, file)
        rollouts = await self._rollouts(compared, prepared.generations, ahead=False)
        addresses = await self._supervisor.try_external(prepared.config.models)
        with contextlib.ExitStack() as otherwise:
            otherwise.callback(addresses.discard)
            # From here on nothing waits, so that no other table can be published in between.
            replicas = self._supervisor.as_adopted(addresses, prepared.config.models)
            document = self._whole_table(prepared, replicas)
            settings = plane_settings(prepared.config.server)
            self._plane.publish(replace(document, settings=settings))
            otherwise.pop_all()
        # First, so that no other table brings the former one back, whatever comes.
        self.deployment = prepared
        self._supervisor.adopt(addresses, prepared.config.models, prepared.generations)
        self._source.take(prepared.config, file)
        changes = compared.changes + _changed_keys(running.engine_keys, prepared.engine_keys)
        if is_renewed:
            changes.append("the certificate, which was renewed")
        outcome = Outcome(changes=changes, rollouts=rollouts, restart=compared.restart)
        self._tell(outcome)
        return outcome

    def _read(self, running: Deployment, file: Path | None) -> tuple[Comparison, Deployment, bool]:
        """All that waits for a disk; at last, whether the certificate is another one."""
        reading = self._source.read_again(running.config, file)
        compared = compare(self._started, running.config, reading.config)
        is_renewed = self._plane.read_certificate()
        if self._stopping:
            # The files came when nobody waited for them, and the directory may be another's soon.
            raise OSError(errno.ECANCELED, "the server stops")
        prepared = Deployment.of(
            compared.config, reading.engine_keys, self._directory, self._states
        )
        return compared, prepared, is_renewed

    async def _rollouts(
        self, compared: Comparison, generations: Mapping[str, int], *, ahead: bool
    ) -> list[Rollout]:
        """What becomes of the engines of ours. `ahead`: the generations are those of before."""
        models = {model.name: model for model in compared.config.models if not model.external}
        found = []
        for change in compared.models:
            model, generation = models.get(change.name), generations.get(change.name)
            if ahead and change.kind == "edited" and generation is not None:
                generation += 1
            surges = change.kind == "edited" and model is not None and model.max_surge > 0
            no_room = await self._no_room(model) if surges and model is not None else ""
            found.append(
                rollout_of(
                    change,
                    self._supervisor.progress.there(change.name, model),
                    max_surge=0 if model is None else model.max_surge,
                    no_room=no_room,
                    generation=generation,
                    drain_timeout=compared.config.server.drain_timeout,
                    wake_queue=0 if model is None else model.wake_queue,
                )
            )
        return found

    def _tell(self, outcome: Outcome) -> None:
        log.info("Reloaded. Changed: %s.", ", ".join(outcome.changes) or "nothing")
        for rollout in outcome.rollouts:
            log.info("The model `%s`: %s", rollout.change.name, " ".join(rollout.steps))
            if rollout.interrupts:
                log.warning("%s", rollout.interrupts)
            self._supervisor.history.note(
                rollout.change.name, "", rollout.change.kind, rollout.change.words()
            )
        if outcome.restart:
            log.warning(
                "Changed in the configuration, but as at the start until a restart: %s.",
                ", ".join(outcome.restart),
            )
        found = self._plane.stats()
        begins, ends = found.certificate_begins, found.certificate_expires
        if warning := validity_warning(begins, ends, time.time()):
            log.warning("%s", warning)


def _changed_keys(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    return [
        f"the key of the engines of `{model}`"
        for model in after
        if model in before and before[model] != after[model]
    ]
