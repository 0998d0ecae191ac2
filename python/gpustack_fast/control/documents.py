"""The documents of the control socket, one per line."""

from __future__ import annotations

import msgspec
from msgspec import Struct

from gpustack_fast.keys.store import CreatedKey, Grant, KeyInfo

__all__ = [
    "LONGEST_LINE",
    "CreateKey",
    "CreatedKey",
    "Failure",
    "Grant",
    "InstanceStatus",
    "KeyInfo",
    "ListKeys",
    "Request",
    "Response",
    "RevokeKey",
    "ServerStatus",
    "Status",
]

LONGEST_LINE = 256 * 1024
"""Bytes of a request."""


class CreateKey(
    Struct, frozen=True, tag_field="operation", tag="keys.create", forbid_unknown_fields=True
):
    """Makes a key. The result is a CreatedKey."""

    name: str
    grant: Grant
    text: str | None = None
    """A custom key; None: generate one."""


class ListKeys(
    Struct, frozen=True, tag_field="operation", tag="keys.list", forbid_unknown_fields=True
):
    """Lists the keys. The result is a list of KeyInfo."""


class RevokeKey(
    Struct, frozen=True, tag_field="operation", tag="keys.revoke", forbid_unknown_fields=True
):
    """Revokes a key. The result is its KeyInfo, when every worker rejects it."""

    which: str
    """A name or an access key."""


class Status(Struct, frozen=True, tag_field="operation", tag="status", forbid_unknown_fields=True):
    """Asks for the server's state. The result is a ServerStatus."""


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
    """The state of the server and its engines."""

    version: str
    pid: int
    addresses: list[str]
    """The URLs of its listeners, as `http://HOST:PORT`."""
    instances: list[InstanceStatus] = []


class Failure(Struct, frozen=True, kw_only=True):
    """The cause of an operation's failure."""

    kind: str
    """The name of the exception in `errors`."""
    message: str
    """Whole sentences."""


class Response(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Either a result or an error."""

    result: msgspec.Raw = msgspec.Raw(b"")
    error: Failure | None = None
