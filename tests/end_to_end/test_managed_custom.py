"""Any program as an engine of ours, by its command line alone."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import short_folder
from managed_server import ManagedServer, running
from raw_http import chat

PROGRAM = Path(__file__).parents[1] / "fake_engine.py"
# Writes down what it was given, and becomes the fake engine.
WRAPPER = f"""#!/bin/sh
echo "key=$ENGINE_API_KEY"
echo "greeting=$GREETING"
for argument; do echo "argument=$argument"; done
exec {sys.executable} {PROGRAM} --port "$2"
"""
MODEL = """
[[models]]
name = "mine"
backend = "custom"
run_command = '''{folder}/my-server --port {{port}} "{{ GREETING }} you" {{model_path}} \
{{model_name}} {{worker_ip}} {{gpu_count}}'''
source = "local_path"
local_path = "{path}/model.bin"
health_path = "/is-it-well"
categories = ["llm"]
backend_parameters = ["--more=a b"]
env = { GREETING = "hello; to" }
"""


@pytest.fixture(scope="module")
def engine() -> Iterator[ManagedServer]:
    with short_folder() as folder:
        script = folder / "my-server"
        script.write_text(WRAPPER)
        script.chmod(0o755)
        (folder / "model").mkdir()
        (folder / "model" / "model.bin").write_text("of a kind that nobody knows")
        with running(folder, MODEL.replace("{folder}", str(folder)), {}) as one:
            one.runs()
            yield one


def given(engine: ManagedServer, what: str) -> list[str]:
    return re.findall(rf"^{what}=(.*)$", engine.log(), re.MULTILINE)


def test_its_words_are_filled_in_and_stay_words(engine: ManagedServer) -> None:
    port = engine.instance().address.rpartition(":")[2]
    expected = ["--port", port, "hello; to you", f"{engine.model}/model.bin", "mine", "127.0.0.1"]
    assert given(engine, "argument") == [*expected, "0", "--more=a b"]
    assert given(engine, "greeting") == ["hello; to"]


def test_it_is_asked_at_its_health_path_and_served_with_its_key(engine: ManagedServer) -> None:
    assert engine.asked("/is-it-well") and not engine.asked("/health")
    response = engine.router.chat(chat("mine", stream=True))
    assert response.status == 200 and response.events()[-1] == "[DONE]"
    headers = dict(engine.asked("/v1/chat/completions")[-1]["headers"])
    (key,) = given(engine, "key")
    found = {name.lower(): value for name, value in headers.items()}
    assert key and found["authorization"] == f"Bearer {key}"
