"""Anthropic's Messages, which vLLM speaks by itself, by the anthropic SDK and raw bytes."""

from __future__ import annotations

from typing import Any

import anthropic
import pytest
from anthropic.types import MessageParam, TextBlock, ToolParam, ToolUseBlock

from harness import ServedRouter
from vllm_engine import ask

NAMES = pytest.mark.parametrize("name", ["tiny", "team/alias:v1"])

QUESTION: list[MessageParam] = [{"role": "user", "content": "Hi"}]

WEATHER: ToolParam = {
    "name": "weather",
    "strict": True,
    "input_schema": {
        "type": "object",
        "properties": {"city": {"enum": ["Paris", "Rome"]}},
        "required": ["city"],
        "additionalProperties": False,
    },
}


@NAMES
def test_a_message_carries_the_name_that_was_asked_for(
    anthropic_client: anthropic.Anthropic, name: str
) -> None:
    message = anthropic_client.messages.create(model=name, messages=QUESTION, max_tokens=12)
    assert message.model == name
    assert message.stop_reason in ("max_tokens", "end_turn")
    assert message.usage.input_tokens > 0


@NAMES
def test_a_streamed_message_accumulates_to_the_whole_one(
    anthropic_client: anthropic.Anthropic, name: str
) -> None:
    # The SDK's method knows no temperature any more, and vLLM does.
    fields: dict[str, Any] = {
        "model": name,
        "messages": QUESTION,
        "max_tokens": 24,
        "extra_body": {"temperature": 0},
    }
    whole = anthropic_client.messages.create(**fields)
    with anthropic_client.messages.stream(**fields) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert final.model == name
    assert isinstance(whole.content[0], TextBlock)
    assert text == whole.content[0].text != ""
    assert final.stop_reason == whole.stop_reason == "max_tokens"
    assert final.usage.output_tokens == 24


@pytest.mark.parametrize("stream", [False, True])
def test_a_forced_tool_is_used(anthropic_client: anthropic.Anthropic, stream: bool) -> None:
    fields: dict[str, Any] = {
        "model": "tiny",
        "messages": QUESTION,
        "max_tokens": 2000,
        "tools": [WEATHER],
        "tool_choice": {"type": "tool", "name": "weather"},
    }
    if stream:
        with anthropic_client.messages.stream(**fields) as events:
            message = events.get_final_message()
    else:
        message = anthropic_client.messages.create(**fields)
    uses = [block for block in message.content if isinstance(block, ToolUseBlock)]
    assert [use.name for use in uses] == ["weather"]
    assert uses[0].input in ({"city": "Paris"}, {"city": "Rome"})
    assert message.stop_reason == "tool_use"


@NAMES
def test_the_tokens_of_a_message_are_counted(
    anthropic_client: anthropic.Anthropic, name: str
) -> None:
    counted = anthropic_client.messages.count_tokens(model=name, messages=QUESTION)
    message = anthropic_client.messages.create(model=name, messages=QUESTION, max_tokens=1)
    assert counted.input_tokens == message.usage.input_tokens


def test_an_unknown_model_is_a_404_that_the_sdk_knows(
    anthropic_client: anthropic.Anthropic,
) -> None:
    with pytest.raises(anthropic.NotFoundError) as caught:
        anthropic_client.messages.create(model="nobody", messages=QUESTION, max_tokens=4)
    assert caught.value.type == "not_found_error"


def test_a_rejection_of_the_engine_is_in_anthropics_words(
    anthropic_client: anthropic.Anthropic,
) -> None:
    with pytest.raises(anthropic.BadRequestError) as caught:
        anthropic_client.messages.create(
            model="tiny", messages=QUESTION, max_tokens=100_000, timeout=60
        )
    assert caught.value.type == "invalid_request_error"
    assert "16384" in str(caught.value)


def test_broken_json_is_rejected_in_anthropics_shape(router: ServedRouter) -> None:
    response = ask(router, "POST", "/v1/messages", b'{"model": "tiny", "messages": [}')
    assert response.status == 400
    assert response.json()["type"] == "error"
    assert response.json()["error"]["type"] == "invalid_request_error"


def test_x_api_key_is_translated_for_the_engine(router: ServedRouter) -> None:
    body = {"model": "tiny", "messages": QUESTION, "max_tokens": 4}
    headers = [("x-api-key", router.key), ("anthropic-version", "2023-06-01")]
    response = ask(router, "POST", "/v1/messages", body, key=None, headers=headers)
    assert response.status == 200
    assert response.json()["model"] == "tiny"
