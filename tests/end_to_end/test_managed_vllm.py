"""vLLM as an engine of ours: how it starts and ends, as it was measured of 0.32.0, played by the
fake engine in an environment that is made up. `tests/vllm` has some of it on a real one.
"""

from __future__ import annotations

import os
import signal
import subprocess

import pytest

from harness import ENDED_WITHIN, cli
from managed_server import ManagedServer, managed
from raw_http import chat, eventually


def core(one: ManagedServer) -> int:
    """A process of the engine's session beside its leader."""
    return min(one.processes().keys() - {one.instance().pid})


def status(one: ManagedServer) -> str:
    """What `gpustack-fast status` shows."""
    return subprocess.run(
        [*cli(), "status", "--data-dir", str(one.router.data_dir)],
        capture_output=True,
        text=True,
        timeout=ENDED_WITHIN,
        check=False,
    ).stdout


def test_a_start_shows_how_far_it_has_come_until_it_serves() -> None:
    lines = [
        "INFO Resolved architecture: Qwen3ForCausalLM",
        "INFO Loading weights took 3.1 seconds",
    ]
    with managed("vllm", write=lines, hold=True) as one:
        told = "So far: the weights were read."
        one.wait(lambda now: now.state_message == told, "the stage")
        assert told in status(one)
        one.go()
        now = one.runs()
        assert now.address.startswith("unix:")
        line = one.processes()[now.pid or 0]
        assert f"-m vllm.entrypoints.cli.main serve {one.model} --uds=" in line
        assert one.router.chat(chat()).status == 200


def test_a_sigterm_that_is_lost_while_it_starts_is_said_again() -> None:
    with managed("vllm", hold=True) as one:
        eventually(lambda: len(one.processes()) == 3, "its processes to run")
        one.wait(lambda now: now.state == "starting", "its start")
        assert one.router.stop() == 0, one.router.output()
        assert "SIGTERM 2" in one.log()
        assert one.processes() == {}


def test_a_core_that_dies_is_a_crash_though_the_engine_ends_with_0() -> None:
    with managed("vllm") as one:
        before, old = one.runs(), one.processes()
        os.kill(core(one), signal.SIGKILL)
        now = one.runs(unlike=before.name)
        assert now.restart_count == before.restart_count + 1
        assert "unasked" in now.last_failure or "cannot go on" in now.last_failure
        assert not old.keys() & one.processes().keys()
        assert one.router.chat(chat()).status == 200


def test_an_end_with_0_that_nobody_asked_for_is_a_crash_at_a_start_too() -> None:
    with managed("vllm", write=["ValueError: the KV cache is torn"], exit=0, once=True) as one:
        failed = one.wait(lambda now: bool(now.last_failure), "its end")
        assert "ended with exit code 0 before it was ready" in failed.last_failure
        assert "the KV cache is torn" in failed.last_failure
        assert one.runs().restart_count == 1


def test_children_of_a_killed_engine_end_before_another_is_started() -> None:
    """They ignore SIGTERM, and look after nobody."""
    with managed("vllm") as one:
        before, old = one.runs(), one.processes()
        os.kill(before.pid or 0, signal.SIGKILL)
        one.runs(unlike=before.name)
        assert not old.keys() & one.processes().keys()


def test_a_hang_is_found_though_its_health_is_good() -> None:
    with managed("vllm", more="hang_timeout = 1") as one:
        before = one.runs()
        body = chat(fake={"fault": {"how": "stall", "at": "before_head"}})
        response = one.router.chat(body)
        assert response.status >= 500, "another engine is not there, and nobody is kept waiting"
        failed = one.wait(lambda now: bool(now.last_failure), "its loss")
        assert "has not made a step for" in failed.last_failure
        one.runs(unlike=before.name)


def test_requests_that_take_longer_than_a_hang_are_no_hang_while_its_counters_move() -> None:
    with managed("vllm", more="hang_timeout = 1") as one:
        before = one.runs()
        response = one.router.chat(chat(stream=True, fake={"frames": 4, "delay": 0.7}))
        assert response.events()[-1] == "[DONE]"
        assert one.instance().name == before.name


def test_requests_that_its_end_would_keep_hanging_are_cut_before_it() -> None:
    """A vLLM that is asked to end sends them nothing more, and lives until their clients leave."""
    with managed("vllm", more="[server]\ndrain_timeout = 1") as one:
        one.runs()
        with one.router.client() as client:
            fault = {"how": "stall", "at": "at_frame"}
            one.router.send_chat(client, chat(stream=True, fake={"fault": fault}))
            response = client.read_head()
            one.router.process.send_signal(signal.SIGTERM)
            client.read_body(response)
            assert '"error"' in response.events()[-1]
            assert one.router.wait() == 0, one.router.output()
        assert one.processes() == {}


@pytest.mark.parametrize(
    ("code", "line", "cause"),
    [
        (1, "OSError: [Errno 98] Address already in use", "Another program listens"),
        (1, "RuntimeError: Cannot find any model weights with `/m`", "There are no weights"),
        (
            1,
            "ValueError: Free memory on device cuda:0 (3/24 GiB) on startup is less than desired "
            "GPU memory utilization (0.9, 21.6 GiB).",
            "Something else has taken memory",
        ),
    ],
)
def test_the_cause_of_a_failed_start_is_named(code: int, line: str, cause: str) -> None:
    more = "restart_on_error = false"
    with managed("vllm", more=more, write=[line, "Traceback, and so on"], exit=code) as one:
        failed = one.wait(lambda now: now.state == "error", "its end")
        assert f"exit code {code}" in failed.state_message
        assert cause in failed.state_message
        assert "It is not started again (restart_on_error = false)." in failed.state_message


@pytest.mark.parametrize(
    ("version", "told"),
    [
        ("0.32.0+cpu", ["The flag --bogus is not known to vLLM 0.32.0."]),
        ("0.99.0", ["exit code 2", "does not know a flag in backend_parameters", "--bogus"]),
    ],
)
def test_a_flag_that_it_does_not_know_is_named(version: str, told: list[str]) -> None:
    """Before it is started, where the flags of its version are recorded."""
    more = 'backend_parameters = ["--bogus"]\nrestart_on_error = false'
    with managed("vllm", more=more, version=version) as one:
        failed = one.wait(lambda now: now.state == "error", "its end")
        assert [words for words in told if words not in failed.state_message] == []
