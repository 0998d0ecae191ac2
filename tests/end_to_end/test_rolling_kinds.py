"""A model that changes its kind of engine while it is used: no request reaches the wrong kind."""

from __future__ import annotations

import signal
import threading
from collections import Counter

import made_up_environment
from harness import KEY, STARTED_WITHIN, short_folder
from load import Load
from managed_server import MODEL, ManagedServer, running
from raw_http import Client, build, eventually


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
            "model": "m",
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


def test_requests_are_translated_for_the_engine_that_they_reach() -> None:
    more = "replicas = 2"
    before = MODEL.replace("{name}", "m").replace("{kind}", "vllm").replace("{more}", more)
    with short_folder() as folder:
        made_up_environment.make(folder / "environment", "vllm")
        other = made_up_environment.make(folder / "other", "tensorrt_llm")
        with running(folder, before, {}) as one:
            one.wait(lambda _: [now.state for now in one.instances()] == ["running"] * 2, "both")
            assert kinds(one) == {"vllm"}
            asker = Messages(one)
            with Load(one.router.address, KEY, "m", rate=30, streams=5, delay=0.05) as load:
                asker.start()
                text = one.router.config.read_text().replace('"vllm"', '"tensorrt_llm"')
                first = folder / "environment" / "bin" / "python"
                one.router.config.write_text(text.replace(str(first), str(other)))
                one.router.process.send_signal(signal.SIGHUP)
                eventually(lambda: len(kinds(one)) == 2, "both kinds", STARTED_WITHIN)
                eventually(
                    lambda: kinds(one) == {"tensorrt_llm"} and len(one.instances()) == 2,
                    "the other kind alone",
                    STARTED_WITHIN,
                )
            asker.ended = True
            asker.join()
            assert load.problems() == [], one.router.output()[-3000:]
            assert load.succeeded("stream") >= 5
            assert set(asker.statuses) == {200} and set(asker.models) == {"m"}
