"""A real vLLM whose engine process is killed in the middle of its responses."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness import ServedRouter
from raw_http import BrokenFraming, Client, Response, build, chat, eventually
from vllm_engine import RESPONSE_WITHIN, VllmEngine, ask, behind_router, running


@pytest.fixture(scope="module")
def victim() -> Iterator[VllmEngine]:
    """An engine of its own, since it does not survive."""
    with running("text") as engine:
        yield engine


@pytest.fixture(scope="module")
def router_of_victim(victim: VllmEngine) -> Iterator[ServedRouter]:
    with behind_router(victim.address, victim.model, "llm") as router:
        yield router


def core_of(engine: VllmEngine) -> int:
    """The process that holds the model; its parent only speaks HTTP."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            name, fields = (folder / "stat").read_text().rsplit(")", 1)
        except OSError:
            continue
        session = int(fields.split()[3])
        if "VLLM::EngineCor" in name and session == engine.process.pid:
            return int(folder.name)
    raise AssertionError("There is no engine process.")


def begin(router: ServedRouter, path: str) -> tuple[Client, Response]:
    """A stream that has begun and would go on for long."""
    client = Client(router.address, RESPONSE_WITHIN)
    fields: dict[str, Any] = {"ignore_eos": True, "temperature": 0, "stream": True}
    fields |= (
        {"max_output_tokens": 16_000, "input": "Hi"}
        if path == "/v1/responses"
        else {"max_tokens": 16_000}
    )
    body = (
        {"model": "tiny", "prompt": "Hi", **fields}
        if path == "/v1/completions"
        else chat("tiny", **fields)
    )
    client.send(build("POST", path, body, key=router.key))
    response = client.read_head()
    response.body = client.read_chunk()
    return client, response


def finish(client: Client, response: Response) -> None:
    """Reads what still comes."""
    try:
        client.read_body(response)
    except BrokenFraming as error:
        response.broken = str(error)
    client.close()


PATHS = ["/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/responses"]


@pytest.fixture(scope="module")
def last_words(victim: VllmEngine, router_of_victim: ServedRouter) -> dict[str, Response]:
    """The ends of each kind of stream whose engine process was killed in the middle."""
    begun = {path: begin(router_of_victim, path) for path in PATHS}
    os.kill(core_of(victim), signal.SIGKILL)
    for client, response in begun.values():
        finish(client, response)
    return {path: response for path, (_, response) in begun.items()}


@pytest.mark.parametrize("path", PATHS[:2])
def test_an_openai_stream_ends_with_an_error_event(
    last_words: dict[str, Response], path: str
) -> None:
    events = last_words[path].events()
    said = [event for event in events if event != "[DONE]"]
    assert json.loads(said[-1])["error"]["message"]
    assert all("error" not in json.loads(event) for event in said[:-1])


def test_a_stream_of_messages_ends_with_an_error_in_anthropics_words(
    last_words: dict[str, Response],
) -> None:
    last = json.loads(last_words["/v1/messages"].events()[-1])
    assert last["type"] == "error"
    assert last["error"]["type"] == "api_error"
    assert "Traceback" not in last["error"]["message"]
    assert b"event: error" in last_words["/v1/messages"].body
    assert b"message_stop" not in last_words["/v1/messages"].body


def test_a_stream_of_a_response_that_the_engine_just_cuts_ends_with_an_error(
    last_words: dict[str, Response],
) -> None:
    response = last_words["/v1/responses"]
    assert b"response.completed" not in response.body
    assert json.loads(response.events()[-1])["error"]["message"]  # what the openai SDK raises on


def test_no_last_word_names_the_engine(victim: VllmEngine, last_words: dict[str, Response]) -> None:
    for response in last_words.values():
        assert victim.model.encode() not in response.body


def test_the_next_request_hears_that_nothing_runs(
    victim: VllmEngine, router_of_victim: ServedRouter, last_words: dict[str, Response]
) -> None:
    assert victim.process.wait(60) == 0  # vLLM says so although it has crashed

    def refused() -> bool:
        return ask(router_of_victim, "POST", "/v1/chat/completions", chat("tiny")).status == 503

    eventually(refused, "the router to see that its only engine is gone", 60)
