"""A crowd that takes every descriptor there is: who has a key is served, and nothing ends."""

from __future__ import annotations

import contextlib
import re
import resource
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness import SMOLLM2, ServedRouter, cli, serving
from raw_http import BrokenFraming, Response, eventually

DESCRIPTORS = 256
"""The server's limit on open files."""
CROWD = 2000
SECONDS = 20.0
MEGABYTES = 64
"""The most that the crowd may cost the server's memory."""

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
NO_WINDOW = b"\x00\x00\x06\x04\x00\x00\x00\x00\x00" + b"\x00\x04" + b"\x00\x00\x00\x00"
# HPACK: GET, http, /metrics as a literal, :authority x as a literal.
METRICS = b"\x82\x86\x04\x08/metrics\x01\x01x"
BODY = b'{"model":"open","messages":[{"role":"user","content":"'


OPEN = """
[[routes]]
name = "open"
access_policy = "public"
targets = [{ model = "smollm2", weight = 100 }]
"""


def stream(number: int) -> bytes:
    """A HEADERS frame that asks for `/metrics` and ends its stream."""
    length = len(METRICS).to_bytes(3, "big")
    return length + b"\x01\x05" + number.to_bytes(4, "big") + METRICS


def request(head: str, body: bytes = b"") -> bytes:
    return f"{head} HTTP/1.1\r\nHost: localhost\r\n".encode() + body


KINDS = {
    "idle": b"",
    "half a head": request("GET /v1/models", b"Authoriz"),
    "a body without a key": request(
        "POST /v1/chat/completions", b"Content-Length: 100000\r\n\r\n" + BODY
    ),
    "pages that nobody reads": request("GET /metrics", b"\r\n") * 300,
    "HTTP/2 without a stream": PREFACE + NO_WINDOW,
    "HTTP/2 streams that nobody reads": PREFACE
    + NO_WINDOW
    + b"".join(stream(number) for number in range(1, 200, 2)),
}


class Crowd(threading.Thread):
    """Keeps so many connections open, and sends a byte on each now and then."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self.port = port
        self.ending = threading.Event()
        self.opened = 0

    def run(self) -> None:
        kinds = list(KINDS.values())
        sockets: list[socket.socket | None] = [None] * CROWD
        while not self.ending.wait(0.2):
            fresh = 0
            for number, one in enumerate(sockets):
                if self.ending.is_set():
                    break
                if one is not None and self.trickles(one):
                    continue
                # It is a crowd that stays, and no flood: some come back at a time.
                fresh += 1
                sockets[number] = self.open(kinds[number % len(kinds)]) if fresh < 300 else None
        for one in sockets:
            if one is not None:
                one.close()

    def open(self, first: bytes) -> socket.socket | None:
        one = socket.socket()
        one.settimeout(0.2)
        try:
            one.connect(("127.0.0.1", self.port))
            one.setblocking(False)
            one.send(first)
        except BlockingIOError:
            pass
        except OSError:
            one.close()
            return None
        self.opened += 1
        return one

    @staticmethod
    def trickles(one: socket.socket) -> bool:
        """Sends a byte; False where the server has closed the connection."""
        try:
            one.send(b"x")
        except BlockingIOError:
            return True
        except OSError:
            one.close()
            return False
        return True


@contextlib.contextmanager
def crowd(server: ServedRouter) -> Iterator[Crowd]:
    one = Crowd(int(server.address.rpartition(":")[2]))
    one.start()
    try:
        yield one
    finally:
        one.ending.set()
        one.join()


@pytest.fixture
def enough_descriptors() -> Iterator[None]:
    """The crowd needs some itself."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 2 * CROWD)), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def resident(server: ServedRouter) -> float:
    """The resident memory of the server, in MB."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) / 1024


def patiently(server: ServedRouter, question: dict[str, Any]) -> Response:
    """A chat as SDKs ask for it: what was closed unread or is a 503 is tried again."""
    for _ in range(4):
        with contextlib.suppress(BrokenFraming, ConnectionError):
            answer = server.chat(question)
            if answer.status != 503:
                return answer
            time.sleep(1.0)
    return server.chat(question)


@pytest.mark.usefixtures("enough_descriptors")
def test_a_crowd_without_a_key_neither_ends_nor_fills_the_server() -> None:
    config = SMOLLM2.format(replicas=1) + OPEN
    shell = ["bash", "-c", f'ulimit -n {DESCRIPTORS} && exec "$@"', "bash"]
    question: dict[str, Any] = {
        "model": "smollm2",
        "max_tokens": 3,
        "messages": [{"role": "user", "content": "Hi"}],
    }
    with serving(config, program=[*shell, *cli()]) as server:
        eventually(lambda: server.running() == 1, "the engine to run", 120.0)
        assert server.chat(question).status == 200
        (engine,) = server.engines()
        idle = resident(server)
        created = server.keys("create", "someone")
        assert created.returncode == 0, created.stderr
        with crowd(server) as people:
            end = time.monotonic() + SECONDS
            chats = 0
            while time.monotonic() < end:
                assert server.request("GET", "/healthz", key=None).status == 200
                assert patiently(server, question).status == 200
                chats += 1
            revoked = server.keys("revoke", "someone")
            assert revoked.returncode == 0, revoked.stderr
            full = resident(server)
            assert people.opened > DESCRIPTORS, "the crowd took all places"
        assert chats > 1
        assert full <= idle + MEGABYTES, f"{idle:.0f} MB idle, {full:.0f} MB in the crowd"
        assert server.engines() == [engine], "the engine is the same"
        assert patiently(server, question).status == 200
        assert "evicted" in server.metrics()
