"""The real openai SDK talks to the real llama.cpp engine through the whole product."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from typing import Any, cast

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from harness import FakeEngine, ServedRouter, external, serving
from raw_http import eventually

pytestmark = pytest.mark.timeout(300)

QUESTION: list[ChatCompletionMessageParam] = [
    {"role": "user", "content": "What is the capital of France? Answer in one word."}
]


@pytest.fixture
def client(smollm2: ServedRouter) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=f"{smollm2.address}/v1", api_key=smollm2.key, max_retries=0
    ) as client:
        yield client


def async_client(server: ServedRouter) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{server.address}/v1", api_key=server.key, max_retries=0)


@pytest.mark.parametrize("model", ["smollm2", "default"])
def test_a_chat_completion(client: openai.OpenAI, model: str) -> None:
    response = client.chat.completions.create(
        model=model, messages=QUESTION, max_tokens=20, temperature=0
    )
    assert "Paris" in (response.choices[0].message.content or "")
    assert response.model == model
    assert response.usage is not None
    assert response.usage.completion_tokens > 0
    assert response._request_id


@pytest.mark.parametrize("model", ["smollm2", "default"])
def test_a_streamed_chat_completion(client: openai.OpenAI, model: str) -> None:
    stream = client.chat.completions.create(
        model=model,
        messages=QUESTION,
        max_tokens=20,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    assert {chunk.model for chunk in chunks} == {model}
    assert "Paris" in "".join(
        chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices
    )
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] in (
        "stop",
        "length",
    )
    assert chunks[-1].usage is not None


def test_a_completion_streamed_and_not(client: openai.OpenAI) -> None:
    whole = client.completions.create(
        model="smollm2", prompt="One, two, three,", max_tokens=8, temperature=0
    )
    assert whole.choices[0].text
    assert whole.model == "smollm2"
    chunks = list(
        client.completions.create(
            model="smollm2", prompt="One, two, three,", max_tokens=8, temperature=0, stream=True
        )
    )
    assert (
        "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == whole.choices[0].text
    )


def test_the_async_client_streamed_and_not_and_side_by_side(smollm2: ServedRouter) -> None:
    async def one(client: openai.AsyncOpenAI, stream: bool) -> str:
        if not stream:
            response = await client.chat.completions.create(
                model="smollm2", messages=QUESTION, max_tokens=12
            )
            return response.choices[0].message.content or ""
        text = ""
        async for chunk in await client.chat.completions.create(
            model="smollm2",
            messages=QUESTION,
            max_tokens=12,
            stream=True,
        ):
            text += (chunk.choices[0].delta.content or "") if chunk.choices else ""
        return text

    async def all_of_them() -> list[str]:
        async with async_client(smollm2) as client:
            return await asyncio.gather(
                *(one(client, stream=number % 2 == 0) for number in range(8))
            )

    assert all(asyncio.run(all_of_them()))


def test_the_model_list_and_one_of_it(client: openai.OpenAI) -> None:
    assert {model.id for model in client.models.list()} == {"smollm2", "default"}
    one = client.models.retrieve("default")
    assert one.object == "model"
    assert one.created > 0


def test_the_stream_of_a_caller_that_breaks_off_can_be_closed(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="smollm2", messages=QUESTION, max_tokens=500, stream=True
    )
    next(iter(stream))
    stream.close()
    test_a_chat_completion(client, "smollm2")


# --- the error classes ---


def ask(client: openai.OpenAI, model: str = "smollm2") -> None:
    client.chat.completions.create(model=model, messages=QUESTION, max_tokens=1)


def assert_useful(error: openai.APIStatusError) -> None:
    """The SDK found the parts of the error where it looks for them."""
    assert error.request_id
    assert isinstance(error.body, dict)
    assert str(error.body["message"]).endswith(".")
    assert error.type


def test_a_wrong_key_is_an_authentication_error(smollm2: ServedRouter) -> None:
    for key in ("wrong", "gpustack_0123456789abcdef_ffffffffffffffffffffffffffffffff"):
        with openai.OpenAI(base_url=f"{smollm2.address}/v1", api_key=key, max_retries=0) as client:
            with pytest.raises(openai.AuthenticationError) as caught:
                ask(client)
            assert_useful(caught.value)
            with pytest.raises(openai.AuthenticationError):
                client.models.list()


def test_an_unknown_model_is_a_not_found_error(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        ask(client, "no-such-model")
    assert_useful(caught.value)
    assert caught.value.code == "model_not_found"
    assert "no-such-model" in str(caught.value)
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("no-such-model")


def test_an_unknown_model_of_a_stream_is_a_not_found_error_too(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="nope", messages=QUESTION, stream=True)


def test_a_missing_model_is_a_bad_request_error(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=cast(Any, None), messages=QUESTION)
    assert_useful(caught.value)


def test_what_the_engine_rejects_is_a_bad_request_error(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="smollm2", messages=cast(Any, "no list"))


def test_a_key_without_the_model_is_a_permission_denied_error(smollm2: ServedRouter) -> None:
    made = smollm2.keys("create", "sdk-only-default", "--allowed-models", "default")
    assert made.returncode == 0, made.stderr
    with openai.OpenAI(
        base_url=f"{smollm2.address}/v1", api_key=made.stdout.strip(), max_retries=0
    ) as client:
        with pytest.raises(openai.PermissionDeniedError) as caught:
            ask(client, "smollm2")
        assert_useful(caught.value)
        ask(client, "default")


@pytest.fixture
def nobody() -> Iterator[str]:
    """An address that is nobody else's, and at which nobody listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"


def test_no_running_instance_is_an_internal_server_error_with_503(nobody: str) -> None:
    config = f"""
[[models]]
name = "m"
backend = "external"
urls = ["{nobody}"]
"""
    with (
        serving(config, wait=False) as server,
        openai.OpenAI(base_url=f"{server.address}/v1", api_key=server.key, max_retries=0) as client,
    ):
        eventually(lambda: "Nobody can be reached" in server.output(), "the address to be tried")
        with pytest.raises(openai.InternalServerError) as caught:
            ask(client, "m")
        assert caught.value.status_code in (502, 503)
        assert_useful(caught.value)
        assert (
            caught.value.status_code != 503
            or int(caught.value.response.headers["retry-after"]) >= 1
        )


def test_a_stream_whose_engine_dies_is_an_api_error() -> None:
    engine = FakeEngine("dying", "--port", "0")
    try:
        with (
            serving(external([engine])) as server,
            openai.OpenAI(
                base_url=f"{server.address}/v1", api_key=server.key, max_retries=0
            ) as client,
        ):
            fault = {"fault": {"how": "close", "at": "inside_frame", "after": 2}}
            stream = client.chat.completions.create(
                model="m",
                messages=QUESTION,
                stream=True,
                extra_body={"fake": fault},
            )
            seen = []
            with pytest.raises(openai.APIError) as caught:
                for chunk in stream:
                    seen.append(chunk)
            assert len(seen) == 2
            assert caught.value.message.endswith(".")
    finally:
        engine.kill()
