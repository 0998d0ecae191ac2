"""What goes over the control socket, one document per line."""

from __future__ import annotations

import msgspec
from msgspec import Struct

from gpustack_fast.keys.store import CreatedKey, Grant, KeyInfo

__all__ = [
    "LONGEST_LINE",
    "Answer",
    "CreateKey",
    "CreatedKey",
    "Failure",
    "Grant",
    "InstanceStatus",
    "KeyInfo",
    "ListKeys",
    "Request",
    "RevokeKey",
    "ServerStatus",
    "Status",
]

LONGEST_LINE = 256 * 1024
"""Bytes of a request."""


class CreateKey(
    Struct, frozen=True, tag_field="operation", tag="keys.create", forbid_unknown_fields=True
):
    """Answered by a CreatedKey."""

    name: str
    grant: Grant
    text: str | None = None
    """A custom key; None: generate one."""


class ListKeys(
    Struct, frozen=True, tag_field="operation", tag="keys.list", forbid_unknown_fields=True
):
    """Answered by a list of KeyInfo."""


class RevokeKey(
    Struct, frozen=True, tag_field="operation", tag="keys.revoke", forbid_unknown_fields=True
):
    """Answered by the KeyInfo of what was revoked, when every worker refuses it."""

    which: str
    """A name or an access key."""


class Status(Struct, frozen=True, tag_field="operation", tag="status", forbid_unknown_fields=True):
    """Answered by a ServerStatus."""


Request = CreateKey | ListKeys | RevokeKey | Status


class InstanceStatus(Struct, frozen=True, kw_only=True):
    """One engine process, or one address of somebody else's engine."""

    name: str
    model: str
    state: str
    """GPUStack's names: pending … running, error, unreachable."""
    state_message: str = ""
    pid: int | None = None
    restart_count: int = 0


class ServerStatus(Struct, frozen=True, kw_only=True):
    """How the server does."""

    version: str
    pid: int
    addresses: list[str]
    """Where it listens, as `http://HOST:PORT`."""
    instances: list[InstanceStatus] = []


class Failure(Struct, frozen=True, kw_only=True):
    """Why an operation was not carried out."""

    kind: str
    """The name of the exception in `errors`."""
    message: str
    """Whole sentences."""


class Answer(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Either a result or an error."""

    result: msgspec.Raw = msgspec.Raw(b"")
    error: Failure | None = None
