"""Errors in streams, in forms that the real SDKs pass over: none becomes a silent success."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import anthropic
import openai
import pytest

from harness import KEY, DataPlaneRouter, FakeEngine
from seam_samples import instance_entry, model_entry, route_entry, table, target_entry

Routers = Callable[..., DataPlaneRouter]

CHUNK = {"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": None}]}
LAST = {"choices": [{"index": 0, "delta": {"content": "LAST"}, "finish_reason": "length"}]}
FORMS = {
    "named": 'event: error\ndata: {"message":"boom","code":500}\n\n',
    "field": 'error: {"code":500,"message":"boom","type":"server_error"}\n\n',
    "text": "event: error\ndata: boom\n\n",
    "nameless": 'data: {"error":{"message":"boom","code":500}}\n\n',
}


@pytest.fixture
def plane(shared_engine: FakeEngine, router: Routers) -> DataPlaneRouter:
    """One engine under two models: `m` speaks chat alone, `native` Messages too."""
    one = router([shared_engine])
    models = [
        model_entry(
            name,
            [instance_entry(f"i-{name}", shared_engine.address)],
            dialects=dialects,
            stream_usage=True,
        )
        for name, dialects in (("m", ["openai"]), ("native", ["openai", "anthropic"]))
    ]
    routes = [route_entry(name, [target_entry(model=name)]) for name in ("m", "native")]
    one.plane.publish(table(models, routes))
    return one


@pytest.fixture
def chat_client(plane: DataPlaneRouter) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{plane.address}/v1", api_key=KEY, max_retries=0) as client:
        yield client


def frame(chunk: Any) -> str:
    return f"data: {json.dumps(chunk)}\n\n"


def ordered(*frames: str, **orders: Any) -> dict[str, str]:
    return {"X-Fake": json.dumps({"raw_frames": list(frames), **orders})}


@pytest.mark.parametrize("form", FORMS)
def test_a_chat_stream_raises(chat_client: openai.OpenAI, form: str) -> None:
    stream = chat_client.chat.completions.create(
        model="m",
        messages=[{"role": "user", "content": "?"}],
        stream=True,
        extra_headers=ordered(frame(CHUNK), FORMS[form], "data: [DONE]\n\n"),
    )
    with pytest.raises(openai.APIError, match="boom") as caught:
        list(stream)
    assert isinstance(caught.value.code, str)


@pytest.mark.parametrize("form", FORMS)
def test_a_stream_of_responses_raises_and_names_both_of_its_events(
    chat_client: openai.OpenAI, plane: DataPlaneRouter, form: str
) -> None:
    created = 'event: response.created\ndata: {"type":"response.created","response":{}}\n\n'
    headers = ordered(created, FORMS[form])
    with pytest.raises(openai.APIError, match="boom"):
        list(chat_client.responses.create(model="m", input="?", stream=True, extra_headers=headers))
    raw = chat_client.responses.with_raw_response.create(
        model="m", input="?", stream=True, extra_headers=headers
    )
    text = raw.http_response.read().decode()
    events = [line[7:] for line in text.splitlines() if line.startswith("event: ")]
    assert events == ["response.created", "error", "response.failed"]


@pytest.mark.parametrize("model", ["m", "native"])
@pytest.mark.parametrize("form", FORMS)
def test_a_stream_of_messages_raises(plane: DataPlaneRouter, form: str, model: str) -> None:
    start = {
        "type": "message_start",
        "message": {
            "id": "a",
            "type": "message",
            "role": "assistant",
            "model": "m",
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {"input_tokens": 1, "output_tokens": 1},
        },
    }
    begin = frame(CHUNK) if model == "m" else f"event: message_start\n{frame(start)}"
    with anthropic.Anthropic(base_url=plane.address, api_key=KEY, max_retries=0) as client:
        with pytest.raises(anthropic.APIStatusError, match="boom"):
            with client.messages.stream(
                model=model,
                max_tokens=9,
                messages=[{"role": "user", "content": "?"}],
                extra_headers=ordered(begin, FORMS[form]),
            ) as stream:
                stream.get_final_message()


@pytest.mark.parametrize("framing", ["chunked", "close"])
def test_what_a_broken_stream_has_said_comes_before_its_error(
    chat_client: openai.OpenAI, framing: str
) -> None:
    """A finished choice waits for the usage that we asked for, and is not lost with it."""
    orders: dict[str, Any] = {"framing": framing}
    if framing == "chunked":
        orders["fault"] = {"how": "close", "at": "at_frame", "after": 2}
    # The fault comes before a frame that is not sent.
    behind = [frame(CHUNK)] if framing == "chunked" else []
    stream = chat_client.chat.completions.create(
        model="m",
        messages=[{"role": "user", "content": "?"}],
        stream=True,
        extra_headers=ordered(frame(CHUNK), frame(LAST), *behind, **orders),
    )
    said: list[str | None] = []
    with pytest.raises(openai.APIError):
        for chunk in stream:
            said.append(chunk.choices[0].delta.content)
    assert said == ["a", "LAST"]


def test_a_translated_stream_that_breaks_behind_its_finish_is_whole(
    plane: DataPlaneRouter,
) -> None:
    fault = {"how": "close", "at": "at_frame", "after": 2}
    with anthropic.Anthropic(base_url=plane.address, api_key=KEY, max_retries=0) as client:
        with client.messages.stream(
            model="m",
            max_tokens=9,
            messages=[{"role": "user", "content": "?"}],
            extra_headers=ordered(frame(CHUNK), frame(LAST), frame(CHUNK), fault=fault),
        ) as stream:
            message = stream.get_final_message()
    assert message.stop_reason == "max_tokens"
    assert message.content[0].to_dict() == {"type": "text", "text": "aLAST"}


def test_a_redirect_of_the_engine_is_said_to_be_one(
    plane: DataPlaneRouter,
) -> None:
    with anthropic.Anthropic(base_url=plane.address, api_key=KEY, max_retries=0) as client:
        with pytest.raises(anthropic.InternalServerError, match=r"redirect .status 301.*urls"):
            client.messages.create(
                model="m",
                max_tokens=9,
                messages=[{"role": "user", "content": "?"}],
                extra_headers={"X-Fake": json.dumps({"status": 301})},
            )
