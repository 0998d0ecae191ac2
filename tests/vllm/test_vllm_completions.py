"""Completions of a real vLLM through the whole product, with the openai SDK and by raw bytes."""

from __future__ import annotations

from typing import Any

import openai
import pytest

NAMES = pytest.mark.parametrize("name", ["tiny", "team/alias:v1"])


@NAMES
def test_several_prompts_are_served_each_at_its_place(client: openai.OpenAI, name: str) -> None:
    response = client.completions.create(
        model=name, prompt=["one", "two", "three"], max_tokens=6, echo=True
    )
    assert response.model == name
    assert [choice.index for choice in response.choices] == [0, 1, 2]
    for choice, prompt in zip(response.choices, ["one", "two", "three"], strict=True):
        assert choice.text.startswith(prompt)


@NAMES
def test_a_stream_of_several_prompts_says_the_same(client: openai.OpenAI, name: str) -> None:
    fields: dict[str, Any] = {
        "model": name,
        "prompt": ["one", "two"],
        "max_tokens": 12,
        "temperature": 0,
    }
    whole = client.completions.create(**fields)
    chunks = list(client.completions.create(**fields, stream=True))
    assert {chunk.model for chunk in chunks} == {name}
    for index in (0, 1):
        texts = [
            choice.text for chunk in chunks for choice in chunk.choices if choice.index == index
        ]
        assert "".join(texts) == whole.choices[index].text


@pytest.mark.parametrize(
    "prompt", ["Grüße, ☃ und 𝄞", 'a "quoted" \\ line\r\nand \u2028 more', '"model": "chat-served"']
)
def test_a_prompt_comes_back_as_it_was_sent(client: openai.OpenAI, prompt: str) -> None:
    response = client.completions.create(
        model="tiny", prompt=prompt, max_tokens=1, echo=True, logprobs=0
    )
    assert response.choices[0].text.startswith(prompt)
    assert response.usage is not None
    assert response.usage.prompt_tokens == len(prompt.encode())


def test_token_ids_are_passed_on(client: openai.OpenAI) -> None:
    ids = [39, 72]  # "Hi": see byte_tokenizer in tiny_models.py
    fields: dict[str, Any] = {"model": "tiny", "max_tokens": 8, "temperature": 0}
    of_ids = client.completions.create(prompt=ids, **fields)
    of_lists = client.completions.create(prompt=[ids, ids], **fields)
    of_text = client.completions.create(prompt="Hi", **fields)
    assert of_ids.choices[0].text == of_lists.choices[1].text == of_text.choices[0].text


def test_the_usage_of_a_stream_comes_when_it_was_asked_for(client: openai.OpenAI) -> None:
    fields: dict[str, Any] = {"model": "tiny", "prompt": "Hi", "max_tokens": 4, "stream": True}
    asked = list(client.completions.create(**fields, stream_options={"include_usage": True}))
    assert asked[-1].usage is not None
    assert asked[-1].choices == []
    assert all(
        chunk.choices and chunk.usage is None for chunk in client.completions.create(**fields)
    )


def test_usage_in_every_chunk_stays_there(client: openai.OpenAI) -> None:
    options: Any = {"include_usage": True, "continuous_usage_stats": True}
    chunks = list(
        client.completions.create(
            model="tiny", prompt="Hi", max_tokens=4, stream=True, stream_options=options
        )
    )
    assert all(chunk.usage is not None for chunk in chunks)
