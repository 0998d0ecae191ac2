"""Streamed chat as people use it, with the time to the first frame as a row of its own.

    .tools/bin/uvx --from 'locust>=2.47' locust -f bench/locustfile.py --host http://127.0.0.1:8080
    \
        --headless --users 4 --spawn-rate 2 --run-time 60s

The key is taken from GPUSTACK_FAST_KEY and the model from MODEL (default: smollm2). Every stream
must end in [DONE]. Locust cannot tell tens of microseconds apart: this is for scenarios and long
runs; bench/side_by_side.py is for cost.
"""

from __future__ import annotations

import os
import time

from locust import HttpUser, between, events, task

PATH = "/v1/chat/completions"


class ChatUser(HttpUser):
    """One person who asks, reads the response to its end, and thinks before the next question."""

    wait_time = between(0.5, 2.0)

    def on_start(self) -> None:
        self.client.headers["Authorization"] = f"Bearer {os.environ['GPUSTACK_FAST_KEY']}"

    @task
    def ask(self) -> None:
        body = {
            "model": os.environ.get("MODEL", "smollm2"),
            "messages": [{"role": "user", "content": "Name three rivers of Europe."}],
            "max_tokens": 64,
            "stream": True,
        }
        begun = time.perf_counter()
        with self.client.post(PATH, json=body, stream=True, catch_response=True) as response:
            if response.status_code != 200:
                response.failure(f"status {response.status_code}: {response.text[:200]}")
                return
            last = b""
            for line in response.iter_lines():
                if line.startswith(b"data: "):
                    if not last:
                        tell_first_frame(time.perf_counter() - begun)
                    last = line
            if last != b"data: [DONE]":
                response.failure("the stream did not end in [DONE]")


def tell_first_frame(seconds: float) -> None:
    """Times the first frame of a stream: locust's own row for the request ends with its head."""
    events.request.fire(
        request_type="FRAME",
        name=PATH,
        response_time=seconds * 1000,
        response_length=0,
        exception=None,
        context={},
    )
