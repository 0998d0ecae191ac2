"""`restart` and `upgrade` with engines of ours: the same processes go on."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from handovers import Succeeding, succeeding, wait_for_end
from harness import KEY, SMOLLM2
from load import Load
from raw_http import chat, eventually


@pytest.fixture(scope="module")
def lasting() -> Iterator[Succeeding]:
    """A server over two real engines."""
    with succeeding(SMOLLM2.format(replicas=2)) as one:
        eventually(lambda: one.running() == 2, "two engines", 120.0)
        yield one


@pytest.mark.parametrize("command", ["restart", "upgrade"])
def test_engines_keep_their_processes_and_no_stream_is_cut(
    lasting: Succeeding, command: str
) -> None:
    pids = sorted(engine.pid for engine in lasting.engines())
    assert len(pids) == 2
    before = lasting.pid()
    load = Load(lasting.address, KEY, "smollm2", rate=2, streams=4, frames=60, fake=False)
    with load:
        eventually(lambda: load.open_streams == 4 and load.succeeded("request") > 2, "load", 120.0)
        done = lasting.command(command)
        assert done["former_pid"] == before and done["pid"] == lasting.pid()
        assert lasting.running() == 2
        enough = load.succeeded("stream") + 6
        eventually(lambda: load.succeeded("stream") > enough, "streams behind it", 240.0)
    assert load.problems() == []
    assert sorted(engine.pid for engine in lasting.engines()) == pids
    states = [one.restart_count for model in lasting.status().models for one in model.instances]
    assert states == [0, 0]


def test_an_engine_that_has_ended_after_it_is_started_again_by_the_new_process(
    lasting: Succeeding,
) -> None:
    lasting.command("restart")
    pids = sorted(engine.pid for engine in lasting.engines())
    wait_for_end(pids[0], signal.SIGKILL)
    eventually(
        lambda: (
            lasting.running() == 2 and pids[0] not in (engine.pid for engine in lasting.engines())
        ),
        "another engine",
        120.0,
    )
    assert pids[1] in [engine.pid for engine in lasting.engines()]


def test_a_former_process_goes_on_with_an_engine_that_the_new_one_has_started() -> None:
    request = chat("smollm2", max_tokens=4)
    with succeeding(SMOLLM2.format(replicas=1)) as served, served.client() as client:
        assert client.request("POST", "/v1/chat/completions", request, key=KEY).status == 200
        served.command("restart")
        (before,) = served.engines()
        wait_for_end(before.pid, signal.SIGKILL)
        # Once of the first one in the new process, and once of the second one in the former.
        went_on = "goes on; an earlier run had started it."
        eventually(lambda: served.output().count(went_on) == 2, "it is known to both", 120.0)
        response = client.request("POST", "/v1/chat/completions", request, key=KEY)
        assert (response.status, response.header("connection")) == (200, "close")
        assert served.ended() == 0
        (after,) = served.engines()
        assert served.chat(request).status == 200 and [after] == served.engines()


def test_an_edit_that_comes_with_the_new_process_is_carried_out_when_the_former_one_has_left() -> (
    None
):
    config = SMOLLM2.format(replicas=1)
    with succeeding(config) as served:
        (before,) = served.engines()
        with served.client() as client:
            served.send_chat(client, chat(model="smollm2", stream=True, max_tokens=2000))
            assert client.read_head().status == 200
            client.read_chunk()
            served.config.write_text(config.replace("4096", "2048"))
            served.command("restart")
            # A second engine comes up, and the first one stays as long as the stream does.
            eventually(lambda: len(served.engines()) == 2, "the other engine", 120.0)
            client.reset()
        eventually(
            lambda: (
                [one.pid for one in served.engines()] != [before.pid] and len(served.engines()) == 1
            ),
            "the end of the first engine",
            120.0,
        )
        assert served.chat(chat(model="smollm2", max_tokens=4)).status == 200


def test_a_stop_of_the_new_process_ends_the_engines() -> None:
    with succeeding(SMOLLM2.format(replicas=1)) as served:
        assert len(served.engines()) == 1
        done = served.command("restart")
        served.ended()
        wait_for_end(done["pid"], signal.SIGTERM)
        assert served.engines() == []


def test_a_request_that_comes_meanwhile_for_a_model_that_sleeps_is_served_and_then_it_goes_on() -> (
    None
):
    """The engine that wakes for it belongs to the process that has the request."""
    config = SMOLLM2.format(replicas=1).replace("replicas = 1", "sleep_after = 1", 1)
    with succeeding(config) as server, ThreadPoolExecutor(1) as beside:
        eventually(lambda: server.running() == 1, "the engine", 120.0)
        eventually(lambda: server.running() == 0, "its sleep", 60.0)
        restart = beside.submit(server.command, "restart")
        eventually(lambda: "Handing over to a new process" in server.output(), "its begin")
        assert server.chat(chat("smollm2", max_tokens=1)).status == 200
        done = restart.result()
        assert "The hand-over begins again" in server.output()
        eventually(lambda: server.pid() == done["pid"], "the new process")
        assert server.chat(chat("smollm2", max_tokens=1)).status == 200
