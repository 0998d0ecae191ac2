"""A caller that goes away takes its work with it: the engine's connection is closed at once."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import pytest

from harness import KEY, DataPlaneRouter, FakeEngine, ServedRouter, read_gauge
from raw_http import Client, build, chat, eventually

Engines = Callable[..., list[FakeEngine]]
Routers = Callable[..., DataPlaneRouter]
Leave = Callable[[Client], None]

SILENT = {"fault": {"how": "stall", "at": "before_head"}}
SILENT_AFTER_HEAD = {"fault": {"how": "stall", "at": "after_head"}}
SILENT_MID_STREAM = {"fault": {"how": "stall", "at": "at_frame", "after": 2}}
SILENT_INSIDE_FRAME = {"fault": {"how": "stall", "at": "inside_frame", "after": 2}}
SILENT_MID_BODY = {
    "frame_bytes": 100_000,
    "fault": {"how": "stall", "at": "inside_chunk", "after": 0},
}


def close(client: Client) -> None:
    client.close()


def reset(client: Client) -> None:
    client.reset()


def half_close(client: Client) -> None:
    """A FIN alone: the socket could still be read from, but nobody is known to."""
    client.socket.shutdown(socket.SHUT_WR)


LEAVES: list[Leave] = [close, reset, half_close]


def assert_engine_is_told(engine: FakeEngine, plane: DataPlaneRouter) -> dict[str, Any]:
    """The engine's side closed, no lease is left, and one record says that the caller left."""
    eventually(
        lambda: engine.inference() and engine.last()["ended"] == "peer_closed",
        "the engine to see the close",
    )
    eventually(plane.is_idle, "the lease to be returned")
    records = plane.records()
    assert [record.end for record in records] == ["client_gone"]
    assert len(engine.inference()) == 1, "the request was sent again although its caller had left"
    return engine.last()


def wait_until_busy(engine: FakeEngine) -> None:
    eventually(lambda: engine.state()["in_progress"] == 1, "the engine to have the request")


@pytest.mark.parametrize("leave", LEAVES)
@pytest.mark.parametrize("chunk", [None, 10_000])
def test_a_caller_that_leaves_while_uploading(
    engine: FakeEngine, plane: DataPlaneRouter, leave: Leave, chunk: int | None
) -> None:
    # Beyond limits.replay_bytes, so that it goes on as it comes.
    body = chat(text="x" * 2_000_000)
    with plane.client() as client:
        client.send(build("POST", "/v1/chat/completions", body, key=KEY, chunk=chunk)[:-50_000])
        wait_until_busy(engine)
        leave(client)
        entry = assert_engine_is_told(engine, plane)
    assert not entry["complete"]


@pytest.mark.parametrize("leave", LEAVES)
def test_a_caller_that_leaves_while_the_engine_does_not_read(
    engine: FakeEngine, plane: DataPlaneRouter, leave: Leave
) -> None:
    """A caller that waits behind an upload into a full socket is seen to leave all the same."""
    with plane.client() as client:
        body = chat(text="x" * 500_000)
        client.send(
            build(
                "POST",
                "/v1/chat/completions",
                body,
                key=KEY,
                headers=[("X-Fake", '{"read_rate": 0}')],
            )
        )
        wait_until_busy(engine)
        leave(client)
        assert_engine_is_told(engine, plane)


@pytest.mark.parametrize("leave", LEAVES)
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    "orders", [SILENT, SILENT_AFTER_HEAD], ids=["before its head", "after its head"]
)
def test_a_caller_that_leaves_while_the_engine_is_silent(
    engine: FakeEngine, plane: DataPlaneRouter, leave: Leave, stream: bool, orders: dict[str, Any]
) -> None:
    with plane.client() as client:
        plane.send_chat(client, chat(stream=stream, fake=orders))
        wait_until_busy(engine)
        leave(client)
        assert_engine_is_told(engine, plane)
    assert plane.plane.stats().in_flight == 0


