"""The fake engine's payloads have the shapes that the SDKs read from real engines."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import anthropic
import openai
import pytest

import fake_websocket
from harness import FakeEngine
from raw_http import Client, build

CALLS = [
    {"name": "weather", "arguments": '{"city": "Paris", "days": 3}'},
    {"name": "clock", "arguments": '{"zone": "CET"}'},
]
SPEECH = {
    "reasoning": ["Let me ", "think."],
    "words": ["I will ", "look."],
    "calls": CALLS,
    "cached_tokens": 4,
}


@pytest.fixture
def engine(fake_engines: Callable[..., list[FakeEngine]]) -> FakeEngine:
    return fake_engines(1)[0]


@pytest.fixture
def openai_client(engine: FakeEngine) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{engine.address}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
def anthropic_client(engine: FakeEngine) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=engine.address, api_key="none", max_retries=0) as client:
        yield client


def ordered(**orders: Any) -> dict[str, str]:
    return {"X-Fake": json.dumps(orders)}


@pytest.mark.parametrize("interleave", [False, True])
def test_tool_calls_accumulate_whether_interleaved_or_not(
    openai_client: openai.OpenAI, interleave: bool
) -> None:
    with openai_client.chat.completions.stream(
        model="m",
        messages=[{"role": "user", "content": "?"}],
        extra_headers=ordered(**SPEECH, interleave=interleave),
        stream_options={"include_usage": True},
    ) as stream:
        final = stream.get_final_completion()
    message = final.choices[0].message
    assert message.content == "I will look."
    assert [call.function.arguments for call in message.tool_calls or []] == [
        call["arguments"] for call in CALLS
    ]
    assert final.choices[0].finish_reason == "tool_calls"
    assert final.usage is not None and final.usage.prompt_tokens_details is not None
    assert final.usage.prompt_tokens_details.cached_tokens == 4


def test_a_message_is_the_same_streamed_and_not(anthropic_client: anthropic.Anthropic) -> None:
    asked: dict[str, Any] = {
        "model": "m",
        "max_tokens": 9,
        "messages": [{"role": "user", "content": "?"}],
    }
    whole = anthropic_client.messages.create(**asked, extra_headers=ordered(**SPEECH))
    with anthropic_client.messages.stream(**asked, extra_headers=ordered(**SPEECH)) as stream:
        streamed = stream.get_final_message()
    assert [block.to_dict() for block in whole.content] == [
        block.to_dict() for block in streamed.content
    ]
    assert [block.type for block in whole.content] == ["thinking", "text", "tool_use", "tool_use"]
    assert whole.stop_reason == streamed.stop_reason == "tool_use"
    assert whole.usage.input_tokens == streamed.usage.input_tokens == 20


def test_a_response_is_kept_and_continued_and_deleted(openai_client: openai.OpenAI) -> None:
    with openai_client.responses.stream(
        model="m", input="?", extra_headers=ordered(**SPEECH)
    ) as stream:
        first = stream.get_final_response()
    assert [item.type for item in first.output] == [
        "reasoning",
        "message",
        "function_call",
        "function_call",
    ]
    assert openai_client.responses.retrieve(first.id).id == first.id
    second = openai_client.responses.create(model="m", input="and?", previous_response_id=first.id)
    assert second.previous_response_id == first.id and second.output_text == "and?"
    assert next(iter(openai_client.responses.input_items.list(second.id))).type == "message"
    openai_client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        openai_client.responses.retrieve(first.id)
    with pytest.raises(openai.NotFoundError):
        openai_client.responses.create(model="m", input="?", previous_response_id=first.id)


def test_the_media_rows_speak_to_the_sdk(openai_client: openai.OpenAI, engine: FakeEngine) -> None:
    partial = openai_client.images.generate(
        model="m", prompt="a cat", stream=True, partial_images=2
    )
    assert [event.type for event in partial] == ["image_generation.partial_image"] * 2 + [
        "image_generation.completed"
    ]
    edited = openai_client.images.edit(model="m", image=[b"one", b"three"], prompt="a dog")
    assert edited.data is not None and edited.data[0].b64_json
    assert engine.last()["model"] == "m"
    speech = openai_client.audio.speech.create(model="m", input="hi", voice="v")
    assert len(speech.read()) == 3000
    for wanted in ("json", "verbose_json"):
        heard: Any = openai_client.audio.transcriptions.create(
            model="m", file=b"abc", response_format=wanted
        )
        assert heard.text == "heard 3 bytes"
    assert "00:00:01,500" in openai_client.audio.transcriptions.create(
        model="m", file=b"abc", response_format="srt"
    )


def test_vectors_are_the_same_in_both_encodings(openai_client: openai.OpenAI) -> None:
    as_base64 = openai_client.embeddings.create(model="m", input=["a", "bb"])
    as_floats = openai_client.embeddings.create(
        model="m", input=["a", "bb"], encoding_format="float"
    )
    assert [one.embedding for one in as_base64.data] == [one.embedding for one in as_floats.data]


@pytest.mark.parametrize("dialect", ["vllm", "llama_cpp"])
def test_rerank_sorts_in_either_dialect(engine: FakeEngine, dialect: str) -> None:
    body = {
        "model": "m",
        "query": "q",
        "documents": ["a", "xx", "x"],
        "top_n": 2,
        "fake": {"rerank": dialect},
    }
    with Client(engine.address) as client:
        document = client.request("POST", "/v1/rerank", body).json()
    assert [result["index"] for result in document["results"]] == [1, 2]
    assert ("document" in document["results"][0]) == (dialect == "vllm")


def test_rerank_like_tei_is_a_bare_array(engine: FakeEngine) -> None:
    with Client(engine.address) as client:
        document = client.request("POST", "/rerank", {"query": "q", "texts": ["a", "xx"]}).json()
        refused = client.request(
            "POST", "/rerank", {"query": "q", "documents": [], "fake": {"rerank": "tei"}}
        )
    assert document == [{"index": 1, "score": 1.5}, {"index": 0, "score": -0.5}]
    assert refused.status == 422


def test_usage_comes_only_when_asked_for(engine: FakeEngine) -> None:
    asked = {"model": "m", "prompt": "p", "stream": True}
    with Client(engine.address) as client:
        plain = client.request("POST", "/v1/completions", asked).events()
        told = client.request(
            "POST", "/v1/completions", {**asked, "stream_options": {"include_usage": True}}
        ).events()
    assert not any("usage" in event for event in plain)
    assert (
        json.loads(told[-2])["choices"] == []
        and json.loads(told[-2])["usage"]["completion_tokens"] == 3
    )


def test_it_cuts_its_payload_where_it_is_told_to(engine: FakeEngine) -> None:
    frames = ["data: {}\n\n", "data: \udcff\n\n"]
    body = {"model": "m", "stream": True, "fake": {"raw_frames": frames, "cuts": [3, 4, 11]}}
    with Client(engine.address) as client:
        response = client.request("POST", "/v1/chat/completions", body)
    assert [len(chunk) for chunk in response.chunks] == [3, 1, 7, 8]
    assert response.body == b"data: {}\n\ndata: \xff\n\n"


def test_it_counts_calls_of_administrative_paths(engine: FakeEngine) -> None:
    with Client(engine.address) as client:
        client.request("POST", "/collective%5Frpc", {})
        client.request("POST", "/sleep?level=1")
    assert engine.state()["administrative"] == 2


def test_it_echoes_what_it_does_not_know(engine: FakeEngine) -> None:
    with Client(engine.address) as client:
        document = client.request(
            "PATCH", "/any%2Fthing?x=%20", b"\x00\x01", headers=[("X-One", "1")]
        ).json()
    assert (
        document["method"] == "PATCH"
        and document["target"] == "/any%2Fthing?x=%20"
        and document["length"] == 2
    )
    assert ["X-One", "1"] in document["headers"]


@pytest.mark.parametrize("length", [0, 1, 125, 126, 65535, 65536, 200_000])
def test_it_echoes_websocket_messages(engine: FakeEngine, length: int) -> None:
    wanted = [
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ]
    payload = bytes(step % 256 for step in range(length))
    with Client(engine.address) as client:
        client.send(
            build(
                "GET",
                "/v1/realtime?model=m",
                headers=[*wanted, ("X-Fake", '{"greeting": "hello"}')],
            )
        )
        head = client.read_head()
        assert (
            head.status == 101
            and head.header("sec-websocket-accept") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        )
        client.send(fake_websocket.frame(fake_websocket.BINARY, payload, masked=True))
        client.send(fake_websocket.frame(fake_websocket.CLOSE, b"", masked=True))
        buffer = bytearray(client.read_to_the_end())
    assert fake_websocket.take_frame(buffer) == (fake_websocket.TEXT, b"hello")
    assert fake_websocket.take_frame(buffer) == (fake_websocket.BINARY, payload)
    assert fake_websocket.take_frame(buffer) == (fake_websocket.CLOSE, b"")
    assert engine.journal()[-1]["messages"] == 1
