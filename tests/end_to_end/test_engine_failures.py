"""Engines die, stall, lie about lengths and close: a caller sees a whole response or an error."""

from __future__ import annotations

import itertools
import json
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest

from fake_responses import FAULTY_FRAMINGS
from harness import KEY, DataPlaneRouter, FakeEngine
from raw_http import Response, build, chat, eventually, sooner_or_later

Engines = Callable[..., list[FakeEngine]]
Routers = Callable[..., DataPlaneRouter]

EARLY_PLACES = ("before_head", "inside_head", "after_head")
"""Places at which an engine has not sent a frame yet, so that the caller can be spared its end."""


def assert_bad_gateway(response: Response) -> None:
    """A whole 502 in OpenAI's shape."""
    assert response.status == 502, response.body
    assert response.broken is None
    assert response.header("content-type") == "application/json"
    error = response.json()["error"]
    assert error["message"].endswith(".")
    assert error["code"] == "engine_error"


def assert_cut_stream(response: Response, frames: int, nonce: str) -> None:
    """That many whole frames, one error event, no `[DONE]`, and a clean last chunk."""
    assert response.status == 200
    assert response.broken is None
    events = response.events()
    assert len(events) == frames + 1
    assert all(nonce in event for event in events[:-1])
    assert "[DONE]" not in events
    error = json.loads(events[-1])["error"]
    assert error["message"].endswith(".")
    assert error["code"] == "engine_error"


def assert_sound(plane: DataPlaneRouter, count: int = 5) -> None:
    """Nothing of an earlier failure reaches the next callers."""
    for number in range(count):
        response = plane.chat(chat(text=f"sound-{number}"))
        assert response.status == 200, response.body
        assert response.json()["id"] == f"chatcmpl-sound-{number}"


# --- before the first frame: another replica responds ---


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("place", EARLY_PLACES)
def test_an_engine_that_dies_before_its_first_frame_costs_a_caller_nothing(
    fake_engines: Engines, router: Routers, place: str, how: str, stream: bool
) -> None:
    dying, sound = fake_engines(2)
    plane = router([dying, sound])
    dying.defaults(fault={"how": how, "at": place})
    numbers = itertools.count()

    def dies() -> bool:
        number = next(numbers)
        response = plane.chat(chat(text=f"n-{number}", stream=stream))
        assert response.status == 200, response.body
        assert response.broken is None
        assert f"chatcmpl-n-{number}".encode() in response.body
        return f"fault:{how}:{place}" in dying.state()["counters"]

    sooner_or_later(dies, "the dying engine to be chosen")
    for _ in range(4):
        dies()
    assert max(record.attempts for record in plane.records(next(numbers))) == 2


@pytest.mark.parametrize("place", EARLY_PLACES)
def test_a_lone_engine_that_dies_before_its_first_frame_is_502(
    engine: FakeEngine, plane: DataPlaneRouter, place: str
) -> None:
    for how in ("close", "reset"):
        for stream in (True, False):
            orders = {"fault": {"how": how, "at": place}}
            assert_bad_gateway(plane.chat(chat(stream=stream, fake=orders)))
    assert_sound(plane)


def test_a_request_that_two_engines_died_of_is_not_sent_to_a_third(
    fake_engines: Engines, router: Routers
) -> None:
    engines = fake_engines(4)
    plane = router(engines)
    response = plane.chat(chat(fake={"fault": {"how": "close", "at": "before_head"}}))
    assert_bad_gateway(response)
    assert response.header("x-should-retry") == "false"
    assert sum(len(engine.inference()) for engine in engines) == 2


def test_a_request_that_never_reached_an_engine_is_tried_on_all(
    fake_engines: Engines, router: Routers
) -> None:
    engines = fake_engines(4)
    plane = router(engines)
    for engine in engines[1:]:
        engine.kill()
    assert_sound(plane, 12)


def test_a_body_too_big_to_keep_is_not_sent_twice(fake_engines: Engines, router: Routers) -> None:
    engines = fake_engines(2)
    plane = router(engines, limits={"replay_bytes": 1_000})
    response = plane.chat(
        chat(text="x" * 200_000, fake={"fault": {"how": "close", "at": "before_head"}})
    )
    assert_bad_gateway(response)
    assert sum(entry["complete"] for engine in engines for entry in engine.inference()) == 1


