"""Rules of `[server]` that concern more than one of its settings: TLS and CORS."""

from __future__ import annotations

import re
from collections.abc import Iterator

from gpustack_fast.config.rules.broken import RuleBroken
from gpustack_fast.config.schema import KeyPath
from gpustack_fast.config.sentences import is_utf8, not_utf8, quoted
from gpustack_fast.config.server import CorsConfig, ServerConfig

__all__ = ["check_server"]

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
    yield from _check_paths(server)
    yield from _check_cors(("server", "cors"), server.cors)


def _check_paths(server: ServerConfig) -> Iterator[RuleBroken]:
    """They cross to the data plane, and that speaks UTF-8."""
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
