"""Commands beside a running server: what it warns of, and a key that nobody could read."""

from __future__ import annotations

import json
import socket
import subprocess
from pathlib import Path

from harness import ENDED_WITHIN, FakeEngine, cli, external, serving
from raw_http import chat

ROUTE = """
[[routes]]
name = "careful"
targets = [{ model = "m" }]
access_policy = "allowed_keys"
allowed_keys = ["alcie"]
"""


def test_serve_warns_of_what_nobody_can_mean_and_serves(shared_engine: FakeEngine) -> None:
    environment = {"GPUSTACK_FAST_LOG_LEVEL": "trace", "GPUSTACK_FAST_PORT_80_TCP": "tcp://x"}
    config = external([shared_engine]) + ROUTE
    with serving(config, "--log-format", "json", environment=environment) as server:
        made = server.keys("create", "a", "--allowed-models", "defualt")
        assert made.returncode == 0 and "Did you mean `default`?" in made.stderr
        lines = [json.loads(one) for one in server.output().splitlines() if one.startswith("{")]
        told = [one["message"] for one in lines if one["level"] == "WARN"]
    assert not any(one["level"] == "TRACE" for one in lines), "it does nothing"
    unknown, key = told
    assert "`GPUSTACK_FAST_LOG_LEVEL` is not known" in unknown
    assert "Did you mean `GPUSTACK_FAST_LOG`?" in unknown
    assert "lets in the key `alcie`, but there is none of this name" in key


def test_a_key_that_nobody_saw_opens_nothing(shared_engine: FakeEngine) -> None:
    with serving(external([shared_engine])) as server, open("/dev/full", "wb") as full:
        command = [*cli(), "keys", "create", "a", "--data-dir", str(server.data_dir)]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False)
        assert done.returncode == 1 and done.stderr.count(b"\n") == 1
        listed = json.loads(server.keys("list", "--json").stdout)
    assert [key["name"] for key in listed] == ["default"]


def test_a_service_manager_hears_that_the_server_responds_and_that_it_stops(
    shared_engine: FakeEngine, short_folder: Path
) -> None:
    address = str(short_folder / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address)
        manager.settimeout(ENDED_WITHIN)
        environment = {"NOTIFY_SOCKET": address}
        with serving(external([shared_engine]), wait=False, environment=environment) as server:
            assert manager.recv(100) == b"READY=1"
            assert server.is_alive() and server.keys("list").returncode == 0
            assert server.stop() == 0
        assert manager.recv(100) == b"STOPPING=1"


def test_a_server_in_a_locale_without_umlauts_serves_from_a_path_that_has_them(
    shared_engine: FakeEngine, short_folder: Path
) -> None:
    """The data directory reaches the engine, the sockets and the data plane."""
    environment = {"LC_ALL": "C", "PYTHONUTF8": "0"}
    where = ["--data-dir", str(short_folder / "dä")]
    with serving(external([shared_engine]), *where, environment=environment) as server:
        assert server.chat(chat()).status == 200
        assert (short_folder / "dä" / "run" / "control.sock").is_socket()
        assert server.stop() == 0
        assert "Traceback" not in server.output()
