"""Goes on with engines that an earlier run has left: which of them, and whether they are ours.

An engine is adopted when all of it holds:

    its record       is whole, of this boot, of an engine that is awake and of a kind that is known,
                     and of a model that is still run here
    its process      has the record's number and start time, leads its session, and is this user's
    its listener     all that listens at its address belongs to a living process of that session
    its key          it takes our key, where its kind asks for one

The first two are looked at before anything else (`candidates`), the others as soon as it listens
(`verify`), for it may still be loading. Whatever is refused is ended, and another is started.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Container, Iterable, Mapping
from typing import Protocol

from gpustack_fast.backends import BACKENDS
from gpustack_fast.config import ModelConfig
from gpustack_fast.engines import processes
from gpustack_fast.engines.digest import command_digest
from gpustack_fast.engines.instance import PROBE_TIMEOUT, Instance
from gpustack_fast.engines.listening import is_theirs
from gpustack_fast.engines.plan import restart_delay
from gpustack_fast.engines.prepared import Prepared
from gpustack_fast.engines.processes import Identity
from gpustack_fast.engines.readiness import until_ready, warm_up
from gpustack_fast.engines.records import Found, Record
from gpustack_fast.engines.replica import Replica
from gpustack_fast.engines.replicas import Replicas
from gpustack_fast.engines.wanted import WantedModels
from gpustack_fast.errors import EngineFailed, GpustackFastError, in_one_line
from gpustack_fast.faults import reason_of, run_in_thread
from gpustack_fast.placement import Placement

__all__ = [
    "Adoptable",
    "Adoption",
    "Again",
    "Refused",
    "RefusedRecord",
    "candidates",
    "started_by",
    "verify",
]

log = logging.getLogger(__name__)

Adoptable = tuple[str, Record]
"""An instance that may be adopted: its id and its record."""


RefusedRecord = tuple[Found, str]
"""The record of one that is not, and why: a clause."""


class Refused(EngineFailed):
    """An engine of an earlier run is not adopted: it is not certain that it is ours."""


class Again(Protocol):
    """Gets an adopted engine what it has, and tells what it would have now."""

    def restore(self, replica: Replica, placement: Placement | None) -> None:
        """Gives a replica what its engine has of GPUs. Before anything else is placed."""
        ...

    async def still_fits(self, replica: Replica, placement: Placement | None) -> bool:
        """Whether the model's configuration still allows its place. Raises EngineFailed where a GPU
        of it is gone.
        """
        ...

    async def prepare_again(self, replica: Replica, record: Record) -> Prepared:
        """What it would be started with now, at the place that it has. Raises GpustackFastError, or
        OSError for this machine.
        """
        ...


def candidates(
    found: Iterable[Found], models: Iterable[ModelConfig], kinds: Container[str] = BACKENDS
) -> tuple[list[Adoptable], list[RefusedRecord]]:
    """The engines that may be adopted, and the records of all others. `kinds`: the backends that
    are known. Looks into /proc.

    Of two engines in one slot the younger. Raises OSError where the process table cannot be read.
    """
    wanted = {model.name: model for model in models if not model.external}
    chosen: dict[tuple[str, int], Found] = {}
    others: list[RefusedRecord] = []
    ordered = sorted(found, key=lambda one: one[1].created if isinstance(one[1], Record) else 0.0)
    for one in ordered:
        _, record = one
        why_not = _why_not(record, wanted, kinds)
        if why_not or not isinstance(record, Record):
            others.append((one, why_not))
            continue
        slot = record.model, record.number
        if slot in chosen:
            others.append((chosen[slot], "a later one has its place"))
        chosen[slot] = one
    adoptable = [
        (path.stem, record) for path, record in chosen.values() if isinstance(record, Record)
    ]
    return adoptable, others


def _why_not(record: Identity, wanted: Mapping[str, ModelConfig], kinds: Container[str]) -> str:
    """Why an engine is not adopted, as a clause; empty: it may be. Raises OSError."""
    if not isinstance(record, Record):
        return "its record is lost, or does not say what it runs"
    if record.model not in wanted:
        return f"the model `{record.model}` is not run here any more"
    is_known = record.backend in kinds
    if not is_known or started_by(record, wanted[record.model]).backend != record.backend:
        return f"the backend `{record.backend}` is not known, or is not its model's"
    if record.asleep:
        return "it was asleep in its process"
    if not is_certain(record):
        return "it has ended, or it is not certain that it is ours"
    return ""


def started_by(record: Record, model: ModelConfig) -> ModelConfig:
    """The configuration that an engine was started with, as far as it is known: else its model's of
    now.
    """
    config = record.model_config()
    known = config is not None and (config.name, config.backend) == (record.model, record.backend)
    return config if config is not None and known else model


def is_certain(record: Record) -> bool:
    """Whether the process of a record is there, leads its session, and is ours."""
    if not record.is_of_this_boot():
        return False
    one = processes.process(record.pid)
    return (
        one is not None
        and one.alive
        and record.is_leader(one)
        and one.session == record.pid
        and processes.user_of(record.pid) == os.geteuid()
    )


async def verify(instance: Instance) -> bool:
    """Whether an engine listens, is ours, and serves; False: not yet, or nobody can see it now.

    Raises Refused: it is not ours, or does not take our key.
    """
    if not await _is_its_own(instance):
        return False
    status = await _status(instance, instance.ready_path)
    if status == 200:
        status = await _status(instance, instance.key_path)
        if status is not None and 400 <= status < 500:
            raise _wrong_key(instance.key_path, status)
        return status is not None and 200 <= status < 300
    if status in (401, 403):
        raise _wrong_key(instance.ready_path, status)
    return False


def _wrong_key(path: str, status: int) -> Refused:
    return Refused(
        f"It does not take the key of its record: GET {path} was answered with {status}."
    )


async def _status(instance: Instance, path: str) -> int | None:
    """That of its answer; None: there is none in time."""
    try:
        async with asyncio.timeout(PROBE_TIMEOUT):
            return (await instance.ask(path)).status
    except (TimeoutError, OSError):
        return None


async def _is_its_own(instance: Instance) -> bool:
    """Whether somebody listens at the engine's address, and it is itself. Raises Refused."""
    living = await instance.living()
    if living is None:
        return False
    session = [one.pid for one in living if one.session == instance.pid]
    try:
        theirs = await run_in_thread(_listens_alone, instance.address, session)
    except OSError as error:
        instance.note_unseen(error)
        return False
    if theirs is False:
        raise Refused(f"Another program listens at {instance.address}, which was its address.")
    return bool(theirs)


