"""The engine's bytes against the client's: nothing but the model's name differs.

A tap between the router and the engine keeps what the engine sent. Asking the engine once more
would not do: ids and times differ, and vLLM puts one or several tokens in a frame as it comes.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness import ServedRouter
from raw_http import Response
from sound_form import FORM, form
from vllm_engine import VllmEngine, ask, behind_router, without_timings, without_usage_frame

HELLO = [{"role": "user", "content": "Hello"}]
LOOK = {
    "type": "function",
    "function": {
        "name": "look",
        "parameters": {"type": "object", "additionalProperties": False},
        "strict": True,
    },
}


class Tap:
    """Passes bytes of a Unix socket on to an engine and back, and keeps those that come back."""

    def __init__(self, folder: Path, engine: VllmEngine) -> None:
        self.engine = engine
        self.address = f"unix:{folder / 'tap.sock'}"
        self.responses: list[bytearray] = []
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(folder / "tap.sock"))
        self.listener.listen()
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        with contextlib.suppress(OSError):  # the listener is closed at the end
            while True:
                near, _ = self.listener.accept()
                far = socket.socket(socket.AF_UNIX)
                far.connect(self.engine.address.removeprefix("unix:"))
                responses = bytearray()
                self.responses.append(responses)
                threading.Thread(target=pump, args=(near, far, bytearray()), daemon=True).start()
                threading.Thread(target=pump, args=(far, near, responses), daemon=True).start()

    def body_with(self, mark: bytes) -> bytes:
        """The body of the one response that has these bytes in it."""
        [data] = [bytes(responses) for responses in self.responses if mark in responses]
        head, _, rest = data[data.rindex(b"HTTP/1.1 ", 0, data.index(mark)) :].partition(
            b"\r\n\r\n"
        )
        length = re.search(rb"content-length: (\d+)", head)
        if length:
            return rest[: int(length[1])]
        body = b""
        while (size := int(rest.partition(b"\r\n")[0], 16)) > 0:
            start = rest.index(b"\r\n") + 2
            body += rest[start : start + size]
            rest = rest[start + size + 2 :]
        return body

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


def pump(source: socket.socket, sink: socket.socket, kept: bytearray) -> None:
    """Passes bytes on until one side ends; then both do."""
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            kept += data
            sink.sendall(data)
    for one in (source, sink):
        with contextlib.suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
    source.close()  # the other direction closes the sink


@contextlib.contextmanager
def tapped(engine: VllmEngine, category: str) -> Iterator[tuple[ServedRouter, Tap]]:
    """The product in front of a tap in front of an engine."""
    with tempfile.TemporaryDirectory(prefix="gpf-", dir="/tmp") as folder:
        with contextlib.closing(Tap(Path(folder), engine)) as tap:
            with behind_router(engine, category, address=tap.address) as router:
                yield router, tap


Tapped = tuple[ServedRouter, Tap]


@pytest.fixture(scope="module")
def chats(chat_engine: VllmEngine) -> Iterator[Tapped]:
    with tapped(chat_engine, "llm") as both:
        yield both


@pytest.fixture(scope="module")
def embeds(embedder: VllmEngine) -> Iterator[Tapped]:
    with tapped(embedder, "embedding") as both:
        yield both


@pytest.fixture(scope="module")
def scores(reranker: VllmEngine) -> Iterator[Tapped]:
    with tapped(reranker, "reranker") as both:
        yield both


@pytest.fixture(scope="module")
def listens(listener: VllmEngine) -> Iterator[Tapped]:
    with tapped(listener, "speech_to_text") as both:
        yield both


def compare(
    both: Tapped, response: Response, name: str, edit: Callable[[bytes], bytes] = bytes
) -> None:
    """Fails unless the response is the engine's, with `name` as the model's and this `edit`."""
    _, tap = both
    assert response.status == 200, response.body
    found = re.search(rb'"id":"([^"]+)"', response.body)
    mark = found[1] if found else response.body[-40:]
    sent = tap.body_with(mark)
    renamed = sent.replace(json.dumps(tap.engine.model).encode(), json.dumps(name).encode())
    assert response.body == edit(renamed)
    assert tap.engine.model.encode() not in response.body


GENERATED = [
    ("/v1/chat/completions", {"messages": HELLO, "max_tokens": 64, "logprobs": True}),
    ("/v1/chat/completions", {"messages": HELLO, "max_tokens": 64, "n": 2}),
    (
        "/v1/chat/completions",
        {"messages": HELLO, "max_tokens": 500, "tools": [LOOK], "tool_choice": "required"},
    ),
    ("/v1/completions", {"prompt": ["\x00\x7fé", "☃"], "max_tokens": 64, "echo": True}),
    ("/v1-openai/completions", {"prompt": "Hello", "max_tokens": 8}),
]
KEPT_WHOLE = [
    ("/v1/responses", {"input": "Hello", "max_output_tokens": 64}),
    ("/v1/messages", {"messages": HELLO, "max_tokens": 64}),
    (
        "/v1/messages",
        {"messages": HELLO, "max_tokens": 64, "tools": [{"name": "look", "input_schema": {}}]},
    ),
]


@pytest.mark.parametrize("name", ["tiny", "team/alias:v1"])
@pytest.mark.parametrize(("path", "fields"), [*GENERATED, *KEPT_WHOLE])
def test_a_whole_response(chats: Tapped, path: str, fields: dict[str, Any], name: str) -> None:
    response = ask(chats[0], "POST", path, {"model": name, **fields})
    compare(chats, response, name)


@pytest.mark.parametrize(("path", "fields"), KEPT_WHOLE)
def test_the_events_of_a_stream(chats: Tapped, path: str, fields: dict[str, Any]) -> None:
    response = ask(chats[0], "POST", path, {"model": "team/alias:v1", "stream": True, **fields})
    compare(chats, response, "team/alias:v1")


@pytest.mark.parametrize(("path", "fields"), GENERATED)
def test_a_stream_without_the_usage_that_nobody_asked_for(
    chats: Tapped, path: str, fields: dict[str, Any]
) -> None:
    response = ask(chats[0], "POST", path, {"model": "team/alias:v1", "stream": True, **fields})
    compare(chats, response, "team/alias:v1", without_usage_frame)


@pytest.mark.parametrize(("path", "fields"), GENERATED)
def test_a_stream_with_its_usage(chats: Tapped, path: str, fields: dict[str, Any]) -> None:
    options = {"include_usage": True}
    response = ask(
        chats[0],
        "POST",
        path,
        {"model": "tiny", "stream": True, "stream_options": options, **fields},
    )
    assert b'"choices":[]' in response.body
    response.body = without_timings(response.body)
    compare(chats, response, "tiny")


def test_a_stream_through_the_generic_proxy(chats: Tapped) -> None:
    router, tap = chats
    body = {"model": tap.engine.model, "messages": HELLO, "max_tokens": 64, "stream": True}
    headers = [("X-GPUStack-Model", "tiny")]
    response = ask(router, "POST", "/model/proxy/v1/chat/completions", body, headers=headers)
    found = re.search(rb'"id":"([^"]+)"', response.body)
    assert found
    assert response.body == tap.body_with(found[1])


@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_embeddings(embeds: Tapped, encoding: str) -> None:
    body = {"model": "tiny", "input": ["Hello", "World"], "encoding_format": encoding}
    compare(embeds, ask(embeds[0], "POST", "/v1/embeddings", body), "tiny")


def test_a_score(scores: Tapped) -> None:
    body = {"model": "team/alias:v1", "text_1": "A city", "text_2": ["Paris", "☃"]}
    compare(scores, ask(scores[0], "POST", "/v1/score", body), "team/alias:v1")


@pytest.mark.parametrize("stream", ["false", "true"])
def test_a_transcription(listens: Tapped, stream: str) -> None:
    fields = {"model": "tiny", "language": "en", "stream": stream, "stream_include_usage": stream}
    response = ask(listens[0], "POST", "/v1/audio/transcriptions", form(fields), headers=FORM)
    compare(listens, response, "tiny")
