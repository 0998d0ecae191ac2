"""The documents that cross the seam.

Each Struct here has a serde twin of the same name in `rust/sans_io/src/seam/`. None has a default:
a document carries every value. The settings of `[server]` cross as they were read, and have their
defaults in `config.server`. Times are seconds (`Seconds`) and sizes are bytes unless a name says
otherwise.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from gpustack_fast.backends import Dialect, ReasoningNames
from gpustack_fast.config.schema import (
    AccessPolicy,
    Category,
    ModelTimeoutsConfig,
    Repair,
    StatusClass,
    SystemMessages,
)
from gpustack_fast.config.server import (
    CorsConfig,
    LimitsConfig,
    LogFormat,
    LogLevel,
    Seconds,
    TimeoutsConfig,
)
from gpustack_fast.engines.replica import InstanceState
from gpustack_fast.keys.store import Scope

__all__ = [
    "CertificateRefused",
    "CertificateRenewed",
    "DataPlaneConfig",
    "Drained",
    "End",
    "Event",
    "InstanceEntry",
    "InstanceFailed",
    "InstanceIdle",
    "InstanceStats",
    "KeyDelta",
    "KeyEntry",
    "MetricFamily",
    "MetricKind",
    "MetricSample",
    "ModelEntry",
    "ModelStats",
    "ModelWanted",
    "Polled",
    "Record",
    "ResponseExtras",
    "RouteEntry",
    "RouteTokens",
    "Settings",
    "Started",
    "Stats",
    "Table",
    "TargetEntry",
    "Tls",
    "Tokens",
    "Wake",
]


class Document(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Keyword arguments only, and no field that the other side does not know."""


class ResponseExtras(Document):
    """Additions to engines' responses: fields of `[server]`."""

    server_timing: bool
    server_timing_in_streams: bool
    usage_timings: bool
    sse_keep_alive: Seconds


class Tls(Document):
    """PEM files of a certificate and its key."""

    certificate: str
    """The server's certificate, followed by those between it and a root."""
    key: str


class Settings(Document):
    """The settings that a running server can change: those of a reload come with a table."""

    timeouts: TimeoutsConfig
    limits: LimitsConfig
    cors: CorsConfig
    response_extras: ResponseExtras


class DataPlaneConfig(Document):
    """The part of `[server]` that is the data plane's, from its start on.

    What `Settings` has, too, holds until the first reload.
    """

    host: str
    """The host to listen on, as it was written: a name that requests may be for."""
    workers: int
    """Worker threads; 0 counts as 1."""
    control_socket: str | None
    """The Unix socket where the management API listens; None: its paths get 503.

    It gets every path that is neither inference nor the data plane's own.
    """
    spool_folder: str
    """The folder for large bodies whose model is not known yet."""
    timeouts: TimeoutsConfig
    limits: LimitsConfig
    cors: CorsConfig
    """Without origins no response has a CORS field."""
    response_extras: ResponseExtras
    log_level: LogLevel
    """The least urgent lines that are written. It and the format hold for the process."""
    log_format: LogFormat
    trusted_proxies: list[str]
    """The proxies in front whose forwarding fields are believed."""
    allowed_hosts: list[str]
    """Further hosts that requests without a key may be for."""
    tls: Tls | None
    """None: the TCP listeners speak plain HTTP."""
    responses_kept: int
    """Responses of the Responses API that are remembered with the instance that made them."""


class Started(Document):
    """The addresses that respond, in the order of the listeners.

    Each is `127.0.0.1:8080`, `[::1]:8080` or `unix:PATH`.
    """

    addresses: list[str]


class InstanceEntry(Document):
    """One engine process (or one address of somebody else's engine)."""

    id: str
    """Unique for ever: a restarted engine gets a new one, so that its counters start anew."""
    address: str
    """`http://HOST:PORT` or `unix:PATH`."""
    state: InstanceState
    """Only a running one gets requests."""
    api_key: str | None
    """Sent to the engine as `Authorization: Bearer`; None: no such header."""
    idle_timeout: Seconds
    """Time in which an idle connection to it may be used again; below the engine's own limit."""
    requests_per_connection: int
    """Requests after which a connection is not used again, below the engine's limit; 0: no limit.
    """
    closes_after_stream: bool
    """Whether the engine closes a connection behind each chunked response, unannounced."""
    cancel_lag: Seconds
    """Time for which the engine goes on with a non-streamed request whose connection was closed.

    So long the slot stays counted. (For streams a close ends the work at once, in every engine that
    we know.)
    """
    context_length: int | None
    """The tokens of its model's context, as it has told; None: it has not."""


