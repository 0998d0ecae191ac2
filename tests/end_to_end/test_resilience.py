"""What this machine lacks ends neither the server nor an engine: descriptors, disk, the log."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from harness import (
    KEY,
    DataPlaneRouter,
    FakeEngine,
    ServedRouter,
    external,
    read_gauge,
    serving,
    with_descriptors,
)
from limits import no_descriptors, no_room
from raw_http import Response, build, chat, eventually

Engines = Callable[..., list[FakeEngine]]


@pytest.fixture
def two(fake_engines: Engines) -> tuple[FakeEngine, FakeEngine]:
    first, second = fake_engines(2)
    return first, second


def faults(server: ServedRouter, work: str) -> float:
    return read_gauge(
        "\n".join(line for line in server.metrics().splitlines() if f'work="{work}"' in line),
        "gpustack_fast_own_faults_total",
    )


def test_nothing_ends_while_the_log_cannot_be_written(
    short_folder: Path, two: tuple[FakeEngine, FakeEngine]
) -> None:
    (short_folder / "serve.log").symlink_to("/dev/full")
    server = ServedRouter(short_folder, external(list(two)))
    try:
        server.wait_until_ready()
        two[0].kill()
        eventually(lambda: server.running() == 1, "the death is seen")
        assert server.chat(chat("m")).status == 200
        assert read_gauge(server.metrics(), "gpustack_fast_log_lines_lost_total") > 0
    finally:
        assert server.stop() == 0


def non_blocking(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def test_nothing_ends_when_the_reader_of_the_log_has_gone(
    short_folder: Path, two: tuple[FakeEngine, FakeEngine]
) -> None:
    (short_folder / "serve.log").symlink_to("pipe")
    os.mkfifo(short_folder / "pipe")
    with open(short_folder / "pipe", "rb", opener=non_blocking) as reader:
        server = ServedRouter(short_folder, external(list(two)))
        try:
            server.wait_until_ready()
            reader.close()
            two[0].kill()
            eventually(lambda: server.running() == 1, "the death is seen")
            assert server.chat(chat("m")).status == 200
            assert read_gauge(server.metrics(), "gpustack_fast_log_lines_lost_total") > 0
        finally:
            assert server.stop() == 0


def test_without_descriptors_no_engine_is_blamed_and_what_is_missing_is_told(
    serve: Callable[..., ServedRouter], two: tuple[FakeEngine, FakeEngine]
) -> None:
    server = serve(external(list(two)), "--workers", "1")
    with server.client() as client:

        def send() -> Response:
            client.send(build("POST", "/v1/chat/completions", chat("m"), key=server.key))
            return client.read_response()

        assert client.request("GET", "/healthz").status == 200
        with no_descriptors(server.process.pid):
            for refused in (send() for _ in range(10)):
                assert refused.status == 503
                assert refused.json()["error"]["code"] == "server_out_of_resources"
                assert "Too many open files" in refused.json()["error"]["message"]
                assert ("retry-after", "2") in refused.headers
            assert server.output().count("request failed") == 1
            two[0].kill()
            eventually(lambda: "could not be probed" in server.output(), "the probes fail")
        assert send().status == 200, "the other engine is there at once"
        with no_descriptors(server.process.pid):
            assert [send().status for _ in range(10)] == [200] * 10, "over what is open"
        eventually(lambda: server.running() == 1, "the death is seen")

    def told() -> int:
        return server.output().count("unreachable") + server.output().count("Nobody can be")

    eventually(lambda: told() == 1, "the death is told of")
    eventually(lambda: faults(server, "probe") > 0, "the faults are counted")
    assert read_gauge(server.metrics(), "gpustack_fast_connections_without_room_total") >= 10
    living = [line for line in server.metrics().splitlines() if 'instance="m-1"' in line]
    assert read_gauge("\n".join(living), "gpustack_fast_instance_faults_total") == 0


def test_without_descriptors_the_management_api_is_not_blamed_either(
    serve: Callable[..., ServedRouter], shared_engine: FakeEngine
) -> None:
    server = serve(external([shared_engine]), "--workers", "1")
    with server.client() as client:
        assert client.request("GET", "/healthz").status == 200
        with no_descriptors(server.process.pid):
            refused = client.request("GET", "/v2/models", key=server.key)
        assert (refused.status, refused.json()["reason"]) == (503, "ServiceUnavailable")
        assert "Too many open files" in refused.json()["message"]
        assert client.request("GET", "/v2/models", key=server.key).status == 200
    assert read_gauge(server.metrics(), "gpustack_fast_connections_without_room_total") > 0


def test_a_key_is_revoked_at_once_though_nothing_can_be_saved(
    serve: Callable[..., ServedRouter], shared_engine: FakeEngine
) -> None:
    server = serve(external([shared_engine]))
    key = server.keys("create", "stolen").stdout.strip()
    assert server.chat(chat("m"), key=key).status == 200
    with no_room(server.process.pid):
        revoked = server.keys("revoke", "stolen")
        assert revoked.returncode == 3
        assert "`stolen`" in revoked.stdout and "is revoked" in revoked.stdout
        assert "may still be on the disk. The change was not saved in" in revoked.stderr
        assert server.chat(chat("m"), key=key).status == 401
        assert "REVOKED, NOT SAVED YET" in server.keys("list").stdout
    eventually(lambda: "stolen" not in server.keys("list").stdout, "it is saved")
    assert "stolen" not in (server.data_dir / "keys.json").read_text()
    assert server.chat(chat("m"), key=KEY).status == 200


def test_idle_connections_that_take_all_descriptors_end_nothing(
    two: tuple[FakeEngine, FakeEngine],
) -> None:
    program = with_descriptors(100)
    with serving(external(list(two)), "--workers", "1", program=program) as server:
        with contextlib.ExitStack() as idle:
            for _ in range(150):
                idle.enter_context(connect(server))
            two[0].kill()
            listed = server.keys("list")
            assert listed.returncode == 0, listed.stderr
            assert "default" in listed.stdout
        eventually(lambda: server.is_alive() and server.running() == 1, "the death is seen")
        assert server.chat(chat("m")).status == 200
        failures = read_gauge(server.metrics(), "gpustack_fast_accept_failures_total")
        lines = server.output().count("clients cannot be accepted")
        assert lines <= 1 and (lines == 1) == (failures > 0)
        assert server.stop() == 0


def connect(server: ServedRouter) -> socket.socket:
    host, port = server.address.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)))


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """A frame of HTTP/2."""
    return (
        len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload
    )


def many_requests(count: int, body: bytes, *, key: str | None = None, whole: bool = True) -> bytes:
    """A connection of HTTP/2 that sends this chat so many times, or `not whole`: no end of it."""

    def literal(*words: bytes) -> bytes:
        return b"\x00" + b"".join(bytes([len(word)]) + word for word in words)

    head = literal(b":method", b"POST") + literal(b":scheme", b"http")
    head += literal(b":path", b"/v1/chat/completions") + literal(b":authority", b"localhost")
    head += literal(b"content-type", b"application/json")
    if key is not None:
        head += literal(b"authorization", f"Bearer {key}".encode())
    streams = range(1, 2 * count, 2)
    requests = (frame(1, 4, number, head) + frame(0, whole, number, body) for number in streams)
    return b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0) + b"".join(requests)


def test_requests_over_few_connections_leave_descriptors_for_others(
    two: tuple[FakeEngine, FakeEngine],
) -> None:
    public = """
