"""The generic proxy: any path of an engine where its route allows it, but no administrative."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from typing import Any

import pytest

from harness import DataPlaneRouter, FakeEngine
from raw_http import Response, build

Routers = Callable[..., DataPlaneRouter]

DENIED = ["/collective_rpc", "/sleep", "/v1/load_lora_adapter"]


@pytest.fixture
def engine(shared_engine: FakeEngine) -> FakeEngine:
    return shared_engine


def routes() -> list[Any]:
    from seam_samples import route_entry, target_entry

    target = [target_entry(model="m")]
    return [
        route_entry(name="m", created=1, targets=target, generic_proxy=True, number=7),
        route_entry(name="default", created=1, targets=target, number=8),
    ]


@pytest.fixture
def plane(engine: FakeEngine, router: Routers) -> DataPlaneRouter:
    """`m` has the generic proxy and the number 7; `default` has not, and the number 8."""
    return router([engine], routes=routes(), model={"proxy_denied": DENIED}, served_name="m")


def by_header(
    plane: DataPlaneRouter, method: str, target: str, body: Any = None, **more: Any
) -> Response:
    headers = [("X-GPUStack-Model", "m"), *more.pop("headers", [])]
    return plane.request(method, "/model/proxy" + target, body, headers=headers, **more)


# --- its forms ---


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD"])
@pytest.mark.parametrize("target", ["/embed", "/7/embed"])
def test_every_method_is_passed_on(
    plane: DataPlaneRouter, engine: FakeEngine, method: str, target: str
) -> None:
    headers = [] if target.startswith("/7") else [("X-GPUStack-Model", "m")]
    body = None if method in ("GET", "HEAD", "OPTIONS") else b"\x00 no JSON \xff"
    response = plane.request(method, "/model/proxy" + target, body, headers=headers)
    assert response.status == 200, response.body
    (entry,) = engine.received("/embed")
    assert entry["method"] == method
    assert entry["sha256"] == hashlib.sha256(body or b"").hexdigest()


def test_the_model_may_stand_in_the_json_body(plane: DataPlaneRouter, engine: FakeEngine) -> None:
    body = b'{ "inputs": ["a"], "model" : "m" }'
    response = plane.request("POST", "/model/proxy/embed", body)
    assert response.status == 200, response.body
    assert engine.last()["sha256"] == hashlib.sha256(body).hexdigest()


def test_the_header_wins_over_the_body(plane: DataPlaneRouter, engine: FakeEngine) -> None:
    body = b'{"model":"default"}'
    assert by_header(plane, "POST", "/embed", body).status == 200
    assert engine.last()["sha256"] == hashlib.sha256(body).hexdigest()


def test_the_body_of_the_other_forms_is_not_read(
    plane: DataPlaneRouter, engine: FakeEngine
) -> None:
    for target in ("/model/proxy/7/embed", "/model/proxy/embed"):
        body = b'{"model": "no-such-model", broken ' + os.urandom(100_000)
        headers = [("X-GPUStack-Model", "m"), ("Content-Encoding", "br")]
        response = plane.request("POST", target, body, headers=headers, chunk=10_000)
        assert response.status == 200, response.body
        assert engine.last()["sha256"] == hashlib.sha256(body).hexdigest()
        assert ["Content-Encoding", "br"] in [
            [name.title(), value] for name, value in engine.last()["headers"]
        ]


def test_a_body_with_an_encoding_is_for_keys_that_may_manage(
    plane: DataPlaneRouter, engine: FakeEngine
) -> None:
    """What it says of other hosts could not be seen."""
    narrow = "gpustack_" + "c" * 16 + "_" + "0" * 32
    plane.add_key("c" * 16, narrow, scopes=["inference"])
    for target in ("/model/proxy/7/embed", "/model/proxy/embed"):
        for coding in ("gzip", "br", "identity, zstd"):
            headers = [("X-GPUStack-Model", "m"), ("Content-Encoding", coding)]
            refused = plane.request("POST", target, b"x", headers=headers, key=narrow)
            assert refused.status == 415
            assert "Content-Encoding" in refused.json()["error"]["message"]
        headers = [("X-GPUStack-Model", "m"), ("Content-Encoding", "identity")]
        assert plane.request("POST", target, b"x", headers=headers, key=narrow).status == 200
    assert len(engine.received("/embed")) == 2


def test_a_model_in_the_body_becomes_the_engines_name_for_it(
    engine: FakeEngine, router: Routers
) -> None:
    """Another route's name on the same engine, as it may be, is not in the way."""
    from seam_samples import route_entry, target_entry

    other = route_entry("x", [target_entry(model="m", served_name="m")], number=8)
    renamed = route_entry(
        "m", [target_entry(model="m", served_name="m2")], generic_proxy=True, number=7
    )
    plane = router([engine], routes=[renamed, other], served_name="m2")
    narrow = "gpustack_" + "d" * 16 + "_" + "0" * 32
    plane.add_key("d" * 16, narrow, allowed_models=["m"])
    for key in (narrow, plane.key):
        response = plane.request("POST", "/model/proxy/x", {"model": "m", "a": 1}, key=key)
        assert response.status == 200, response.body
        whole = json.dumps({"model": "m2", "a": 1}).encode()
        assert engine.last()["sha256"] == hashlib.sha256(whole).hexdigest()