class Wake(Document):
    """How requests wait for a model of which nothing runs."""

    queue: int
    """The most requests that wait at the same time, on all workers; the next one gets a 503."""
    timeout: Seconds
    """The longest time that each of them waits, before it gets a 503."""


class ModelEntry(Document):
    """A deployment: interchangeable instances that serve the same thing."""

    name: str
    served_name: str
    """Its engines' name for it: `model` becomes this on the way in, the route's on the way out."""
    backend: str
    """Its `backend` in the configuration. Nothing is decided by it."""
    dialects: list[Dialect]
    """The APIs that its engines speak by themselves; the rest is translated."""
    stream_usage: bool
    """Whether its engines know `stream_options.include_usage`."""
    system_messages: SystemMessages
    """The system messages that a translated request may have."""
    reasoning_names: ReasoningNames
    """The names under which its engines take what an assistant thought."""
    redacted_names: list[str]
    """Further names and paths of it at its engines, which no client may see, not even in errors."""
    response_headers: list[str]
    """Fields of its engines' responses that reach clients, beside those that all do."""
    repair: list[Repair]
    """What is repaired in chat completions that its engines speak natively. Messages are translated
    where there is any.
    """
    proxy_denied: list[str]
    """Paths with 404 through the generic proxy, whatever the key, and all that lies below them."""
    proxy_allowed: list[str] | None
    """The only paths that the generic proxy passes on; None: all that are not denied."""
    timeouts: ModelTimeoutsConfig
    """In place of those in DataPlaneConfig."""
    max_in_flight: int
    """Requests that each of its engines is given at the same time; 0: no limit."""
    wake: Wake | None
    """While nothing of it runs, requests wait for it so; None: they get a 503 at once."""
    instances: list[InstanceEntry]


class TargetEntry(Document):
    """A weighted link from a route to a model."""

    model: str
    weight: int
    """Its share of the route's requests among those of the other targets; 0: none of its own."""
    served_name: str | None
    """The name that `model` becomes for this target, such as an adapter's; None: the model's own.
    """
    fallback: list[StatusClass]
    """Classes of status after which it is tried, or when no other runs; empty: never as a fallback.
    """


class RouteEntry(Document):
    """A public name: `model` in clients' requests."""

    name: str
    created: int
    """Unix seconds."""
    targets: list[TargetEntry]
    categories: list[Category]
    generic_proxy: bool
    number: int
    """Its number for ever, as in `/model/proxy/NUMBER/...`; 0: none."""
    access_policy: AccessPolicy
    """public (no key is asked for), authed (every key), allowed_keys."""
    allowed_keys: list[str]
    """Names or ids of keys; for `allowed_keys` only."""
    meta: dict[str, Any] | None
    """Shown by `GET /v1/models?with_meta=true`."""


MetricKind = Literal["counter", "gauge"]


class MetricSample(Document):
    """One value of a family."""

    labels: list[tuple[str, str]]
    """Names and values, in the order in which they are shown; the values are not escaped yet."""
    value: int


class MetricFamily(Document):
    """A metric family of the control plane's."""

    name: str
    help: str
    kind: MetricKind
    samples: list[MetricSample]


class Table(Document):
    """The whole routing table. Every target must name a model in it."""

    models: list[ModelEntry]
    routes: list[RouteEntry]
    default_route: str | None
    """The one that serves requests which name no model; None: such requests are errors."""
    metrics: list[MetricFamily]
    """The control plane's own families, behind those of the data plane on `/metrics`."""
    settings: Settings | None
    """Of a reload: the settings from now on. None: only engines have changed, and these stay."""


class KeyEntry(Document):
    """One API key. The key itself never crosses: only its digest."""

    id: str
    """The access key (16 hex digits): what logs, records and lists may show."""
    digest: str
    """Hex of SHA-256 over the store's salt followed by the whole key as the client sends it."""
    name: str
    """Its owner's name for it."""
    allowed_models: list[str] | None
    """Route names; None allows all."""
    scopes: list[Scope]
    expires: int | None
    """Unix seconds; None: never."""


class KeyDelta(Document):
    """A change of the key table."""

    salt: str
    """Hex; the same for all keys of a store."""
    replace: bool
    """True: forget all other keys first."""
    upsert: list[KeyEntry]
    remove: list[str]
    """Ids."""


End = Literal["done", "refused", "engine_error", "engine_died", "client_gone", "timeout", "drained"]
"""The manner of a request's end.

refused: the data plane itself responded with an error, or ended what ran with a revoked key.
"""


