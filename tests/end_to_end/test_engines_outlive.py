"""Engines outlive their server: killed, or stopped with `keep_engines`; the next start goes on with
them, and ends those that it does not want.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from gpustack_fast.control.client import ControlClient
from gpustack_fast.storage.data_directory import DataDirectory
from harness import KEY, SMOLLM2, STARTED_WITHIN, ServedRouter, alive, cli, serving
from load import Load
from managed import wait_for
from managed_server import managed
from raw_http import chat, eventually

TWO = SMOLLM2.format(replicas=2)


def pids(server: ServedRouter, count: int = 2) -> dict[str, int]:
    """The processes of smollm2's instances, by their names, as soon as so many run."""
    found = wait_for(
        server,
        "smollm2",
        lambda now: [one.state for one in now] == ["running"] * count,
        f"{count} run",
    )
    return {one.name: one.pid for one in found if one.pid is not None}


def kill(server: ServedRouter) -> None:
    server.process.kill()
    server.process.wait()


def start_there(server: ServedRouter) -> None:
    """Starts it again at the same port."""
    with server.log.open("ab") as log:
        command, environment = server.process.args, server.environment
        server.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)


def test_a_server_that_was_killed_under_load_goes_on_with_its_engines() -> None:
    with serving(TWO) as server:
        before = pids(server)
        with Load(
            server.address,
            KEY,
            "smollm2",
            rate=10,
            streams=2,
            frames=8,
            fake=False,
            patient=True,  # between the two nobody listens
        ) as load:
            eventually(lambda: load.succeeded("request") > 10, "requests are served")
            assert load.problems() == []
            kill(server)
            start_there(server)
            dead = time.monotonic()  # since before: what comes now was at neither of them
            server.wait_until_ready()
            there = load.succeeded("request")
            eventually(lambda: load.succeeded("request") > there + 10, "requests are served")
        assert [one for one in load.outcomes if one.began > dead and one.problem] == []
        assert pids(server) == before
        assert all(
            f"{name} goes on; an earlier run had started it." in server.output() for name in before
        )
        assert "which an earlier run had left" not in server.output()
        assert server.output().count("Starting smollm2-") == 2
    assert not any(map(alive, before.values())), "the end of the next server ends them"


def test_an_engine_that_died_while_no_server_ran_is_started_anew() -> None:
    with serving(TWO) as server:
        before = pids(server)
        victim, other = before
        kill(server)
        os.kill(before[victim], signal.SIGKILL)
        server.start()
        server.wait_until_ready()
        after = pids(server)
        assert after[other] == before[other]
        assert victim not in after and len(after) == 2
        assert server.chat(chat("smollm2", max_tokens=1)).status == 200


def test_a_stop_leaves_engines_where_it_is_told_so_and_a_start_without_their_model_ends_them() -> (
    None
):
    keep = f"[server]\nkeep_engines = true\n{TWO}"
    with serving(keep) as server:
        before = pids(server)
        for number in (signal.SIGTERM, signal.SIGINT):
            server.process.send_signal(number)
            assert server.wait() == 0, server.output()
            assert all(map(alive, before.values()))
            assert "Engines that go on (keep_engines): smollm2-" in server.output()
            server.start()
            server.wait_until_ready()
            assert pids(server) == before
            assert server.chat(chat("smollm2", max_tokens=1)).status == 200
        assert server.stop() == 0
        server.config.write_text(
            '[[models]]\nname = "m"\nbackend = "external"\nurls = ["http://127.0.0.1:9"]\n'
        )
        server.start()
        eventually(
            lambda: server.output().count("which an earlier run had left") == 2,
            "both are ended",
            STARTED_WITHIN,
        )
        assert not any(map(alive, before.values()))
        assert server.stop() == 0
        assert list((server.data_dir / "run" / "instances").iterdir()) == []


def restart(server: ServedRouter) -> None:
    kill(server)
    server.start()


