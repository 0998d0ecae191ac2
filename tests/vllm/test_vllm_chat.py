"""Chat completions of a real vLLM through the whole product, by the openai SDK and raw bytes."""

from __future__ import annotations

import base64
import json
import random
import struct
import zlib
from typing import Any

import openai
import pytest
from openai.types.chat import (
    ChatCompletionChunk,
    ChatCompletionFunctionToolParam,
    ChatCompletionMessageParam,
    ChatCompletionToolChoiceOptionParam,
)

from harness import ServedRouter
from raw_http import Client, build, chat, eventually
from vllm_engine import RESPONSE_WITHIN, TIMINGS, VllmEngine, ask

NAMES = pytest.mark.parametrize("name", ["tiny", "team/alias:v1"])

QUESTION: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Hi"}]

WEATHER: ChatCompletionFunctionToolParam = {
    "type": "function",
    "function": {
        "name": "weather",
        "strict": True,  # else vLLM lets the model put any JSON value in the arguments' place
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Paris", "Rome"]}, "unit": {"enum": ["C", "F"]}},
            "required": ["city", "unit"],
            "additionalProperties": False,
        },
    },
}

FORCED: list[ChatCompletionToolChoiceOptionParam] = [
    "required",
    {"type": "function", "function": {"name": "weather"}},
]


def is_weather(arguments: str) -> bool:
    """Whether a call's arguments obey the tool's schema: guided decoding sees to it."""
    values = json.loads(arguments)
    return (
        set(values) == {"city", "unit"}
        and values["city"] in ("Paris", "Rome")
        and values["unit"] in ("C", "F")
    )


def text_of(chunks: list[ChatCompletionChunk], index: int = 0) -> str:
    """The text that the chunks of one choice carry."""
    choices = [choice for chunk in chunks for choice in chunk.choices if choice.index == index]
    return "".join(choice.delta.content or "" for choice in choices)


@NAMES
def test_a_chat_completion_carries_the_name_that_was_asked_for(
    client: openai.OpenAI, name: str
) -> None:
    response = client.chat.completions.create(
        model=name, messages=QUESTION, max_tokens=12, temperature=0
    )
    assert response.model == name
    assert response.choices[0].finish_reason == "length"
    assert response.usage is not None
    assert response.usage.completion_tokens == 12
    assert response._request_id


@NAMES
def test_a_streamed_chat_completion_says_the_same_as_a_whole_one(
    client: openai.OpenAI, name: str
) -> None:
    whole = client.chat.completions.create(
        model=name, messages=QUESTION, max_tokens=24, temperature=0
    )
    chunks = list(
        client.chat.completions.create(
            model=name, messages=QUESTION, max_tokens=24, temperature=0, stream=True
        )
    )
    assert {chunk.model for chunk in chunks} == {name}
    assert text_of(chunks) == whole.choices[0].message.content != ""
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [choice.finish_reason for chunk in chunks for choice in chunk.choices][-1] == "length"


