"""The real anthropic SDK: a message means the same from engines of two dialects.

They speak Anthropic's Messages, or chat completions alone. Errors reach the SDK's error classes.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import anthropic
import pytest

from harness import DataPlaneRouter, FakeEngine

Routers = Callable[..., DataPlaneRouter]

CALLS = [
    {"name": "weather", "arguments": '{"city": "Paris", "days": 3, "exact": 1.10}', "id": "call_w"},
    {"name": "clock", "arguments": '{"zone": "CET"}', "id": "call_c"},
    {"name": "nothing", "arguments": "", "id": "call_n"},
]
SPEECHES: dict[str, dict[str, Any]] = {
    "text": {"words": ["Hello ", "you", " 日本 \U0001f600"]},
    "empty": {"words": []},
    "cut off": {"words": ["Hello "], "reason": "length"},
    "stop string": {"words": ["Hello "], "stop": "END"},
    "refusal": {"words": ["No."], "reason": "content_filter"},
    "thinking": {"reasoning": ["Let me ", "think."], "words": ["Done."]},
    "one tool": {"calls": CALLS[:1]},
    "text and a tool": {"words": ["I will look."], "calls": CALLS[:1]},
    "parallel tools": {"calls": CALLS},
    "everything": {
        "reasoning": ["Hm."],
        "words": ["I will ", "look."],
        "calls": CALLS,
        "cached_tokens": 7,
    },
}
HOW: dict[str, dict[str, Any]] = {
    "plain": {},
    "interleaved": {"interleave": True},
    "whole calls": {"whole_calls": True},
    "reasoning_content": {"reasoning_field": "reasoning_content"},
    "single bytes": {"pieces": "bytes"},
    "crlf and comments": {"line_end": "\r\n", "comments": True},
}
TOOL: Any = {
    "name": "weather",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}
ASKED: dict[str, Any] = {
    "max_tokens": 99,
    "messages": [{"role": "user", "content": "?"}],
    "tools": [TOOL],
}


def ordered(**orders: Any) -> dict[str, str]:
    return {"X-Fake": json.dumps(orders)}


@pytest.fixture
def engine(shared_engine: FakeEngine) -> FakeEngine:
    return shared_engine


@pytest.fixture
def plane(engine: FakeEngine, router: Routers) -> DataPlaneRouter:
    """One engine under two models: `m` is translated, `native` is not."""
    from seam_samples import instance_entry, model_entry, route_entry, table, target_entry

    one = router([engine])
    models = []
    for name, dialects in (("m", ["openai"]), ("native", ["openai", "anthropic"])):
        instance = instance_entry(f"i-{name}", engine.address)
        entry = model_entry(
            name, [instance], served_name="org/Served-1B", dialects=dialects, stream_usage=True
        )
        models.append(entry)
    routes = [
        route_entry(name=name, created=1, targets=[target_entry(model=name)])
        for name in ("m", "native")
    ]
    one.plane.publish(table(models, routes))
    return one


@pytest.fixture
def client(plane: DataPlaneRouter) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=plane.address, api_key=plane.key, max_retries=0) as one:
        yield one


both_models = pytest.mark.parametrize("model", ["m", "native"])


def meaning(message: Any) -> dict[str, Any]:
    """A message without what may differ: id, signatures of its thinking, unset fields."""
    document: dict[str, Any] = message.to_dict()
    for name in ("id", "model", "stop_details"):
        document.pop(name, None)
    for block in document["content"]:
        block.pop("signature", None)
    usage = document.pop("usage")
    document["tokens"] = (
        usage["input_tokens"],
        usage["output_tokens"],
        usage.get("cache_read_input_tokens") or 0,
    )
    document["stop_sequence"] = document.get("stop_sequence")
    return document


def streamed(client: anthropic.Anthropic, model: str, orders: dict[str, Any]) -> Any:
    with client.messages.stream(model=model, **ASKED, extra_headers=ordered(**orders)) as stream:
        events = [event.type for event in stream]
        message = stream.get_final_message()
    assert events[0] == "message_start"
    assert events[-1] == "message_stop"
    assert message.model == model
    return message


@pytest.mark.parametrize("how", HOW.values(), ids=HOW.keys())
@pytest.mark.parametrize("speech", SPEECHES.values(), ids=SPEECHES.keys())
def test_a_translated_stream_accumulates_the_message_of_a_native_one(
    client: anthropic.Anthropic, speech: dict[str, Any], how: dict[str, Any]
) -> None:
    native = streamed(client, "native", speech)
    translated = streamed(client, "m", {**speech, **how})
    assert meaning(translated) == meaning(native)


@pytest.mark.parametrize("speech", SPEECHES.values(), ids=SPEECHES.keys())
def test_a_translated_message_is_the_message_of_a_native_one(
    client: anthropic.Anthropic, speech: dict[str, Any]
) -> None:
    native = client.messages.create(model="native", **ASKED, extra_headers=ordered(**speech))
    translated = client.messages.create(model="m", **ASKED, extra_headers=ordered(**speech))
    assert meaning(translated) == meaning(native)
    assert translated.model == "m"
    assert meaning(streamed(client, "m", speech)) == meaning(translated)


def test_a_conversation_with_tools_goes_out_as_a_chat(
    client: anthropic.Anthropic, engine: FakeEngine
) -> None:
    use: Any = [
        {"type": "thinking", "thinking": "Hm.", "signature": "s"},
        {"type": "text", "text": "I look."},
        {
            "type": "tool_use",
            "id": "t1",
            "name": "weather",
            "input": {"city": "Paris", "exact": 1.5},
        },
        {"type": "tool_use", "id": "t2", "name": "weather", "input": {}},
    ]
    results: Any = [
        {"type": "tool_result", "tool_use_id": "t1", "content": "rain"},
        {"type": "tool_result", "tool_use_id": "t2", "content": [{"type": "text", "text": "sun"}]},
        {"type": "text", "text": "So?"},
    ]
    image: Any = {
        "type": "image",
        "source": {"type": "base64", "media_type": "image/png", "data": "aGVsbG8="},
    }
    client.messages.create(
        model="m",
        max_tokens=50,
        system=[
            {"type": "text", "text": "Be ", "cache_control": {"type": "ephemeral"}},
            {"type": "text", "text": "kind."},
        ],
        messages=[
            {"role": "user", "content": [{"type": "text", "text": "See:"}, image]},
            {"role": "assistant", "content": use},
            {"role": "user", "content": results},
        ],
        tools=[TOOL],
        tool_choice={"type": "tool", "name": "weather", "disable_parallel_tool_use": True},
        stop_sequences=["END"],
        metadata={"user_id": "u-1"},
    )
    entry = engine.last()
    assert entry["target"] == "/v1/chat/completions"
    sent = json.loads(entry["text"])
    assert sent["model"] == "org/Served-1B"
    assert sent["stop"] == ["END"]
    assert sent["user"] == "u-1"
    assert sent["parallel_tool_calls"] is False
    assert sent["tool_choice"] == {"type": "function", "function": {"name": "weather"}}
    assert sent["tools"][0]["function"]["parameters"] == TOOL["input_schema"]
    assert [message["role"] for message in sent["messages"]] == [
        "system",
        "user",
        "assistant",
        "tool",
        "tool",
        "user",
    ]
    system, user, assistant, first, second, _ = sent["messages"]
    assert "Be " in json.dumps(system["content"]) and "kind." in json.dumps(system["content"])
    assert user["content"][1]["image_url"]["url"] == "data:image/png;base64,aGVsbG8="
    assert [json.loads(call["function"]["arguments"]) for call in assistant["tool_calls"]] == [
        {"city": "Paris", "exact": 1.5},
        {},
    ]
    assert [(tool["tool_call_id"], tool["content"]) for tool in (first, second)] == [
        ("t1", "rain"),
        ("t2", "sun"),
    ]
    assert "cache_control" not in entry["text"]


def test_a_native_request_goes_out_byte_for_byte(
    client: anthropic.Anthropic, engine: FakeEngine, plane: DataPlaneRouter
) -> None:
    client.messages.create(
        model="native", **ASKED, extra_body={"unknown": [1, 2], "temperature": 0.5}
    )
    entry = engine.last()
    assert entry["target"] == "/v1/messages"
    assert json.loads(entry["text"])["unknown"] == [1, 2]
    assert "anthropic-version" in {name.lower() for name, _ in entry["headers"]}


@both_models
def test_tokens_are_counted(client: anthropic.Anthropic, engine: FakeEngine, model: str) -> None:
    counted = client.messages.count_tokens(
        model=model, messages=ASKED["messages"], system="Be kind.", tools=[TOOL]
    )
    assert counted.input_tokens == 24
    entry = engine.last()
    if model == "native":
        assert entry["target"] == "/v1/messages/count_tokens"
    else:
        # No engine that speaks chat completions alone tells its count otherwise.
        assert entry["target"] == "/v1/chat/completions"
        assert json.loads(entry["text"])["max_tokens"] == 1


@both_models
def test_the_async_client_streams(plane: DataPlaneRouter, model: str) -> None:
    async def use() -> str:
        async with (
            anthropic.AsyncAnthropic(
                base_url=plane.address, api_key=plane.key, max_retries=0
            ) as client,
            client.messages.stream(
                model=model, **ASKED, extra_headers=ordered(words=["Hel", "lo"])
            ) as stream,
        ):
            return "".join([text async for text in stream.text_stream])

    assert asyncio.run(use()) == "Hello"


def test_an_older_client_sends_its_key_otherwise(
    plane: DataPlaneRouter, engine: FakeEngine
) -> None:
    body = {"model": "native", **ASKED}
    headers = [
        ("x-api-key", plane.key),
        ("anthropic-version", "2023-06-01"),
        ("anthropic-beta", "tools-2024-04-04"),
    ]
    response = plane.request("POST", "/v1/messages?beta=true", body, key=None, headers=headers)
    assert response.status == 200
    assert response.header("request-id")
    names = {name.lower() for name, _ in engine.last()["headers"]}
    assert "x-api-key" not in names
    assert {"anthropic-version", "anthropic-beta"} <= names


# --- errors ---

CLASSES: list[tuple[int, type[anthropic.APIStatusError], str]] = [
    (400, anthropic.BadRequestError, "invalid_request_error"),
    (404, anthropic.NotFoundError, "not_found_error"),
    (413, anthropic.APIStatusError, "request_too_large"),
    (429, anthropic.RateLimitError, "rate_limit_error"),
    (500, anthropic.InternalServerError, "api_error"),
    (503, anthropic.InternalServerError, "overloaded_error"),
]


@both_models
@pytest.mark.parametrize(("status", "error", "type_"), CLASSES, ids=lambda value: str(value))
@pytest.mark.parametrize("stream", [False, True])
def test_an_engines_error_speaks_anthropics_vocabulary(
    client: anthropic.Anthropic, model: str, status: int, error: Any, type_: str, stream: bool
) -> None:
    with pytest.raises(error) as caught:
        client.messages.create(
            model=model,
            **ASKED,
            stream=stream,
            extra_headers=ordered(status=status, error="The queue is full."),
        )
    assert caught.value.status_code == status
    body: Any = caught.value.body
    assert body["type"] == "error"
    assert body["error"]["type"] == type_
    assert "The queue is full." in body["error"]["message"]
    assert caught.value.request_id


@both_models
@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_stream_whose_engine_dies_raises(
    client: anthropic.Anthropic, model: str, how: str
) -> None:
    fault = {"how": how, "at": "at_frame", "after": 4}
    with pytest.raises(anthropic.APIStatusError) as caught:
        with client.messages.stream(
            model=model, **ASKED, extra_headers=ordered(words=["a", "b", "c", "d"], fault=fault)
        ) as stream:
            stream.get_final_message()
    body: Any = caught.value.body
    assert body["error"]["type"] in ("api_error", "overloaded_error")


def test_an_error_inside_a_chat_stream_becomes_an_error_event(client: anthropic.Anthropic) -> None:
    chunk = {"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": None}]}
    error = {
        "error": {
            "message": "EngineCore encountered an issue.",
            "type": "InternalServerError",
            "code": 500,
        }
    }
    frames = [
        f"data: {json.dumps(chunk)}\n\n",
        f"data: {json.dumps(error)}\n\n",
        "data: [DONE]\n\n",
    ]
    with pytest.raises(anthropic.APIStatusError) as caught:
        with client.messages.stream(
            model="m", **ASKED, extra_headers=ordered(raw_frames=frames)
        ) as stream:
            stream.get_final_message()
    assert "EngineCore encountered an issue." in str(caught.value.body)


def test_a_chat_stream_that_ends_without_a_reason_is_no_whole_message(
    client: anthropic.Anthropic,
) -> None:
    chunk = {"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": None}]}
    with pytest.raises(anthropic.APIStatusError):
        with client.messages.stream(
            model="m", **ASKED, extra_headers=ordered(raw_frames=[f"data: {json.dumps(chunk)}\n\n"])
        ) as stream:
            stream.get_final_message()


@both_models
def test_a_rejected_request_has_its_class(
    client: anthropic.Anthropic, plane: DataPlaneRouter, model: str
) -> None:
    with pytest.raises(anthropic.NotFoundError):
        client.messages.create(model="nope", **ASKED)
    with anthropic.Anthropic(base_url=plane.address, api_key="wrong", max_retries=0) as stranger:
        with pytest.raises(anthropic.AuthenticationError):
            stranger.messages.create(model=model, **ASKED)


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"messages": "hello"}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "hologram"}]}]}, "hologram"),
        ({"tool_choice": {"type": "perhaps"}}, "tool_choice"),
    ],
)
def test_what_cannot_be_translated_is_rejected_and_named(
    plane: DataPlaneRouter, engine: FakeEngine, fields: dict[str, Any], word: str
) -> None:
    body = {
        name: value
        for name, value in {"model": "m", **ASKED, **fields}.items()
        if value is not None
    }
    response = plane.request("POST", "/v1/messages", body)
    assert response.status == 400, response.body
    assert response.json()["error"]["type"] == "invalid_request_error"
    assert word in response.json()["error"]["message"]
    assert engine.inference() == []
