"""A LoRA of a real vLLM as a route of its own, `<base>:<adapter>`."""

from __future__ import annotations

from typing import Any

import anthropic
import openai
import pytest

from harness import ServedRouter
from raw_http import chat
from vllm_engine import VllmEngine, ask, openai_client

NAME = "tiny:tuned"


def test_the_adapter_responds_under_its_public_name(
    router: ServedRouter, chat_engine: VllmEngine
) -> None:
    fields: dict[str, Any] = {"max_tokens": 16, "temperature": 0}
    base = ask(router, "POST", "/v1/chat/completions", chat("tiny", **fields)).json()
    tuned = ask(router, "POST", "/v1/chat/completions", chat(NAME, **fields)).json()
    direct = chat_engine.request("POST", "/v1/chat/completions", chat("tuned", **fields)).json()
    assert tuned["model"] == NAME
    assert tuned["choices"] == direct["choices"] != base["choices"]


def test_every_dialect_names_it_so(
    client: openai.OpenAI, anthropic_client: anthropic.Anthropic
) -> None:
    stream = client.completions.create(model=NAME, prompt="Hi", max_tokens=8, stream=True)
    assert {chunk.model for chunk in stream} == {NAME}
    events = client.responses.create(model=NAME, input="Hi", max_output_tokens=8, stream=True)
    assert {event.response.model for event in events if hasattr(event, "response")} == {NAME}
    with anthropic_client.messages.stream(
        model=NAME, messages=[{"role": "user", "content": "Hi"}], max_tokens=8
    ) as messages:
        assert messages.get_final_message().model == NAME


def test_a_key_for_the_base_alone_reaches_no_adapter(
    router: ServedRouter, chat_engine: VllmEngine
) -> None:
    created = router.keys("create", "base-alone", "--allowed-models", "tiny")
    assert created.returncode == 0, created.stderr
    key = created.stdout.strip()
    with openai_client(router, key) as narrow:
        assert narrow.completions.create(model="tiny", prompt="Hi", max_tokens=1).model == "tiny"
        with pytest.raises(openai.PermissionDeniedError):
            narrow.completions.create(model=NAME, prompt="Hi", max_tokens=1)
    headers = [("X-GPUStack-Model", "tiny")]  # the body, which nobody reads, could name the adapter
    for model in ("tuned", chat_engine.model):
        body = {"model": model, "prompt": "Hi", "max_tokens": 1}
        assert (
            ask(
                router, "POST", "/model/proxy/v1/completions", body, key=key, headers=headers
            ).status
            == 403
        )
        assert (
            ask(router, "POST", "/model/proxy/v1/completions", body, headers=headers).status == 200
        )
