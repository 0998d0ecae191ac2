"""What is wanted → a place for each, or the reason why there is none.

The same question always has the same answer, in whatever order the devices are given. What is kept
is never moved.

One instance alone is refused only where none of its demands fits anywhere. Of several, the largest
is placed first, since the small ones find room between the large, and not the other way round.
Where not all find a place so, it is tried again with one instance of each model before the second
of any, the largest first and then the smallest. The best holds: the fewest models without any
instance, then the fewest refusals.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from gpustack_fast.placement.documents import Claim, Device, Placement, Refusal, Wanted
from gpustack_fast.placement.ledger import Ledger
from gpustack_fast.placement.refusals import explain
from gpustack_fast.placement.search import find

__all__ = ["place"]


def place(
    wanted: Sequence[Wanted], devices: Sequence[Device], kept: Sequence[Placement]
) -> list[Placement | Refusal]:
    """The answers in the order of `wanted`. `kept`: the places of instances that stay."""
    largest = max((device.total for device in devices), default=0)
    sizes = [_size(one, largest) for one in wanted]

    def by_size(position: int) -> tuple[bool, int, int, str, int, int]:
        one, (total, gpus) = wanted[position], sizes[position]
        return not one.gpu_ids, -total, -gpus, one.model, one.number, position

    order = sorted(range(len(wanted)), key=by_size)
    ledger, found = _attempt(wanted, order, devices, kept)
    if None in found:
        rounds = _rounds(wanted, kept)
        for again in (order, order[::-1]):
            again = sorted(again, key=lambda position: rounds[position])  # by size within a round
            other_ledger, other = _attempt(wanted, again, devices, kept)
            if _loss(wanted, other, kept) < _loss(wanted, found, kept):
                ledger, found = other_ledger, other
    return [
        Refusal(model=one.model, number=one.number, message=explain(one, ledger))
        if placement is None
        else placement
        for one, placement in zip(wanted, found, strict=True)
    ]


def _attempt(
    wanted: Sequence[Wanted],
    order: Sequence[int],
    devices: Sequence[Device],
    kept: Sequence[Placement],
) -> tuple[Ledger, list[Placement | None]]:
    ledger = Ledger(devices, kept)
    found: list[Placement | None] = [None] * len(wanted)
    for position in order:
        placement = _placement(wanted[position], ledger)
        if placement is not None:
            ledger.enter(placement)
            found[position] = placement
    return ledger, found


def _placement(one: Wanted, ledger: Ledger) -> Placement | None:
    usable = ledger.usable(one.gpu_ids)
    rooms = sorted((entry.free for entry in usable), reverse=True)
    for demand in one.demands:
        if demand.shape.gpus > len(rooms) or rooms[demand.shape.gpus - 1] < demand.least:
            continue  # there is no need to search
        offer = find(demand, usable, one.model, one.strategy)
        if offer is not None:
            return Placement(
                model=one.model,
                number=one.number,
                shape=demand.shape,
                claims=[Claim(uuid=at.device.uuid, bytes=size) for at, size in offer.claims],
                share=offer.share,
                estimate=demand.estimate,
            )
    return None


def _size(one: Wanted, largest: int) -> tuple[int, int]:
    """What it asks for if it gets what it prefers: bytes of all its GPUs, and their number."""
    if not one.demands:
        return 0, 0
    demand = one.demands[0]
    each = max(demand.least, int(largest * (demand.share or 0.0)))
    return each * demand.shape.gpus, demand.shape.gpus


def _rounds(wanted: Sequence[Wanted], kept: Sequence[Placement]) -> list[int]:
    """How many instances of its model each comes after, those that are kept among them."""
    before = Counter(placement.model for placement in kept)
    rounds = [0] * len(wanted)
    for position in sorted(range(len(wanted)), key=lambda at: (wanted[at].number, at)):
        model = wanted[position].model
        rounds[position] = before[model]
        before[model] += 1
    return rounds


def _loss(
    wanted: Sequence[Wanted], found: Sequence[Placement | None], kept: Sequence[Placement]
) -> tuple[int, int]:
    """Models without any instance, and refusals."""
    present = {placement.model for placement in (*kept, *found) if placement is not None}
    absent = {one.model for one in wanted} - present
    return len(absent), sum(placement is None for placement in found)