@pytest.mark.parametrize("chunk", [None, 9_999])
def test_a_big_body_that_can_be_kept_is_sent_whole_to_the_second(
    fake_engines: Engines, router: Routers, chunk: int | None
) -> None:
    dying, sound = fake_engines(2)
    plane = router([dying, sound])
    dying.defaults(fault={"how": "reset", "at": "before_head"})
    body = json.dumps(chat(text="y" * 500_000)).encode()

    def dies() -> bool:
        assert plane.chat(body, chunk=chunk).status == 200
        return bool(dying.inference())

    sooner_or_later(dies, "the dying engine to be chosen")
    assert {entry["length"] for entry in sound.inference()} == {len(body)}


# --- after the first frame: the stream says so ---


@pytest.mark.parametrize(
    "pieces", [{}, {"line_end": "\r\n"}, {"delay": 0.01}, {"comments": True}], ids=str
)
@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("place", ["at_frame", "inside_frame", "inside_chunk"])
def test_a_stream_whose_engine_dies_ends_with_one_error_event(
    engine: FakeEngine, plane: DataPlaneRouter, place: str, how: str, pieces: dict[str, Any]
) -> None:
    orders = {"frames": 5, "fault": {"how": how, "at": place, "after": 3}, **pieces}
    with plane.client() as client:
        plane.send_chat(client, chat(text="n-1", stream=True, fake=orders))
        assert_cut_stream(client.read_response(), 3, "n-1")
        assert client.is_closed()
    assert plane.records()[0].end == "engine_died"
    assert_sound(plane)


def test_a_close_delimited_stream_without_its_end_mark_ends_with_an_error_event(
    engine: FakeEngine, plane: DataPlaneRouter
) -> None:
    """The SDKs of OpenAI and Anthropic take a stream that is closed without its end mark for a
    complete one: no exception, `finish_reason` stays null.
    """
    frames = ['data: {"id":"n-1"}\n\n', 'data: {"id":"n-1"}\n\n']
    assert_cut_stream(
        plane.chat(chat(stream=True, fake={"raw_frames": frames, "framing": "close"})), 2, "n-1"
    )


def test_a_stream_that_lost_only_its_last_chunk_is_whole(
    engine: FakeEngine, plane: DataPlaneRouter
) -> None:
    response = plane.chat(
        chat(text="n-1", stream=True, fake={"fault": {"how": "close", "at": "before_end"}})
    )
    assert response.broken is None
    assert response.events()[-1] == "[DONE]"
    assert_sound(plane)


@pytest.mark.parametrize("how", ["close", "reset"])
def test_an_engine_that_dies_inside_a_huge_frame_breaks_the_framing(
    engine: FakeEngine, plane: DataPlaneRouter, how: str
) -> None:
    orders = {"frame_bytes": 2_000_000, "fault": {"how": how, "at": "inside_frame", "after": 1}}
    response = plane.chat(chat(text="n-1", stream=True, fake=orders))
    assert response.status == 200
    assert response.broken, "a caller would take the torn frame for a whole answer"
    assert b"[DONE]" not in response.body
    assert_sound(plane)


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_whole_response_that_breaks_off_breaks_its_framing(
    engine: FakeEngine, plane: DataPlaneRouter, how: str, framing: str
) -> None:
    orders = {
        "frame_bytes": 300_000,
        "framing": framing,
        "fault": {"how": how, "at": "inside_chunk", "after": 0},
    }
    response = plane.chat(chat(text="n-1", fake=orders))
    assert response.broken or response.status == 502
    assert_sound(plane)


def test_a_killed_engine_process_ends_its_streams_with_an_error_event(
    fake_engines: Engines, router: Routers
) -> None:
    engine = fake_engines(1)[0]
    plane = router([engine])
    for how in ("kill", "exit"):
        orders = {"frames": 5, "fault": {"how": how, "at": "at_frame", "after": 2}}
        assert_cut_stream(plane.chat(chat(text="n-1", stream=True, fake=orders)), 2, "n-1")
        engine.restart()
        eventually(lambda: plane.chat(chat()).status == 200, "the engine to be used again")


# --- framing that cannot be trusted ---


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("framing", FAULTY_FRAMINGS)
def test_a_response_whose_framing_cannot_be_trusted_is_502(
    engine: FakeEngine, plane: DataPlaneRouter, framing: str, stream: bool
) -> None:
    poison = "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison"
    assert_bad_gateway(plane.chat(chat(stream=stream, fake={"framing": framing, "extra": poison})))
    used = engine.last()["connection"]
    assert_sound(plane)
    assert used not in {entry["connection"] for entry in engine.inference()[-5:]}