def test_a_number_that_is_no_routes_is_a_part_of_the_path(
    plane: DataPlaneRouter, engine: FakeEngine
) -> None:
    assert by_header(plane, "GET", "/42/embed").status == 200
    assert engine.received("/42/embed")
    unnamed = plane.request("GET", "/model/proxy/42/embed")
    assert unnamed.status == 404
    message = unnamed.json()["error"]["message"]
    assert "No route that this API key may use has the number 42" in message


def test_the_root_of_an_engine_is_reached(plane: DataPlaneRouter, engine: FakeEngine) -> None:
    assert plane.request("GET", "/model/proxy/7/").status == 200
    assert engine.received("/")


def test_without_a_model_it_says_where_to_name_one(plane: DataPlaneRouter) -> None:
    response = plane.request("GET", "/model/proxy/embed")
    assert response.status == 400
    assert "X-GPUStack-Model" in response.json()["error"]["message"]


@pytest.mark.parametrize("form", ["header", "body", "number"])
def test_a_route_without_the_generic_proxy_is_404_and_says_how_to_enable_it(
    plane: DataPlaneRouter, engine: FakeEngine, form: str
) -> None:
    target = "/model/proxy/8/embed" if form == "number" else "/model/proxy/embed"
    headers = [("X-GPUStack-Model", "default")] if form == "header" else []
    response = plane.request(
        "POST", target, {"model": "default"} if form == "body" else {}, headers=headers
    )
    assert response.status == 404
    assert "generic_proxy" in response.json()["error"]["message"]
    assert engine.journal() == []


def test_an_unknown_model_is_404(plane: DataPlaneRouter) -> None:
    response = plane.request("GET", "/model/proxy/embed", headers=[("X-GPUStack-Model", "nope")])
    assert response.status == 404
    assert response.json()["error"]["code"] == "model_not_found"


def test_a_key_is_needed_and_reaches_no_engine(plane: DataPlaneRouter, engine: FakeEngine) -> None:
    assert plane.request("GET", "/model/proxy/7/embed", key=None).status == 401
    assert plane.request("GET", "/model/proxy/7/embed").status == 200
    assert plane.key not in json.dumps(engine.journal())


# --- targets ---


@pytest.mark.parametrize(
    "rest",
    [
        "/a%2Fb",
        "/a%2fb/%C3%A9",
        "/x?model=default&q=%20+%26",
        "/x?",
        "/x??a=b?c",
        "//double//slashes",
        "/trailing/",
        "/@host:81/x",
        "/http://example.org/x",
        "/semi;colon=1,comma",
        "/bad%zzescape",
        "/...",
        "/.hidden/..x/x..",
    ],
)
@pytest.mark.parametrize("prefix", ["/model/proxy", "/model/proxy/7"])
def test_a_target_reaches_the_engine_as_it_was_written(
    plane: DataPlaneRouter, engine: FakeEngine, rest: str, prefix: str
) -> None:
    response = plane.request("GET", prefix + rest, headers=[("X-GPUStack-Model", "m")])
    assert response.status == 200, response.body
    assert [entry["target"] for entry in engine.journal()] == [rest]


