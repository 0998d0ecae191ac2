"""`repair`: what a model asks to be repaired in conversations that its engine takes natively."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from harness import DataPlaneRouter, FakeEngine

Routers = Callable[..., DataPlaneRouter]

ALL = ["tool_ids", "system_first", "result_order"]


@pytest.fixture
def engine(shared_engine: FakeEngine) -> FakeEngine:
    return shared_engine


def call(id: str) -> dict[str, Any]:
    return {"id": id, "type": "function", "function": {"name": "look", "arguments": "{}"}}


def result(id: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": id, "content": f"of {id}"}


def asked(history: list[dict[str, Any]], **fields: Any) -> dict[str, Any]:
    """A request whose answer has one call, `call_0`, as in every turn of such an engine."""
    messages = [{"role": "user", "content": "Look."}, *history]
    orders = {"calls": [{"id": "call_0", "name": "look", "arguments": "{}"}]}
    return {"messages": messages, "temperature": 0.50, "fake": orders, **fields, "model": "m"}


def id_of(response: Any, stream: bool) -> str:
    """The id of the only call in a response."""
    if not stream:
        return str(response.json()["choices"][0]["message"]["tool_calls"][0]["id"])
    frames = [
        line[6:] for line in response.body.decode().splitlines() if line.startswith("data: {")
    ]
    deltas = [choice["delta"] for frame in frames for choice in json.loads(frame)["choices"]]
    fragments = [one for delta in deltas for one in delta.get("tool_calls") or []]
    (id,) = {one["id"] for one in fragments if one.get("id")}
    return str(id)


@pytest.mark.parametrize("stream", [False, True])
def test_ids_of_calls_are_unique_and_the_engine_gets_its_own_back(
    engine: FakeEngine, router: Routers, stream: bool
) -> None:
    plane = router([engine], served_name="the engine's", model={"repair": ALL})
    first = id_of(plane.chat(asked([], stream=stream)), stream)
    history = [{"role": "assistant", "content": None, "tool_calls": [call(first)]}, result(first)]
    second = id_of(plane.chat(asked(history, stream=stream)), stream)
    assert len({first, second, "call_0"}) == 3
    sent = json.loads(engine.last()["text"])
    assert [one["tool_call_id"] for one in sent["messages"] if one["role"] == "tool"] == ["call_0"]
    assert sent["messages"][1]["tool_calls"][0]["id"] == "call_0"
    assert sent["model"] == "the engine's" and '"temperature": 0.5' in engine.last()["text"]


@pytest.mark.parametrize("fields", [{}, {"stream": True}])
def test_what_a_strict_template_refuses_is_put_right(
    engine: FakeEngine, router: Routers, fields: dict[str, Any]
) -> None:
    plane = router([engine], model={"repair": ALL})
    history: list[dict[str, Any]] = [
        {"role": "assistant", "content": None, "tool_calls": [call("ax"), call("bx")]},
        {"role": "system", "content": "Be brief."},
        result("bx"),
        result("ax"),
    ]
    assert plane.chat(asked(history, **fields)).status == 200
    sent = json.loads(engine.last()["text"])["messages"]
    assert [one["role"] for one in sent] == ["user", "assistant", "tool", "tool", "user"]
    assert [one["content"] for one in sent[2:]] == ["of ax", "of bx", "Be brief."]


@pytest.mark.parametrize("stream", [False, True])
def test_without_repair_all_passes_as_it_is(
    engine: FakeEngine, router: Routers, stream: bool
) -> None:
    plane = router([engine])
    history = [{"role": "system", "content": "Be brief."}]
    assert id_of(plane.chat(asked(history, stream=stream)), stream) == "call_0"
    sent = json.loads(engine.last()["text"])["messages"]
    assert [one["role"] for one in sent] == ["user", "system"]


@pytest.mark.parametrize("asks", [{"stream_options": {"include_usage": True}}, {}])
def test_a_streams_usage_is_asked_for_and_hidden_beside_a_repair(
    engine: FakeEngine, router: Routers, asks: dict[str, Any]
) -> None:
    plane = router([engine], model={"repair": ALL, "stream_usage": True})
    history = [{"role": "assistant", "content": "a"}, {"role": "system", "content": "b"}]
    response = plane.chat(asked(history, stream=True, **asks))
    assert json.loads(engine.last()["text"])["stream_options"]["include_usage"] is True
    assert ("prompt_tokens" in response.body.decode()) == bool(asks)


def test_messages_are_translated_for_a_model_with_a_repair(
    engine: FakeEngine, router: Routers
) -> None:
    plane = router([engine], model={"repair": ["tool_ids"], "dialects": ["openai", "anthropic"]})
    message = {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "Hi"}]}
    assert plane.request("POST", "/v1/messages", message).status == 200
    assert engine.last()["target"] == "/v1/chat/completions"


def test_a_body_that_is_no_conversation_passes_as_it_is(
    engine: FakeEngine, router: Routers
) -> None:
    plane = router([engine], model={"repair": ALL})
    for body in ('{"model": "m", "prompt":  "x"}', '{"model":"m","messages":[1, {"role":7}]}'):
        plane.request("POST", "/v1/completions", body.encode())
        assert engine.last()["text"] == body