[[routes]]
name = "open"
access_policy = "public"
targets = [{ model = "m", weight = 100 }]
"""
    config, program = external(list(two)) + public, with_descriptors(200)
    with serving(config, "--workers", "1", program=program) as server:
        body = json.dumps(chat("open", stream=True, fake={"frames": 2, "delay": 60})).encode()
        with contextlib.ExitStack() as strangers:
            for _ in range(4):
                stranger = connect(server)
                strangers.enter_context(stranger).sendall(many_requests(100, body))
            eventually(
                lambda: read_gauge(server.metrics(), "gpustack_fast_requests_in_flight") > 50,
                "they run",
            )
            for number in range(5):
                assert server.request("GET", "/healthz", key=None).status == 200
                assert server.chat(chat("m")).status == 200
                created = server.keys("create", f"key-{number}")
                assert created.returncode == 0, created.stderr
        assert server.stop() == 0


def test_a_request_finds_a_descriptor_among_requests_that_wait_for_their_clients(
    two: tuple[FakeEngine, FakeEngine],
) -> None:
    program = with_descriptors(100)
    with serving(external(list(two)), "--workers", "1", program=program) as server:
        with contextlib.ExitStack() as stuck:
            for _ in range(4):
                one = stuck.enter_context(connect(server))
                one.sendall(many_requests(50, b'{"model": "m", ', key=KEY, whole=False))
                assert [server.chat(chat("m")).status for _ in range(5)] == [200] * 5
        assert server.stop() == 0


def test_a_stored_response_is_not_lost_for_want_of_a_descriptor(
    router: Callable[..., DataPlaneRouter], fake_engines: Engines
) -> None:
    plane = router(fake_engines(1), instance={"idle_timeout": 0.0})
    made = plane.request("POST", "/v1/responses", {"model": "default", "input": "hello"}).json()
    path = f"/v1/responses/{made['id']}"
    with plane.client() as client:
        assert client.request("GET", path, key=plane.key).status == 200
        with no_descriptors():
            refused = client.request("GET", path, key=plane.key)
        assert refused.status == 503
        assert "Too many open files" in refused.json()["error"]["message"]
        assert client.request("GET", path, key=plane.key).status == 200
