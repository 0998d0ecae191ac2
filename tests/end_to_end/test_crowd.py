"""A crowd that takes every descriptor there is: who has a key is served, and nothing ends."""

from __future__ import annotations

import contextlib
import re
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness import (
    ENDED_WITHIN,
    KEY,
    SMOLLM2,
    STARTED_WITHIN,
    ServedRouter,
    serving,
    with_descriptors,
)
from raw_http import eventually

DESCRIPTORS = 256
"""The server's limit on open files."""
SECONDS = 20.0
MEGABYTES = 64
"""The most that the crowd may cost the server's memory."""

OPEN = """
[[routes]]
name = "open"
access_policy = "public"
targets = [{ model = "smollm2", weight = 100 }]
"""


@contextlib.contextmanager
def crowd(server: ServedRouter) -> Iterator[list[int]]:
    """A crowd around the server while the block runs; then the number of its connections."""
    opened: list[int] = []
    program = [sys.executable, str(Path(__file__).with_name("crowd.py"))]
    command = [*program, server.address.rpartition(":")[2], KEY]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as people:
        try:
            yield opened
        finally:
            output, _ = people.communicate(timeout=ENDED_WITHIN)
            opened.append(int(output))


@pytest.fixture
def enough_descriptors() -> Iterator[None]:
    """The crowd needs some itself."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 4096)), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def resident(server: ServedRouter) -> float:
    """The resident memory of the server, in MB."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) / 1024


@pytest.mark.usefixtures("enough_descriptors")
def test_a_crowd_of_every_kind_neither_ends_nor_fills_the_server() -> None:
    config = SMOLLM2.format(replicas=1) + OPEN
    question: dict[str, Any] = {
        "model": "smollm2",
        "max_tokens": 3,
        "messages": [{"role": "user", "content": "Hi"}],
    }
    with serving(config, program=with_descriptors(DESCRIPTORS)) as server:
        eventually(lambda: server.running() == 1, "the engine to run", STARTED_WITHIN)
        assert server.chat(question).status == 200
        (engine,) = server.engines()
        idle = resident(server)
        created = server.keys("create", "someone")
        assert created.returncode == 0, created.stderr
        with crowd(server) as opened:
            end = time.monotonic() + SECONDS
            chats = 0
            while time.monotonic() < end:
                assert server.request("GET", "/healthz", key=None).status == 200
                answer = server.chat(question)
                assert answer.status == 200, f"after {chats} chats: {answer.body!r}"
                chats += 1
            revoked = server.keys("revoke", "someone")
            assert revoked.returncode == 0, revoked.stderr
            full = resident(server)
        assert chats > 1
        assert opened[0] > 10 * DESCRIPTORS, "the crowd took all places"
        assert full <= idle + MEGABYTES, f"{idle:.0f} MB idle, {full:.0f} MB in the crowd"
        assert server.engines() == [engine], "the engine is the same"
        assert server.chat(question).status == 200
        assert "evicted" in server.metrics()
