"""`default_route`: requests that leave `model` out are served by one route."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from harness import FakeEngine, ServedRouter, serving
from raw_http import build, eventually

CONFIG = """
[server]
default_route = "main"

[[models]]
name = "main"
backend = "external"
engine = "vllm"
urls = ["{engine}"]
served_name = "{served}"

[[models]]
name = "other"
backend = "external"
urls = ["{engine}"]

[[models]]
name = "tei"
backend = "external"
engine = "tei"
urls = ["{engine}"]
"""

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}
ASKED = [
    ("/v1/chat/completions", CHAT),
    ("/v1/chat/completions", {**CHAT, "stream": True}),
    ("/v1/completions", {"prompt": "hi"}),
    ("/v1/messages", CHAT),
    ("/v1/messages", {**CHAT, "stream": True}),
    ("/v1/responses", {"input": "hi"}),
    ("/v1/embeddings", {"input": "hi"}),
    ("/v1/rerank", {"query": "q", "documents": ["a", "b"]}),
]


@pytest.fixture(scope="module")
def engine() -> Iterator[FakeEngine]:
    one = FakeEngine("engine", "--port", "0")
    yield one
    one.kill()


@pytest.fixture(scope="module", params=["org/Served", "main"])
def server(request: pytest.FixtureRequest, engine: FakeEngine) -> Iterator[ServedRouter]:
    config = CONFIG.format(engine=engine.address, served=request.param)
    with serving(config) as one:
        eventually(lambda: one.running() == 3, "the engine to be reached")
        yield one


@pytest.fixture(autouse=True)
def forget(engine: FakeEngine) -> None:
    engine.reset()


@pytest.mark.parametrize("model", [{}, {"model": None}, {"model": ""}, {"model": "  "}], ids=repr)
@pytest.mark.parametrize(("path", "body"), ASKED)
def test_a_request_without_a_model_is_served_by_it(
    server: ServedRouter, engine: FakeEngine, path: str, body: dict[str, Any], model: dict[str, Any]
) -> None:
    answer = server.request("POST", path, {**model, **body})
    assert answer.status == 200, answer.body
    assert engine.last()["model"] in ("org/Served", "main"), "the engine gets its own name"
    text = answer.body.decode()
    assert "org/Served" not in text
    if path not in ("/v1/rerank",):
        assert '"main"' in text
    assert 'route="main"' in server.metrics()
    sent = json.loads(engine.last()["text"])
    for name, value in body.items():
        if name not in ("documents", "stream"):
            assert sent[name] == value or path == "/v1/messages"


def test_a_body_in_pieces_is_served_so_too(server: ServedRouter, engine: FakeEngine) -> None:
    long = {"messages": [{"role": "user", "content": "x" * 100_000}], "stream": True}
    with server.client() as client:
        client.send(build("POST", "/v1/chat/completions", long, key=server.key, chunk=1_000))
        response = client.read_response()
    assert response.status == 200, response.body
    assert engine.last()["complete"]
    assert engine.last()["model"] in ("org/Served", "main")


def test_who_may_not_use_it_is_told_so(server: ServedRouter, engine: FakeEngine) -> None:
    made = server.keys("create", "k", "--allowed-models", "other")
    key = made.stdout.split()[-1] if made.returncode == 0 else ""
    assert key, made.stderr
    assert server.chat(CHAT, key=key).status == 403
    assert server.chat(CHAT, key=None).status == 401
    assert not engine.inference()


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b'{"model": 1, "messages": []}',
        b'{"model": null, "model": "other"}',
        b'{"model": "", "model": null}',
        b'{"model": "other", "model": null}',
        b'{"model": nul}',
        b'{"messages": [',
        b"",
    ],
)
def test_what_names_a_model_wrongly_or_is_broken_is_an_error_as_ever(
    server: ServedRouter, engine: FakeEngine, body: bytes
) -> None:
    answer = server.request("POST", "/v1/chat/completions", body)
    assert answer.status == 400, answer.body
    assert not engine.inference()
