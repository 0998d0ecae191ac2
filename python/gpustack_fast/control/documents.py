"""The documents of the control socket, one per line."""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import Struct

from gpustack_fast.keys.store import CreatedKey, Grant, KeyInfo
from gpustack_fast.storage.events import Event

__all__ = [
    "LONGEST_LINE",
    "Apply",
    "ApplyReport",
    "CreateKey",
    "CreatedKey",
    "DrainInstance",
    "DrainReport",
    "Event",
    "Failure",
    "Grant",
    "HandOver",
    "HandedOver",
    "InstanceStatus",
    "KeyInfo",
    "ListKeys",
    "ModelPlan",
    "ModelStatus",
    "Request",
    "Response",
    "ResumeInstance",
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
    """Revokes a key. The result is its KeyInfo, when every worker rejects it.

    It says as well whether that could be saved.
    """

    which: str
    """A name or an access key."""


class Status(Struct, frozen=True, tag_field="operation", tag="status", forbid_unknown_fields=True):
    """Asks for the server's state. The result is a ServerStatus."""


class DrainInstance(
    Struct, frozen=True, tag_field="operation", tag="instances.drain", forbid_unknown_fields=True
):
    """Takes instances out of the choice. The result is a DrainReport, of this moment."""

    which: str
    """The name of an instance, or an address."""


class ResumeInstance(
    Struct, frozen=True, tag_field="operation", tag="instances.resume", forbid_unknown_fields=True
):
    """Takes a drain back. The result is a DrainReport."""

    which: str
    """The name of an instance, or an address."""


class HandOver(
    Struct, frozen=True, tag_field="operation", tag="server.hand_over", forbid_unknown_fields=True
):
    """Gives everything to a new process of the server. The result, when that serves, is a
    HandedOver.
    """

    timeout: float
    """Seconds until it must serve; else this one goes on."""
    python: str | None = None
    """The path of its interpreter; None: the server's own."""


class Apply(Struct, frozen=True, tag_field="operation", tag="apply", forbid_unknown_fields=True):
    """Takes up a configuration. The result is an ApplyReport; its engines follow behind that."""

    file: str
    """An absolute path, which the server reads."""
    dry_run: bool = False
    """Nothing is changed."""


Request = (
    CreateKey | ListKeys | RevokeKey | Status | DrainInstance | ResumeInstance | HandOver | Apply
)


class InstanceStatus(Struct, frozen=True, kw_only=True):
    """One engine process, or one address of somebody else's engine."""

    name: str
    model: str
    address: str = ""
    """`http://HOST:PORT` or `unix:PATH`; empty: it has none yet, or has ended."""
    state: str
    """GPUStack's names: pending … running, error, unreachable; and draining, drained."""
    since: float
    """Unix seconds: when it came into this state (draining and drained: when that was ordered)."""
    state_message: str = ""
    drained: bool = False
    """The operator's order, whatever the state."""
    ejected: bool = False
    """Failures in a row have put it out of the choice, as long as its model has another."""
    last_failure: str = ""
    """In words; empty: none is known."""
    last_failure_at: float | None = None
    """Unix seconds."""
    in_flight: int = 0
    """Requests on it now."""
    requests: int = 0
    """Requests that it was given."""
    failures: int = 0
    """Of these, those that it failed."""
    pid: int | None = None
    restart_count: int = 0
    generation: int | None = None
    """That of its model of which it was made; None: somebody else runs it."""
    outdated: bool = False
    """Another is to take its place, since its model was edited."""
    devices: list[str] = []
    """The UUIDs of the GPUs, or of their slices, that it was given."""


class ModelStatus(Struct, frozen=True, kw_only=True):
    """One deployment."""

    name: str
    backend: str
    replicas: int
    """Wanted."""
    ready_replicas: int
    """Running, and not drained."""
    generation: int | None = None
    """Raised by each edit that makes other engines of it; None: somebody else runs them."""
    observed_generation: int | None = None
    """The last one that was carried out: all its replicas ran, and no older one was left."""
    state_message: str = ""
    """What is to be known of all its instances, in sentences; empty: nothing."""
    instances: list[InstanceStatus] = []
    retired: list[str] = []
    """The names of further ones: they get no more requests, and end when theirs have ended."""
    settled: bool = True
    """All that is wanted of it now is carried out, and nothing else is there."""
    given_up: bool = False
    """An instance has failed, and is not started again."""


class DrainReport(Struct, frozen=True, kw_only=True):
    """The instances of an order of the operator's."""

    instances: list[InstanceStatus]
    warnings: list[str] = []
    """Whole sentences."""


class ModelPlan(Struct, frozen=True, kw_only=True):
    """What becomes of the engines of a model of ours."""

    name: str
    kind: str
    """new, gone, edited, scaled, changed: see `config.comparison.ModelChange`."""
    fields: list[str] = []
    """Those with other values."""
    replicas_before: int
    replicas: int
    generation: int | None = None
    """When it is carried out; None: it is gone, or that is not known yet."""
    steps: list[str] = []
    """Sentences."""
    interrupts: str = ""
    """Why nothing of it serves for a while, in sentences; empty: something always does."""


class ApplyReport(Struct, frozen=True, kw_only=True):
    """What a configuration has changed, or would."""

    file: str
    applied: bool
    changes: list[str]
    """The names of settings, models and routes that it changes."""
    models: list[ModelPlan] = []
    restart: list[str] = []
    """What is written and needs a restart of the server."""
    warnings: list[str] = []
    """Whole sentences."""


class ServerStatus(Struct, frozen=True, kw_only=True):
    """The state of the server and its engines."""

    version: str
    pid: int
    since: float
    """Unix seconds: when it was started."""
    phase: Literal["serving", "stopping"]
    """stopping: no clients are accepted, and running requests may end."""
    not_ready: str | None = None
    """The reason why no inference can be served now; None: it can."""
    addresses: list[str]
    """The URLs of its listeners, as `http://HOST:PORT`."""
    certificate: str | None = None
    """The file of the certificate; None: plain HTTP."""
    certificate_begins: int | None = None
    """Unix seconds: the begin of the certificate that is in force; None: plain HTTP, or not known.
    """
    certificate_expires: int | None = None
    """Its end, likewise."""
    connections: int = 0
    """Open client connections."""
    in_flight: int = 0
    """Requests between their head and their end."""
    models: list[ModelStatus] = []
    file: str | None = None
    """The configuration that a reload reads; None: the embedded default."""
    events: list[Event] = []
    """What has happened to the instances that are there, and the newest of each model; the oldest
    first.
    """
    avoided_gpus: dict[str, str] = {}
    """Why nothing is started any more on a GPU or slice, in sentences, by its UUID: what it has
    reported, which its driver may not show.
    """


class HandedOver(Struct, frozen=True, kw_only=True):
    """Another process serves now; the former one finishes its requests and leaves."""

    pid: int
    version: str
    former_pid: int
    former_version: str
    addresses: list[str]
    """The URLs of its listeners."""
    at_terminal: bool = False
    """The former one was started at a terminal, which the new one does not belong to."""


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
