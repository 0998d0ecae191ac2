"""Which instance goes on which GPUs: pure.

documents   Wanted, Device, Claim, Placement, Refusal
devices     GPUs as they were read → the devices that can be placed on
ledger      what is promised of each device
search      the best devices for one demand, and the share that its engine is told
place       what is wanted → placements and refusals
refusals    the text of a refusal
returning   whether a place can be had again as it was
"""

from __future__ import annotations

from gpustack_fast.placement.devices import devices_of
from gpustack_fast.placement.documents import (
    Claim,
    Device,
    Placement,
    Refusal,
    Strategy,
    Wanted,
)
from gpustack_fast.placement.ledger import is_selected, most_gpus
from gpustack_fast.placement.place import place
from gpustack_fast.placement.refusals import memory, name_of, part_name
from gpustack_fast.placement.returning import shortage

__all__ = [
    "Claim",
    "Device",
    "Placement",
    "Refusal",
    "Strategy",
    "Wanted",
    "devices_of",
    "is_selected",
    "memory",
    "most_gpus",
    "name_of",
    "part_name",
    "place",
    "shortage",
]