@pytest.mark.parametrize("leave", LEAVES)
@pytest.mark.parametrize(
    "behind",
    [
        b"\r\n",
        b"\r\n\r\n",
        build("GET", "/v1/models", key=KEY),
        build("POST", "/v1/chat/completions", chat(text="the second"), key=KEY),
        build("POST", "/v1/chat/completions", chat(text="x" * 5_000), key=KEY)[:-1],
        build("POST", "/v1/chat/completions", chat(text="x" * 90_000), key=KEY),
        b"no HTTP at all",
    ],
    ids=["a CRLF", "two CRLFs", "a GET", "a POST", "an unfinished POST", "a long POST", "garbage"],
)
@pytest.mark.parametrize("at_once", [True, False], ids=["in one write", "in a later write"])
def test_a_caller_that_leaves_behind_bytes_that_nobody_waits_for(
    engine: FakeEngine, plane: DataPlaneRouter, leave: Leave, behind: bytes, at_once: bool
) -> None:
    request = build("POST", "/v1/chat/completions", chat(text="the first", fake=SILENT), key=KEY)
    with plane.client() as client:
        client.send(request + behind if at_once else request)
        wait_until_busy(engine)
        if not at_once:
            client.send(behind)
        leave(client)
        assert_engine_is_told(engine, plane)


def test_a_caller_that_pipelines_without_end_is_held_up(
    engine: FakeEngine, plane: DataPlaneRouter
) -> None:
    with plane.client() as client:
        plane.send_chat(client, chat(fake=SILENT))
        wait_until_busy(engine)
        client.socket.settimeout(1)
        with pytest.raises(TimeoutError):
            while True:
                client.send(b"x" * 65_536)
        assert engine.state()["in_progress"] == 1
        client.reset()
        assert_engine_is_told(engine, plane)


def test_all_that_a_caller_pipelines_behind_a_stream_is_answered(
    engine: FakeEngine, plane: DataPlaneRouter
) -> None:
    with plane.client() as client:
        plane.send_chat(client, chat(stream=True, fake={"frames": 50, "delay": 0.005}))
        client.read_until(b"Hello")
        for size in (60_000, 70_000, 200_000):
            plane.send_chat(client, chat(text="x" * size))
        client.read_until(b"[DONE]")
        client.read_until(b"0\r\n\r\n")
        assert [client.read_response().status for _ in range(3)] == [200] * 3


@pytest.mark.parametrize("leave", LEAVES)
@pytest.mark.parametrize(
    "orders", [SILENT_MID_STREAM, SILENT_INSIDE_FRAME], ids=["between frames", "inside a frame"]
)
def test_a_caller_that_leaves_mid_stream_while_the_engine_is_silent(
    engine: FakeEngine, plane: DataPlaneRouter, leave: Leave, orders: dict[str, Any]
) -> None:
    with plane.client() as client:
        plane.send_chat(client, chat(stream=True, fake=orders))
        client.read_until(b"Hello")
        leave(client)
        assert_engine_is_told(engine, plane)


@pytest.mark.parametrize("leave", LEAVES)
def test_a_caller_that_leaves_a_running_stream(
    engine: FakeEngine, plane: DataPlaneRouter, leave: Leave
) -> None:
    with plane.client() as client:
        plane.send_chat(client, chat(stream=True, fake={"frames": 10_000, "delay": 0.005}))
        client.read_until(b"Hello")
        leave(client)
        assert_engine_is_told(engine, plane)


def test_a_caller_that_leaves_a_stream_without_having_read_it(
    engine: FakeEngine, plane: DataPlaneRouter
) -> None:
    """The response stands still behind a full socket toward the caller."""
    with plane.client() as client:
        plane.send_chat(
            client, chat(stream=True, fake={"frames": 50, "frame_bytes": 1_000_000, "delay": 0.001})
        )
        client.read_until(b"Hello")
        wait_until_busy(engine)
        client.close()
        assert_engine_is_told(engine, plane)


@pytest.mark.parametrize("leave", LEAVES)
def test_a_caller_that_leaves_in_the_middle_of_a_whole_response(
    engine: FakeEngine, plane: DataPlaneRouter, leave: Leave
) -> None:
    with plane.client() as client:
        plane.send_chat(client, chat(fake=SILENT_MID_BODY))
        wait_until_busy(engine)
        leave(client)
        assert_engine_is_told(engine, plane)


def test_a_hundred_callers_that_leave_at_once_leave_nothing_behind(
    engine: FakeEngine, plane: DataPlaneRouter
) -> None:
    clients = [plane.client() for _ in range(100)]
    for number, client in enumerate(clients):
        orders = [SILENT, SILENT_AFTER_HEAD, SILENT_MID_STREAM][number % 3]
        plane.send_chat(client, chat(stream=True, fake=orders))
    eventually(lambda: engine.state()["in_progress"] == 100, "the engine to have all requests")
    for client in clients:
        client.close()
    eventually(lambda: engine.state()["in_progress"] == 0, "the engine to see every close")
    eventually(plane.is_idle, "every lease to be returned")
    assert plane.chat(chat()).status == 200


