"""TensorRT-LLM as an engine of ours: its command line, bytes and processes as its source has them,
played by the fake engine in an environment that is made up. No real one was here.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpustack_fast.storage.engine_paths import EnginePaths
from harness import STARTED_WITHIN
from managed_server import ManagedServer, managed
from raw_http import chat, eventually

NAME = "org/qwen3"
FLAT = '{"object":"error","message":"Too long.","type":"BadRequestError","param":null,"code":400}'


@pytest.fixture(scope="module")
def engine() -> Iterator[ManagedServer]:
    with managed("tensorrt_llm", NAME) as one:
        one.runs()
        yield one


def whole(one: ManagedServer) -> dict[int, str]:
    """The processes of an engine: itself, its daemon, and a worker of that."""
    eventually(lambda: len(one.processes()) == 3, "its worker to run")
    return one.processes()


def test_it_is_started_over_loopback_with_its_files_in_a_folder_of_its_own(
    engine: ManagedServer,
) -> None:
    now = engine.instance()
    assert now.address.startswith("http://127.0.0.1:")
    line = engine.processes()[now.pid or 0]
    folder = EnginePaths(engine.router.data_dir).socket(now.name).with_suffix(".d")
    assert f"-m tensorrt_llm.commands.serve serve {folder}/qwen3 --host=127.0.0.1" in line
    assert f"--config={folder}/settings.yaml" in line
    assert (folder / "qwen3").resolve() == engine.model
    assert folder.stat().st_mode & 0o077 == 0
    (warm_up,) = engine.asked("/v1/completions")
    assert warm_up["complete"] and '"max_tokens":1' in warm_up["text"]


def test_clients_see_the_model_under_its_public_name(engine: ManagedServer) -> None:
    response = engine.router.chat(chat(NAME, stream=True))
    assert response.status == 200
    *events, last = response.events()
    assert last == "[DONE]" and events
    assert all(f'"model":"{NAME}"' in event for event in events)
    assert engine.asked("/v1/chat/completions")[-1]["model"] == "qwen3"
    whole = engine.router.chat(chat(NAME)).json()
    assert whole["model"] == NAME


@pytest.mark.parametrize(
    ("body", "message"), [(FLAT, "Too long."), ('{"error":"Field required"}', "Field required")]
)
def test_its_flat_errors_reach_the_client_in_openais_shape(
    engine: ManagedServer, body: str, message: str
) -> None:
    response = engine.router.chat(chat(NAME, fake={"status": 400, "body_text": body}))
    assert response.status == 400
    assert message in response.json()["error"]["message"]


@pytest.mark.parametrize("how", ["reset", "close"])
def test_a_stream_that_it_cuts_is_told_as_an_error(engine: ManagedServer, how: str) -> None:
    """It sends no event of an error of its own."""
    fault = {"how": how, "at": "at_frame", "after": 2}
    response = engine.router.chat(chat(NAME, stream=True, fake={"fault": fault}))
    *_, last = response.events()
    assert '"error"' in last
    assert not response.broken


def test_a_connection_that_is_old_is_not_used_again(engine: ManagedServer) -> None:
    """It closes idle ones after 5 s, and says nothing of it."""
    assert engine.router.chat(chat(NAME)).status == 200
    time.sleep(4.5)
    assert engine.router.chat(chat(NAME)).status == 200
    first, second = engine.asked("/v1/chat/completions")[-2:]
    assert first["connection"] != second["connection"]


def test_its_workers_in_another_session_end_with_it_however_it_ends() -> None:
    with managed("tensorrt_llm", NAME) as one:
        before = one.runs()
        old = whole(one)
        sessions = {os.getsid(pid) for pid in old}
        assert len(sessions) == 2, "a daemon has left, and taken a worker with it"
        os.kill(before.pid or 0, signal.SIGKILL)
        now = one.runs(unlike=before.name)
        assert not old.keys() & one.processes().keys()
        # Under the next server, which has not started it, too.
        old = whole(one)
        one.router.process.kill()
        one.router.process.wait()
        assert one.processes().keys() == old.keys()
        one.router.start()
        adopted = one.runs()
        assert adopted.name == now.name
        assert one.processes().keys() == old.keys()
        os.kill(adopted.pid or 0, signal.SIGKILL)
        one.runs(unlike=now.name)
        assert not old.keys() & one.processes().keys()
        folders = EnginePaths(one.router.data_dir).socket("x").parent.glob("*.d")
        assert len(list(folders)) == 1, "the folder of the first went with it"


def test_a_request_that_runs_holds_its_end_up_only_until_it_is_cut() -> None:
    with managed("tensorrt_llm", NAME, "[server]\ndrain_timeout = 1") as one:
        one.runs()
        with one.router.client() as client:
            body = chat(NAME, stream=True, fake={"fault": {"how": "stall", "at": "at_frame"}})
            one.router.send_chat(client, body)
            client.read_head()
            one.router.process.send_signal(signal.SIGTERM)
            assert one.router.wait() == 0, one.router.output()
            assert "requests were cut cut=1" in one.router.output()


def test_a_worker_that_dies_is_found_though_its_health_is_good() -> None:
    with managed("tensorrt_llm", NAME) as one:
        before = one.runs()
        (worker,) = [pid for pid, line in whole(one).items() if "-c import signal" in line]
        # Only what was seen can be missed.
        looks = len(one.asked("/health"))
        eventually(lambda: len(one.asked("/health")) > looks + 1, "two looks at it")
        os.kill(worker, signal.SIGKILL)
        failed = one.wait(lambda now: bool(now.last_failure), "its loss")
        assert "worker" in failed.last_failure
        one.runs(unlike=before.name)


def test_what_it_says_of_a_failed_start_is_explained() -> None:
    said = "RuntimeError: Failed to bind socket to 127.0.0.1:8000: Address already in use"
    with managed("tensorrt_llm", NAME, write=[said], exit=1, once=True) as one:
        failed = one.wait(lambda now: bool(now.last_failure), "its end")
        assert "exit code 1" in failed.last_failure
        assert "Another program listens where it should." in failed.last_failure
        assert said in failed.last_failure
        one.runs()
        eventually(
            lambda: one.router.chat(chat(NAME)).status == 200, "another serves", STARTED_WITHIN
        )
        assert Path(one.model / "orders.json").exists() is False
