"""What runs with a key ends with it: at its revocation, and a WebSocket when it expires, too."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from harness import KEY, DataPlaneRouter, FakeEngine
from raw_http import DEADLINE, BrokenFraming, Client, build, chat, eventually

LENT = f"gpustack_{'c' * 16}_{'0' * 32}"
"""The key that ends."""

SILENT = {"fault": {"how": "stall", "at": "before_head"}}
SILENT_MID_STREAM = {"frames": 9, "fault": {"how": "stall", "at": "at_frame", "after": 2}}
SILENT_INSIDE_FRAME = {"frames": 9, "fault": {"how": "stall", "at": "inside_frame", "after": 2}}
SILENT_MID_BODY = {
    "frame_bytes": 100_000,
    "fault": {"how": "stall", "at": "inside_chunk", "after": 0},
}


@pytest.fixture
def lent(plane: DataPlaneRouter) -> DataPlaneRouter:
    plane.add_key("c" * 16, LENT)
    return plane


def send(client: Client, body: Any) -> None:
    client.send(build("POST", "/v1/chat/completions", body, key=LENT))


def revoke(plane: DataPlaneRouter) -> None:
    plane.remove_key("c" * 16)


def soon() -> int:
    """A time to expire at, in Unix seconds, before which a request still begins."""
    return int(time.time()) + 5


def wait_until_busy(engine: FakeEngine, count: int = 1) -> None:
    eventually(lambda: engine.state()["in_progress"] == count, "the engine to have the request")


def assert_ended(engine: FakeEngine, plane: DataPlaneRouter) -> None:
    """The engine's side closed, no lease is left, and the record says that we ended it."""
    eventually(lambda: engine.last()["ended"] == "peer_closed", "the engine to see the close")
    eventually(plane.is_idle, "the lease to be returned")
    assert [record.end for record in plane.records()] == ["refused"]
    assert plane.plane.stats().instances[0].failures == 0, "the engine is not to blame"


@pytest.fixture
def client(lent: DataPlaneRouter) -> Iterator[Client]:
    with lent.client() as one:
        yield one


@pytest.mark.parametrize("others", [0, 3])
def test_a_stream_of_a_revoked_key_ends_with_an_error_event(
    engine: FakeEngine, lent: DataPlaneRouter, client: Client, others: int
) -> None:
    bystanders = [lent.client() for _ in range(others)]
    for one in bystanders:
        lent.send_chat(one, chat(stream=True, fake=SILENT_MID_STREAM))
        assert one.read_head().status == 200
    send(client, chat(stream=True, fake=SILENT_MID_STREAM))
    response = client.read_head()
    first = client.read_chunk()
    revoke(lent)
    client.read_body(response)
    *_, last = response.events()
    error = json.loads(last)["error"]
    assert "revoked" in error["message"] and first
    assert response.broken is None
    wait_until_busy(engine, others)
    for one in bystanders:
        one.close()


def test_a_stream_of_messages_ends_with_an_error_event_of_its_dialect(
    engine: FakeEngine, lent: DataPlaneRouter, client: Client
) -> None:
    headers = [("X-Fake", json.dumps(SILENT_MID_STREAM))]
    body = {**chat(stream=True), "max_tokens": 9}
    client.send(build("POST", "/v1/messages", body, key=LENT, headers=headers))
    response = client.read_head()
    assert response.status == 200
    revoke(lent)
    client.read_body(response)
    assert b"event: error" in response.body
    error = json.loads(response.events()[-1])
    assert (error["type"], error["error"]["type"]) == ("error", "authentication_error")


def test_half_a_frame_of_the_engines_is_no_part_of_the_stream_that_ends(
    engine: FakeEngine, lent: DataPlaneRouter, client: Client
) -> None:
    send(client, chat(stream=True, fake=SILENT_INSIDE_FRAME))
    response = client.read_head()
    revoke(lent)
    client.read_body(response)
    assert response.broken is None
    assert all(json.loads(event) for event in response.events())
    assert "revoked" in response.events()[-1]
    assert_ended(engine, lent)


