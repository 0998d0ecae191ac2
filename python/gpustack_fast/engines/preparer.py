"""Gets an engine what it is started with: a place, an environment, its files."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import logging
from collections.abc import Awaitable, Callable, Collection, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol

from gpustack_fast.backends import Backend
from gpustack_fast.config import ModelConfig
from gpustack_fast.engines.allocation import Allocation
from gpustack_fast.engines.external import SetState
from gpustack_fast.engines.plan import ReplicaSlot
from gpustack_fast.engines.prepared import Prepared
from gpustack_fast.engines.records import Record
from gpustack_fast.engines.replica import InstanceState, Replica
from gpustack_fast.engines.shared_work import SharedWork
from gpustack_fast.errors import EngineFailed
from gpustack_fast.gpus.documents import GpuReport
from gpustack_fast.placement import Placement, Wanted, is_selected, most_gpus
from gpustack_fast.sizing import UNKNOWN, FactsError, ModelFacts

__all__ = ["Environments", "Files", "Preparer"]

READ_AGAIN_EVERY = 10.0
"""Seconds until GPUs are read again that could not be."""
ENDS_WITHIN = 30.0
"""Seconds for the end of builds and downloads that were given up: a disk may keep them."""

log = logging.getLogger(__name__)

NO_ENVIRONMENT = Prepared(python=Path())
"""Of a backend whose command names its own program."""

Report = Callable[[str], None]
"""Shows one line of progress."""


class Environment(Protocol):
    """An engine's environment, as `environments` makes it."""

    @property
    def python(self) -> Path: ...
    @property
    def version(self) -> str: ...


Environments = Callable[[ModelConfig, bool, Report], Awaitable[Environment]]
"""Makes the environment of a model's engine, or finds it; whether there are GPUs for it; who is
shown how far that is. Raises GpustackFastError or OSError.
"""


class Files(Protocol):
    """A model's files. All raise GpustackFastError or OSError."""

    async def facts(self, model: ModelConfig) -> ModelFacts | None:
        """What the model's files say; None: its engine has them itself. Fetches no weights."""
        ...

    async def fetch(self, model: ModelConfig, report: Report) -> Path | None:
        """The folder or file of the model, fetched where it is not here; None: the backend finds
        it.
        """
        ...

    async def adapters(self, model: ModelConfig, report: Report) -> Mapping[str, Path]:
        """The folder of each adapter, by its name."""
        ...


