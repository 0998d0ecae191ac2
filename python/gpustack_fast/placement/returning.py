"""Whether a place can be had again as it was: its engine runs, and can go nowhere else."""

from __future__ import annotations

from collections.abc import Sequence

from gpustack_fast.placement.documents import Device, Placement
from gpustack_fast.placement.ledger import Ledger, is_usable
from gpustack_fast.placement.refusals import memory, name_of

__all__ = ["shortage"]


def shortage(
    placement: Placement, devices: Sequence[Device], kept: Sequence[Placement]
) -> str | None:
    """What it lacks, in sentences; None: all of its claims have room beside `kept`, which it is not
    among.
    """
    entries = {entry.device.uuid: entry for entry in Ledger(devices, kept).entries}
    for claim in placement.claims:
        entry = entries.get(claim.uuid)
        if entry is None:
            return f"The GPU {claim.uuid}, on which it is, is not there any more."
        if not is_usable(entry.device):
            return f"{name_of(entry.device)}, on which it is, cannot be used now."
        if entry.free < claim.bytes:
            return (
                f"It needs {memory(claim.bytes)} of {name_of(entry.device)}, on which it is, and "
                f"{memory(entry.free)} are free."
            )
    return None