def test_the_sdks_own_accumulator_ends_with_the_whole_call(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(
        model="tiny",
        messages=QUESTION,
        max_tokens=2000,
        tools=[WEATHER],
        tool_choice="required",
        seed=7,
    ) as stream:
        final = stream.get_final_completion()
    assert final.model == "tiny"
    assert final.choices[0].finish_reason == "tool_calls"
    assert final.choices[0].message.tool_calls
    assert is_weather(final.choices[0].message.tool_calls[0].function.arguments)


def test_two_choices_of_a_stream_keep_apart(client: openai.OpenAI) -> None:
    ask_for: dict[str, Any] = {"model": "tiny", "messages": QUESTION, "n": 2, "max_tokens": 16}
    whole = client.chat.completions.create(**ask_for)
    assert [choice.index for choice in whole.choices] == [0, 1]
    chunks = list(client.chat.completions.create(**ask_for, stream=True))
    for index in (0, 1):
        ends = [
            choice.finish_reason
            for chunk in chunks
            for choice in chunk.choices
            if choice.index == index
        ]
        assert ends[-1] in ("length", "stop")
        assert set(ends[:-1]) == {None}


@pytest.mark.parametrize("stream", [False, True])
def test_log_probabilities_come_for_every_token(client: openai.OpenAI, stream: bool) -> None:
    response: Any = client.chat.completions.create(
        model="tiny",
        messages=QUESTION,
        max_tokens=6,
        logprobs=True,
        top_logprobs=2,
        stream=stream,
        extra_body={"ignore_eos": True},
    )
    choices = [choice for chunk in (response if stream else [response]) for choice in chunk.choices]
    tokens = [token for choice in choices if choice.logprobs for token in choice.logprobs.content]
    assert len(tokens) == 6
    assert all(token.logprob < 0 and len(token.top_logprobs) == 2 for token in tokens)


@pytest.mark.parametrize("choice", FORCED, ids=["required", "named"])
def test_a_forced_tool_call(
    client: openai.OpenAI, choice: ChatCompletionToolChoiceOptionParam
) -> None:
    response = client.chat.completions.create(
        model="tiny",
        messages=QUESTION,
        max_tokens=2000,
        tools=[WEATHER],
        tool_choice=choice,
        seed=7,
    )
    calls = response.choices[0].message.tool_calls
    assert calls
    assert calls[0].type == "function"
    assert calls[0].function.name == "weather"
    assert is_weather(calls[0].function.arguments)


@pytest.mark.parametrize("choice", FORCED, ids=["required", "named"])
def test_a_streamed_tool_call_comes_in_pieces_that_join(
    client: openai.OpenAI, choice: ChatCompletionToolChoiceOptionParam
) -> None:
    stream = client.chat.completions.create(
        model="tiny",
        messages=QUESTION,
        max_tokens=2000,
        tools=[WEATHER],
        tool_choice=choice,
        seed=7,
        stream=True,
    )
    deltas = [choice.delta for chunk in stream for choice in chunk.choices]
    pieces = [
        call
        for delta in deltas
        for call in delta.tool_calls or []
        if call.index == 0 and call.function
    ]
    assert [piece.function.name for piece in pieces if piece.function and piece.function.name] == [
        "weather"
    ]
    assert sum(bool(piece.id) for piece in pieces) == 1
    assert len(pieces) > 1
    assert is_weather("".join(piece.function.arguments or "" for piece in pieces if piece.function))


def test_usage_comes_in_a_last_chunk_when_it_was_asked_for(client: openai.OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model="tiny",
            messages=QUESTION,
            max_tokens=8,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens <= 8
    assert chunks[-1].choices == []
    assert all(chunk.choices and chunk.usage is None for chunk in chunks[:-1])


def test_no_chunk_is_without_a_choice_when_usage_was_not_asked_for(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="tiny", messages=QUESTION, max_tokens=8, stream=True
    )
    assert all(chunk.choices and chunk.usage is None for chunk in stream)


def noise(side: int) -> bytes:
    """A PNG of random dots, which nothing makes smaller: three bytes for each."""
    dots = random.Random(0).randbytes(3 * side * side)
    rows = b"".join(b"\0" + dots[3 * side * row : 3 * side * (row + 1)] for row in range(side))
    parts = [
        (b"IHDR", struct.pack(">2I5B", side, side, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows, 0)),
        (b"IEND", b""),
    ]
    chunks = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize("chunk", [None, 70_001], ids=["sized", "chunked"])
def test_an_image_of_five_megabytes_arrives_whole(
    router: ServedRouter, chat_engine: VllmEngine, chunk: int | None
) -> None:
    image = noise(1320)
    assert len(image) > 5_000_000
    picture = {
        "type": "image_url",
        "image_url": {"url": "data:image/png;base64," + base64.b64encode(image).decode()},
    }
    words = {"type": "text", "text": "What is this?"}
    body = {
        "messages": [{"role": "user", "content": [words, picture]}],
        "max_tokens": 8,
        "temperature": 0,
    }
    response = ask(router, "POST", "/v1/chat/completions", {**body, "model": "tiny"}, chunk=chunk)
    direct = chat_engine.request(
        "POST", "/v1/chat/completions", {**body, "model": chat_engine.model}
    )
    assert response.status == 200
    assert response.json()["choices"] == direct.json()["choices"]
    assert response.json()["usage"]["prompt_tokens"] == direct.json()["usage"]["prompt_tokens"]


def test_a_damaged_image_is_rejected_by_the_engine_in_its_own_words(client: openai.OpenAI) -> None:
    damaged = "data:image/png;base64," + base64.b64encode(noise(8)[:100]).decode()
    content: Any = [{"type": "image_url", "image_url": {"url": damaged}}]
    with pytest.raises(openai.BadRequestError, match="image"):
        client.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": content}], max_tokens=4
        )


def test_the_usage_of_a_stream_says_how_fast_it_was(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="tiny",
        messages=QUESTION,
        max_tokens=400,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"ignore_eos": True},
    )
    usage = list(stream)[-1].usage
    assert usage is not None
    assert usage.completion_tokens == 400
    told = usage.model_extra or {}
    assert all(told[name] >= 0 for name in TIMINGS)
    # Both are rounded to two digits. On a busy machine vLLM sends many tokens in one frame, and the
    # whole stream may take a few milliseconds.
    assert told["time_per_output_token_ms"] == pytest.approx(
        1000 / told["tokens_per_second"], abs=0.006
    )


@NAMES
def test_an_error_of_the_engine_keeps_its_status_and_hides_its_name(
    client: openai.OpenAI, name: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=name, messages=QUESTION, max_tokens=100_000)
    assert "16384" in str(caught.value)
    assert "chat-served" not in str(caught.value)


def test_an_unknown_model_is_a_404_that_the_sdk_knows(client: openai.OpenAI) -> None:
    for name in ("nobody", "chat-served"):
        with pytest.raises(openai.NotFoundError) as caught:
            client.chat.completions.create(model=name, messages=QUESTION)
        assert caught.value.code == "model_not_found"


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_ends_the_work_of_the_engine(
    router: ServedRouter, chat_engine: VllmEngine, stream: bool
) -> None:
    before = chat_engine.metric("generation_tokens_total")
    long = chat("tiny", max_tokens=16_000, ignore_eos=True, stream=stream)
    with Client(router.address, RESPONSE_WITHIN) as client:
        client.send(build("POST", "/v1/chat/completions", long, key=router.key))
        if stream:
            client.read_until(b"data: ")
        eventually(
            lambda: chat_engine.metric("num_requests_running") == 1,
            "the request to run",
            RESPONSE_WITHIN,
        )
    eventually(
        lambda: chat_engine.metric("num_requests_running") == 0,
        "the engine to be free",
        RESPONSE_WITHIN,
    )
    assert chat_engine.metric("generation_tokens_total") - before < 16_000
