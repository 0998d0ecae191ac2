"""Web pages in somebody's browser: they may not use what asks for no key."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from harness import DataPlaneRouter, FakeEngine, external, serving
from raw_http import Client, Response, chat

Engines = Callable[..., list[FakeEngine]]
Routers = Callable[..., DataPlaneRouter]

PAGE = "https://chat.example"
EVIL = [("Origin", "http://evil.example"), ("Sec-Fetch-Site", "cross-site")]


@pytest.fixture
def engine(shared_engine: FakeEngine) -> FakeEngine:
    return shared_engine


def public(engine: FakeEngine, router: Routers, **settings: Any) -> DataPlaneRouter:
    from seam_samples import route_entry, target_entry

    route = route_entry("m", [target_entry()], access_policy="public", generic_proxy=True, number=7)
    return router([engine], routes=[route], **settings)


def ask(
    plane: Any,
    method: str,
    target: str,
    host: str | None,
    *,
    body: bytes = b"",
    headers: list[tuple[str, str]] | None = None,
    version: str = "1.1",
) -> Response:
    """One request with exactly these fields, and no key among them by itself."""
    fields = [] if host is None else [("Host", host)]
    fields += [("Content-Length", str(len(body))), *(headers or [])]
    lines = [f"{method} {target} HTTP/{version}", *(f"{name}: {value}" for name, value in fields)]
    with Client(plane.address) as client:
        client.send("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        return client.read_response(method)


JSON = [("Content-Type", "application/json")]
CHAT = json.dumps(chat()).encode()
MESSAGE = json.dumps(
    {"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": "a"}]}
).encode()


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:1", "192.168.7.7"])
def test_a_name_that_suddenly_points_at_a_loopback_address_leads_nowhere(
    engine: FakeEngine, router: Routers, host: str
) -> None:
    plane = public(engine, router)
    for method, target, body in [
        ("GET", "/v1/models", b""),
        ("GET", "/v1/models/m", b""),
        ("GET", "/metrics", b""),
        ("GET", "/v2/models", b""),
        ("POST", "/v1/chat/completions", CHAT),
        ("POST", "/v1/messages", MESSAGE),
        ("GET", "/model/proxy/7/x", b""),
    ]:
        response = ask(plane, method, target, host, body=body, headers=JSON)
        assert response.status == 421, target
        text = response.body.decode()
        assert "server.allowed_hosts" in text
        assert host in text
        error = json.loads(text)
        if target == "/v1/messages":
            assert error["error"]["type"] == "invalid_request_error"
        elif target in ("/metrics", "/v2/models"):
            assert (error["code"], error["reason"]) == (421, "MisdirectedRequest")
        else:
            assert error["error"]["code"] == "unknown_host"
    assert engine.inference() == []
    for target in ("/healthz", "/readyz"):
        assert ask(plane, "GET", target, host).status == 200
    for method, target, body in [
        ("GET", "/v1/models", b""),
        ("GET", "/metrics", b""),
        ("POST", "/v1/chat/completions", CHAT),
    ]:
        keyed = [*JSON, ("Authorization", f"Bearer {plane.key}")]
        assert ask(plane, method, target, host, body=body, headers=keyed).status == 200
        wrong = [*JSON, ("Authorization", "Bearer wrong")]
        assert ask(plane, method, target, host, body=body, headers=wrong).status in (401, 421)


def test_names_of_this_machine_and_listed_ones_are_known(
    engine: FakeEngine, router: Routers
) -> None:
    plane = public(engine, router, host="box.internal", allowed_hosts=["llm.example", "*.lan"])
    for host in (
        "localhost",
        "LOCALHOST:8080",
        "m.localhost:1",
        "127.0.0.1",
        "127.9.9.9:2",
        "[::1]:3",
        "box.internal:4",
        "llm.example",
        "a.lan:80",
    ):
        assert ask(plane, "GET", "/v1/models", host).status == 200, host
    assert ask(plane, "GET", "/v1/models", "lan").status == 421
    # A client without a name for it is no browser.
    assert ask(plane, "GET", "/v1/models", None, version="1.0").status == 200
    anywhere = public(engine, router, allowed_hosts=["*"])
    assert ask(anywhere, "GET", "/v1/models", "evil.example").status == 200


FORWARDED = [("X-Forwarded-For", "5.5.5.5"), ("X-Forwarded-Proto", "https")]


@pytest.mark.parametrize("proxies", [["127.0.0.0/8"], ["10.0.0.0/8"]])
def test_behind_a_trusted_proxy_the_host_is_the_one_that_it_was_asked_for(
    engine: FakeEngine, router: Routers, proxies: list[str]
) -> None:
    """Some proxies put their own host of the server in `Host`. A stranger's word counts nothing."""
    plane = public(engine, router, allowed_hosts=["llm.example"], trusted_proxies=proxies)
    trusted = proxies[0].startswith("127")
    plain = ("Content-Type", "text/plain")
    for own, seen, believed, otherwise in [
        ("127.0.0.1:8080", "evil.example", 421, 200),
        ("127.0.0.1:8080", "llm.example", 200, 200),
        ("evil.example", "llm.example", 200, 421),
        ("evil.example", "llm.example:8443", 200, 421),
    ]:
        headers = [*FORWARDED, ("X-Forwarded-Host", seen)]
        status = believed if trusted else otherwise
        for method, target, body in [
            ("GET", "/v1/models", b""),
            ("GET", "/metrics", b""),
            ("GET", "/v2/models", b""),
            ("POST", "/v1/chat/completions", CHAT),
        ]:
            got = ask(plane, method, target, own, body=body, headers=[*JSON, *headers])
            # The management API is not there in this test.
            there = 503 if target == "/v2/models" and status == 200 else status
            assert got.status == there, (own, seen, target)
        # A page of the host that its browser knows is no other site's.
        known = seen if trusted else own
        for page in (f"https://{seen}", f"http://{own}"):
            sender = [plain, *headers, ("Origin", page)]
            got = ask(plane, "POST", "/v1/chat/completions", own, body=CHAT, headers=sender)
            foreign = 200 if page.endswith(f"//{known}") else 403
            expected = foreign if status == 200 else status
            assert got.status == expected, (own, seen, page)
        keyed = [*JSON, *headers, ("Authorization", f"Bearer {plane.key}")]
        assert ask(plane, "GET", "/v1/models", own, headers=keyed).status == 200


