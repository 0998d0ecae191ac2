"""What the two servers of a hand-over say to each other.

They may be of different versions: a field that one does not know is left out by it, and a new one
has a default.
"""

from __future__ import annotations

from typing import TypeAlias

from msgspec import Struct

from gpustack_fast.keys.live import KeyChange
from gpustack_fast.keys.store import Key
from gpustack_fast.seam.documents import RouteTokens

__all__ = [
    "FromPredecessor",
    "FromSuccessor",
    "Go",
    "Hurry",
    "KeysChanged",
    "Left",
    "Offer",
    "Ready",
    "Refused",
    "Serving",
    "Waiting",
    "Wanted",
]


class Offer(Struct, frozen=True, kw_only=True, tag_field="message", tag="offer"):
    """The first message. With it come the descriptors: the lock of the data directory, the standard
    error, and the listening sockets.
    """

    version: str
    host: str
    port: int
    """Of the configuration that the sockets were bound for; port 0 is any."""
    running: list[tuple[str, str]] = []
    """Model and address of each instance that runs: requests of these models must go on."""
    instances: list[str] = []
    """The ids of the engines that are given. Others are on their way out, and may still have
    requests of the predecessor's.
    """
    has_models: bool = False
    """Whether any model is configured: a file without any is most likely just being written."""


class Go(Struct, frozen=True, kw_only=True, tag_field="message", tag="go"):
    """Take over: what has changed meanwhile is on the disk, but for this."""

    revoked: list[str] = []
    """The access keys that are revoked, and that the disk may still have."""
    drained: list[tuple[str, str]] = []
    """The operator's orders: model and address of each instance that gets no new requests."""
    reload: bool = False
    """Whether the configuration is to be read again: that was asked for meanwhile."""


class Left(Struct, frozen=True, kw_only=True, tag_field="message", tag="left"):
    """The predecessor has finished its requests, and ends."""

    tokens: list[RouteTokens] = []
    """What it has counted since its successor has read the counts."""


class Wanted(Struct, frozen=True, kw_only=True, tag_field="message", tag="wanted"):
    """A request of the predecessor's waits for a model, which the successor is to wake."""

    model: str


class Hurry(Struct, frozen=True, kw_only=True, tag_field="message", tag="hurry"):
    """The successor is to stop, and waits for the end of the predecessor."""

    within: float
    """Seconds that the predecessor's requests may still take."""


class Ready(Struct, frozen=True, kw_only=True, tag_field="message", tag="ready"):
    """The successor can serve what the predecessor serves."""

    version: str


class Waiting(Struct, frozen=True, kw_only=True, tag_field="message", tag="waiting"):
    """The successor is not ready yet."""

    reason: str
    """A whole sentence."""


class Refused(Struct, frozen=True, kw_only=True, tag_field="message", tag="refused"):
    """The successor cannot take over, and ends."""

    reason: str
    """Whole sentences."""


class Serving(Struct, frozen=True, kw_only=True, tag_field="message", tag="serving"):
    """The successor accepts clients."""

    addresses: list[str]
    """The URLs of its listeners."""


class KeysChanged(Struct, frozen=True, kw_only=True, tag_field="message", tag="keys"):
    """The keys have changed: requests of the predecessor's heed that, too."""

    salt: str
    replace: bool = False
    upsert: list[Key] = []
    remove: list[str] = []

    @classmethod
    def of(cls, change: KeyChange) -> KeysChanged:
        """The message of a change."""
        return cls(
            salt=change.salt, replace=change.replace, upsert=change.upsert, remove=change.remove
        )

    def change(self) -> KeyChange:
        """The change again."""
        return KeyChange(
            salt=self.salt, replace=self.replace, upsert=self.upsert, remove=self.remove
        )


FromPredecessor: TypeAlias = Offer | Go | Wanted | Left
"""What a predecessor says."""
FromSuccessor: TypeAlias = Ready | Waiting | Refused | Serving | KeysChanged | Hurry
"""What a successor says."""
