"""A model that changes its kind of engine while it is used: no request reaches the wrong kind."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections import Counter
from typing import Any

import made_up_environment
from harness import KEY, STARTED_WITHIN, short_folder
from load import Load
from managed_server import MODEL, ManagedServer, running
from raw_http import BrokenFraming, Client, build, eventually

NAME = "org/m"
"""TensorRT-LLM calls it `m`."""


def kinds(one: ManagedServer) -> set[str]:
    return {
        "vllm" if "vllm.entrypoints" in line else "tensorrt_llm"
        for pid, line in one.processes().items()
        if pid in {instance.pid for instance in one.instances()}
    }


class Messages(threading.Thread):
    """Asks in Anthropic's dialect, which vLLM speaks by itself and TensorRT-LLM does not."""

    def __init__(self, one: ManagedServer) -> None:
        super().__init__()
        self.statuses: Counter[int] = Counter()
        self.models: Counter[str] = Counter()
        self.ended = False
        self._address = one.router.address
        body = {
            "model": NAME,
            "max_tokens": 5,
            "messages": [{"role": "user", "content": "Say hello."}],
        }
        self._request = build("POST", "/v1/messages", body, key=KEY)

    def run(self) -> None:
        with Client(self._address) as client:
            while not self.ended:
                client.send(self._request)
                response = client.read_response()
                self.statuses[response.status] += 1
                if response.status == 200:
                    self.models[response.json()["model"]] += 1


class Journals(threading.Thread):
    """Reads what the engines have received, over and over, for their journals end with them."""

    def __init__(self, one: ManagedServer) -> None:
        super().__init__()
        self.received: dict[str, list[dict[str, Any]]] = {}
        """The requests of each engine, by its address."""
        self.ended = False
        self._one = one

    def run(self) -> None:
        while not self.ended:
            for instance in self._one.instances():
                if instance.state == "running":
                    self.received.setdefault(instance.address, [])
            for address in self.received:
                with contextlib.suppress(OSError, BrokenFraming), Client(address) as client:
                    found = client.request("GET", "/fake/journal").json()
                    self.received[address] = [one for one in found if one["method"] == "POST"]

    def seen(self, prefix: str) -> tuple[set[str], set[str]]:
        """The paths and the models that were asked of engines at such addresses."""
        found = [
            one
            for address, requests in self.received.items()
            if address.startswith(prefix)
            for one in requests
        ]
        return {one["target"] for one in found}, {one["model"] for one in found}


def test_requests_are_translated_for_the_engine_that_they_reach() -> None:
    more = "replicas = 2"
    before = MODEL.replace("{name}", NAME).replace("{kind}", "tensorrt_llm").replace("{more}", more)
    with short_folder() as folder:
        made_up_environment.make(folder / "environment", "tensorrt_llm")
        other = made_up_environment.make(folder / "other", "vllm")
        with running(folder, before, {}) as one:
            one.wait(lambda _: [now.state for now in one.instances()] == ["running"] * 2, "both")
            asker, journals = Messages(one), Journals(one)
            with Load(one.router.address, KEY, NAME, rate=30, streams=5, delay=0.05) as load:
                asker.start()
                journals.start()
                text = one.router.config.read_text().replace('"tensorrt_llm"', '"vllm"')
                first = folder / "environment" / "bin" / "python"
                one.router.config.write_text(text.replace(str(first), str(other)))
                one.router.process.send_signal(signal.SIGHUP)
                eventually(lambda: kinds(one) == {"vllm", "tensorrt_llm"}, "both", STARTED_WITHIN)
                eventually(
                    lambda: kinds(one) == {"vllm"} and len(one.instances()) == 2,
                    "the other kind alone",
                    STARTED_WITHIN,
                )
            for thread in (asker, journals):
                thread.ended = True
                thread.join()
            assert load.problems() == [], one.router.output()[-3000:]
            assert load.succeeded("stream") >= 5
            assert set(asker.statuses) == {200} and set(asker.models) == {NAME}
            paths = {"/v1/chat/completions", "/v1/completions"}  # that one is our own first request
            assert journals.seen("http:") == (paths, {"m"})
            assert journals.seen("unix:") == ({*paths, "/v1/messages"}, {NAME})
