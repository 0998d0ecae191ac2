"""NVIDIA's Xids: numbers by which the driver says what has gone wrong on a GPU.

Meanings and actions are told in our own words from NVIDIA's catalogue,
https://docs.nvidia.com/deploy/xid-errors/analyzing-xid-catalog.html (the resolution bucket of the
immediate action: RESET_GPU, RESTART_BM, RESTART_APP, IGNORE, workflows), as its repository
NVIDIA/NVSentinel has it, too (charts/gpu-health-monitor/xiderrorsmapping.csv).

An Xid ejects when what runs on the GPU cannot be trusted to go on, or to begin: when NVIDIA wants
the GPU reset or the machine restarted, and for every uncorrectable memory error that was not
contained. What is of one application alone (RESTART_APP) ends that application, and is seen there:
its engine dies or hangs. Judged by more than the bucket, each for a reason that stands beside it:
45, 74, 144 to 150, 154, 155. The catalogue names no bucket for 167, 171 and 172: they go by their
meaning.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from gpustack_fast.gpus.words import COMMAND_RESET

__all__ = ["XIDS", "Xid", "eject_reason", "meaning_of"]


class Xid(NamedTuple):
    """One number."""

    meaning: str
    """A noun or a clause, for the middle of a sentence."""
    ejects: bool
    """Whether a GPU's instances are ended for it, and nothing is started on it."""
    action: str
    """What to do next: whole sentences."""


_RESET = f"{COMMAND_RESET}. If it comes again, have the GPU checked."
_RESTART = "Restart the machine. If it comes again, have the GPU, its slot and power checked."
_MEMORY = f"{COMMAND_RESET}, so that the faulty memory is taken out of use."
_LINK = f"{COMMAND_RESET}; then look at its NVLink cables and switches."
_ENGINE = "The engine that caused it ends or hangs, and is started again. Look into its log."
_WATCH = "Nothing is to be done now. If there are more and more of them, have the GPU checked."
_FOLLOWS = "What is to be done follows from the Xid before it."

XIDS: Mapping[int, Xid] = {
    8: Xid("a channel that made no progress", False, _ENGINE),
    11: Xid("a corrupted stream of commands", False, _ENGINE),
    13: Xid("an exception of the compute or graphics engine", False, _ENGINE),
    25: Xid("an illegal stream of commands", False, _ENGINE),
    31: Xid("a page fault of GPU memory", False, _ENGINE),
    32: Xid("a corrupted stream of commands", False, _ENGINE),
    38: Xid("an error of the driver's firmware", False, _WATCH),
    39: Xid("an exception of a copy engine", False, _ENGINE),
    43: Xid("an application that made the GPU stop its work", False, _ENGINE),
    # The end of an application for whatever reason, also by kill -9: never by itself a fault.
    45: Xid("the clearing up after an application", False, _FOLLOWS),
    46: Xid("a GPU that has stopped processing", True, _RESET),
    48: Xid("an uncorrectable (double bit) memory error", True, _MEMORY),
    54: Xid(
        "missing auxiliary power",
        True,
        "Connect the power cable of the GPU, and start the machine again.",
    ),
    60: Xid("an exception of a video or security processor", False, _ENGINE),
    62: Xid("a halt of an internal controller", True, _RESET),
    63: Xid("a faulty row of memory that was taken out of use", False, _WATCH),
    64: Xid("a faulty row of memory that could not be taken out of use", True, _MEMORY),
    68: Xid("an exception of a video decoder", False, _ENGINE),
    69: Xid("a class error of the compute or graphics engine", False, _ENGINE),
    # A workflow; its text says that a reset or a restart is needed to clear it.
    74: Xid("an NVLink error", True, _LINK),
    79: Xid("a GPU that has fallen off the bus", True, _RESTART),
    80: Xid("corrupted data on the way to the GPU", False, _ENGINE),
    92: Xid("a high rate of corrected memory errors", False, _WATCH),
    94: Xid("an uncorrectable memory error that hit one application alone", False, _ENGINE),
    95: Xid("an uncorrectable memory error that may have hit every application", True, _MEMORY),
    109: Xid("a context switch that took too long", True, _RESET),
    110: Xid("a security fault", True, _RESET),
    119: Xid("a GPU system processor (GSP) that does not answer", True, _RESET),
    120: Xid("an error of the GPU system processor (GSP)", True, _RESET),
    121: Xid("an error of the link to the processor (C2C)", False, _WATCH),
    136: Xid("a link that could not be trained", True, _LINK),
    140: Xid("an uncorrectable memory error", True, _MEMORY),
    143: Xid("a GPU that could not be initialised", True, _RESET),
    # Of NVLink 5: fatal or not by a detail that no event has. The fatal ones bring Xid 48 as well.
    144: Xid("an NVLink error (SAW)", False, _LINK),
    145: Xid("an NVLink error (RLW)", False, _LINK),
    146: Xid("an NVLink error (TLW)", False, _LINK),
    147: Xid("an NVLink error (TREX)", False, _LINK),
    148: Xid("an NVLink error (NVLPW_CTRL)", False, _LINK),
    149: Xid("an NVLink error (NETIR)", False, _LINK),
    150: Xid("an NVLink error (MSE)", False, _LINK),
    151: Xid("keys of confidential computing that could not be renewed", True, _RESTART),
    # Only its text has the action, and no event has the text: the driver is asked for it instead.
    154: Xid("another recovery action of the driver", False, _FOLLOWS),
    # It comes with every link that is taken down on purpose, as for sleep.
    155: Xid("an NVLink that was taken down", False, _WATCH),
    156: Xid("a faulty resource that a reset takes out of use", True, _MEMORY),
    157: Xid("a faulty resource that could not be taken out of use", False, _WATCH),
    158: Xid("a fatal timeout of the GPU", True, _RESET),
    160: Xid("a channel of memory that was taken out of use", False, _WATCH),
    161: Xid("a channel of memory that could not be taken out of use", False, _WATCH),
    167: Xid("a fatal timeout of PCIe", True, _RESTART),
    171: Xid("an uncorrectable error of the GPU's main memory", True, _MEMORY),
    172: Xid("an uncorrectable error of the GPU's internal memory", True, _MEMORY),
}
"""By number. Others are told and eject nothing: what nobody knows shall not end what works."""

_UNKNOWN = Xid(
    "an error that is not in our table",
    False,
    "Look it up in https://docs.nvidia.com/deploy/xid-errors/analyzing-xid-catalog.html.",
)


def meaning_of(number: int) -> Xid:
    """What is known of an Xid; something can be said of every number."""
    return XIDS.get(number, _UNKNOWN)


def eject_reason(xid: int) -> str | None:
    """Why a GPU's instances have to go, with the next step, in sentences; None: they can stay."""
    known = meaning_of(xid)
    if not known.ejects:
        return None
    return f"The GPU has reported {known.meaning} (Xid {xid}). {known.action}"
