"""What a stranger can hold of this server is bounded: memory, files, time, an engine's slots."""

from __future__ import annotations

import contextlib
import json
import select
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import seam_samples
from harness import KEY, DataPlaneRouter, FakeEngine
from raw_http import DEADLINE, build, chat, eventually

Engines = Callable[..., list[FakeEngine]]
Routers = Callable[..., DataPlaneRouter]
MB = 1 << 20
UPGRADE = b"\r\n".join(
    [
        b"GET /v1/realtime?model=m HTTP/1.1",
        b"Host: localhost",
        b"Connection: Upgrade",
        b"Upgrade: websocket",
        b"Sec-WebSocket-Version: 13",
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        b"\r\n",
    ]
)


def resident() -> int:
    """Bytes of this process, the data plane among it, that are in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def half(size: int) -> bytes:
    """A request without a key and half of its `size` bytes of body, in which no model comes."""
    whole = build("POST", "/v1/chat/completions", b'{"x": "' + b"x" * size)
    return whole[: len(whole) - size // 2]


def public(fake_engines: Engines, router: Routers, **settings: Any) -> DataPlaneRouter:
    """A data plane whose only route needs no key."""
    route = seam_samples.route_entry("m", [seam_samples.target_entry()], access_policy="public")
    return router(fake_engines(1), routes=[route], **settings)


def test_an_open_stream_does_not_keep_its_request(fake_engines: Engines, router: Routers) -> None:
    plane = router(fake_engines(1), limits={"replay_bytes": 5 * MB, "memory_bytes": 5 * MB})
    orders = {"frames": 3, "delay": 60}
    request = build(
        "POST",
        "/v1/chat/completions",
        chat(text="x" * (4 * MB), stream=True, fake=orders),
        key=KEY,
    )
    with contextlib.ExitStack() as streams:

        def open_stream() -> None:
            client = streams.enter_context(plane.client())
            client.send(request)
            assert client.read_head().status == 200
            client.read_chunk()

        for _ in range(2):
            open_stream()
        before = resident()
        for _ in range(12):
            open_stream()
        grown = resident() - before
        assert grown < 24 * MB, f"of 48 MB of requests {grown} bytes are kept"


@pytest.mark.parametrize("upgrades", [False, True])
def test_strangers_at_work_leave_places_for_those_with_a_key(
    fake_engines: Engines, router: Routers, upgrades: bool
) -> None:
    plane = public(fake_engines, router, limits={"connections": 16}, workers=1)
    if upgrades:
        slow = UPGRADE
    else:
        orders = {"frames": 3, "delay": 60}
        slow = build("POST", "/v1/chat/completions", chat(stream=True, fake=orders))
    with contextlib.ExitStack() as strangers:
        statuses = []
        for _ in range(20):
            stranger = strangers.enter_context(plane.client())
            stranger.send(slow)
            statuses.append(stranger.read_head().status)
        if not upgrades:
            assert statuses == [200] * 14 + [503] * 6
        assert [plane.chat(chat("m")).status for _ in range(20)] == [200] * 20


def test_a_slow_body_is_refused_with_the_setting(fake_engines: Engines, router: Routers) -> None:
    plane = router(fake_engines(1), timeouts={"body": 1}, limits={"body_rate": 1_000_000})
    body = json.dumps(chat(text="x" * 100_000)).encode()
    whole = build("POST", "/v1/chat/completions", body, key=KEY)
    with plane.client() as client:
        client.send(whole[: len(whole) - len(body)])
        eventually(lambda: plane.plane.stats().in_flight == 1, "the request to have begun")
        rest = iter(body)

        def is_over() -> bool:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                client.send(bytes([next(rest)]))
            return bool(plane.plane.stats().in_flight == 0)

        eventually(is_over, "the request to be refused")
        response = client.read_response()
    assert response.status == 408
    assert "limits.body_rate" in response.json()["error"]["message"]


def test_callers_without_a_key_fill_neither_the_disk_nor_the_others_part(
    fake_engines: Engines, router: Routers, tmp_path: Path
) -> None:
    limits = {"spool_bytes": 16 * MB, "memory_bytes": 65_536, "replay_bytes": 0}
    plane = public(fake_engines, router, spool=tmp_path, limits=limits)
    with contextlib.ExitStack() as strangers:
        clients, answered = {}, list[Any]()
        for patience in (0, 0, 0, DEADLINE):
            client = strangers.enter_context(plane.client())
            clients[client.socket] = client
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                client.send(half(4 * MB))
            answered, _, _ = select.select(list(clients), [], [], patience)
            if answered:
                break
        assert answered, "an eighth of 16 MB is 2 MB, and each sends 2 MB"
        refused = clients[answered[0]].read_response()
        assert refused.status == 503
        assert refused.header("retry-after")
        assert "limits.spool_bytes" in refused.json()["error"]["message"]
        # A caller with a key has the rest of it, and an ordinary request needs none.
        known = strangers.enter_context(plane.client())
        body = json.dumps({"x": "x" * (6 * MB), **chat()}).encode()
        known.send(build("POST", "/v1/chat/completions", body, key=KEY))
        assert known.read_response().status == 200
        with plane.client() as other:
            assert other.request("POST", "/v1/chat/completions", chat()).status == 200
    eventually(plane.is_idle, "what the strangers held to come back")


@pytest.mark.parametrize("key", [None, "sk-of-somebody-else-0123456789"])
def test_no_body_is_invited_where_the_head_tells_the_answer(
    fake_engines: Engines, router: Routers, key: str | None
) -> None:
    plane = router(fake_engines(1))
    request = build(
        "POST", "/v1/chat/completions", chat(), key=key, headers=[("Expect", "100-continue")]
    )
    head = request[: request.index(b"\r\n\r\n") + 4]
    with plane.client() as client:
        client.send(head)
        assert client.read_head().status == 401, "not 100 Continue"


def test_a_slow_client_holds_no_slot(fake_engines: Engines, router: Routers) -> None:
    plane = router(fake_engines(1))
    body = json.dumps({**chat(), "x": "x" * 10_000}).encode()
    whole = build("POST", "/v1/chat/completions", body, key=KEY)
    with plane.client() as client:
        client.send(whole[:-100])
        eventually(lambda: plane.plane.stats().in_flight == 1, "the request to be read")
        time.sleep(0.2)
        assert all(instance.outstanding == 0 for instance in plane.plane.stats().instances)
        client.send(whole[-100:])
        assert client.read_response().status == 200
    eventually(plane.is_idle, "the slot to be given back")
