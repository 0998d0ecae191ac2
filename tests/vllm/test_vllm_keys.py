"""Two keys: the client's opens the router alone, and the router's opens the engine alone."""

from __future__ import annotations

import gzip
import json

import openai
import pytest

from harness import ServedRouter, serving
from raw_http import chat
from vllm_engine import CONFIG, VllmEngine, ask, openai_client


def test_the_engine_asks_for_its_own_key(router: ServedRouter, chat_engine: VllmEngine) -> None:
    for key in (None, router.key, "wrong"):
        assert chat_engine.request("GET", "/v1/models", key=key).status == 401
    assert chat_engine.request("GET", "/v1/models").status == 200


def test_the_engines_key_opens_nothing_at_the_router(
    router: ServedRouter, chat_engine: VllmEngine
) -> None:
    with pytest.raises(openai.AuthenticationError):
        openai_client(router, chat_engine.key).models.list()


def test_an_engine_that_rejects_the_routers_key_is_a_502_that_says_the_cause(
    chat_engine: VllmEngine,
) -> None:
    config = CONFIG.format(
        address=chat_engine.address, served_name=chat_engine.model, category="llm"
    )
    with serving(config, environment={"TINY_ENGINE_KEY": "an-old-key-of-the-engine"}) as router:
        for path in ("/v1/chat/completions", "/v1/messages"):
            response = ask(router, "POST", path, chat("tiny", max_tokens=4))
            assert response.status == 502
            assert "credential" in response.json()["error"]["message"]
            assert b"an-old-key" not in response.body
        assert "an-old-key" not in router.output()


def test_a_key_that_may_use_one_route_sees_and_uses_that_alone(router: ServedRouter) -> None:
    created = router.keys("create", "narrow", "--allowed-models", "team/alias:v1")
    assert created.returncode == 0, created.stderr
    with openai_client(router, created.stdout.strip()) as narrow:
        assert [model.id for model in narrow.models.list()] == ["team/alias:v1"]
        response = narrow.completions.create(model="team/alias:v1", prompt="Hi", max_tokens=2)
        assert response.model == "team/alias:v1"
        with pytest.raises(openai.PermissionDeniedError):
            narrow.completions.create(model="tiny", prompt="Hi", max_tokens=2)


def test_a_compressed_request_reaches_the_engine_decoded(router: ServedRouter) -> None:
    body = gzip.compress(json.dumps(chat("tiny", "Hello " * 1000, max_tokens=4)).encode())
    response = ask(
        router, "POST", "/v1/chat/completions", body, headers=[("Content-Encoding", "gzip")]
    )
    assert response.status == 200
    assert response.json()["usage"]["prompt_tokens"] > 6000
