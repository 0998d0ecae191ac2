"""What is promised of each device, while placements are made. Memory is bytes."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Sequence

from gpustack_fast.placement.documents import Device, Placement

__all__ = ["Entry", "Ledger", "is_selected", "is_usable", "most_gpus"]


@dataclasses.dataclass(slots=True)
class Entry:
    """One device and its promises."""

    device: Device
    free: int
    """At least 0, however much is promised or in use."""
    promised: int = 0
    instances: int = 0
    models: Counter[str] = dataclasses.field(default_factory=Counter)
    """Instances by their model."""

    def promise(self, model: str, size: int) -> None:
        self.promised += size
        self.instances += 1
        self.models[model] += 1
        self.free = max(0, self.device.total - self.device.foreign - self.promised)


class Ledger:
    """All devices, in the order of their index, and what is kept on them."""

    def __init__(self, devices: Iterable[Device], kept: Sequence[Placement]) -> None:
        ordered = sorted(devices, key=lambda device: (device.index, device.uuid))
        self.entries = [
            Entry(device, free=max(0, device.total - device.foreign)) for device in ordered
        ]
        self._by_uuid = {entry.device.uuid: entry for entry in self.entries}
        for placement in kept:
            self.enter(placement)

    def enter(self, placement: Placement) -> None:
        """Notes its claims. A device that is not there any more has nothing to note them in."""
        for claim in placement.claims:
            entry = self._by_uuid.get(claim.uuid)
            if entry is not None:
                entry.promise(placement.model, claim.bytes)

    def usable(self, gpu_ids: Sequence[str]) -> list[Entry]:
        """Those that are well and among these, by UUID or index; all that are well if it is empty.

        The index of a divided GPU means each of its slices.
        """
        return [
            entry
            for entry in self.entries
            if is_usable(entry.device) and is_selected(entry.device, gpu_ids)
        ]


def most_gpus(devices: Iterable[Device], gpu_ids: Sequence[str]) -> int:
    """Over how many of them one instance can be divided: the `count` of a backend's `demands`."""
    usable = [one for one in devices if is_usable(one) and is_selected(one, gpu_ids)]
    return max(1, sum(not one.slice for one in usable))


def is_selected(device: Device, gpu_ids: Sequence[str]) -> bool:
    """By its UUID, its index, or as GPUStack writes that: `<worker>:cuda:0`."""
    return not gpu_ids or any(
        one == device.uuid or _number(one) == str(device.index) for one in gpu_ids
    )


def _number(name: str) -> str:
    """`0` of `0`, `00` and `<worker>:cuda:0`."""
    digits = name.rpartition(":cuda:")[2]
    return digits.lstrip("0") or digits[:1]


def is_usable(device: Device) -> bool:
    return not device.problem and device.total > 0
