"""Errors: the right status, and words that name the cause, in the shape that SDKs read."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from gpustack_fast.config.schema import ModelTimeoutsConfig
from harness import KEY, DataPlaneRouter, FakeEngine
from raw_http import Response, build, chat, eventually
from seam_samples import route_entry, target_entry

Engines = Callable[..., list[FakeEngine]]
Routers = Callable[..., DataPlaneRouter]


@pytest.fixture
def engine(fake_engines: Engines) -> FakeEngine:
    return fake_engines(1)[0]


@pytest.fixture
def plane(engine: FakeEngine, router: Routers) -> DataPlaneRouter:
    return router([engine], limits={"max_body_bytes": 10_000})


def assert_error(response: Response, status: int, code: str | None = None) -> dict[str, Any]:
    """The `error` of a whole OpenAI-shaped error with its request id, and no word of a key."""
    assert response.status == status, response.body
    assert response.broken is None
    assert response.header("content-type") == "application/json"
    assert response.header("x-request-id")
    assert response.header("request-id") == response.header("x-request-id")
    error: dict[str, Any] = response.json()["error"]
    assert error["message"].endswith("."), error
    assert error["type"]
    assert "code" in error
    if code is not None:
        assert error["code"] == code
    assert KEY not in response.body.decode()
    return error


UNREADABLE = {
    "empty": b"",
    "white space": b"  \r\n ",
    "no JSON": b"hello",
    "an array": b'["model", "m"]',
    "a string": b'"model"',
    "cut off": b'{"model": "m", "messages": [',
    "cut off in its last brace": b'{"model": "m"',
    "trailing garbage": b'{"model": "m"} x',
    "two documents": b'{"model": "m"}{"model": "m"}',
    "a trailing comma": b'{"model": "m",}',
    "a lone value": b'{"model": "m", "x"}',
    "a bad number": b'{"model": "m", "x": 01}',
    "a bad escape": b'{"model": "m", "x": "\\q"}',
    "a raw line break": b'{"model": "m", "x": "\n"}',
    "deeply nested": b'{"model": "m", "x": ' + b"[" * 600 + b"]" * 600 + b"}",
    "a byte order mark": b'\xef\xbb\xbf{"model": "m"}',
    "UTF-16": '{"model": "m"}'.encode("utf-16"),
    "no model": b'{"messages": []}',
    "a nested model": b'{"x": {"model": "m"}}',
    "model in another case": b'{"Model": "m"}',
    "model as a value": b'{"x": "model"}',
    "model null": b'{"model": null}',
    "model a number": b'{"model": 7}',
    "model a list": b'{"model": ["m"]}',
    "model an object": b'{"model": {"model": "m"}}',
    "model empty": b'{"model": ""}',
    "model blank": b'{"model": "  "}',
    "model very long": b'{"model": "' + b"m" * 5000 + b'"}',
    "model with a lone surrogate": b'{"model": "m\\ud800"}',
    "model twice": b'{"model": "m", "model": "m"}',
    "model twice, once escaped": b'{"model": "m", "mod\\u0065l": "other"}',
}


@pytest.mark.parametrize("chunk", [None, 5], ids=["with a length", "in chunks"])
@pytest.mark.parametrize("body", UNREADABLE.values(), ids=UNREADABLE.keys())
def test_a_body_that_names_no_one_model_is_400(
    engine: FakeEngine, plane: DataPlaneRouter, body: bytes, chunk: int | None
) -> None:
    error = assert_error(plane.chat(body, chunk=chunk), 400)
    assert error["type"] == "invalid_request_error"
    assert not [entry for entry in engine.inference() if entry["complete"]]


def test_a_missing_model_is_named_in_the_message(plane: DataPlaneRouter) -> None:
    assert "model" in assert_error(plane.chat({"messages": []}), 400)["message"]
    assert "model" in assert_error(plane.chat(b'{"model": "m", "model": "m"}'), 400)["message"]


def test_a_connection_goes_on_after_a_bad_request_whose_end_was_read(
    plane: DataPlaneRouter,
) -> None:
    with plane.client() as client:
        refused = client.request("POST", "/v1/chat/completions", b'{"x": 1}', key=KEY)
        assert refused.status == 400
        if refused.header("connection") != "close":
            assert client.request("POST", "/v1/chat/completions", chat(), key=KEY).status == 200
        else:
            assert client.is_closed()


WRONG_KEYS: dict[str, list[tuple[str, str]]] = {
    "no key": [],
    "an empty key": [("Authorization", "Bearer ")],
    "a wrong key": [
        ("Authorization", "Bearer gpustack_0123456789abcdef_ffffffffffffffffffffffffffffffff")
    ],
    "the key without its last character": [("Authorization", f"Bearer {KEY[:-1]}")],
    "the key in another case": [("Authorization", f"Bearer {KEY.upper()}")],
    "another scheme": [("Authorization", f"Basic {KEY}")],
    "no scheme": [("Authorization", KEY)],
    "a wrong x-api-key": [("X-Api-Key", "wrong")],
    "a very long key": [("Authorization", "Bearer " + "k" * 5000)],
    "a key with bytes that are no ASCII": [("Authorization", "Bearer k\xe9y")],
}


@pytest.mark.parametrize("headers", WRONG_KEYS.values(), ids=WRONG_KEYS.keys())
@pytest.mark.parametrize(
    "path", ["/v1/chat/completions", "/v1/completions", "/v1/models", "/v1/models/m"]
)
def test_without_the_right_key_it_is_401(
    engine: FakeEngine, plane: DataPlaneRouter, headers: list[tuple[str, str]], path: str
) -> None:
    method, body = ("GET", None) if "models" in path else ("POST", json.dumps(chat()).encode())
    with plane.client() as client:
        client.send(build(method, path, body, headers=headers).decode().encode("latin-1"))
        assert_error(client.read_response(method), 401, "invalid_api_key")
    assert engine.inference() == []


@pytest.mark.parametrize(
    "header",
    [("Authorization", f"Bearer {KEY}"), ("authorization", f"bEARER  {KEY}"), ("X-API-Key", KEY)],
)
def test_a_key_is_taken_from_either_header(plane: DataPlaneRouter, header: tuple[str, str]) -> None:
    assert (
        plane.request("POST", "/v1/chat/completions", chat(), key=None, headers=[header]).status
        == 200
    )


def test_a_key_that_may_not_use_the_model_is_403_and_does_not_see_it(
    engine: FakeEngine, plane: DataPlaneRouter
) -> None:
    key = "gpustack_aaaaaaaaaaaaaaaa_00000000000000000000000000000000"
    plane.add_key("a" * 16, key, allowed_models=["default"])
    assert_error(plane.chat(chat("m"), key=key), 403)
    assert plane.chat(chat("default"), key=key).status == 200
    assert [
        entry["id"] for entry in plane.request("GET", "/v1/models", key=key).json()["data"]
    ] == ["default"]
    assert plane.request("GET", "/v1/models/m", key=key).status in (403, 404)
    assert len(engine.inference()) == 1


def test_an_unknown_model_is_404(plane: DataPlaneRouter) -> None:
    for name in ("nope", "M", "m ", "\uff4d", "m/", "a" * 300):
        assert_error(plane.chat(chat(name)), 404, "model_not_found")
    assert_error(plane.request("GET", "/v1/models/nope"), 404, "model_not_found")


@pytest.mark.parametrize(
    "path",
    ["/v1", "/v1/", "/v1/nope", "/v1//nope/", "/v1/files", "/v1/fine_tuning/jobs/"],
)
def test_an_unknown_path_is_404(plane: DataPlaneRouter, path: str) -> None:
    assert_error(plane.request("POST", path, chat()), 404)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/v1/chat/completions", {"POST"}),
        ("HEAD", "/v1/chat/completions", {"POST"}),
        ("DELETE", "/v1/completions", {"POST"}),
        ("POST", "/v1/models", {"GET", "HEAD"}),
        ("PUT", "/v1/models/m", {"GET", "HEAD"}),
        ("BREW", "/v1/chat/completions", {"POST"}),
    ],
)
def test_a_wrong_method_is_405_with_the_right_ones(
    plane: DataPlaneRouter, method: str, path: str, allowed: set[str]
) -> None:
    response = plane.request(method, path)
    assert response.status == 405
    found = {name.strip() for name in (response.header("allow") or "").split(",")}
    assert found & {"GET", "POST"} == allowed & {"GET", "POST"}
    assert found <= allowed | {"OPTIONS"}
    if method != "HEAD":
        assert_error(response, 405)


def test_a_body_over_the_limit_is_413_by_its_declared_length(
    engine: FakeEngine, plane: DataPlaneRouter
) -> None:
    request = build("POST", "/v1/chat/completions", chat(text="x" * 10_000), key=KEY)
    with plane.client() as client:
        client.send(request.partition(b"\r\n\r\n")[0] + b"\r\n\r\n")
        assert_error(client.read_response(), 413)
        assert client.is_closed()
    assert engine.inference() == []


def test_a_body_over_the_limit_is_413_by_its_chunks(
    engine: FakeEngine, plane: DataPlaneRouter
) -> None:
    assert_error(plane.chat(chat(text="x" * 20_000), chunk=500), 413)
    assert not [entry for entry in engine.inference() if entry["complete"]]


def test_a_body_at_the_limit_passes(plane: DataPlaneRouter) -> None:
    short = json.dumps(chat(text="")).encode()
    body = json.dumps(chat(text="x" * (10_000 - len(short)))).encode()
    assert len(body) == 10_000
    assert plane.chat(body).status == 200
    assert plane.chat(body, chunk=999).status == 200


def test_without_a_running_instance_it_is_503_with_retry_after(
    engine: FakeEngine, plane: DataPlaneRouter
) -> None:
    for state in ("pending", "starting", "error", "unreachable"):
        plane.states = [state]
        plane.publish()
        response = plane.chat(chat())
        assert_error(response, 503, "no_running_instance")
        assert 1 <= int(response.header("retry-after") or 0) <= 120
    plane.states = ["running"]
    plane.publish()
    assert plane.chat(chat()).status == 200
    plane.addresses, plane.states = [], []
    plane.publish()
    assert plane.chat(chat()).header("retry-after")


def test_before_the_first_table_every_inference_request_is_503(
    engine: FakeEngine, router: Routers
) -> None:
    """A server that starts knows neither keys nor routes: 401 and 404 would not be retried."""
    plane = router([engine], publish=False)
    assert_error(plane.chat(chat()), 503, "server_starting")
    assert plane.request("GET", "/readyz").status == 503
    plane.add_key("0123456789abcdef", KEY)
    assert_error(plane.chat(chat()), 503)
    plane.publish()
    assert plane.chat(chat()).status == 200


def test_while_every_instance_refuses_connections_it_is_503_with_retry_after(
    engine: FakeEngine, plane: DataPlaneRouter
) -> None:
    engine.kill()
    response = plane.chat(chat())
    assert_error(response, 503)
    assert int(response.header("retry-after") or 0) >= 1


TIMEOUTS = {"head": 60, "body": 60, "connect": 3, "first_frame": 60, "idle": 60}


def test_a_head_that_does_not_come_ends_in_408_or_a_close(
    engine: FakeEngine, router: Routers
) -> None:
    plane = router([engine], timeouts={**TIMEOUTS, "head": 0.3})
    with plane.client() as client:
        client.send(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n")
        data = client.read_to_the_end()
    assert data == b"" or data.startswith(b"HTTP/1.1 408 ")


def test_a_body_that_stops_coming_is_408(engine: FakeEngine, router: Routers) -> None:
    plane = router([engine], timeouts={**TIMEOUTS, "body": 0.3})
    for cut in (-1, -20):
        with plane.client() as client:
            client.send(build("POST", "/v1/chat/completions", chat(), key=KEY)[:cut])
            assert_error(client.read_response(), 408)
            assert client.is_closed()
    assert not [entry for entry in engine.inference() if entry["complete"]]


def test_a_slow_body_that_keeps_coming_is_no_timeout(engine: FakeEngine, router: Routers) -> None:
    plane = router([engine], timeouts={**TIMEOUTS, "body": 3}, limits={"body_rate": 1})
    request = build("POST", "/v1/chat/completions", chat(), key=KEY)
    with plane.client() as client:
        client.send(request[:-40])
        for at in range(-40, 0):
            client.send(request[at : at + 1 or None])
            time.sleep(0.1)
        assert client.read_response().status == 200


@pytest.fixture
def full_listener() -> Iterator[str]:
    """The address of a listener whose queue is full: connecting to it hangs."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        waiting = []
        for _ in range(8):
            one = socket.socket()
            one.setblocking(False)
            one.connect_ex(listener.getsockname())
            waiting.append(one)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        for one in waiting:
            one.close()


