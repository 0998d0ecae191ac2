"""Streams, torn in any way: outside the spliced ranges every byte is the engine's.

The oracle is the fake engine's own hash of what it sent, not a splitter of ours: a client puts back
what the data plane may have changed (a name, three numbers, a frame that nobody asked for), and the
hashes must be equal.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Callable
from typing import Any

import pytest

from harness import KEY, DataPlaneRouter, FakeEngine
from raw_http import Client, Response

Engines = Callable[..., list[FakeEngine]]
Routers = Callable[..., DataPlaneRouter]

SERVED = 'org/Served "1B"'
INSIDE = json.dumps(SERVED).encode()
"""The engine's name of the model as JSON writes it; it must reach no client."""
PATHS = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/messages",
    "/v1/audio/transcriptions",
)

TIMINGS = re.compile(
    rb',"(?:time_to_first_token_ms|time_per_output_token_ms|tokens_per_second)":-?[0-9.eE+-]+'
)
"""The additions to the usage, as bytes."""


@pytest.fixture
def engine(fake_engines: Engines) -> FakeEngine:
    return fake_engines(1, unix=True)[0]


def plane_over(router: Routers, engine: FakeEngine, **settings: Any) -> DataPlaneRouter:
    model = {"dialects": ["openai", "anthropic"], "stream_usage": True}
    return router([engine], served_name=SERVED, model=model, **settings)


# --- what an engine might send ---


def odd_text(dice: random.Random) -> str:
    """Text that tempts a careless scanner."""
    bits = [
        '"',
        "\\",
        "\n",
        "\r\n",
        "\u2028",
        "\x85",
        "é",
        "日本",
        "\U0001f600",
        '"model":',
        "data: ",
        ": x",
        "{}",
        SERVED,
    ]
    return "".join(dice.choice([*bits, "word ", "a"]) for _ in range(dice.randint(0, 12)))


def spaced(dice: random.Random, document: Any) -> str:
    """JSON in one of the ways in which engines write it."""
    separators = dice.choice([(",", ":"), (", ", ": "), (" , ", " :  ")])
    return json.dumps(document, separators=separators, ensure_ascii=dice.random() < 0.5)


def chunk(dice: random.Random, path: str) -> dict[str, Any]:
    """One event of a stream, with the model's name where this path carries it."""
    odd = {
        "choices": [{"delta": {"content": odd_text(dice)}, "model": "inner"}],
        "n": dice.random(),
    }
    if path == "/v1/responses":
        if dice.random() < 0.5:
            return {
                "type": "response.output_text.delta",
                "delta": odd_text(dice),
                "sequence_number": 3,
            }
        return {
            "type": "response.created",
            "response": {"id": "resp_1", "model": SERVED, **odd},
            **odd,
        }
    if path == "/v1/messages":
        if dice.random() < 0.5:
            return {
                "type": "content_block_delta",
                "index": 0,
                "delta": {"type": "text_delta", "text": odd_text(dice)},
            }
        return {"type": "message_start", "message": {"id": "msg_1", **odd, "model": SERVED}}
    named = {"model": SERVED} if dice.random() < 0.9 else {}
    return {"id": "c", **odd, **named} if dice.random() < 0.5 else {**named, "id": "c", **odd}


def stream(dice: random.Random, path: str) -> list[str]:
    """The frames of a stream: events, comments, odd fields, any line ends.

    Now and then the last one is unfinished.
    """
    end = dice.choice(["\n", "\r\n", "\r"])
    frames = []
    for _ in range(dice.randint(0, 8)):
        kind = dice.random()
        if kind < 0.7:
            document = chunk(dice, path)
            name = f"event: {document['type']}{end}" if "type" in document else ""
            gap = dice.choice(["", " "])
            frames.append(f"{name}data:{gap}{spaced(dice, document)}{end}{end}")
        elif kind < 0.8:
            frames.append(f": a comment with data: in it{end}" + dice.choice(["", end]))
        elif kind < 0.9:
            frames.append(f"data: no JSON {odd_line(dice)}{end}{end}")
        else:
            frames.append(f"retry: 5{end}id{end}unknown: {odd_line(dice)}{end}{end}")
    if dice.random() < 0.7:
        frames.append(f"data: [DONE]{end}{end}")
    if dice.random() < 0.1:
        frames.append("data: the end is missing")
    return frames


