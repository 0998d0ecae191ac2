"""Why an instance has no place, for a person: what it needs, what there is, the nearest miss, and
what to change.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from gpustack_fast.backends.demand import Demand, Shape
from gpustack_fast.backends.parallel import VRAM_CLAIM
from gpustack_fast.placement.documents import Device, Wanted
from gpustack_fast.placement.ledger import Entry, Ledger, is_selected, is_usable
from gpustack_fast.placement.search import STEPS, find, least_share, offers_of_size, taken
from gpustack_fast.sizing.documents import Estimate

__all__ = ["explain", "memory", "name_of", "part_name"]

_MOST = 16
"""Devices that are told of one by one."""
_PART_NAMES = {"kv_cache": "KV cache", "graphs": "CUDA graphs"}


def explain(one: Wanted, ledger: Ledger) -> str:
    """The whole text. `ledger`: with all that has found a place."""
    usable = ledger.usable(one.gpu_ids)
    misses = (_nearest(demand, usable) for demand in one.demands)
    nearest = min(misses, key=_distance, default=None)
    sentences = [
        f"No GPU has room for it. It needs {_needs(one.demands)}.",
        _there_is(one, ledger.entries),
    ]
    if nearest is not None and ledger.entries:
        sentences.append(nearest.text())
    return " ".join([*sentences, *_steps(one, ledger, nearest)])


def memory(size: int) -> str:
    """`15.2 GiB`, or below 1 GiB `310 MiB`: upwards, for 0 would be wrong of what is missing."""
    if size >= 1 << 30:
        return f"{size / (1 << 30):.1f} GiB"
    return f"{-(-size // (1 << 20))} MiB"


def _parts(estimate: Estimate) -> str:
    """`weights 14.2 GiB, KV cache 1.0 GiB`"""
    return ", ".join(f"{part_name(part.name)} {memory(part.bytes)}" for part in estimate.parts)


def part_name(name: str) -> str:
    return _PART_NAMES.get(name, name)


def _needs(demands: Sequence[Demand]) -> str:
    if not demands:
        return "GPUs in a way that its engine did not tell"
    # Of several demands of one shape the last asks for the least.
    least = {demand.shape: demand for demand in demands}
    return "; or ".join(_need(demand) for demand in least.values())


def _need(demand: Demand) -> str:
    count = demand.shape.gpus
    many = f"{count} GPUs{_division(demand.shape)}, of each" if count > 1 else "of one GPU"
    size = memory(demand.least)
    if demand.share is not None:
        beside = f" with {memory(demand.beside)} beside it" if demand.beside else ""
        size = f"the share {demand.share:g} that is set{beside}, and {size} at least"
    origin = "as is set" if demand.estimate is None else _parts(demand.estimate)
    return f"{many} {size} ({origin})"


def _gpus(count: int) -> str:
    return "1 GPU" if count == 1 else f"{count} GPUs"


def _division(shape: Shape) -> str:
    ways = {"tensor": shape.tensor, "pipeline": shape.pipeline, "data": shape.data}
    return f" ({' x '.join(f'{name} {count}' for name, count in ways.items() if count > 1)})"


def name_of(device: Device) -> str:
    return f"slice {device.uuid} of GPU {device.index}" if device.slice else f"GPU {device.index}"


def _there_is(one: Wanted, entries: Sequence[Entry]) -> str:
    if not entries:
        return "There is none: `gpustack-fast gpus` says why."
    shown = "; ".join(_state(entry, one.gpu_ids) for entry in entries[:_MOST])
    more = f"; and {len(entries) - _MOST} more" if len(entries) > _MOST else ""
    return f"There is: {shown}{more}."


def _state(entry: Entry, gpu_ids: Sequence[str]) -> str:
    device = entry.device
    name = name_of(device)
    if not is_selected(device, gpu_ids):
        return f"{name}, which is not among its gpu_ids"
    if not is_usable(device):
        problem = device.problem or "it has no memory"
        return f"{name}, which cannot be used ({problem.rstrip('.')})"
    return (
        f"{name} with {memory(entry.free)} free of {memory(device.total)} "
        f"({memory(device.foreign)} held by other processes, {memory(entry.promised)} promised)"
    )


@dataclasses.dataclass(frozen=True, slots=True)
class _Miss:
    """How little a demand missed."""

    demand: Demand
    missing_gpus: int
    """GPUs that are not there at all, or may not be used."""
    lack: int
    """Bytes that the fullest of those lacks that it would take."""
    entry: Entry | None
    """That device."""
    roomy: int = 0
    """GPUs that have room."""
    slices: bool = False
    """Whether MIG slices were passed over."""
    short: bool = False
    """Whether `lack` is what the user's own share lacks, however much is free."""

    def text(self) -> str:
        count = self.demand.shape.gpus
        if self.entry is not None and self.short:
            device = self.entry.device
            share = memory(taken(device.total, self.demand.share or 0.0))
            return (
                f"The share {self.demand.share:g} of {name_of(device)} is {share}: "
                f"{memory(self.lack)} less than it needs."
            )
        if self.entry is None:
            there = count - self.missing_gpus
            return f"Of the {_gpus(count)} that it asks for {there} can be used{self._hint()}."
        lacks = f"{name_of(self.entry.device)} lacks {memory(self.lack)}"
        if count == 1:
            return f"The nearest miss: {lacks}."
        roomy = {0: "none has", 1: "1 has"}.get(self.roomy, f"{self.roomy} have")
        return f"The nearest miss: of {count} GPUs {roomy} room, and {lacks}."

    def _hint(self) -> str:
        return (
            ", for MIG slices cannot be joined"
            if self.slices and self.demand.shape.gpus > 1
            else ""
        )