def test_a_form_of_another_site_cannot_use_a_public_route(
    engine: FakeEngine, router: Routers
) -> None:
    plane = public(engine, router, cors={"origins": [PAGE]})
    plain = [("Content-Type", "text/plain")]
    label = [("Content-Type", "multipart/form-data; boundary=x")]
    form = [("Content-Type", "application/x-www-form-urlencoded")]
    for target, dialect in [
        ("/v1/chat/completions", "openai"),
        ("/v1/messages", "anthropic"),
        ("/model/proxy/7/v1/chat/completions", "openai"),
    ]:
        body = MESSAGE if dialect == "anthropic" else CHAT
        for kind in (plain, label, form, []):
            for sender in (EVIL, EVIL[:1], EVIL[1:], [("Origin", "null")]):
                response = ask(
                    plane, "POST", target, "localhost", body=body, headers=[*kind, *sender]
                )
                assert response.status == 403, (target, kind, sender)
                assert response.json()["error"]["type"] == "permission_error"
                assert "server.cors.origins" in response.json()["error"]["message"]
    assert engine.inference() == []
    for headers in (
        [*JSON, *EVIL],  # A browser asks before, and is told no.
        plain,
        [*plain, ("Origin", "http://localhost"), ("Sec-Fetch-Site", "same-origin")],
        [*plain, ("Origin", PAGE), ("Sec-Fetch-Site", "cross-site")],
        [*plain, *EVIL, ("Authorization", f"Bearer {plane.key}")],
    ):
        response = ask(
            plane, "POST", "/v1/chat/completions", "localhost", body=CHAT, headers=headers
        )
        assert response.status == 200, headers


def test_an_upload_of_another_site_is_a_form_where_forms_are_taken(
    engine: FakeEngine, router: Routers
) -> None:
    plane = public(engine, router)
    body = b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\nm\r\n--x--\r\n'
    for kind, status in (("multipart/form-data; boundary=x", 200), ("text/plain", 403)):
        response = ask(
            plane,
            "POST",
            "/v1/audio/transcriptions",
            "localhost",
            body=body,
            headers=[("Content-Type", kind), *EVIL],
        )
        assert response.status == status, response.body


def test_the_product_knows_its_own_names_alone(fake_engines: Engines) -> None:
    config = external(fake_engines(1), more='[server]\nallowed_hosts = ["llm.example"]\n')
    with serving(config) as product:
        # A good key of any scope shows that no page has sent the request.
        created = product.keys("create", "boss", "--scope", "management")
        manages = [("Authorization", f"Bearer {created.stdout.strip()}")]
        for path in ("/v2/models", "/metrics"):
            assert ask(product, "GET", path, "evil.example", headers=manages).status == 200
        for host, status in (("127.0.0.1", 200), ("llm.example", 200), ("evil.example", 421)):
            assert ask(product, "GET", "/metrics", host).status == status
            assert ask(product, "GET", "/version", host).status == status
        version = ask(product, "GET", "/version", "localhost")
        assert version.header("cache-control") == "no-store"
        assert version.header("x-content-type-options") == "nosniff"
