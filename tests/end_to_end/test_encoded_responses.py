"""Responses that an engine compresses although it was asked not to: decoded, or an error."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from typing import Any

import pytest

from harness import DataPlaneRouter, FakeEngine
from raw_http import Response, chat

Routers = Callable[..., DataPlaneRouter]

DOCUMENTS = {"query": "which has most x?", "documents": ["none", "xx", "xxxx", "x"]}
ENDPOINTS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": chat(),
    "/v1/completions": {"prompt": "x"},
    "/v1/messages": {**chat(), "max_tokens": 9},
    "/v1/messages/count_tokens": chat(),
    "/v1/responses": {"input": "x"},
    "/v1/embeddings": {"input": "x"},
    "/v1/rerank": DOCUMENTS,
    "/v2/rerank": DOCUMENTS,
    "/v1/score": {"queries": "x", "documents": ["x"]},
    "/v1/moderations": {"input": "x"},
}


@pytest.fixture
def engine(shared_engine: FakeEngine) -> FakeEngine:
    return shared_engine


@pytest.fixture(params=["native", "translated"])
def plane(engine: FakeEngine, router: Routers, request: pytest.FixtureRequest) -> DataPlaneRouter:
    """The engine knows the model by another name, and speaks Anthropic's dialect or does not."""
    dialects = ["openai", "anthropic"] if request.param == "native" else ["openai"]
    return router([engine], served_name="the/engines name", model={"dialects": dialects})


def ask(plane: DataPlaneRouter, path: str, fake: dict[str, Any], **more: Any) -> Response:
    body = {**ENDPOINTS[path], "model": "m", **more}
    return plane.request("POST", path, body, headers=[("X-Fake", json.dumps(fake))])


def test_the_engine_is_asked_for_no_coding(engine: FakeEngine, plane: DataPlaneRouter) -> None:
    response = plane.chat(chat(), headers=[("Accept-Encoding", "gzip")])
    assert response.status == 200
    asked = [value for name, value in engine.last()["headers"] if name.lower() == "accept-encoding"]
    assert asked == ["identity"]


@pytest.mark.parametrize("coding", ["gzip", "deflate", "zstd"])
@pytest.mark.parametrize("path", ENDPOINTS)
def test_a_compressed_response_is_decoded_and_read_like_any_other(
    plane: DataPlaneRouter, path: str, coding: str
) -> None:
    plain, decoded = ask(plane, path, {}), ask(plane, path, {"coding": coding})
    assert plain.status == decoded.status == 200, decoded.body
    assert decoded.header("content-encoding") is None
    assert shape(decoded.json()) == shape(plain.json())
    assert "engines name" not in decoded.body.decode()


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/responses"])
def test_a_compressed_stream_is_decoded_frame_by_frame(plane: DataPlaneRouter, path: str) -> None:
    fake = {"coding": "gzip", "frames": 50, "cuts": list(range(7, 1_000, 7))}
    response = ask(plane, path, fake, stream=True)
    assert response.status == 200 and response.broken is None
    assert response.header("content-encoding") is None
    assert (response.header("content-type") or "").startswith("text/event-stream")
    assert len(response.events()) > 50
    assert "engines name" not in response.body.decode()


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/rerank"])
def test_a_compressed_error_is_read_and_reshaped(plane: DataPlaneRouter, path: str) -> None:
    response = ask(
        plane, path, {"coding": "gzip", "status": 422, "error": "the engines name is bad"}
    )
    assert response.status == 422
    assert response.header("content-encoding") is None
    assert "is bad" in response.json()["error"]["message"]


def reason(response: Response) -> str:
    assert response.status == 502, response.body
    assert response.header("content-encoding") is None
    return str(response.json()["error"]["message"])


@pytest.mark.parametrize("coding", ["br", "gzip, gzip", "rot13"])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/rerank"])
def test_a_coding_that_cannot_be_decoded_is_an_error(
    plane: DataPlaneRouter, path: str, coding: str
) -> None:
    for more in ({}, {"stream": True}):
        assert "Content-Encoding" in reason(ask(plane, path, {"coding": coding}, **more))
    assert ask(plane, path, {"coding": "identity"}).status == 200


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/embeddings", "/v1/rerank"])
@pytest.mark.parametrize("fake", [{"coded_part": 0.7}, {"body_text": "x" * 9, "coding": "x-gzip"}])
def test_damage_is_an_error(plane: DataPlaneRouter, path: str, fake: dict[str, Any]) -> None:
    assert "compressed" in reason(ask(plane, path, {"coding": "gzip", **fake}))


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/rerank"])
def test_a_bomb_is_an_error_in_bounded_memory(
    engine: FakeEngine, router: Routers, path: str
) -> None:
    plane = router([engine], model={"dialects": ["openai"]})
    engine.defaults(body_text=" " * 30_000_000, coding="gzip")
    assert "decoded_ratio" in reason(ask(plane, path, {}))


def test_what_is_not_looked_into_passes_as_it_is(plane: DataPlaneRouter) -> None:
    """A sound, say, and everything through the generic proxy."""
    fake = {"coding": "gzip"}
    body = {"model": "m", "input": "x", "voice": "v"}
    headers = [("X-Fake", json.dumps(fake))]
    response = plane.request("POST", "/v1/audio/speech", body, headers=headers)
    assert response.header("content-encoding") == "gzip"
    assert gzip.decompress(response.body)


def shape(value: Any) -> Any:
    """The keys and types of a document, at every depth."""
    match value:
        case dict():
            return {key: shape(one) for key, one in value.items()}
        case list():
            return [shape(one) for one in value[:1]]
        case _:
            return type(value).__name__