def test_an_engine_that_cannot_be_connected_to_is_504(full_listener: str, router: Routers) -> None:
    plane = router([full_listener], timeouts={**TIMEOUTS, "connect": 0.3})
    assert_error(plane.chat(chat()), 504, "engine_timeout")


def test_another_replica_responds_for_one_that_cannot_be_connected_to(
    engine: FakeEngine, full_listener: str, router: Routers
) -> None:
    plane = router([engine, full_listener], timeouts={**TIMEOUTS, "connect": 0.5})
    assert [plane.chat(chat()).status for _ in range(8)] == [200] * 8


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("place", ["before_head", "inside_head", "after_head"])
def test_an_engine_that_does_not_begin_is_504(
    engine: FakeEngine, router: Routers, stream: bool, place: str
) -> None:
    plane = router([engine], timeouts={**TIMEOUTS, "first_frame": 0.3})
    response = plane.chat(chat(stream=stream, fake={"fault": {"how": "stall", "at": place}}))
    assert_error(response, 504, "engine_timeout")
    assert plane.records()[0].end == "timeout"
    eventually(lambda: engine.last()["ended"] == "peer_closed", "the engine to be told")


def test_a_stream_that_falls_silent_ends_with_an_error_event(
    engine: FakeEngine, router: Routers
) -> None:
    plane = router([engine], timeouts={**TIMEOUTS, "idle": 0.3})
    with plane.client() as client:
        plane.send_chat(
            client,
            chat(stream=True, fake={"fault": {"how": "stall", "at": "at_frame", "after": 2}}),
        )
        response = client.read_response()
        assert response.status == 200
        assert response.broken is None
        events = response.events()
        assert "[DONE]" not in events
        error = json.loads(events[-1])["error"]
        assert error["code"] == "engine_timeout"
        assert error["message"].endswith(".")
        assert client.is_closed()
    assert plane.records()[0].end == "timeout"
    eventually(lambda: engine.last()["ended"] == "peer_closed", "the engine to be told")