def _nearest(demand: Demand, usable: Sequence[Entry]) -> _Miss:
    count = demand.shape.gpus
    slices = any(entry.device.slice for entry in usable)
    found: list[_Miss] = []
    for offer in offers_of_size(demand, usable):
        lacks = sorted(
            ((max(0, claim - entry.free), entry) for entry, claim in offer.claims),
            key=lambda lack: lack[0],
        )
        if len(lacks) < count:
            found.append(_Miss(demand, count - len(lacks), 0, None, slices=slices))
        elif offer.short:
            found.append(_Miss(demand, 0, offer.short, lacks[count - 1][1], short=True))
        else:
            lack, entry = lacks[count - 1]
            roomy = sum(missing == 0 for missing, _ in lacks)
            found.append(_Miss(demand, 0, lack, entry, roomy))
    none = _Miss(demand, count, 0, None, slices=slices)
    return min(found, key=_distance, default=none)


def _distance(miss: _Miss) -> tuple[int, int]:
    return miss.missing_gpus, miss.lack


def _steps(one: Wanted, ledger: Ledger, nearest: _Miss | None) -> Iterator[str]:
    """What to change: whole sentences, the surest first."""
    if one.gpu_ids and _fits_elsewhere(one, ledger):
        yield "Other GPUs have room for it: add them to `gpu_ids`, or leave that out."
    if not ledger.entries:
        return
    if nearest is None or nearest.entry is None:
        yield "Ask for fewer GPUs, name others, or use a machine that has more."
        return
    demand, entry = nearest.demand, nearest.entry
    if nearest.short:
        yield _larger(demand, entry)
        return
    if demand.share is not None and demand.least <= entry.free:
        most = (entry.free - demand.beside) * STEPS // entry.device.total / STEPS
        if most > 0:
            yield f"A share of {most:g} at most would fit there."
    if entry.device.foreign >= nearest.lack:
        yield (
            f"Free what others hold of GPU {entry.device.index}: `gpustack-fast gpus` and "
            "`nvidia-smi` tell who they are."
        )
    room = sum(other.free for other in ledger.usable(one.gpu_ids))
    asked = (entry.free + nearest.lack) * demand.shape.gpus
    if entry.promised >= nearest.lack and room >= asked:
        yield (
            "There would be room if the models lay closer: give those that are spread "
            '`placement_strategy = "binpack"`.'
        )
    elif entry.promised >= nearest.lack:
        yield "Other models have what it lacks: give them fewer replicas or less memory."
    if demand.share is None or demand.least > entry.free:
        yield _smaller(demand, nearest.lack)


def _fits_elsewhere(one: Wanted, ledger: Ledger) -> bool:
    everywhere = ledger.usable([])
    return any(find(demand, everywhere, one.model, one.strategy) for demand in one.demands)


def _larger(demand: Demand, entry: Entry) -> str:
    """Of a share of the user's own that does not hold what it needs."""
    share = least_share(demand, entry.device.total)
    if share is None:
        return f"Not even all of it would do. {_smaller(demand, demand.least)}"
    return (
        f"Set a share of {share:g} at least, or none: then it gets what it needs. Who knows that "
        f"it needs less than is reckoned sets {VRAM_CLAIM} in its `env`."
    )


def _smaller(demand: Demand, lack: int) -> str:
    if demand.estimate is None:
        return "Lower the memory that is set for it, or take another GPU."
    if any(part.name == "kv_cache" and part.bytes > lack for part in demand.estimate.parts):
        return (
            "A shorter context or fewer concurrent sequences would do, for the KV cache is larger "
            "than what is missing; or take a quantised model or another GPU."
        )
    return (
        "Ask for a shorter context or fewer concurrent sequences, take a quantised model, or "
        "another GPU."
    )
