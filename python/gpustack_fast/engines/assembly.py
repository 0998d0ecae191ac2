"""What runs engines, put together: the supervisor, and all that prepares its engines."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

from gpustack_fast.config import ModelConfig
from gpustack_fast.engines import environments
from gpustack_fast.engines.allocation import Allocation
from gpustack_fast.engines.model_files import ModelFiles
from gpustack_fast.engines.preparer import Environment, Preparer
from gpustack_fast.engines.supervisor import Supervisor
from gpustack_fast.faults import Faults
from gpustack_fast.gpus import Reader
from gpustack_fast.gpus.faults import FaultWatch, GpuFault
from gpustack_fast.model_store.store import Store
from gpustack_fast.storage.engine_paths import EnginePaths

__all__ = ["Engines"]

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
    ) -> None:
        """`models`: the folder of the model store. `in_flight`: the requests at an instance."""
        self._data_dir = data_dir
        self._reader = Reader()
        self._store = Store(models, faults)
        self._watch = FaultWatch(self._on_fault)
        preparer = Preparer(
            self._environment,
            ModelFiles(self._store),
            Allocation(self._reader.read, self._leaders),
            self._reader.read,
        )
        self.supervisor = Supervisor(
            paths, preparer, faults, on_change=on_change, in_flight=in_flight
        )

    def start(self) -> None:
        """Watches the GPUs for faults from now on."""
        try:
            self._watch.start()
        except RuntimeError:
            log.warning(
                "The GPUs are not watched for faults: the system gives no more threads. Raise its "
                "limit of processes (`ulimit -u`, or TasksMax of the systemd unit)."
            )

    async def shutdown(self, patience: float) -> None:
        """Ends all engines, builds and downloads, as `Supervisor.shutdown`."""
        self._watch.close()
        await self.supervisor.shutdown(patience)
        self._store.close()
        await self._reader.close()

    async def _environment(self, model: ModelConfig, gpus: bool) -> Environment:
        if model.python is not None:
            return await environments.of_interpreter(model.backend, Path(model.python))
        return await environments.prepare(
            self._data_dir,
            model.backend,
            model.backend_version,
            log.info,
            "cuda" if gpus else "cpu",
        )

    def _leaders(self) -> Iterator[int]:
        for replica in self.supervisor.replicas:
            if replica.instance is not None and replica.instance.pid is not None:
                yield replica.instance.pid

    def _on_fault(self, fault: GpuFault) -> None:
        log.warning("GPU %s: %s", fault.uuid, fault.message)
        if fault.ejects:
            for uuid in fault.devices:
                self.supervisor.gpu_failed(uuid, fault.message.rstrip("."))
