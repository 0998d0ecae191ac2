"""vLLM as an engine of ours: its environment by `engines install`, started, watched and ended."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gpustack_fast.control.client import ControlClient, NoServer
from gpustack_fast.control.documents import InstanceStatus
from gpustack_fast.storage.data_directory import DataDirectory
from harness import ServedRouter
from vllm_engine import HOME, START, ask, openai_client

MODEL = """
[[models]]
name = "tiny"
backend = "vllm"
source = "local_path"
local_path = "{path}"
categories = ["{category}"]
hang_timeout = 15
backend_parameters = ["--enforce-eager", "--dtype=bfloat16", "--max-model-len=2048"]
[models.env]
VLLM_CPU_KVCACHE_SPACE = "1"
VLLM_CACHE_ROOT = "{cache}"
TORCH_COMPILE_DISABLE = "1"
"""


def configuration(model: str, category: str) -> str:
    return MODEL.format(path=HOME / "models" / model, category=category, cache=HOME / "cache")


class Managed:
    """A server that runs one vLLM, in whose data directory the installed environment is."""

    def __init__(self, server: ServedRouter) -> None:
        self.server = server

    def instance(self) -> InstanceStatus:
        with ControlClient(DataDirectory(self.server.data_dir).control_socket) as control:
            (model,) = control.status().models
        return model.instances[0]

    def wait(self, happened: Callable[[InstanceStatus], bool], what: str) -> InstanceStatus:
        """The instance, when it is so."""
        end, now = time.monotonic() + START, None
        while True:
            with contextlib.suppress(NoServer, IndexError):  # it has only begun
                if happened(now := self.instance()):
                    return now
            assert time.monotonic() < end, f"{what} did not happen: {now}"
            time.sleep(0.2)

    def processes(self) -> dict[str, int]:
        """The processes of its session, by name; its leader, which speaks HTTP, is `leader`."""
        leader = self.instance().pid
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                name, fields = (folder / "stat").read_text().rsplit(")", 1)
            except OSError:
                continue
            if int(fields.split()[3]) == leader and fields.split()[0] != "Z":
                pid = int(folder.name)
                found["leader" if pid == leader else name.partition("(")[2]] = pid
        return found


@contextlib.contextmanager
def managed(model: str, category: str) -> Iterator[Managed]:
    """A server with one engine, which runs; behind the block nobody of it is left."""
    folder = Path(tempfile.mkdtemp(prefix="gpf-", dir="/tmp"))
    environments = folder / "data" / "engines"
    environments.mkdir(parents=True)
    for each in (folder / "data", environments):
        each.chmod(0o700)
    (environments / "vllm").symlink_to(HOME / "data" / "engines" / "vllm")
    server = ServedRouter(folder, configuration(model, category))
    one = Managed(server)
    try:
        one.wait(lambda now: now.state == "running", "its first start")
        yield one
        left = set(one.processes().values())
        server.stop()
        assert left and not [pid for pid in left if Path(f"/proc/{pid}").exists()]
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def chat() -> Iterator[Managed]:
    with managed("chat", "llm") as one:
        yield one


def answers(one: Managed) -> bool:
    with openai_client(one.server) as client:
        found = client.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": "Hi"}], max_tokens=4
        )
    return found.usage is not None and found.usage.completion_tokens > 0


def back(one: Managed, before: InstanceStatus) -> InstanceStatus:
    """The engine that runs behind the one of before."""
    return one.wait(
        lambda now: now.state == "running" and now.name != before.name, f"one behind {before.name}"
    )


def test_the_sdk_is_served_through_the_router(chat: Managed) -> None:
    assert answers(chat)
    assert {"leader", "VLLM::EngineCor", "VLLM::Worker"} <= chat.processes().keys()


@pytest.mark.parametrize("name", ["leader", "VLLM::EngineCor", "VLLM::Worker"])
def test_each_of_its_processes_may_die_and_another_engine_serves(chat: Managed, name: str) -> None:
    before, processes = chat.instance(), chat.processes()
    os.kill(processes[name], signal.SIGKILL)
    now = back(chat, before)
    assert now.restart_count > before.restart_count
    assert answers(chat)
    assert not set(processes.values()) & set(chat.processes().values())


def test_a_core_that_stops_is_found_though_its_health_is_good(chat: Managed) -> None:
    before = chat.instance()
    os.kill(chat.processes()["VLLM::EngineCor"], signal.SIGSTOP)
    with openai_client(chat.server) as client, pytest.raises(Exception, match=r"50\d|onnection"):
        client.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": "Hi"}], max_tokens=4
        )
    failed = chat.wait(lambda now: now.last_failure_at is not None, "a failure")
    assert "has not made a step" in failed.last_failure or "not made a step" in failed.state_message
    back(chat, before)
    assert answers(chat)


def test_an_embedding_model_is_served() -> None:
    with managed("text", "embedding") as one, openai_client(one.server) as client:
        found = client.embeddings.create(model="tiny", input=["a", "b"])
        assert len(found.data) == 2


def test_a_reranker_is_served() -> None:
    with managed("reranker", "reranker") as one:
        body = {"model": "tiny", "query": "a", "documents": ["a", "b"]}
        found = ask(one.server, "POST", "/v1/rerank", body)
        assert found.status == 200