class Preparer:
    """Prepares the engines of one supervisor, see `life.Prepare`."""

    def __init__(
        self,
        environments: Environments,
        files: Files,
        allocation: Allocation,
        read_gpus: Callable[[], Awaitable[GpuReport]],
    ) -> None:
        self._environments = environments
        self._files = files
        self._allocation = allocation
        self._read_gpus = read_gpus
        self._building: SharedWork[Environment] = SharedWork()
        self._fetching: SharedWork[tuple[Path | None, Mapping[str, Path]]] = SharedWork()
        self._watching: collections.defaultdict[Hashable, dict[str, Report]] = (
            collections.defaultdict(dict)
        )
        """Of each build and download: who is shown how far that is, by instance."""

    async def prepare(self, replica: Replica, set_state: SetState) -> Prepared:
        model, backend = replica.model, replica.backend
        facts, placement, report, remark = None, None, None, ""
        if backend.demands is not None:
            set_state(replica, "analyzing", "Its files and the GPUs are looked at.")
            facts = await self._facts(model, backend)
            if facts is not None:
                report = await self._readable(replica, set_state)
                if report.gpus:
                    placement = await self._placed(replica, set_state, report, facts)
                    # It may have waited for its place, and what failed meanwhile has no index.
                    report = await self._read_gpus()
                else:
                    remark = _without_gpus(replica, report)
        devices = () if placement is None else visible(report, placement)
        return await self._complete(
            replica, set_state, facts=facts, devices=devices, placement=placement, remark=remark
        )

    async def _complete(
        self,
        replica: Replica,
        set_state: SetState,
        *,
        facts: ModelFacts | None,
        devices: tuple[str, ...],
        placement: Placement | None,
        remark: str,
    ) -> Prepared:
        """With its environment and its files, for which it waits."""
        environment = await self._environment(replica, set_state, gpus=placement is not None)
        files, adapters = await self._files_of(replica, set_state)
        return Prepared(
            python=environment.python,
            version=environment.version,
            files=files,
            adapters=adapters,
            facts=facts,
            devices=devices,
            placement=placement,
            remark=remark,
        )

    def restore(self, replica: Replica, placement: Placement | None) -> None:
        if placement is not None:
            replica.devices = tuple(claim.uuid for claim in placement.claims)
            self._allocation.restore(replica.slot, placement)

    async def still_fits(self, replica: Replica, placement: Placement | None) -> bool:
        if placement is None:
            return True
        report = await self._read_gpus()
        if report.unread and not report.gpus:
            return True  # nobody can say, and it runs
        lost = {
            uuid: gpu.problem
            for gpu in report.gpus
            if gpu.lost
            for uuid in (gpu.uuid, *(one.uuid for one in gpu.slices))
        }
        devices = {one.uuid: one for one in self._allocation.devices(report)}
        selector = replica.model.gpu_selector
        chosen = [] if selector is None else selector.gpu_ids
        for claim in placement.claims:
            if claim.uuid in lost:
                raise EngineFailed(f"Its GPU {claim.uuid} has failed. {lost[claim.uuid]}")
            if claim.uuid not in devices:
                raise EngineFailed(f"Its GPU {claim.uuid} is not there any more.")
        wanted = None if selector is None else selector.gpus_per_replica
        return wanted in (None, len(placement.claims)) and all(
            is_selected(devices[claim.uuid], chosen) for claim in placement.claims
        )

    async def prepare_again(self, replica: Replica, record: Record) -> Prepared:
        model, placement = replica.model, record.placement
        facts = None
        if replica.backend.demands is not None:
            facts = await self._facts(model, replica.backend)
        return await self._complete(
            replica,
            _in_silence,
            facts=facts,
            devices=record.devices,
            placement=placement,
            remark=record.remark,
        )

    async def _facts(self, model: ModelConfig, backend: Backend) -> ModelFacts | None:
        try:
            return await self._files.facts(model)
        except FactsError:
            if not backend.any_files:
                raise
            return UNKNOWN

    async def _readable(self, replica: Replica, set_state: SetState) -> GpuReport:
        """The GPUs, as soon as they can be read: an engine that is for them does not start without,
        because a driver hangs.
        """
        told = False
        while (report := await self._read_gpus()).unread and not report.gpus:
            set_state(replica, "pending", report.problem)
            if not told:
                log.warning("%s waits for the GPUs. %s", replica.id, report.problem)
            told = True
            await asyncio.sleep(READ_AGAIN_EVERY)
        return report

    async def _environment(
        self, replica: Replica, set_state: SetState, *, gpus: bool
    ) -> Environment:
        model, backend = replica.model, replica.backend
        if backend.environment == "none":
            return NO_ENVIRONMENT
        set_state(replica, "initializing", f"Its environment ({backend.name}) is made ready.")
        what = (backend.name, model.backend_version, model.python, gpus)
        with self._watched(what, replica, set_state) as report:
            return await self._building.join(what, self._made(model, gpus, report))

    async def _made(self, model: ModelConfig, gpus: bool, report: Report) -> Environment:
        return await self._environments(model, gpus, report)

    @contextlib.contextmanager
    def _watched(self, work: Hashable, replica: Replica, set_state: SetState) -> Iterator[Report]:
        """Inside, the replica shows beside its state how far a work is; what is given tells all who
        wait for the same work.
        """
        watching, state = self._watching[work], replica.state
        watching[replica.id] = lambda text: set_state(replica, state, text)

        def report(text: str) -> None:
            for show in list(watching.values()):
                show(text)

        try:
            yield report
        finally:
            del watching[replica.id]

    async def _placed(
        self, replica: Replica, set_state: SetState, report: GpuReport, facts: ModelFacts
    ) -> Placement | None:
        """The place of a replica on GPUs; None: it asks for none."""
        wanted = self._wanted(replica.model, replica.backend, replica.slot.number, report, facts)
        if wanted is None:
            return None
        told = False

        def refused(message: str) -> None:
            nonlocal told
            set_state(replica, "pending", message)
            if not told:  # once: what strangers hold changes all the time
                told = True
                log.warning("%s has no place yet: %s", replica.id, message)

        placement = await self._allocation.claim(replica.slot, wanted, refused)
        replica.devices = tuple(claim.uuid for claim in placement.claims)
        where = ", ".join(places(report, placement))
        set_state(replica, "scheduled", f"It goes on {where}.")
        return placement

    def _wanted(
        self,
        model: ModelConfig,
        backend: Backend,
        number: int,
        report: GpuReport,
        facts: ModelFacts,
    ) -> Wanted | None:
        """What a replica asks of the GPUs; None: nothing. Raises EngineFailed."""
        demands_of = backend.demands
        assert demands_of is not None
        chosen = [] if model.gpu_selector is None else model.gpu_selector.gpu_ids
        devices = [one for one in self._allocation.devices(report) if is_selected(one, chosen)]
        if not backend.takes_slices and any(one.slice for one in devices):
            devices = [one for one in devices if not one.slice]
            chosen = [one.uuid for one in devices]
            if not devices:
                raise EngineFailed(
                    f"All GPUs that the model {model.name} may have are divided by MIG, and "
                    f"{model.backend} cannot be given a slice. Switch MIG off for a GPU "
                    "(`nvidia-smi -i 0 -mig 0`)."
                )
        demands = demands_of(model, facts, most_gpus(devices, chosen))
        if not demands:
            return None
        return Wanted(
            model=model.name,
            number=number,
            demands=demands,
            strategy=model.placement_strategy,
            gpu_ids=chosen,
        )

    async def no_room(self, model: ModelConfig, backend: Backend) -> str:
        """Why one more instance of a model would find no place on the GPUs, in sentences; empty:
        it would, or needs none. Raises as `prepare`.
        """
        if backend.demands is None:
            return ""
        facts, report = await self._facts(model, backend), await self._read_gpus()
        if facts is None or not report.gpus:
            return ""
        wanted = self._wanted(model, backend, 0, report, facts)
        return "" if wanted is None else await self._allocation.no_room(wanted, report)

    async def _files_of(
        self, replica: Replica, set_state: SetState
    ) -> tuple[Path | None, Mapping[str, Path]]:
        """A model's files, and those of its adapters: fetched once for all replicas."""
        model = replica.model
        set_state(replica, "downloading", "Its files are looked for.")
        with self._watched(model.name, replica, set_state) as report:
            return await self._fetching.join(model.name, self._fetch(model, report))

    async def _fetch(
        self, model: ModelConfig, report: Report
    ) -> tuple[Path | None, Mapping[str, Path]]:
        return await self._files.fetch(model, report), await self._files.adapters(model, report)

    def is_refused(self, replica: Replica) -> bool:
        return self._allocation.is_refused(replica.slot)

    def makes_room(self, replica: Replica, others: Sequence[ReplicaSlot]) -> ReplicaSlot | None:
        return self._allocation.makes_room(replica.slot, others)

    def release(self, replica: Replica) -> None:
        replica.devices = ()
        self._allocation.release(replica.slot)

    async def begin_start(self, replica: Replica) -> None:
        await self._allocation.begin_start(replica.slot, replica.devices)

    def end_start(self, replica: Replica) -> None:
        self._allocation.end_start(replica.slot)

    def lending(self, replica: Replica) -> AbstractAsyncContextManager[None]:
        return self._allocation.lending(replica.slot, _owner(replica))

    def freeing(self, replica: Replica) -> AbstractAsyncContextManager[None]:
        return self._allocation.freeing(replica.slot, _owner(replica))

    async def claim_back(self, replica: Replica, refused: Callable[[str], None]) -> None:
        await self._allocation.claim_back(replica.slot, refused)

    def would_fit(self, model: str, without: Collection[str]) -> bool:
        return self._allocation.would_fit(model, without)

    async def close(self) -> None:
        await self._allocation.close()
        await self._building.close(ENDS_WITHIN)
        await self._fetching.close(ENDS_WITHIN)