def _listens_alone(address: str, session: list[int]) -> bool | None:
    """As `is_theirs`, of those processes that are this user's. Raises OSError."""
    return is_theirs(address, [one for one in session if processes.user_of(one) == os.geteuid()])


class Adoption:
    """Adopts engines: a method's replica is the one in whose slot the engine is."""

    def __init__(self, prepare: Again, replicas: Replicas, models: WantedModels) -> None:
        self._prepare = prepare
        self._awake = replicas.awake
        self._set, self._note = replicas.set_state, replicas.note
        self._models = models

    async def confirm(self, replica: Replica, record: Record, instance: Instance) -> None:
        """Waits until it is certain that an engine is ours, and serves; one that still loads goes
        on loading. Raises Refused, or EngineFailed when it ends or takes too long.
        """
        try:
            await self._prepare.still_fits(replica, record.placement)
        except EngineFailed as error:
            raise Refused(str(error)) from error
        if not await verify(instance):
            await self._wait(replica, record, instance)
        if not record.has_run:
            self._set(replica, "starting", "It is sent its first request.")
            await warm_up(instance)
            await instance.note(has_run=True)
        log.info("%s goes on; an earlier run had started it.", replica.id)
        self._note(replica, "adopted")

    async def _wait(self, replica: Replica, record: Record, instance: Instance) -> None:
        before = "It was left by an earlier run."
        self._set(replica, "starting", before)

        def tell(stage: str) -> None:
            self._set(replica, "starting", f"{before} So far: {stage}." if stage else before)

        limit = adopted_within(replica.model, record, time.time())
        await until_ready(instance, tell, lambda: verify(instance), limit)

    async def compare(self, replica: Replica, record: Record, settled: asyncio.Event) -> None:
        """Looks, beside all else, whether an adopted engine would be started otherwise now. What
        keeps it from looking is told, and it looks again.

        Not before it runs, or cannot (`settled`): one that does not run yet is not spared where
        another is to take its place.
        """
        await settled.wait()
        if replica.state != "running":
            return
        self._models.look_for_edit(replica)
        self._awake.set()
        if replica.edited:
            self._tell_outdated(replica, "Its model was edited before this server started.")
            return
        failures = 0
        while (why := await self._difference(replica, record)) is None:
            failures += 1
            await asyncio.sleep(restart_delay(failures + 1))
        if why:
            replica.outdated = True
            self._tell_outdated(replica, why)
        self._models.compared(replica)
        self._awake.set()

    async def _difference(self, replica: Replica, record: Record) -> str | None:
        """Why it would be started otherwise now, a sentence; empty: it would not; None: that cannot
        be said now.
        """
        try:
            if not await self._prepare.still_fits(replica, record.placement):
                return "Its model may not have its GPUs any more."
            prepared = await self._prepare.prepare_again(replica, record)
            model, backend = replica.model, replica.backend
            if await run_in_thread(command_digest, backend, model, prepared) == record.digest:
                return ""
            return "It was started with other settings than would be used now."
        except GpustackFastError as error:
            reason = in_one_line(error)
        except OSError as error:
            reason = f"{reason_of(error)}."
        log.warning(
            "%s was adopted, and it cannot be said whether it is up to date: %s", replica.id, reason
        )
        return None

    def _tell_outdated(self, replica: Replica, why: str) -> None:
        log.info("%s is replaced by another. %s", replica.id, why)
        self._note(replica, "outdated", why)


def adopted_within(model: ModelConfig, record: Record, now: float) -> float:
    """Seconds that an adopted engine gets until it is ready; 0: no limit. `now`: Unix seconds.

    One that loads gets the rest of its time; one that has run is busy, or hangs.
    """
    if record.has_run or not model.ready_timeout:
        return model.hang_timeout if record.has_run else 0.0
    return max(1.0, model.ready_timeout - max(0.0, now - record.created))