def odd_line(dice: random.Random) -> str:
    """Odd text without line ends, and perhaps a byte that is no UTF-8."""
    text = odd_text(dice).replace("\n", " ").replace("\r", " ")
    return text + ("\udcff" if dice.random() < 0.3 else "")


def cuts(dice: random.Random, length: int) -> list[int]:
    """The ends of the writes."""
    return [dice.randint(0, length) for _ in range(dice.randint(0, 6))]


# --- what must hold ---


NAMED = re.compile(rb'"model"\s*:\s*' + re.escape(INSIDE))
"""The engine's name where the endpoint has the model's; nothing above writes it elsewhere."""


def put_back(body: bytes, public: str) -> bytes:
    """The body as the engine sent it: its own name in place of the public one."""
    name = re.compile(rb'("model"\s*:\s*)"' + re.escape(public.encode()) + rb'"')
    return name.sub(lambda found: found.group(1) + INSIDE, body)


def ask(client: Client, path: str, fields: dict[str, Any], orders: dict[str, Any]) -> Response:
    headers: list[tuple[str, str]] = []
    body: Any = {"model": "public-name", **fields, "fake": orders}
    if path.startswith("/v1/audio"):
        parts = {
            "model": "public-name",
            "fake": json.dumps(orders),
            "stream": str(fields["stream"]).lower(),
        }
        lines = [
            f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{text}\r\n'
            for name, text in parts.items()
        ]
        body = "".join(lines).encode() + b"--b--\r\n"
        headers = [("Content-Type", "multipart/form-data; boundary=b")]
    return client.request("POST", path, body, key=KEY, headers=headers)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("seed", range(4))
def test_generated_streams_come_back_to_what_the_engine_sent(
    engine: FakeEngine, router: Routers, path: str, seed: int
) -> None:
    from seam_samples import route_entry, target_entry

    dice = random.Random(f"{path} {seed}")
    plane = plane_over(router, engine)
    plane.routes = [route_entry(name="public-name", created=1, targets=[target_entry(model="m")])]
    plane.publish()
    sent_with: list[tuple[list[str], Response]] = []
    with plane.client() as client:
        for _ in range(100):
            frames = stream(dice, path)
            payload = "".join(frames).encode("utf-8", "surrogateescape")
            orders: dict[str, Any] = {"raw_frames": frames}
            if dice.random() < 0.8:
                orders["cuts"] = cuts(dice, len(payload))
            response = ask(client, path, {"stream": True}, orders)
            assert response.broken is None
            assert response.status == 200
            sent_with.append((frames, response))
    for entry, (frames, response) in zip(engine.inference(), sent_with, strict=True):
        assert NAMED.search(response.body) is None, "a name was not replaced"
        back = put_back(response.body, "public-name")
        assert hashlib.sha256(back).hexdigest() == entry["sent_sha256"], (frames, response.body)


@pytest.mark.parametrize("path", [path for path in PATHS if "audio" not in path])
@pytest.mark.parametrize("seed", range(2))
def test_generated_whole_responses_come_back_to_what_the_engine_sent(
    engine: FakeEngine, router: Routers, path: str, seed: int
) -> None:
    from seam_samples import route_entry, target_entry

    dice = random.Random(f"whole {path} {seed}")
    plane = plane_over(router, engine)
    plane.routes = [route_entry(name="public-name", created=1, targets=[target_entry(model="m")])]
    plane.publish()
    bodies = []
    with plane.client() as client:
        for _ in range(100):
            inner = {
                "message": {"content": odd_text(dice), "model": "inner"},
                "list": [{"model": "inner"}],
            }
            document = (
                {"a": 1.10, **inner, "model": SERVED, "z": None}
                if dice.random() < 0.5
                else {"model": SERVED}
            )
            text = spaced(dice, document).replace("1.1", "1.10")
            padding = " " * dice.choice([0, 0, 100_000])
            orders: dict[str, Any] = {
                "body_text": padding + text + "\n",
                "framing": dice.choice(["length", "chunked", "close"]),
            }
            if dice.random() < 0.8:
                orders["cuts"] = cuts(dice, len(padding) + len(text))
            response = ask(client, path, {}, orders)
            assert response.status == 200, response.body
            assert response.json()["model"] == "public-name"
            bodies.append(response.body)
            if orders["framing"] == "close":
                assert response.broken is None
    for entry, body in zip(engine.inference(), bodies, strict=True):
        assert hashlib.sha256(put_back(body, "public-name")).hexdigest() == entry["sent_sha256"], (
            body
        )