def _in_silence(replica: Replica, state: InstanceState, message: str = "") -> None:
    """Shows nothing, of an engine that runs."""


def _owner(replica: Replica) -> dict[int, str]:
    return {} if replica.instance is None else replica.instance.gpu_owner


def _without_gpus(replica: Replica, report: GpuReport) -> str:
    """What is to be known of an engine that is for GPUs and finds none; empty: nobody would have
    expected any here.
    """
    if not report.expected and replica.model.gpu_selector is None:
        return ""
    log.warning("%s is started without a GPU. %s", replica.id, report.problem)
    return f"It was started without a GPU. {report.problem}"


def visible(report: GpuReport | None, placement: Placement) -> tuple[str, ...]:
    """The devices of a place as CUDA takes them in the order of the PCI bus: the number of a GPU,
    and a slice by its UUID, which no number leads to.
    """
    assert report is not None
    indexes = {gpu.uuid: str(gpu.index) for gpu in report.gpus}
    return tuple(indexes.get(claim.uuid, claim.uuid) for claim in placement.claims)


def places(report: GpuReport, placement: Placement) -> list[str]:
    """The devices of a place, for a person: `GPU 0 (20.0 GiB)`."""
    indexes = {gpu.uuid: f"GPU {gpu.index}" for gpu in report.gpus}
    return [
        f"{indexes.get(claim.uuid, claim.uuid)} ({claim.bytes / 2**30:.1f} GiB)"
        for claim in placement.claims
    ]
