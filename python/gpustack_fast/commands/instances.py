"""`gpustack-fast status`, `drain` and `resume`: through a running server's control socket.

Nothing here imports asyncio, granian, uvloop or the data plane, so that the commands are quick.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from gpustack_fast.commands.interruption import told_of_interruption
from gpustack_fast.commands.output import complain, in_json, say
from gpustack_fast.commands.running_server import running_server
from gpustack_fast.config.certificate import validity_warning
from gpustack_fast.control.documents import DrainReport, InstanceStatus, ModelStatus, ServerStatus
from gpustack_fast.errors import ControlError, printable
from gpustack_fast.machine import local_time

__all__ = ["drain", "resume", "status"]

_EVENTS = 10
"""Those that are shown to a person."""
_POLL = 0.2
"""Seconds between two looks at an instance that is drained."""
_HEADER = ("MODEL", "INSTANCE", "STATE", "SINCE", "IN FLIGHT", "REQUESTS", "FAILED", "RESTARTS")


def status(data_dir: Path, *, as_json: bool) -> int:
    """Prints the state of the server, its models and its instances.

    Returns 0 where inference can be served, else 1. Raises ControlError without a server.
    """
    with running_server(data_dir) as server:
        found = server.status()
    begins, ends = found.certificate_begins, found.certificate_expires
    if warning := validity_warning(begins, ends, time.time()):
        complain(f"warning: {warning}")
    # A message may quote an engine's log, and no terminal shall obey what is in that.
    say(in_json(found) if as_json else "\n".join(printable(line) for line in _page(found)))
    return 0 if found.not_ready is None else 1


def drain(data_dir: Path, which: str, *, waits: bool, timeout: float | None, as_json: bool) -> int:
    """Takes instances out of the choice, and, if it `waits`, waits until nothing runs on them.

    `timeout`: seconds; None: for as long as it takes. Raises ControlError when requests still run
    then, and Interrupted on Ctrl-C: the instances stay drained.
    """
    with running_server(data_dir) as server, told_of_interruption(_stays_drained(which)):
        report = server.drain(which)
        for warning in report.warnings:
            complain(f"warning: {warning}")
        names = [one.name for one in report.instances]
        until = float("inf") if timeout is None else time.monotonic() + timeout
        now = report.instances
        while waits and any(one.in_flight and one.drained for one in now):
            if time.monotonic() >= until:
                break
            time.sleep(min(_POLL, max(0.0, until - time.monotonic())))
            now = _named(server.status(), names)
    _tell(DrainReport(instances=now, warnings=report.warnings), as_json=as_json)
    resumed = [one.name for one in now if not one.drained]
    if resumed:
        raise ControlError(f"{', '.join(resumed)} was resumed meanwhile.")
    busy = sum(one.in_flight for one in now)
    if waits and busy:
        raise ControlError(
            f"After {timeout:g} s requests still run there: {busy}. It stays drained; repeat the "
            "command to wait on, or take it back with `gpustack-fast resume`."
        )
    return 0


def resume(data_dir: Path, which: str, *, as_json: bool) -> int:
    """Takes a drain back: the next request may go there."""
    with running_server(data_dir) as server:
        report = server.resume(which)
    _tell(report, as_json=as_json)
    return 0


def _stays_drained(which: str) -> str:
    return (
        f"{printable(which)} stays drained: no new requests go there, and those that run there go "
        "on. Repeat the command to wait on, or take the drain back with "
        f"`gpustack-fast resume {shlex.quote(which)}`."
    )


def _named(found: ServerStatus, names: Sequence[str]) -> list[InstanceStatus]:
    """Those of these names that are still there: one that has ended is idle."""
    return [one for model in found.models for one in model.instances if one.name in names]


def _tell(report: DrainReport, *, as_json: bool) -> None:
    if as_json:
        say(in_json(report))
        return
    for one in report.instances:
        say(f"{one.name} is {one.state}; requests in flight: {one.in_flight}.")


def _page(found: ServerStatus) -> Iterator[str]:
    """The lines for a person."""
    yield (
        f"gpustack-fast {found.version}, process {found.pid}, {found.phase} since "
        f"{local_time(found.since)}"
    )
    ready = "ready" if found.not_ready is None else f"not ready: {found.not_ready}"
    yield f"{' '.join(found.addresses)}: {ready}"
    if found.certificate is not None:
        ends = found.certificate_expires
        until = "" if ends is None else f", valid until {local_time(ends)}"
        yield f"Certificate: {found.certificate}{until}"
    yield f"Requests in flight: {found.in_flight}. Client connections: {found.connections}."
    yield ""
    rows = [_HEADER, *(row for model in found.models for row in _rows(model.name, model.instances))]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADER))]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield "  ".join(cells).rstrip()
    reasons = [line for one in found.models for line in _of_model(one)]
    reasons += [line for model in found.models for one in model.instances for line in _reasons(one)]
    if reasons:
        yield ""
    yield from reasons
    if found.events:
        yield ""
        yield "What has happened, the newest last:"
    for event in found.events[-_EVENTS:]:
        about = event.instance or f"the model {event.model}"
        why = f": {event.why}" if event.why else ""
        yield f"{local_time(event.time)}  {about} {event.what}{why}"


def _of_model(one: ModelStatus) -> Iterator[str]:
    """What is to be said of a model, a line each."""
    if one.generation is not None and one.generation != one.observed_generation:
        yield (
            f"{one.name}: generation {one.generation} is not carried out yet; "
            f"the last one that was: {one.observed_generation or 'none'}."
        )
    if one.state_message:
        yield f"{one.name}: {one.state_message}"


def _rows(model: str, instances: Sequence[InstanceStatus]) -> Iterator[tuple[str, ...]]:
    if not instances:
        yield (model, "none", *[""] * (len(_HEADER) - 2))
    for one in instances:
        yield (
            model,
            one.name,
            f"{one.state} (ejected)" if one.ejected else one.state,
            local_time(one.since),
            str(one.in_flight),
            str(one.requests),
            str(one.failures),
            str(one.restart_count),
        )


def _reasons(one: InstanceStatus) -> Iterator[str]:
    """What is to be said of an instance, a line each."""
    if one.address:
        yield f"{one.name} is at {one.address}."
    if one.state_message:
        yield f"{one.name}: {one.state_message}"
    if one.drained:
        yield f"{one.name} is drained: it gets no requests until `gpustack-fast resume {one.name}`."
    if one.last_failure and one.last_failure_at and one.last_failure not in one.state_message:
        yield f"{one.name} failed last at {local_time(one.last_failure_at)}: {one.last_failure}"