@pytest.mark.parametrize("seed", range(4))
def test_generated_request_bodies_reach_the_engine_with_their_name_alone_changed(
    engine: FakeEngine, router: Routers, seed: int
) -> None:
    dice = random.Random(f"request {seed}")
    plane = plane_over(router, engine)
    expected = []
    with plane.client() as client:
        for number in range(100):
            before = spaced(
                dice, {"messages": [], "text": odd_text(dice), "inner": {"model": "inner"}}
            )[:-1]
            name = dice.choice(['"default"', '"def\\u0061ult"'])
            after = (
                dice.choice(["", ',"z":[1e400,NaN,1.10]', ' , "u":"\\ud800"  '])
                + "}"
                + dice.choice(["", "\r\n "])
            )
            # A body without `stream` gets no further splice.
            head, tail = f'{before},"model" :'.encode(), after.encode()
            body = head + name.encode() + tail
            chunk_size = dice.choice([None, 1, 7, 1000])
            response = client.request("POST", "/v1/responses", body, key=KEY, chunk=chunk_size)
            assert response.status == 200, (number, body, response.body)
            expected.append(hashlib.sha256(head + INSIDE + tail).hexdigest())
    assert [entry["sha256"] for entry in engine.inference()] == expected


# --- usage ---


def usage_of(frame: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(frame)["usage"]
    return found


@pytest.mark.parametrize(
    "orders", [{}, {"pieces": "bytes"}, {"line_end": "\r\n"}, {"comments": True}], ids=str
)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_the_usage_frame_that_nobody_asked_for_is_cut_out_and_no_other(
    engine: FakeEngine, router: Routers, path: str, orders: dict[str, Any]
) -> None:
    plane = plane_over(router, engine)
    body = {"model": "default", "messages": [], "prompt": "p", "stream": True, "fake": orders}
    response = plane.request("POST", path, body)
    entry = engine.last()
    assert json.loads(entry["text"])["stream_options"]["include_usage"] is True
    assert b'"usage"' not in response.body
    end = str(orders.get("line_end", "\n")).encode()
    frames = [
        frame + end + end for frame in put_back(response.body, "default").split(end + end)[:-1]
    ]
    hashes = [hashlib.sha256(frame).hexdigest() for frame in frames]
    *others, usage, done = entry["sent_frames"]
    assert hashes in ([*others, done], [*others, hashes[-2], done])
    assert usage not in hashes
    assert plane.records()[0].output_tokens == 3


@pytest.mark.parametrize(
    "options",
    [
        '"stream_options":{"include_usage":true}',
        '"stream_options" : { "continuous_usage_stats" : true , "include_usage" : true , "x":[] }',
    ],
)
def test_the_usage_frame_that_was_asked_for_stays_with_its_timings(
    engine: FakeEngine, router: Routers, options: str
) -> None:
    plane = plane_over(router, engine)
    body = ('{"model":"default","messages":[],"stream":true,' + options + "}").encode()
    response = plane.request(
        "POST", "/v1/chat/completions", body, headers=[("X-Fake", '{"delay": 0.02}')]
    )
    entry = engine.last()
    assert entry["text"].encode() == body.replace(b'"default"', INSIDE)
    usage = usage_of(response.events()[-2])
    assert usage["completion_tokens"] == 3
    assert usage["time_to_first_token_ms"] >= 0
    assert usage["time_per_output_token_ms"] >= 0
    assert usage["tokens_per_second"] > 0
    assert len(re.findall(rb"tokens_per_second", response.body)) == 1
    back = TIMINGS.sub(b"", put_back(response.body, "default"))
    assert hashlib.sha256(back).hexdigest() == entry["sent_sha256"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (b'{"include_usage":false}', b'{"include_usage":true}'),
        (b'{ "include_usage" : false , "x" : 1 }', b'{ "include_usage" : true , "x" : 1 }'),
        (b'{"x":{"include_usage":false}}', None),
        (b"{}", None),
        (b"null", None),
    ],
)
def test_a_clients_own_stream_options_are_edited_and_not_replaced(
    engine: FakeEngine, router: Routers, options: bytes, expected: bytes | None
) -> None:
    plane = plane_over(router, engine)
    body = b'{"model":"default","stream_options":' + options + b',"messages":[],"stream":true}'
    response = plane.request("POST", "/v1/chat/completions", body)
    text = engine.last()["text"].encode()
    sent = json.loads(text)
    assert sent["stream_options"]["include_usage"] is True
    if expected is not None:
        assert text == body.replace(b'"default"', INSIDE).replace(options, expected)
    elif options != b"null":
        assert sent["stream_options"] == {**json.loads(options), "include_usage": True}
    assert b'"usage"' not in response.body


