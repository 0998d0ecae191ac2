"""A response lives in one engine's memory: requests for it go there, with the key that made it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from harness import DataPlaneRouter, FakeEngine
from raw_http import Response, sooner_or_later

Engines = Callable[..., list[FakeEngine]]
Routers = Callable[..., DataPlaneRouter]

OTHER = f"gpustack_{'b' * 16}_{'0' * 32}"


@pytest.fixture
def engines(fake_engines: Engines) -> list[FakeEngine]:
    return fake_engines(3)


@pytest.fixture
def plane(engines: list[FakeEngine], router: Routers) -> DataPlaneRouter:
    one = router(engines, workers=2, served_name="org/Served")
    one.add_key("b" * 16, OTHER)
    return one


def create(plane: DataPlaneRouter, text: str = "hello", **fields: Any) -> Response:
    return plane.request("POST", "/v1/responses", {"model": "default", "input": text, **fields})


def id_of(response: Response) -> str:
    assert response.status == 200, response.body
    if (response.header("content-type") or "").startswith("text/event-stream"):
        return str(json.loads(response.events()[0])["response"]["id"])
    return str(response.json()["id"])


def assert_not_found(response: Response) -> None:
    assert response.status == 404, response.body
    error = response.json()["error"]
    assert error["message"].endswith(".")
    assert error["type"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_response_is_read_where_it_was_made(plane: DataPlaneRouter, stream: bool) -> None:
    ids = [id_of(create(plane, f"n-{number}", stream=stream)) for number in range(12)]
    for number, id_ in enumerate(ids):
        response = plane.request("GET", f"/v1/responses/{id_}")
        assert response.status == 200, response.body
        document = response.json()
        assert document["id"] == id_
        assert document["metadata"]["nonce"] == f"n-{number}"
        assert document["model"] == "default"


def test_all_that_lies_below_a_response_goes_there_too(plane: DataPlaneRouter) -> None:
    for _ in range(6):
        id_ = id_of(create(plane, "hello"))
        items = plane.request("GET", f"/v1/responses/{id_}/input_items?limit=5")
        assert items.json()["data"][0]["content"][0]["text"] == "hello"
        assert plane.request("POST", f"/v1/responses/{id_}/cancel").json()["status"] == "cancelled"
        assert plane.request("GET", f"/v1/responses/{id_}").json()["status"] == "cancelled"
        assert plane.request("DELETE", f"/v1/responses/{id_}").json()["deleted"] is True
        assert_not_found(plane.request("GET", f"/v1/responses/{id_}"))


def test_a_conversation_stays_on_its_engine(
    plane: DataPlaneRouter, engines: list[FakeEngine]
) -> None:
    conversations = 0

    def every_engine_has_one() -> bool:
        nonlocal conversations
        id_ = id_of(create(plane))
        for stream in (False, True, False, True):
            id_ = id_of(create(plane, "more", previous_response_id=id_, stream=stream))
        conversations += 1
        return all(engine.inference() for engine in engines)

    sooner_or_later(every_engine_has_one, "every engine to be chosen")
    assert sum(len(engine.inference()) for engine in engines) == 5 * conversations


def test_errors_of_a_conversation_put_no_instance_out_for_others(
    plane: DataPlaneRouter, engines: list[FakeEngine]
) -> None:
    id_ = id_of(create(plane))
    for engine in engines:
        engine.defaults(status=500)
    for _ in range(8):
        assert create(plane, "more", previous_response_id=id_).status == 500
        assert plane.request("GET", f"/v1/responses/{id_}").status == 500
    lines = plane.metrics().splitlines()
    faults = [line for line in lines if line.startswith("gpustack_fast_instance_faults_total{")]
    assert len(faults) == 3 and all(line.endswith(" 0") for line in faults), faults
    assert 'gpustack_fast_upstream_errors_total{kind="status"} 0' in lines


def test_the_name_may_come_before_or_behind_the_model(plane: DataPlaneRouter) -> None:
    for _ in range(6):
        id_ = id_of(create(plane))
        first = f'{{"previous_response_id":"{id_}","input":"x","model":"default"}}'.encode()
        filler = "x" * 200_000
        last = f'{{"model":"default","input":"{filler}","previous_response_id":"{id_}"}}'.encode()
        assert plane.request("POST", "/v1/responses", first).status == 200
        assert plane.request("POST", "/v1/responses", last, chunk=10_000).status == 200


@pytest.mark.parametrize("method", ["GET", "DELETE", "POST"])
def test_another_keys_response_is_not_found(
    plane: DataPlaneRouter, engines: list[FakeEngine], method: str
) -> None:
    id_ = id_of(create(plane))
    before = sum(len(engine.journal()) for engine in engines)
    target = f"/v1/responses/{id_}" + ("/cancel" if method == "POST" else "")
    assert_not_found(plane.request(method, target, key=OTHER))
    body = {"model": "default", "input": "x", "previous_response_id": id_}
    assert_not_found(plane.request("POST", "/v1/responses", body, key=OTHER))
    assert sum(len(engine.journal()) for engine in engines) == before
    assert plane.request("GET", f"/v1/responses/{id_}").status == 200


def test_an_unknown_response_is_not_found_and_reaches_no_engine(
    plane: DataPlaneRouter, engines: list[FakeEngine]
) -> None:
    for target in ("resp_unknown", "resp_unknown/input_items", "a%2Fb"):
        assert_not_found(plane.request("GET", f"/v1/responses/{target}"))
    assert_not_found(create(plane, previous_response_id="resp_unknown"))
    assert all(engine.journal() == [] for engine in engines)


def test_a_response_of_a_gone_instance_is_not_found(plane: DataPlaneRouter) -> None:
    id_ = id_of(create(plane))
    plane.states = ["error"] * 3
    plane.publish()
    response = plane.request("GET", f"/v1/responses/{id_}")
    assert response.status in (404, 503)
    plane.addresses, plane.states = plane.addresses[:0], []
    plane.publish()
    assert_not_found(plane.request("GET", f"/v1/responses/{id_}"))
    assert_not_found(create(plane, previous_response_id=id_))


def test_the_oldest_are_forgotten_first(engines: list[FakeEngine], router: Routers) -> None:
    plane = router(engines, responses_kept=16)
    ids = [id_of(create(plane)) for _ in range(200)]
    assert plane.request("GET", f"/v1/responses/{ids[-1]}").status == 200
    found = sum(plane.request("GET", f"/v1/responses/{id_}").status == 200 for id_ in ids)
    assert 1 <= found <= 32


def test_a_null_or_absent_name_is_no_name(plane: DataPlaneRouter) -> None:
    assert create(plane, previous_response_id=None).status == 200
    assert create(plane).status == 200


def test_a_key_is_needed(plane: DataPlaneRouter) -> None:
    id_ = id_of(create(plane))
    assert plane.request("GET", f"/v1/responses/{id_}", key=None).status == 401


@pytest.mark.parametrize("path", ["/v1/responses/input_tokens", "/v1/responses/compact"])
def test_what_is_reckoned_of_a_response_is_reckoned_where_that_is_and_for_its_owner(
    plane: DataPlaneRouter, engines: list[FakeEngine], path: str
) -> None:
    response = plane.request("POST", path, {"model": "default", "input": "hello"})
    assert response.status == 200, response.body
    asked = [entry for engine in engines for entry in engine.received(path)]
    assert [entry["model"] for entry in asked] == ["org/Served"]
    assert plane.records()[0].path == path
    made = id_of(create(plane))
    (maker,) = [engine for engine in engines if engine.received("/v1/responses")]
    for engine in engines:
        engine.reset()
    body = {"previous_response_id": made, "model": "default", "input": "and now?"}
    for _ in range(6):
        assert plane.request("POST", path, body).status == 200
    assert len(maker.received(path)) == 6
    assert_not_found(plane.request("POST", path, body, key=OTHER))
    assert len(maker.received(path)) == 6, "nobody else's conversation is told"
    missing = plane.request("POST", path, {"input": "hello"})
    assert (missing.status, missing.json()["error"]["type"]) == (400, "invalid_request_error")
    assert plane.request("GET", path).status == 405


def test_a_batch_of_chats_goes_to_the_engine_that_has_it(
    plane: DataPlaneRouter, engines: list[FakeEngine]
) -> None:
    path = "/v1/chat/completions/batch"
    chats = [[{"role": "user", "content": text}] for text in ("a", "b")]
    response = plane.request("POST", path, {"model": "default", "messages": chats})
    assert response.status == 200, response.body
    (asked,) = [entry for engine in engines for entry in engine.received(path)]
    assert json.loads(asked["text"]) == {"model": "org/Served", "messages": chats}