def test_a_whole_body_that_is_under_way_is_truncated(
    engine: FakeEngine, lent: DataPlaneRouter, client: Client
) -> None:
    send(client, chat(fake=SILENT_MID_BODY))
    response = client.read_head()
    assert response.status == 200
    revoke(lent)
    with pytest.raises(BrokenFraming):
        client.read_body(response)
    assert_ended(engine, lent)


@pytest.mark.parametrize("stream", [True, False])
def test_a_request_that_waits_for_its_engine_is_401(
    engine: FakeEngine, lent: DataPlaneRouter, client: Client, stream: bool
) -> None:
    send(client, chat(stream=stream, fake=SILENT))
    wait_until_busy(engine)
    revoke(lent)
    response = client.read_response()
    assert response.status == 401
    assert "revoked" in response.json()["error"]["message"]
    assert_ended(engine, lent)


def test_a_stream_over_http2_ends_too(engine: FakeEngine, lent: DataPlaneRouter) -> None:
    with httpx.Client(http1=False, http2=True, trust_env=False, timeout=DEADLINE) as http2:
        headers = {"Authorization": f"Bearer {LENT}"}
        body = chat(stream=True, fake=SILENT_MID_STREAM)
        with http2.stream(
            "POST", lent.address + "/v1/chat/completions", json=body, headers=headers
        ) as response:
            lines = response.iter_lines()
            assert next(lines).startswith("data: ")
            revoke(lent)
            assert any("revoked" in line for line in lines)
    assert_ended(engine, lent)


def test_a_stream_whose_key_expires_goes_on_to_its_end(
    engine: FakeEngine, lent: DataPlaneRouter, client: Client
) -> None:
    lent.add_key("c" * 16, LENT, expires=soon())
    send(client, chat(stream=True, fake=SILENT_MID_STREAM))
    wait_until_busy(engine)
    eventually(lambda: lent.chat(chat(), key=LENT).status == 401, "the key to expire")
    engine.go_on()
    response = client.read_response()
    assert (response.status, response.broken) == (200, None)
    assert response.events()[-1] == "[DONE]"


def dial(plane: DataPlaneRouter) -> ClientConnection:
    return connect(
        plane.address.replace("http", "ws", 1) + "/v1/realtime?model=m",
        additional_headers={"Authorization": f"Bearer {LENT}"},
        proxy=None,
        ping_interval=None,
        open_timeout=DEADLINE,
        close_timeout=DEADLINE,
    )


@pytest.mark.parametrize("how", ["revoked", "expired"])
def test_a_websocket_ends_with_its_key(engine: FakeEngine, lent: DataPlaneRouter, how: str) -> None:
    if how == "expired":
        lent.add_key("c" * 16, LENT, expires=soon())
    with dial(lent) as client:
        client.send("one")
        assert client.recv(DEADLINE) == "one"
        if how == "revoked":
            revoke(lent)
        with pytest.raises(ConnectionClosed):
            client.recv(DEADLINE)
    eventually(lent.is_idle, "the lease to be returned")
    (record,) = lent.records()
    assert (record.status, record.end) == (101, "refused")


def test_another_keys_websocket_and_an_unchanged_key_published_again_go_on(
    engine: FakeEngine, lent: DataPlaneRouter
) -> None:
    with dial(lent) as client:
        lent.add_key("d" * 16, f"gpustack_{'d' * 16}_{'0' * 32}")
        lent.remove_key("d" * 16)
        lent.add_key("c" * 16, LENT, allowed_models=["m"])
        for _ in range(3):
            time.sleep(0.3)  # longer than a worker takes to look after revocations
            client.send("still here")
            assert client.recv(DEADLINE) == "still here"
    assert lent.chat(chat(), key=KEY).status == 200
