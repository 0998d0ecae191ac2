"""Tokens in records: counted in every answer, however long it is and wherever it says them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from harness import DataPlaneRouter, FakeEngine
from raw_http import chat

Engines = Callable[..., list[FakeEngine]]
Routers = Callable[..., DataPlaneRouter]

MEGABYTE = "x" * 1_000_000
COUNTS = {"prompt_tokens": 24, "total_tokens": 27, "completion_tokens": 3}
NUMBERS = [0.0123456789] * 80_000

LONG: list[tuple[str, dict[str, Any]]] = [
    ("/v1/embeddings", {"input": ["hello"] * 20_000}),
    ("/v1/chat/completions", chat(text=MEGABYTE)),
    ("/v1/completions", {"prompt": MEGABYTE}),
    ("/v1/responses", {"input": MEGABYTE}),
    ("/v1/messages", chat(text=MEGABYTE, max_tokens=9)),
    ("/v1/rerank", {"query": "q", "documents": ["document"] * 20_000}),
    ("/v1/score", {"queries": "q", "documents": ["document"] * 20_000}),
]


def tokens(plane: DataPlaneRouter) -> tuple[int | None, int | None]:
    (record,) = plane.records()
    return record.input_tokens, record.output_tokens


@pytest.mark.parametrize("dialects", [["openai"], ["openai", "anthropic"]], ids=len)
@pytest.mark.parametrize(("path", "body"), LONG, ids=[one[0] for one in LONG])
def test_the_tokens_of_a_response_of_a_megabyte_are_counted(
    fake_engines: Engines,
    router: Routers,
    dialects: list[str],
    path: str,
    body: dict[str, Any],
) -> None:
    plane = router(fake_engines(1), model={"dialects": dialects})
    response = plane.request("POST", path, {**body, "model": "m"})
    assert response.status == 200
    assert len(response.body) > 900_000
    usage = response.json()["usage"]
    output = usage.get("completion_tokens", usage.get("output_tokens"))
    assert (output is None) == (path == "/v1/rerank")
    assert tokens(plane) == (24, output)


@pytest.mark.parametrize("stream_usage", [False, True])
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", chat(stream_options={"include_usage": True})),
        ("/v1/completions", {"prompt": "p", "stream_options": {"include_usage": True}}),
        ("/v1/chat/completions", chat()),
        ("/v1/responses", {"input": "i"}),
        ("/v1/responses", {"input": "i", "instructions": MEGABYTE}),
        ("/v1/messages", chat(max_tokens=9)),
    ],
    ids=["chat", "completions", "chat-unasked", "responses", "responses-long", "messages"],
)
@pytest.mark.parametrize("dialects", [["openai"], ["openai", "anthropic"]], ids=len)
def test_the_tokens_of_every_stream_are_counted(
    fake_engines: Engines,
    router: Routers,
    dialects: list[str],
    stream_usage: bool,
    path: str,
    body: dict[str, Any],
) -> None:
    plane = router(fake_engines(1), model={"dialects": dialects, "stream_usage": stream_usage})
    response = plane.request("POST", path, {**body, "model": "m", "stream": True})
    assert response.status == 200
    silent = "stream_options" not in body and path == "/v1/chat/completions" and not stream_usage
    assert tokens(plane) == ((None, None) if silent else (24, 3))


@pytest.mark.parametrize("pieces", [None, "chunks"])
@pytest.mark.parametrize(
    "members",
    [
        {"usage": COUNTS, "data": NUMBERS},
        {"data": NUMBERS, "usage": COUNTS},
        {"data": NUMBERS, "usage": COUNTS, "prompt_logprobs": NUMBERS},
        {"data": [{"usage": {"prompt_tokens": 9}}] * 5_000, "usage": COUNTS},
        {"usage": COUNTS, "input_messages": [{"usage": {"prompt_tokens": 9}}] * 5_000},
        {"usage": COUNTS, "input_messages": [{"usage": {"prompt_tokens": 9}}]},
    ],
    ids=["first", "last", "between", "behind-others", "before-others", "short"],
)
def test_the_usage_counts_wherever_it_stands_and_at_the_top_level_alone(
    engine: FakeEngine, router: Routers, members: dict[str, Any], pieces: str | None
) -> None:
    plane = router([engine])
    text = json.dumps({"model": "m", **members})
    orders = {"body_text": text, **({"pieces": pieces} if pieces and len(text) < 9_000 else {})}
    response = plane.chat(chat(fake=orders))
    assert (response.status, response.body.decode()) == (200, text)
    assert tokens(plane) == (24, 3)


def test_an_engines_own_zero_is_kept_and_what_it_does_not_say_is_unknown(
    engine: FakeEngine, router: Routers
) -> None:
    plane = router([engine])
    for usage, expected in [
        ({"prompt_tokens": 0, "completion_tokens": 0}, (0, 0)),
        ({"prompt_tokens": 5, "total_tokens": 5}, (5, None)),
        ({"total_tokens": 15}, (15, None)),
        ({}, (None, None)),
        (None, (None, None)),
    ]:
        body_text = json.dumps({"model": "m", "choices": [], "usage": usage})
        assert plane.chat(chat(fake={"body_text": body_text})).status == 200
        assert tokens(plane) == expected, usage
