"""Forwarding fields: what engines learn of a client, and which proxies in front are believed."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from harness import DataPlaneRouter, FakeEngine
from raw_http import chat

Routers = Callable[..., DataPlaneRouter]

SPOOFED = [
    ("X-Forwarded-For", "6.6.6.6"),
    ("X-Forwarded-Proto", "https"),
    ("X-Forwarded-Host", "evil.example"),
    ("X-Forwarded-Port", "666"),
    ("X-Forwarded-Prefix", "/evil"),
    ("X-Forwarded-User", "root"),
    ("X-Original-URL", "/admin"),
    ("X-Real-IP", "6.6.6.6"),
    ("Forwarded", "for=6.6.6.6;proto=https"),
    ("X-Client-IP", "6.6.6.6"),
    ("True-Client-IP", "6.6.6.6"),
    ("CF-Connecting-IP", "6.6.6.6"),
    ("Via", "1.1 evil.example"),
    ("X-HTTP-Method-Override", "DELETE"),
    ("X-HTTP-Method", "DELETE"),
    ("X-Method-Override", "DELETE"),
    ("X-Rewrite-URL", "/evil"),
    ("Proxy", "http://6.6.6.6"),
    ("X-Envoy-Original-Path", "/evil"),
    ("X-Auth-Request-User", "evil"),
    ("X-Forwarded_For", "6.6.6.6"),
]
ALIASES = [
    *[(name.replace("-", "_"), value) for name, value in SPOOFED if "-" in name],
    ("Authorization_", "Bearer evil"),
    ("X_Api_Key", "evil"),
    ("Api_Key", "evil"),
    ("X_GPUStack_Model", "evil"),
    ("Content_Length", "6666"),
    ("session_id", "evil"),
]
"""Names that servers which read `_` as `-` take for others."""


@pytest.fixture
def engine(shared_engine: FakeEngine) -> FakeEngine:
    return shared_engine


def seen(engine: FakeEngine) -> dict[str, str]:
    """The fields of the last request at the engine; each stands once."""
    fields = [(name.lower(), value) for name, value in engine.last()["headers"]]
    assert len(dict(fields)) == len(fields), fields
    return dict(fields)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/model/proxy/7/v1/chat/completions"])
def test_what_a_stranger_says_of_itself_reaches_no_engine(
    engine: FakeEngine, router: Routers, path: str
) -> None:
    from seam_samples import route_entry, target_entry

    route = route_entry("m", [target_entry()], generic_proxy=True, number=7)
    plane = router([engine], routes=[route])
    assert plane.request("POST", path, chat(), headers=SPOOFED).status == 200
    fields = seen(engine)
    assert fields["x-forwarded-for"] == "127.0.0.1"
    assert fields["x-forwarded-proto"] == "http"
    assert fields["x-forwarded-host"] == "localhost"
    others = {name.lower() for name, _ in SPOOFED} - {
        "x-forwarded-for",
        "x-forwarded-proto",
        "x-forwarded-host",
    }
    assert not others & fields.keys()
    assert not any("6.6.6.6" in value or "evil" in value for value in fields.values())
    assert "DELETE" not in fields.values()


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/model/proxy/7/v1/chat/completions"])
def test_no_field_with_an_underscore_reaches_an_engine(
    engine: FakeEngine, router: Routers, path: str
) -> None:
    from seam_samples import route_entry, target_entry

    route = route_entry("m", [target_entry()], generic_proxy=True, number=7)
    plane = router([engine], routes=[route])
    headers = [*ALIASES, ("X-Session-ID", "kept")]
    assert plane.request("POST", path, chat(), headers=headers).status == 200
    fields = seen(engine)
    assert not [name for name in fields if "_" in name]
    assert not any("6.6.6.6" in value or "evil" in value for value in fields.values())
    assert fields["x-session-id"] == "kept"


def test_no_field_of_the_head_picks_an_engine_behind_the_engine(
    engine: FakeEngine, router: Routers
) -> None:
    """llm-d's sidecars and gateways for inference connect to what these name."""
    picks = {
        "X-Prefiller-Host-Port": "6.6.6.6:1",
        "X-Prefiller-URL": "http://6.6.6.6",
        "X-Encoder-Hosts-Ports": "6.6.6.6:1",
        "X-Data-Parallel-Host-Port": "6.6.6.6:1",
        "X-Gateway-Destination-Endpoint": "6.6.6.6:1",
    }
    plane = router([engine])
    assert plane.chat(chat(), headers=list(picks.items())).status == 200
    assert not any("6.6.6.6" in value for value in seen(engine).values())


@pytest.mark.parametrize(
    ("hops", "client"),
    [
        (["203.0.113.9"], "203.0.113.9"),
        (["6.6.6.6, 203.0.113.9"], "203.0.113.9"),
        (["6.6.6.6, 203.0.113.9", "10.0.0.3"], "203.0.113.9"),
        (["6.6.6.6, [2001:db8::1]:443, 10.0.0.3"], "2001:db8::1"),
        (["::ffff:203.0.113.9"], "203.0.113.9"),
        (["6.6.6.6, nonsense, 10.0.0.3"], "10.0.0.3"),
        (["6.6.6.6, nonsense"], "127.0.0.1"),
        ([], "127.0.0.1"),
    ],
)
def test_a_trusted_proxy_says_who_the_client_is(
    engine: FakeEngine, router: Routers, hops: list[str], client: str
) -> None:
    plane = router([engine], trusted_proxies=["127.0.0.0/8", "10.0.0.0/8"])
    headers = [
        *[("X-Forwarded-For", hop) for hop in hops],
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Host", "llm.example:8443"),
        ("X-Real-IP", "6.6.6.6"),
    ]
    assert plane.chat(chat(), headers=headers).status == 200
    fields = seen(engine)
    assert fields["x-forwarded-for"] == client
    assert fields["x-forwarded-proto"] == "https"
    assert fields["x-forwarded-host"] == "llm.example:8443"
    assert "x-real-ip" not in fields


def test_a_proxy_that_is_not_listed_is_a_stranger(engine: FakeEngine, router: Routers) -> None:
    plane = router([engine], trusted_proxies=["10.0.0.0/8", "unix", "::1"])
    assert plane.chat(chat(), headers=SPOOFED).status == 200
    assert seen(engine)["x-forwarded-for"] == "127.0.0.1"
    assert seen(engine)["x-forwarded-proto"] == "http"
