"""The Structs of `[server]`. Every field is also a flag and a variable, see `settings`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, Struct, field

from gpustack_fast.machine import usable_cores, worker_threads

__all__ = [
    "NO_DATA_DIR",
    "CorsConfig",
    "LimitsConfig",
    "LogFormat",
    "LogLevel",
    "Name",
    "Seconds",
    "ServerConfig",
    "TimeoutsConfig",
    "default_data_dir",
]

NO_DATA_DIR = Path()
"""In place of a default that is not known: a rule asks for `data_dir` then."""
Name = Annotated[str, Meta(min_length=1)]
_YEAR = 365 * 24 * 3600.0
Seconds = Annotated[float, Meta(ge=0, le=_YEAR)]
"""A duration; 0 means no limit, unless a field says otherwise."""
KeepaliveSeconds = Annotated[float, Meta(ge=0, le=32_767)]
"""A duration within Linux's bounds of TCP keepalive."""
LogLevel = Literal["off", "error", "warn", "info", "debug", "trace"]
LogFormat = Literal["text", "json"]

_RELOADED = {"reload": True}
"""Marks a setting that a reload can change: the running server reads it from what was published
last. Without the mark a setting holds from the start on, and a change of it is told as one that
needs a restart."""


class TimeoutsConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits on each phase of a request, in seconds; 0: none. There is none on a whole request."""

    head: Annotated[
        Seconds,
        Meta(description="from a connection or first byte to a whole head", extra=_RELOADED),
    ] = 60.0
    keep_alive: Annotated[
        Seconds,
        Meta(
            description="how long a client's connection is kept for another request, as it is told",
            extra=_RELOADED,
        ),
    ] = 75.0
    """More than the 60 s after which load balancers drop theirs, so that it is they who close."""
    body: Annotated[
        Seconds,
        Meta(description="from one piece of a client's request body to the next", extra=_RELOADED),
    ] = 60.0
    send: Annotated[
        Seconds,
        Meta(
            description="how long a client may take no byte of its response before it is cut off",
            extra=_RELOADED,
        ),
    ] = 60.0
    connect: Annotated[Seconds, Meta(description="connecting to an engine", extra=_RELOADED)] = 3.0
    first_frame: Annotated[
        Seconds,
        Meta(
            description="from the delivery of a request to the first frame of the engine's "
            "response",
            extra=_RELOADED,
        ),
    ] = 1800.0
    idle: Annotated[
        Seconds,
        Meta(
            description="from one piece or whole frame of an engine's response to the next",
            extra=_RELOADED,
        ),
    ] = 1800.0
    tcp_keepalive_idle: Annotated[
        KeepaliveSeconds,
        Meta(
            description="an engine's or a client's connection may be silent before the machine at "
            "its end is probed (whole seconds; 0: never)",
            extra=_RELOADED,
        ),
    ] = 5.0
    tcp_keepalive_interval: Annotated[
        KeepaliveSeconds,
        Meta(description="from one such probe to the next (whole seconds)", extra=_RELOADED),
    ] = 2.0
    tcp_keepalive_probes: Annotated[
        int,
        Meta(
            ge=1,
            le=127,
            description="probes without an answer after which that machine has vanished",
            extra=_RELOADED,
        ),
    ] = 3
    tcp_unacknowledged: Annotated[
        Seconds,
        Meta(
            description="how long an engine's machine may acknowledge nothing of what it is sent",
            extra=_RELOADED,
        ),
    ] = 30.0


class LimitsConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Bounds on what a request and the server may hold."""

    max_body_bytes: Annotated[
        int,
        Meta(
            ge=1024,
            le=2**63 - 1,
            description="the largest request body; a larger one is answered 413",
            extra=_RELOADED,
        ),
    ] = 512 * 1024 * 1024
    body_rate: Annotated[
        int,
        Meta(
            ge=0,
            le=2**40,
            description="the lowest rate of a request body, in bytes a second; a slower one is "
            "answered 408, and 0 is no limit",
            extra=_RELOADED,
        ),
    ] = 1024
    """On an average behind one pause of `timeouts.body`; only waiting for the client counts."""
    replay_bytes: Annotated[
        int,
        Meta(
            ge=0,
            le=2**40,
            description="the largest request body that is kept for a second attempt elsewhere",
            extra=_RELOADED,
        ),
    ] = 1024 * 1024
    memory_bytes: Annotated[
        int,
        Meta(
            ge=65_536,
            le=2**40,
            description="what is held in memory of one body whose model is not known yet",
            extra=_RELOADED,
        ),
    ] = 4 * 1024 * 1024
    """The rest waits in a file."""
    total_memory_bytes: Annotated[
        int,
        Meta(
            ge=65_536,
            le=2**50,
            description="what all requests together may hold in memory of bodies, of long heads "
            "and of answers that are rewritten or not read; more is answered 503, or cut off",
        ),
    ] = 1024**3
    """Beyond 16 KB, and 4 KB of head, of each. Callers without a key share an eighth of it."""
    spool_bytes: Annotated[
        int,
        Meta(
            ge=0,
            le=2**50,
            description="what the files of all waiting bodies may hold; more is answered 503",
        ),
    ] = 4 * 1024**3
    """Callers without a key share an eighth of it."""
    decoded_ratio: Annotated[
        int,
        Meta(
            ge=1,
            le=65_536,
            description="decoded bytes for each byte of a compressed request body, at most",
            extra=_RELOADED,
        ),
    ] = 100
    max_nesting: Annotated[
        int,
        Meta(
            ge=5,
            le=1024,
            description="the deepest nesting of a JSON body; a deeper one is answered 400",
            extra=_RELOADED,
        ),
    ] = 512
    """Five levels are those of a chat with an image."""
    connections: Annotated[
        int,
        Meta(
            ge=0,
            le=2**24,
            description="client connections at once; 0: as many as the open files allow",
            extra=_RELOADED,
        ),
    ] = 0
    """At the limit the one that waits longest for its client is closed for a new one."""
    connections_per_address: Annotated[
        int,
        Meta(
            ge=0,
            le=2**24,
            description="client connections of one address; 0: no limit",
            extra=_RELOADED,
        ),
    ] = 0
    idle_connections: Annotated[
        int,
        Meta(
            ge=0,
            le=65_536,
            description="idle connections that each worker keeps to each engine instance",
        ),
    ] = 128
    record_queue: Annotated[
        int,
        Meta(
            ge=1,
            le=2**24,
            description="finished requests that wait for accounting; more are dropped",
        ),
    ] = 16_384


class CorsConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Pages of other origins that may use the API from a browser. Without `origins`: none."""

    origins: Annotated[
        list[Name],
        Meta(
            description="origins whose pages may use the API, as `https://HOST[:PORT]`; `*` is all",
            extra=_RELOADED,
        ),
    ] = []
    methods: Annotated[
        list[Name],
        Meta(
            description="methods that a page may use; by default those of each path",
            extra=_RELOADED,
        ),
    ] = []
    headers: Annotated[
        list[Name],
        Meta(
            description="request headers that a page may set, beside those that the SDKs send",
            extra=_RELOADED,
        ),
    ] = []
    expose: Annotated[
        list[Name],
        Meta(
            description="response headers that a page may read, beside those that the SDKs read",
            extra=_RELOADED,
        ),
    ] = []
    credentials: Annotated[
        bool,
        Meta(description="whether a page may send its cookies and certificates", extra=_RELOADED),
    ] = False
    max_age: Annotated[
        int,
        Meta(
            ge=0,
            le=86_400,
            description="seconds that a browser may remember what it was allowed",
            extra=_RELOADED,
        ),
    ] = 600


class ServerConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[server]`. Every field is also a flag and a variable; its description is the flag's help."""

    host: Annotated[
        str, Meta(min_length=1, description="the address to listen on; 0.0.0.0 is every IPv4 one")
    ] = "127.0.0.1"
    port: Annotated[
        int, Meta(ge=0, le=65_535, description="the port to listen on; 0 takes any free one")
    ] = 8080
    data_dir: Annotated[Path, Meta(description="where keys, engines and logs live")] = field(
        default_factory=lambda: default_data_dir()
    )
    """Absolute once it was read: relative to the file's folder, in a flag to the current one."""
    models_dir: Annotated[
        Path | None,
        Meta(
            description="where fetched models live; several servers may share it. By default "
            "`models` in the data directory"
        ),
    ] = None
    """Absolute once it was read, as `data_dir`. None: see `models_folder`."""
    workers: Annotated[
        Annotated[int, Meta(ge=1, le=256)] | None,
        Meta(description="threads that carry requests; by default a quarter of the cores, 1 to 4"),
    ] = None
    """None: see `worker_count`."""
    drain_timeout: Annotated[
        Seconds,
        Meta(
            description="how long running requests may still take after a stop signal; 0 cuts them "
            "at once",
            extra=_RELOADED,
        ),
    ] = 30.0
    handover_timeout: Annotated[
        Seconds,
        Meta(
            description="how long running requests may still take in a server's former process, "
            "after `restart` and `upgrade`; 0 cuts them at once",
            extra=_RELOADED,
        ),
    ] = 3600.0
    keep_engines: Annotated[
        bool,
        Meta(
            description="whether engines go on when the server stops; the next start adopts them",
            extra=_RELOADED,
        ),
    ] = False
    tls_certificate: Annotated[
        Path | None,
        Meta(
            description="a PEM file: the certificate, then those between it and a root; speaks TLS "
            "then"
        ),
    ] = None
    """Absolute once it was read, as `tls_key`; relative ones are taken as `data_dir`."""
    tls_key: Annotated[
        Path | None, Meta(description="a PEM file: the certificate's private key")
    ] = None
    trusted_proxies: Annotated[
        list[Name],
        Meta(
            max_length=256,
            description="proxies in front whose X-Forwarded-For, -Proto and -Host are believed: "
            "addresses, networks such as 10.0.0.0/8, and `unix`",
        ),
    ] = []
    """`unix` is every client of a Unix socket."""
    allowed_hosts: Annotated[
        list[Name],
        Meta(
            max_length=256,
            description="further hosts that requests without a key may be for; `*.example` is any "
            "below it, `*` any at all",
        ),
    ] = []
    """Known anyway: the names and addresses of the loopback interface, and `host`.

    Checked where the server listens on loopback addresses alone, or where this lists any.
    """
    default_route: Annotated[
        Name | None,
        Meta(
            description="the route for JSON requests that name no `model`; by default such are "
            "errors",
            extra=_RELOADED,
        ),
    ] = None
    server_timing: Annotated[
        bool,
        Meta(
            description="whether responses say where their time went (Server-Timing)",
            extra=_RELOADED,
        ),
    ] = True
    server_timing_in_streams: Annotated[
        bool,
        Meta(
            description="whether an event stream ends with a comment that says the same",
            extra=_RELOADED,
        ),
    ] = False
    usage_timings: Annotated[
        bool,
        Meta(
            description="whether `usage` of a stream gets GPUStack's three fields about its speed",
            extra=_RELOADED,
        ),
    ] = True
    sse_keep_alive: Annotated[
        Seconds,
        Meta(
            description="after so long without a byte from the engine a stream gets a comment; 0: "
            "never",
            extra=_RELOADED,
        ),
    ] = 0.0
    log_level: Annotated[
        LogLevel,
        Meta(
            description="the least urgent lines on standard error; at debug each attempt of a "
            "request",
            extra={"variable": "GPUSTACK_FAST_LOG"},
        ),
    ] = "info"
    log_format: Annotated[
        LogFormat, Meta(description="lines for people, or one JSON object a line for machines")
    ] = "text"
    timeouts: TimeoutsConfig = TimeoutsConfig()
    limits: LimitsConfig = LimitsConfig()
    cors: CorsConfig = CorsConfig()

    def models_folder(self) -> Path:
        """Where fetched models live: as written, else in the data directory."""
        return self.data_dir / "models" if self.models_dir is None else self.models_dir

    def worker_count(self) -> int:
        """The number of worker threads: as written, else a quarter of the usable cores, 1 to 4."""
        if self.workers is not None:
            return self.workers
        return worker_threads(usable_cores())


def default_data_dir() -> Path:
    """`$XDG_DATA_HOME/gpustack-fast`, else `~/.local/share/gpustack-fast`.

    A relative XDG_DATA_HOME is ignored, as the XDG Base Directory specification asks. NO_DATA_DIR
    where there is no home, as for a user of a container that is a number alone, or where HOME is a
    relative path: what it means would depend on the folder in which a command is run.
    """
    base = os.environ.get("XDG_DATA_HOME", "")
    if os.path.isabs(base):
        return Path(base) / "gpustack-fast"
    try:
        home = Path.home()
    except RuntimeError:
        return NO_DATA_DIR
    return home / ".local" / "share" / "gpustack-fast" if home.is_absolute() else NO_DATA_DIR
