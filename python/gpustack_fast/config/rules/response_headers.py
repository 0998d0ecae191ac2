"""Rules of `response_headers`: which fields of engines' responses a model may let pass."""

from __future__ import annotations

import re
from collections.abc import Iterator

from gpustack_fast.config.rules.broken import RuleBroken
from gpustack_fast.config.schema import KeyPath
from gpustack_fast.config.sentences import quoted

__all__ = ["NEVER", "NEVER_BEGINNINGS", "check_response_headers"]

NEVER = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-connection",
        "proxy-authenticate",
        "proxy-authorization",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "http2-settings",
        "content-length",
        "date",
        "server",
        "x-request-id",
        "request-id",
        "x-upstream-request-id",
        "x-gpustack-untranslated",
        "x-content-type-options",
        "set-cookie",
        "set-cookie2",
        "clear-site-data",
        "strict-transport-security",
        "public-key-pins",
        "public-key-pins-report-only",
        "expect-ct",
        "alt-svc",
        "accept-ch",
        "accept-ch-lifetime",
        "critical-ch",
        "nel",
        "report-to",
        "reporting-endpoints",
        "origin-agent-cluster",
        "service-worker-allowed",
        "set-login",
        "use-as-dictionary",
        "speculation-rules",
        "secure-session-registration",
        "sec-session-registration",
        "refresh",
        "www-authenticate",
        "authentication-info",
        "timing-allow-origin",
        "sourcemap",
        "x-sourcemap",
        "x-sendfile",
        "x-sendfile2",
        "x-lighttpd-send-file",
        "x-lighttpd-kbytes-per-second",
        "x-reproxy-url",
        "x-reproxy-file",
        "surrogate-control",
        "surrogate-key",
        "edge-control",
        "cdn-cache-control",
        "server-timing",
    }
)
"""Fields that the data plane withholds whatever a model says.

`rust/sans_io/src/codec/response_fields.rs` has them, too, and says why.
"""
NEVER_BEGINNINGS = ("access-control-", "x-accel-", "x-envoy-", "x-litespeed-")
"""The beginnings of families of such fields."""
_FIELD_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)
"""A token (RFC 9110, 5.6.2)."""


def check_response_headers(path: KeyPath, names: list[str]) -> Iterator[RuleBroken]:
    """A mistake for each name that is none, or that never passes."""
    for index, name in enumerate(names):
        if not _FIELD_NAME.fullmatch(name):
            yield RuleBroken(
                (*path, index),
                f"{quoted(name)} is no name of a header field. Write one such as `x-mine`.",
            )
            continue
        lower = name.lower()
        if lower in NEVER or lower.startswith(NEVER_BEGINNINGS):
            yield RuleBroken(
                (*path, index),
                f"{quoted(name)} never passes from an engine to clients: this server writes it "
                "itself, or it has power over other pages of this server or over proxies in front "
                "of it. Remove it.",
            )
