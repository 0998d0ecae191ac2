"""The WebSocket of `GET /v1/realtime?model=`, and those of the generic proxy: who may open one."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from harness import DataPlaneRouter, FakeEngine

Engines = Callable[..., list[FakeEngine]]
Routers = Callable[..., DataPlaneRouter]

NARROW, WIDE = (f"gpustack_{digit * 16}_{'0' * 32}" for digit in "ab")
"""Keys: of the model alone, and of its adapter too."""


@pytest.fixture
def engine(fake_engines: Engines) -> FakeEngine:
    return fake_engines(1)[0]


@pytest.fixture
def plane(engine: FakeEngine, router: Routers) -> DataPlaneRouter:
    """`m`, and `m:tuned`, an adapter in the same engine."""
    from seam_samples import route_entry, target_entry

    routes = [
        route_entry(
            name="m", created=1, targets=[target_entry(model="m")], generic_proxy=True, number=7
        ),
        route_entry(
            name="m:tuned", created=1, targets=[target_entry(model="m", served_name="tuned")]
        ),
    ]
    one = router([engine], routes=routes)
    one.add_key("a" * 16, NARROW, allowed_models=["m"])
    one.add_key("b" * 16, WIDE, allowed_models=["m", "m:tuned"])
    return one


def status_of_opening(plane: DataPlaneRouter, target: str, key: str, body: Any = None) -> int:
    """The status of the response to a request for a WebSocket."""
    text = b"" if body is None else json.dumps(body).encode()
    fields = [
        f"GET {target} HTTP/1.1",
        "Host: x",
        f"Authorization: Bearer {key}",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        *(
            []
            if body is None
            else ["Content-Type: application/json", f"Content-Length: {len(text)}"]
        ),
    ]
    with plane.client() as client:
        client.send("\r\n".join([*fields, "", ""]).encode() + text)
        return client.read_head().status


@pytest.mark.parametrize(
    "target",
    [
        "/v1/realtime?model=m",
        "/v1/realtime?mod%65l=m",
        "/model/proxy/7/v1/realtime?model=tuned",
    ],
)
def test_a_websocket_needs_a_key_for_every_name_of_the_engine(
    plane: DataPlaneRouter, engine: FakeEngine, target: str
) -> None:
    """Messages are not read, and name the model once more (vLLM's `session.update`)."""
    assert status_of_opening(plane, target, NARROW) == 403
    assert engine.journal() == []
    assert status_of_opening(plane, target, WIDE) == 101


def test_the_model_of_a_body_before_a_websocket_opens_no_other(
    plane: DataPlaneRouter, engine: FakeEngine
) -> None:
    target = "/model/proxy/v1/realtime?model=tuned"
    assert status_of_opening(plane, target, NARROW, {"model": "m"}) == 403
    assert engine.journal() == []


@pytest.mark.parametrize(
    "query", ["model=m&model=tuned", "model=m&mod%65l=tuned", "mod%65l=m&model=m"]
)
def test_a_model_that_is_named_twice_is_400(
    plane: DataPlaneRouter, engine: FakeEngine, query: str
) -> None:
    assert status_of_opening(plane, "/v1/realtime?" + query, WIDE) == 400
    assert engine.journal() == []


def test_without_a_model_none_opens(plane: DataPlaneRouter, engine: FakeEngine) -> None:
    assert status_of_opening(plane, "/v1/realtime", WIDE) == 400
    assert status_of_opening(plane, "/v1/realtime?model=n", WIDE) == 404
    assert engine.journal() == []


KEY = "dGhlIHNhbXBsZSBub25jZQ=="


@pytest.mark.parametrize("target", ["/v1/realtime?model=m", "/model/proxy/7/v1/realtime"])
@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ([f"Sec-WebSocket-Key: {KEY}"], "Sec-WebSocket-Version"),
        ([f"Sec-WebSocket-Key: {KEY}", "Sec-WebSocket-Version: 8"], "Sec-WebSocket-Version"),
        (["Sec-WebSocket-Version: 13"], "Sec-WebSocket-Key"),
        (["Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: x"], "Sec-WebSocket-Key"),
        (["Sec-WebSocket-Version: 13", *[f"Sec-WebSocket-Key: {KEY}"] * 2], "Sec-WebSocket-Key"),
    ],
)
def test_a_handshake_that_no_server_can_answer_reaches_none(
    plane: DataPlaneRouter, engine: FakeEngine, target: str, fields: list[str], named: str
) -> None:
    """An engine could only answer it wrongly, and that would be held against the engine."""
    lines = [f"GET {target} HTTP/1.1", "Host: x", f"Authorization: Bearer {WIDE}"]
    lines += ["Connection: Upgrade", "Upgrade: websocket", *fields]
    with plane.client() as client:
        client.send("\r\n".join([*lines, "", ""]).encode())
        response = client.read_response("GET")
    assert response.status == 400
    assert named in json.loads(response.body)["error"]["message"]
    assert engine.journal() == []


