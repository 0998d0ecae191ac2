"""A reload: the configuration, the secrets in files and the certificate, all of it or nothing."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import time
from collections.abc import Callable, Mapping

from msgspec import Struct
from msgspec.structs import replace

from gpustack_fast.config import Config
from gpustack_fast.config.certificate import validity_warning
from gpustack_fast.config.comparison import Comparison, compare
from gpustack_fast.config.model_fields import spec_digest
from gpustack_fast.config.source import Source
from gpustack_fast.engines.replica import Replica
from gpustack_fast.engines.supervisor import Supervisor
from gpustack_fast.errors import GpustackFastError
from gpustack_fast.faults import reason_of, run_in_thread
from gpustack_fast.seam.dataplane import DataPlane
from gpustack_fast.seam.documents import Table
from gpustack_fast.seam.settings import plane_settings
from gpustack_fast.storage.data_directory import DataDirectory
from gpustack_fast.storage.model_states import ModelStates
from gpustack_fast.storage.route_numbers import KnownRoute, known_routes

__all__ = ["Deployment", "Reloader"]

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
    ) -> None:
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
        self._task: asyncio.Task[None] | None = None
        self._again = False
        self._stopping = False

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

    async def _run(self) -> None:
        await self.begin.wait()
        while self._again:
            self._again = False
            slow = asyncio.get_running_loop().call_later(SLOW_AFTER, log.warning, SLOW, SLOW_AFTER)
            try:
                await self._reload(self.deployment)
            except GpustackFastError as error:
                for one in error.each():
                    log.error(NOT_RELOADED, one)
            except OSError as error:
                log.error(NOT_RELOADED, f"{reason_of(error)}. Send SIGHUP again.")
            finally:
                slow.cancel()

    async def _reload(self, running: Deployment) -> None:
        """Puts what is written now into force, and says what that is and what needs a restart.

        Raises GpustackFastError, or OSError for this machine; nothing has changed then. When it
        returns, everything has, the data plane and the engines' addresses.
        """
        compared, prepared, is_renewed = await run_in_thread(self._read, running)
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
        self._source.take(prepared.config)
        self._tell(compared, running, is_renewed=is_renewed)

    def _read(self, running: Deployment) -> tuple[Comparison, Deployment, bool]:
        """All that waits for a disk; at last, whether the certificate is another one."""
        reading = self._source.read_again(running.config)
        compared = compare(self._started, running.config, reading.config)
        is_renewed = self._plane.read_certificate()
        if self._stopping:
            # The files came when nobody waited for them, and the directory may be another's soon.
            raise OSError(errno.ECANCELED, "the server stops")
        prepared = Deployment.of(
            compared.config, reading.engine_keys, self._directory, self._states
        )
        return compared, prepared, is_renewed

    def _tell(self, compared: Comparison, former: Deployment, *, is_renewed: bool) -> None:
        before, after = former.engine_keys, self.deployment.engine_keys
        changes = compared.changes + [
            f"the key of the engines of `{model}`"
            for model in after
            if model in before and before[model] != after[model]
        ]
        if is_renewed:
            changes.append("the certificate, which was renewed")
        log.info("Reloaded. Changed: %s.", ", ".join(changes) or "nothing")
        if compared.restart:
            log.warning(
                "Changed in the configuration, but as at the start until a restart: %s.",
                ", ".join(compared.restart),
            )
        found = self._plane.stats()
        begins, ends = found.certificate_begins, found.certificate_expires
        if warning := validity_warning(begins, ends, time.time()):
            log.warning("%s", warning)