def test_a_bare_line_feed_in_a_later_chunk_ends_the_stream_with_an_error(
    engine: FakeEngine, plane: DataPlaneRouter
) -> None:
    frame = "data: {}\n\n"
    wire = f"a\r\n{frame}\r\na\n{frame}\r\n0\r\n\r\n"
    orders = {
        "raw_frames": [wire],
        "framing": "close",
        "headers": [["transfer-encoding", "chunked"]],
    }
    response = plane.chat(chat(stream=True, fake=orders))
    assert response.status in (200, 502)
    if response.status == 200:
        assert "error" in json.loads(response.events()[-1])
    assert_sound(plane)


def wait_for_extra(engine: FakeEngine, times: int) -> None:
    """Waits for stray bytes, until they are the router's to see.

    Bytes that cross the next request on their way look like its response.
    """
    eventually(
        lambda: engine.state()["counters"].get("extra_sent") == times, "the poison to be sent"
    )


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    "later", [{}, {"extra_delay": 0.05}], ids=["in the same write", "while the connection is idle"]
)
def test_bytes_behind_the_end_of_a_response_reach_nobody(
    engine: FakeEngine, plane: DataPlaneRouter, stream: bool, later: dict[str, Any]
) -> None:
    poison = (
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 12\r\n\r\n"
        '{"id":"evil"}'
    )
    for number in range(5):
        response = plane.chat(
            chat(text=f"n-{number}", stream=stream, fake={"extra": poison, **later})
        )
        assert response.status == 200
        assert f"n-{number}".encode() in response.body
        assert b"evil" not in response.body
        if later:
            wait_for_extra(engine, number + 1)
        assert_sound(plane, 2)


def test_an_empty_response_to_the_next_request_is_no_response(
    engine: FakeEngine, plane: DataPlaneRouter
) -> None:
    for text in ("", "\r\n", "\x00"):
        plane.chat(chat(fake={"extra": text}))
        assert_sound(plane, 2)


