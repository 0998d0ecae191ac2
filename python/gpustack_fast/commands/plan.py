"""`gpustack-fast plan`: which replica would go on which GPUs. It starts and downloads nothing."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from gpustack_fast import plain_files
from gpustack_fast.backends import BACKENDS, Backend
from gpustack_fast.commands.output import complain, in_json, say
from gpustack_fast.commands.planning import (
    FactsOf,
    M,
    Plan,
    PlannedReplica,
    make_plan,
)
from gpustack_fast.errors import UsageError, printable
from gpustack_fast.gpus.documents import GpuReport
from gpustack_fast.placement import Device, devices_of, memory, name_of, part_name

__all__ = ["emptied", "plan", "report_in"]


def plan(
    models: Sequence[M],
    report: GpuReport,
    facts_of: FactsOf[M],
    *,
    as_json: bool,
    backends: Mapping[str, Backend] = BACKENDS,
) -> int:
    """Prints where each replica would go. Returns 0, or 1 where something has no place."""
    unread = report.problem if report.unread else ""
    found = make_plan(models, devices_of(report, {}), facts_of, backends, unread)
    if report.problem:
        complain(f"warning: {report.problem}")
    for model, why in found.without_gpu.items():
        complain(f"warning: The model `{model}` runs without a GPU: {why}.")
    if as_json:
        say(in_json(found))
    else:
        # A sentence may quote a model's files, and no terminal shall obey what is in them.
        say("\n".join(printable(line) for line in _page(found, report)))
    return 0 if found.complete else 1


def report_in(text: str) -> GpuReport:
    """GPUs as `gpustack-fast gpus --json` prints them: the JSON itself, a file with it, or `-` for
    standard input. Raises UsageError.
    """
    content = text if text.lstrip().startswith("{") else _content(text)
    try:
        return msgspec.json.decode(content, type=GpuReport)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UsageError(
            f"What `--gpus` gives is not what `gpustack-fast gpus --json` prints: {error}. Run "
            "that on the machine that you plan for, and give its output."
        ) from error


def _content(name: str) -> bytes:
    try:
        if name == "-":
            return sys.stdin.buffer.read()
        return plain_files.read_bytes(Path(name))
    except OSError as error:
        raise UsageError(
            f"The file {name} of `--gpus` cannot be read: {error.strerror}. Check its path and "
            "rights."
        ) from error


def emptied(report: GpuReport) -> GpuReport:
    """The same GPUs as if nothing ran on them."""
    gpus = [
        msgspec.structs.replace(
            gpu,
            memory_used=0,
            slices=[msgspec.structs.replace(one, memory_used=0) for one in gpu.slices],
        )
        for gpu in report.gpus
    ]
    return msgspec.structs.replace(report, gpus=gpus)


def _page(found: Plan, report: GpuReport) -> Iterator[str]:
    """The lines for a person."""
    names = {gpu.uuid: gpu.name for gpu in report.gpus}
    names |= {one.uuid: f"{gpu.name} {one.name}" for gpu in report.gpus for one in gpu.slices}
    if not found.devices:
        yield "No GPU could be read." if report.unread else "No GPU."
    for device in found.devices:
        yield _device(device, names.get(device.uuid, ""), found.replicas)
    running = [name for gpu in report.gpus for name in gpu.instances]
    if running and any(device.foreign for device in found.devices):
        yield (
            f"What a server's engines hold counts as in use ({', '.join(dict.fromkeys(running))}): "
            "with `--empty` the plan is made as if nothing ran."
        )
    by_uuid = {device.uuid: device for device in found.devices}
    counts: dict[str, int] = {}
    for one in found.replicas:
        counts[one.model] = counts.get(one.model, 0) + 1
    told: dict[str, str | None] = {}
    for one in found.replicas:
        yield ""
        if one.refusal is not None and told.get(one.model) == one.refusal:
            yield f"{_which(one, counts)}: no place, for the same reason."
        else:
            yield from _replica(one, _which(one, counts), by_uuid)
        told[one.model] = one.refusal
    for model, why in found.not_planned.items():
        yield ""
        yield f"{model}: not planned. {why}"
    if found.without_gpu:
        yield ""
        yield f"Without a GPU: {', '.join(found.without_gpu)}."


def _device(device: Device, name: str, replicas: Sequence[PlannedReplica]) -> str:
    planned = sum(
        claim.bytes
        for one in replicas
        if one.placement is not None
        for claim in one.placement.claims
        if claim.uuid == device.uuid
    )
    what = f"{name_of(device)}: {name}, {memory(device.total)}"
    if device.problem:
        return f"{what}. It cannot be used: {device.problem}"
    free = max(0, device.total - device.foreign - planned)
    return (
        f"{what}: {memory(device.foreign)} in use now, {memory(planned)} planned, {memory(free)} "
        "free"
    )


def _which(one: PlannedReplica, counts: Mapping[str, int]) -> str:
    return f"{one.model}, replica {one.number + 1} of {counts[one.model]}"


def _replica(one: PlannedReplica, which: str, devices: Mapping[str, Device]) -> Iterator[str]:
    placement = one.placement
    if placement is None and one.takes_turns:
        yield f"{which}: it sleeps until it is asked for, and then others of its swap_group do."
        return
    if placement is None:
        yield f"{which}: no place. {one.refusal}"
        return
    on = " + ".join(name_of(devices[claim.uuid]) for claim in placement.claims)
    sizes = sorted({claim.bytes for claim in placement.claims})
    each = "" if len(placement.claims) == 1 else " each"
    size = " to ".join(memory(size) for size in sizes[:: max(1, len(sizes) - 1)])
    share = "" if placement.share is None else f", the share {placement.share:g}"
    yield f"{which}: {on}, {size}{each}{share}"
    shape = placement.shape
    yield f"  tensor {shape.tensor} x pipeline {shape.pipeline} x data {shape.data}"
    if placement.estimate is None:
        yield "  as its settings say; nothing was estimated"
        return
    width = max((len(part_name(part.name)) for part in placement.estimate.parts), default=0)
    for part in placement.estimate.parts:
        yield f"  {part_name(part.name):{width}}  {memory(part.bytes):>9}  {part.how}".rstrip()