@pytest.mark.parametrize(
    ("limits", "fault"),
    [
        ({"first_frame": 0.3}, {"how": "stall", "at": "before_head"}),
        ({"idle": 0.3}, {"how": "stall", "at": "at_frame", "after": 1}),
    ],
)
def test_a_model_s_own_limits_win_over_the_server_s(
    engine: FakeEngine, router: Routers, limits: dict[str, float], fault: dict[str, Any]
) -> None:
    plane = router(
        [engine],
        model={"timeouts": ModelTimeoutsConfig(**limits)},
        others={"other": engine},
        routes=[
            route_entry("m", [target_entry("m")]),
            route_entry("other", [target_entry("other")]),
        ],
        timeouts={**TIMEOUTS, "first_frame": 60, "idle": 60},
    )
    cut = plane.chat(chat("m", stream=True, fake={"fault": fault}))
    assert b"engine_timeout" in cut.body
    longer = {"fault": {**fault, "seconds": 1.0}}
    whole = plane.chat(chat("other", stream=True, fake=longer))
    assert whole.events()[-1] == "[DONE]", "the server's limits are not reached"


def test_a_model_may_have_no_limit_where_the_server_has_one(
    engine: FakeEngine, router: Routers
) -> None:
    own = ModelTimeoutsConfig(first_frame=0)
    plane = router([engine], model={"timeouts": own}, timeouts={**TIMEOUTS, "first_frame": 0.2})
    fault = {"how": "stall", "at": "before_head", "seconds": 1.0}
    assert plane.chat(chat(fake={"fault": fault})).status == 200


