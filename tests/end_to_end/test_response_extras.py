"""Additions to responses: where the time went, and that a silent stream is alive."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from harness import DataPlaneRouter, FakeEngine
from raw_http import Response, build, chat

Routers = Callable[..., DataPlaneRouter]

PHASES = ["auth", "route", "queue", "connect", "engine", "gateway"]


@pytest.fixture
def engine(shared_engine: FakeEngine) -> FakeEngine:
    return shared_engine


def timings(text: str) -> dict[str, float]:
    """The metrics of a Server-Timing value; what does not have its shape fails."""
    found = {}
    for part in text.split(", "):
        match = re.fullmatch(r"([a-z]+);dur=(\d+(?:\.\d+)?)", part)
        assert match, part
        found[match[1]] = float(match[2])
    return found


def told(response: Response) -> dict[str, float]:
    header = response.header("server-timing")
    assert header
    return timings(header)


@pytest.mark.parametrize("stream", [False, True])
def test_every_response_says_where_its_time_went(
    engine: FakeEngine, router: Routers, stream: bool
) -> None:
    plane = router([engine])
    response = plane.chat(
        chat(stream=stream, fake={"fault": {"how": "stall", "at": "before_head", "seconds": 0.5}})
    )
    assert response.status == 200
    found = told(response)
    assert list(found) == PHASES
    assert found["engine"] >= 490
    assert found["gateway"] < found["engine"]


def test_rejections_have_it_too(engine: FakeEngine, router: Routers) -> None:
    plane = router([engine])
    for response in (
        plane.chat(chat(), key=None),
        plane.chat(chat("nope")),
        plane.chat(b"no JSON"),
    ):
        assert response.status >= 400
        assert "gateway" in told(response)
        assert "engine" not in told(response)


def test_an_engines_own_server_timing_does_not_mix_with_ours(
    engine: FakeEngine, router: Routers
) -> None:
    plane = router([engine])
    response = plane.chat(chat(fake={"headers": [["server-timing", "prefill;dur=12"]]}))
    values = response.header("server-timing") or ""
    assert "prefill" not in values
    assert "gateway;dur=" in values


def test_it_can_be_turned_off(engine: FakeEngine, router: Routers) -> None:
    plane = router([engine], server_timing=False)
    assert plane.chat(chat()).header("server-timing") is None


@pytest.mark.parametrize("on", [False, True])
def test_a_stream_may_end_with_it_in_a_comment(
    engine: FakeEngine, router: Routers, on: bool
) -> None:
    plane = router([engine], server_timing_in_streams=on)
    response = plane.chat(chat(stream=True))
    assert response.broken is None
    assert response.events()[-1] == "[DONE]"
    assert (b"\n: server-timing " in response.body) is on
    stream, _, comment = response.body.partition(b": server-timing ")
    assert hashlib.sha256(stream).hexdigest() == engine.last()["sent_sha256"]
    if on:
        assert comment.endswith(b"\n\n")
        assert set(timings(comment.decode().strip())) >= {"engine", "gateway"}


# --- keep-alive ---

SILENT_QUEUE = {"fault": {"how": "stall", "at": "before_head"}}
SILENT_PREFILL = {"fault": {"how": "stall", "at": "after_head"}}
SILENT_LATER = {"fault": {"how": "stall", "at": "at_frame", "after": 2}}


def comments(stream: bytes) -> int:
    return sum(frame.startswith(b":") for frame in stream.split(b"\n\n")[:-1])


@pytest.mark.parametrize(
    "orders",
    [SILENT_QUEUE, SILENT_PREFILL, SILENT_LATER],
    ids=["before the head", "in prefill", "mid-stream"],
)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/responses"])
def test_a_silent_stream_gets_comments(
    engine: FakeEngine, router: Routers, path: str, orders: dict[str, Any]
) -> None:
    plane = router([engine], model={"dialects": ["openai", "anthropic"]}, sse_keep_alive=0.1)
    body = {**chat(stream=True), "max_tokens": 5, "input": "x", "fake": orders}
    with plane.client() as client:
        client.send(build("POST", path, body, key=plane.key))
        response = client.read_head()
        assert response.status == 200
        begin = b""
        while comments(begin) < 3:
            begin += client.read_chunk()
        engine.go_on()
        client.read_body(response)
    frames = (begin + response.body).split(b"\n\n")
    rest = b"".join(frame + b"\n\n" for frame in frames[:-1] if not frame.startswith(b":"))
    assert hashlib.sha256(rest).hexdigest() == engine.last()["sent_sha256"]


def test_it_is_off_by_default(engine: FakeEngine, router: Routers) -> None:
    plane = router([engine])
    fault = {**SILENT_LATER["fault"], "seconds": 0.5}
    response = plane.chat(chat(stream=True, fake={"fault": fault}))
    assert hashlib.sha256(response.body).hexdigest() == engine.last()["sent_sha256"]


def test_no_comment_falls_inside_a_frame(engine: FakeEngine, router: Routers) -> None:
    plane = router([engine], sse_keep_alive=0.05)
    for place in ("inside_frame", "inside_chunk"):
        fault = {"how": "stall", "at": place, "after": 2, "seconds": 0.4}
        response = plane.chat(chat(stream=True, fake={"fault": fault}))
        assert response.broken is None
        documents = [json.loads(event) for event in response.events()[:-1]]
        assert len(documents) == 4


def test_a_whole_response_gets_none(engine: FakeEngine, router: Routers) -> None:
    plane = router([engine], sse_keep_alive=0.05)
    fault = {"how": "stall", "at": "inside_frame", "after": 0, "seconds": 0.3}
    response = plane.chat(chat(fake={"fault": fault, "framing": "chunked"}))
    assert response.json()["choices"]
