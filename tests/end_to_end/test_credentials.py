"""Credentials: which of a request's counts, what counts as none, and what a bad one is told."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from harness import KEY, DataPlaneRouter, FakeEngine
from raw_http import chat

Routers = Callable[..., DataPlaneRouter]

EXPIRED, MANAGING = (f"gpustack_{digit * 16}_{'0' * 32}" for digit in "ef")


@pytest.fixture
def engine(shared_engine: FakeEngine) -> FakeEngine:
    return shared_engine


@pytest.fixture
def plane(engine: FakeEngine, router: Routers) -> DataPlaneRouter:
    """`open` needs no key, `closed` (number 7) does; an expired key, and one that may manage."""
    from seam_samples import route_entry, target_entry

    def route(name: str, **fields: Any) -> Any:
        return route_entry(name=name, created=1, targets=[target_entry(model="m")], **fields)

    one = router(
        [engine],
        routes=[
            route("open", access_policy="public"),
            route("closed", generic_proxy=True, number=7),
        ],
    )
    one.add_key("e" * 16, EXPIRED, expires=1_000_000_000)
    one.add_key("f" * 16, MANAGING, scopes=["management"])
    return one


@pytest.mark.parametrize(
    ("key", "status"), [("wrong", 401), (EXPIRED, 401), (MANAGING, 403)], ids=str
)
@pytest.mark.parametrize(
    ("method", "target", "body"),
    [
        ("POST", "/v1/chat/completions", chat("open")),
        ("POST", "/v1/messages", {**chat("open"), "max_tokens": 1}),
        ("POST", "/v1/chat/completions", chat("closed")),
        ("GET", "/v1/models", None),
        ("GET", "/v1/models/open", None),
        ("GET", "/v1/responses/resp_1", None),
        ("GET", "/v1/realtime?model=open", None),
        ("POST", "/model/proxy/7/x", {}),
    ],
    ids=str,
)
def test_a_bad_key_is_refused_everywhere_on_public_routes_too(
    plane: DataPlaneRouter,
    engine: FakeEngine,
    method: str,
    target: str,
    body: Any,
    key: str,
    status: int,
) -> None:
    response = plane.request(method, target, body, key=key)
    assert response.status == status, response.body
    assert engine.journal() == []


@pytest.mark.parametrize("text", ["EMPTY", "none", "Dummy", "not-needed", "sk-no-key-required", ""])
def test_a_placeholder_counts_as_no_key(plane: DataPlaneRouter, text: str) -> None:
    assert plane.chat(chat("open"), key=text).status == 200
    assert plane.request("GET", "/v1/models", key=text).status == 200
    refused = plane.chat(chat("closed"), key=text)
    assert refused.status == 401
    assert refused.json()["error"]["message"].startswith("No API key was sent")


def test_without_a_key_unknown_and_forbidden_models_are_told_apart_by_nothing(
    plane: DataPlaneRouter,
) -> None:
    def told(method: str, target: str, body: Any = None, **fields: str) -> tuple[int, str]:
        headers = list(fields.items())
        response = plane.request(method, target, body, key=None, headers=headers)
        error = response.json()["error"]
        error.pop("request_id", None)
        return response.status, json.dumps(error).replace("unknown", "closed")

    path = "/v1/chat/completions"
    assert told("POST", path, chat("closed")) == told("POST", path, chat("unknown"))
    assert told("POST", path, chat("closed"))[0] == 401
    path = "/v1/models/"
    assert told("GET", path + "closed") == told("GET", path + "unknown")
    path = "/v1/realtime?model="
    assert told("GET", path + "closed") == told("GET", path + "unknown")
    path = "/model/proxy/"
    for name in ("closed", "unknown", "open"):
        named = {"X-GPUStack-Model": name}
        assert told("GET", path + "7/x", **named) == told("GET", path + "8/x", **named)
    assert told("GET", path + "7/x") == told("GET", path + "8/x")


@pytest.mark.parametrize(
    ("bearer", "x_api_key"),
    [("somebody-elses-token", KEY), (KEY, "somebody-elses-key"), (MANAGING, KEY), ("EMPTY", KEY)],
)
def test_of_two_credentials_the_good_one_counts_and_neither_is_forwarded(
    plane: DataPlaneRouter, engine: FakeEngine, bearer: str, x_api_key: str
) -> None:
    headers = [("Authorization", f"Bearer {bearer}"), ("x-api-key", x_api_key)]
    for path, body in (
        ("/v1/chat/completions", chat("closed")),
        ("/v1/messages", {**chat("closed"), "max_tokens": 1}),
        ("/model/proxy/7/x", {}),
    ):
        response = plane.request("POST", path, body, key=None, headers=headers)
        assert response.status == 200, response.body
    for name in ("api-key", "x-goog-api-key"):
        plane.chat(chat("closed"), headers=[(name, "somebody-elses-key")])
    for entry in engine.journal():
        seen = {name.lower() for name, _ in entry["headers"]}
        assert not seen & {"authorization", "x-api-key", "api-key", "x-goog-api-key"}


def forwarded_query(engine: FakeEngine) -> str:
    """The query that the engine got; empty without one."""
    return str(engine.last()["target"]).partition("?")[2]


@pytest.mark.parametrize(
    "name",
    [
        *("api_key", "key", "access_token", "token", "auth", "API-Key", "apikey", "x-api-key"),
        *("a%70i_key", "Authorization", "password", "subscription-key"),
    ],
)
def test_a_credential_in_the_query_opens_nothing_and_reaches_no_engine(
    plane: DataPlaneRouter, engine: FakeEngine, name: str
) -> None:
    path = "/v1/chat/completions"
    refused = plane.request("POST", f"{path}?{name}={KEY}", chat("closed"), key=None)
    assert refused.status == 401
    for sent, kept in (
        (f"{name}=of-somebody-else", ""),
        (f"beta=true&{name}=x&a=%20", "beta=true&a=%20"),
        (f"{name}", ""),
        (f"{name}=x&{name}=y&keys=1", "keys=1"),
    ):
        assert plane.request("POST", f"{path}?{sent}", chat("closed")).status == 200
        assert forwarded_query(engine) == kept


@pytest.mark.parametrize("key", [KEY, EXPIRED, MANAGING, "somebody-elses-token", f"Bearer%20{KEY}"])
def test_the_generic_proxy_hands_no_key_on_in_a_query(
    plane: DataPlaneRouter, engine: FakeEngine, key: str
) -> None:
    """Others are the engine's business there."""
    target = f"/model/proxy/7/x?a=1&page={key}&token=engines-own&page=%{ord(key[0]):x}{key[1:]}"
    headers = [("Authorization", "Bearer somebody-elses-token"), ("x-api-key", KEY)]
    assert plane.request("POST", target, {}, key=None, headers=headers).status == 200
    assert forwarded_query(engine) == "a=1&token=engines-own"
    assert plane.request("POST", "/model/proxy/7/x?a&&b=", {}).status == 200
    assert forwarded_query(engine) == "a&&b="