@pytest.mark.parametrize("stream", [b"", b',"stream":false', b',"stream":null'], ids=str)
@pytest.mark.parametrize(
    "options", [b"null", b"true", b"[]", b"{}", b'{"include_usage":false}', b'{"x":1}'], ids=str
)
def test_the_stream_options_of_a_request_without_a_stream_stay_as_they_are(
    engine: FakeEngine, router: Routers, options: bytes, stream: bytes
) -> None:
    plane = plane_over(router, engine)
    body = b'{"model":"default","stream_options":' + options + b',"messages":[]' + stream + b"}"
    assert plane.request("POST", "/v1/chat/completions", body).status == 200
    assert engine.last()["text"].encode() == body.replace(b'"default"', INSIDE)


def test_a_usage_frame_of_continuous_statistics_is_no_usage_only_frame(
    engine: FakeEngine, router: Routers
) -> None:
    plane = plane_over(router, engine)
    body = {
        "model": "default",
        "messages": [],
        "stream": True,
        "stream_options": {"continuous_usage_stats": True},
    }
    events = plane.chat(body).events()
    assert len(events) == 5, "a frame with choices was cut out"
    assert all("choices" in event and json.loads(event)["choices"] for event in events[:-1])


def test_usage_is_not_asked_of_an_engine_that_does_not_know_it(
    engine: FakeEngine, router: Routers
) -> None:
    plane = router([engine])
    plane.chat({"model": "m", "messages": [], "stream": True})
    assert "stream_options" not in json.loads(engine.last()["text"])


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/messages", "/v1/embeddings"])
def test_usage_is_asked_on_chat_and_completions_alone(
    engine: FakeEngine, router: Routers, path: str
) -> None:
    plane = plane_over(router, engine)
    body = {"model": "default", "input": "x", "messages": [], "max_tokens": 5, "stream": True}
    assert plane.request("POST", path, body).status == 200
    assert "stream_options" not in json.loads(engine.last()["text"])


def test_the_timings_can_be_turned_off(engine: FakeEngine, router: Routers) -> None:
    plane = plane_over(router, engine, usage_timings=False)
    body = {"model": "m", "messages": [], "stream": True, "stream_options": {"include_usage": True}}
    response = plane.chat(body)
    assert b"tokens_per_second" not in response.body
    assert hashlib.sha256(put_back(response.body, "m")).hexdigest() == engine.last()["sent_sha256"]


@pytest.mark.parametrize("size", [100_000, 2_000_000])
def test_a_frame_of_megabytes_is_spliced_like_any_other(
    engine: FakeEngine, router: Routers, size: int
) -> None:
    plane = plane_over(router, engine)
    response = plane.chat(
        {
            "model": "default",
            "messages": [],
            "stream": True,
            "fake": {"frame_bytes": size, "frames": 2},
        }
    )
    assert response.broken is None
    assert all(json.loads(event)["model"] == "default" for event in response.events()[:-1])


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "path", ["/v1/chat/completions", "/v1/messages", "/v1/embeddings", "/v1/responses"]
)
def test_an_engines_name_for_the_model_does_not_leave_with_its_errors(
    engine: FakeEngine, router: Routers, path: str, stream: bool
) -> None:
    plane = plane_over(router, engine)
    words = f"The model `{SERVED}` does not exist. Valid names: {SERVED}."
    orders = {"status": 404, "error": words}
    body = {
        "model": "default",
        "messages": [],
        "max_tokens": 5,
        "input": "x",
        "stream": stream,
        "fake": orders,
    }
    response = plane.request("POST", path, body)
    assert response.status == 404
    assert SERVED not in response.json()["error"]["message"]
    assert "default" in response.json()["error"]["message"]