def test_a_model_s_own_limit_of_connecting_holds(full_listener: str, router: Routers) -> None:
    own = ModelTimeoutsConfig(connect=0.3)
    plane = router([full_listener], model={"timeouts": own}, timeouts={**TIMEOUTS, "connect": 60})
    assert_error(plane.chat(chat()), 504, "engine_timeout")


def test_a_slow_stream_that_makes_progress_is_no_timeout(
    engine: FakeEngine, router: Routers
) -> None:
    plane = router([engine], timeouts={**TIMEOUTS, "idle": 3, "first_frame": 3})
    response = plane.chat(chat(stream=True, fake={"frames": 35, "delay": 0.1}))
    assert response.events()[-1] == "[DONE]"


def test_a_whole_response_that_falls_silent_breaks_its_framing(
    engine: FakeEngine, router: Routers
) -> None:
    plane = router([engine], timeouts={**TIMEOUTS, "idle": 0.3})
    orders = {"frame_bytes": 50_000, "fault": {"how": "stall", "at": "inside_chunk", "after": 0}}
    for framing in ("length", "chunked"):
        response = plane.chat(chat(fake={**orders, "framing": framing}))
        assert response.broken or response.status == 504


BAD_REQUESTS = {
    "two lengths": b"Content-Length: 5\r\nContent-Length: 6\r\n",
    "a length and chunks": b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
    "a signed length": b"Content-Length: +5\r\n",
    "chunks that are not last": b"Transfer-Encoding: chunked, gzip\r\n",
    "a space before the colon": b"X-A : 1\r\n",
    "a folded line": b"X-A: 1\r\n 2\r\n",
}


