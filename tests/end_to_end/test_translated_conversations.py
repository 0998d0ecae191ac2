"""A conversation goes on with an engine that speaks chat completions alone, whatever is in it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from harness import DataPlaneRouter, FakeEngine

Routers = Callable[..., DataPlaneRouter]

HEADER = "x-gpustack-untranslated"
PDF = {
    "type": "document",
    "title": "Terms",
    "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0xLjQK"},
}
HISTORY: list[dict[str, Any]] = [
    {"role": "user", "content": "read it"},
    {
        "role": "assistant",
        "content": [
            {"type": "thinking", "thinking": "Two files.", "signature": "s"},
            {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"query": "q"}},
            {"type": "tool_use", "id": "a", "name": "read", "input": {}},
            {"type": "tool_use", "id": "b", "name": "read", "input": {}},
        ],
    },
    {"role": "system", "content": "skills: one, two"},
    {
        "role": "user",
        "content": [
            {"type": "tool_result", "tool_use_id": "b", "content": "second"},
            {"type": "tool_result", "tool_use_id": "a", "content": [PDF]},
        ],
    },
]


@pytest.fixture
def engine(shared_engine: FakeEngine) -> FakeEngine:
    return shared_engine


def message(**fields: Any) -> dict[str, Any]:
    return {"model": "m", "max_tokens": 50.0, "system": "Be kind.", "messages": HISTORY, **fields}


@pytest.mark.parametrize("stream", [False, True])
def test_what_the_engine_does_not_get_is_counted_in_the_answer(
    engine: FakeEngine, router: Routers, stream: bool
) -> None:
    plane = router([engine])
    tools = [{"type": "web_search_20250305", "name": "web_search"}]
    response = plane.request("POST", "/v1/messages", message(stream=stream, tools=tools))
    assert response.status == 200
    assert response.header(HEADER) == "3"
    sent = json.loads(engine.last()["text"])
    assert sent["max_tokens"] == 50 and "tools" not in sent
    plain = message(stream=stream, messages=[{"role": "user", "content": "Hi"}])
    assert plane.request("POST", "/v1/messages", plain).header(HEADER) is None


def test_an_engine_s_error_tells_it_too_and_an_engine_cannot_tell_it_itself(
    engine: FakeEngine, router: Routers
) -> None:
    plane = router([engine])
    orders = json.dumps({"status": 400, "headers": [[HEADER, "9"]]})
    response = plane.request("POST", "/v1/messages", message(), headers=[("X-Fake", orders)])
    assert (response.status, response.all(HEADER)) == (400, ["2"])


@pytest.mark.parametrize(
    ("system_messages", "roles"),
    [
        ("first", ["system", "user", "assistant", "tool", "tool", "user"]),
        ("anywhere", ["system", "user", "assistant", "tool", "tool", "system"]),
        ("none", ["user", "assistant", "tool", "tool", "user"]),
    ],
)
@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
def test_a_model_s_template_gets_the_roles_that_it_takes(
    engine: FakeEngine, router: Routers, system_messages: str, roles: list[str], path: str
) -> None:
    plane = router([engine], model={"system_messages": system_messages})
    assert plane.request("POST", path, message()).status == 200
    sent = json.loads(engine.last()["text"])["messages"]
    assert [one["role"] for one in sent] == roles
    assert [one["content"] for one in sent if one["role"] == "tool"] == [
        "[A PDF document was here; this model cannot read it:\nTerms]",
        "second",
    ]
    assert "skills: one, two" in sent[-1]["content"]
    assert "Be kind." in json.dumps(sent[0])


@pytest.mark.parametrize(
    ("reasoning_names", "names"),
    [("both", ["reasoning", "reasoning_content"]), ("reasoning", ["reasoning"])],
)
def test_thinking_goes_back_under_the_names_that_the_engine_takes(
    engine: FakeEngine, router: Routers, reasoning_names: str, names: list[str]
) -> None:
    plane = router([engine], model={"reasoning_names": reasoning_names})
    assert plane.request("POST", "/v1/messages", message()).status == 200
    assistant = json.loads(engine.last()["text"])["messages"][2]
    found = {name: text for name, text in assistant.items() if name.startswith("reasoning")}
    assert found == dict.fromkeys(names, "Two files.")


def test_what_the_last_turn_hinges_on_is_rejected(engine: FakeEngine, router: Routers) -> None:
    plane = router([engine])
    response = plane.request(
        "POST", "/v1/messages", message(messages=[{"role": "user", "content": [PDF]}])
    )
    assert response.status == 400
    assert "is a PDF or another file" in response.json()["error"]["message"]
    assert engine.inference() == []