def test_an_engine_that_loads_goes_on_loading_and_gets_its_first_request_from_the_next_server() -> (
    None
):
    with managed("vllm", hold=True) as one:
        before = one.wait(lambda now: now.state == "starting" and now.pid is not None, "it loads")
        eventually(lambda: len(one.processes()) == 3, "its processes to run")
        restart(one.router)
        now = one.wait(lambda now: now.state == "starting", "it is there again")
        assert (now.name, now.pid) == (before.name, before.pid)
        assert "It was left by an earlier run." in now.state_message
        one.go()
        assert one.runs().pid == before.pid
        assert len(one.asked("/v1/completions")) == 1, (
            one.ask("/fake/journal"),
            one.router.output(),
        )
        assert one.router.chat(chat()).status == 200


def test_an_engine_whose_model_was_edited_meanwhile_serves_until_another_runs() -> None:
    with managed("vllm") as one:
        before = one.runs()
        kill(one.router)
        config = one.router.config.read_text()
        one.router.config.write_text(f"{config}\nenv = {{ MORE = '1' }}\n")
        one.order(hold=True)
        one.router.start()
        one.router.wait_until_ready()
        told = f"{before.name} is replaced by another. Its model was edited"
        eventually(lambda: told in one.router.output(), "it is outdated")
        eventually(
            lambda: any(now.state == "starting" for now in one.instances()), "another is started"
        )
        assert one.router.chat(chat()).status == 200, "the first serves"
        one.go()
        eventually(
            lambda: [now.name != before.name for now in one.instances()] == [True],
            "the first has gone",
            STARTED_WITHIN,
        )
        assert one.router.chat(chat()).status == 200
        eventually(lambda: not alive(before.pid or 0), "its process has ended", STARTED_WITHIN)


def test_the_order_of_an_operator_holds_for_an_engine_that_is_adopted() -> None:
    with managed("vllm") as one:
        before = one.runs()
        with ControlClient(DataDirectory(one.router.data_dir).control_socket) as control:
            control.drain(before.name)
        one.wait(lambda now: now.state == "drained", "it is drained")
        states = one.router.data_dir / "models.json"
        eventually(lambda: before.name in states.read_text(), "that is on the disk")
        restart(one.router)
        now = one.wait(lambda now: now.state == "drained", "it is drained still")
        assert (now.name, now.pid) == (before.name, before.pid)
        assert one.router.chat(chat()).status == 503


def test_an_adopted_engine_that_hangs_or_loses_its_core_is_replaced_as_any_other() -> None:
    with managed("vllm") as one:
        before = one.runs()
        eventually(lambda: len(one.processes()) == 3, "its processes to run")
        old = one.processes()
        restart(one.router)
        assert one.runs().name == before.name
        os.kill(min(old.keys() - {before.pid}), signal.SIGKILL)
        now = one.runs(unlike=before.name)
        assert "nobody knows its exit code" in now.last_failure or "cannot go on" in (
            now.last_failure
        )
        assert not old.keys() & one.processes().keys()


def test_workers_outside_of_the_session_end_with_an_adopted_engine() -> None:
    with managed("tensorrt_llm") as one:
        before = one.runs()
        eventually(lambda: len(one.processes()) == 3, "its workers to run")
        old = one.processes()
        restart(one.router)
        assert one.runs().name == before.name
        assert one.processes().keys() == old.keys()
        assert one.router.stop() == 0
        assert one.processes() == {}


def test_process_1_of_a_container_says_that_no_engine_can_be_kept_and_ends_them() -> None:
    program = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child"]
    fake = Path(__file__).parents[1] / "fake_engine.py"
    config = f"""
[server]
keep_engines = true

[[models]]
name = "m"
backend = "custom"
run_command = "{sys.executable} {fake} --port {{{{port}}}}"
source = "local_path"
local_path = "{fake}"
"""
    with serving(config, program=[*program, "--mount-proc", *cli()]) as server:
        assert "keep_engines does nothing here" in server.output()
        children = f"/proc/{server.process.pid}/task/{server.process.pid}/children"
        os.kill(int(Path(children).read_text().split()[0]), signal.SIGTERM)
        assert server.wait() == 0, server.output()
        assert "Engines that go on" not in server.output()
        assert list((server.data_dir / "run" / "instances").iterdir()) == []
