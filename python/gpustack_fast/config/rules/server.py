"""Rules of `[server]` that its types cannot say: the host, paths, times, TLS and CORS."""

from __future__ import annotations

import re
from collections.abc import Iterator

from msgspec import structs

from gpustack_fast.config.rules.broken import RuleBroken
from gpustack_fast.config.schema import KeyPath
from gpustack_fast.config.sentences import is_utf8, not_utf8, quoted
from gpustack_fast.config.server import NO_DATA_DIR, CorsConfig, ServerConfig

__all__ = ["NO_HOME", "check_server"]

NO_HOME = (
    "There is no home directory to put data into. Choose a place with --data-dir, or set the "
    "environment variable HOME or XDG_DATA_HOME."
)
_SHORTEST_KEEP_ALIVE = 1.0
_SHORTEST_TIMEOUT = 0.01
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:\d{1,5})?", re.ASCII)
"""An origin as browsers write it: in lower case, without a path (RFC 6454, 6.2)."""
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)
"""A method or the name of a header (RFC 9110, 5.6.2)."""


def check_server(server: ServerConfig) -> Iterator[RuleBroken]:
    """Every rule that does not hold."""
    if (server.tls_certificate is None) != (server.tls_key is None):
        given, missing = ("tls_key", "tls_certificate")
        if server.tls_key is None:
            given, missing = missing, given
        yield RuleBroken(
            ("server", given),
            f"`{given}` is set, but `{missing}` is not: TLS needs both. Add it, or leave out both.",
            lacks=("server",),
        )
    yield from _check_host(server.host)
    yield from _check_paths(server)
    yield from _check_durations(server)
    yield from _check_cors(("server", "cors"), server.cors)


def _check_host(host: str) -> Iterator[RuleBroken]:
    """An address or a name alone; whether it is one of this machine, the start finds out."""
    path: KeyPath = ("server", "host")
    if "/" in host:
        yield RuleBroken(path, f"`host` is {quoted(host)}, but it is no URL. Write the host alone.")
    elif host.startswith("[") or re.fullmatch(r"[^:]*:\d*", host):
        yield RuleBroken(
            path,
            f"`host` is {quoted(host)}. Write the address alone, without brackets, and the port in "
            "`port`.",
        )
    elif host != host.strip() or not host.isprintable():
        yield RuleBroken(
            path, f"`host` is {quoted(host)}. Remove the spaces and control characters in it."
        )


def _check_durations(server: ServerConfig) -> Iterator[RuleBroken]:
    """Times so short that no client or engine could ever meet them; 0 means no limit."""
    if 0 < server.sse_keep_alive < _SHORTEST_KEEP_ALIVE:
        yield RuleBroken(
            ("server", "sse_keep_alive"),
            f"`sse_keep_alive` must be at least {_SHORTEST_KEEP_ALIVE:g}, or 0 for never, but it "
            f"is {server.sse_keep_alive:g}: streams would be full of comments. Write seconds.",
        )
    for name in structs.asdict(server.timeouts):
        seconds = getattr(server.timeouts, name)
        if 0 < seconds < _SHORTEST_TIMEOUT:
            yield RuleBroken(
                ("server", "timeouts", name),
                f"`{name}` must be at least {_SHORTEST_TIMEOUT:g}, or 0 for no limit, but it is "
                f"{seconds:g}, in which nothing could happen. Write seconds.",
            )


def _check_paths(server: ServerConfig) -> Iterator[RuleBroken]:
    """They cross to the data plane, and that speaks UTF-8."""
    if server.data_dir == NO_DATA_DIR:
        yield RuleBroken(("server", "data_dir"), NO_HOME, lacks=("server",))
    for name in ("data_dir", "tls_certificate", "tls_key"):
        if not is_utf8(getattr(server, name)):
            yield RuleBroken(("server", name), not_utf8(f"`{name}`"))


def _check_cors(path: KeyPath, cors: CorsConfig) -> Iterator[RuleBroken]:
    for index, origin in enumerate(cors.origins):
        if origin != "*" and not _ORIGIN.fullmatch(origin):
            yield RuleBroken(
                (*path, "origins", index),
                f"{quoted(origin)} is no origin. Write `https://HOST` or `https://HOST:PORT` in "
                "lower case and without a path, or `*` for all.",
            )
    for name in ("methods", "headers", "expose"):
        for index, word in enumerate(getattr(cors, name)):
            if not _TOKEN.fullmatch(word):
                yield RuleBroken(
                    (*path, name, index),
                    f"{quoted(word)} in `{name}` is neither a method nor the name of a header. "
                    "Write one word.",
                )
    if not cors.origins:
        for name in ("methods", "headers", "expose", "credentials"):
            if getattr(cors, name):
                yield RuleBroken(
                    (*path, name),
                    f"`{name}` of [server.cors] does nothing without `origins`. Add `origins = "
                    "[...]`.",
                    lacks=path,
                )
    elif cors.credentials:
        for name in ("origins", "methods", "headers", "expose"):
            if "*" in getattr(cors, name):
                yield RuleBroken(
                    (*path, name),
                    f"`{name}` has `*` together with `credentials`, which browsers refuse. Name "
                    "each one instead of "
                    "`*`, or set `credentials = false` (API keys in headers need none).",
                )