@pytest.mark.parametrize(
    "rest",
    [
        "/../x",
        "/a/../../x",
        "/a/..",
        "/./x",
        "/a/.",
        "/%2e%2e/x",
        "/.%2E/x",
        "/%2e/x",
        "/a/%2e%2e",
        "/a%2f..%2fx",
        "/a%2F%2e%2e%2Fx",
        "/a\\..\\x",
        "/a%5c..%5cx",
    ],
)
@pytest.mark.parametrize("prefix", ["/model/proxy", "/model/proxy/7"])
def test_dot_segments_climb_nowhere(
    plane: DataPlaneRouter, engine: FakeEngine, rest: str, prefix: str
) -> None:
    response = plane.request("GET", prefix + rest, headers=[("X-GPUStack-Model", "m")])
    assert response.status == 400, response.body
    assert engine.journal() == []


@pytest.mark.parametrize(
    "rest",
    [
        "/collective_rpc",
        "/collective_rpc/",
        "/collective_rpc/x",
        "/collective_rpc?x=1",
        "/collective%5Frpc",
        "/%63ollective_rpc",
        "//collective_rpc",
        "///collective_rpc//",
        "/%2Fcollective_rpc",
        "/%2f%2fcollective%5frpc",
        "/v1//load_lora_adapter",
        "/v1%2Fload_lora_adapter",
        "/v1/%6Coad_lora_adapter",
        "/sleep?level=1",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_an_administrative_path_is_404_however_it_is_written(
    plane: DataPlaneRouter, engine: FakeEngine, rest: str, method: str
) -> None:
    for prefix in ("/model/proxy", "/model/proxy/7"):
        response = plane.request(method, prefix + rest, headers=[("X-GPUStack-Model", "m")])
        assert response.status in (400, 404), response.body
    assert plane.request(method, "/model/proxy/7" + "/collective_rpc").status == 404
    assert engine.state()["administrative"] == 0
    assert engine.journal() == []


def test_an_administrative_path_of_one_target_is_refused_before_any_target_is_chosen(
    engine: FakeEngine, router: Routers
) -> None:
    from seam_samples import route_entry, target_entry

    both = route_entry("m", [target_entry(), target_entry(model="free")], generic_proxy=True)
    plane = router([engine], routes=[both], model={"proxy_denied": DENIED}, others={"free": engine})
    for _ in range(20):
        assert by_header(plane, "POST", "/collective_rpc", {}).status == 404
    assert [one.requests for one in plane.plane.stats().instances] == [0, 0]
    assert engine.journal() == []
    assert by_header(plane, "POST", "/embed", {}).status == 200


def test_what_only_begins_like_an_administrative_path_passes(
    plane: DataPlaneRouter, engine: FakeEngine
) -> None:
    for path in ("/sleepy", "/v1/load_lora_adapters", "/x/sleep"):
        assert by_header(plane, "GET", path).status == 200
        assert engine.received(path)


def test_an_engine_with_an_allow_list_is_reached_on_its_paths_alone(
    engine: FakeEngine, router: Routers
) -> None:
    plane = router([engine], routes=routes(), model={"proxy_allowed": ["/v1/embeddings", "/embed"]})
    assert by_header(plane, "POST", "/embed", {}).status == 200
    assert by_header(plane, "POST", "/v1/embeddings", {"input": "x"}).status == 200
    for path in ("/", "/debug", "/embeddings", "/collective_rpc", "/embed%2F..%2Fdebug"):
        assert by_header(plane, "GET", path).status in (400, 404)
    assert {entry["target"] for entry in engine.journal()} == {"/embed", "/v1/embeddings"}


# --- bytes ---


def test_headers_pass_but_for_ours(plane: DataPlaneRouter, engine: FakeEngine) -> None:
    sent = [
        ("X-Own", "1"),
        ("Accept", "application/x-odd"),
        ("X-GPUStack-Auth-Token", "t"),
        ("Cookie", "c=1"),
    ]
    assert by_header(plane, "GET", "/x", headers=sent).status == 200
    got = {name.lower(): value for name, value in engine.journal()[-1]["headers"]}
    assert got["x-own"] == "1"
    assert got["accept"] == "application/x-odd"
    assert not got.keys() & {"x-gpustack-model", "x-gpustack-auth-token", "cookie", "authorization"}


@pytest.mark.parametrize(
    "orders", [{}, {"framing": "close"}, {"pieces": "bytes"}, {"coding": "gzip"}], ids=str
)
def test_responses_are_not_looked_into(
    engine: FakeEngine, router: Routers, orders: dict[str, Any]
) -> None:
    plane = router([engine], routes=routes(), served_name="m2")
    body = {
        "model": "m",
        "messages": [{"role": "user", "content": "hi"}],
        "stream": True,
        "fake": orders,
    }
    response = by_header(plane, "POST", "/v1/chat/completions", body)
    assert response.status == 200
    entry = engine.last()
    assert hashlib.sha256(response.body).hexdigest() == entry["sent_sha256"]
    assert entry["sha256"] == hashlib.sha256(json.dumps(body).encode()).hexdigest()


@pytest.mark.parametrize("status", [201, 204, 302, 304, 400, 403, 404, 418, 500, 503])
def test_an_engines_status_passes(plane: DataPlaneRouter, status: int) -> None:
    orders = json.dumps(
        {"status": status, "body_text": "", "headers": [["location", "/elsewhere"]]}
    )
    response = by_header(plane, "GET", "/x", headers=[("X-Fake", orders)])
    assert response.status == status
    assert response.header("location") == "/elsewhere"
    assert plane.plane.stats().instances[0].failures == 0, "the path may have no other answer"


def test_a_request_of_the_proxy_is_never_sent_twice(
    engine: FakeEngine, plane: DataPlaneRouter
) -> None:
    orders = json.dumps({"fault": {"how": "close", "at": "before_head"}})
    response = by_header(plane, "POST", "/x", {}, headers=[("X-Fake", orders)])
    assert response.status == 502
    assert len(engine.received("/x")) == 1


def test_uploads_and_responses_are_streamed(plane: DataPlaneRouter, engine: FakeEngine) -> None:
    body = os.urandom(3_000_000)
    request = build("POST", "/model/proxy/7/x", body, key=plane.key, chunk=65_536)
    with plane.client() as client:
        client.send(request)
        assert client.read_response().json()["sha256"] == hashlib.sha256(body).hexdigest()


# --- adapters ---


def test_a_key_must_be_allowed_every_name_of_an_engine_when_the_body_is_not_read(
    engine: FakeEngine, router: Routers
) -> None:
    """The body could name the adapter, which an engine would obey."""
    from seam_samples import route_entry, target_entry

    adapter = route_entry(
        name="m:tuned", created=1, targets=[target_entry(model="m", served_name="tuned")]
    )
    plane = router([engine], routes=[*routes(), adapter])
    narrow, wide = ("gpustack_" + digit * 16 + "_" + "0" * 32 for digit in "ab")
    plane.add_key("a" * 16, narrow, allowed_models=["m", "default"])
    plane.add_key("b" * 16, wide, allowed_models=["m", "default", "m:tuned"])
    assert by_header(plane, "POST", "/x", {}, key=narrow).status == 403
    assert plane.request("POST", "/model/proxy/7/x", {}, key=narrow).status == 403
    assert engine.journal() == []
    assert plane.request("POST", "/model/proxy/x", {"model": "m"}, key=narrow).status == 200
    assert by_header(plane, "POST", "/x", {}, key=wide).status == 200