# --- from a browser ---


def opened(plane: DataPlaneRouter, *fields: str, target: str = "/v1/realtime?model=m") -> Any:
    """The head of the response to a request for a WebSocket with these fields alone."""
    lines = [
        f"GET {target} HTTP/1.1",
        "Host: gateway.example",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        *fields,
    ]
    with plane.client() as client:
        client.send("\r\n".join([*lines, "", ""]).encode())
        return client.read_head()


@pytest.mark.parametrize("target", ["/v1/realtime?model=m", "/model/proxy/7/v1/realtime"])
@pytest.mark.parametrize("beta", ["", ", openai-beta.realtime-v1"])
def test_a_browser_sends_its_key_as_a_subprotocol_which_no_engine_sees(
    plane: DataPlaneRouter, engine: FakeEngine, target: str, beta: str
) -> None:
    offered = f"Sec-WebSocket-Protocol: realtime, openai-insecure-api-key.{WIDE}{beta}"
    response = opened(plane, offered, target=target)
    assert response.status == 101
    # The engine chose none. A browser that offered some wants one of them.
    chosen = "realtime" if target.startswith("/v1") else None
    assert response.header("sec-websocket-protocol") == chosen
    seen = dict(engine.journal()[-1]["headers"])
    assert seen["sec-websocket-protocol"] == f"realtime{beta}"
    assert WIDE not in json.dumps(engine.journal())


def test_a_wrong_key_in_a_subprotocol_is_401(plane: DataPlaneRouter, engine: FakeEngine) -> None:
    wrong = "Sec-WebSocket-Protocol: realtime, openai-insecure-api-key.wrong"
    assert opened(plane, wrong).status == 401
    assert opened(plane, "Sec-WebSocket-Protocol: realtime").status == 401
    assert engine.journal() == []


def test_no_subprotocol_is_chosen_that_was_not_offered(plane: DataPlaneRouter) -> None:
    for offered in ((), (f"Sec-WebSocket-Protocol: openai-insecure-api-key.{WIDE}, other",)):
        response = opened(plane, f"Authorization: Bearer {WIDE}", *offered)
        assert response.status == 101
        assert response.header("sec-websocket-protocol") is None


ORIGINS = {
    "http://gateway.example": 101,
    "https://gateway.example": 101,
    "https://app.example": 403,
    "http://gateway.example:81": 403,
    "null": 403,
}


@pytest.mark.parametrize("target", ["/v1/realtime?model=m", "/model/proxy/7/v1/realtime"])
def test_pages_of_other_origins_open_no_websocket(
    plane: DataPlaneRouter, engine: FakeEngine, target: str
) -> None:
    key = f"Authorization: Bearer {WIDE}"
    found = {
        origin: opened(plane, key, f"Origin: {origin}", target=target).status for origin in ORIGINS
    }
    assert found == ORIGINS
    assert len(engine.journal()) == list(ORIGINS.values()).count(101)


@pytest.mark.parametrize("proxies", [["127.0.0.0/8"], ["10.0.0.0/8"]])
def test_the_origin_is_compared_with_the_host_that_a_trusted_proxy_was_asked_for(
    engine: FakeEngine, router: Routers, proxies: list[str]
) -> None:
    plane = router([engine], trusted_proxies=proxies)
    plane.add_key("b" * 16, WIDE)
    trusted = proxies[0].startswith("127")
    for origin, believed in {
        "https://llm.example": True,
        "https://llm.example:8443": False,
        "http://gateway.example": False,
    }.items():
        fields = (f"Authorization: Bearer {WIDE}", f"Origin: {origin}")
        status = opened(plane, *fields, "X-Forwarded-Host: llm.example").status
        own = origin == "http://gateway.example"
        assert status == (101 if (believed if trusted else own) else 403), origin


def test_pages_that_cors_names_may_open_one(engine: FakeEngine, router: Routers) -> None:
    plane = router([engine], cors={"origins": ["https://app.example"]})
    plane.add_key("b" * 16, WIDE)
    key = f"Authorization: Bearer {WIDE}"
    assert opened(plane, key, "Origin: https://app.example").status == 101
    assert opened(plane, key, "Origin: https://other.example").status == 403
