"""Endpoints that a chatting vLLM lacks: its 404 has the shape of the API that was called."""

from __future__ import annotations

from typing import Any

import anthropic
import openai
import pytest

from harness import ServedRouter
from sound_form import FORM, form
from vllm_engine import ask

ABSENT: list[tuple[str, dict[str, Any]]] = [
    ("/v1/embeddings", {"input": "Hello"}),
    ("/v1/rerank", {"query": "Hello", "documents": ["Hello"]}),
    ("/v2/rerank", {"query": "Hello", "documents": ["Hello"]}),
    ("/v1/score", {"text_1": "Hello", "text_2": "Hello"}),
    ("/v1/moderations", {"input": "Hello"}),
    ("/v1/images/generations", {"prompt": "Hello"}),
    ("/v1/audio/speech", {"input": "Hello", "voice": "none"}),
]


def assert_absent(response: Any) -> None:
    assert response.status == 404, response.body
    assert response.json()["error"]["message"]
    assert response.header("content-type") == "application/json"


@pytest.mark.parametrize(("path", "fields"), ABSENT)
def test_an_endpoint_that_the_engine_lacks_is_a_404_with_a_message(
    router: ServedRouter, path: str, fields: dict[str, Any]
) -> None:
    assert_absent(ask(router, "POST", path, {"model": "tiny", **fields}))


@pytest.mark.parametrize(
    "path", ["/v1/audio/transcriptions", "/v1/audio/translations", "/v1/images/edits"]
)
def test_so_is_one_that_takes_a_form(router: ServedRouter, path: str) -> None:
    assert_absent(ask(router, "POST", path, form({"model": "tiny"}), headers=FORM))


def test_a_websocket_that_the_engine_does_not_open_is_an_error_in_json(
    router: ServedRouter,
) -> None:
    headers = [("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13")]
    headers.append(("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="))
    response = ask(router, "GET", "/v1/realtime?model=tiny", headers=headers)
    assert response.status >= 400
    assert response.json()["error"]["message"]


def test_a_response_is_not_deleted_where_the_engine_cannot(client: openai.OpenAI) -> None:
    made = client.responses.create(model="tiny", input="Hello", max_output_tokens=4)
    with pytest.raises(openai.APIStatusError) as caught:
        client.responses.delete(made.id)
    assert caught.value.status_code == 405
    with pytest.raises(openai.NotFoundError):
        client.responses.input_items.list(made.id)


def test_batches_of_messages_are_a_404_in_anthropics_words(
    anthropic_client: anthropic.Anthropic,
) -> None:
    with pytest.raises(anthropic.NotFoundError) as caught:
        anthropic_client.messages.batches.list()
    assert caught.value.type == "not_found_error"
