"""Engines outlive their server: killed, or stopped with `keep_engines`; the next start goes on with
them, and ends those that it does not want.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

from harness import SMOLLM2, STARTED_WITHIN, ServedRouter, cli, serving
from managed import wait_for
from managed_server import managed
from raw_http import BrokenFraming, chat, eventually

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


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def kill(server: ServedRouter) -> None:
    server.process.kill()
    server.process.wait()


class Load:
    """Clients that ask a server one question after the other."""

    def __init__(self, server: ServedRouter, clients: int = 4) -> None:
        self.server = server
        self.statuses: list[tuple[float, int]] = []
        """When each request was begun (monotonic seconds), and its status; 0: it got none."""
        self.ends = threading.Event()
        self.threads = [threading.Thread(target=self._ask) for _ in range(clients)]

    def _ask(self) -> None:
        while not self.ends.is_set():
            begun = time.monotonic()
            try:
                status = self.server.chat(chat("smollm2", max_tokens=2)).status
            except (OSError, BrokenFraming):  # what runs at the kill ends with it
                status = 0
                self.ends.wait(0.05)
            self.statuses.append((begun, status))

    def since(self, moment: float) -> list[int]:
        return [status for begun, status in self.statuses if begun >= moment]

    def __enter__(self) -> Load:
        for one in self.threads:
            one.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ends.set()
        for one in self.threads:
            one.join()


def test_a_server_that_was_killed_under_load_goes_on_with_its_engines() -> None:
    with serving(TWO) as server:
        before = pids(server)
        with Load(server) as load:
            eventually(lambda: len(load.statuses) > 8, "requests are served", STARTED_WITHIN)
            assert {status for _, status in load.statuses} == {200}
            kill(server)
            server.start()
            server.wait_until_ready()
            ready = time.monotonic()
            eventually(lambda: len(load.since(ready)) > 8, "requests are served", STARTED_WITHIN)
        assert set(load.since(ready)) == {200}, "what comes when it is ready is served"
        assert pids(server) == before
        assert all(f"{name} of the model smollm2: adopted." in server.output() for name in before)
        assert "which an earlier run had left" not in server.output()
        assert "Starting smollm2-" not in server.output().rpartition("Listening on")[2]
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


def test_an_engine_whose_model_was_edited_meanwhile_is_adopted_and_outdated() -> None:
    with managed("vllm") as one:
        before = one.runs()
        kill(one.router)
        config = one.router.config.read_text()
        one.router.config.write_text(f"{config}\nenv = {{ MORE = '1' }}\n")
        one.router.start()
        eventually(
            lambda: f"{before.name} of the model m: adopted." in one.router.output(), "it is"
        )
        told = f"{before.name} of the model m: outdated. It was started with other settings"
        eventually(lambda: told in one.router.output(), "it is outdated")
        assert one.router.chat(chat()).status == 200


def test_an_adopted_engine_that_hangs_or_loses_its_core_is_replaced_as_any_other() -> None:
    with managed("vllm") as one:
        before, old = one.runs(), one.processes()
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
        before, old = one.runs(), one.processes()
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
