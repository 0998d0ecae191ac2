"""`gpustack-fast serve` without any configuration: a real model, and a line to paste that works."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import ENDED_WITHIN, STARTED_WITHIN, cli, stop
from raw_http import Client, eventually, sooner_or_later

AT_A_LOSS_AFTER = 30
"""Seconds for one answer. So small a model, whose words are chosen by chance, does not always find
an end, and fills its context, which can take minutes."""
CURL_TIMED_OUT = 28
"""curl's exit status then."""


class Default:
    """`serve` as a person types it, with a home of its own."""

    def __init__(self, home: Path) -> None:
        self.environment = {
            **{
                name: value
                for name, value in os.environ.items()
                if not name.startswith("GPUSTACK_FAST_")
            },
            "XDG_DATA_HOME": str(home),
        }
        self.screen = home / "screen"
        self.start()

    def start(self) -> None:
        with self.screen.open("wb") as screen:
            self.process = subprocess.Popen(
                [*cli(), "serve", "--port", "0"], stderr=screen, env=self.environment
            )

    def seen(self) -> str:
        return self.screen.read_text()

    def wait_until_ready(self) -> None:
        def ready() -> bool:
            assert self.process.poll() is None, self.seen()
            return "Try it: " in self.seen()

        eventually(ready, "the ready lines", STARTED_WITHIN)

    def url(self) -> str:
        found = re.search(r"^Ready: (http://\S+)$", self.seen(), re.MULTILINE)
        assert found is not None
        return found[1]

    def run(self, command: list[str], **more: str) -> str:
        environment = {**self.environment, **more}
        return subprocess.run(
            command,
            env=environment,
            capture_output=True,
            text=True,
            timeout=ENDED_WITHIN,
            check=True,
        ).stdout

    def keys(self, *arguments: str) -> str:
        return self.run([*cli(), "keys", *arguments])

    def paste(self, **more: str) -> str:
        """Runs the printed curl line as a shell would."""
        line = self.seen().partition("Try it: ")[2].splitlines()[0]
        assert line.startswith("curl -N http://")

        def answer() -> str | None:
            try:
                return self.run(["sh", "-c", f"{line} --max-time {AT_A_LOSS_AFTER}"], **more)
            except subprocess.CalledProcessError as error:
                if error.returncode != CURL_TIMED_OUT:
                    raise
                return None

        stream: str = sooner_or_later(answer, "the model to come to an end")
        return stream

    def status(self, key: str) -> int:
        with Client(self.url()) as client:
            return client.request("GET", "/v1/models", key=key).status


@pytest.fixture(scope="module")
def default() -> Iterator[Default]:
    with tempfile.TemporaryDirectory(prefix="gpf-", dir="/tmp", ignore_cleanup_errors=True) as home:
        one = Default(Path(home))
        try:
            one.wait_until_ready()
            yield one
        finally:
            stop(one.process)


def response_of(stream: str) -> str:
    """The text that a stream of chat chunks carries; checks that it is whole."""
    events = [
        line.removeprefix("data: ") for line in stream.splitlines() if line.startswith("data: ")
    ]
    assert events[-1] == "[DONE]"
    chunks = [json.loads(event) for event in events[:-1]]
    assert {chunk["model"] for chunk in chunks} == {"smollm2"}
    return "".join(
        choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"]
    )


def test_the_printed_line_streams_a_real_response(default: Default) -> None:
    assert re.search(r"[a-z]{2,}", response_of(default.paste()))


def test_a_first_start_without_a_terminal_writes_its_key_to_a_file_and_to_no_log(
    default: Default,
) -> None:
    data = Path(default.environment["XDG_DATA_HOME"], "gpustack-fast")
    assert f"The first API key is in {data}/first-key, which its owner alone" in default.seen()
    key = (data / "first-key").read_text().removesuffix("\n")
    assert re.fullmatch(r"gpustack_[0-9a-f]{16}_[0-9a-f]{32}", key)
    assert default.status(key) == 200
    assert key.rpartition("_")[2] not in default.seen()
    for name in ("first-key", "keys.json"):
        assert (data / name).stat().st_mode & 0o777 == 0o600
    assert key.rpartition("_")[2] not in (data / "keys.json").read_text()


def test_keys_come_and_go_while_the_server_runs(default: Default) -> None:
    key = default.keys("create", "laptop").strip()
    assert default.status(key) == 200
    assert "laptop" in default.keys("list")
    assert key not in default.keys("list")
    default.keys("revoke", "laptop")
    assert default.status(key) == 401
    assert "laptop" not in default.keys("list")


def test_the_progress_is_reported_in_lines(default: Default) -> None:
    told = default.seen()
    places = [
        told.index(words)
        for words in ("Listening on", "Building the environment", "Starting smollm2", "Ready:")
    ]
    assert places == sorted(places)


def test_a_later_start_builds_nothing_and_says_how_to_get_a_key(default: Default) -> None:
    default.process.send_signal(signal.SIGINT)
    assert default.process.wait(ENDED_WITHIN) == 0
    default.start()
    default.wait_until_ready()
    told = default.seen()
    assert "Building" not in told
    assert not re.search(r"gpustack_[0-9a-f]{16}_", told)
    assert 'Bearer $YOUR_KEY"' in told
    key = default.keys("create", "later").strip()
    assert response_of(default.paste(YOUR_KEY=key))