class Record(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """One finished request. The order of the fields is the wire's order."""

    started: float
    """Unix seconds."""
    request_id: str
    key: str
    """The key's id; empty where none was needed or none was right."""
    route: str
    """Empty when the request did not get so far."""
    instance: str
    """The instance that was tried last, whether or not it responded; empty when none was tried."""
    path: str
    """The path of its endpoint, such as `/v1/chat/completions`."""
    status: int
    """The client's; 499 when it left before the head."""
    attempts: int
    """Attempts, of which several may have been at one instance; 0 for the management API."""
    first_frame_ms: float
    """From the request's head to the first byte handed to the client; 0 when there was none."""
    duration_ms: float
    """From the request's head to the end."""
    bytes_in: int
    """Bytes of the request's body, decoded."""
    bytes_out: int
    """Bytes of the response's body."""
    input_tokens: int | None
    """The engine's count, cached ones included; None where it did not say, which is not 0."""
    cached_tokens: int | None
    """Of these, those that the engine found in its cache; None where it did not say."""
    output_tokens: int | None
    """None where the engine did not say."""
    stream: bool
    end: End


class InstanceIdle(Document, tag_field="type", tag="instance_idle"):
    """The last request of a retired instance has ended."""

    instance: str
    version: int
    """The version of the table that retired it."""


class InstanceFailed(Document, tag_field="type", tag="instance_failed"):
    """An instance failed a request. Where there are others, they are preferred for a while."""

    instance: str
    reason: str
    """The cause, such as `connect: Connection refused`."""


class ModelWanted(Document, tag_field="type", tag="model_wanted"):
    """A request waits for a model of which nothing runs, as none did before."""

    model: str


class CertificateRenewed(Document, tag_field="type", tag="certificate_renewed"):
    """New files of the certificate were taken up."""


class CertificateRefused(Document, tag_field="type", tag="certificate_refused"):
    """New files of the certificate cannot be used; the old certificate stays."""

    reason: str
    """The cause, in a sentence. The control plane does not read it."""


class Drained(Document, tag_field="type", tag="drained"):
    """The last worker has ended."""

    cut: int
    """Requests that were cut at the deadline. The control plane does not read it."""


Event = (
    InstanceIdle | InstanceFailed | ModelWanted | CertificateRenewed | CertificateRefused | Drained
)
"""News for the control plane. `app` acts on `InstanceIdle`, `InstanceFailed` and `Drained`.

The data plane itself has logged each of them with its fields, so `app` does not log them again.
"""


class Polled(Document):
    """Events and finished requests since the last poll.

    The only document that crosses as MessagePack, since it carries every request: reading its
    records costs more than carrying them, so they stay packed until they are asked for.
    """

    finished: int
    """The number of records."""
    packed_records: msgspec.Raw = msgspec.field(name="records")
    dropped: int
    """Records that were dropped since the last poll because the queue was full."""
    events: list[Event]

    @property
    def records(self) -> list[Record]:
        """Unpacks the records, anew at each use."""
        return msgspec.msgpack.decode(self.packed_records, type=list[Record])


class InstanceStats(Document):
    """One instance's counters."""

    id: str
    outstanding: int
    requests: int
    failures: int
    ejected: bool
    """Whether failures in a row have ejected it, and it has not responded since."""


class RouteTokens(Document):
    """Tokens of one route's requests, as engines have counted them."""

    name: str
    """The route's."""
    input: int
    """Tokens of prompts, the cached ones included."""
    cached: int
    """Of these, those that engines found in their caches."""
    output: int


class Tokens(Document):
    """Tokens of routes, each of which is there once, at most."""

    routes: list[RouteTokens]


class ModelStats(Document):
    """One model's counters."""

    name: str
    waiting: int
    """Requests that wait until something of it runs."""


class Stats(Document):
    """A reading of the counters."""

    version: int
    """The table's version; 0 before the first."""
    not_ready: str | None
    """The reason why no inference can be served now; None: it can."""
    connections: int
    """Open client connections."""
    in_flight: int
    """Requests between their head and their end."""
    certificate_begins: int | None
    """The begin of the certificate that is in force, in Unix seconds; None: there is none, or it
    cannot be read from it."""
    certificate_expires: int | None
    """Its end, likewise."""
    instances: list[InstanceStats]
    models: list[ModelStats]
    routes: list[RouteTokens]
    """All routes of the table, with the tokens of their requests that have ended."""
