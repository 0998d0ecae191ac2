"""The documents that cross the seam.

Each Struct here has a serde twin of the same name in `rust/sans_io/src/seam/documents.rs`.
Times are milliseconds and sizes are bytes unless a name says otherwise.
"""

from __future__ import annotations

from typing import Any

import msgspec

from gpustack_fast.config.server import LogFormat, LogLevel

__all__ = [
    "ConnectionLimits",
    "Cors",
    "DataPlaneConfig",
    "Event",
    "InstanceEntry",
    "KeyDelta",
    "KeyEntry",
    "Limits",
    "ModelEntry",
    "Polled",
    "Record",
    "RouteEntry",
    "Started",
    "Stats",
    "Table",
    "TargetEntry",
    "Telling",
    "Timeouts",
    "Tls",
]


class Document(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What all documents share: keyword arguments only, and no field that the other side does not
    know.
    """


class Timeouts(Document):
    """Each phase of a request has a limit of its own, and its own error when it is over. 0 means no
    limit.

    There is no limit on a whole request: a long generation may take as long as it makes progress.
    """

    head: int = 60_000
    """From the first chance to read a request's head until it is whole; so also how long an idle
    client connection is kept."""
    body: int = 60_000
    """From one piece of a client's request body to the next."""
    connect: int = 3_000
    """Connecting to an instance."""
    first_frame: int = 1_800_000
    """From the request's delivery to the engine until the first frame (for a whole answer: its
    first byte).
    """
    idle: int = 1_800_000
    """From one piece of an engine's answer to the next."""


class Limits(Document):
    """Bounds on what one request may hold."""

    body: int = 512 * 1024 * 1024
    """The largest request body; a larger one is answered 413."""
    replay: int = 1024 * 1024
    """The largest request body that is kept so that it can be sent to a second instance."""
    memory: int = 4 * 1024 * 1024
    """The most of one request body that is held in memory while its model is not known; the rest
    waits in a file.
    """
    ratio: int = 100
    """Decoded bytes for each byte of a compressed request body, at most, once more than 1 MB was
    decoded.
    """
    nesting: int = 512
    """The deepest nesting of a JSON body (1,024 at most); a deeper one is answered 400."""


class ConnectionLimits(Document):
    """Bounds on connections toward engines."""

    idle_per_instance: int = 128
    """Idle connections that each worker keeps to each instance."""


class Tls(Document):
    """What the listeners speak TLS with. Paths of PEM files."""

    certificate: str
    """The certificate, followed by those between it and a root."""
    key: str


class Cors(Document):
    """Which pages of other origins may use the API from a browser."""

    origins: list[str]
    """`https://HOST[:PORT]`, or `*` for all."""
    methods: list[str] = []
    """Empty: what each path takes."""
    headers: list[str] = []
    """Request headers that a page may set, beside those that the SDKs send."""
    expose: list[str] = []
    """Answer headers that a page may read, beside those that the SDKs read."""
    credentials: bool = False
    max_age: int = 600
    """Seconds that a browser may remember the answer to a preflight."""


class Telling(Document):
    """What is told to clients beyond what engines say."""

    server_timing: bool = True
    """The `Server-Timing` header."""
    server_timing_in_streams: bool = False
    """The same as a comment at the end of an event stream."""
    usage_timings: bool = True
    """GPUStack's three fields in the `usage` of a stream's last usage frame."""
    sse_keep_alive: int = 0
    """After so long without a byte from the engine a stream gets a comment; 0: never."""


class DataPlaneConfig(Document):
    """What the data plane knows from its start to its end."""

    workers: int = 1
    control_socket: str | None = None
    """Path of the Unix socket where the management API listens: it gets every path that is neither
    inference nor the data plane's own."""
    timeouts: Timeouts = msgspec.field(default_factory=Timeouts)
    limits: Limits = msgspec.field(default_factory=Limits)
    connections: ConnectionLimits = msgspec.field(default_factory=ConnectionLimits)
    telling: Telling = msgspec.field(default_factory=Telling)
    tls: Tls | None = None
    cors: Cors | None = None
    spool_folder: str | None = None
    """Where large bodies wait until their model is known; None: in the system's folder for
    temporary files.
    """
    responses_kept: int = 65_536
    """How many responses of the Responses API are remembered with the instance that made them."""
    record_queue: int = 16_384
    """Finished requests that wait for `poll`; when it is full, new records are dropped and counted.
    """
    log_level: LogLevel = "info"
    """The least urgent lines that the data plane writes. It and the format hold for the process."""
    log_format: LogFormat = "text"


class Started(Document):
    """The addresses that answer: `127.0.0.1:8080`, `[::1]:8080` or `unix:PATH`, in the order of the
    listeners.
    """

    addresses: list[str]


class InstanceEntry(Document):
    """One engine process (or one address of somebody else's engine)."""

    id: str
    """Unique for ever: a restarted engine gets a new one, so that its counters start anew."""
    address: str
    """`http://HOST:PORT` or `unix:PATH`."""
    state: str
    """GPUStack's names: pending, analyzing, scheduled, initializing, downloading, starting,
    running, error and unreachable. Only a running one gets requests."""
    api_key: str | None = None
    """Sent to the engine as `Authorization: Bearer`."""
    idle_timeout: int = 4_000
    """How long an idle connection to it may be used again; below the engine's own limit."""
    requests_per_connection: int = 0
    """After so many requests a connection is not used again; 0: no limit. Below the engine's own
    limit.
    """
    cancel_lag: int = 0
    """How long the engine goes on with a non-streamed request after its connection was closed: so
    long the slot stays counted. (For streams a close ends the work at once, in every engine that we
    know.)"""


class ModelEntry(Document):
    """A deployment: interchangeable instances that serve the same thing."""

    name: str
    served_name: str
    """What the engines call it: `model` becomes this on the way in, and the route's name on the way
    out.
    """
    backend: str
    dialects: list[str] = msgspec.field(default_factory=lambda: ["openai"])
    """What its engines speak by themselves: openai, anthropic (else `/v1/messages` is translated),
    tei (rerank).
    """
    stream_usage: bool = False
    """Whether its engines know `stream_options.include_usage`."""
    hidden_names: list[str] = []
    """Further names and paths that the engines call the model by, and that no client may see, in
    errors neither.
    """
    proxy_denied: list[str] = []
    """Administrative paths: 404 through the generic proxy, whatever the key. Each also covers what
    lies below it.
    """
    proxy_allowed: list[str] | None = None
    """The only paths that the generic proxy passes on; None: all that are not denied."""
    instances: list[InstanceEntry] = []


class TargetEntry(Document):
    """A weighted link from a route to a model."""

    model: str
    weight: int = 100
    served_name: str | None = None
    """What `model` becomes for this target, e.g. an adapter's name; None: the model's own served
    name.
    """
    fallback: list[str] = []
    """`4xx`, `5xx`: this target is tried when the others have answered so, or when none of them
    runs.
    """


class RouteEntry(Document):
    """A public name: what clients send in `model`."""

    name: str
    created: int
    """Unix seconds."""
    targets: list[TargetEntry]
    categories: list[str] = []
    generic_proxy: bool = False
    number: int = 0
    """Its number for ever, as in `/model/proxy/NUMBER/...`; 0: none."""
    access_policy: str = "authed"
    """public (no key is asked for), authed (every key), allowed_keys."""
    allowed_keys: list[str] = []
    """Names or ids of keys; for `allowed_keys` only."""
    meta: dict[str, Any] | None = None
    """Shown by `GET /v1/models?with_meta=true`."""


class Table(Document):
    """The whole routing table. Every target must name a model in it."""

    models: list[ModelEntry] = []
    routes: list[RouteEntry] = []
    metrics: str = ""
    """Prometheus text of the control plane's own families, appended to `/metrics` as it is."""


class KeyEntry(Document):
    """One API key. The key itself never crosses: only its digest."""

    id: str
    """The access key (16 hex digits): what logs, records and lists may show."""
    digest: str
    """Hex of SHA-256 over the store's salt followed by the whole key as the client sends it."""
    name: str = ""
    """What its owner calls it."""
    allowed_models: list[str] | None = None
    """Route names; None allows all."""
    scopes: list[str] = msgspec.field(default_factory=lambda: ["*"])
    """`*`, `management`, `inference`."""
    expires: int | None = None
    """Unix seconds; None: never."""


class KeyDelta(Document):
    """A change of the key table."""

    salt: str
    """Hex; the same for all keys of a store."""
    replace: bool = False
    """True: forget all other keys first."""
    upsert: list[KeyEntry] = []
    remove: list[str] = []
    """Ids."""


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
    """The instance that answered last; empty when none did."""
    path: str
    """The row of the path table, e.g. `/v1/chat/completions`."""
    status: int
    """What the client got; 499 when it left before the head."""
    attempts: int
    """Instances that were tried."""
    first_frame: float
    """Milliseconds from the request's head to the first byte handed to the client; 0 when there was
    none.
    """
    duration: float
    """Milliseconds from the request's head to the end."""
    bytes_in: int
    bytes_out: int
    input_tokens: int
    """As the engine counted them, the cached ones included; 0 when it did not say."""
    cached_tokens: int
    output_tokens: int
    stream: bool
    end: str
    """How it ended: done, refused (we answered an error), engine_error, engine_died, client_gone,
    timeout, drained.
    """


class Event(Document):
    """Something that the control plane should act on soon."""

    type: str
    """instance_idle, instance_faulted, certificate_renewed, certificate_refused, drained."""
    instance: str = ""
    version: int = 0
    """instance_idle: the version of the table that retired the instance."""
    reason: str = ""
    """instance_faulted: what was seen, e.g. `connect: Connection refused`; certificate_refused:
    why, in a sentence.
    """
    cut: int = 0
    """drained: requests that were cut at the deadline."""


class Polled(Document):
    """What happened since the last poll.

    The only document that crosses as MessagePack, since it carries every request: reading its
    records costs more than carrying them, so they stay packed until they are asked for.
    """

    finished: int
    """How many records there are."""
    packed_records: msgspec.Raw = msgspec.field(name="records")
    dropped: int = 0
    """Records that were dropped since the last poll because the queue was full."""
    events: list[Event] = []

    @property
    def records(self) -> list[Record]:
        """Unpacks the records, anew at each use."""
        return msgspec.msgpack.decode(self.packed_records, type=list[Record])


class InstanceStats(Document):
    """One instance's counters."""

    id: str
    outstanding: int
    requests: int
    faults: int


class Stats(Document):
    """A reading of the counters."""

    version: int
    """The table's version; 0 before the first."""
    connections: int
    """Open client connections."""
    in_flight: int
    """Requests between their head and their end."""
    instances: list[InstanceStats] = []
