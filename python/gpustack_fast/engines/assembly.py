"""What runs engines, put together: the supervisor, and all that prepares its engines."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from gpustack_fast.backends import BACKENDS
from gpustack_fast.config import ModelConfig
from gpustack_fast.engines import environments
from gpustack_fast.engines.allocation import Allocation
from gpustack_fast.engines.history import History
from gpustack_fast.engines.model_files import ModelFiles
from gpustack_fast.engines.preparer import Environment, Preparer, Report
from gpustack_fast.engines.sights import Activity
from gpustack_fast.engines.supervisor import Supervisor
from gpustack_fast.errors import GpustackFastError
from gpustack_fast.faults import Faults, go_on
from gpustack_fast.gpus import GpuReport, Reader
from gpustack_fast.gpus.faults import FaultWatch, GpuFault
from gpustack_fast.model_store.store import Store
from gpustack_fast.storage.engine_paths import EnginePaths

__all__ = ["Engines"]

LOOK_EVERY = 10.0
"""Seconds between two looks at the GPUs that engines hold: not all that is lost says so."""

REST_EVERY = 1.0
"""Seconds between two looks at what models have to do, where any may sleep or follows its requests.
"""
KNOWN_WITHIN = 10.0
"""Seconds for whether there is room: a model's files may be at a hub, and that may not respond."""

log = logging.getLogger(__name__)


class Engines:
    """The engines of one server. Lives on the event loop."""

    def __init__(
        self,
        data_dir: Path,
        models: Path,
        paths: EnginePaths,
        faults: Faults,
        *,
        on_change: Callable[[], None],
        in_flight: Callable[[str], int],
        activity: Callable[[], Activity],
        drain_timeout: Callable[[], float],
        history: History,
        engine_key: Callable[[str], str | None] = lambda _: None,
    ) -> None:
        """`models`: the folder of the model store. `in_flight`: the requests at an instance.
        `activity`: what all of them have to do. `drain_timeout`: seconds that the requests of one
        that is retired get. `engine_key`: that of somebody else's engines, by model.
        """
        self._data_dir = data_dir
        self._reader = Reader()
        self._store = Store(models, faults)
        self._watch = FaultWatch(self._on_fault)
        self._faults = faults
        self._activity = activity
        self._watching: list[asyncio.Task[None]] = []
        self._allocation = Allocation(self._reader.read, self._running)
        self._preparer = Preparer(
            self._environment, ModelFiles(self._store), self._allocation, self._reader.read
        )
        self.supervisor = Supervisor(
            paths,
            self._preparer,
            faults,
            on_change=on_change,
            in_flight=in_flight,
            drain_timeout=drain_timeout,
            history=history,
            engine_key=engine_key,
        )

    @property
    def avoided_gpus(self) -> Mapping[str, str]:
        """Why nothing is started any more on a GPU or slice, in sentences, by its UUID."""
        return self._allocation.avoided

    def start(self) -> None:
        """Watches the GPUs for faults from now on."""
        if "CUDA_VISIBLE_DEVICES" in os.environ:
            log.warning(
                "CUDA_VISIBLE_DEVICES is set for this server, which chooses among all GPUs of the "
                "machine. Name those that a model may have with gpu_selector."
            )
        try:
            self._watch.start()
        except RuntimeError:
            log.warning(
                "The GPUs are not watched for faults: the system gives no more threads. Raise its "
                "limit of processes (`ulimit -u`, or TasksMax of the systemd unit)."
            )
        for work, name in (
            (self._look_now_and_then, "The look at the GPUs"),
            (self._rest_now_and_then, "The look at who sleeps"),
        ):
            self._watching.append(asyncio.create_task(go_on(work, name, self._faults)))

    async def no_room(self, model: ModelConfig) -> str:
        """Why one more instance of a model would find no place on the GPUs, in sentences; empty:
        it would, or needs none, or it cannot be known soon.
        """
        try:
            async with asyncio.timeout(KNOWN_WITHIN):
                return await self._preparer.no_room(model, BACKENDS[model.backend])
        except (GpustackFastError, OSError):
            return ""  # its start will tell; TimeoutError is an OSError, too

    async def shutdown(self, patience: float) -> None:
        """Ends all engines, builds and downloads, as `Supervisor.shutdown`."""
        self._end_looks()
        await self.supervisor.shutdown(patience)
        await self._close()

    async def leave(self) -> list[str]:
        """Ends all but the engines that have a process, as `Supervisor.leave`."""
        self._end_looks()
        left = await self.supervisor.leave()
        await self._close()
        return left

    async def abandon(self) -> None:
        """Ends builds and downloads alone, as `Supervisor.abandon`."""
        self._end_looks()
        await self.supervisor.abandon()
        await self._close()

    def _end_looks(self) -> None:
        self._watch.close()
        for task in self._watching:
            task.cancel()

    async def _close(self) -> None:
        self._store.close()
        await self._reader.close()

    async def _environment(self, model: ModelConfig, gpus: bool, report: Report) -> Environment:
        if model.python is not None:
            return await environments.of_interpreter(model.backend, Path(model.python))

        def tell(line: str) -> None:
            log.info("%s", line)
            report(line)

        variant = "cuda" if gpus else "cpu"
        return await environments.prepare(
            self._data_dir, model.backend, model.backend_version, tell, variant
        )

    def _running(self) -> dict[int, str]:
        return {
            one.pid: str(one.record) for one in self.supervisor.instances if one.pid is not None
        }

    def _on_fault(self, fault: GpuFault) -> None:
        log.warning("GPU %s: %s", fault.uuid, fault.message)
        if not fault.ejects:
            return
        for uuid in fault.devices:
            if fault.xid is not None:
                # Many a driver shows it as well all the same; only a reset makes it so.
                self._allocation.avoid(
                    uuid, f"{fault.message} It is used again after the next start of this server."
                )
            self._lose(uuid, fault.uuid, fault.message)

    async def _look_now_and_then(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY)
            if any(replica.devices for replica in self.supervisor.replicas):
                self._look(await self._reader.read())

    async def _rest_now_and_then(self) -> None:
        while True:
            await asyncio.sleep(REST_EVERY)
            if self.supervisor.has_to_look:
                self.supervisor.look(self._activity())

    def _look(self, report: GpuReport) -> None:
        """Ends the engines on GPUs that are lost, of which no event has told."""
        for gpu in report.gpus:
            if gpu.lost:
                for uuid in (gpu.uuid, *(one.uuid for one in gpu.slices)):
                    self._lose(uuid, gpu.uuid, gpu.problem)

    def _lose(self, uuid: str, gpu: str, reason: str) -> None:
        self.supervisor.gpu_failed(uuid, f"its GPU {gpu} has failed. {reason.rstrip('.')}")
