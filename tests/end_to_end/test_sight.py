"""The log of the whole product: what it holds at its most talkative, and a reader that stops."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

import pytest

from harness import KEY, FakeEngine, cli, external, read_gauge, serving
from raw_http import chat

PROMPT = "words-of-a-prompt"
UNREAD = """
import os, sys
held, pipe = os.pipe()
os.set_inheritable(held, True)
os.dup2(pipe, 2)
os.execv(sys.argv[1], sys.argv[1:])
"""
"""Runs a program whose standard error is a pipe that is open and that nobody reads."""


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_no_key_and_no_prompt_is_in_any_line_at_trace(engine: FakeEngine, log_format: str) -> None:
    arguments = ["--log-level", "trace", "--log-format", log_format]
    with serving(external([engine]), *arguments) as server:
        made = server.keys("create", "alice").stdout.strip()
        for key, status in [(KEY, 200), (made, 200), ("another-key-of-somebody", 401)]:
            assert server.chat(chat("default", PROMPT), key=key).status == status
        assert server.chat(chat("default", PROMPT, stream=True)).status == 200
        assert server.request("POST", f"/v1/chat/completions?q={PROMPT}", PROMPT).status == 400
        assert server.request("GET", "/v2/models").status == 200
        assert server.keys("revoke", "alice").returncode == 0
        server.stop()
        lines = server.output().splitlines()
    lines = [line for line in lines if line.startswith("{" if log_format == "json" else "2")]
    if log_format == "json":
        subjects = {json.loads(line)["subject"] for line in lines}
    else:
        subjects = {line.split()[2] for line in lines}
        assert all(
            re.match(r"\S{24} (ERROR|WARN |INFO |DEBUG|TRACE) [a-z0-9_.]+ ", line) for line in lines
        )
    assert {"dataplane", "upstream.pool", "app"} <= subjects
    for secret in (PROMPT, KEY, made, made.rpartition("_")[2], "another-key-of-somebody"):
        assert not any(secret in line for line in lines), secret


def test_a_log_that_nobody_reads_holds_nothing_up(engine: FakeEngine) -> None:
    program = [sys.executable, "-c", UNREAD, *cli()]
    with serving(external([engine]), "--log-level", "debug", program=program) as server:
        with server.client() as client:
            for _ in range(200):
                for _ in range(100):
                    response = client.request("POST", "/v1/chat/completions", chat(), key=KEY)
                    assert response.status == 200
                if read_gauge(server.metrics(), "gpustack_fast_log_lines_lost_total"):
                    break
        assert read_gauge(server.metrics(), "gpustack_fast_log_lines_lost_total") > 0
        assert server.request("GET", "/v2/models").status == 200
        assert server.stop() == 0


CLOSED = """
import os, sys
for standard in (0, 1, 2):
    os.close(standard)
os.execv(sys.argv[1], sys.argv[1:])
"""
"""Runs a program without standard input, output and error."""


def test_closed_standard_descriptors_lead_to_nothing_of_ours(engine: FakeEngine) -> None:
    program = [sys.executable, "-c", CLOSED, *cli()]
    with serving(external([engine]), "--log-level", "debug", program=program) as server:
        assert server.chat(chat()).status == 200
        descriptors = Path(f"/proc/{server.process.pid}/fd")
        assert {os.readlink(descriptors / str(number)) for number in (0, 1, 2)} == {os.devnull}
        assert server.stop() == 0
