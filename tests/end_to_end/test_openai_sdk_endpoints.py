"""The real openai SDK drives every endpoint that it has a method for, against a fake engine."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from harness import DataPlaneRouter, FakeEngine

Routers = Callable[..., DataPlaneRouter]

CALLS = [
    {"name": "weather", "arguments": '{"city": "Paris", "days": 3}', "id": "call_w"},
    {"name": "clock", "arguments": '{"zone": "CET"}', "id": "call_c"},
]
SPEECH = {"reasoning": ["Let me ", "think."], "words": ["I will ", "look."], "calls": CALLS}
QUESTION: list[Any] = [{"role": "user", "content": "What is the weather?"}]
WEATHER: Any = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object"}},
}


def ordered(**orders: Any) -> dict[str, str]:
    return {"X-Fake": json.dumps(orders)}


@pytest.fixture
def engine(shared_engine: FakeEngine) -> FakeEngine:
    return shared_engine


@pytest.fixture
def plane(engine: FakeEngine, router: Routers) -> DataPlaneRouter:
    """A router whose engine has its own name for the model, so that every response is spliced."""
    return router([engine], served_name="org/Served-1B", model={"stream_usage": True})


@pytest.fixture
def client(plane: DataPlaneRouter) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{plane.address}/v1", api_key=plane.key, max_retries=0) as one:
        yield one


def run_async(plane: DataPlaneRouter, use: Callable[[openai.AsyncOpenAI], Any]) -> Any:
    async def with_client() -> Any:
        async with openai.AsyncOpenAI(
            base_url=f"{plane.address}/v1", api_key=plane.key, max_retries=0
        ) as one:
            return await use(one)

    return asyncio.run(with_client())


# --- chat and completions ---


def test_models_are_listed_and_shown(client: openai.OpenAI) -> None:
    assert {(model.id, model.owned_by) for model in client.models.list()} == {
        ("m", "gpustack"),
        ("default", "gpustack"),
    }
    assert client.models.retrieve("m").object == "model"


def test_a_chat_with_several_choices_and_logprobs(client: openai.OpenAI) -> None:
    response = client.chat.completions.create(
        model="m", messages=QUESTION, n=2, logprobs=True, top_logprobs=1
    )
    assert [choice.index for choice in response.choices] == [0, 1]
    assert all(choice.logprobs and choice.logprobs.content for choice in response.choices)
    assert response.model == "m"


def test_a_stream_of_several_choices_interleaves_them(client: openai.OpenAI) -> None:
    chunks = list(client.chat.completions.create(model="m", messages=QUESTION, n=3, stream=True))
    assert {chunk.choices[0].index for chunk in chunks} == {0, 1, 2}
    assert {chunk.model for chunk in chunks} == {"m"}


def test_usage_comes_last_and_only_to_those_who_asked(client: openai.OpenAI) -> None:
    silent = list(client.chat.completions.create(model="m", messages=QUESTION, stream=True))
    assert all(chunk.usage is None and chunk.choices for chunk in silent)
    told = list(
        client.chat.completions.create(
            model="m", messages=QUESTION, stream=True, stream_options={"include_usage": True}
        )
    )
    assert told[-1].choices == []
    assert told[-1].usage is not None
    assert told[-1].usage.completion_tokens == 3
    assert all(chunk.usage is None for chunk in told[:-1])


@pytest.mark.parametrize("orders", [{}, {"interleave": True}, {"whole_calls": True}], ids=str)
def test_a_stream_of_parallel_tool_calls_accumulates(
    client: openai.OpenAI, orders: dict[str, Any]
) -> None:
    with client.chat.completions.stream(
        model="m", messages=QUESTION, tools=[WEATHER], extra_headers=ordered(**SPEECH, **orders)
    ) as stream:
        final = stream.get_final_completion()
    message = final.choices[0].message
    assert message.content == "I will look."
    found = [
        (call.id, call.function.name, call.function.arguments) for call in message.tool_calls or []
    ]
    assert found == [(call["id"], call["name"], call["arguments"]) for call in CALLS]
    assert final.choices[0].finish_reason == "tool_calls"


@pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])
def test_reasoning_passes_under_either_name(client: openai.OpenAI, field: str) -> None:
    orders = ordered(reasoning=["Let me ", "think."], words=["Done."], reasoning_field=field)
    whole: Any = client.chat.completions.create(model="m", messages=QUESTION, extra_headers=orders)
    assert whole.choices[0].message.model_dump()[field] == "Let me think."
    chunks: Any = client.chat.completions.create(
        model="m", messages=QUESTION, stream=True, extra_headers=orders
    )
    assert (
        "".join(chunk.choices[0].delta.model_dump().get(field) or "" for chunk in chunks)
        == "Let me think."
    )


def test_a_parsed_response_keeps_its_schema(client: openai.OpenAI, engine: FakeEngine) -> None:
    class Place(BaseModel):
        city: str

    response = client.chat.completions.parse(
        model="m",
        messages=QUESTION,
        response_format=Place,
        extra_headers=ordered(words=['{"city": "Paris"}']),
    )
    assert response.choices[0].message.parsed == Place(city="Paris")
    assert json.loads(engine.last()["text"])["response_format"]["type"] == "json_schema"


def test_an_image_in_a_chat_arrives_whole(client: openai.OpenAI, engine: FakeEngine) -> None:
    url = "data:image/png;base64," + "iVBORw0KGgo" * 500_000
    content = [
        {"type": "text", "text": "What is it?"},
        {"type": "image_url", "image_url": {"url": url}},
    ]
    messages: Any = [{"role": "user", "content": content}]
    response = client.chat.completions.create(
        model="m", messages=messages, extra_headers=ordered(nonce="n")
    )
    assert response.choices[0].message.content == "n"
    assert engine.last()["length"] > len(url)


def test_completions_of_several_prompts(client: openai.OpenAI) -> None:
    whole = client.completions.create(model="m", prompt=["a", "b"], n=2)
    assert [choice.index for choice in whole.choices] == [0, 1, 2, 3]
    chunks = list(client.completions.create(model="m", prompt=["a", "b"], stream=True))
    assert {chunk.choices[0].index for chunk in chunks} == {0, 1}
    assert {chunk.model for chunk in chunks} == {"m"}


def test_the_async_client_streams_chat_and_tool_calls(plane: DataPlaneRouter) -> None:
    async def use(client: openai.AsyncOpenAI) -> Any:
        async with client.chat.completions.stream(
            model="m", messages=QUESTION, extra_headers=ordered(**SPEECH)
        ) as stream:
            return await stream.get_final_completion()

    final = run_async(plane, use)
    assert [call.function.name for call in final.choices[0].message.tool_calls] == [
        "weather",
        "clock",
    ]


# --- responses ---


def test_a_response_whole_streamed_and_continued(client: openai.OpenAI) -> None:
    whole = client.responses.create(model="m", input="hello")
    assert (whole.model, whole.output_text) == ("m", "hello")
    types = []
    with client.responses.stream(model="m", input="?", extra_headers=ordered(**SPEECH)) as stream:
        for event in stream:
            types.append(event.type)
        final = stream.get_final_response()
    assert types[0] == "response.created"
    assert types[-1] == "response.completed"
    assert final.model == "m"
    assert [item.type for item in final.output] == [
        "reasoning",
        "message",
        "function_call",
        "function_call",
    ]
    second = client.responses.create(model="m", input="and?", previous_response_id=final.id)
    assert second.previous_response_id == final.id


def test_the_sequence_numbers_of_a_response_have_no_gap(client: openai.OpenAI) -> None:
    events: Any = client.responses.create(
        model="m", input="?", stream=True, extra_headers=ordered(**SPEECH)
    )
    numbers = [event.sequence_number for event in events]
    assert numbers == list(range(len(numbers)))


def test_the_async_client_streams_a_response(plane: DataPlaneRouter) -> None:
    async def use(client: openai.AsyncOpenAI) -> Any:
        async with client.responses.stream(model="m", input="hello") as stream:
            return await stream.get_final_response()

    assert run_async(plane, use).output_text == "hello" * 3


# --- vectors and judgements ---


def test_embeddings_are_the_same_in_both_encodings(client: openai.OpenAI) -> None:
    as_base64 = client.embeddings.create(model="m", input=["a", "bb"])
    as_floats = client.embeddings.create(model="m", input=["a", "bb"], encoding_format="float")
    assert [one.embedding for one in as_base64.data] == [one.embedding for one in as_floats.data]
    assert as_base64.model == "m"
    tokens = client.embeddings.create(model="m", input=[[1, 2, 3], [4]])
    assert len(tokens.data) == 2


def test_moderations(client: openai.OpenAI) -> None:
    judged = client.moderations.create(model="m", input=["fine", "x"])
    assert [result.flagged for result in judged.results] == [False, True]


# --- images ---


def test_images_are_made_whole(client: openai.OpenAI) -> None:
    made = client.images.generate(
        model="m", prompt="a cat", n=2, extra_headers=ordered(image_bytes=2_000_000)
    )
    assert [len(image.b64_json or "") for image in made.data or []] == [2_666_668] * 2


def test_partial_images_of_megabytes_are_streamed(
    client: openai.OpenAI, engine: FakeEngine
) -> None:
    orders = ordered(image_bytes=2_000_000)
    events: Any = client.images.generate(
        model="m", prompt="a cat", stream=True, partial_images=2, extra_headers=orders
    )
    found = [(event.type, len(event.b64_json)) for event in events]
    partial = ("image_generation.partial_image", 2_666_668)
    assert found == [partial, partial, ("image_generation.completed", 2_666_668)]


@pytest.mark.parametrize("stream", [False, True])
def test_images_are_edited_from_forms(
    client: openai.OpenAI, engine: FakeEngine, stream: bool
) -> None:
    response: Any = client.images.edit(
        model="m", image=[b"one" * 100_000, b"two"], prompt="a dog", stream=stream
    )
    if stream:
        assert [event.type for event in response] == ["image_edit.completed"]
    else:
        assert response.data[0].b64_json
    assert engine.last()["model"] == "org/Served-1B"
    assert engine.last()["length"] > 300_000


def test_variations_of_an_image(plane: DataPlaneRouter, engine: FakeEngine) -> None:
    """The SDK has no method for them any more."""
    body = b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nm\r\n--b--\r\n'
    headers = [("Content-Type", "multipart/form-data; boundary=b")]
    assert plane.request("POST", "/v1/images/variations", body, headers=headers).json()["data"]
    assert engine.last()["model"] == "org/Served-1B"


# --- audio ---


def test_speech_streams_its_bytes(client: openai.OpenAI) -> None:
    expected = b"".join(
        bytes((number + step) % 256 for step in range(1000)) for number in range(20)
    )
    with client.audio.speech.with_streaming_response.create(
        model="m", input="hi", voice="v", response_format="wav", extra_headers=ordered(frames=20)
    ) as response:
        assert response.headers["content-type"] == "audio/wav"
        assert b"".join(response.iter_bytes()) == expected


def test_speech_as_events(plane: DataPlaneRouter) -> None:
    body = {"model": "m", "input": "hi", "voice": "v", "stream_format": "sse"}
    events = plane.request("POST", "/v1/audio/speech", body).events()
    assert [json.loads(event)["type"] for event in events] == ["speech.audio.delta"] * 3 + [
        "speech.audio.done"
    ]


@pytest.mark.parametrize("wanted", ["json", "verbose_json", "text", "srt", "vtt"])
def test_a_transcription_in_every_format(client: openai.OpenAI, wanted: Any) -> None:
    heard: Any = client.audio.transcriptions.create(
        model="m", file=b"RIFF" * 1000, response_format=wanted
    )
    assert "heard 4000 bytes" in (heard if isinstance(heard, str) else heard.text)


def test_a_transcription_is_streamed_as_the_engine_streams_it(client: openai.OpenAI) -> None:
    events: Any = client.audio.transcriptions.create(model="m", file=b"RIFF", stream=True)
    documents = [event.model_dump() for event in events]
    text = "".join(document["choices"][0]["delta"]["content"] for document in documents)
    assert text == "heard 4 bytes "
    assert {document["model"] for document in documents} == {"m"}


@pytest.mark.filterwarnings("ignore:deprecated")
def test_the_async_client_translates_audio(plane: DataPlaneRouter, engine: FakeEngine) -> None:
    async def use(client: openai.AsyncOpenAI) -> Any:
        return await client.audio.translations.create(model="m", file=b"RIFF")

    assert run_async(plane, use).text == "heard 4 bytes"
    assert engine.last()["model"] == "org/Served-1B"
