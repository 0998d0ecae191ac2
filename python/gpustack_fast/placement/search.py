"""The best devices for one demand, if there are any. Memory is bytes.

An engine that is told its share of each GPU takes the same share of all of its GPUs. Where they
differ in size, the smallest sets the share, and the larger give more than is needed. So every size
is tried as the smallest: that finds devices whenever there are any.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence

from gpustack_fast.backends.demand import Demand
from gpustack_fast.placement.documents import Strategy
from gpustack_fast.placement.ledger import Entry

__all__ = ["STEPS", "Offer", "find", "least_share", "offers_of_size", "taken"]

STEPS = 1000
"""A share that is not the user's is written in thousandths: short, and wastes 0.1 % at most."""

Key = tuple[int | str, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Offer:
    """What each device would have to give to a demand."""

    share: float | None
    """What the engine is told; None: nothing."""
    claims: tuple[tuple[Entry, int], ...]
    short: int = 0
    """Bytes by which the user's own share of each is too small: then it is no offer."""


def taken(total: int, share: float) -> int:
    """What an engine takes of a GPU when it is told a share: vLLM's own reckoning, to the byte."""
    return math.ceil(total * share)


def find(demand: Demand, usable: Sequence[Entry], model: str, strategy: Strategy) -> Offer | None:
    """The preferred devices on which it fits; None: on none. `usable`: those that may be taken.

    All on one NVLink island, if that can be, else on as few as can be; then all of one size.
    """
    count = demand.shape.gpus
    best: tuple[tuple[int, bool, list[Key]], Offer] | None = None
    for offer in offers_of_size(demand, usable):
        if offer.short:
            continue
        fitting = [(entry, claim) for entry, claim in offer.claims if claim <= entry.free]
        if len(fitting) < count:
            continue
        chosen = _choose([entry for entry, _ in fitting], count, model, strategy)
        rank = _rank(chosen, model, strategy)
        if best is None or rank < best[0]:
            sizes = {entry.device.uuid: claim for entry, claim in fitting}
            claims = tuple((entry, sizes[entry.device.uuid]) for entry in chosen)
            best = rank, Offer(offer.share, claims)
    return None if best is None else best[1]


def offers_of_size(demand: Demand, usable: Sequence[Entry]) -> Iterator[Offer]:
    """For each size: its devices alone, then, of an instance on several, with all larger ones.

    An offer's claims may be more than is free.
    """
    several = demand.shape.gpus > 1
    pool = [entry for entry in usable if not (several and entry.device.slice)]
    sizes = sorted({entry.device.total for entry in pool}, reverse=True)
    for size in sizes:
        share = _told_share(demand, size) if demand.tells_share else None
        claim = _claim(demand, size, share)
        same = [entry for entry in pool if entry.device.total == size]
        yield Offer(share, tuple((entry, claim) for entry in same), _short(demand, size))
    for size in sizes[1:] if several else ():
        share = _told_share(demand, size) if demand.tells_share else None
        if demand.tells_share and share is None:
            continue  # too small, so that it sets no share for others
        larger = [entry for entry in pool if entry.device.total >= size]
        claims = ((entry, _claim(demand, entry.device.total, share)) for entry in larger)
        yield Offer(share, tuple(claims), _short(demand, size))


def least_share(demand: Demand, total: int) -> float | None:
    """The share of a GPU that holds what it needs; None: not even all of it does."""
    steps = max(1, -(-(demand.least - demand.beside) * STEPS // total))
    return steps / STEPS if steps <= STEPS else None


def _told_share(demand: Demand, total: int) -> float | None:
    """The user's share, as the engine has it from him; else what is enough. None: nothing is."""
    return demand.share if demand.share is not None else least_share(demand, total)


def _short(demand: Demand, total: int) -> int:
    if demand.share is None or not demand.tells_share:
        return 0
    return max(0, demand.least - demand.beside - taken(total, demand.share))


def _claim(demand: Demand, total: int, share: float | None) -> int:
    if share is not None:
        return taken(total, share) + demand.beside
    if demand.share is not None:
        return max(demand.least, taken(total, demand.share))
    return demand.least


def _choose(entries: list[Entry], count: int, model: str, strategy: Strategy) -> list[Entry]:
    """`count` of them from as few islands as it takes, in the order in which an engine counts them:
    so that the parts of a tensor lie on one island where they can.
    """
    islands: dict[int, list[Entry]] = {}
    for entry in sorted(entries, key=lambda entry: _key(entry, model, strategy)):
        islands.setdefault(entry.device.island, []).append(entry)
    left = list(islands.values())  # the island of the best device first
    chosen: list[Entry] = []
    while len(chosen) < count:
        missing = count - len(chosen)
        enough = [island for island in left if len(island) >= missing]
        if enough:
            keys = [[_key(one, model, strategy) for one in island[:missing]] for island in enough]
            chosen += enough[keys.index(min(keys))][:missing]
        else:
            largest = max(left, key=len)
            chosen += largest
            left.remove(largest)
    return sorted(chosen, key=lambda one: (one.device.island, one.device.index, one.device.uuid))


def _rank(chosen: list[Entry], model: str, strategy: Strategy) -> tuple[int, bool, list[Key]]:
    islands = len({entry.device.island for entry in chosen})
    differ = len({entry.device.total for entry in chosen}) > 1
    return islands, differ, sorted(_key(entry, model, strategy) for entry in chosen)


def _key(entry: Entry, model: str, strategy: Strategy) -> Key:
    """The least is preferred."""
    device = entry.device
    if strategy == "binpack":
        return entry.free, device.index, device.uuid
    return entry.models[model], entry.instances, -entry.free, device.index, device.uuid
