"""Rules of `[server]` that its types cannot say: host, paths, times, TLS, proxies, CORS."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator

from msgspec import structs

from gpustack_fast.config.rules.broken import RuleBroken
from gpustack_fast.config.schema import KeyPath
from gpustack_fast.config.sentences import is_utf8, not_utf8, quoted
from gpustack_fast.config.server import NO_DATA_DIR, CorsConfig, ServerConfig
from gpustack_fast.machine import can_be_resolved

__all__ = ["NO_HOME", "check_server"]

NO_HOME = (
    "There is no home directory to put data into: HOME is not set, or is no path from the root. "
    "Choose a place with --data-dir, or set the environment variable HOME or XDG_DATA_HOME."
)
_SHORTEST_KEEP_ALIVE = 1.0
_SHORTEST_TIMEOUT = 0.01
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:\d{1,5})?", re.ASCII)
"""An origin as browsers write it: in lower case, without a path (RFC 6454, 6.2)."""
_HOST = re.compile(r"\*|(\*\.)?[A-Za-z0-9._-]+", re.ASCII)
"""A name, all below a name, or an IPv4 address."""
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
    for index, proxy in enumerate(server.trusted_proxies):
        if problem := _proxy_problem(proxy):
            yield RuleBroken(("server", "trusted_proxies", index), f"{quoted(proxy)} {problem}")
    for index, host in enumerate(server.allowed_hosts):
        if not _HOST.fullmatch(host) and not _is_ipv6(host):
            yield RuleBroken(
                ("server", "allowed_hosts", index),
                f"{quoted(host)} is no host. Write a name such as `llm.example` or `*.example`, or "
                "an address, without scheme, port and path; or `*` for any.",
            )
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
    elif not can_be_resolved(host):
        yield RuleBroken(
            path,
            f"`host` is {quoted(host)}, but each part of a name between dots has 1 to 63 "
            "characters. Correct it.",
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
    for name in ("data_dir", "models_dir", "tls_certificate", "tls_key"):
        if not is_utf8(getattr(server, name)):
            yield RuleBroken(("server", name), not_utf8(f"`{name}`"))


def _is_ipv6(host: str) -> bool:
    try:
        ipaddress.IPv6Address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return "%" not in host


def _proxy_problem(text: str) -> str | None:
    """The mistake in an entry of `trusted_proxies`, and what to write; None when it has none."""
    if text == "unix":
        return None
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        network = None
    # Python would take a zone (`fe80::1%eth0`), which no client's address has.
    if network is None or "%" in text:
        return (
            "is no proxy's address. Write an address (`192.0.2.7`), a network (`10.0.0.0/8`), or "
            "`unix` for clients of a Unix socket."
        )
    address = text.partition("/")[0]
    if "." in text.partition("/")[2]:
        return f"cannot be read. Write it as `{network.network_address}/{network.prefixlen}`."
    if ipaddress.ip_address(address) != network.network_address:
        return (
            f"is an address within a network, and it is not clear which of them is meant. Write "
            f"`{network}` for the network, or `{address}` for the address."
        )
    return None


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
