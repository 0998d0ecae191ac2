"""Real vLLMs that change while streams are open on them: more, others, fewer, under another server.

One server for all of it; each test goes on where the one before has left it, in the order of the
file, with an engine start only where one is what happens: five in all.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from gpustack_fast.control.client import NoServer
from gpustack_fast.control.documents import InstanceStatus
from harness import KEY, cli, read_gauge
from load import Load
from raw_http import eventually
from vllm_engine import START
from vllm_server import VllmServer

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(START + 120)]

TOKENS = 60
"""Of each stream: some seconds."""


@pytest.fixture(scope="module")
def server() -> Iterator[VllmServer]:
    server = VllmServer(["slow"])
    server.running("slow")
    yield server
    server.close()


@pytest.fixture
def load(server: VllmServer) -> Iterator[Load]:
    """Two streams that are always open, and a short request now and then; all end well."""
    fields = {"ignore_eos": True, "temperature": 0}
    with Load(
        server.router.address,
        KEY,
        "slow-served",
        rate=0.5,
        streams=2,
        frames=TOKENS,
        fake=False,
        fields=fields,
    ) as load:
        eventually(lambda: load.succeeded("stream") > 0, "a stream", START)
        yield load
    assert load.problems() == []
    assert read_gauge(server.router.metrics(), "gpustack_fast_retries_total") == 0


def run(server: VllmServer, *arguments: str) -> str:
    """What a command says, which succeeds."""
    command = [*cli(), *arguments, "--data-dir", str(server.router.data_dir)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=START, check=False)
    assert found.returncode == 0, f"{found.stdout}{found.stderr}\n{server.router.output()}"
    return found.stdout


def apply(server: VllmServer, before: str, after: str) -> str:
    """Edits the configuration and has it carried out."""
    server.edit(before, after)
    return run(server, "apply", str(server.router.config))


def running(server: VllmServer) -> dict[str, int | None]:
    """The process of each engine that runs, by its name; none where there is no server."""
    try:
        found = server.instances("slow")
    except NoServer:
        return {}
    return {one.name: one.pid for one in found if one.state == "running"}


def all_run(server: VllmServer) -> list[InstanceStatus]:
    found = server.instances("slow")
    assert all(one.state == "running" for one in found), found
    return found


def test_a_second_replica_comes_while_streams_run(server: VllmServer, load: Load) -> None:
    before = running(server)
    apply(server, "ready_timeout", "replicas = 2\nready_timeout")
    after = running(server)
    assert len(after) == 2
    assert before.items() <= after.items()
    assert load.problems() == []


def test_a_killed_servers_engines_serve_on_under_the_next(server: VllmServer) -> None:
    before = running(server)
    server.router.process.kill()
    server.router.process.wait()
    server.router.start()
    server.router.wait_until_ready()
    eventually(lambda: running(server) == before, "the engines to be adopted", START)
    assert server.answers("slow")


def test_a_restart_of_the_server_cuts_no_stream(server: VllmServer, load: Load) -> None:
    before = running(server)
    run(server, "restart")
    assert running(server) == before
    assert load.problems() == []


def test_an_edit_replaces_one_after_the_other(server: VllmServer, load: Load) -> None:
    before = running(server)
    apply(server, '"--max-model-len=4096"', '"--max-model-len=2048"')
    after = running(server)
    assert len(after) == 2
    assert not before.keys() & after.keys()
    assert load.problems() == []


def test_one_replica_goes_without_a_cut(server: VllmServer, load: Load) -> None:
    before = running(server)
    apply(server, "replicas = 2", "replicas = 1")
    (left,) = all_run(server)
    assert left.name in before
    assert load.problems() == []


def test_a_model_that_sleeps_is_woken_by_a_request(server: VllmServer) -> None:
    before = running(server)
    apply(server, "ready_timeout", "sleep_after = 2\nwake_timeout = 900\nready_timeout")
    assert running(server) in (before, {}), "that edit makes no other engine"
    eventually(lambda: not server.instances("slow"), "its sleep", START)
    assert server.answers("slow"), "the request has waited for it"
    assert not before.keys() & running(server).keys()


def test_nobody_of_an_engine_is_left_behind_the_server(server: VllmServer) -> None:
    (one,) = all_run(server)
    engine = server.running("slow")
    assert one.pid == engine.pid
    assert server.router.stop() == 0
    assert engine.processes() == {}