def test_a_caller_that_stays_is_not_taken_for_one_that_left(
    engine: FakeEngine, plane: DataPlaneRouter
) -> None:
    """A CRLF behind a request is no reason to end it: old clients send one."""
    with plane.client() as client:
        request = build(
            "POST",
            "/v1/chat/completions",
            chat(text="n-1", stream=True, fake={"delay": 0.1}),
            key=KEY,
        )
        client.send(
            request + b"\r\n" + build("POST", "/v1/chat/completions", chat(text="n-2"), key=KEY)
        )
        assert client.read_response().events()[-1] == "[DONE]"
        assert client.read_response().json()["id"] == "chatcmpl-n-2"


def test_a_slot_stays_counted_where_a_close_does_not_stop_the_work(
    engine: FakeEngine, router: Routers
) -> None:
    plane = router([engine], instance={"cancel_lag": 60})
    with plane.client() as client:
        plane.send_chat(client, chat(fake=SILENT))
        wait_until_busy(engine)
    eventually(lambda: engine.last()["ended"] == "peer_closed", "the engine to be told")
    assert plane.plane.stats().instances[0].outstanding == 1
    with plane.client() as client:
        plane.send_chat(client, chat(stream=True, fake=SILENT))
        wait_until_busy(engine)
        assert plane.plane.stats().instances[0].outstanding == 2
    eventually(
        lambda: plane.plane.stats().instances[0].outstanding == 1,
        "the stream's slot to be free at once",
    )


# --- the real engine ---

STOPPED_WITHIN = 15.0
"""Seconds in which it does not come to an end by itself."""


def long_generation(stream: bool) -> dict[str, Any]:
    """Half a minute of work for llama.cpp on a CPU, if nobody stops it; more, if others work."""
    return chat(
        "smollm2", "Tell me a long story.", stream=stream, max_tokens=1_900, ignore_eos=True
    )


def is_idle(server: ServedRouter) -> bool:
    return read_gauge(server.metrics(), "gpustack_fast_instance_outstanding") == 0


@pytest.mark.timeout(300)
@pytest.mark.parametrize("leave", LEAVES)
@pytest.mark.parametrize(
    "behind", [b"", b"\r\n", build("GET", "/v1/models", key=KEY)], ids=["", "CRLF", "pipelined"]
)
def test_the_real_engine_stops_its_stream_when_the_caller_leaves(
    smollm2: ServedRouter, leave: Leave, behind: bytes
) -> None:
    (engine,) = smollm2.engines()
    eventually(lambda: engine.busy_slots() == 0, "the engine to be idle")
    with smollm2.client() as client:
        smollm2.send_chat(client, long_generation(stream=True))
        client.send(behind)
        client.read_until(b'"content":')
        assert engine.busy_slots() == 1
        leave(client)
        eventually(lambda: engine.busy_slots() == 0, "the engine to stop", STOPPED_WITHIN)
    eventually(lambda: is_idle(smollm2), "the lease to be returned")


@pytest.mark.timeout(300)
def test_the_real_engine_never_begins_what_was_left_while_uploading(smollm2: ServedRouter) -> None:
    (engine,) = smollm2.engines()
    eventually(lambda: engine.busy_slots() == 0, "the engine to be idle")
    with smollm2.client() as client:
        client.send(
            build("POST", "/v1/chat/completions", long_generation(stream=True), key=KEY)[:-1]
        )
    eventually(lambda: is_idle(smollm2), "the lease to be returned")
    assert engine.busy_slots() == 0


@pytest.mark.timeout(300)
def test_the_real_engines_slot_stays_counted_while_it_works_for_nobody(
    smollm2: ServedRouter,
) -> None:
    """llama.cpp does not stop a non-streamed generation for a close, nor may the count say so."""
    (engine,) = smollm2.engines()
    eventually(lambda: engine.busy_slots() == 0, "the engine to be idle")
    with smollm2.client() as client:
        body = {**long_generation(stream=False), "max_tokens": 100}
        smollm2.send_chat(client, body)
        eventually(lambda: engine.busy_slots() == 1, "the engine to begin")
    outstanding = read_gauge(smollm2.metrics(), "gpustack_fast_instance_outstanding")
    # It has worked until now, then.
    if engine.busy_slots() == 1:
        assert outstanding == 1
    eventually(lambda: engine.busy_slots() == 0, "the engine to end")
    eventually(lambda: is_idle(smollm2), "the lease to be returned")
