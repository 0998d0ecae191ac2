"""No process is left behind, whatever ends the server; errors at its start are sentences."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import (
    ENDED_WITHIN,
    KEY,
    SMOLLM2,
    STARTED_WITHIN,
    FakeEngine,
    ServedRouter,
    cli,
    external,
    serving,
    with_descriptors,
)
from raw_http import build, chat, eventually


def processes_of(data_dir: Path) -> dict[int, str]:
    """Every living process whose command line names this data directory."""
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                line = (
                    (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                )
            except OSError:
                continue  # it ended meanwhile
            if str(data_dir) in line:
                found[int(folder.name)] = line
    return found


def engines(server: ServedRouter) -> list[int]:
    """The process ids of the running engines, as the management API shows them."""
    instances = [one for model in server.models() for one in model["instances"]]
    return [one["pid"] for one in instances if one["state"] == "running"]


def assert_nothing_is_left(server: ServedRouter) -> None:
    assert processes_of(server.data_dir) == {}
    assert [path.name for path in (server.data_dir / "run").rglob("*") if path.is_socket()] == []
    assert list((server.data_dir / "run" / "instances").iterdir()) == []


@pytest.fixture
def server() -> Iterator[ServedRouter]:
    """Two real engines behind the whole product."""
    with serving(SMOLLM2.format(replicas=2)) as one:
        eventually(lambda: len(engines(one)) == 2, "two engines to run", STARTED_WITHIN)
        yield one


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_a_signal_ends_the_server_and_every_engine(
    server: ServedRouter, number: signal.Signals
) -> None:
    pids = engines(server)
    assert set(pids) < set(processes_of(server.data_dir))
    server.process.send_signal(number)
    assert server.wait() == 0, server.output()
    assert_nothing_is_left(server)


def test_nothing_is_left_behind_a_server_that_has_adopted_the_engines_of_one_that_was_killed(
    server: ServedRouter,
) -> None:
    before = engines(server)
    server.process.kill()
    server.process.wait()
    assert set(processes_of(server.data_dir)) == set(before), (
        "engines outlive a kill -9 of their server"
    )
    server.start()
    server.wait_until_ready()
    eventually(lambda: len(engines(server)) == 2, "two engines to run", STARTED_WITHIN)
    assert sorted(engines(server)) == sorted(before)
    assert server.stop() == 0
    assert_nothing_is_left(server)


def test_a_killed_engine_is_started_again(server: ServedRouter) -> None:
    first, other = engines(server)
    os.kill(first, signal.SIGKILL)
    eventually(
        lambda: first not in (now := engines(server)) and len(now) == 2,
        "another engine to run",
        STARTED_WITHIN,
    )
    assert other in engines(server)
    instances = [one for model in server.models() for one in model["instances"]]
    assert sorted(one["restart_count"] for one in instances) == [0, 1]
    assert "unasked" in server.output()


def test_requests_end_before_the_server_does_and_a_second_signal_cuts_them(
    server: ServedRouter,
) -> None:
    with server.client() as client:
        client.send(
            build(
                "POST",
                "/v1/chat/completions",
                chat("smollm2", stream=True, max_tokens=1500),
                key=server.key,
            )
        )
        client.read_head()
        server.process.send_signal(signal.SIGINT)
        eventually(lambda: "requests that still run: 1" in server.output(), "the drain is told")
        assert server.process.poll() is None
        assert len(processes_of(server.data_dir)) == 3, "the engines stay as long as a request runs"
        server.process.send_signal(signal.SIGINT)
        assert server.wait() == 0
    assert "requests were cut cut=1" in server.output()
    assert_nothing_is_left(server)


def test_a_signal_while_engines_start_leaves_nothing_behind(short_folder: Path) -> None:
    server = ServedRouter(short_folder, SMOLLM2.format(replicas=2))
    eventually(
        lambda: "Starting smollm2-" in server.output(), "the first engine to start", STARTED_WITHIN
    )
    assert server.stop() == 0, server.output()
    assert_nothing_is_left(server)


# What keeps it from starting.


def refused(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`serve`, which is expected to end by itself."""
    return subprocess.run(
        [*cli(), "serve", *arguments],
        capture_output=True,
        text=True,
        timeout=ENDED_WITHIN,
        check=False,
    )


@pytest.fixture
def small_server(short_folder: Path) -> Iterator[ServedRouter]:
    """The product in front of a fake engine."""
    engine = FakeEngine("process", "--port", "0")
    try:
        with serving(external([engine])) as one:
            yield one
    finally:
        engine.kill()


def test_a_second_server_on_the_same_data_directory_is_rejected(small_server: ServedRouter) -> None:
    ended = refused("--data-dir", str(small_server.data_dir), "--port", "0")
    assert ended.returncode == 1
    assert f"in use by another gpustack-fast (process {small_server.process.pid})" in ended.stderr
    assert "--data-dir" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert small_server.chat(chat("m"), key=KEY).status == 200, "the first one goes on"


def test_a_port_that_is_taken_is_reported_before_anything_is_built(short_folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ended = refused("--data-dir", str(short_folder / "data"), "--port", port)
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"error: The port {port} of 127.0.0.1 is in use")
    assert len(ended.stderr.splitlines()) == 1
    assert not (short_folder / "data" / "engines").exists()
    assert not (short_folder / "data" / "keys.json").exists(), "no key is made that nobody has seen"


