"""Embeddings of a real vLLM through the whole product, with the openai SDK and by raw bytes."""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterator

import openai
import pytest

from harness import ServedRouter
from vllm_engine import ask, openai_client

NAMES = pytest.mark.parametrize("name", ["tiny", "team/alias:v1"])


@pytest.fixture(scope="module")
def embeddings(embedding_router: ServedRouter) -> Iterator[openai.OpenAI]:
    with openai_client(embedding_router) as client:
        yield client


@NAMES
def test_an_embedding_carries_the_name_that_was_asked_for(
    embeddings: openai.OpenAI, name: str
) -> None:
    response = embeddings.embeddings.create(model=name, input="Hello")
    assert response.model == name
    assert len(response.data[0].embedding) == 128
    assert response.usage.prompt_tokens == 5


def test_both_encodings_are_the_same_numbers(embedding_router: ServedRouter) -> None:
    def embed(encoding: str) -> object:
        body = {"model": "tiny", "input": "Hello", "encoding_format": encoding}
        found: object = ask(embedding_router, "POST", "/v1/embeddings", body).json()["data"][0][
            "embedding"
        ]
        return found

    numbers, text = embed("float"), embed("base64")
    assert isinstance(text, str)
    assert struct.unpack("<128f", base64.b64decode(text)) == pytest.approx(numbers)


def test_a_list_of_inputs_is_served_each_at_its_place(embeddings: openai.OpenAI) -> None:
    together = embeddings.embeddings.create(model="tiny", input=["a", "bc", "a"])
    assert [one.index for one in together.data] == [0, 1, 2]
    assert together.data[0].embedding == pytest.approx(together.data[2].embedding, abs=1e-2)
    assert together.data[0].embedding != pytest.approx(together.data[1].embedding, abs=1e-2)
    assert together.usage.prompt_tokens == 4


def test_token_ids_are_passed_on(embeddings: openai.OpenAI) -> None:
    of_ids = embeddings.embeddings.create(model="tiny", input=[[39, 72]])
    of_text = embeddings.embeddings.create(model="tiny", input="Hi")
    assert of_ids.data[0].embedding == pytest.approx(of_text.data[0].embedding, abs=1e-2)


@NAMES
def test_a_rejection_of_the_engine_keeps_its_status_and_hides_its_name(
    embeddings: openai.OpenAI, name: str
) -> None:
    with pytest.raises(openai.BadRequestError, match="Matryoshka") as caught:
        embeddings.embeddings.create(model=name, input="Hello", dimensions=7)
    assert "text-served" not in str(caught.value)
    assert "/models/" not in str(caught.value)


def test_a_thousand_inputs_are_served(embeddings: openai.OpenAI) -> None:
    response = embeddings.embeddings.create(
        model="tiny", input=[f"{number}" for number in range(1000)]
    )
    assert [one.index for one in response.data] == list(range(1000))