@pytest.mark.parametrize("fields", BAD_REQUESTS.values(), ids=BAD_REQUESTS.keys())
def test_a_request_that_can_be_framed_in_two_ways_is_rejected_and_the_connection_ends(
    engine: FakeEngine, plane: DataPlaneRouter, fields: bytes
) -> None:
    with plane.client() as client:
        smuggled = build("POST", "/v1/chat/completions", chat(text="smuggled"), key=KEY)
        head = (
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "
            + KEY.encode()
            + b"\r\n"
        )
        client.send(head + fields + b"\r\n0\r\n\r\n" + smuggled)
        data = client.read_to_the_end()
    assert data.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 501 ")) or data == b""
    assert b"\nHTTP/1.1 " not in data, "one response at most"
    assert engine.inference() == []


def test_no_request_of_the_table_changes_what_the_next_one_gets(
    engine: FakeEngine, plane: DataPlaneRouter
) -> None:
    """401, 404 and 405 with bodies, one after the other on one connection if it is kept."""
    client = plane.client()
    for number in range(30):
        path = ["/v1/chat/completions", "/v1/nope", "/v1/models"][number % 3]
        client.send(build("POST", path, chat(text=f"n-{number}"), key=None if number % 2 else KEY))
        response = client.read_response()
        assert response.status in (200, 401, 404, 405)
        if response.status == 200:
            assert f"n-{number}".encode() in response.body
        if response.header("connection") == "close":
            assert client.is_closed()
            client.close()
            client = plane.client()
    client.close()
