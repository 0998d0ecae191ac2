"""Which header fields of engines' responses reach clients, and what is said of our own."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from gpustack_fast.config.rules.response_headers import NEVER, NEVER_BEGINNINGS
from harness import DataPlaneRouter, FakeEngine, read_gauge
from raw_http import Response, chat

Routers = Callable[..., DataPlaneRouter]

KNOWN = [
    "content-disposition",
    "content-language",
    "cache-control",
    "retry-after",
    "retry-after-ms",
    "x-should-retry",
    "x-ratelimit-remaining-tokens",
    "anthropic-ratelimit-requests-limit",
    "openai-processing-ms",
    "openai-version",
    "endpoint-load-metrics",
]
UNKNOWN = ["x-engine", "etag", "vary", "link", "location", "content-security-policy", "x-mine"]
OF_THE_FRAMING = {"content-length", "transfer-encoding", "connection", "keep-alive", "upgrade"}
DANGEROUS = sorted(
    (NEVER - OF_THE_FRAMING)
    | {f"{beginning}redirect" for beginning in NEVER_BEGINNINGS}
    | {"x-accel-expires", "x-accel-buffering", "access-control-allow-origin"}
)
WRITTEN_HERE = {
    "date",
    "server-timing",
    "x-request-id",
    "request-id",
    "x-upstream-request-id",
    "x-content-type-options",
}
"""Fields of this list that a response has, but not as the engine wrote them."""
VALUE = "of-the-engine"


@pytest.fixture
def engine(shared_engine: FakeEngine) -> FakeEngine:
    return shared_engine


@pytest.fixture
def plane(engine: FakeEngine, router: Routers) -> DataPlaneRouter:
    from seam_samples import route_entry, target_entry

    route = route_entry("m", [target_entry()], generic_proxy=True, number=7)
    return router([engine], routes=[route])


def of_the_engine(response: Response) -> set[str]:
    """The names of the fields that still have the engine's value."""
    return {name.lower() for name, value in response.headers if value == VALUE}


def ordered(names: list[str], **orders: Any) -> dict[str, Any]:
    return {"headers": [[name.title(), VALUE] for name in names], **orders}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", [*KNOWN, *UNKNOWN, *DANGEROUS])
def test_each_field_passes_where_it_belongs(
    plane: DataPlaneRouter, name: str, stream: bool
) -> None:
    body = chat(stream=stream, fake=ordered([name]))
    known = plane.chat(body)
    renamed = {"x-upstream-request-id"} if name in ("x-request-id", "request-id") else set()
    assert known.status == 200
    assert of_the_engine(known) == ({name} if name in KNOWN else renamed)
    proxied = plane.request("POST", "/model/proxy/7/v1/chat/completions", body)
    # A relative reference stays at this server.
    assert of_the_engine(proxied) == ({name} if name in [*KNOWN, *UNKNOWN] else renamed)
    for response in (known, proxied):
        assert response.header("x-content-type-options") == "nosniff"
        assert len(response.all("server-timing")) == len(response.all("x-request-id")) == 1


def test_what_does_not_pass_is_counted(plane: DataPlaneRouter) -> None:
    name = "gpustack_fast_response_fields_dropped_total"
    plane.chat(chat(fake=ordered(KNOWN)))
    # What is always written anew is not worth a count.
    plane.chat(chat(fake=ordered(["server", "x-request-id", "access-control-allow-origin"])))
    assert read_gauge(plane.metrics(), name) == 0
    plane.chat(chat(fake=ordered(["x-engine", "set-cookie", "etag"])))
    assert read_gauge(plane.metrics(), name) == 3


def test_an_engines_error_keeps_what_clients_need(plane: DataPlaneRouter) -> None:
    fake = ordered([*KNOWN, "x-engine", "www-authenticate"], status=429, error="slow down")
    response = plane.chat(chat(fake=fake))
    assert response.status == 429
    assert of_the_engine(response) == set(KNOWN)


def test_a_model_adds_fields_of_its_own_but_no_dangerous_ones(
    engine: FakeEngine, router: Routers
) -> None:
    added = ["X-Queue-Time", "set-cookie", "x-accel-redirect"]
    plane = router([engine], model={"response_headers": added})
    fake = ordered(["x-queue-time", "x-engine", "set-cookie", "x-accel-redirect"])
    assert of_the_engine(plane.chat(chat(fake=fake))) == {"x-queue-time"}


@pytest.mark.parametrize(
    ("location", "passes"),
    [
        ("/v1/models", True),
        ("?page=2", True),
        ("http://127.0.0.1:18502/x", False),
        ("https://elsewhere.example/x", False),
        ("//elsewhere.example/x", False),
        ("/\\elsewhere.example/x", False),
        ("javascript:alert(1)", False),
    ],
)
def test_the_proxy_leads_to_no_other_host(
    plane: DataPlaneRouter, location: str, passes: bool
) -> None:
    orders = json.dumps({"status": 302, "body_text": "", "headers": [["Location", location]]})
    response = plane.request("GET", "/model/proxy/7/x", headers=[("X-Fake", orders)])
    assert response.status == 302
    assert response.header("location") == (location if passes else None)


def test_our_own_responses_are_not_sniffed_and_those_that_a_key_decides_are_not_kept(
    plane: DataPlaneRouter,
) -> None:
    for target, key, status in [
        ("/v1/models", plane.key, 200),
        ("/v1/models/m", plane.key, 200),
        ("/v1/models/none", plane.key, 404),
        ("/v1/models", "wrong", 401),
        ("/v2/models", plane.key, 503),
    ]:
        response = plane.request("GET", target, key=key)
        assert response.status == status
        assert response.header("cache-control") == "no-store"
        assert response.header("x-content-type-options") == "nosniff"
    for target in ("/healthz", "/readyz", "/metrics", "/nothing"):
        assert plane.request("GET", target).header("x-content-type-options") == "nosniff"