@pytest.mark.parametrize(
    "head",
    [
        "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        "HTTP/2.0 200 OK\r\n\r\n",
        "garbage\r\n\r\n",
        "\x16\x03\x01\x02",
    ],
)
def test_a_response_that_is_no_http_is_502(
    fake_engines: Engines, router: Routers, head: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def response() -> None:
            while True:
                try:
                    peer, _ = listener.accept()
                except OSError:
                    return
                with peer:
                    peer.recv(65536)
                    peer.sendall(head.encode("latin-1"))

        thread = threading.Thread(target=response)
        thread.start()
        try:
            plane = router([f"http://127.0.0.1:{listener.getsockname()[1]}"])
            assert_bad_gateway(plane.chat(chat()))
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def test_interim_responses_are_skipped_however_many(
    engine: FakeEngine, plane: DataPlaneRouter
) -> None:
    response = plane.chat(chat(text="n-1", fake={"interim": [100, 102, 103, 103, 100]}))
    assert response.status == 200
    assert response.json()["id"] == "chatcmpl-n-1"
    assert response.header("link") is None
    assert_sound(plane)


# --- keep-alive ---


@pytest.mark.parametrize(
    "order",
    [{"close": "silent"}, {"close": "announced"}, {"close_idle": 0.0}, {"close_idle": 0.02}],
    ids=str,
)
def test_a_kept_connection_that_the_engine_closes_costs_no_caller_anything(
    engine: FakeEngine, plane: DataPlaneRouter, order: dict[str, Any]
) -> None:
    engine.defaults(**order)
    for number in range(40):
        response = plane.chat(chat(text=f"n-{number}", stream=number % 2 == 0))
        assert response.status == 200, response.body
        assert f"chatcmpl-n-{number}".encode() in response.body


def test_connections_that_close_by_chance_cost_no_caller_anything(
    fake_engines: Engines, router: Routers
) -> None:
    engines = fake_engines(2)
    plane = router(engines)
    for engine in engines:
        engine.defaults(close_chance=0.3)
    with plane.client() as client:
        for number in range(400):
            response = client.request(
                "POST", "/v1/chat/completions", chat(text=f"n-{number}"), key=KEY
            )
            assert response.status == 200, response.body
            assert response.json()["id"] == f"chatcmpl-n-{number}"
    assert sum(engine.state()["counters"]["closed_by_chance"] for engine in engines) > 50


def test_an_engines_keep_alive_limit_is_obeyed(engine: FakeEngine, plane: DataPlaneRouter) -> None:
    """cpp-httplib, below llama.cpp, announces the number of requests per connection."""
    engine.defaults(headers=[["keep-alive", "timeout=5, max=3"]])
    assert_sound(plane, 9)
    connections = [entry["connection"] for entry in engine.inference()]
    assert max(connections.count(one) for one in connections) <= 3


def test_a_backends_limit_of_requests_per_connection_is_obeyed(
    engine: FakeEngine, router: Routers
) -> None:
    plane = router([engine], instance={"requests_per_connection": 3})
    assert_sound(plane, 9)
    connections = [entry["connection"] for entry in engine.inference()]
    assert max(connections.count(one) for one in connections) == 3


def test_a_stream_ends_its_connection_where_the_engine_closes_behind_it(
    engine: FakeEngine, router: Routers
) -> None:
    """Such a close is unannounced: a request that met it would have to be sent twice."""
    plane = router([engine], instance={"closes_after_stream": True})
    for _ in range(3):
        assert plane.chat(chat(stream=True)).status == 200
        assert plane.chat(chat()).status == 200
    streams = [entry["connection"] for entry in engine.inference()]
    assert len(set(streams)) == 4, "a stream is the last on its connection, and only a stream"


# --- early responses and slow uploads ---


@pytest.mark.parametrize("then", ["reset", "close", "read"])
@pytest.mark.parametrize("size", [100, 3_000_000])
def test_a_response_that_comes_before_the_body_was_read_reaches_the_caller(
    fake_engines: Engines, router: Routers, then: str, size: int
) -> None:
    engine = fake_engines(1)[0]
    plane = router([engine])
    orders = {"early": {"status": 400, "then": then}, "error": "too long"}
    for _ in range(5):
        response = plane.chat(chat(text="x" * size), headers=[("X-Fake", json.dumps(orders))])
        assert response.status == 400, response.body
        assert response.json()["error"]["message"].startswith("too long")
    assert_sound(plane)


def test_a_connection_with_an_unfinished_upload_is_not_used_again(
    fake_engines: Engines, router: Routers
) -> None:
    engine = fake_engines(1)[0]
    plane = router([engine])
    orders = json.dumps({"early": {"status": 400, "then": "read"}})
    request = build(
        "POST",
        "/v1/chat/completions",
        chat(text="x" * 2_000_000),  # beyond limits.replay_bytes, so that it goes on as it comes
        key=KEY,
        headers=[("X-Fake", orders)],
    )
    with plane.client() as client:
        client.send(request[:-50_000])
        assert client.read_response().status == 400
    assert_sound(plane)
    first = engine.inference()[0]["connection"]
    assert first not in {entry["connection"] for entry in engine.inference()[1:]}


def test_an_engine_that_reads_slowly_slows_the_caller_down_and_nothing_is_lost(
    engine: FakeEngine, plane: DataPlaneRouter
) -> None:
    body = json.dumps(chat(text="s" * 3_000_000)).encode()
    response = plane.chat(body, headers=[("X-Fake", '{"read_rate": 5000000}')])
    assert response.status == 200
    assert engine.last()["length"] == len(body)


def test_a_caller_that_reads_slowly_slows_the_engine_down_and_nothing_is_lost(
    engine: FakeEngine, plane: DataPlaneRouter
) -> None:
    with plane.client() as client:
        plane.send_chat(
            client, chat(stream=True, fake={"frames": 40, "frame_bytes": 500_000, "delay": 0.001})
        )
        client.read_head()
        eventually(lambda: engine.state()["in_progress"] == 1, "the engine to be held up")
        assert_sound(plane, 2)
        received = sum(len(chunk) for chunk in iter(client.read_chunk, b""))
    eventually(lambda: engine.inference()[0]["ended"], "the engine's end of it")
    assert received == engine.inference()[0]["sent_bytes"]


# --- what is counted stays right ---


def test_no_lease_is_left_behind_by_any_fault(fake_engines: Engines, router: Routers) -> None:
    plane = router(fake_engines(2), timeouts={"first_frame": 0.2, "idle": 0.2})
    for how in ("close", "reset", "stall"):
        for place in (*EARLY_PLACES, "at_frame", "inside_frame", "inside_chunk", "before_end"):
            for stream in (True, False):
                plane.chat(
                    chat(stream=stream, fake={"fault": {"how": how, "at": place, "after": 0}})
                )
    for framing in FAULTY_FRAMINGS:
        plane.chat(chat(fake={"framing": framing}))
    eventually(plane.is_idle, "every lease to be returned")
