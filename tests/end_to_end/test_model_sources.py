"""Models of a hub, by real llama.cpp engines: fetched, shared, gone on with; what can go wrong."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import hub as stand_in
from gpustack_fast.control.documents import InstanceStatus
from gpustack_fast.engines import processes
from harness import ENDED_WITHIN, KEY, STARTED_WITHIN, ServedRouter, cli, short_folder
from hub import Hub, Repo
from managed import install_llama_cpp, instances, wait_for
from raw_http import Client, chat, eventually

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
MODEL = """
[[models]]
name = "{name}"
backend = "llama_cpp"
source = "huggingface"
huggingface_repo_id = "org/{name}"
replicas = {replicas}
backend_parameters = ["--ctx-size=512", "--parallel=1"]
"""
LARGEST = 90_000
"""KiB of a file: less than SmolLM2 has."""


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with short_folder() as path:
        yield path


@pytest.fixture(scope="module")
def weights(folder: Path) -> bytes:
    return install_llama_cpp(folder / "data").read_bytes()


@pytest.fixture
def hub(weights: bytes) -> Iterator[Hub]:
    with stand_in.running() as one:
        one.repos["org/smol"] = Repo({FILE: weights, "README.md": b"about it"})
        yield one


def start(folder: Path, hub: Hub, config: str, **options: Any) -> ServedRouter:
    """A server whose hub is the stand-in. Its environments are there, its models go."""
    shutil.rmtree(folder / "data" / "models", ignore_errors=True)
    environment = {"HF_ENDPOINT": hub.url, "HF_HOME": str(folder / "home"), "HF_TOKEN": ""}
    return ServedRouter(folder, config, environment=environment, **options)


def command(server: ServedRouter, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*cli(), *arguments, "--data-dir", str(server.data_dir)],
        capture_output=True,
        text=True,
        timeout=ENDED_WITHIN,
        env=server.environment,
        check=False,
    )


def download_of(server: ServedRouter) -> int:
    """The process that downloads."""
    listed = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text()
    (found,) = (
        int(pid)
        for pid in listed.split()
        if b"download_main.py" in Path(f"/proc/{pid}/cmdline").read_bytes()
    )
    return found


def wait_until_half(server: ServedRouter) -> list[InstanceStatus]:
    return wait_for(
        server, "smol", lambda now: all("(50 %)" in one.state_message for one in now), "half of it"
    )


def wait_until_both_run(server: ServedRouter) -> None:
    wait_for(server, "smol", lambda now: [one.state for one in now] == ["running"] * 2, "both run")
    body = chat("smol", max_tokens=1)
    with Client(server.address, timeout=STARTED_WITHIN) as client:
        assert client.request("POST", "/v1/chat/completions", body, key=KEY).status == 200


def says(texts: Sequence[str], now: list[InstanceStatus]) -> bool:
    """Whether the message of a model's only instance has all of these."""
    return all(text in now[0].state_message for text in texts)


def gone(pid: int) -> bool:
    """Whether a process has ended; whoever has inherited it may not have reaped it."""
    found = processes.process(pid)
    return found is None or not found.alive


def test_a_model_is_fetched_once_for_all_replicas_whatever_ends_the_server(
    folder: Path, hub: Hub, weights: bytes
) -> None:
    hub.held.add(FILE)
    server = start(folder, hub, MODEL.format(name="smol", replicas=2))
    try:
        for one in wait_until_half(server):
            assert (one.state, one.restart_count) == ("downloading", 0)
            assert one.state_message == "org/smol: 47 of 94 MiB (50 %)."
        shown = command(server, "status")
        assert shown.stdout.count("47 of 94 MiB (50 %)") == 2
        download = download_of(server)
        server.process.kill()
        server.process.wait()
        eventually(lambda: gone(download), "the download ends with its server")

        hub.held.clear()
        server.start()
        wait_until_both_run(server)
        first, second = hub.downloads(FILE)
        assert first.range in (None, "bytes=0-") and second.range is not None
        assert second.range.startswith(f"bytes={len(weights) // 2}-")
        kept = list((server.data_dir / "models").rglob("*.gguf"))
        assert [path.stat().st_size for path in kept] == [len(weights)]
        refused = command(server, "models", "remove", "org/smol")
        assert refused.returncode == 1 and "a running server uses it" in refused.stderr
        assert server.stop() == 0

        asked = len(hub.asked)
        server.environment["HF_ENDPOINT"] = "http://127.0.0.1:9"
        server.start()
        wait_until_both_run(server)
        assert len(hub.asked) == asked
        assert server.stop() == 0
        assert command(server, "models", "remove", "org/smol").returncode == 0
        assert json.loads(command(server, "models", "list", "--json").stdout) == []
    finally:
        server.stop()


def test_ctrl_c_ends_a_download_and_leaves_no_process(folder: Path, hub: Hub) -> None:
    hub.held.add(FILE)
    server = start(folder, hub, MODEL.format(name="smol", replicas=1))
    try:
        wait_until_half(server)
        download = download_of(server)
        server.process.send_signal(signal.SIGINT)
        assert server.wait() == 0, server.output()
        assert gone(download)
    finally:
        server.stop()


def test_what_keeps_a_model_away_is_told_with_the_next_step(
    folder: Path, hub: Hub, weights: bytes
) -> None:
    small = os.urandom(2 * stand_in.LARGE)
    for name in ("gated", "token", "damaged"):
        hub.repos[f"org/{name}"] = Repo({f"{name}.gguf": small})
    hub.repos["org/gated"].gated = True
    hub.damaged.add("damaged.gguf")
    config = "".join(
        MODEL.format(name=name, replicas=1) for name in ("smol", "gated", "damaged", "absent")
    )
    config += MODEL.format(name="token", replicas=1) + 'env = { HF_TOKEN = "hf_wrong" }\n'
    limited = ["bash", "-c", f'ulimit -f {LARGEST} && exec "$@"', "bash", *cli()]
    server = start(folder, hub, config, program=limited)
    expected = {
        "gated": ("org/gated is gated", "Accept it at", "Starting it again"),
        "absent": ("There is no repository org/absent", "Check its name", "Starting it again"),
        "token": ("rejects the token in HF_TOKEN", "Make a new one at", "Starting it again"),
        "smol": ("may not become as large as it is", "Raise that limit", "Starting it again"),
        "damaged": ("its hash is another one", "a proxy or a mirror", "Trying again in "),
    }
    try:
        for name, said in expected.items():
            (one,) = wait_for(server, name, partial(says, said), " … ".join(said))
            assert one.state == "error"
        for name in expected:
            (one,) = instances(server, name)
            assert "hf_" not in one.state_message and "signature" not in one.state_message
            assert one.pid is None
        assert "hf_wrong" not in server.output()
    finally:
        assert server.stop() == 0