@pytest.mark.parametrize("descriptors", [10, 20, 28, 71])
def test_too_few_descriptors_for_a_start_are_reported_in_a_sentence(
    short_folder: Path, descriptors: int
) -> None:
    command = [*with_descriptors(descriptors), "serve"]
    config = short_folder / "config.toml"
    config.touch()
    command += ["--config", str(config), "--data-dir", str(short_folder / "data"), "--port", "0"]
    ended = subprocess.run(
        command, capture_output=True, text=True, timeout=ENDED_WITHIN, check=False
    )
    assert ended.returncode == 1
    (line,) = [one for one in ended.stderr.splitlines() if one.startswith("error: ")]
    assert f"may have {descriptors} open files" in line and "`ulimit -n`" in line
    assert ended.stderr.splitlines() == [line]
    assert not (short_folder / "data").exists()


def test_damaged_keys_end_a_start_with_one_line(short_folder: Path) -> None:
    data = short_folder / "data"
    data.mkdir(mode=0o700)
    (data / "keys.json").touch(mode=0o600)
    config = short_folder / "config.toml"
    config.touch()
    ended = refused("--config", str(config), "--data-dir", str(data), "--port", "0")
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert line.startswith("error: The keys in") and "are damaged" in line


def test_a_wrong_configuration_is_reported_with_file_and_line(short_folder: Path) -> None:
    config = short_folder / "config.toml"
    config.write_text('[server]\nport = 8080\n\n[[models]]\nname = "m"\nbackend = "llama_ccp"\n')
    ended = refused("--config", str(config), "--data-dir", str(short_folder / "data"))
    assert ended.returncode == 2
    assert f"{config}:6" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("content", ["no certificate", None])
def test_a_certificate_that_cannot_be_used_is_a_mistake_in_the_configuration(
    short_folder: Path, content: str | None
) -> None:
    files = [short_folder / "c.pem", short_folder / "k.pem"]
    for file in files if content is not None else []:
        file.write_text(content or "")
    where = ["--tls-certificate", str(files[0]), "--tls-key", str(files[1])]
    ended = refused("--data-dir", str(short_folder / "data"), "--port", "0", *where)
    assert ended.returncode == 2, "a service manager starts it again after 1"
    assert "Traceback" not in ended.stderr


# Mistakes and faults while it runs, put into the program before it starts.

SPOILT = """
import sys
from gpustack_fast.__main__ import main
{spoil}
sys.exit(main())
"""


@contextlib.contextmanager
def spoilt(folder: Path, spoil: str) -> Iterator[ServedRouter]:
    """The product with a part that fails, in front of a fake engine."""
    engine = FakeEngine("process", "--port", "0")
    program = [sys.executable, "-c", SPOILT.format(spoil=spoil)]
    server = ServedRouter(folder, external([engine]), program=program)
    try:
        yield server
    finally:
        server.process.kill()
        server.process.wait()
        engine.kill()


def test_the_end_of_the_server_goes_on_behind_a_part_of_it_that_fails(short_folder: Path) -> None:
    spoil = """
import asyncio
from gpustack_fast import earlier_engines
from gpustack_fast.errors import EngineFailed
async def fails(*_, seen=[]):
    seen.append(1)
    if len(seen) == 1:
        print("It waits.", file=sys.stderr, flush=True)
        await asyncio.sleep(3600)
    raise EngineFailed("It cannot be ended.")
earlier_engines.end_leftovers = fails
"""
    with spoilt(short_folder, spoil) as server:
        eventually(lambda: "It waits." in server.output(), "the start to come to it")
        server.process.send_signal(signal.SIGTERM)
        assert server.wait() == 1, server.output()
        assert "error: It cannot be ended." in server.output()
        assert not (server.data_dir / "run" / "control.sock").exists()


def test_a_fault_at_the_end_is_told_as_none_of_the_start(short_folder: Path) -> None:
    spoil = """
import errno
from gpustack_fast.api.server import ApiServer
async def fails(*_, **__):
    raise OSError(errno.EIO, "Input/output error")
ApiServer.close = fails
"""
    with spoilt(short_folder, spoil) as server:
        server.wait_until_ready()
        assert server.stop() == 1
        assert "error: The server has ended before its time: Input/output" in server.output()


def test_a_mistake_in_the_look_at_the_records_ends_it_for_a_second_alone(
    short_folder: Path,
) -> None:
    spoil = """
from gpustack_fast.signals import Signals
look = Signals.look
def fails(self):
    Signals.look = look
    raise KeyError("a mistake")
Signals.look = fails
"""
    with spoilt(short_folder, spoil) as server:
        told = "The look at the records ended by a mistake; going on."
        eventually(lambda: told in server.output(), "the mistake is told")
        server.wait_until_ready()
        assert server.stop() == 0


def test_a_model_that_cannot_start_is_shown_with_the_reason(short_folder: Path) -> None:
    model = short_folder / "model.gguf"
    model.write_text("no weights")
    config = f"""
[[models]]
name = "broken"
backend = "llama_cpp"
source = "local_path"
local_path = "{model}"
restart_on_error = false
"""
    server = ServedRouter(short_folder, config)
    try:
        eventually(
            lambda: "is not started again" in server.output(), "the reason is told", STARTED_WITHIN
        )
        (instance,) = server.models()[0]["instances"]
        assert instance["state"] == "error"
        assert "exit code 1" in instance["state_message"]
        response = server.chat(chat("broken"))
        assert response.status == 503
    finally:
        assert server.stop() == 0
    assert_nothing_is_left(server)
