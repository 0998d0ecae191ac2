"""Real vLLMs that lose a process: what clients hear, and what comes after.

Each engine loses another one, and all at about the same time: so those that follow start side by
side.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from harness import ServedRouter
from raw_http import BrokenFraming, Client, Response, build, chat, eventually
from sound_form import FORM, form
from vllm_engine import RESPONSE_WITHIN, VllmEngine, ask
from vllm_server import VllmServer

CORE = "VLLM::EngineCor"
"""The process that holds the model; its parent only speaks HTTP."""


@dataclasses.dataclass(frozen=True)
class Death:
    """An engine of which one process was killed, or stopped."""

    model: str
    engine: VllmEngine
    processes: frozenset[int]
    """All that it had."""


def send(
    name: str, model: str, engine: VllmEngine, number: signal.Signals = signal.SIGKILL
) -> Death:
    """Sends a signal to one of an engine's processes."""
    processes = engine.processes()
    os.kill(processes[name], number)
    return Death(model, engine, frozenset(processes.values()))


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
def core_died(chat_engine: VllmEngine, router: ServedRouter) -> tuple[Death, dict[str, Response]]:
    """An engine whose core was killed in the middle of each kind of stream, and their ends."""
    begun = {path: begin(router, path) for path in PATHS}
    death = send(CORE, "chat", chat_engine)
    for client, response in begun.values():
        finish(client, response)
    return death, {path: response for path, (_, response) in begun.items()}


@pytest.fixture(scope="module")
def last_words(core_died: tuple[Death, dict[str, Response]]) -> dict[str, Response]:
    return core_died[1]


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
    error, failed = (json.loads(event) for event in response.events()[-2:])
    assert error["type"] == "error"
    assert error["error"]["message"]  # what the openai SDK raises on
    assert failed["type"] == "response.failed"  # what Codex reads
    assert failed["response"]["error"]["message"] == error["message"]


def test_no_last_word_names_the_engine(
    chat_engine: VllmEngine, last_words: dict[str, Response]
) -> None:
    for response in last_words.values():
        assert chat_engine.model.encode() not in response.body


def test_the_next_request_hears_that_nothing_runs(
    server: VllmServer, router: ServedRouter, last_words: dict[str, Response]
) -> None:
    failed = server.wait("chat", lambda now: now.last_failure_at is not None, "its end")
    assert "exit code 0" in failed.last_failure  # vLLM says so although it has crashed

    def refused() -> bool:
        return ask(router, "POST", "/v1/chat/completions", chat("tiny")).status == 503

    eventually(refused, "the router to see that its only engine is gone", 60)


@pytest.fixture(scope="module")
def stopped(
    server: VllmServer, core_died: tuple[Death, object], listener: VllmEngine
) -> tuple[Death, Client]:
    """An engine whose core was stopped, and a client that has sent it something."""
    death = send(CORE, "speech", listener, signal.SIGSTOP)
    client = Client(server.router.address, RESPONSE_WITHIN)
    body = form({"model": listener.model, "language": "en"})
    path = "/v1/audio/transcriptions"
    client.send(build("POST", path, body, key=server.router.key, headers=FORM))
    return death, client


@pytest.fixture(scope="module")
def deaths(
    core_died: tuple[Death, object],
    stopped: tuple[Death, Client],
    embedder: VllmEngine,
    reranker: VllmEngine,
) -> dict[str, Death]:
    """Engines of which a process was killed, by its name."""
    return {
        CORE: core_died[0],
        "leader": send("leader", "text", embedder),
        "VLLM::Worker": send("VLLM::Worker", "reranker", reranker),
    }


def check_replaced(server: VllmServer, death: Death) -> None:
    """Waits until another engine runs, which serves, and with which nobody of the first is left."""
    engine = server.running(death.model, unlike=death.engine.status.name)
    assert engine.status.restart_count > death.engine.status.restart_count
    assert server.answers(death.model)
    assert not [pid for pid in death.processes if Path(f"/proc/{pid}").exists()]


def test_a_core_that_stops_is_found_though_its_health_is_good(
    server: VllmServer, stopped: tuple[Death, Client], deaths: dict[str, Death]
) -> None:
    death, client = stopped
    with client:
        assert client.read_response().status in (500, 502, 503, 504)
    failed = server.wait("speech", lambda now: now.last_failure_at is not None, "a failure")
    assert "not made a step" in failed.last_failure
    check_replaced(server, death)


@pytest.mark.parametrize("name", ["leader", CORE, "VLLM::Worker"])
def test_each_of_its_processes_may_die_and_another_engine_serves(
    server: VllmServer, deaths: dict[str, Death], name: str
) -> None:
    check_replaced(server, deaths[name])


def test_nothing_is_left_of_them_when_the_server_ends(
    server: VllmServer, deaths: dict[str, Death]
) -> None:
    engines = [server.running(model) for model in ("chat", "text", "reranker", "speech")]
    left = [pid for engine in engines for pid in engine.processes().values()]
    assert server.router.stop() == 0
    assert len(left) >= 3 * len(engines)
    assert not [pid for pid in left if Path(f"/proc/{pid}").exists()]
