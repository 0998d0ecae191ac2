"""WebSockets through `/v1/realtime` and the generic proxy, with a real client and an echo."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from fake_websocket import CLOSE, TEXT, frame
from harness import KEY, DataPlaneRouter, FakeEngine
from raw_http import DEADLINE, build, eventually

Engines = Callable[..., list[FakeEngine]]
Routers = Callable[..., DataPlaneRouter]


def routes() -> list[Any]:
    from seam_samples import route_entry, target_entry

    return [
        route_entry(
            name="m", created=1, targets=[target_entry(model="m")], generic_proxy=True, number=7
        )
    ]


@pytest.fixture
def plane(engine: FakeEngine, router: Routers) -> DataPlaneRouter:
    return router([engine], routes=routes())


def dial(
    plane: DataPlaneRouter, target: str = "/v1/realtime?model=m", key: str = KEY, **orders: Any
) -> ClientConnection:
    """A WebSocket; `orders` are for the fake engine."""
    url = plane.address.replace("http", "ws", 1) + target
    headers = {"Authorization": f"Bearer {key}", "X-Fake": json.dumps(orders)}
    # Without a proxy of the environment, and without pings of its own.
    return connect(
        url,
        additional_headers=headers,
        proxy=None,
        ping_interval=None,
        open_timeout=DEADLINE,
        close_timeout=DEADLINE,
        max_size=None,
        compression=None,
    )


def last_websocket(engine: FakeEngine) -> dict[str, Any]:
    """The journal's entry of the last WebSocket."""
    return next(
        entry for entry in reversed(engine.journal()) if "upgrade" in dict(entry["headers"])
    )


@pytest.mark.parametrize("target", ["/v1/realtime?model=m", "/model/proxy/7/any/path?with=query"])
def test_messages_of_any_size_pass_both_ways(
    plane: DataPlaneRouter, engine: FakeEngine, target: str
) -> None:
    messages: list[str | bytes] = [
        "",
        "héllo",
        b"\x00\xff",
        "x" * 200_000,
        bytes(range(256)) * 20_000,
    ]
    with dial(plane, target) as client:
        for message in messages:
            client.send(message)
            assert client.recv(DEADLINE) == message
        assert client.ping().wait(DEADLINE)
    eventually(plane.is_idle, "the lease to be returned")
    entry = last_websocket(engine)
    assert entry["messages"] == len(messages)
    (record,) = plane.records()
    assert (record.status, record.end) == (101, "done")
    assert record.bytes_in > 5_000_000
    assert record.bytes_out > 5_000_000


def test_what_the_engine_says_right_behind_its_head_arrives(plane: DataPlaneRouter) -> None:
    with dial(plane, greeting="session.created") as client:
        assert client.recv(DEADLINE) == "session.created"
        client.send("after")
        assert client.recv(DEADLINE) == "after"


def test_what_a_client_says_right_behind_its_request_arrives(plane: DataPlaneRouter) -> None:
    fields = [("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13")]
    request = build(
        "GET",
        "/v1/realtime?model=m",
        key=KEY,
        headers=[*fields, ("Sec-WebSocket-Key", "x" * 22 + "==")],
    )
    with plane.client() as client:
        client.send(request + frame(TEXT, b"early", masked=True))
        assert client.read_until(b"\r\n\r\n").startswith(b"HTTP/1.1 101 ")
        assert client.read_exactly(7) == frame(TEXT, b"early", masked=False)
        client.send(frame(CLOSE, b"", masked=True))
        assert client.read_exactly(2) == frame(CLOSE, b"", masked=False)
        assert client.more() == b"", "and the connection ends"


def test_the_closing_handshake_passes_with_its_code(plane: DataPlaneRouter) -> None:
    with dial(plane) as client:
        client.close(4321, "enough")
    assert (client.close_code, client.close_reason) == (4321, "enough")
    eventually(plane.is_idle, "the lease to be returned")


def test_without_a_key_no_engine_is_asked(plane: DataPlaneRouter, engine: FakeEngine) -> None:
    with pytest.raises(InvalidStatus) as refused, dial(plane, key="wrong"):
        pass
    assert refused.value.response.status_code == 401
    assert engine.journal() == []


def test_an_engines_rejection_is_a_response_as_any(plane: DataPlaneRouter) -> None:
    with pytest.raises(InvalidStatus) as refused, dial(plane, status=403):
        pass
    assert refused.value.response.status_code in (403, 502)
    eventually(plane.is_idle, "the lease to be returned")


def test_a_client_that_leaves_without_a_word_ends_the_engines_side(
    plane: DataPlaneRouter, engine: FakeEngine
) -> None:
    with dial(plane) as client:
        client.send("one")
        assert client.recv(DEADLINE) == "one"
        client.socket.shutdown(socket.SHUT_RDWR)
    eventually(lambda: last_websocket(engine)["ended"] is not None, "the engine to see the end")
    eventually(plane.is_idle, "the lease to be returned")


def test_an_engine_that_dies_ends_the_clients_side(
    plane: DataPlaneRouter, engine: FakeEngine
) -> None:
    with dial(plane) as client:
        client.send("one")
        assert client.recv(DEADLINE) == "one"
        engine.kill()
        with pytest.raises(ConnectionClosed):
            client.recv(DEADLINE)
    eventually(plane.is_idle, "the lease to be returned")


def test_a_tunnel_in_which_nothing_moves_is_ended(engine: FakeEngine, router: Routers) -> None:
    plane = router([engine], routes=routes(), timeouts={"idle": 0.3})
    with dial(plane) as client, pytest.raises(ConnectionClosed):
        client.recv(DEADLINE)
    (record,) = plane.records()
    assert (record.status, record.end) == (101, "timeout")


def test_a_drain_leaves_a_tunnel_its_time_and_then_cuts_it(plane: DataPlaneRouter) -> None:
    with dial(plane) as client:
        plane.plane.drain(60)
        client.send("still here")
        assert client.recv(DEADLINE) == "still here"
        plane.plane.drain(0)
        with pytest.raises(ConnectionClosed):
            client.recv(DEADLINE)
    assert plane.wait_until_drained() == 1
